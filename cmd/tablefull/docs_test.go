package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An example is one `$ command` of a console block and the output shown
// under it.
type example struct {
	command string
	output  []string
}

// examples reads the console blocks of a Markdown file.
func examples(t *testing.T, path string) []example {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var out []example
	inside := false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case inside && strings.HasPrefix(line, "$ "):
			out = append(out, example{command: strings.TrimPrefix(line, "$ ")})
		case inside && len(out) > 0:
			e := &out[len(out)-1]
			e.output = append(e.output, line)
		}
	}
	return out
}

var (
	number = regexp.MustCompile(`[0-9]+([.,][0-9]+)*`)
	spaces = regexp.MustCompile(`\s+`)
)

// shape is a line less what differs from run to run.
func shape(line string) string {
	line = spaces.ReplaceAllString(number.ReplaceAllString(strings.TrimSpace(line), "N"), " ")
	return line
}

// Every command of the README and of docs/ works as shown: each line of the
// output under it comes out again, numbers apart. "..." stands for lines that
// are left out. Only tablefull's own commands are run here; `make demo` and
// `make test` are what CI runs.
func TestDocumentedCommands(t *testing.T) {
	needLab(t)
	files, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	files = append(files, "../../README.md")
	ran := 0
	for i, f := range files {
		files[i], err = filepath.Abs(f)
		require.NoError(t, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			list := examples(t, file)
			t.Chdir(t.TempDir())
			for _, e := range list {
				if !strings.HasPrefix(e.command, "tablefull ") {
					continue
				}
				ran++
				checkExample(t, e)
			}
		})
	}
	assert.NotZero(t, ran, "the documents show no command")
}

func checkExample(t *testing.T, e example) {
	t.Helper()
	command, file, toFile := strings.Cut(e.command, " > ")
	var out, errOut bytes.Buffer
	code := run(t.Context(), strings.Fields(command)[1:], Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	assert.Contains(t, []int{exitPass, exitFail}, code, "%s\n%s%s", e.command, out.String(), errOut.String())
	if toFile {
		require.NoError(t, os.WriteFile(strings.TrimSpace(file), out.Bytes(), 0o644))
	}
	have := map[string]bool{}
	for line := range strings.Lines(out.String() + errOut.String()) {
		have[shape(line)] = true
	}
	for _, line := range e.output {
		if s := shape(line); s != "" && s != "..." {
			assert.True(t, have[s], "%s no longer prints:\n%s\nbut:\n%s%s", e.command, line, out.String(), errOut.String())
		}
	}
}

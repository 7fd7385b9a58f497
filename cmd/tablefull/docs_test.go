package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/scenarios"
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
	number = regexp.MustCompile(`[+-]?[0-9]+([.,][0-9]+)*`)
	spaces = regexp.MustCompile(`\s+`)
)

// shape is a text less what differs from run to run.
func shape(text string) string {
	return spaces.ReplaceAllString(number.ReplaceAllString(strings.TrimSpace(text), "N"), " ")
}

// Every command of the README and of docs/ works as shown: each paragraph of
// the output under it comes out again, numbers apart. "..." stands for what is
// left out. Only tablefull's own commands are run here; `make demo` and
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
	args := strings.Fields(command)[1:]
	var out, errOut bytes.Buffer
	code := exitInconclusive
	// A busy machine makes a run inconclusive, which says nothing of the text.
	for try := 0; try < 4 && code == exitInconclusive; try++ {
		if i := slices.Index(args, "--out"); i >= 0 {
			require.NoError(t, os.RemoveAll(args[i+1]))
		}
		out.Reset()
		errOut.Reset()
		code = run(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	}
	assert.Contains(t, []int{exitPass, exitFail}, code, "%s\n%s%s", e.command, out.String(), errOut.String())
	if toFile {
		require.NoError(t, os.WriteFile(strings.TrimSpace(file), out.Bytes(), 0o644))
	}
	have := shape(out.String() + " " + errOut.String())
	for _, part := range parts(e.output) {
		assert.Contains(t, have, shape(part), "%s no longer prints:\n%s\nbut:\n%s%s", e.command, part, out.String(), errOut.String())
	}
}

// parts are the paragraphs of an output as documented, less what "..." leaves
// out. Where lines are broken depends on the numbers in them.
func parts(lines []string) []string {
	out := []string{""}
	for _, l := range lines {
		if l == "" || strings.TrimSpace(l) == "..." {
			out = append(out, "")
			continue
		}
		out[len(out)-1] += l + " "
	}
	return slices.DeleteFunc(out, func(s string) bool { return s == "" })
}

// Every scenario shown in a document is one that the program takes.
func TestDocumentedScenarios(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	checked := 0
	for _, file := range append(files, "../../README.md") {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		for i, block := range strings.Split(string(b), "```yaml\n") {
			if i == 0 {
				continue
			}
			block, _, _ = strings.Cut(block, "```")
			_, err := scenarios.Parse(filepath.Base(file), []byte(block))
			assert.NoError(t, err)
			checked++
		}
	}
	assert.NotZero(t, checked)
}

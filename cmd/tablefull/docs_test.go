package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
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
// left out, and `echo $?` shows the exit code of the command above it. Only
// tablefull's own commands are run here; `make demo` and `make test` are what
// CI runs, and what is shownByTests is compared where it is run. The pages of docs/ make no run: in all of them, results is the
// README's first one.
func TestDocumentedCommands(t *testing.T) {
	needLab(t)
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	pages, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	pages = append([]string{"../../README.md"}, pages...)
	for i, f := range pages {
		pages[i], err = filepath.Abs(f)
		require.NoError(t, err)
	}
	first, second := t.TempDir(), t.TempDir()
	t.Chdir(first)
	t.Run("README.md", func(t *testing.T) { assert.NotZero(t, checkExamples(t, pages[0])) })
	require.NoError(t, os.CopyFS(filepath.Join(second, "results"), os.DirFS(filepath.Join(first, "out", "demo"))))
	t.Chdir(second)
	for _, page := range pages[1:] {
		t.Run(filepath.Base(page), func(t *testing.T) { checkExamples(t, page) })
	}
}

// checkExamples runs the examples of one file, and returns how many it ran.
func checkExamples(t *testing.T, file string) int {
	t.Helper()
	list := examples(t, file)
	ran := 0
	for i, e := range list {
		if !strings.HasPrefix(e.command, "tablefull ") || slices.Contains(shownByTests, e.command) {
			continue
		}
		ran++
		codes := []int{exitPass, exitFail}
		if i+1 < len(list) && list[i+1].command == "echo $?" {
			code, err := strconv.Atoi(strings.Join(list[i+1].output, ""))
			require.NoError(t, err)
			codes = []int{code}
		}
		checkExample(t, e, codes)
	}
	return ran
}

func checkExample(t *testing.T, e example, codes []int) {
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
	assert.Contains(t, codes, code, "%s\n%s%s", e.command, out.String(), errOut.String())
	if toFile {
		require.NoError(t, os.WriteFile(strings.TrimSpace(file), out.Bytes(), 0o644))
	}
	have := shape(out.String() + " " + errOut.String())
	for _, part := range parts(e.output) {
		assert.Contains(t, have, shape(part), "%s no longer prints:\n%s\nbut:\n%s%s", e.command, part, out.String(), errOut.String())
	}
}

// shownByTests are the README's commands that a test of their own runs anyway,
// and holds to what is shown of them by assertReadme.
var shownByTests = []string{
	"tablefull run stale-rules", "tablefull run stale-node", "tablefull run port-reuse-rollout",
	"tablefull run gateway", "tablefull run proxy-lowers-max",
}

// assertReadme holds what a run of this scenario, as it is in the library,
// printed to what README.md shows of it, numbers apart.
func assertReadme(t *testing.T, scenario string, r result) {
	t.Helper()
	list := examples(t, filepath.Join("..", "..", "README.md"))
	i := slices.IndexFunc(list, func(e example) bool { return e.command == "tablefull run "+scenario })
	require.GreaterOrEqual(t, i, 0, "README.md does not show %s", scenario)
	require.NotEmpty(t, parts(list[i].output))
	have := fewStray(shape(r.out))
	for _, part := range parts(list[i].output) {
		assert.Contains(t, have, fewStray(shape(part)), "%s no longer prints:\n%s\nbut:\n%s", list[i].command, part, r.out)
	}
}

// fewStray leaves out of the shape of a report what depends on whether one of a
// thousand attempts failed a moment earlier, or of something else.
func fewStray(text string) string {
	for _, s := range []struct {
		what *regexp.Regexp
		by   string
	}{
		{regexp.MustCompile(`N of the N attempts that failed did so`), "N attempts failed"},
		{regexp.MustCompile(`failed from N m?s after`), "failed when"},
		{regexp.MustCompile(`for about N`), "for N"}, // one of the first or the last was not recorded
		// By when readings were made.
		{regexp.MustCompile(`for (at most )?N m?s( to N m?s)? of that time`), "for N s of that time"},
		{regexp.MustCompile(`(the longest|was missing) for (at most )?N m?s( to N m?s)?`), "$1 for N s"},
	} {
		text = s.what.ReplaceAllString(text, s.by)
	}
	return text
}

// parts are the paragraphs of an output as documented, less what "..." leaves
// out, which may be the rest of a line. Where lines are broken depends on the numbers in them.
func parts(lines []string) []string {
	out := []string{""}
	for _, l := range lines {
		if l == "" || strings.TrimSpace(l) == "..." {
			out = append(out, "")
			continue
		}
		l, rest := strings.CutSuffix(l, "...")
		out[len(out)-1] += l + " "
		if rest {
			out = append(out, "")
		}
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

// What is listed in formats.md and in the tour is all there is.
func TestDocumentedNames(t *testing.T) {
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join("../../docs", name))
		require.NoError(t, err)
		return string(b)
	}
	formats, tour, trouble := read("formats.md"), read("report-tour.md"), read("troubleshooting.md")

	var schema struct {
		Defs map[string]struct {
			Properties map[string]any `json:"properties"`
		} `json:"$defs"`
	}
	require.NoError(t, json.Unmarshal([]byte(read("summary.schema.json")), &schema))
	require.NotEmpty(t, schema.Defs["Findings"].Properties)
	for key := range schema.Defs["Findings"].Properties {
		assert.True(t, strings.Contains(formats, "`"+key+"`"), "key of summary.json %s is not described", key)
	}
	record := reflect.TypeFor[runlog.Record]()
	for i := range record.NumField() {
		name, _, _ := strings.Cut(record.Field(i).Tag.Get("json"), ",")
		assert.True(t, strings.Contains(formats, "`"+name+"`"), "key of run.jsonl %s is not described", name)
	}
	for _, f := range report.Formats() {
		assert.True(t, strings.Contains(formats, "`"+f+"`"), "format %s is not described", f)
	}
	for _, f := range reportFiles() {
		assert.True(t, strings.Contains(formats, "`"+f.name+"`"), "file %s is not described", f.name)
	}

	doc, err := os.ReadFile("../../report/doc.go")
	require.NoError(t, err)
	causes := regexp.MustCompile(`(?m)^//   - ([a-z_, ]+):`).FindAllStringSubmatch(string(doc), -1)
	require.NotEmpty(t, causes)
	for _, m := range causes {
		for name := range strings.SplitSeq(m[1], ", ") {
			assert.True(t, strings.Contains(formats, "`"+name+"`"), "cause %s is not described", name)
			assert.True(t, strings.Contains(tour, "| `"+name+"` |"), "cause %s is not described", name)
		}
	}
	for code := exitError; code <= exitDirty; code++ {
		assert.True(t, strings.Contains(formats, fmt.Sprintf("| %d |", code)), "exit code %d is not described", code)
		assert.True(t, strings.Contains(trouble, fmt.Sprintf("| %d |", code)), "exit code %d is not described", code)
	}
}

// Links within the documents lead somewhere.
func TestDocumentedLinks(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	link := regexp.MustCompile(`\]\(([^):]+)\)`)
	for _, file := range append(files, "../../README.md") {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			name, anchor, _ := strings.Cut(m[1], "#")
			target := file
			if name != "" {
				target = filepath.Join(filepath.Dir(file), name)
			}
			text, err := os.ReadFile(target)
			if assert.NoError(t, err, "%s links to %s", file, m[1]) && anchor != "" {
				assert.Contains(t, anchors(string(text)), anchor, "%s links to %s", file, m[1])
			}
		}
	}
}

var noAnchor = regexp.MustCompile(`[^a-z0-9 _-]`)

// anchors are the names under which the headings of a Markdown text can be
// linked to.
func anchors(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			name := noAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#"))), "")
			out = append(out, strings.ReplaceAll(name, " ", "-"))
		}
	}
	return out
}

var (
	inCode  = regexp.MustCompile("`([^`\n]+)`")
	anyWord = regexp.MustCompile(`([^\s']|'[^']*')+`)
	setting = regexp.MustCompile(`^--set `)
)

// writtenCommands are those in the prose, the tables and the other blocks of a
// document. A row of a table that gives only settings is of the scenario named
// in the rows above it.
func writtenCommands(text string) []string {
	var out []string
	block, scenario, begun := "", "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			if block == "" {
				block = line
			} else {
				block = ""
			}
		case block == "":
			for _, m := range inCode.FindAllStringSubmatch(line, -1) {
				switch {
				case strings.HasPrefix(m[1], "tablefull run "):
					scenario = strings.Fields(m[1])[2]
					out = append(out, m[1])
				case strings.HasPrefix(m[1], "tablefull "):
					out = append(out, m[1])
				case setting.MatchString(m[1]) && strings.HasPrefix(line, "|") && scenario != "":
					out = append(out, "tablefull run "+scenario+" "+m[1])
				}
			}
		case block == "```console" || block == "```yaml": // see TestDocumentedCommands and TestDocumentedScenarios
		case strings.HasSuffix(line, `\`):
			begun += strings.TrimSuffix(line, `\`)
		default:
			line = strings.TrimPrefix(begun+line, "$ ")
			if begun = ""; strings.HasPrefix(line, "tablefull ") && !strings.HasSuffix(line, ":") {
				out = append(out, line)
			}
		}
	}
	return out
}

// Commands that are only written about, because they take long, want a cluster
// or never end, are such as the program takes: each with its verb and flags,
// and a scenario of the library with its settings.
func TestWrittenCommandsAreTaken(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	checked := map[string]bool{}
	for _, file := range append(files, "../../README.md") {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, command := range writtenCommands(string(b)) {
			if checked[command] {
				continue
			}
			checked[command] = true
			t.Run(filepath.Base(file)+"/"+command, func(t *testing.T) { assertTaken(t, command) })
		}
	}
	assert.Greater(t, len(checked), 60)
}

func assertTaken(t *testing.T, command string) {
	t.Helper()
	command, _, _ = strings.Cut(command, " | ")
	command, _, _ = strings.Cut(command, " > ")
	args := anyWord.FindAllString(command, -1)[1:]
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "'", "")
	}
	var out, errOut bytes.Buffer
	if len(args) > 1 && args[0] == "run" && slices.Contains(scenarios.Names(), args[1]) {
		validate := []string{"scenarios", "validate", args[1]}
		for i, a := range args[:len(args)-1] {
			if a == "--set" {
				validate = append(validate, a, args[i+1])
			}
		}
		code := run(t.Context(), validate, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
		require.Equal(t, exitPass, code, "%v\n%s", validate, errOut.String())
	} else if len(args) > 1 && args[0] == "run" {
		require.Contains(t, []string{"SCENARIO", "FILE"}, args[1], "no scenario of the library")
	}
	code := run(t.Context(), append(args, "--help"), Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	require.Equal(t, exitPass, code, "%v\n%s", args, errOut.String())
	assert.Contains(t, out.String(), "Usage:\n  tablefull "+args[0], "no such verb")
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/cmd/tablefull/live"
	"github.com/tablefull/tablefull/report"
)

func reportCommand(s Streams) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "report DIR",
		Short: "Render a run's findings again from its run log",
		Long: `Report reads the run log, DIR/run.jsonl and its earlier segments, and works the
findings out again: the log is all it needs. A run that was cut off is rendered up to there and marked incomplete.

Without --format it prints the text summary and writes summary.json,
report.html, report.md with report.png, and junit.xml into DIR again. With
--format it prints that one rendering to standard output and writes no file. It
changes nothing else, and needs no rights.

Formats:
` + formatHelp() + `

The exit code is that of the run's verdict.

` + exitHelp + seeAlso("run"),
		Example: `  tablefull report results
  tablefull report results --format markdown >> "$GITHUB_STEP_SUMMARY"
  tablefull report results --format json | jq .knee
  tablefull report results --format png > plot.png
  tablefull report before --format gobench > a; tablefull report after --format gobench > b; benchstat a b`,
		GroupID: groupMeasure,
		Args:    exactArgs(1, "one run directory"), ValidArgsFunction: completeRuns,
		RunE: func(_ *cobra.Command, args []string) error {
			// The log of a day in less than 300 MB: it takes a tenth more CPU time for it.
			debug.SetGCPercent(60)
			return renderAgain(args[0], format, s)
		},
	}
	c.Flags().StringVar(&format, "format", "", "print one rendering to standard output: "+strings.Join(report.Formats(), ", "))
	return c
}

// formatHelp is one line for each format.
func formatHelp() string {
	var b strings.Builder
	for _, f := range report.FormatList() {
		fmt.Fprintf(&b, "  %-12s %s\n", f.Name, f.For)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func binary(format string) bool {
	return slices.ContainsFunc(report.FormatList(), func(f report.Format) bool { return f.Name == format && f.Binary })
}

func renderAgain(dir, format string, s Streams) error {
	if _, err := os.Stat(filepath.Join(dir, experimentName)); err == nil {
		return compareDirs([]string{dir}, compareFlags{format: format}, s)
	}
	if format != "" && !slices.Contains(report.Formats(), format) {
		return usagef("--format %s: must be one of %s", format, strings.Join(report.Formats(), ", "))
	}
	if f, ok := s.Out.(*os.File); ok && binary(format) && live.IsTerminal(f) {
		return usagef("--format %s: no terminal can show it; write it to a file: tablefull report %s --format %s > report.%s", format, dir, format, format)
	}
	var findings *report.Findings
	var err error
	if format == "" {
		format = "text"
		findings, err = writeReports(dir)
	} else {
		findings, err = analyzeDir(dir)
	}
	if err != nil {
		return err
	}
	if err := report.Render(format, findings, s.Out); err != nil {
		return err
	}
	if code := report.ExitCode(findings); code != exitPass {
		return exitWith(code)
	}
	return nil
}

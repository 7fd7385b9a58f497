package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/report"
)

func reportCommand(s Streams) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "report DIR",
		Short: "Render a run's findings again from its run log",
		Long: `Report reads DIR/run.jsonl and prints its findings. A run that was cut off is
rendered up to there and marked incomplete. Without --format it prints the text
summary and writes summary.json, report.html, report.md and junit.xml again.

` + exitHelp,
		Example: `  tablefull report results
  tablefull report results --format markdown`,
		Args: exactArgs(1, "one run directory"),
		RunE: func(_ *cobra.Command, args []string) error {
			return renderAgain(args[0], format, s)
		},
	}
	c.Flags().StringVar(&format, "format", "", "print one rendering to standard output: "+strings.Join(report.Formats(), ", "))
	return c
}

func renderAgain(dir, format string, s Streams) error {
	if format != "" && !slices.Contains(report.Formats(), format) {
		return usagef("--format %s: must be one of %s", format, strings.Join(report.Formats(), ", "))
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

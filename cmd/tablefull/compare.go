package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner"
)

type compareFlags struct {
	gates   []string
	margins []string
	format  string
	out     string
}

func compareCommand(s Streams) *cobra.Command {
	var f compareFlags
	c := &cobra.Command{
		Use:   "compare A B [MORE...]",
		Short: "Compare finished runs: one or several of each kind",
		Long: `Compare reads the run logs of finished runs and says how they differ. A, B and
more are directories: each a run, or a folder with several runs of the same
kind. A is what the others are compared with. Alone, A is the result directory
of a scenario with arms, which is compared again.

With at least 4 runs of each kind it tests: medians with intervals, the
Mann-Whitney U test, adjusted for the number of tests; ~ is no difference shown.
With fewer it prints a table and says that it is no test. How many trials are
needed depends on how many metrics decide; it says so.

The metrics that decide are named by --gate, before anything has been seen; a
difference for the worse that is shown and larger than the metric's margin
fails. The other metrics are shown all the same.

` + compareFormatHelp() + `

` + exitHelp + seeAlso("gate", "run", "report"),
		Example: `  tablefull compare before after
  tablefull compare results/old results/new --gate p99,errors --margin p99=10%
  tablefull compare tablefull-out/ways-around-20260101-120000 --format markdown`,
		GroupID: groupMeasure,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s needs at least one directory; see: %s --help", c.CommandPath(), c.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: completeRuns,
		RunE: func(_ *cobra.Command, args []string) error {
			return compareDirs(args, f, s)
		},
	}
	c.Flags().StringSliceVar(&f.gates, "gate", nil, "metrics that decide, comma-separated: "+strings.Join(report.MetricNames(), ", ")+"; none: nothing fails; default: "+strings.Join(report.DefaultGate(), ","))
	c.Flags().StringArrayVar(&f.margins, "margin", nil, "how much worse a metric may be: `metric=value`, for example p99=10% or errors=0.5")
	c.Flags().StringVar(&f.format, "format", "", "print one rendering to standard output: "+strings.Join(comparisonFormats(), ", "))
	c.Flags().StringVar(&f.out, "out", "", "`directory` for the renderings (default: none, unless an experiment's own)")
	return c
}

func comparisonFormats() []string {
	var out []string
	for _, f := range report.ComparisonFormats() {
		out = append(out, f.Name)
	}
	return out
}

func compareFormatHelp() string {
	var b strings.Builder
	b.WriteString("Formats:\n")
	for _, f := range report.ComparisonFormats() {
		fmt.Fprintf(&b, "  %-12s %s\n", f.Name, f.For)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// decide puts the metrics that decide, and margins, into an experiment.
func decide(e *report.Experiment, gates, margins []string) error {
	for _, g := range gates {
		if g == "none" {
			continue
		}
		if !slices.Contains(report.MetricNames(), g) {
			return usagef("--gate %s: no such metric; there are %s", g, strings.Join(report.MetricNames(), ", "))
		}
		e.Gate = append(e.Gate, g)
	}
	for _, m := range margins {
		name, _, _, err := report.ParseMargin(m)
		if err != nil {
			return usagef("--margin %s: %w", m, err)
		}
		_, e.Margins[name], _ = strings.Cut(m, "=")
	}
	return nil
}

func compareDirs(args []string, f compareFlags, s Streams) error {
	if f.format != "" && !slices.Contains(comparisonFormats(), f.format) {
		return usagef("--format %s: must be one of %s", f.format, strings.Join(comparisonFormats(), ", "))
	}
	e, base, err := experimentOf(args)
	if err != nil {
		return err
	}
	own := len(args) == 1
	switch {
	case f.gates != nil:
		e.Gate = []string{}
	case !own:
		f.gates = report.DefaultGate()
	}
	if err := decide(e, f.gates, f.margins); err != nil {
		return err
	}
	c, err := compareExperiment(base, e)
	if err != nil {
		return err
	}
	dir := f.out
	if own && dir == "" && f.format == "" {
		dir = args[0]
	}
	if dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return &usageError{fmt.Errorf("make directory: %w", err)}
		}
		if err := writeComparisonFiles(dir, c); err != nil {
			return err
		}
	}
	format := f.format
	if format == "" {
		format = "text"
		if colored(s.Out, os.Getenv) {
			format = "color"
		}
	}
	if err := c.Render(format, s.Out); err != nil {
		return err
	}
	if code := c.ExitCode(); code != exitPass {
		return exitWith(code)
	}
	return nil
}

// experimentOf makes an experiment of finished runs, or reads the one that was
// made. base is what its directories are relative to.
func experimentOf(args []string) (e *report.Experiment, base string, err error) {
	if len(args) == 1 {
		e, err := readExperiment(args[0])
		return e, args[0], err
	}
	e = &report.Experiment{Format: report.ExperimentVersion, Version: version, Gate: []string{}, Margins: map[string]string{}}
	for i, arg := range args {
		dirs, err := runsBelow(arg)
		if err != nil {
			return nil, "", err
		}
		name := filepath.Base(filepath.Clean(arg))
		if slices.ContainsFunc(slices.Concat(args[:i], args[i+1:]), func(other string) bool { return filepath.Base(filepath.Clean(other)) == name }) {
			name = arg
		}
		if slices.ContainsFunc(e.Arms, func(a report.ExperimentArm) bool { return a.Name == name }) {
			return nil, "", usagef("%s is named twice", arg)
		}
		e.Arms = append(e.Arms, report.ExperimentArm{Name: name, Set: []string{}})
		for i, d := range dirs {
			e.Runs = append(e.Runs, report.ExperimentRun{Arm: name, Trial: i + 1, Dir: d})
		}
	}
	return e, "", nil
}

// runsBelow are the run directories in dir: itself, or those directly in it.
func runsBelow(dir string) ([]string, error) {
	if _, err := os.Stat(filepath.Join(dir, runner.LogName)); err == nil {
		return []string{dir}, nil
	}
	logs, err := filepath.Glob(literal(dir) + "/*/" + runner.LogName)
	if err != nil || len(logs) == 0 {
		return nil, usagef("%s holds no run, nor do the directories in it", dir)
	}
	discarded := map[string]bool{}
	if e, err := readExperiment(filepath.Dir(filepath.Clean(dir))); err == nil {
		for _, r := range e.Runs {
			discarded[filepath.Base(r.Dir)] = r.Arm == filepath.Base(filepath.Clean(dir)) && r.Discarded != "" || discarded[filepath.Base(r.Dir)]
		}
	}
	var out []string
	for _, l := range logs {
		if d := filepath.Dir(l); !discarded[filepath.Base(d)] {
			out = append(out, d)
		}
	}
	return out, nil
}

func readExperiment(dir string) (*report.Experiment, error) {
	b, err := os.ReadFile(filepath.Join(dir, experimentName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, usagef("%s is no result of a scenario with arms: it has no %s; to compare runs name two directories", dir, experimentName)
	case err != nil:
		return nil, fmt.Errorf("read experiment: %w", err)
	}
	e := &report.Experiment{}
	if err := json.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("read experiment %s: %w", dir, err)
	}
	if e.Margins == nil {
		e.Margins = map[string]string{}
	}
	return e, nil
}

// compareExperiment reads the runs and compares them. A run that cannot be read
// is one without data.
func compareExperiment(base string, e *report.Experiment) (*report.Comparison, error) {
	unlisted := unlistedRuns(base, e)
	var trials []report.Trial
	for _, r := range slices.Concat(e.Runs, unlisted) {
		f, err := analyzeDir(filepath.Join(base, filepath.FromSlash(r.Dir)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if f != nil && e.Scenario == "" {
			e.Scenario = f.Scenario
		}
		if f != nil && slices.Contains(unlisted, r) {
			r.Discarded = strings.Join(f.Disturbed(), "; ")
		}
		trials = append(trials, report.Trial{ExperimentRun: r, Findings: f})
	}
	count := 0
	for _, t := range trials {
		if t.Discarded == "" {
			count++
		}
	}
	if count < len(e.Order) && e.Problem == "" {
		e.Problem = fmt.Sprintf("the comparison was cut off: %d of its %d planned runs %s", count, len(e.Order), map[bool]string{true: "is there and counts", false: "are there and count"}[count == 1])
	}
	return report.Compare(e, trials), nil
}

// unlistedRuns are the runs of planned trials that have a directory below base
// and are not in e, whose process ended before it could write them down.
func unlistedRuns(base string, e *report.Experiment) []report.ExperimentRun {
	var out []report.ExperimentRun
	for _, planned := range e.Order {
		arm, number, _ := strings.Cut(planned, "/")
		trial, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		for again := range maxAgain + 1 {
			r := report.ExperimentRun{Arm: arm, Trial: trial, Dir: trialDir(arm, trial, again)}
			_, err := runlog.StatDir(filepath.Join(base, filepath.FromSlash(r.Dir)))
			if err == nil && !slices.ContainsFunc(e.Runs, func(x report.ExperimentRun) bool { return x.Dir == r.Dir }) {
				out = append(out, r)
			}
		}
	}
	return out
}

// comparisonFiles are the renderings that an experiment leaves.
var comparisonFiles = []struct{ name, format string }{
	{"comparison.json", "json"}, {"comparison.html", "html"}, {"comparison.md", "markdown"}, {"junit.xml", "junit"}, {"bench.txt", "gobench"},
}

func writeComparison(dir string, e *report.Experiment) (*report.Comparison, error) {
	c, err := compareExperiment(dir, e)
	if err != nil {
		return nil, err
	}
	return c, writeComparisonFiles(dir, c)
}

func writeComparisonFiles(dir string, c *report.Comparison) error {
	for _, file := range comparisonFiles {
		if err := writeFile(filepath.Join(dir, file.name), func(w io.Writer) error { return c.Render(file.format, w) }); err != nil {
			return err
		}
	}
	return nil
}

func printComparison(c *report.Comparison, dir string, quiet bool, s Streams) error {
	format := "text"
	if colored(s.Out, os.Getenv) {
		format = "color"
	}
	if err := c.Render(format, s.Out); err != nil {
		return err
	}
	if !quiet {
		fmt.Fprintf(s.Err, "tablefull: comparison: %s\n", filepath.Join(dir, "comparison.html"))
	}
	return nil
}

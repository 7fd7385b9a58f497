package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/lab"
	"github.com/tablefull/tablefull/scenarios"
)

type runFlags struct {
	target string
	sets   []string
	out    string
	dryRun bool
	quiet  bool
}

func runCommand(s Streams) *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run SCENARIO",
		Short: "Run a scenario and report what it showed",
		Long: `Run takes a scenario by its library name, as a file, or - for standard input.
It writes the run log, summary.json, report.html, report.md and junit.xml.

` + exitHelp,
		Example: `  tablefull run short-lived
  tablefull run short-lived --set traffic[0].short_lived.rate=2000/s --out results
  tablefull run my.yaml --dry-run`,
		Args:              exactArgs(1, "one scenario"),
		ValidArgsFunction: completeScenarios,
		RunE: func(c *cobra.Command, args []string) error {
			return runScenario(c.Context(), args[0], f, s)
		},
	}
	c.Flags().StringVar(&f.target, "target", "lab", "where to run: lab (this machine)")
	c.Flags().StringArrayVar(&f.sets, "set", nil, "change the scenario: `path=value`, for example conntrack.headroom=2000")
	c.Flags().StringVar(&f.out, "out", "", "`directory` for the results (default tablefull-out/SCENARIO-TIME)")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the resolved plan and touch nothing")
	c.Flags().BoolVar(&f.quiet, "quiet", false, "no progress, only the result")
	return c
}

func completeScenarios(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return scenarios.Names(), cobra.ShellCompDirectiveDefault
}

func runScenario(ctx context.Context, ref string, f runFlags, s Streams) error {
	if f.target != "lab" {
		return usagef("--target %s: this version knows lab", f.target)
	}
	sc, _, err := scenarios.Load(ref, s.In, f.sets...)
	if err != nil {
		return scenarioError(err)
	}
	e := lab.New(lab.Config{})
	caps, err := e.Probe(ctx)
	if err != nil {
		return fmt.Errorf("probe this machine: %w", err)
	}
	plan, err := runner.NewPlan(sc, caps)
	if err != nil {
		return err
	}
	if f.dryRun {
		if err := plan.WriteText(s.Out); err != nil {
			return err
		}
		return plan.Err()
	}
	if err := plan.Err(); err != nil {
		return err
	}
	if err := restoreOld(s); err != nil {
		return err
	}
	dir, cleanup, err := makeOut(f.out, sc.Name)
	if err != nil {
		return err
	}
	err = runPlan(ctx, e, plan, dir, f, s)
	cleanup()
	return err
}

func runPlan(ctx context.Context, e env.Environment, plan *runner.Plan, dir string, f runFlags, s Streams) error {
	c := runner.Config{
		Env: e, Plan: plan, Dir: dir, Version: version, RunID: runID(),
		ProgressEvery: 2 * time.Second,
	}
	if !f.quiet {
		fmt.Fprintf(s.Err, "tablefull: running %s for %s, results in %s\n", plan.Scenario.Name, plan.Scenario.Duration, dir)
		c.Progress = plainProgress(s.Err)
	}
	runErr := runner.Run(ctx, c)
	if _, err := os.Stat(filepath.Join(dir, runner.LogName)); err != nil {
		// It failed before there was anything to tell.
		if ctx.Err() != nil && errors.Is(runErr, context.Canceled) {
			return fmt.Errorf("interrupted before traffic began: nothing was measured, and everything has been put back (%w)", context.Canceled)
		}
		return runErr
	}
	findings, err := writeReports(dir)
	if err != nil {
		return errors.Join(runErr, err)
	}
	if err := report.Render("text", findings, s.Out); err != nil {
		return errors.Join(runErr, err)
	}
	fmt.Fprintf(s.Err, "tablefull: report: %s\n", filepath.Join(dir, "report.html"))
	if runErr != nil {
		return runErr
	}
	if code := report.ExitCode(findings); code != exitPass {
		return exitWith(code)
	}
	return nil
}

// scenarioError makes a file that is not there a mistake of the caller.
func scenarioError(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return &usageError{err}
	}
	return err
}

// makeOut makes the result directory, and returns what removes it again if
// nothing came of the run.
func makeOut(out, scenario string) (dir string, cleanup func(), err error) {
	dir = out
	if dir == "" {
		dir = filepath.Join("tablefull-out", scenario+"-"+time.Now().Format("20060102-150405"))
	}
	_, statErr := os.Stat(dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, &usageError{fmt.Errorf("make result directory: %w; choose another with --out", err)}
	}
	if _, err := os.Stat(filepath.Join(dir, runner.LogName)); err == nil {
		return "", nil, usagef("%s holds a run already; choose another directory with --out", dir)
	}
	return dir, func() {
		if statErr != nil {
			_ = os.Remove(dir) // only where it is empty
		}
	}, nil
}

// reportFiles are the renderings every run leaves, by file name.
var reportFiles = [][2]string{
	{"summary.json", "json"}, {"report.html", "html"}, {"report.md", "markdown"}, {"junit.xml", "junit"},
}

// writeReports analyses the run in dir and writes all renderings beside it.
func writeReports(dir string) (*report.Findings, error) {
	findings, err := analyzeDir(dir)
	if err != nil {
		return nil, err
	}
	for _, file := range reportFiles {
		if err := writeFile(filepath.Join(dir, file[0]), func(w io.Writer) error {
			return report.Render(file[1], findings, w)
		}); err != nil {
			return nil, err
		}
	}
	return findings, nil
}

func analyzeDir(dir string) (*report.Findings, error) {
	f, err := os.Open(filepath.Join(dir, runner.LogName))
	if err != nil {
		return nil, &usageError{fmt.Errorf("%s is no run directory: %w", dir, err)}
	}
	defer f.Close()
	findings, err := report.Analyze(f)
	if err != nil {
		return nil, fmt.Errorf("analyse %s: %w", f.Name(), err)
	}
	return findings, nil
}

// writeFile writes a file whole or not at all.
func writeFile(name string, write func(io.Writer) error) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	err = write(tmp)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func runID() string {
	return fmt.Sprintf("%s-%08x", time.Now().UTC().Format("20060102t150405"), rand.Uint32())
}

// plainProgress prints a line now and then: for pipes, logs and CI.
func plainProgress(w io.Writer) func(runner.Progress) {
	var last runner.Progress
	return func(p runner.Progress) {
		dt := max(p.T-last.T, 1e-9)
		if last.Due == 0 {
			dt = max(p.T, 1e-9)
		}
		rate := func(now, before uint64) float64 { return float64(now-before) / dt }
		line := fmt.Sprintf("tablefull: %5.1fs %-8s due %.0f/s ok %.0f/s failed %.0f/s", p.T, p.Phase,
			rate(p.Due, last.Due), rate(p.OK, last.OK), rate(p.Failed, last.Failed))
		names := make([]string, 0, len(p.Nodes))
		for name := range p.Nodes {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			n := p.Nodes[name]
			line += fmt.Sprintf("; %s %d of %d entries, drop %d, early_drop %d", name, n.Entries, n.Limit, n.Drop, n.EarlyDrop)
		}
		fmt.Fprintln(w, line)
		last = p
	}
}

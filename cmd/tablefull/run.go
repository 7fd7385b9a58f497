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
	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/proxy"
	"github.com/tablefull/tablefull/scenarios"
)

type runFlags struct {
	target string
	sets   []string
	out    string
	dryRun bool
	quiet  bool
	// segment is at how many MiB the run log begins a new segment.
	segment int
	// metrics is where to serve metrics; empty is nowhere. follow exports the
	// run in dir until the function it returns is called; nil does nothing.
	metrics string
	follow  func(dir, arm string, trial int) (end func())
	// bare leaves a run log and no reports: another process makes them.
	bare bool
	// arm and trial say which run of several this is.
	arm   string
	trial int
}

// followed begins to export the run in dir, if metrics are wanted.
func (f *runFlags) followed(dir string) (end func()) {
	if f.follow == nil {
		return func() {}
	}
	return f.follow(dir, f.arm, f.trial)
}

func runCommand(s Streams) *cobra.Command {
	var f runFlags
	k := newKubeFlags()
	c := &cobra.Command{
		Use:   "run SCENARIO",
		Short: "Run a scenario and report what it showed",
		Long: `Run takes a scenario by its library name, as a file, or - for standard input,
builds the lab it describes out of network namespaces, sends the traffic, and
says at which occupancy the node began to drop, why, and what would have held.

What it changes on this machine: nothing outside its own namespaces, unless the
scenario has conntrack.max, which writes nf_conntrack_max and puts it back.
--dry-run shows what would happen and touches nothing.

Where data goes: the findings to standard output, progress and messages to
standard error, and into the result directory the run log (run.jsonl; what is
large in run-000001.jsonl.zst and on, so that a soak can go on for days),
summary.json, report.html, report.md with report.png, and junit.xml.

On a terminal, standard error shows the run as it goes, in place, also where
standard output is a pipe; the findings follow when it is over. Elsewhere, with
TERM=dumb and in CI it gets a line every two seconds. NO_COLOR takes the colours
away, --quiet everything but the findings and errors.

A scenario with arms is run once for each arm and trial, into a directory of
its own each, in a random order that its seed decides; comparison.html, .md and
.json, junit.xml and bench.txt compare them.

Ctrl-C once stops, puts everything back and reports what was seen; twice leaves
at once, and "tablefull restore" puts back what may remain.

` + exitHelp + seeAlso("report", "scenarios", "doctor", "restore"),
		Example: `  tablefull run short-lived
  tablefull run short-lived --set traffic.0.short_lived.rate=2000/s --out results
  tablefull run my.yaml --dry-run
  tablefull run - --quiet < my.yaml`,
		GroupID:           groupMeasure,
		Args:              exactArgs(1, "one scenario"),
		ValidArgsFunction: completeOneScenario,
		RunE: func(c *cobra.Command, args []string) error {
			return runScenario(c.Context(), args[0], k, f, s)
		},
	}
	c.Flags().StringVar(&f.target, "target", "lab", "where to run: lab (this machine) or kubernetes (a cluster)")
	k.bind(c.Flags())
	c.Flags().StringArrayVar(&f.sets, "set", nil, "change the scenario: `path=value`, for example conntrack.headroom=2000")
	c.Flags().StringVar(&f.out, "out", "", "`directory` for the results (default tablefull-out/SCENARIO-TIME)")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the resolved plan and touch nothing")
	c.Flags().IntVar(&f.segment, "log-segment", runlog.SegmentBytes>>20, "`MiB` at which run.jsonl becomes a compressed segment and begins again")
	c.Flags().BoolVar(&f.quiet, "quiet", false, "no progress, only the result")
	bindMetrics(c.Flags(), &f.metrics)
	return c
}

func runScenario(ctx context.Context, ref string, k kubeFlags, f runFlags, s Streams) error {
	if f.target != "lab" && f.target != "kubernetes" {
		return usagef("--target %s: there are lab and kubernetes", f.target)
	}
	if f.segment < 1 || f.segment > 1<<20 {
		return usagef("--log-segment %d: must be 1 to %d MiB", f.segment, 1<<20)
	}
	sc, arms, source, err := scenarios.LoadArms(ref, s.In, f.sets...)
	if err != nil {
		return scenarioError(err)
	}
	endMetrics, err := f.serveMetrics(ctx, sc.Name, s)
	if err != nil {
		return err
	}
	defer endMetrics()
	if f.target == "kubernetes" {
		if len(arms) > 0 {
			return errArmsInCluster
		}
		return runInCluster(ctx, ref, sc, k, f, s)
	}
	if len(arms) > 0 {
		return runExperiment(ctx, newExperiment(sc, arms, source, f.sets), f, s)
	}
	if err := chooseKernel(ctx, sc); err != nil {
		return err
	}
	return runResolved(ctx, sc, f, s)
}

// runHere runs a scenario under the kernel that this process runs under.
func runHere(ctx context.Context, e env.Environment, sc *scenarios.Scenario, f runFlags, s Streams) error {
	caps, err := e.Probe(ctx)
	if err != nil && e.Name() == "kubernetes" && ctx.Err() == nil {
		return &runner.Unsupported{Reasons: []string{err.Error()}} // or not reached, or no rights there
	}
	if err != nil {
		return fmt.Errorf("probe this machine: %w", err)
	}
	plan, err := runner.NewPlan(sc, caps)
	if err != nil {
		return err
	}
	if sc.Search != nil {
		if err := checkSearch(plan); err != nil {
			return err
		}
	}
	if e.Name() != "kubernetes" { // whose kube-proxies are images
		plan.Refused = append(plan.Refused, missingProxies(sc)...)
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
	endFollowing := f.followed(dir)
	err = runPlan(ctx, e, plan, dir, f, s)
	endFollowing()
	cleanup()
	return err
}

func runPlan(ctx context.Context, e env.Environment, plan *runner.Plan, dir string, f runFlags, s Streams) error {
	var runErr error
	if plan.Scenario.Search != nil {
		runErr = searchPlan(ctx, e, plan, dir, f, s)
	} else {
		var of []string
		if f.arm != "" {
			of = []string{fmt.Sprintf("arm %s, trial %d", f.arm, f.trial)}
		}
		runErr = runShown(ctx, runner.Config{
			Env: e, Plan: plan, Dir: dir, Version: version, RunID: runID(), Segment: int64(f.segment) << 20,
		}, f.quiet, s, of...)
	}
	if _, err := runlog.StatDir(dir); err != nil {
		// It failed before there was anything to tell.
		if ctx.Err() != nil && errors.Is(runErr, context.Canceled) {
			return fmt.Errorf("interrupted before traffic began: nothing was measured, and everything has been put back (%w)", context.Canceled)
		}
		return runErr
	}
	if f.bare {
		return runErr
	}
	return conclude(dir, runErr, f, s)
}

// conclude writes the reports of the run in dir, shows its findings, and turns
// them into an exit code, unless runErr is one.
func conclude(dir string, runErr error, f runFlags, s Streams) error {
	findings, err := writeReports(dir)
	if err != nil {
		return errors.Join(runErr, err)
	}
	format := "text"
	if colored(s.Out, os.Getenv) {
		format = "color"
	}
	if err := report.Render(format, findings, s.Out); err != nil {
		return errors.Join(runErr, err)
	}
	if !f.quiet {
		fmt.Fprintf(s.Err, "tablefull: report: %s\n", filepath.Join(dir, "report.html"))
	}
	if runErr != nil {
		return runErr
	}
	if code := report.ExitCode(findings); code != exitPass {
		return exitWith(code)
	}
	return nil
}

// namedProxies are the kube-proxies that a scenario names.
func namedProxies(sc *scenarios.Scenario) []string {
	named := []string{sc.Lab.Proxy.Binary}
	for _, a := range sc.Actions {
		if a.UpgradeProxy != nil {
			named = append(named, a.UpgradeProxy.Binary)
		}
	}
	return slices.DeleteFunc(named, func(binary string) bool { return binary == "" })
}

// missingProxies are those that are not there.
func missingProxies(sc *scenarios.Scenario) []string {
	var out []string
	for _, binary := range namedProxies(sc) {
		if _, err := proxy.Locate(binary); err != nil && !slices.Contains(out, err.Error()) {
			out = append(out, err.Error())
		}
	}
	return out
}

// runShown runs c and shows how it goes, and what it is a part of.
func runShown(ctx context.Context, c runner.Config, quiet bool, s Streams, of ...string) error {
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	defer showProgress(ctx, &c, quiet, s.Err, of...)()
	defer watchAborts(ctx, c, abort)()
	return runner.Run(ctx, c)
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
	_, logErr := runlog.StatDir(dir)
	_, experimentErr := os.Stat(filepath.Join(dir, experimentName))
	if logErr == nil || experimentErr == nil {
		return "", nil, usagef("%s holds a run already; choose another directory with --out", dir)
	}
	return dir, func() {
		if statErr != nil {
			_ = os.Remove(dir) // only where it is empty
		}
	}, nil
}

// pictureName is what report.md shows.
const pictureName = "report.png"

// A reportFile is a rendering that every run leaves.
type reportFile struct {
	name  string
	write func(*report.Findings, io.Writer) error
}

func reportFiles() []reportFile {
	render := func(format string) func(*report.Findings, io.Writer) error {
		return func(f *report.Findings, w io.Writer) error { return report.Render(format, f, w) }
	}
	return []reportFile{
		{"summary.json", render("json")},
		{"report.html", render("html")},
		{pictureName, render("png")},
		{"report.md", func(f *report.Findings, w io.Writer) error { return report.MarkdownWithPicture(f, pictureName, w) }},
		{"junit.xml", render("junit")},
	}
}

// writeReports analyses the run in dir and writes all renderings beside it.
func writeReports(dir string) (*report.Findings, error) {
	findings, err := analyzeDir(dir)
	if err != nil {
		return nil, err
	}
	for _, file := range reportFiles() {
		if err := writeFile(filepath.Join(dir, file.name), func(w io.Writer) error {
			return file.write(findings, w)
		}); err != nil {
			return nil, err
		}
	}
	return findings, nil
}

func analyzeDir(dir string) (*report.Findings, error) {
	f, err := runlog.OpenDir(dir)
	if err != nil {
		return nil, &usageError{fmt.Errorf("%s is no run directory: %w", dir, err)}
	}
	defer f.Close()
	findings, err := report.Analyze(f)
	if err != nil {
		return nil, fmt.Errorf("analyse %s: %w", dir, err)
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

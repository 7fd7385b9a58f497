package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/cluster"
	"github.com/tablefull/tablefull/scenarios"
)

// lessShare is how much of the need the second run of a verification has.
const lessShare = 0.9

// beside is the share of the need that is free besides it on a cluster's node,
// for the connections of others.
const beside = 0.01

// verifyFlags say where and how to verify.
type verifyFlags struct {
	target, out, format string
	quiet               bool
	kube                kubeFlags
}

// A trialFunc makes one run of a scenario, into a directory.
type trialFunc func(ctx context.Context, sc *scenarios.Scenario, dir string) (*report.Findings, error)

// toVerify is the scenario of the run without what judges it, and what its
// runs have to show: that it holds with as many entries free as it needs at
// once, and not with a tenth less.
func toVerify(f *report.Findings, target string) (*scenarios.Scenario, []report.Wanted, error) {
	refuse := func(why string) (*scenarios.Scenario, []report.Wanted, error) {
		return nil, nil, usagef("--verify: %s", why)
	}
	switch {
	case f.Target == target:
	case f.Target == "kubernetes":
		return refuse("the run was made on a cluster: give --target kubernetes, with --image and --context as for the run, to have it made there twice again")
	default:
		return refuse(fmt.Sprintf("the run was made in the %s, and what a node of another target needs, it does not say; leave --target %s away", f.Target, target))
	}
	_, need, others, why := f.ToVerify()
	if why != "" {
		return refuse(why)
	}
	sc, err := scenarios.Parse("the run's scenario", []byte(f.Environment.ScenarioYAML))
	if err != nil {
		return nil, nil, scenarioError(err)
	}
	if sc.Conntrack.Max != nil {
		return refuse("the scenario writes the machine's limit (conntrack.max); give it a headroom instead")
	}
	for _, a := range sc.Actions {
		if a.Ballast != nil || a.Flush != nil {
			return refuse(fmt.Sprintf("action %s changes what is free", a.Name))
		}
	}
	for _, t := range sc.Traffic {
		if on := t.ShortLived; target == "kubernetes" && on != nil && (on.Close == "none" || on.Close == "half") {
			return refuse(fmt.Sprintf("traffic %s leaves entries that stay for hours, and each run would find those of the one before", t.Name))
		}
	}
	sc.Thresholds, sc.AbortOn, sc.Expect = nil, nil, nil
	if target == "kubernetes" {
		others += uint64(math.Ceil(float64(need) * beside))
	}
	return sc, []report.Wanted{
		{Need: need, Free: need + others, Holds: true},
		{Need: need, Free: uint64(math.Floor(float64(need)*lessShare)) + others},
	}, nil
}

// verify makes the runs. The rest of each table is ballast.
func verify(ctx context.Context, sc *scenarios.Scenario, wanted []report.Wanted, dir string, try trialFunc) (*report.Verification, error) {
	v := &report.Verification{Trials: []report.VerificationTrial{}}
	for _, want := range wanted {
		name := "less"
		if want.Holds {
			name = "needed"
		}
		t, err := verifyTrial(ctx, sc, want, filepath.Join(dir, name), try)
		if err != nil {
			return nil, fmt.Errorf("verify with %d entries free: %w", want.Free, err)
		}
		v.Trials = append(v.Trials, t)
	}
	v.Judge()
	return v, nil
}

// verifyTrial makes one run, again where its own conditions were not given.
func verifyTrial(ctx context.Context, sc *scenarios.Scenario, want report.Wanted, dir string, try trialFunc) (report.VerificationTrial, error) {
	headroom := int64(want.Free) //nolint:gosec // entries of a table
	with := *sc
	with.Conntrack.Headroom = &headroom
	for again := 0; ; again++ {
		out := dir
		if again > 0 {
			out += fmt.Sprintf("-again-%d", again)
		}
		f, err := try(ctx, &with, out)
		if err != nil {
			return report.VerificationTrial{}, err
		}
		if ctx.Err() != nil {
			return report.VerificationTrial{}, fmt.Errorf("interrupted (%w)", context.Canceled)
		}
		if t := report.TrialOf(f, want, out); len(t.Unsound) == 0 || again == maxAgain {
			return t, nil
		}
	}
}

// inLab makes the runs in the lab.
func inLab(quiet bool, s Streams) trialFunc {
	return func(ctx context.Context, sc *scenarios.Scenario, dir string) (*report.Findings, error) {
		return runInto(ctx, sc, runFlags{out: dir, quiet: quiet}, s)
	}
}

// inCluster makes the runs on the node of a cluster that the run in the
// directory of entered by, unless the flags name another. Each first waits until
// the entries of the run before have expired.
func inCluster(ctx context.Context, sc *scenarios.Scenario, f *report.Findings, of string, v verifyFlags, s Streams) (trialFunc, error) {
	if len(v.kube.nodes) == 0 {
		n, _, _, _ := f.ToVerify()
		v.kube.nodes = []string{n.Name}
	}
	e, err := v.kube.reach(ctx, sc, sc.Name, nil)
	if err != nil {
		return nil, err
	}
	plan, err := planIn(ctx, e, sc)
	if err != nil {
		return nil, err
	}
	ageing := plan.Ageing()
	ended := func(dir string) error {
		h, err := headerOf(dir)
		if err == nil {
			ageing.Ended(h.Services)
		}
		return err
	}
	if err := ended(of); err != nil {
		return nil, err
	}
	return func(ctx context.Context, sc *scenarios.Scenario, dir string) (*report.Findings, error) {
		_, cleanup, err := makeOut(dir, sc.Name)
		if err != nil {
			return nil, err
		}
		defer cleanup()
		_, err = runOnce(ctx, e, plan.Caps, sc, dir, func(c *runner.Config) func() {
			c.Age = new(ageing.Job())
			return showProgress(ctx, c, v.quiet, s.Err)
		})
		if err != nil {
			return nil, err
		}
		found, err := writeReports(dir)
		return found, errors.Join(err, ended(dir))
	}, nil
}

// planIn is the plan of a scenario in a cluster, which can be carried out there.
func planIn(ctx context.Context, e *cluster.Env, sc *scenarios.Scenario) (*runner.Plan, error) {
	caps, err := e.Probe(ctx)
	if err != nil && ctx.Err() == nil {
		return nil, &runner.Unsupported{Reasons: []string{err.Error()}}
	}
	if err != nil {
		return nil, fmt.Errorf("probe the cluster: %w", err)
	}
	plan, err := runner.NewPlan(sc, caps)
	if err != nil {
		return nil, err
	}
	return plan, plan.Err()
}

// sizeVerified adds a verification to the sizing of a run.
func sizeVerified(ctx context.Context, run string, flags verifyFlags, s Streams) error {
	if targets := []string{"lab", "kubernetes"}; !slices.Contains(targets, flags.target) {
		return usagef("--target %s: there are lab and kubernetes", flags.target)
	}
	f, err := analyzeDir(run)
	if err != nil {
		return err
	}
	if f.Sizing == nil {
		return usagef("--verify: %s has nothing to size from", run)
	}
	if err := sizedFrom(f, s); err != nil {
		return err
	}
	if flags.out == "" {
		flags.out = filepath.Join(run, "verify")
	}
	sc, wanted, err := toVerify(f, flags.target)
	if err != nil {
		return err
	}
	try := inLab(flags.quiet, s)
	if flags.target == "kubernetes" {
		if try, err = inCluster(ctx, sc, f, run, flags, s); err != nil {
			return err
		}
	}
	v, err := verify(ctx, sc, wanted, flags.out, try)
	if err != nil {
		return err
	}
	if err := report.RenderSize(flags.format, f.Sizing, v, s.Out); err != nil {
		return err
	}
	switch v.Verdict {
	case report.Fail:
		return exitWith(exitFail)
	case report.Inconclusive:
		return exitWith(exitInconclusive)
	}
	return nil
}

package main

import (
	"context"
	"fmt"
	"math"
	"path/filepath"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/scenarios"
)

// lessShare is how much of the need the second run of a verification has.
const lessShare = 0.9

// verify runs the scenario of a run again, with as many entries free as the
// run needed at once, which must hold, and with a tenth less, which must not.
// The rest of each table is ballast.
func verify(ctx context.Context, f *report.Findings, dir string, quiet bool, s Streams) (*report.Verification, error) {
	sc, need, err := toVerify(f)
	if err != nil {
		return nil, err
	}
	v := &report.Verification{Trials: []report.VerificationTrial{}}
	for _, x := range []struct {
		name  string
		free  uint64
		holds bool
	}{
		{"needed", need, true},
		{"less", uint64(math.Floor(float64(need) * lessShare)), false},
	} {
		t, err := verifyTrial(ctx, sc, x.free, filepath.Join(dir, x.name), quiet, s)
		if err != nil {
			return nil, fmt.Errorf("verify with %d entries free: %w", x.free, err)
		}
		t.Expected = x.holds
		v.Trials = append(v.Trials, t)
	}
	v.Judge()
	return v, nil
}

// toVerify is the scenario of the run without what judges it, and how many
// entries it needs at once.
func toVerify(f *report.Findings) (*scenarios.Scenario, uint64, error) {
	refuse := func(why string) (*scenarios.Scenario, uint64, error) {
		return nil, 0, usagef("--verify: %s", why)
	}
	switch {
	case f.Target != "lab":
		return refuse("only runs in the lab can be made again")
	case len(f.Nodes) != 1:
		return refuse("only runs with one node can be verified")
	case f.Sizing.Meaningless:
		return refuse("against a flood no limit is a remedy")
	case f.Predicted == nil || f.Predicted.PeakEntries == nil || f.Nodes[0].StartEntries == nil || *f.Predicted.PeakEntries <= *f.Nodes[0].StartEntries:
		return refuse("what the run needs could not be computed")
	case len(f.Predicted.UnknownTraffic) > 0:
		return refuse(fmt.Sprintf("the entries of %s cannot be computed", f.Predicted.UnknownTraffic[0]))
	}
	sc, err := scenarios.Parse("the run's scenario", []byte(f.Environment.ScenarioYAML))
	if err != nil {
		return nil, 0, scenarioError(err)
	}
	if sc.Conntrack.Max != nil {
		return refuse("the scenario writes the machine's limit (conntrack.max); give it a headroom instead")
	}
	for _, a := range sc.Actions {
		if a.Ballast != nil || a.Flush != nil {
			return refuse(fmt.Sprintf("action %s changes what is free", a.Name))
		}
	}
	sc.Thresholds, sc.AbortOn, sc.Expect = nil, nil, nil
	return sc, *f.Predicted.PeakEntries - *f.Nodes[0].StartEntries, nil
}

// verifyTrial makes one run, again where its own conditions were not given.
func verifyTrial(ctx context.Context, sc *scenarios.Scenario, free uint64, dir string, quiet bool, s Streams) (report.VerificationTrial, error) {
	headroom := int64(free) //nolint:gosec // entries of a table
	with := *sc
	with.Conntrack.Headroom = &headroom
	for again := 0; ; again++ {
		out := dir
		if again > 0 {
			out += fmt.Sprintf("-again-%d", again)
		}
		f, err := runInto(ctx, &with, runFlags{out: out, quiet: quiet}, s)
		if err != nil {
			return report.VerificationTrial{}, err
		}
		if ctx.Err() != nil {
			return report.VerificationTrial{}, fmt.Errorf("interrupted (%w)", context.Canceled)
		}
		if bad := f.Disturbed(); len(bad) == 0 || again == maxAgain {
			return report.TrialOf(f, free, out), nil
		}
	}
}

// sizeVerified adds a verification to the sizing of a run.
func sizeVerified(ctx context.Context, run, out, format string, quiet bool, s Streams) error {
	f, err := analyzeDir(run)
	if err != nil {
		return err
	}
	if f.Sizing == nil {
		return usagef("--verify: %s has nothing to size from", run)
	}
	if out == "" {
		out = filepath.Join(run, "verify")
	}
	v, err := verify(ctx, f, out, quiet, s)
	if err != nil {
		return err
	}
	if err := report.RenderSize(format, f.Sizing, v, s.Out); err != nil {
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

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/lab"
	"github.com/tablefull/tablefull/scenarios"
)

// experimentName is the file that says which runs an experiment consists of.
const experimentName = "experiment.json"

// maxAgain is how often one trial is made again whose conditions were not given.
const maxAgain = 2

// An experiment is the arms of one scenario as they are to be run.
type experiment struct {
	report.Experiment
	arms []scenarios.ArmScenario
	plan []runner.Turn
}

// newExperiment plans the runs. Nothing about them is chosen later.
func newExperiment(sc *scenarios.Scenario, arms []scenarios.ArmScenario, source []byte, sets []string) *experiment {
	seed := sc.Seed
	for seed == 0 {
		seed = rand.Uint64() >> 11
	}
	x := &experiment{arms: arms, plan: runner.Interleave(len(arms), sc.Trials, seed), Experiment: report.Experiment{
		Format: report.ExperimentVersion, Version: version, Scenario: sc.Name, Source: string(source), Sets: append([]string{}, sets...),
		Seed: seed, Trials: sc.Trials, Order: []string{}, Gate: []string{}, Margins: map[string]string{}, Runs: []report.ExperimentRun{},
	}}
	for _, a := range arms {
		x.Arms = append(x.Arms, report.ExperimentArm{Name: a.Name, Description: a.Description, Set: append([]string{}, a.Set...)})
	}
	for _, t := range x.plan {
		x.Order = append(x.Order, fmt.Sprintf("%s/%d", arms[t.Arm].Name, t.Trial))
	}
	return x
}

// runExperiment runs all arms and reports how they compare.
func runExperiment(ctx context.Context, x *experiment, f runFlags, s Streams) error {
	if err := x.chooseKernels(ctx); err != nil {
		return err
	}
	if f.dryRun {
		return x.dryRun(ctx, f, s)
	}
	if err := x.refused(ctx); err != nil {
		return err
	}
	dir, cleanup, err := makeOut(f.out, x.Scenario)
	if err != nil {
		return err
	}
	defer cleanup()
	if !f.quiet {
		fmt.Fprintf(s.Err, "tablefull: %s: %d arms, %d of each, seed %d, in this order: %s\n", x.Scenario, len(x.arms), x.Trials, x.Seed, strings.Join(x.Order, ", "))
	}
	runErr := x.run(ctx, dir, f, s)
	if len(x.Runs) == 0 {
		_ = os.Remove(filepath.Join(dir, experimentName)) // nothing came of it
		return runErr
	}
	c, err := writeComparison(dir, &x.Experiment)
	if err != nil {
		return errors.Join(runErr, err)
	}
	if err := printComparison(c, dir, f.quiet, s); err != nil {
		return errors.Join(runErr, err)
	}
	if runErr != nil && ctx.Err() == nil {
		return runErr
	}
	var dirty *runner.Dirty
	if errors.As(runErr, &dirty) {
		return runErr
	}
	if code := c.ExitCode(); code != exitPass {
		return exitWith(code)
	}
	return nil
}

// chooseKernels resolves lab.kernel: auto in each arm.
func (x *experiment) chooseKernels(ctx context.Context) error {
	for _, a := range x.arms {
		if err := chooseKernel(ctx, a.Scenario); err != nil {
			return err
		}
	}
	return nil
}

func (x *experiment) dryRun(ctx context.Context, f runFlags, s Streams) error {
	fmt.Fprintf(s.Out, "experiment  %s: %d arms, %d of each, seed %d\n", x.Scenario, len(x.arms), x.Trials, x.Seed)
	fmt.Fprintf(s.Out, "order       %s\n", strings.Join(x.Order, ", "))
	if len(x.Gate) > 0 {
		fmt.Fprintf(s.Out, "decide      %s\n", strings.Join(x.Gate, ", "))
	}
	var errs []error
	for _, a := range x.arms {
		fmt.Fprintf(s.Out, "\narm %s: %s\n", a.Name, orText(strings.Join(a.Set, "; "), "the scenario as it stands"))
		errs = append(errs, runResolved(ctx, a.Scenario, f, s))
	}
	return errors.Join(errs...)
}

func orText(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// run makes the runs in their order. A run that could not be made ends the
// experiment, as does the end of ctx.
func (x *experiment) run(ctx context.Context, dir string, f runFlags, s Streams) error {
	if err := x.write(dir); err != nil {
		return err
	}
	for i := range x.plan {
		if err := x.trial(ctx, i, dir, f, s); err != nil {
			problem := fmt.Sprintf("run %d of %d, %s, could not be made: %v", i+1, len(x.plan), x.Order[i], err)
			if ctx.Err() != nil {
				problem = fmt.Sprintf("interrupted after %d of %d runs", i, len(x.plan))
			}
			x.Problem = problem
			return errors.Join(err, x.write(dir))
		}
		if err := x.write(dir); err != nil {
			return err
		}
	}
	return nil
}

// trial makes the run at place i of the plan, again where its conditions were
// not given.
func (x *experiment) trial(ctx context.Context, i int, dir string, f runFlags, s Streams) error {
	say := func(format string, args ...any) {
		if !f.quiet {
			fmt.Fprintf(s.Err, "tablefull: "+format+"\n", args...)
		}
	}
	for again := 0; ; again++ {
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted (%w)", context.Canceled)
		}
		say("run %d of %d: %s", i+1, len(x.plan), x.Order[i])
		findings, err := x.turn(ctx, dir, x.plan[i], again, f, s)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted (%w)", context.Canceled)
		}
		bad := findings.Disturbed()
		if len(bad) == 0 || again == maxAgain {
			return nil
		}
		x.Runs[len(x.Runs)-1].Discarded = bad[0]
		if err := x.write(dir); err != nil { // or nobody would know of it, should the next one be cut off
			return err
		}
		say("%s does not count and is made again: %s", x.Order[i], bad[0])
	}
}

// trialDir is where a run is, below the experiment's directory: ARM/TRIAL, or
// ARM/TRIAL-again-N where the trial was made before.
func trialDir(arm string, trial, again int) string {
	if again > 0 {
		return fmt.Sprintf("%s/%d-again-%d", arm, trial, again)
	}
	return fmt.Sprintf("%s/%d", arm, trial)
}

// turn makes one run, in its [trialDir].
func (x *experiment) turn(ctx context.Context, dir string, turn runner.Turn, again int, f runFlags, s Streams) (*report.Findings, error) {
	arm := x.arms[turn.Arm].Name
	r := report.ExperimentRun{Arm: arm, Trial: turn.Trial, Dir: trialDir(arm, turn.Trial, again)}
	sc := *x.arms[turn.Arm].Scenario
	sc.Seed = turn.Seed
	findings, err := runInto(ctx, &sc, runFlags{
		out: filepath.Join(dir, r.Dir), quiet: f.quiet, follow: f.follow, arm: r.Arm, trial: turn.Trial,
	}, s)
	if findings != nil {
		x.Runs = append(x.Runs, r)
	}
	return findings, err
}

// runInto runs a resolved scenario into a directory of its own, f.out, where it
// leaves its log and all renderings, and returns what it shows. The error is of a run
// that could not be made, or could not put everything back; there can be
// findings all the same.
func runInto(ctx context.Context, sc *scenarios.Scenario, f runFlags, s Streams) (*report.Findings, error) {
	s.Out = io.Discard
	err := runResolved(ctx, sc, f, s)
	var verdict exitWith
	if errors.As(err, &verdict) {
		err = nil
	}
	if _, statErr := runlog.StatDir(f.out); statErr != nil {
		if err == nil {
			err = fmt.Errorf("run %s: it left no log in %s", sc.Name, f.out)
		}
		return nil, err
	}
	findings, readErr := analyzeDir(f.out)
	return findings, errors.Join(err, readErr)
}

// runResolved runs a scenario under the kernel that it names.
func runResolved(ctx context.Context, sc *scenarios.Scenario, f runFlags, s Streams) error {
	if sc.Lab.Kernel == "private" {
		return runPrivate(ctx, sc, f, s)
	}
	return runHere(ctx, lab.New(lab.Config{}), sc, f, s)
}

func (x *experiment) write(dir string) error {
	return writeFile(filepath.Join(dir, experimentName), func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(x.Experiment)
	})
}

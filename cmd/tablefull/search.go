package main

import (
	"context"
	"fmt"
	"io"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/search"
	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// runOnce runs a scenario into a directory, which must exist, and says what it
// showed. Nothing is printed and no report written. An error means that the
// tool could not do its work: what was measured all the same is in the log.
func runOnce(ctx context.Context, e env.Environment, caps env.Capabilities, sc *scenarios.Scenario, dir string) (*report.Findings, error) {
	plan, err := runner.NewPlan(sc, caps)
	if err != nil {
		return nil, err
	}
	if err := runner.Run(ctx, runner.Config{Env: e, Plan: plan, Dir: dir, Version: version, RunID: runID()}); err != nil {
		return nil, err
	}
	return analyzeDir(dir)
}

// checkSearch makes of a plan with a search one that is refused where the
// highest load of its range is: a search that cannot get there has no use.
func checkSearch(plan *runner.Plan) error {
	r, err := plan.Scenario.Range()
	if err != nil {
		return err
	}
	most, err := plan.Scenario.At(r.Max)
	if err != nil {
		return err
	}
	top, err := runner.NewPlan(most, plan.Caps)
	if err != nil {
		return err
	}
	plan.Refused = nil
	for _, why := range top.Refused {
		plan.Refused = append(plan.Refused, "at the highest load of the search: "+why)
	}
	return nil
}

// searchPlan makes the trials of a search, and logs it in dir.
func searchPlan(ctx context.Context, e env.Environment, plan *runner.Plan, dir string, f runFlags, s Streams) error {
	c := runner.SearchConfig{
		Plan: plan, Dir: dir, Target: e.Name(), Version: version, RunID: runID(),
		Try: func(ctx context.Context, sc *scenarios.Scenario, dir string) (runlog.Trial, error) {
			found, err := runOnce(ctx, e, plan.Caps, sc, dir)
			if err != nil {
				return runlog.Trial{}, err
			}
			return report.SearchTrialOf(found, sc), nil
		},
	}
	if !f.quiet {
		fmt.Fprintf(s.Err, "tablefull: searching %s from %s to %s, for at most %s, results in %s\n",
			plan.Scenario.Search.Knob, plan.Scenario.Search.Min, plan.Scenario.Search.Max, plan.Scenario.Search.Budget, dir)
		c.Progress = searchProgress(s.Err)
	}
	return runner.Search(ctx, c)
}

// searchProgress prints a line for each trial.
func searchProgress(w io.Writer) func([]runlog.Trial, search.Request) {
	told := 0
	return func(done []runlog.Trial, next search.Request) {
		for _, t := range done[told:] {
			what := fmt.Sprintf("lost %d of %d", t.Lost, t.Due)
			if t.Inconclusive {
				what = "says nothing: " + t.Why[0]
			}
			fmt.Fprintf(w, "tablefull: %5.0fs trial %d: %s\n", t.Elapsed, t.Number, what)
		}
		told = len(done)
		kind := map[search.Kind]string{search.Warmup: " (warm-up)", search.Control: " (control arm)"}[next.Kind]
		fmt.Fprintf(w, "tablefull: trial %d at %g%s\n", told+1, next.Load, kind)
	}
}

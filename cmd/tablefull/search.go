package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

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
// Watch shows how it goes, until what it returns is called.
func runOnce(ctx context.Context, e env.Environment, caps env.Capabilities, sc *scenarios.Scenario, dir string, watch func(*runner.Config) (end func())) (*report.Findings, error) {
	plan, err := runner.NewPlan(sc, caps)
	if err != nil {
		return nil, err
	}
	c := runner.Config{Env: e, Plan: plan, Dir: dir, Version: version, RunID: runID()}
	end := watch(&c)
	err = runner.Run(ctx, c)
	end()
	if err != nil {
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
	what, err := plan.Search()
	if err != nil {
		return err
	}
	began := time.Now()
	var standing []string // before the trial that is being made
	var ageing *runner.Ageing
	if plan.Caps.Cluster { // a lab's tables go away with it
		ageing = plan.Ageing()
	}
	c := runner.SearchConfig{
		Plan: plan, Dir: dir, Target: e.Name(), Version: version, RunID: runID(),
		Try: func(ctx context.Context, sc *scenarios.Scenario, dir string) (runlog.Trial, error) {
			found, err := runOnce(ctx, e, plan.Caps, sc, dir, func(c *runner.Config) func() {
				if ageing != nil {
					c.Age = new(ageing.Job())
				}
				if t, ok := liveOn(s.Err, os.Getenv); ok && !f.quiet {
					if end, shown := showLive(ctx, c, t, standing); shown {
						return end
					}
				}
				return func() {}
			})
			if err != nil {
				return runlog.Trial{}, err
			}
			if ageing != nil {
				h, err := headerOf(dir)
				if err != nil {
					return runlog.Trial{}, err
				}
				ageing.Ended(h.Services)
			}
			return report.SearchTrialOf(found, sc), nil
		},
	}
	if !f.quiet {
		fmt.Fprintf(s.Err, "tablefull: searching %s from %s to %s, for at most %s, results in %s\n",
			plan.Scenario.Search.Knob, plan.Scenario.Search.Min, plan.Scenario.Search.Max, plan.Scenario.Search.Budget, dir)
		c.Progress = searchProgress(s.Err, what, func() float64 { return time.Since(began).Seconds() }, func(lines []string) { standing = lines })
	}
	return runner.Search(ctx, c)
}

// headerOf reads the first record of a run's log.
func headerOf(dir string) (*runlog.Header, error) {
	f, err := runlog.OpenDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open run log: %w", err)
	}
	defer f.Close()
	r, err := runlog.NewReader(f).Next()
	if err != nil {
		return nil, fmt.Errorf("read run log of %s: %w", dir, err)
	}
	if r.Header == nil {
		return nil, fmt.Errorf("read run log of %s: it does not begin with a header", dir)
	}
	return r.Header, nil
}

// searchProgress prints a line for each trial, and tells what is known before
// the next one.
func searchProgress(w io.Writer, what *runlog.Search, elapsed func() float64, tell func(standing []string)) func([]runlog.Trial, search.Request) {
	told := 0
	return func(done []runlog.Trial, next search.Request) {
		for _, t := range done[told:] {
			text := fmt.Sprintf("lost %d of %d", t.Lost, t.Due)
			if t.Inconclusive {
				text = "says nothing: " + t.Why[0]
			}
			fmt.Fprintf(w, "tablefull: %5.0fs trial %d: %s\n", t.Elapsed, t.Number, text)
		}
		told = len(done)
		lines := standing(what, done, next, elapsed())
		fmt.Fprintf(w, "tablefull: %s; %s\n", lines[0], strings.Join(lines[1:], "; "))
		tell(lines)
	}
}

// standing is how a search stands before its next trial: which one that is, the
// bounds of each goal so far, and how much of the budget is left.
func standing(what *runlog.Search, done []runlog.Trial, next search.Request, elapsed float64) []string {
	unit := ""
	if what.Unit == "1/s" {
		unit = "/s"
	}
	load := func(v float64) string { return strconv.FormatFloat(math.Round(v*1000)/1000, 'f', -1, 64) + unit }
	kind := map[search.Kind]string{search.Warmup: " (warm-up)", search.Control: " (control arm)"}[next.Kind]
	out := []string{fmt.Sprintf("trial %d at %s%s", len(done)+1, load(next.Load), kind)}
	plain := make([]search.Trial, len(done))
	for i := range done {
		plain[i] = done[i].Trial
	}
	for _, r := range search.Conclude(what.Config, plain).Results {
		var known []string
		if r.Lower > 0 {
			known = append(known, load(r.Lower)+" holds")
		}
		if r.Upper > 0 {
			known = append(known, load(r.Upper)+" does not")
		}
		if len(known) == 0 {
			known = []string{"nothing is known yet"}
		}
		out = append(out, fmt.Sprintf("%s (at most %g %% lost)", strings.Join(known, ", "), r.Goal.LossRatio*100))
	}
	if what.Budget > 0 {
		out = append(out, fmt.Sprintf("%.0fs of %gs left", max(0, what.Budget-elapsed), what.Budget))
	}
	return out
}

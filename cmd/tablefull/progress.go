package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/tablefull/tablefull/cmd/tablefull/live"
	"github.com/tablefull/tablefull/runner"
)

// showProgress makes c show how its run goes: on a terminal a live view,
// elsewhere a line now and then, and nothing at all when quiet. The returned
// function ends it, and must be called however the run ends.
func showProgress(ctx context.Context, c *runner.Config, quiet bool, stderr io.Writer, of ...string) (end func()) {
	if quiet {
		return func() {}
	}
	sc := c.Plan.Scenario
	fmt.Fprintf(stderr, "tablefull: running %s for %s, results in %s\n", sc.Name, sc.Duration, c.Dir)
	if t, ok := liveOn(stderr, os.Getenv); ok {
		if end, shown := showLive(ctx, c, t, of); shown {
			return end
		}
	}
	c.ProgressEvery = 2 * time.Second
	c.Progress = plainProgress(stderr)
	return func() {}
}

// showLive shows how a run goes in a live view, with what the search has found
// whose trial it is; false where none can be shown. The returned function ends
// it.
func showLive(ctx context.Context, c *runner.Config, t *talk, search []string) (end func(), shown bool) {
	sc := c.Plan.Scenario
	first := live.State{Scenario: sc.Name, Search: search, Progress: runner.Progress{Phase: "setup", Duration: sc.Duration.Seconds()}}
	for _, tr := range c.Plan.Traffic {
		first.Traffics = append(first.Traffics, tr.Name)
	}
	v := show(t, first, live.Frame, os.Getenv, unended)
	if v == nil {
		return func() {}, false
	}
	c.ProgressEvery = 250 * time.Millisecond
	c.Progress = func(p runner.Progress) { v.Show(func(s *live.State) { s.Progress = p }) }
	stop := context.AfterFunc(ctx, func() { v.Show(func(s *live.State) { s.Stopping = true }) })
	following, unfollow := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		followCauses(following, c.Dir, func(causes map[string]uint64, at float64) {
			v.Show(func(s *live.State) { s.Causes, s.CausesAt = causes, at })
		})
	}()
	return func() { stop(); unfollow(); <-ended; t.unshow() }, true
}

// plainProgress prints a line now and then: for pipes, logs and CI.
func plainProgress(w io.Writer) func(runner.Progress) {
	var last runner.Progress
	return func(p runner.Progress) {
		if !p.Begun {
			fmt.Fprintf(w, "tablefull: setting up for %.1fs\n", p.Elapsed)
			return
		}
		if p.Phase == "undo" {
			fmt.Fprintf(w, "tablefull: %5.1fs putting back\n", p.T)
			return
		}
		dt := max(p.T-last.T, 1e-9)
		if last.Due == 0 {
			dt = max(p.T, 1e-9)
		}
		rate := func(now, before uint64) float64 { return float64(now-before) / dt }
		line := fmt.Sprintf("tablefull: %5.1fs %-8s due %.0f/s ok %.0f/s failed %.0f/s", p.T, p.Phase,
			rate(p.Due, last.Due), rate(p.OK, last.OK), rate(p.Failed, last.Failed))
		for _, name := range slices.Sorted(maps.Keys(p.Nodes)) {
			n := p.Nodes[name]
			line += fmt.Sprintf("; %s %d of %d entries, drop %d, early_drop %d", name, n.Entries, n.Limit, n.Drop, n.EarlyDrop)
		}
		fmt.Fprintln(w, line)
		last = p
	}
}

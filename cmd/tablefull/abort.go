package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/runner"
)

// abortEvery is how often the thresholds that end a run are looked at, at
// most. It takes no more of a CPU than the live causes.
const abortEvery = time.Second

// watchAborts ends the run that is writing its log into c.Dir, by abort, as
// soon as one of the scenario's abort_on has failed. It judges by the same
// analysis as the report. The returned function ends the watch and waits for it.
func watchAborts(ctx context.Context, c runner.Config, abort context.CancelCauseFunc) (end func()) {
	on := c.Plan.Scenario.AbortOn
	if len(on) == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f, err := openSoon(ctx, c.Dir)
		if err != nil {
			return // the run itself fails as well, or is over
		}
		defer f.Close()
		a := report.NewAnalysis(f)
		a.Thin = true
		var next time.Time
		_ = a.Follow(ctx, func() error {
			begun := time.Now()
			if begun.Before(next) {
				return nil
			}
			if why := failedOf(a.Findings(), on); why != "" {
				abort(&runner.Aborted{Why: why})
				cancel()
			}
			next = time.Now().Add(max(abortEvery, time.Duration(float64(time.Since(begun))/causesShare)))
			return nil
		})
	}()
	return func() { cancel(); <-ended }
}

// failedOf says which of these thresholds has failed, empty for none.
func failedOf(f *report.Findings, on []string) string {
	for _, r := range f.Thresholds {
		if r.Result == report.Fail && slices.Contains(on, r.Threshold) {
			return fmt.Sprintf("%s does not hold any more (%s)", r.Threshold, r.Detail)
		}
	}
	return ""
}

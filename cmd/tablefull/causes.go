package main

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
)

const (
	// causesEvery is how often causes are looked for at most, and causesShare
	// how much of a CPU that may take: the run is on the same machine.
	causesEvery = 2 * time.Second
	causesShare = 0.05
)

// followCauses analyses the run that is writing its log into dir, and tells
// show why attempts failed so far, until ctx is done. It blocks. A log that
// cannot be followed shows nothing: the report will say why.
func followCauses(ctx context.Context, dir string, show func(causes map[string]uint64, at float64)) {
	f, err := openSoon(ctx, dir)
	if err != nil {
		return
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
		causes, at := causesOf(a.Findings())
		show(causes, at)
		took := time.Since(begun)
		next = time.Now().Add(max(causesEvery, time.Duration(float64(took)/causesShare)))
		return nil
	})
}

// causesOf are the failures by cause, and the run time up to which the log
// goes. What the generator did not start is shown elsewhere.
func causesOf(f *report.Findings) (causes map[string]uint64, at float64) {
	causes = map[string]uint64{}
	for _, c := range f.Causes {
		if !strings.HasPrefix(c.Cause, "generator_") {
			causes[c.Cause] = c.Failures
		}
	}
	for _, n := range f.Timeline.Nodes {
		if k := len(n.T); k > 0 {
			at = max(at, n.T[k-1])
		}
	}
	return causes, at
}

// openSoon opens a log that is about to be made.
func openSoon(ctx context.Context, dir string) (*runlog.Files, error) {
	for {
		f, err := runlog.OpenDir(dir)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

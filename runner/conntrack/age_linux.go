package conntrack

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

const (
	// ageEvery is how often a table that is waited for is walked, at most.
	ageEvery = time.Second
	// ageShare is the share of the time that walking it may take: others use
	// the node.
	ageShare = 0.02
)

// age is the worker of an AgeJob.
type age struct {
	job  env.AgeJob
	left func(context.Context) (uint64, error)
}

// NewAge returns the worker of j.Age. An expired entry is in the table until the
// kernel comes across it, so it looks for entries, not at the clock alone.
func NewAge(j env.Job) (env.Worker, error) {
	if j.Age == nil {
		return nil, fmt.Errorf("make wait for the table: job %q is none", j.ID)
	}
	if j.Age.After < 0 || j.Age.Within < j.Age.After {
		return nil, fmt.Errorf("make wait for the table: %g s within %g s", j.Age.After, j.Age.Within)
	}
	a := &age{job: *j.Age}
	a.left = a.list
	return a, nil
}

// list counts the entries of connections to the addresses. Listing takes
// expired ones out of the table, as any walk does (ctnetlink_dump_table).
func (a *age) list(ctx context.Context) (uint64, error) {
	if len(a.job.To) == 0 {
		return 0, nil
	}
	c, err := dial()
	if err != nil {
		return 0, fmt.Errorf("open ctnetlink: %w", err)
	}
	defer c.close()
	var n uint64
	var e entry
	err = c.dump(ctx, markFilter{}, func(body []byte) error {
		if !e.parse(body) {
			return errMalformed
		}
		if slices.Contains(a.job.To, netip.AddrPortFrom(e.dst.addr(e.v6), e.dstPort)) ||
			slices.Contains(a.job.To, netip.AddrPortFrom(e.replySrc.addr(e.v6), e.replySrcPort)) {
			n++
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("walk the table: %w", err)
	}
	return n, nil
}

// Run implements env.Worker. It is ready at once, and ends when the wait does.
func (a *age) Run(ctx context.Context, ready func(), out env.Recorder) error {
	ready()
	began := time.Now()
	next := time.NewTimer(time.Duration(a.job.After * float64(time.Second)))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next.C:
		}
		walk := time.Now()
		n, err := a.left(ctx)
		if err != nil {
			return err
		}
		waited := time.Since(began).Seconds()
		if n == 0 || waited >= a.job.Within {
			out.Record(runlog.Record{Event: &runlog.Event{Kind: "table", Name: "aged", Fields: map[string]string{
				"left": strconv.FormatUint(n, 10), "waited_s": strconv.FormatFloat(waited, 'g', 6, 64),
			}}})
			return nil
		}
		next.Reset(max(ageEvery, time.Duration(float64(time.Since(walk))/ageShare)))
	}
}

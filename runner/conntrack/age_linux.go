package conntrack

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	tc "github.com/ti-mo/conntrack"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// ageEvery is how often a table that is waited for is listed. It has no
// ballast yet, and nothing is measured.
const ageEvery = time.Second

// age is the worker of an AgeJob.
type age struct {
	job  env.AgeJob
	left func() (uint64, error)
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
func (a *age) list() (uint64, error) {
	c, err := tc.Dial(nil)
	if err != nil {
		return 0, fmt.Errorf("open ctnetlink: %w", err)
	}
	defer c.Close()
	flows, err := c.DumpFilter(notBallast(), nil)
	if err != nil {
		return 0, fmt.Errorf("list entries: %w", err)
	}
	var n uint64
	for i := range flows {
		o, r := &flows[i].TupleOrig, &flows[i].TupleReply
		if slices.Contains(a.job.To, netip.AddrPortFrom(o.IP.DestinationAddress.Unmap(), o.Proto.DestinationPort)) ||
			slices.Contains(a.job.To, netip.AddrPortFrom(r.IP.SourceAddress.Unmap(), r.Proto.SourcePort)) {
			n++
		}
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
		n, err := a.left()
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
		next.Reset(ageEvery)
	}
}

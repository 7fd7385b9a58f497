package conntrack

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

var errMalformed = errors.New("walk table: malformed entry")

// census is the worker of a CensusJob.
type census struct {
	every   time.Duration
	maxCPU  float64
	sources int
	epoch   int64
}

// NewCensus returns the worker of j.Census. It walks the table once before it
// is ready, then again and again, and once more at the end. The next walk
// begins Every after the last one began, or later: so much later that the last
// walk cost at most the share MaxCPU (0 means 0.02) of one CPU.
//
// A walk costs about 1 us of CPU per entry, and 25 ns for each bucket of the
// machine's hash table. It is not a snapshot: entries that come or go while it
// lasts may be counted or not. A walk that fails is a Census with Failed set.
func NewCensus(j env.Job) (env.Worker, error) {
	job := j.Census
	if job == nil {
		return nil, fmt.Errorf("make census: job %q is not a census job", j.ID)
	}
	if job.Every <= 0 || job.MaxCPU < 0 || job.MaxCPU > 1 || job.Sources < 0 {
		return nil, fmt.Errorf("make census: every %g s, max_cpu %g, sources %d: want every above 0, max_cpu in 0..1, sources at least 0",
			job.Every, job.MaxCPU, job.Sources)
	}
	c := &census{every: time.Duration(job.Every * float64(time.Second)), maxCPU: job.MaxCPU, sources: job.Sources, epoch: j.Epoch}
	if c.maxCPU == 0 {
		c.maxCPU = 0.02
	}
	return c, nil
}

// Run implements env.Worker.
func (c *census) Run(ctx context.Context, ready func(), out env.Recorder) error {
	// CPU time is measured per thread, so the walks must not share theirs.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	t := newTally(c.sources)
	began := monotonic()
	first, err := walk(ctx, t, c.sources)
	if err != nil {
		return err
	}
	c.record(out, began, first)
	ready()
	// A walk takes a second or so and is worth nothing in part: one that has
	// begun when ctx ends is finished, and so is the final one.
	whole := context.WithoutCancel(ctx)
	timer := time.NewTimer(untilWalk(c.every, c.maxCPU, first) - time.Duration(monotonic()-began))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			c.walkAndRecord(whole, t, out)
			return nil
		case <-timer.C:
		}
		began := monotonic()
		result := c.walkAndRecord(whole, t, out)
		timer.Reset(untilWalk(c.every, c.maxCPU, result) - time.Duration(monotonic()-began))
	}
}

func (c *census) walkAndRecord(ctx context.Context, t *tally, out env.Recorder) *runlog.Census {
	began := monotonic()
	result, err := walk(ctx, t, c.sources)
	if err != nil {
		result.Failed = err.Error()
	}
	c.record(out, began, result)
	return result
}

func (c *census) record(out env.Recorder, began int64, result *runlog.Census) {
	middle := began + int64(result.Took/2*1e9)
	out.Record(runlog.Record{T: seconds(middle - c.epoch), Census: result})
}

// untilWalk is how long after the beginning of a walk the next one may begin.
func untilWalk(every time.Duration, maxCPU float64, last *runlog.Census) time.Duration {
	return max(every, time.Duration(last.CPU/maxCPU*float64(time.Second)))
}

// walk counts the whole table into t. The result is never nil: where there is
// an error it has what was counted until then.
func walk(ctx context.Context, t *tally, sources int) (*runlog.Census, error) {
	began := monotonic()
	cpu, err := cpuTime(unix.RUSAGE_THREAD)
	if err != nil {
		return &runlog.Census{}, err
	}
	t.reset()
	err = count(ctx, t)
	result := t.census(sources)
	after, cpuErr := cpuTime(unix.RUSAGE_THREAD)
	result.CPU = after - cpu
	result.Took = seconds(monotonic() - began)
	return result, errors.Join(err, cpuErr)
}

func count(ctx context.Context, t *tally) error {
	// A socket of its own for each walk: one that failed half way leaves
	// nothing behind.
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	var e entry
	return c.dump(ctx, 0, func(body []byte) error {
		if !e.parse(body) {
			return errMalformed
		}
		t.add(&e)
		return nil
	})
}

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
	pace
	sources, services int
	brief             bool
	epoch             int64
	tally             *tally
}

// NewCensus returns the worker of j.Census. It walks the table once before it
// is ready, then again and again, and once more at the end. Walks begin at
// least Every apart, and so rarely that they cost at most the share MaxCPU (0
// means 0.02) of one CPU.
//
// A walk costs about 2 us of CPU per entry, and 35 ns for each bucket of the
// machine's hash table: half a second for 250 000 entries, so one walk in 27 s
// at 2 %. Where most of the table is ballast, most walks therefore have the
// kernel leave it out, which is seven times cheaper; see Census.WithoutBallast.
// The first and the last walk are whole. A Brief job has no last one.
//
// A walk is not a snapshot: entries that come or go while it lasts may be
// counted or not. A walk that fails is a Census with Failed set.
func NewCensus(j env.Job) (env.Worker, error) {
	job := j.Census
	if job == nil {
		return nil, fmt.Errorf("make census: job %q is not a census job", j.ID)
	}
	if job.Every <= 0 || job.MaxCPU < 0 || job.MaxCPU > 1 || job.Sources < 0 || job.Services < 0 {
		return nil, fmt.Errorf("make census: every %g s, max_cpu %g, sources %d, services %d: want every above 0, max_cpu in 0..1, the others at least 0",
			job.Every, job.MaxCPU, job.Sources, job.Services)
	}
	c := &census{
		pace:    pace{every: time.Duration(job.Every * float64(time.Second)), maxCPU: job.MaxCPU},
		sources: job.Sources, services: job.Services, brief: job.Brief, epoch: j.Epoch, tally: newTally(job.Sources),
	}
	if job.Services > 0 {
		c.tally.services = newSpaceSaving[serviceKey](sketchSize(job.Services))
	}
	if job.Turnover {
		c.tally.turnover = newTurnover()
	}
	if c.maxCPU == 0 {
		c.maxCPU = 0.02
	}
	return c, nil
}

// Run implements env.Worker.
func (c *census) Run(ctx context.Context, ready func(), out env.Recorder) error {
	if err := c.walk(ctx, false, out); err != nil {
		if c.brief && ctx.Err() != nil {
			return nil
		}
		return err
	}
	ready()
	// A walk takes a second at most and is worth little in part: one that has
	// begun when ctx ends is finished, and so is the final one.
	whole := context.WithoutCancel(ctx)
	if c.brief {
		whole = ctx
	}
	timer := time.NewTimer(c.until())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			if !c.brief {
				_ = c.walk(whole, false, out) // the record says why
			}
			return nil
		case <-timer.C:
		}
		_, partial := c.next()
		_ = c.walk(whole, partial, out) // the record says why
		timer.Reset(c.until())
	}
}

func (c *census) until() time.Duration {
	at, _ := c.next()
	return time.Duration(at - monotonic())
}

// walk walks once and records the result, also where it failed.
func (c *census) walk(ctx context.Context, partial bool, out env.Recorder) error {
	began := monotonic()
	result, err := walk(ctx, c.tally, c.sources, partial)
	if err != nil && c.brief && ctx.Err() != nil {
		return err // it was given up
	}
	middle := began + int64(result.Took/2*1e9)
	result.Services = c.tally.topServices(c.services)
	switch t := c.tally.turnover; {
	case err != nil:
		result.Failed = err.Error()
	case t != nil:
		result.Turnover = t.end(seconds(middle))
	}
	c.done(began, result, c.tally.lookalikes)
	out.Record(runlog.Record{T: seconds(middle - c.epoch), Census: result})
	return err
}

// pace decides when to walk, and whether to leave ballast out.
type pace struct {
	every  time.Duration
	maxCPU float64

	leaveOut bool  // ballast may be left out
	wholeAt  int64 // when a whole walk may begin, monotonic ns
	partAt   int64 // when one without ballast may begin
}

// partShare is the share of the CPU budget for walks without ballast, where
// there are both kinds.
const partShare = 0.75

// done takes in what a walk that began at a moment cost and found. lookalikes
// are entries that a walk without ballast would leave out by mistake.
func (p *pace) done(began int64, r *runlog.Census, lookalikes uint64) {
	if !r.WithoutBallast {
		p.leaveOut = r.Failed == "" && lookalikes == 0 && r.Ballast > r.Entries/2
	}
	wait := func(budget float64) int64 {
		return began + int64(max(p.every, time.Duration(r.CPU/budget*float64(time.Second))))
	}
	switch {
	case !p.leaveOut:
		p.wholeAt = wait(p.maxCPU)
	case r.WithoutBallast:
		p.partAt = wait(p.maxCPU * partShare)
	default:
		p.wholeAt, p.partAt = wait(p.maxCPU*(1-partShare)), began+int64(p.every)
	}
}

// next says when the next walk may begin and of which kind it is.
func (p *pace) next() (at int64, partial bool) {
	if p.leaveOut && p.partAt < p.wholeAt {
		return p.partAt, true
	}
	return p.wholeAt, false
}

// walk counts the table into t, without ballast if partial. The result is
// never nil: where there is an error it has what was counted until then.
func walk(ctx context.Context, t *tally, sources int, partial bool) (*runlog.Census, error) {
	// CPU time is measured per thread, so a walk must stay on one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := monotonic()
	cpu, err := cpuTime(unix.RUSAGE_THREAD)
	if err != nil {
		return &runlog.Census{}, err
	}
	t.reset()
	var only markFilter
	if partial {
		only = markFilter{mark: 0, mask: bulkBit}
	}
	err = count(ctx, t, only)
	result := t.census(sources)
	if partial { // it was shown the beacons alone
		result.WithoutBallast, result.Entries, result.Ballast = true, result.Entries-result.Ballast, 0
	}
	after, cpuErr := cpuTime(unix.RUSAGE_THREAD)
	result.CPU = after - cpu
	result.Took = seconds(monotonic() - began)
	return result, errors.Join(err, cpuErr)
}

func count(ctx context.Context, t *tally, only markFilter) error {
	// A socket of its own for each walk: one that failed half way leaves
	// nothing behind.
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	var e entry
	return c.dump(ctx, only, func(body []byte) error {
		if !e.parse(body) {
			return errMalformed
		}
		t.add(&e)
		return nil
	})
}

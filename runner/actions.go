package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// An actor does what actions say: the lab, all but for the limit.
type actor interface {
	Act(ctx context.Context, a scenarios.Action) error
	Entries() []env.Entry
}

// limiter is a lab, and the limit of its kernel, which no host of the lab can
// write: only the first network namespace can, which is the controller's.
type limiter struct {
	env.Lab
	journal   *Journal
	ownKernel bool
	out       env.Recorder
}

// Act is part of actor.
func (l limiter) Act(ctx context.Context, a scenarios.Action) error {
	c := a.ConntrackSettings
	if c == nil || c.Max == nil {
		return l.Lab.Act(ctx, a)
	}
	old, err := setLimit(l.journal, uint64(*c.Max), l.ownKernel)
	if err != nil {
		return err
	}
	l.out.Record(runlog.Record{Event: &runlog.Event{
		Kind: "sysctl", Name: "set", Detail: fmt.Sprintf("it was %d", old),
		Fields: map[string]string{"net.netfilter.nf_conntrack_max": strconv.FormatInt(*c.Max, 10)},
	}})
	if len(c.Timeouts) == 0 && c.BeLiberal == nil {
		return nil
	}
	return l.Lab.Act(ctx, a)
}

// actions carries a scenario's actions out, each on its own clock.
type actions struct {
	now    func() int64 // our monotonic clock, ns
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu  sync.Mutex
	err error
}

// startActions begins to carry the actions out. Run time 0 is zero on our
// monotonic clock.
func startActions(ctx context.Context, lab actor, s *scenarios.Scenario, zero int64, out env.Recorder) *actions {
	a := &actions{now: monotonic}
	a.start(ctx, lab, s, zero, out)
	return a
}

func (a *actions) start(ctx context.Context, lab actor, s *scenarios.Scenario, zero int64, out env.Recorder) {
	ctx, a.cancel = context.WithCancel(ctx)
	end := zero + int64(s.Duration)
	for _, act := range s.Actions {
		act.Nodes = entered(act.Nodes, s, lab)
		d := &doer{now: a.now, lab: lab, action: act, out: out, begin: zero + int64(act.At), end: end}
		a.wg.Go(func() {
			if err := d.run(ctx); err != nil {
				a.mu.Lock()
				a.err = errors.Join(a.err, err)
				a.mu.Unlock()
			}
		})
	}
}

// entered are the names that the nodes a scenario names have here: node1 is
// the one that traffic enters by first.
func entered(names []string, s *scenarios.Scenario, lab actor) []string {
	if len(names) == 0 {
		return nil
	}
	entries := lab.Entries()
	out := slices.Clone(names)
	for i, n := range out {
		if k := slices.Index(s.NodeNames(), n); k >= 0 && k < len(entries) {
			out[i] = entries[k].Node
		}
	}
	return out
}

// stop ends what is still going on, and waits for it. The error is that of all
// actions that failed: a run whose action failed did not test what it
// says, but what it measured stands.
func (a *actions) stop() error {
	a.cancel()
	a.wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// doer carries one action out, once or again and again.
type doer struct {
	now        func() int64
	lab        actor
	action     scenarios.Action
	out        env.Recorder
	begin, end int64 // monotonic, ns; nothing begins at or after end
}

func (d *doer) run(ctx context.Context) error {
	for n := 1; ; n++ {
		if d.begin >= d.end || d.wait(ctx) != nil {
			return nil
		}
		if err := d.do(ctx, n); err != nil {
			return err
		}
		if d.action.Every <= 0 || d.action.Count > 0 && n >= d.action.Count {
			return nil
		}
		// One that took longer than every makes the next one wait, not fall out.
		d.begin = max(d.begin+int64(d.action.Every), d.now())
	}
}

// wait waits until the action is to begin, or ctx ends.
func (d *doer) wait(ctx context.Context) error {
	t := time.NewTimer(time.Duration(d.begin - d.now()))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// do carries the action out for the nth time, with an event before and after.
func (d *doer) do(ctx context.Context, n int) error {
	event := func(phase, detail string) {
		fields := map[string]string{"kind": d.action.Kind(), "phase": phase, "number": strconv.Itoa(n)}
		if len(d.action.Nodes) > 0 {
			fields["nodes"] = strings.Join(d.action.Nodes, " ")
		}
		d.out.Record(runlog.Record{Event: &runlog.Event{Kind: "action", Name: d.action.Name, Detail: detail, Fields: fields}})
	}
	event("begin", d.action.Kind())
	timed, cancel := context.WithTimeout(ctx, time.Duration(d.action.Timeout))
	defer cancel()
	err := d.lab.Act(timed, d.action)
	switch {
	case err == nil:
		event("end", "")
		return nil
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		event("fail", "the run ended before it had")
		return nil
	case ctx.Err() == nil && timed.Err() != nil:
		err = fmt.Errorf("it took longer than its timeout of %s", d.action.Timeout)
	}
	event("fail", err.Error())
	return fmt.Errorf("do action %s: %w", d.action.Name, err)
}

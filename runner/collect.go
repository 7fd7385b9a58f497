package runner

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// controller is the host name of the runner's own records.
const controller = "controller"

// agentLost is the end of a run whose host could no longer be heard.
type agentLost struct {
	host string
	err  error
}

func (e *agentLost) Error() string {
	return fmt.Sprintf("the agent on %s was lost: %v", e.host, e.err)
}
func (e *agentLost) Unwrap() error { return e.err }

// A collector brings the hosts' records into one log. Before run time 0 is
// known it keeps them; release writes them with their times moved.
type collector struct {
	mu       sync.Mutex
	onError  context.CancelCauseFunc // what a run that cannot go on calls
	failures chan<- failed           // set by startAutopsies
	w        *runlog.Writer
	clocks   []runlog.Clock
	early    []runlog.Record // before release
	released bool
	shift    float64 // s between the provisional run time 0 and the real one
	zero     int64   // run time 0 on our clock, ns; provisional until released
	last     map[string]uint64
	ownN     uint64
	missed   uint64 // failures that found no autopsy free
	portless uint64 // failures of which nobody knows the port that they were sent from
	live     Progress
	begun    int64 // when the run began on our clock, ns
	inPhase  int64 // when the phase did
	err      error
}

// failed is a failure and when it was recorded.
type failed struct {
	f  runlog.Failure
	at float64
}

func newCollector(w io.Writer) *collector {
	now := monotonic()
	return &collector{w: runlog.NewWriter(w), last: map[string]uint64{}, onError: func(error) {}, zero: now, begun: now, inPhase: now}
}

// cancelWith says what ends a run that cannot go on.
func (c *collector) cancelWith(f context.CancelCauseFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onError = f
}

// follow takes the records of one host until its agent has shut down.
func (c *collector) follow(ctx context.Context, h env.Host) error {
	err := h.Records(ctx, 1, func(r runlog.Record) error {
		c.add(r)
		return nil
	})
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("its records did not end in time: %w", err)
	}
	lost := &agentLost{host: h.Name(), err: err}
	c.warn("agent_lost", lost.Error())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onError(lost)
	return lost
}

func (c *collector) add(r runlog.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last[r.Host] = r.N
	if !c.released {
		c.early = append(c.early, r)
		return
	}
	c.write(r)
	if r.Failure != nil && c.failures != nil && r.Failure.Outcome != "" {
		c.lookUp(failed{*r.Failure, r.T})
	}
}

// lookUp has the entry of a failed attempt looked up, or counts that it is not.
// Needs mu.
func (c *collector) lookUp(f failed) {
	// A dial that never connected tells the address that it was bound to, and no port.
	if !f.f.Tuple.Src.IsValid() || f.f.Tuple.Src.Port() == 0 {
		// What failed at the generator itself may never have been sent.
		if f.f.Outcome != runlog.Other && f.f.Outcome != runlog.NotPermitted && f.f.Outcome != runlog.Interrupted {
			c.portless++
		}
		return
	}
	select {
	case c.failures <- f:
	default:
		c.missed++
	}
}

// write needs mu. Jobs that began before run time 0 was chosen, which are all
// but the loads and the look-ups, count from the provisional one; their
// records hold no other time than T.
func (c *collector) write(r runlog.Record) {
	early := r.Served != nil || r.Sample != nil || r.Census != nil || r.Dataplane != nil || (r.Loss != nil && r.Loss.What == "samples")
	if e := r.Event; e != nil {
		early = slices.Contains([]string{"ballast", "proxy", "lock", "sysctl", "flush", "pod", "table", "node"}, e.Kind) || (e.Kind == "warning" && e.Name == "proxy")
	}
	if r.Host != controller && early {
		r.T -= c.shift
	}
	c.live.add(r)
	if err := c.w.Write(r); err != nil && c.err == nil {
		c.err = fmt.Errorf("write run log: %w", err)
		c.onError(c.err)
	}
}

// own writes a record of the controller itself. Needs mu.
func (c *collector) own(r runlog.Record) {
	c.ownN++
	r.N, r.Host = c.ownN, controller
	if r.T == 0 {
		r.T = float64(monotonic()-c.zero) / 1e9
	}
	if !c.released {
		c.early = append(c.early, r)
		return
	}
	c.write(r)
}

// Record is part of env.Recorder: a record of the controller's own.
func (c *collector) Record(r runlog.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own(r)
}

// phase marks the beginning of a part of the run.
func (c *collector) phase(name, detail string, zero int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.released {
		c.zero = zero
	}
	c.enter(name)
	c.own(runlog.Record{Event: &runlog.Event{Kind: "phase", Name: name, Detail: detail}})
}

// enter begins a phase of the progress. Needs mu.
func (c *collector) enter(name string) {
	c.live.Phase, c.live.Steps, c.inPhase = name, nil, monotonic()
}

// undoing begins the putting back. It is no phase of the log, whose last
// records are still coming in.
func (c *collector) undoing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enter("undo")
}

// step shows what is being done until the returned function is called with
// how it ended.
func (c *collector) step(name string) (done func(error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	phase, i, began := c.inPhase, len(c.live.Steps), monotonic()
	c.live.Steps = append(c.live.Steps, Step{Name: name, began: began})
	return func(err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.inPhase != phase {
			return // it outlived its phase
		}
		s := &c.live.Steps[i]
		s.Done, s.Took = true, since(began)
		if err != nil {
			s.Err = err.Error()
		}
	}
}

func (c *collector) warn(name, detail string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own(runlog.Record{Event: &runlog.Event{Kind: "warning", Name: name, Detail: detail}})
}

// header writes the first record.
func (c *collector) header(h *runlog.Header) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ownN++
	// It is number 1 in the file whatever came before it: renumber.
	r := runlog.Record{N: 1, Host: controller, Header: h}
	for i := range c.early {
		if c.early[i].Host == controller {
			c.early[i].N++
		}
	}
	c.write(r)
	return c.err
}

// release writes what was kept, now that run time 0 is shift seconds after
// the provisional one, and lets later records through.
func (c *collector) release(shift float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shift = shift
	c.zero += int64(shift * 1e9)
	for _, r := range c.early {
		if r.Host == controller {
			r.T -= shift
		}
		c.write(r)
	}
	c.early, c.released = nil, true
	for i := range c.clocks {
		c.own(runlog.Record{Clock: &c.clocks[i]})
	}
}

// clock takes how a host's clock runs.
func (c *collector) clock(k runlog.Clock) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.released {
		c.clocks = append(c.clocks, k)
		return
	}
	c.own(runlog.Record{Clock: &k})
}

// trailer writes the last record. A run that never got as far as a header
// has no records worth a trailer.
func (c *collector) trailer(t *runlog.Trailer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.portless > 0 {
		c.own(runlog.Record{Loss: &runlog.Loss{What: "autopsies", Count: c.portless, Why: "the port that they were sent from is not known"}})
	}
	if c.missed > 0 {
		c.own(runlog.Record{Loss: &runlog.Loss{What: "autopsies", Count: c.missed, Why: fmt.Sprintf("there were more than are looked up, at most %d a second", autopsiesPerSecond)}})
	}
	t.Records = c.last
	c.own(runlog.Record{Trailer: t})
	if err := c.w.Flush(); err != nil && c.err == nil {
		c.err = fmt.Errorf("write run log: %w", err)
	}
	return c.err
}

// watch flushes the log and reports progress until the returned function is
// called, which waits for that. The last report is made then.
func (c *collector) watch(cfg Config) (stop func()) {
	every := cfg.ProgressEvery
	if every == 0 {
		every = time.Second
	}
	done, ended := make(chan struct{}), make(chan struct{})
	report := func(due bool) {
		c.flush()
		if due && cfg.Progress != nil {
			cfg.Progress(c.progress(cfg.Plan.Scenario.Duration.Seconds()))
		}
	}
	go func() {
		defer close(ended)
		flush := time.NewTicker(min(every, flushEvery))
		defer flush.Stop()
		next := monotonic() + every.Nanoseconds()
		for {
			select {
			case <-done:
				report(true)
				return
			case <-flush.C:
			}
			due := monotonic() >= next
			if due {
				next += every.Nanoseconds()
			}
			report(due)
		}
	}()
	return func() { close(done); <-ended }
}

// flushEvery is how far the log on disk may lag behind.
const flushEvery = 200 * time.Millisecond

func (c *collector) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.w.Flush(); err != nil && c.err == nil {
		c.err = fmt.Errorf("write run log: %w", err)
		c.onError(c.err)
	}
}

// progress is how things stand, in a run planned to last duration s.
func (c *collector) progress(duration float64) Progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &c.live
	p.Elapsed, p.InPhase, p.Duration = since(c.begun), since(c.inPhase), duration
	if p.Begun = c.released; p.Begun {
		p.T = since(c.zero)
	}
	return p.snapshot()
}

// autopsies looks failed attempts up in the nodes' tables.
type autopsies struct {
	stopped func()
	done    chan struct{}
	queue   chan failed
	collect *collector
}

// autopsiesPerSecond bounds what the look-ups cost the node.
const autopsiesPerSecond = 20

func startAutopsies(ctx context.Context, nodes []env.Host, epochs map[string]int64, c *collector, off bool) *autopsies {
	ctx, cancel := context.WithCancel(ctx)
	// A short queue: a look-up that waits says less and less.
	queue := make(chan failed, 4)
	a := &autopsies{stopped: cancel, done: make(chan struct{}), queue: queue, collect: c}
	if off {
		close(a.done)
		return a
	}
	c.mu.Lock()
	c.failures = queue
	c.mu.Unlock()
	go func() {
		defer close(a.done)
		pace := time.NewTicker(time.Second / autopsiesPerSecond)
		defer pace.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case f := <-queue:
				for _, h := range nodes {
					if f.f.Node != "" && f.f.Node != h.Name() {
						continue
					}
					j := env.Job{ID: fmt.Sprintf("autopsy/%d", n), Epoch: epochs[h.Name()], Autopsy: &env.AutopsyJob{Failure: f.f, Failed: f.at}}
					if err := h.Start(ctx, j); err != nil && ctx.Err() == nil {
						c.warn("autopsy", err.Error())
					}
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-pace.C:
			}
		}
	}()
	return a
}

// stop ends the look-ups. What still waits for one, and what fails from now
// on, is counted as missed.
func (a *autopsies) stop() {
	a.stopped()
	<-a.done
	a.collect.mu.Lock()
	defer a.collect.mu.Unlock()
	if a.collect.failures != nil {
		a.collect.missed += uint64(len(a.queue))
		a.collect.failures = make(chan failed) // nobody receives
	}
}

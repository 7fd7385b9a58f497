package runner

import (
	"context"
	"fmt"
	"io"
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
	onError  context.CancelCauseFunc // set before the first follow
	failures chan<- failed           // set by startAutopsies; guarded by mu

	mu       sync.Mutex
	w        *runlog.Writer
	clocks   []runlog.Clock
	early    []runlog.Record // before release
	released bool
	shift    float64 // s between the provisional run time 0 and the real one
	zero     int64   // run time 0 on our clock, ns; provisional until released
	last     map[string]uint64
	ownN     uint64
	missed   uint64 // failures that found no autopsy free
	live     Progress
	err      error
}

// failed is a failure and when it was recorded.
type failed struct {
	f  runlog.Failure
	at float64
}

func newCollector(w io.Writer) *collector {
	return &collector{w: runlog.NewWriter(w), last: map[string]uint64{}, onError: func(error) {}, zero: monotonic()}
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
	c.live.add(r)
	if r.Failure != nil && c.failures != nil && r.Failure.Outcome != "" && r.Failure.Tuple.Src.IsValid() {
		select {
		case c.failures <- failed{*r.Failure, r.T}:
		default:
			c.missed++
		}
	}
}

// write needs mu. Jobs that began before run time 0 was chosen, which are all
// but the loads and the look-ups, count from the provisional one; their
// records hold no other time than T.
func (c *collector) write(r runlog.Record) {
	if r.Host != controller && (r.Served != nil || r.Sample != nil || r.Census != nil || (r.Event != nil && r.Event.Kind == "ballast")) {
		r.T -= c.shift
	}
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

// phase marks the beginning of a part of the run.
func (c *collector) phase(name, detail string, zero int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.released {
		c.zero = zero
	}
	c.live.Phase = name
	c.own(runlog.Record{Event: &runlog.Event{Kind: "phase", Name: name, Detail: detail}})
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

// trailer writes the last record. A run that never got as far as a header
// has no records worth a trailer.
func (c *collector) trailer(t *runlog.Trailer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.missed > 0 {
		c.own(runlog.Record{Loss: &runlog.Loss{What: "autopsies", Count: c.missed, Why: "more failures than look-ups are allowed"}})
	}
	t.Records = c.last
	c.own(runlog.Record{Trailer: t})
	if err := c.w.Flush(); err != nil && c.err == nil {
		c.err = fmt.Errorf("write run log: %w", err)
	}
	return c.err
}

// watch flushes the log and reports progress until the returned function is
// called, which waits for that.
func (c *collector) watch(cfg Config, zero int64) (stop func()) {
	every := cfg.ProgressEvery
	if every == 0 {
		every = time.Second
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		flush := time.NewTicker(200 * time.Millisecond)
		defer flush.Stop()
		next := monotonic() + every.Nanoseconds()
		for {
			select {
			case <-done:
				return
			case <-flush.C:
			}
			p, due := c.tick(monotonic() >= next, zero, cfg.Plan.Scenario.Duration.Seconds())
			if due {
				next += every.Nanoseconds()
				if cfg.Progress != nil {
					cfg.Progress(p)
				}
			}
		}
	}()
	return func() { close(done); <-ended }
}

func (c *collector) tick(progress bool, zero int64, duration float64) (Progress, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.w.Flush(); err != nil && c.err == nil {
		c.err = fmt.Errorf("write run log: %w", err)
		c.onError(c.err)
	}
	if !progress {
		return Progress{}, false
	}
	c.live.T, c.live.Duration = float64(monotonic()-zero)/1e9, duration
	return c.live.snapshot(), true
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

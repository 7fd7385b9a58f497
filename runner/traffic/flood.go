//go:build linux

package traffic

import (
	"context"
	"fmt"
	"math"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/server/epoll"
	"github.com/tablefull/tablefull/scenarios"
)

const (
	floodSources    = 4096  // by default
	maxFloodSources = 65534 // fits 198.18.0.0/15 with room to spare
	floodTick       = 0.001 // s between two batches
	floodBehind     = 0.1   // s after its due time a packet is not sent any more
	binNanos        = int64(time.Second) / binsPerSecond
)

// Flood sends frames, not datagrams or connections: SYNs or UDP, from source
// addresses of 198.18.0.0/15 or 2001:2::/48 that no host has. It needs
// CAP_NET_RAW. It is one-way: an attempt is one packet, and is OK once the
// kernel has taken it. Whether it arrived can only be told at the node. What
// the sending interface itself drops is reported in an Event at the end.
//
// It sends what is due about every millisecond, in one go, on up to four
// threads where one does not keep up: in a lab on one machine a packet's whole
// way through the node and to the pod runs on the CPU that sends it.
//
// Packets that are more than 0.1 s behind are not sent but counted, however
// many they are, in constant time: a rate of millions asks for "as fast as
// possible", and the log says how fast that was. (Other shapes wait for a
// second. A flood that cannot keep up would then always be a second late, and
// go on for one after its end.) Packets have no Failure records of their own,
// only Loss counts.
//
// # What it needs from its surroundings
//
// The frames go to the next hop of the host's route to the target. That node
// must not drop them by source address: its net.ipv4.conf.*.rp_filter is 0 or
// 2, or its route to 198.18.0.0/15 (2001:2::/48) points back at this host.
// The service answers with SYN/ACK, so the node must have such a route anyway:
// without it, a default route sends the answers elsewhere, and without that the
// node answers the pod with ICMP. This host must not answer them: with
// forwarding off it drops them as not its own; with forwarding on it needs a
// blackhole route for the range. Nothing answers SYN/ACKs with a reset then,
// and the node's entries stay in SYN_RECV. The target's port must listen: a
// reset of the pod would end the entry.
type Flood struct {
	job     env.LoadJob
	epoch   int64
	kind    string
	sources int
	pacer   vegeta.Pacer
}

var _ env.Worker = (*Flood)(nil)

// NewFlood returns a worker for job.Load, which must be set, with a traffic of
// shape flood.
func NewFlood(job env.Job) (env.Worker, error) {
	l := *job.Load
	shape := l.Traffic.Flood
	if shape == nil {
		return nil, fmt.Errorf("make flood %s: it has another shape", l.Traffic.Name)
	}
	f := &Flood{job: l, epoch: job.Epoch, kind: shape.Kind, sources: shape.Sources}
	if f.kind == "" {
		f.kind = "syn"
	}
	if f.sources == 0 {
		f.sources = floodSources
	}
	if f.kind != "syn" && f.kind != "udp" {
		return nil, fmt.Errorf("make flood %s: unknown kind %q", l.Traffic.Name, f.kind)
	}
	if f.sources < 1 || f.sources > maxFloodSources {
		return nil, fmt.Errorf("make flood %s: sources is %d, must be 1 to %d", l.Traffic.Name, f.sources, maxFloodSources)
	}
	if !l.Target.IsValid() || l.Target.Port() == 0 || int(l.Target.Port())+max(1, l.Ports)-1 > 65535 {
		return nil, fmt.Errorf("make flood %s: %d ports from %v on are not ports to send to", l.Traffic.Name, l.Ports, l.Target)
	}
	f.sources = max(1, l.Part.Has(f.sources))
	var err error
	if f.pacer, err = pacerOf(l, floodPacing(*shape)); err != nil {
		return nil, fmt.Errorf("make flood %s: %w", l.Traffic.Name, err)
	}
	return f, nil
}

func floodPacing(s scenarios.Flood) scenarios.Pacing { return s.Pacing }

// Run implements env.Worker.
func (f *Flood) Run(ctx context.Context, ready func(), out env.Recorder) error {
	unlock := epoll.LockThread()
	defer unlock()
	if err := f.run(ctx, ready, out); err != nil {
		return fmt.Errorf("run flood %s: %w", f.job.Traffic.Name, err)
	}
	return nil
}

func (f *Flood) run(ctx context.Context, ready func(), out env.Recorder) error {
	path, err := findFloodPath(ctx, f.job.Target.Addr())
	if err != nil {
		return err
	}
	frames, err := newFloodFrames(f.job, f.kind, f.sources, path.src, path.dst)
	if err != nil {
		return err
	}
	senders, err := newFloodSenders(path, frames)
	if err != nil {
		return err
	}
	defer senders.close()
	poll, err := epoll.New(1) // a clock that ctx can interrupt
	if err != nil {
		return err
	}
	defer poll.Close()
	release := poll.WakeOn(ctx)
	defer release()
	ready()
	dropped, known := path.txDropped()
	now := Clock(f.epoch)
	e := &floodEngine{
		senders: senders, poll: poll, now: now,
		tally: NewTally(out, f.job, now), out: out, name: f.job.Traffic.Name,
		plan: newFloodPlan(f.pacer, seconds(f.job.Start), seconds(f.job.End)),
	}
	e.plan.lateAfter = lateness(f.job)
	err = e.loop(ctx)
	if after, ok := path.txDropped(); known && ok && after > dropped {
		out.Record(runlog.Record{Event: &runlog.Event{
			Kind: "warning", Name: "flood_dropped_here",
			Detail: fmt.Sprintf("interface %s of the client dropped %d frames while flood %s ran: these did not reach the node", path.name, after-dropped, f.job.Traffic.Name),
			Fields: map[string]string{"traffic": f.job.Traffic.Name, "interface": path.name, "count": fmt.Sprint(after - dropped)},
		}})
	}
	return err
}

// floodEngine is a running Flood. It is used by one goroutine.
type floodEngine struct {
	senders *floodSenders
	poll    *epoll.Poller
	now     func() float64
	tally   *Tally
	out     env.Recorder
	name    string
	plan    *floodPlan

	unrecorded uint64 // not started, since the last Loss record
}

// loop sends until every packet has been, or ctx is done.
func (e *floodEngine) loop(ctx context.Context) error {
	defer e.finish()
	p := e.plan
	flush := e.now() + flushEvery
	for {
		now := e.now()
		e.account(p.becomeDue(now), floodCount.asDue)
		e.account(p.giveUp(now), floodCount.asBehind)
		if now >= flush {
			e.flush()
			flush = now + flushEvery
		}
		if ctx.Err() != nil {
			return nil
		}
		if p.waiting() == 0 {
			next, more := p.next(now)
			if !more {
				return nil
			}
			if _, err := e.poll.Wait(sleepFor(min(max(next-now, floodTick), max(flush-now, 0)))); err != nil {
				return err
			}
			continue
		}
		if err := e.send(now); err != nil {
			return err
		}
	}
}

// send sends packets that wait, as many as the senders take at once.
func (e *floodEngine) send(now float64) error {
	r := e.senders.send(e.plan.done, e.plan.waiting())
	late := min(r.sent, e.plan.late(now))
	e.account(e.plan.take(late), floodCount.asLate)
	e.account(e.plan.take(r.sent-late), floodCount.asSent)
	e.account(e.plan.take(r.refused), floodCount.asNoMemory)
	if r.errno != 0 {
		return fmt.Errorf("send frames: %w", r.errno)
	}
	return nil
}

// account counts packets, which are listed by the bins they were due in.
func (e *floodEngine) account(parts []floodPart, as func(floodCount, uint64) floodCount) {
	for _, p := range parts {
		c := as(floodCount{}, p.n)
		e.unrecorded += c.memory + c.behind + c.stopped
		e.tally.packets(p.bin, c)
	}
}

func (e *floodEngine) flush() {
	e.tally.Flush()
	if e.unrecorded > 0 {
		e.out.Record(runlog.Record{Loss: &runlog.Loss{
			What: "failures", Count: e.unrecorded,
			Why: fmt.Sprintf("traffic %s: packets of a flood that were not sent are counted, not recorded one by one", e.name),
		}})
		e.unrecorded = 0
	}
}

// finish counts what waits still, if anything does: the flood has been
// stopped, or has failed.
func (e *floodEngine) finish() {
	e.account(e.plan.take(math.MaxUint64), floodCount.asStopped)
	e.flush()
	e.tally.Close()
}

// floodCount is what became of some packets that were due in one bin.
type floodCount struct{ due, started, late, memory, behind, stopped uint64 }

func (c floodCount) asDue(n uint64) floodCount      { c.due += n; return c }
func (c floodCount) asSent(n uint64) floodCount     { c.started += n; return c }
func (c floodCount) asLate(n uint64) floodCount     { c.started += n; c.late += n; return c }
func (c floodCount) asNoMemory(n uint64) floodCount { c.memory += n; return c }
func (c floodCount) asBehind(n uint64) floodCount   { c.behind += n; return c }
func (c floodCount) asStopped(n uint64) floodCount  { c.stopped += n; return c }

// packets counts many packets that were due in bin number i at once. What was
// started is OK: nothing more is known of a packet.
func (t *Tally) packets(i int64, c floodCount) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// The middle of the bin, so that no rounding puts it into another.
	b := t.bin((float64(i) + 0.5) / binsPerSecond)
	b.due += c.due
	b.started += c.started
	b.late += c.late
	b.outcomes[0] += c.started
	for j, r := range notStartedReasons {
		switch r {
		case runlog.NoMemory:
			b.notStarted[j] += c.memory
		case runlog.Behind:
			b.notStarted[j] += c.behind
		case runlog.Stopped:
			b.notStarted[j] += c.stopped
		}
	}
}

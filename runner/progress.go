package runner

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
)

// Progress is what a running run looks like from outside, as far as its
// records have arrived. Counts are totals since run time 0.
type Progress struct {
	// Phase: setup, traffic, drain, stopping (interrupted: the loads end
	// early), undo (everything is put back).
	Phase   string
	Elapsed float64 // s since the run began
	InPhase float64 // s since the phase began
	// T is run time in s, negative before traffic. It is 0 while run time 0
	// has not been chosen, which Begun tells.
	T        float64
	Begun    bool
	Duration float64 // s, planned

	Nodes   map[string]NodeProgress
	Traffic map[string]TrafficProgress
	// Hosts are counters of the hosts' own network stacks that bear witness
	// against another cause than the table, by host; only those that moved.
	Hosts  map[string]map[string]uint64
	Steps  []Step  // of setting up, of stopping or of putting back: those of the present phase
	Events []Event // the newest keepEvents, oldest first

	prevNet map[string]map[string]uint64

	// Sums over the traffics that expect an answer. Due and NotStarted are
	// over all.
	Due, OK, Failed uint64
	// NotStarted is what the generator could not begin.
	NotStarted uint64
}

// TrafficProgress is one traffic's counts.
type TrafficProgress struct {
	OneWay                 bool // nobody answers: OK means sent
	Due, Started, Late     uint64
	OK, Failed, NotStarted uint64
	Interrupted            uint64
	Outcomes               map[runlog.Outcome]uint64 // of the failed ones
	NotStartedFor          map[runlog.NotStartedReason]uint64
	Last                   Rates // newest second that is complete
	// Held connections: open, of those answering, and those lost so far.
	Held, Validated, Lost uint64
	byNode                map[string]runlog.Held // newest, by the node they entered by
	seconds               map[int]Rates
}

// InFlight is how many attempts have begun and not ended.
func (t TrafficProgress) InFlight() uint64 {
	ended := t.OK + t.Failed + t.Interrupted
	return max(t.Started, ended) - ended
}

// Rates counts what was due in one second, and what was reported to have
// ended, or not to have started, in it.
type Rates struct{ Due, OK, Failed, NotStarted uint64 }

// NodeProgress is one node's newest sample.
type NodeProgress struct {
	Entries, Limit  uint64
	Peak            uint64            // since run time 0
	Drop, EarlyDrop uint64            // since run time 0
	Moved           map[string]uint64 // all counters that moved since run time 0
	Recent          []Second          // the newest keepSeconds, oldest first; a second without sample is left out
	prev            map[string]uint64
}

// Second is the most entries seen in [At, At+1) s of run time.
type Second struct {
	At      int
	Entries uint64
}

// Step is something being done, or done, to the machine.
type Step struct {
	Name string
	Done bool
	Err  string // why it failed; empty is no failure
	// Took is how long it lasted, or has lasted so far, s.
	Took  float64
	began int64
}

// Event is something that happened.
type Event struct {
	T                        float64 // s of run time
	Host, Kind, Name, Detail string
}

const (
	keepEvents  = 50
	keepSeconds = 60
	// reportLag is how long after the end of a second its counts are taken to
	// be here, s: agents send every 100 ms.
	reportLag = 0.3
)

// witnesses are the counters of Progress.Hosts.
var witnesses = []string{
	"TcpExt.ListenOverflows", "TcpExt.ListenDrops", "TcpExt.TCPReqQFullDrop", "TcpExt.TCPBacklogDrop",
	"Udp.NoPorts", "Udp.RcvbufErrors", "Udp6NoPorts", "Udp6RcvbufErrors",
}

// add takes a record whose time is run time.
func (p *Progress) add(r runlog.Record) {
	switch {
	case r.Header != nil:
		p.header(r.Header)
	case r.Bin != nil:
		p.bin(r.T, r.Bin)
	case r.Held != nil:
		t := p.Traffic[r.Held.Traffic]
		was := t.byNode[r.Held.Node]
		// Unsigned numbers wrap, and come out right.
		t.Held, t.Validated, t.Lost = t.Held+r.Held.Open-was.Open, t.Validated+r.Held.Validated-was.Validated, t.Lost+r.Held.Lost-was.Lost
		if t.byNode == nil {
			t.byNode = map[string]runlog.Held{}
		}
		t.byNode[r.Held.Node] = *r.Held
		p.setTraffic(r.Held.Traffic, t)
	case r.Sample != nil:
		if r.Sample.Conntrack != nil {
			p.sample(r.Host, r.T, r.Sample.Conntrack)
		}
		p.net(r.Host, r.T, r.Sample.Net)
	case r.Event != nil:
		p.event(Event{T: r.T, Host: r.Host, Kind: r.Event.Kind, Name: r.Event.Name, Detail: r.Event.Detail})
	}
}

func (p *Progress) header(h *runlog.Header) {
	for _, t := range h.Traffic {
		p.setTraffic(t.Name, TrafficProgress{OneWay: !t.ExpectsAnswer})
	}
}

func (p *Progress) setTraffic(name string, t TrafficProgress) {
	if p.Traffic == nil {
		p.Traffic = map[string]TrafficProgress{}
	}
	p.Traffic[name] = t
}

func (p *Progress) bin(at float64, b *runlog.Bin) {
	t := p.Traffic[b.Traffic]
	if t.seconds == nil {
		t.seconds, t.Outcomes, t.NotStartedFor = map[int]Rates{}, map[runlog.Outcome]uint64{}, map[runlog.NotStartedReason]uint64{}
	}
	t.Due += b.Due
	t.Started += b.Started
	t.Late += b.Late
	var now Rates
	for o, n := range b.Outcomes {
		switch o {
		case runlog.OK:
			now.OK += n
		case runlog.Interrupted:
			t.Interrupted += n
		default:
			now.Failed += n
			t.Outcomes[o] += n
		}
	}
	for why, n := range b.NotStarted {
		now.NotStarted += n
		t.NotStartedFor[why] += n
	}
	t.OK, t.Failed, t.NotStarted = t.OK+now.OK, t.Failed+now.Failed, t.NotStarted+now.NotStarted
	// What was due belongs to when it was due; the rest to when it was told.
	due, told := second(b.Start), second(at)
	was := t.seconds[told]
	was.OK, was.Failed, was.NotStarted = was.OK+now.OK, was.Failed+now.Failed, was.NotStarted+now.NotStarted
	t.seconds[told] = was
	was = t.seconds[due]
	was.Due += b.Due
	t.seconds[due] = was
	for s := range t.seconds {
		if s < told-keepRates {
			delete(t.seconds, s)
		}
	}
	p.setTraffic(b.Traffic, t)
	p.Due += b.Due
	p.NotStarted += now.NotStarted
	if !t.OneWay {
		p.OK += now.OK
		p.Failed += now.Failed
	}
}

// keepRates is how many seconds are kept until the newest complete one is
// asked for.
const keepRates = 5

func second(t float64) int { return int(math.Floor(t)) }

func (p *Progress) sample(host string, at float64, ct *runlog.Conntrack) {
	if p.Nodes == nil {
		p.Nodes = map[string]NodeProgress{}
	}
	n := p.Nodes[host]
	if n.Moved == nil {
		n.Moved = map[string]uint64{}
	}
	n.Entries, n.Limit = ct.Entries, ct.Limit
	if at > 0 { // set-up, which fills the table, is not the run
		n.Peak = max(n.Peak, ct.Entries)
		gained(n.Moved, n.prev, ct.Counters)
	}
	if n.prev == nil {
		n.prev = map[string]uint64{}
	}
	maps.Copy(n.prev, ct.Counters) // what is not in a sample has not changed
	n.Drop, n.EarlyDrop = n.Moved["drop"], n.Moved["early_drop"]
	if s, k := second(at), len(n.Recent)-1; k >= 0 && n.Recent[k].At == s {
		n.Recent[k].Entries = max(n.Recent[k].Entries, ct.Entries)
	} else if k < 0 || s > n.Recent[k].At {
		n.Recent = append(n.Recent, Second{s, ct.Entries})
		if len(n.Recent) > keepSeconds {
			n.Recent = slices.Delete(n.Recent, 0, len(n.Recent)-keepSeconds)
		}
	}
	p.Nodes[host] = n
}

// gained adds to sum what the counters gained from was to is. One that fell
// has no increase that could be known.
func gained(sum, was, is map[string]uint64) {
	for name, v := range is {
		if before, seen := was[name]; seen && v > before {
			sum[name] += v - before
		}
	}
}

func (p *Progress) net(host string, at float64, counters map[string]uint64) {
	if p.prevNet == nil {
		p.prevNet, p.Hosts = map[string]map[string]uint64{}, map[string]map[string]uint64{}
	}
	is := make(map[string]uint64, len(witnesses))
	for _, name := range witnesses {
		if v, ok := counters[name]; ok {
			is[name] = v
		}
	}
	if at > 0 {
		sum := p.Hosts[host]
		if sum == nil {
			sum = map[string]uint64{}
		}
		gained(sum, p.prevNet[host], is)
		if len(sum) > 0 {
			p.Hosts[host] = sum
		}
	}
	if p.prevNet[host] == nil {
		p.prevNet[host] = map[string]uint64{}
	}
	maps.Copy(p.prevNet[host], is) // what is not in a sample has not changed
}

func (p *Progress) event(e Event) {
	if e.Kind == "job" {
		return // every load, sampler and look-up has one
	}
	p.Events = append(p.Events, e)
	if len(p.Events) > keepEvents {
		p.Events = slices.Delete(p.Events, 0, len(p.Events)-keepEvents)
	}
}

// snapshot is a copy that shares nothing with p.
func (p *Progress) snapshot() Progress {
	out := *p
	out.prevNet = nil
	out.Nodes = maps.Clone(p.Nodes)
	for name, n := range out.Nodes {
		n.Moved, n.Recent, n.prev = maps.Clone(n.Moved), slices.Clone(n.Recent), nil
		out.Nodes[name] = n
	}
	out.Traffic = maps.Clone(p.Traffic)
	for name, t := range out.Traffic {
		t.Last = t.seconds[second(p.T-reportLag)-1]
		t.Outcomes, t.NotStartedFor, t.seconds, t.byNode = maps.Clone(t.Outcomes), maps.Clone(t.NotStartedFor), nil, nil
		out.Traffic[name] = t
	}
	out.Hosts = maps.Clone(p.Hosts)
	for name, h := range out.Hosts {
		out.Hosts[name] = maps.Clone(h)
	}
	out.Steps, out.Events = slices.Clone(p.Steps), slices.Clone(p.Events)
	for i := range out.Steps {
		if s := &out.Steps[i]; !s.Done {
			s.Took = since(s.began)
		}
	}
	return out
}

func since(ns int64) float64 { return time.Duration(monotonic() - ns).Seconds() }

package watch

import (
	"cmp"
	"maps"
	"slices"

	"github.com/tablefull/tablefull/report/runlog"
)

// Table is one table at one moment. Counts are entries, times s.
type Table struct {
	Node string `json:"node"`
	// Time is when the newest sample was taken, RFC 3339; At is how long after
	// the watch began that was.
	Time string  `json:"time"`
	At   float64 `json:"t"`

	Entries uint64 `json:"entries"`
	Limit   uint64 `json:"limit"` // nf_conntrack_max; 0 is none
	// Growth is null for the first seconds.
	Growth *Growth `json:"growth"`
	Full   Full    `json:"full"`
	// Counters are the kernel's counters that moved since the watch began, by
	// its names; PerS is how fast they did in the last 5 s.
	Counters map[string]uint64  `json:"counters"`
	PerS     map[string]float64 `json:"counters_per_s"`

	Census  *Census `json:"census"`            // newest whole walk; null before the first
	Failed  string  `json:"failed,omitempty"`  // why a later walk failed
	Buckets uint64  `json:"buckets,omitempty"` // of the machine's hash table
	Cost    Cost    `json:"cost"`

	// Named says that lines for people have the node's name: there are several.
	Named bool `json:"-"`
	// Recent is the entries of the last minute, one a second, oldest first.
	Recent []Second `json:"-"`
}

// Second is the most entries seen in [At, At+1) s.
type Second struct {
	At      int
	Entries uint64
}

// Cost is what watching has cost the watched machine since it began.
type Cost struct {
	CPU   float64 `json:"cpu_s"`     // CPU time of the watching process
	Share float64 `json:"cpu_share"` // of one CPU
	Lost  uint64  `json:"lost"`      // samples that were not taken in time
}

// Census is what a walk over the table found. Ballast, which is the tool's own
// filling, is left out of all but Ballast itself.
type Census struct {
	Age  float64 `json:"age_s"` // how long ago the middle of the walk was
	Took float64 `json:"took_s"`
	CPU  float64 `json:"cpu_s"`
	// Entries is what the walk met. It is no snapshot: what came or went
	// meanwhile may be in it or not.
	Entries  uint64              `json:"entries"`
	Ballast  uint64              `json:"ballast"`
	States   []State             `json:"states"`   // most entries first
	Sources  []runlog.TopSource  `json:"sources"`  // most entries first: from count - error to count
	Services []runlog.TopService `json:"services"` // destinations before NAT, as well
	// Turnover is null for the first walk.
	Turnover *runlog.Turnover `json:"turnover"`
}

// State counts the entries of a protocol in a state of TCP.
type State struct {
	Proto     string `json:"proto"`
	State     string `json:"state,omitempty"`
	Entries   uint64 `json:"entries"`
	Assured   uint64 `json:"assured"`   // of them: will not be dropped early
	Unreplied uint64 `json:"unreplied"` // of them: no answer was seen
}

// Watch adds up the records of one table's samplers. Its zero value is not
// ready: see New. It is for one goroutine.
type Watch struct {
	every   float64
	table   Table
	samples []point // of the last span, oldest first
	last    map[string]uint64
	moved   []moved // of the last perSOver, oldest first
	began   float64 // At of the first sample
	selfWas float64
	self    bool // selfWas is known
	walked  float64
	ballast uint64
}

type moved struct {
	at  float64
	sum map[string]uint64
}

// perSOver is over how many s the rates of counters are taken.
const perSOver = 5

// keepSeconds is how much Recent holds.
const keepSeconds = 60

// New is a Watch over a table that is sampled every so many s, on a node of
// that name.
func New(node string, every float64, buckets uint64) *Watch {
	return &Watch{every: every, table: Table{
		Node: node, Buckets: buckets, Full: Full{When: Unknown}, Counters: map[string]uint64{}, PerS: map[string]float64{},
	}}
}

// Add takes a record. Records come in the order of their time.
func (w *Watch) Add(r *runlog.Record) {
	switch {
	case r.Sample != nil:
		if r.Sample.CPU != nil {
			w.cost(r.T, r.Sample.CPU.Self)
		}
		if r.Sample.Conntrack != nil {
			w.sample(r.T, r.Sample.Conntrack)
		}
	case r.Census != nil:
		w.census(r.T, r.Census)
	case r.Loss != nil:
		w.table.Cost.Lost += r.Loss.Count
	}
}

// cost is by the CPU time that the process has used. It had used some before
// the first sample, which is its start and not the watching.
func (w *Watch) cost(at, self float64) {
	if !w.self {
		w.self, w.selfWas = true, self
		return
	}
	w.table.Cost.CPU = self - w.selfWas
}

func (w *Watch) sample(at float64, ct *runlog.Conntrack) {
	t := &w.table
	if w.last == nil {
		w.began, w.last = at, map[string]uint64{}
	}
	for name, v := range ct.Counters { // what is not in a sample has not changed
		if was, seen := w.last[name]; seen && v > was {
			t.Counters[name] += v - was
		}
		w.last[name] = v
	}
	t.At, t.Entries, t.Limit = at, ct.Entries, ct.Limit
	if at > w.began {
		t.Cost.Share = t.Cost.CPU / (at - w.began)
	}
	w.rates(at)
	w.recent(at, ct.Entries)
	w.samples = append(w.samples, point{at, float64(ct.Entries)})
	from := at - span(w.every) - 2*w.every
	drop := 0
	for drop < len(w.samples)-1 && w.samples[drop+1].at < from {
		drop++
	}
	w.samples = slices.Delete(w.samples, 0, drop)
}

func (w *Watch) rates(at float64) {
	t := &w.table
	w.moved = append(w.moved, moved{at, maps.Clone(t.Counters)})
	for len(w.moved) > 2 && w.moved[1].at <= at-perSOver {
		w.moved = slices.Delete(w.moved, 0, 1)
	}
	t.PerS = map[string]float64{}
	was := w.moved[0]
	for name, n := range t.Counters {
		if d := n - was.sum[name]; d > 0 {
			t.PerS[name] = float64(d) / (at - was.at)
		}
	}
}

func (w *Watch) recent(at float64, entries uint64) {
	t := &w.table
	s := int(at)
	if k := len(t.Recent) - 1; k >= 0 && t.Recent[k].At == s {
		t.Recent[k].Entries = max(t.Recent[k].Entries, entries)
		return
	}
	t.Recent = append(t.Recent, Second{s, entries})
	if k := len(t.Recent) - keepSeconds; k > 0 {
		t.Recent = slices.Delete(t.Recent, 0, k)
	}
}

func (w *Watch) census(at float64, c *runlog.Census) {
	if c.Failed != "" {
		w.table.Failed = c.Failed
		return // a part of the table is not the table
	}
	if !c.WithoutBallast {
		w.ballast = c.Ballast
	}
	w.table.Failed, w.walked = "", at
	out := &Census{
		Took: c.Took, CPU: c.CPU, Entries: c.Entries - c.Ballast, Ballast: w.ballast, States: states(c),
		Sources: c.Sources, Services: c.Services, Turnover: c.Turnover,
	}
	if out.Sources == nil {
		out.Sources = []runlog.TopSource{}
	}
	if out.Services == nil {
		out.Services = []runlog.TopService{}
	}
	w.table.Census = out
}

// states adds up the groups, or takes the exact counts where there are more
// groups than were counted.
func states(c *runlog.Census) []State {
	counts := c.States
	if c.Other == 0 {
		for i := range c.Groups {
			g := &c.Groups[i]
			counts = append(counts, runlog.StateCount{Proto: g.Proto, State: g.State, Assured: g.Assured, Replied: g.Replied, Count: g.Count})
		}
	}
	where := map[[2]string]int{}
	out := []State{}
	for _, n := range counts {
		k := [2]string{n.Proto, n.State}
		i, ok := where[k]
		if !ok {
			i = len(out)
			where[k] = i
			out = append(out, State{Proto: n.Proto, State: n.State})
		}
		out[i].Entries += n.Count
		if n.Assured {
			out[i].Assured += n.Count
		}
		if !n.Replied {
			out[i].Unreplied += n.Count
		}
	}
	slices.SortStableFunc(out, func(a, b State) int { return cmp.Compare(b.Entries, a.Entries) })
	return out
}

// Sampled says whether there has been a sample.
func (w *Watch) Sampled() bool { return len(w.samples) > 0 }

// Table is what is known now. It shares nothing with w that will change.
func (w *Watch) Table() Table {
	t := w.table
	t.Growth = growth(w.samples, w.every)
	t.Full = full(t.Entries, t.Limit, t.Growth)
	t.Counters, t.Recent = maps.Clone(t.Counters), slices.Clone(t.Recent)
	if t.Census != nil {
		c := *t.Census
		c.Age = max(t.At-w.walked, 0)
		t.Census = &c
	}
	return t
}

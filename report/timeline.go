package report

import (
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// axis is the steps of the series of attempts.
type axis struct {
	start, step float64 // s of run time; start is a multiple of step
	n           int
	node        float64 // length of a step of the nodes' series, s
}

// index is the step in which t is.
func (x axis) index(t float64) int {
	return max(0, min(x.n-1, int(math.Floor((t-x.start)/x.step+slop))))
}

// axis spans everything that was due, from 0 on at the latest, and all samples.
func (l *log) axis() axis {
	from, to, width := 0.0, 0.0, 0.0
	for _, t := range l.order {
		for k := range t.bins.all() {
			from, to = min(from, t.start(k)), max(to, t.start(k)+t.width)
		}
		width = max(width, t.width)
	}
	for _, n := range l.nodeList {
		if n.last != nil {
			to = max(to, n.last.t)
		}
	}
	x := axis{node: stepFor(to-from, 0)}
	// A second is what rates are read in, so finer steps show only noise, and
	// those of a run of seconds that are finer than a bin nothing at all. They
	// divide a second, so that a load which ends on one does not seem to fade.
	x.step = max(x.node, stepAbove(min(1, (to-from)/70)))
	if width > 0 {
		x.step = round(math.Ceil(x.step/width-slop) * width)
	}
	x.start = round(math.Floor(from/x.step+slop) * x.step)
	x.n = max(0, int(math.Ceil((to-x.start)/x.step-slop)))
	return x
}

// timeline thins the run out for plotting: counts are summed, gauges keep
// their highest value, so that no peak and no drop is thinned away.
func (l *log) timeline(f *Findings, a *attribution, first *node) Timeline {
	t := Timeline{
		StepS: a.axis.node, Events: append([]Event{}, l.events...), OtherEvents: l.otherEvents,
		Load: l.load(a.axis), Causes: []CauseSeries{}, Latency: []LatencySeries{}, Held: []HeldSeries{}, Nodes: []NodeSeries{},
	}
	for _, c := range f.Causes {
		t.Causes = append(t.Causes, CauseSeries{Cause: c.Cause, PerS: a.perSecond(c.Cause)})
	}
	for _, tr := range l.order {
		if len(tr.took.keys) > 0 {
			t.Latency = append(t.Latency, tr.latencies())
		}
		if len(tr.holding.keys) > 0 {
			t.Held = append(t.Held, tr.heldSeries(a.axis.node))
		}
	}
	for _, n := range l.nodeList {
		t.Nodes = append(t.Nodes, n.series(a.axis.node))
	}
	if first != nil {
		t.ByLoad = l.byLoad(t.Load, a.axis, first)
	}
	if l.trailer == nil {
		t = l.cutOff(t)
	}
	return t
}

func (l *log) load(x axis) LoadSeries {
	s := LoadSeries{
		StepS: x.step, T: make([]float64, x.n), Offered: make([]float64, x.n), OK: make([]float64, x.n), Failed: make([]float64, x.n),
		Started: make([]float64, x.n), Late: make([]float64, x.n), NotStarted: make([]float64, x.n),
	}
	for _, tr := range l.order {
		for k, b := range tr.bins.all() {
			if x.n == 0 {
				break
			}
			i := x.index(tr.start(k))
			s.Offered[i] += float64(b.due)
			s.Failed[i] += float64(b.failed())
			s.Started[i] += float64(b.started)
			s.Late[i] += float64(b.late)
			if !tr.oneWay() {
				s.OK[i] += float64(b.ok)
			}
			if b.bad != nil {
				s.NotStarted[i] += float64(b.bad.notStarted)
			}
		}
	}
	for i := range x.n {
		s.T[i] = round(x.start + float64(i)*x.step)
	}
	for _, series := range [][]float64{s.Offered, s.OK, s.Failed, s.Started, s.Late, s.NotStarted} {
		for i := range series {
			series[i] = round(series[i] / x.step)
		}
	}
	return s
}

// steps is the cause's failures by the step they were due in. Of attempts that
// got no answer while a full table both dropped and evicted, it is known how
// many a drop explains, and not which: drops are matched with the earliest, so
// those that are left, and had been evicted, come last. They are spread over the
// steps without a break in which others were dropped, as all of these failures are.
func (a *attribution) steps(cause string) map[int]float64 {
	out := map[int]float64{}
	t := a.cause(cause)
	if t == nil {
		return out
	}
	for i, n := range t.steps {
		out[i] = float64(n)
	}
	full, gone := a.cause(tableFull), a.cause(evicted)
	if full == nil || gone == nil || gone.later > 0 || cause != tableFull && cause != evicted {
		return out
	}
	for last, n := range gone.steps {
		first := last
		for full.steps[first-1] > 0 {
			first--
		}
		var all uint64
		for i := first; i <= last; i++ {
			all += full.steps[i] + gone.steps[i]
		}
		// What leaves one cause comes to the other.
		sign := 1.0
		if cause == tableFull {
			sign = -1
		}
		for i := first; i <= last; i++ {
			out[i] += sign * float64(n) * float64(full.steps[i]+gone.steps[i]) / float64(all)
		}
		out[last] -= sign * float64(n)
	}
	return out
}

// perSecond is the cause's failures by when they were due. Those of bins at
// impossible times are in none.
func (a *attribution) perSecond(cause string) []float64 {
	out := make([]float64, a.axis.n)
	for i, n := range a.steps(cause) {
		out[i] += n
	}
	for g, name := range generatorCauses {
		if name != cause {
			continue
		}
		for _, tr := range a.l.order {
			for k, b := range tr.bins.all() {
				if b.bad != nil && b.bad.refused[g] > 0 {
					out[a.axis.index(tr.start(k))] += float64(b.bad.refused[g])
				}
			}
		}
	}
	for i := range out {
		out[i] = round(out[i] / a.axis.step)
	}
	return out
}

// round takes off the noise of sums of floats.
func round(v float64) float64 { return math.Round(v*1e6) / 1e6 }

// mergeTimes adds up histograms. What does not fit, because the counts
// overflow, is missing in the sum of all as well, which is said there.
func mergeTimes(into **hdrhistogram.PackedHistogram, later *hdrhistogram.PackedHistogram) {
	if later.HighestTrackableValue() > (*into).HighestTrackableValue() {
		*into, later = later.Clone(), *into
	}
	(*into).Merge(later)
}

// latencies are the traffic's quantiles, in steps of at least 1 s because they
// are recorded by the second.
func (t *traffic) latencies() LatencySeries {
	first, last := t.took.keys[0], t.took.keys[len(t.took.keys)-1]
	step := stepFor(float64(last-first+1)*t.took.step(), max(t.took.step(), t.tookWidth))
	g := t.took.thinned(step, t.took.step(), (*hdrhistogram.PackedHistogram).Clone)
	s := LatencySeries{Traffic: t.info.Name, StepS: step, T: []float64{}, P50Ms: []*float64{}, P90Ms: []*float64{}, P99Ms: []*float64{}, MaxMs: []*float64{}}
	for i, k := range g.keys {
		for empty := g.keys[max(0, i-1)] + 1; empty < k; empty++ {
			s.put(float64(empty)*step, nil)
		}
		s.put(float64(k)*step, g.cells[i])
	}
	return s
}

// put appends a step; h is nil where nothing succeeded.
func (s *LatencySeries) put(t float64, h *hdrhistogram.PackedHistogram) {
	ms := [4]*float64{}
	if h != nil && h.TotalCount() > 0 {
		for i, us := range append(h.ValueAtPercentilesSlice([]float64{50, 90, 99}), h.Max()) {
			ms[i] = finite(float64(us) / 1000)
		}
	}
	s.T = append(s.T, round(t))
	s.P50Ms, s.P90Ms = append(s.P50Ms, ms[0]), append(s.P90Ms, ms[1])
	s.P99Ms, s.MaxMs = append(s.P99Ms, ms[2]), append(s.MaxMs, ms[3])
}

type heldCell struct {
	t               float64 // of the first
	open, validated uint64
}

func mergeHeld(into *heldCell, later heldCell) {
	into.t = min(into.t, later.t)
	into.open, into.validated = max(into.open, later.open), max(into.validated, later.validated)
}

func (t *traffic) heldSeries(step float64) HeldSeries {
	s := HeldSeries{Traffic: t.info.Name, T: []float64{}, Open: []uint64{}, Validated: []uint64{}}
	step = max(step, t.holding.step())
	for _, c := range t.holding.thinned(step, t.holding.step(), nil).cells {
		s.T, s.Open, s.Validated = append(s.T, round(c.t)), append(s.Open, c.open), append(s.Validated, c.validated)
	}
	return s
}

const (
	// steadyRate is how many times the lowest rate the highest is before the
	// run says anything about other rates.
	steadyRate = 1.3
	// smoothing is over how many steps rates are averaged, at least, for that.
	smoothing = 5
)

// byLoad sets entries and loss beside the offered rate, nil where that does
// not vary by more than the noise of few arrivals.
func (l *log) byLoad(s LoadSeries, x axis, n *node) []LoadPoint {
	if !varies(s) {
		return nil
	}
	entries, measured := make([]uint64, x.n), make([]bool, x.n)
	for i, k := range n.table.keys {
		j := x.index(float64(k) * n.table.step())
		entries[j], measured[j] = max(entries[j], n.table.cells[i].entries), true
	}
	failed, due := make([]float64, x.n), make([]float64, x.n)
	for _, tr := range l.order {
		if tr.oneWay() {
			continue
		}
		for k, b := range tr.bins.all() {
			i := x.index(tr.start(k))
			failed[i] += float64(b.failed())
			due[i] += float64(b.due)
		}
	}
	var out []LoadPoint
	for i, t := range s.T {
		if s.Offered[i] == 0 || !measured[i] {
			continue
		}
		p := LoadPoint{AtS: t, OfferedPerS: s.Offered[i], Entries: entries[i]}
		if due[i] > 0 {
			p.Loss = round(min(1, failed[i]/due[i]))
		}
		out = append(out, p)
	}
	return out
}

// varies says whether the offered rate does. A step at the edge of a pause is
// covered in part only and not looked at.
func varies(s LoadSeries) bool {
	var due []float64
	for i := 1; i+1 < len(s.Offered); i++ {
		if s.Offered[i-1] > 0 && s.Offered[i] > 0 && s.Offered[i+1] > 0 {
			due = append(due, s.Offered[i]*s.StepS)
		}
	}
	window := max(smoothing, len(due)/20)
	if len(due) < window {
		return false
	}
	lo, hi, sum := math.Inf(1), 0.0, 0.0
	for i, n := range due {
		if sum += n; i >= window {
			sum -= due[i-window]
		}
		if i >= window-1 {
			lo, hi = min(lo, sum), max(hi, sum)
		}
	}
	return hi > steadyRate*lo && hi-lo > 4*math.Sqrt(hi)
}

package report

import (
	"math"
)

// maxSteps is how many steps a plotted series has at most.
const maxSteps = 600

// timeline thins the run out for plotting. Counts are summed and entries are
// maxima, so that no peak and no drop is thinned away.
func (l *log) timeline() Timeline {
	t := Timeline{Events: l.events, OtherEvents: l.otherEvents, Nodes: []NodeSeries{}}
	if t.Events == nil {
		t.Events = []Event{}
	}
	start, end := 0.0, 0.0
	for _, tr := range l.order {
		c := tr.due()
		if len(c.start) > 0 {
			start, end = min(start, c.start[0]), max(end, c.start[len(c.start)-1]+c.width)
		}
	}
	for _, n := range l.nodeList {
		if n.last != nil {
			end = max(end, n.last.t)
		}
	}
	step := stepFor(end - start)
	t.Load = l.load(start, end, step)
	for _, n := range l.nodeList {
		t.Nodes = append(t.Nodes, n.series(step))
	}
	return t
}

// stepFor is the smallest of 1, 2 and 5 times a power of ten, from 0.1 s on,
// that makes at most maxSteps.
func stepFor(length float64) float64 {
	for decade := 0.1; ; decade *= 10 {
		for _, m := range []float64{1, 2, 5} {
			if length <= decade*m*maxSteps {
				return decade * m
			}
		}
	}
}

func (l *log) load(start, end, step float64) LoadSeries {
	// A second is what rates are read in, so finer steps show only noise.
	step = max(step, min(1, max(0.1, math.Ceil((end-start)*10/60)/10)))
	s := LoadSeries{StepS: step, T: []float64{}, Offered: []float64{}, OK: []float64{}, Failed: []float64{}}
	n := int(math.Ceil((end-start)/step - slop))
	if n <= 0 || n > 10*maxSteps {
		return s
	}
	for i := range n {
		s.T = append(s.T, round(start+float64(i)*step))
	}
	s.Offered, s.OK, s.Failed = make([]float64, n), make([]float64, n), make([]float64, n)
	for _, tr := range l.order {
		for k, b := range tr.bins {
			i := int(math.Floor((tr.start(k)-start)/step + slop))
			if i < 0 || i >= n {
				continue
			}
			s.Offered[i] += float64(b.due) / step
			s.Failed[i] += float64(b.failed()) / step
			if !tr.oneWay() {
				s.OK[i] += float64(b.ok) / step
			}
		}
	}
	for i := range n {
		s.Offered[i], s.OK[i], s.Failed[i] = round(s.Offered[i]), round(s.OK[i]), round(s.Failed[i])
	}
	return s
}

// round takes off the noise of sums of floats.
func round(v float64) float64 { return math.Round(v*1e6) / 1e6 }

func (n *node) series(step float64) NodeSeries {
	s := NodeSeries{Name: n.name, T: []float64{}, Entries: []uint64{}, Limit: []uint64{}, Counters: map[string][]uint64{}}
	if n.atStart == nil {
		return s
	}
	put := func(x tableSample) {
		// Steps are told apart by the floor of t: samples jitter.
		if i := len(s.T) - 1; i >= 0 && math.Floor(s.T[i]/step+slop) == math.Floor(x.t/step+slop) {
			s.Entries[i] = max(s.Entries[i], x.entries)
			s.Limit[i] = x.limit
			return
		}
		s.T = append(s.T, round(x.t))
		s.Entries = append(s.Entries, x.entries)
		s.Limit = append(s.Limit, x.limit)
	}
	put(*n.atStart)
	for _, iv := range n.intervals {
		put(iv.b)
	}
	return s
}

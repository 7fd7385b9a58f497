package report

import (
	"cmp"
	"math"
	"slices"

	"github.com/tablefull/tablefull/report/runlog"
)

const (
	// calm is how long, in s, no more attempts may fail than before the action
	// for it to count as recovered.
	calm = 2.0
	// leadUp is how much of the time before an action shows what failed anyway.
	leadUp = 10.0
)

// failing is attempts and failures of all traffics by due time.
type failing struct {
	width  float64
	first  int64 // bin
	due    []float64
	failed []float64
}

// failing adds all bins up on one grid as wide as the widest.
func (l *log) failing() failing {
	f := failing{}
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, t := range l.order {
		f.width = max(f.width, t.width)
		for k := range t.bins.all() {
			lo, hi = min(lo, t.start(k)), max(hi, t.start(k)+t.width)
		}
	}
	if f.width == 0 || hi <= lo || (hi-lo)/f.width > 1e8 {
		return failing{}
	}
	f.first = int64(math.Floor(lo/f.width + slop))
	n := int64(math.Ceil(hi/f.width-slop)) - f.first
	f.due, f.failed = make([]float64, n), make([]float64, n)
	for _, t := range l.order {
		for k, b := range t.bins.all() {
			if i := int64(math.Floor(t.start(k)/f.width+slop)) - f.first; i >= 0 && i < n {
				f.due[i] += float64(b.due)
				f.failed[i] += float64(b.failed())
			}
		}
	}
	return f
}

// bin is the index of the bin in which t is, within bounds.
func (f failing) bin(t float64) int {
	if math.IsInf(t, 1) {
		return len(f.due)
	}
	return int(max(0, min(int64(len(f.due)), int64(math.Floor(t/f.width+slop))-f.first)))
}

func (f failing) start(i int) float64 { return round(float64(f.first+int64(i)) * f.width) }

// rate is the failures per s between two times.
func (f failing) rate(a, b float64) float64 {
	i, j := f.bin(a), f.bin(b)
	if j <= i {
		return 0
	}
	var n float64
	for _, v := range f.failed[i:j] {
		n += v
	}
	return n / (float64(j-i) * f.width)
}

// spikes says what each action did to the traffic. What failed from its begin
// on, up to where it is calm again, the next action, or the end, is put down to
// the time of the action; that it is its doing is for the causes to say.
func (l *log) spikes(a *attribution) []Spike {
	out := []Spike{}
	f := l.failing()
	acts := slices.Clone(l.cluster.acts)
	slices.SortStableFunc(acts, func(x, y *act) int { return cmp.Compare(x.begin, y.begin) })
	for i, x := range acts {
		until := math.Inf(1)
		if i+1 < len(acts) {
			until = acts[i+1].begin
		}
		from := x.begin - leadUp
		if i > 0 && !math.IsNaN(acts[i-1].end) {
			from = max(from, min(acts[i-1].end, x.begin-calm))
		}
		s := Spike{
			Action: x.name, Kind: x.kind, Number: x.number, BeginS: x.begin, DoneS: finite(x.end), Error: x.failed,
			Steps: map[string]uint64{}, Causes: []Cause{},
		}
		if len(f.due) > 0 {
			s.Before = f.rate(max(from, 0), x.begin)
			f.measure(&s, x, until)
		}
		x.times(&s)
		if s.StartS != nil {
			s.Causes = a.between(*s.StartS, *s.EndS)
		}
		out = append(out, s)
	}
	return out
}

// measure finds the stretch in which more failed than before the action.
func (f failing) measure(s *Spike, x *act, until float64) {
	perBin := s.Before * f.width
	quiet, done := 0, x.end
	if math.IsNaN(done) {
		done = math.Inf(1)
	}
	need := int(math.Ceil(calm / f.width))
	var total, anyway float64
	last := -1
	first := -1
	end := f.bin(until)
	for i := f.bin(x.begin); i < end; i++ {
		if n := f.failed[i]; n > perBin+3*math.Sqrt(perBin) {
			if first < 0 {
				first = i
			}
			last, quiet = i, 0
			if f.due[i] > 0 {
				s.PeakErrorRatio = max(s.PeakErrorRatio, min(1, n/f.due[i]))
			}
			continue
		}
		if f.due[i] > 0 {
			quiet++ // where nothing is due nothing can be seen to have recovered
		}
		// An action that goes on may yet do something.
		if quiet >= need && f.start(i) >= done {
			s.Recovered = true
			break
		}
	}
	if first < 0 {
		return
	}
	for i := first; i <= last; i++ {
		total += f.failed[i]
		anyway += perBin
	}
	a, b := f.start(first), f.start(last+1)
	s.StartS, s.EndS = &a, &b
	s.Failures = uint64(max(0, math.Round(total-anyway)))
}

// times are the latencies around the action.
func (x *act) times(s *Spike) {
	h := x.latency
	s.P99Ms, s.MaxMs = quantileMs(h, 99), quantileMs(h, 100)
	if h == nil {
		return
	}
	for _, step := range []struct {
		name string
		us   int64
	}{{"1s", 1_000_000}, {"3s", 3_000_000}, {"5s", 5_000_000}} {
		var n uint64
		for _, b := range h.Distribution() {
			// A retransmission timer is a little late, and the answer takes its time.
			if b.From >= step.us*98/100 && b.To <= step.us*115/100 {
				n += uint64(b.Count)
			}
		}
		if n > 0 {
			s.Steps[step.name] = n
		}
	}
}

// between is the causes of attempts due in [from, to), as far as the steps of
// the axis tell them apart.
func (a *attribution) between(from, to float64) []Cause {
	out := []Cause{}
	var all float64
	i, j := a.axis.index(from), a.axis.index(to-a.axis.step/1000)
	for _, c := range a.causes() {
		t := a.tallies[c.Cause]
		if t == nil {
			continue
		}
		var n uint64
		for k, v := range t.steps {
			if k >= i && k <= j {
				n += v
			}
		}
		if n > 0 {
			c.Failures, c.ShareOf = n, "failed"
			out = append(out, c)
			all += float64(n)
		}
	}
	for k := range out {
		out[k].Share = float64(out[k].Failures) / all
	}
	slices.SortStableFunc(out, func(x, y Cause) int { return cmp.Compare(y.Failures, x.Failures) })
	return out
}

// drainPart is what a pod accepted while it was terminating, as far as whole
// Served records tell.
type drainPart struct {
	last     float64 // of its last Served record
	seen     bool
	from, to float64
	accepted float64
	gone     uint64 // served after its endpoint was removed
	known    bool   // whether its endpoint was ever seen
}

// addDrain notes what a Served record says of a pod that is terminating, or
// whose endpoint is gone.
func (l *log) addDrain(r *runlog.Record) {
	s := r.Served
	svc := l.cluster.services[s.Service]
	if svc == nil {
		return
	}
	p := l.drains[s.Backend]
	if p == nil {
		p = &drainPart{from: math.Inf(1)}
		if l.drains == nil {
			l.drains = map[string]*drainPart{}
		}
		l.drains[s.Backend] = p
	}
	a, b := p.last, r.T
	whole := p.seen && b > a
	p.last, p.seen = r.T, true
	if !whole {
		return
	}
	state := func(t float64) (listed, terminating, any bool) {
		for _, e := range svc.at(t) {
			any = any || e.Terminating
			if e.Name == s.Backend {
				listed, terminating = true, e.Terminating
			}
		}
		return listed, terminating, any
	}
	listed, terminating, any := state(a)
	_, _, later := state(b)
	if any || later {
		for sec := int64(math.Floor(a)); float64(sec) < b; sec++ {
			part := (min(b, float64(sec+1)) - max(a, float64(sec))) / (b - a)
			svc.accepted[sec] += part * float64(s.Accepted)
		}
	}
	switch {
	case listed && terminating:
		p.known = true
		p.from, p.to = min(p.from, a), b
		p.accepted += float64(s.Accepted)
	case listed:
		p.known = true
	case p.known:
		p.gone += s.Served
	}
}

// drainShare fills in what a pod accepted while it was terminating.
func (l *log) drainShare(b *Backend) {
	p := l.drains[b.Name]
	if p == nil {
		return
	}
	if p.known {
		gone := p.gone
		b.ServedAfterGone = &gone
	}
	svc := l.cluster.services[b.Service]
	if p.to <= p.from || svc == nil {
		return
	}
	n := uint64(p.accepted)
	b.AcceptedWhileDraining = &n
	var all float64
	for sec := int64(math.Floor(p.from)); float64(sec) < p.to; sec++ {
		part := min(p.to, float64(sec+1)) - max(p.from, float64(sec))
		all += part * svc.accepted[sec]
	}
	if all > 0 {
		share := min(1, p.accepted/all)
		b.DrainingShare = &share
	}
}

package report

import (
	"cmp"
	"fmt"
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
	// aftermath is how long after an action's end, in s, failures may begin and
	// still be put down to its time.
	aftermath = 10.0
	// maxSpikes bounds how many occurrences of actions are listed.
	maxSpikes = 200
	// maxGrid bounds the steps on which failures are added up.
	maxGrid = 1 << 21
)

// failing is attempts and failures of all traffics by due time.
type failing struct {
	width   float64
	first   int64 // bin
	timeout float64
	due     []float64 // without those of one-way traffic, of which nobody knows
	open    []float64 // of those, still in flight when the log ends
	failed  []float64
	lastDue []float64 // when the last one of failed was due; NaN where that is not known
	waited  []float64 // of failed, those that had connected, and waited for an answer until their timeout
}

// failing adds all bins up on one grid as wide as the widest.
func (l *log) failing() failing {
	f := failing{}
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, t := range l.order {
		f.width = max(f.width, t.width)
		f.timeout = max(f.timeout, min(t.info.Timeout, 60))
		for k := range t.bins.all() {
			lo, hi = min(lo, t.start(k)), max(hi, t.start(k)+t.width)
		}
	}
	if f.width == 0 || hi <= lo {
		return failing{}
	}
	for (hi-lo)/f.width > maxGrid {
		f.width *= 2
	}
	f.first = int64(math.Floor(lo/f.width + slop))
	n := int64(math.Ceil(hi/f.width-slop)) - f.first
	all := make([]float64, 5*n)
	f.due, f.open, f.failed, f.waited, f.lastDue = all[:n], all[n:2*n], all[2*n:3*n], all[3*n:4*n], all[4*n:]
	for _, t := range l.order {
		for k, b := range t.bins.all() {
			if i := int64(math.Floor(t.start(k)/f.width+slop)) - f.first; i >= 0 && i < n {
				f.add(int(i), b, t)
			}
		}
	}
	return f
}

func (f failing) add(i int, b *bin, t *traffic) {
	failed := float64(b.failed())
	f.failed[i] += failed
	f.noteDue(i, b)
	ended := float64(b.ok) + failed
	if b.bad != nil {
		if !t.udp() {
			f.waited[i] += float64(b.bad.outcomes[runlog.ResponseTimeout])
		}
		ended += float64(b.bad.outcomes[runlog.Interrupted])
	}
	if !t.oneWay() {
		f.due[i] += float64(b.due)
		f.open[i] += max(0, float64(b.started)-ended)
	}
}

// bin is the index of the bin in which t is, within bounds.
func (f failing) bin(t float64) int {
	if math.IsInf(t, 1) {
		return len(f.due)
	}
	return int(max(0, min(int64(len(f.due)), int64(math.Floor(t/f.width+slop))-f.first)))
}

func (f failing) start(i int) float64 { return round(float64(f.first+int64(i)) * f.width) }

// spikes says what each action did to the traffic. What failed from its begin
// on, up to where it is calm again, the next action, or the end, is put down to
// the time of the action; that it is its doing is for the causes to say.
func (l *log) spikes(a *attribution) (listed []Spike, other uint64) {
	out := []Spike{}
	if len(l.cluster.acts) == 0 {
		return out, l.cluster.dropped
	}
	f := l.failing()
	acts, empty := slices.Clone(l.cluster.acts), l.noPodTimes()
	slices.SortStableFunc(acts, func(x, y *act) int { return cmp.Compare(x.begin, y.begin) })
	crowded := overlapping(acts)
	var before *Spike
	var open []*act
	prior := 0 // the first of out that began with before
	for i := 0; i < len(acts); {
		j := i + 1
		for j < len(acts) && f.together(acts[i], acts[j]) {
			j++
		}
		until := math.Inf(1)
		switch {
		case j < len(acts):
			until = acts[j].begin
		case l.cluster.dropped > 0:
			until = l.cluster.until
		}
		shared := l.spike(f, acts[i:j], until, before)
		if shared.StartS != nil {
			shared.Causes, shared.FailedBy = a.between(*shared.StartS, *shared.EndS), l.failedBy(*shared.StartS, *shared.EndS)
			shared.emptied = f.during(empty, *shared.StartS, *shared.EndS)
		}
		if j < len(acts) && !shared.Recovered {
			shared.next = acts[j].name
			shared.toNext = shared.EndS != nil && until-*shared.EndS < f.width-slop // in the same step
		}
		open, shared.Overlaps = goingOn(open, acts[i].begin)
		open = append(open, acts[i:j]...)
		for k := prior; k < len(out); k++ {
			out[k].onward = shared.more()
		}
		before, prior = &shared, len(out)
		for k, x := range acts[i:j] {
			s := shared
			s.Action, s.Kind, s.Number, s.BeginS, s.DoneS, s.Error = x.name, x.kind, x.number, x.begin, finite(x.end), x.failed
			s.Nodes = append([]string{}, x.nodes...)
			s.Together = []string{}
			for m, y := range acts[i:j] {
				if m != k {
					s.Together = append(s.Together, y.name)
				}
			}
			x.times(&s)
			s.crowded = crowded[i+k]
			out = append(out, s)
		}
		i = j
	}
	out, n := worst(out, maxSpikes)
	return out, n + l.cluster.dropped
}

// more is what failed in its time, and until when that was watched.
func (s *Spike) more() onward {
	if s.WatchedToS == nil {
		return onward{}
	}
	return onward{uint64(s.is.n), *s.WatchedToS}
}

// onward is what failed after a spike's own time, up to then.
type onward struct {
	n  uint64
	to float64
}

// overlapping says of each action, in order of their begin, whether the time of
// whose latencies it is told is also another's.
func overlapping(acts []*act) []bool {
	out := make([]bool, len(acts))
	last, until := -1, math.Inf(-1) // the one before that ended last, and when its time did
	for i, x := range acts {
		if last >= 0 && x.begin <= until {
			out[last], out[i] = true, true
		}
		end := x.end + afterAct
		if math.IsNaN(end) {
			end = math.Inf(1)
		}
		if end >= until {
			last, until = i, end
		}
	}
	return out
}

// Crowded says whether latencies around it are also those around another.
func (s Spike) Crowded() bool { return s.crowded }

// together says whether failures cannot be told to be of one action or the other.
func (f failing) together(x, y *act) bool {
	return x.begin == y.begin || f.width > 0 && f.bin(x.begin) == f.bin(y.begin) && y.begin-x.begin < f.width
}

// worst keeps as many occurrences as that, those that cost most, in their order.
func worst(all []Spike, most int) (listed []Spike, other uint64) {
	if len(all) <= most {
		return all, 0
	}
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	cost := func(i int) float64 {
		n := float64(all[i].Failures)
		if all[i].Error != "" {
			n += 0.5
		}
		return n
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(cost(y), cost(x)) })
	keep := order[:most]
	slices.Sort(keep)
	for _, i := range keep {
		listed = append(listed, all[i])
	}
	return listed, uint64(len(all) - most)
}

// spike measures what failed from the begin of acts, which begin together.
func (l *log) spike(f failing, acts []*act, until float64, before *Spike) Spike {
	begin, done := acts[0].begin, acts[0].end
	for _, x := range acts[1:] {
		if math.IsNaN(done) || x.end <= done {
			continue
		}
		done = x.end // NaN as well
	}
	if math.IsNaN(done) {
		done = math.Inf(1)
	}
	s := Spike{Steps: map[string]uint64{}, Causes: []Cause{}, FailedBy: map[string]uint64{}}
	if slices.ContainsFunc(l.order, func(t *traffic) bool { return t.idle() }) {
		n := l.lostBetween(begin, until)
		s.HeldLost = &n
	}
	if len(f.due) == 0 {
		return s
	}
	from, lead := max(begin-leadUp, f.start(0), 0), begin
	if before != nil && before.StartS != nil && before.Recovered {
		from = max(from, *before.EndS)
	}
	// An attempt that waits for its answer can fail because of it: it was due before.
	t := max(from, begin-f.timeout)
	others := before != nil && before.EndS != nil && *before.EndS > t // which had failures then
	if i, j := f.cut(t), f.cut(begin); i < j && !others && added(f.waited[i:j]) > 0 && f.tallied(f.lately(from, t), t).n == 0 {
		lead = t
	}
	s.was = f.tallied(f.lately(from, lead), lead)
	s.Before = s.was.rate()
	f.measure(&s, begin, lead, done, until)
	s.logEnds = l.trailer == nil
	s.toEnd = s.toEnd && !s.logEnds // the log's end is not the traffic's
	if s.StartS != nil && s.Before == 0 {
		s.due = l.dueBetween(*s.StartS, *s.EndS, f.width)
	}
	return s
}

// dueSpan is when the first and the last of some attempts were due, s.
type dueSpan struct{ first, last float64 }

// dueBetween is when the first and the last of those attempts were due that
// failed in the first and the last step of a stretch; nil unless each of these
// was recorded.
func (l *log) dueBetween(from, to, step float64) *dueSpan {
	d := dueSpan{math.Inf(1), math.Inf(-1)}
	for _, t := range l.order {
		if t.width <= 0 {
			continue
		}
		for _, at := range []float64{from, to - step} {
			for k := int64(math.Floor(at/t.width + slop)); t.start(k) < at+step-slop; k++ {
				b := t.bins.get(k)
				if b == nil || b.failed() == 0 {
					continue
				}
				var recorded uint64
				for _, n := range b.bad.recorded {
					recorded += n
				}
				if recorded != b.failed() {
					return nil
				}
				d.first, d.last = min(d.first, b.bad.firstDue), max(d.last, b.bad.lastDue)
			}
		}
	}
	if d.last < d.first {
		return nil
	}
	return &d
}

// lasted is from when to when the attempts that failed were due, in s, as exactly
// as it is known.
func (s *Spike) lasted() (from, to float64, exact bool) {
	if s.due != nil {
		return s.due.first, s.due.last, true
	}
	if s.EndS == nil {
		return *s.StartS, *s.StartS, false
	}
	return *s.StartS, *s.EndS, false
}

// DueFrom and DueTo are the same for a table.
func (s Spike) DueFrom() string { from, _, exact := s.lasted(); return toStep(from, exact) }

// DueTo is where DueFrom's stretch ends.
func (s Spike) DueTo() string { _, to, exact := s.lasted(); return toStep(to, exact) }

func toStep(at float64, exact bool) string {
	if exact {
		return moment(at)
	}
	return "about " + seconds(at)
}

// Calmed says whether the failures ended, before the next action or the end.
func (s Spike) Calmed() string {
	switch {
	case s.StartS == nil:
		return "–"
	case s.Recovered:
		return "yes"
	case s.toEnd:
		return "no, to the end of the traffic"
	case s.tooEarly() != "":
		return "cannot tell: " + s.tooEarly()
	case s.next != "":
		return "not before " + s.next
	}
	return "no"
}

// tooEarly says what ended the time in which it was watched before it can have
// been seen to recover; empty where there was time enough.
func (s *Spike) tooEarly() string {
	if s.Recovered || s.toEnd || s.toNext || s.EndS == nil || s.WatchedToS == nil || *s.WatchedToS-*s.EndS >= calm-slop {
		return ""
	}
	what := cmp.Or(s.next, "the traffic")
	did := map[bool]string{true: "began", false: "ended"}[s.next != ""]
	if s.next == "" && s.logEnds {
		what, did = "the log", "ends"
	}
	_, last, _ := s.lasted()
	if *s.WatchedToS <= last {
		return fmt.Sprintf("%s %s right after the last of them", what, did)
	}
	return fmt.Sprintf("%s %s %s after the last of them", what, did, stretch(*s.WatchedToS-last))
}

// measure finds the stretch in which more failed than before the action. Those
// that were in flight when it began were due after lead.
func (f failing) measure(s *Spike, begin, lead, done, until float64) {
	perBin := s.Before * f.width
	most := perBin + 3*math.Sqrt(perBin)
	need := int(math.Ceil(calm / f.width))
	quiet, first, last, watched := 0, -1, -1, -1
	var total float64
	b, end := f.cut(begin), f.cut(until)
	for i := f.cut(lead); i < end; i++ {
		n := f.failed[i]
		if i < b {
			n = min(n, f.waited[i])
		}
		if first < 0 && f.start(i) >= done+aftermath {
			break
		}
		if n > most {
			if first < 0 {
				first = i
			}
			last, quiet = i, 0
			if f.due[i] > 0 {
				s.PeakErrorRatio = max(s.PeakErrorRatio, min(1, n/f.due[i]))
			}
		}
		// Where nothing was due, or nobody knows yet, nothing can be seen.
		known := f.due[i] > 0 && (n > most || f.open[i]+n <= most)
		if known && i >= b {
			watched = i
		}
		if known && n <= most {
			quiet++
		}
		// An action that goes on may yet do something.
		if first >= 0 && quiet >= need && f.start(i) >= done {
			s.Recovered = true
			break
		}
	}
	if watched >= 0 {
		v := min(f.start(watched+1), until)
		s.is = f.tallied(begin, v)
		s.WatchedToS, s.After = &v, s.is.rate()
	}
	if first >= 0 && s.was.n > 0 && !f.tallied(f.start(first), f.start(last+1)).more(s.was) {
		first, s.PeakErrorRatio, s.Recovered = -1, 0, false // they go on as before it
	}
	if first < 0 {
		f.stopped(s, b, watched)
		return
	}
	for i := first; i <= last; i++ {
		n := f.failed[i]
		if i < b {
			n = min(n, f.waited[i])
		}
		total += n - perBin
	}
	x, y := f.start(first), f.start(last+1)
	s.StartS, s.EndS = &x, &y
	s.toEnd = !s.Recovered && math.IsInf(until, 1) && f.toEnd(first, last)
	s.Failures = uint64(max(0, math.Round(total)))
}

// toEnd says whether failures went on until nothing was due any more: of as many
// attempts as followed the last one that failed, fewer than three would have,
// at the rate of before.
func (f failing) toEnd(first, last int) bool {
	due, failed := added(f.due[first:last+1]), added(f.failed[first:last+1])
	return due > 0 && added(f.due[last+1:])*failed/due < 3
}

// stopped finds from when on nothing fails any more that did before.
func (f failing) stopped(s *Spike, begin, watched int) {
	if s.Before*calm < 3 {
		return // chance
	}
	from := begin
	for i := begin; i <= watched; i++ {
		if f.failed[i] > 0 {
			from = i + 1
		}
	}
	if float64(watched+1-from)*f.width >= calm-slop {
		v := f.start(from)
		s.StoppedS, s.lastly = &v, uint64(added(f.failed[begin:from]))
		return
	}
	n, due := added(f.failed[begin:from]), added(f.due[begin:from])
	if n >= stretchOf && unlikely(n, due, added(f.due[from:watched+1])) {
		v := f.start(from)
		s.endedS, s.lastly = &v, uint64(n)
	}
}

// times are the latencies around the action.
func (x *act) times(s *Spike) {
	h := x.latency
	if h == nil || h.TotalCount() == 0 {
		return
	}
	s.P99Ms, s.MaxMs = finite(float64(h.ValueAtPercentile(99))/1000), finite(float64(h.Max())/1000)
	s.Steps = map[string]uint64{}
	h.ForEachBucket(func(us, n int64) bool {
		for _, step := range []struct {
			name string
			us   int64
		}{{"1s", 1_000_000}, {"3s", 3_000_000}, {"5s", 5_000_000}} {
			// A retransmission timer is a little late, and the answer takes its time.
			if us >= step.us*98/100 && us <= step.us*115/100 {
				s.Steps[step.name] += uint64(n)
			}
		}
		return true
	})
}

// between is the causes of attempts due in [from, to), as far as the steps of
// the axis tell them apart.
func (a *attribution) between(from, to float64) []Cause {
	out := []Cause{}
	var all float64
	i, j := a.axis.index(from), a.axis.index(to-a.axis.step/1000)
	for _, t := range a.merged() {
		var n uint64
		for k := i; k <= j && len(t.steps) > 0; k++ {
			n += t.steps[k]
		}
		if n > 0 {
			out = append(out, Cause{Cause: t.cause, Failures: n, ShareOf: "failed", Evidence: a.evidence(t), Proof: t.proof(), astray: a.astray(t, i, j)})
			all += float64(n)
		}
	}
	for k := range out {
		out[k].Share = float64(out[k].Failures) / all
	}
	slices.SortFunc(out, func(x, y Cause) int {
		return cmp.Or(cmp.Compare(y.Failures, x.Failures), cmp.Compare(x.Cause, y.Cause))
	})
	return out
}

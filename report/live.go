package report

import (
	"fmt"
	"math"
	"slices"
)

// Live stands where the verdict will be while a run is still going. It is in
// no summary.json: see Analysis.SoFar.
const Live Verdict = "live"

// countsLag is how long after it, in s, an attempt that was due is in the log: loads write what they have counted every 100 ms, and their
// host's samples are what tells how far its records go.
const countsLag = 0.3

// SoFar is what Findings show, for a page that somebody looks at while the run
// is still going: without a verdict, and without the reproach that the log has
// no end. Whether a run is still going is not in its log, so the caller has to
// know. For a run that has ended it returns f itself.
func (a *Analysis) SoFar(f *Findings) *Findings {
	if a.log.trailer != nil {
		return f
	}
	unended := a.log.unfinished()
	s := *f
	s.Verdict = Live
	s.Headline = "So far: " + headline(&s)
	s.Reasons = []string{"the run is still going: the verdict comes with its end, and its newest attempts have not ended yet"}
	for _, r := range f.Reasons {
		if !slices.Contains(unended, r) {
			s.Reasons = append(s.Reasons, "so far: "+r)
		}
	}
	return &s
}

// countedTo is the run time in s up to which a log without an end tells of all
// attempts that were due: that of the host that is behind the others.
func (l *log) countedTo() float64 {
	to := math.Inf(1)
	for _, t := range l.order {
		for _, name := range t.senders {
			if h := l.hosts[name]; h != nil && h.prev != nil {
				to = min(to, h.prevT-countsLag)
			}
		}
	}
	return to
}

// endsKnownTo is the run time in s up to which a log without an end tells of all
// attempts how they ended; nil where it does of all.
func (l *log) endsKnownTo() *float64 {
	to := math.Inf(1)
	for _, t := range l.order {
		if t.oneWay() {
			continue
		}
		for k, b := range t.bins.all() {
			if b.started > b.ended() {
				to = min(to, t.start(k))
			}
		}
	}
	return finite(to)
}

// cutOff is the timeline of a log without an end.
func (l *log) cutOff(t Timeline) Timeline {
	t.Load.EndsKnownToS = l.endsKnownTo()
	return t.until(l.countedTo())
}

// afterCut says what is not known because the log has no end.
func (l *log) afterCut(f *Findings) []string {
	if l.trailer != nil {
		return nil
	}
	var out []string
	s := f.Timeline.Load
	if at := s.EndsKnownToS; at != nil {
		out = append(out, fmt.Sprintf("how all attempts that were due from %.1f s on ended: some had not when the log did, so failures only seem to get fewer there", *at))
	}
	end := 0.0
	if len(s.T) > 0 {
		end = s.T[len(s.T)-1] + s.StepS
	}
	if _, to := l.span(); to > end+slop {
		out = append(out, fmt.Sprintf("the load after %.1f s: the log has only some of the attempts that were due then, so the plots leave them out; they are in the totals", end))
	}
	return out
}

// until is the timeline without the steps of attempts that end later than at,
// in s of run time: what is counted of such a step so far would look like a load
// that falls.
func (t Timeline) until(at float64) Timeline {
	l := &t.Load
	n := 0
	for n < len(l.T) && l.T[n]+l.StepS <= at+slop {
		n++
	}
	for _, series := range []*[]float64{&l.T, &l.Offered, &l.OK, &l.Failed, &l.Started, &l.Late, &l.NotStarted} {
		*series = (*series)[:n:n]
	}
	t.Causes = slices.Clone(t.Causes)
	for i, c := range t.Causes {
		t.Causes[i].PerS = c.PerS[:min(n, len(c.PerS))]
	}
	t.ByLoad = slices.DeleteFunc(slices.Clone(t.ByLoad), func(p LoadPoint) bool { return p.AtS+l.StepS > at+slop })
	return t
}

// String is like: 262,144 entries (100 %), 700/s offered, at 4.287 s ± 0.002 s.
func (o *Onset) String() string {
	s := "filling unknown"
	if o.Entries != nil {
		s = grouped(*o.Entries) + " entries"
	}
	if o.Occupancy != nil {
		s += " (" + percent(*o.Occupancy) + ")"
	}
	if o.OfferedPerS != nil {
		s += ", " + groupedRate(*o.OfferedPerS) + " offered"
	}
	return s + fmt.Sprintf(", at %s ± %s", moment(o.AtS), moment(o.UncertaintyS))
}

// Prose sets the thousands of a sentence's numbers apart, as the HTML report
// does.
func Prose(s string) string { return prose(s) }

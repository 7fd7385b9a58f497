package report

import (
	"fmt"
	"math"
	"slices"
)

// Live stands where the verdict will be while a run is still going. It is in
// no summary.json: see Analysis.SoFar.
const Live Verdict = "live"

// countsLag is how long after it, in s, what became of an attempt that was due
// is in the log: loads write what they have counted every 100 ms, and their
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
	s.Timeline = f.Timeline.until(a.log.countedTo())
	s.Reasons = []string{"the run is still going: the verdict comes with its end, and its newest attempts have not ended yet"}
	for _, r := range f.Reasons {
		if !slices.Contains(unended, r) {
			s.Reasons = append(s.Reasons, "so far: "+r)
		}
	}
	return &s
}

// countedTo is the run time in s up to which the log of a run that goes on tells
// of all attempts that were due: that of the host that is behind the others.
func (l *log) countedTo() float64 {
	to := math.Inf(1)
	for _, t := range l.order {
		for _, name := range t.senders {
			if h := l.hosts[name]; h != nil {
				to = min(to, h.prevT-countsLag)
			}
		}
	}
	return to
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

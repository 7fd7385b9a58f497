package report

import (
	"fmt"
	"slices"
)

// Live stands where the verdict will be while a run is still going. It is in
// no summary.json: see Analysis.SoFar.
const Live Verdict = "live"

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

package watch

import (
	"math"
	"sort"

	"golang.org/x/perf/benchmath"
)

// Growth is how fast a table has been growing: the median of what it gained in
// consecutive stretches of time of the same length, with the interval that
// holds the true median with Confidence.
//
// A table's filling wanders: each entry that comes stays for its timeout, so
// neighbouring samples are no independent measurements, and a line through
// them would look far more certain than it is. What one stretch gained says
// next to nothing about the next one: gains can be taken for independent, and
// the interval of their median needs nothing else. The median also ignores one
// stretch in which very much came or went at once.
type Growth struct {
	PerS float64 `json:"per_s"`
	Low  float64 `json:"low_per_s"`
	High float64 `json:"high_per_s"`
	Over float64 `json:"over_s"` // how long the stretches were together
	// Confidence of Low..High: 0.95 or more.
	Confidence float64 `json:"confidence"`
}

const (
	// minStretches is the fewest whose extremes hold the median with 95 %:
	// 1 - 2/2^6.
	minStretches = 6
	maxStretches = 10
	confidence   = 0.95
	// strict is that of the last 10 s, which are looked at where the last minute
	// shows nothing: a second look must not double how often there is a false
	// answer. All ten stretches have to agree.
	strict = 0.99
	// window is how far back growth is looked for, s, where samples are taken
	// every second or more often.
	window = 60
)

type point struct{ at, entries float64 }

// stretch is the shortest stretch for samples every so many s.
func stretch(every float64) float64 { return max(1, every) }

// span is the longest time that growth looks back.
func span(every float64) float64 { return max(window, maxStretches*stretch(every)) }

// growth is nil where the samples do not reach back far enough.
//
// It is that of the last minute. Where that shows none, or another than the last
// 10 s do, those count, by a stricter interval: what has just begun, or has just
// ended, would take most of a minute to be seen.
func growth(samples []point, every float64) *Growth {
	long := growthIn(samples, every, span(every), confidence)
	short := growthIn(samples, every, maxStretches*stretch(every), strict)
	if long == nil || short == nil {
		return long
	}
	if long.moves() && long.Low <= short.High && short.Low <= long.High {
		return long
	}
	if long.moves() || short.moves() {
		return short
	}
	return long
}

// moves says whether the interval leaves out 0.
func (g *Growth) moves() bool { return g.Low > 0 || g.High < 0 }

// growthIn is that of the newest samples in so many s, or of fewer.
func growthIn(samples []point, every, in, confidence float64) *Growth {
	if len(samples) < minStretches {
		return nil
	}
	last := samples[len(samples)-1].at
	reach := last - samples[0].at
	// A sample is seldom a whole number of s before the last one.
	n := min(maxStretches, int((reach+every/4)/stretch(every)))
	if n < minStretches {
		return nil
	}
	each := min(reach, in) / float64(n)
	gains := make([]float64, n)
	later := samples[len(samples)-1].entries
	for i := range n {
		earlier := entriesAt(samples, last-float64(i+1)*each)
		gains[i] = (later - earlier) / each
		later = earlier
	}
	s := benchmath.AssumeNothing.Summary(benchmath.NewSample(gains, &benchmath.DefaultThresholds), confidence)
	return &Growth{PerS: s.Center, Low: s.Lo, High: s.Hi, Over: each * float64(n), Confidence: s.Confidence}
}

// entriesAt lies between the samples before and after a moment.
func entriesAt(samples []point, at float64) float64 {
	i := sort.Search(len(samples), func(i int) bool { return samples[i].at >= at })
	switch {
	case i == 0:
		return samples[0].entries
	case i == len(samples):
		return samples[i-1].entries
	}
	a, b := samples[i-1], samples[i]
	return a.entries + (b.entries-a.entries)*(at-a.at)/(b.at-a.at)
}

// When is whether a table is going to be full.
type When string

// What can be said of it.
const (
	Unknown   When = "unknown"  // not watched for long enough
	NoLimit   When = "no limit" // nf_conntrack_max is 0
	Now       When = "now"      // it is full
	Growing   When = "growing"  // it will be, if it goes on growing as it does
	Steady    When = "not growing"
	Shrinking When = "shrinking"
)

// Full is when a table will be full if its growth stays what it is. It is a
// time only where the whole interval of the growth is above 0.
type Full struct {
	When When `json:"when"`
	// In, of Growing, is s from now, at Growth.PerS; Earliest and Latest are
	// those at the ends of its interval.
	In       *float64 `json:"in_s"`
	Earliest *float64 `json:"earliest_s"`
	Latest   *float64 `json:"latest_s"`
}

func full(entries, limit uint64, g *Growth) Full {
	switch {
	case limit == 0:
		return Full{When: NoLimit}
	case entries >= limit:
		return Full{When: Now}
	case g == nil:
		return Full{When: Unknown}
	case g.Low > 0 && !math.IsInf(g.High, 0):
		free := float64(limit - entries)
		in := func(perS float64) *float64 { s := free / perS; return &s }
		return Full{When: Growing, In: in(g.PerS), Earliest: in(g.High), Latest: in(g.Low)}
	case g.High < 0:
		return Full{When: Shrinking}
	}
	return Full{When: Steady}
}

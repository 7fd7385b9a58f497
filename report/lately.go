package report

import (
	"math"
	"slices"
)

const (
	// byChance is how unlikely a silence has to be, after or before failures that
	// came as they did, to be more than chance.
	byChance = 0.05
	// stretchOf is how many failures at least make a stretch that has a rate.
	stretchOf = 3
	// deviations is by how many standard deviations two counts have to differ.
	deviations = 3
)

// A tallied is a number of failures in a length of time.
type tallied struct{ n, span float64 }

// tallied counts what failed between two times.
func (f failing) tallied(a, b float64) tallied {
	i, j := f.cut(a), f.cut(b)
	if j <= i {
		return tallied{}
	}
	span := float64(j-i) * f.width
	if i > f.bin(a) { // nothing of that step failed from a on
		span += f.start(i) - a
	}
	if j > f.bin(b) { // and all that did in this one was due before b
		span -= f.start(j) - b
	}
	n := added(f.failed[i:j])
	if due := added(f.due[i:j]); due > 0 {
		span = max(span, n*float64(j-i)*f.width/due) // no more fail than are due, however short the time
	}
	return tallied{n, span}
}

func added(of []float64) (n float64) {
	for _, v := range of {
		n += v
	}
	return n
}

func (t tallied) rate() float64 {
	if t.span <= 0 {
		return 0
	}
	return t.n / t.span
}

// more says whether t is more than chance makes of the rate of o. Given the sum
// of two counts of a Poisson process, each is binomial.
func (t tallied) more(o tallied) bool {
	all, p := t.n+o.n, t.span/(t.span+o.span)
	return all > 0 && t.n > all*p+deviations*math.Sqrt(all*p*(1-p))
}

// apart says whether the rates differ by more than one standard deviation: chance
// makes that, but that they are as each other is not to be said.
func (t tallied) apart(o tallied) bool {
	all, p := t.n+o.n, t.span/(t.span+o.span)
	return all > 0 && math.Abs(t.n-all*p) > math.Sqrt(all*p*(1-p))
}

// lately is the first moment from which on failures came, up to another, as they
// did at its end: since they began, or since they ended. Were those of a time
// before counted as well, an action in the middle of failures would seem to make
// more of them, and one long after their end to have ended them.
func (f failing) lately(from, to float64) float64 {
	i, j := f.cut(from), f.cut(to)
	last := j - 1
	for last >= i && f.failed[last] == 0 {
		last--
	}
	if last < i {
		return from
	}
	first, quiet, long := last, 0, int(math.Ceil(calm/f.width))
	for k := last; k >= i && quiet < long; k-- {
		if quiet++; f.failed[k] > 0 {
			first, quiet = k, 0
		}
	}
	n, due := added(f.failed[first:last+1]), added(f.due[first:last+1])
	switch {
	case n < stretchOf:
		return from
	case unlikely(n, due, added(f.due[last+1:j])):
		return f.start(last + 1) // they had ended
	case unlikely(n, due, added(f.due[i:first])): // they had begun
		if last-first >= 10 {
			first++ // the step in which they did is another rate, and of many few
		}
		return f.start(first)
	}
	return from
}

// unlikely says whether it is that as many attempts succeeded as quiet is, where n
// of due failed, while they fail at the same rate: what a gamma distribution of
// the rate makes of it.
func unlikely(n, due, quiet float64) bool {
	return quiet > 0 && due > 0 && math.Pow(due/(due+quiet), n) < byChance
}

// cut is the first step whose failures are of attempts that were due at t or
// after: the one in which t is, unless all that failed in it were due before.
func (f failing) cut(t float64) int {
	i := f.bin(t)
	if i < len(f.failed) && f.failed[i] > 0 && f.lastDue[i] < t {
		i++
	}
	return i
}

// noteDue notes when the last attempt that failed was due in a step; NaN where
// that is not known of all of them.
func (f failing) noteDue(i int, b *bin) {
	if b.failed() == 0 {
		return
	}
	var recorded uint64
	for _, n := range b.bad.recorded {
		recorded += n
	}
	if recorded != b.failed() {
		f.lastDue[i] = math.NaN()
	}
	f.lastDue[i] = max(f.lastDue[i], b.bad.lastDue) // NaN stays
}

// goingOn are those of the actions that are not done at a time, and their names:
// what fails from then on, or does no longer, can be of these as well as of one
// that begins then. They are kept in open's own memory: a soak has thousands.
func goingOn(open []*act, at float64) (still []*act, names []string) {
	still, names = open[:0], []string{}
	for _, x := range open {
		if x.end <= at { // false of NaN: it goes on
			continue
		}
		if still = append(still, x); !slices.Contains(names, x.name) {
			names = append(names, x.name)
		}
	}
	return still, names
}

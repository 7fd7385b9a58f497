package report

import (
	"cmp"
	"fmt"
	"slices"
)

// keptStale is what a node kept of backends that were no usable ones, in a stretch
// of time.
type keptStale struct {
	backends, atOnce  uint64
	least, most       float64 // of that time in which there was any, s, at least and at most
	longMin, longMost float64 // of the one that was kept the longest, whenever
}

// during are those of the listed backends that were stale in a stretch of time.
func (s *Stale) during(from, to float64) (k keptStale) {
	list := slices.DeleteFunc(slices.Clone(s.Backends), func(b StaleBackend) bool {
		return b.What != "stale" || b.over() <= from || b.FromS >= to
	})
	slices.SortFunc(list, func(x, y StaleBackend) int { return cmp.Compare(x.FromS, y.FromS) })
	k.backends = distinct(list)
	for i, b := range list {
		var now uint64
		for _, c := range list[:i+1] {
			if c.over() > b.FromS {
				now++
			}
		}
		k.atOnce = max(k.atOnce, now)
		least, most := b.span()
		k.longMin, k.longMost = max(k.longMin, least), max(k.longMost, most)
	}
	k.least = covered(list, from, to, func(b *StaleBackend) float64 { return b.SeenS })
	k.most = covered(list, from, to, (*StaleBackend).over)
	return k
}

// text is like: 3 stale backends one after another, the longest for 83 ms to
// 283 ms, in all for 83 ms to 296 ms of that time.
func (k keptStale) text() string {
	which, long := plural(k.backends, "stale backend"), within(k.longMin, k.longMost)
	switch {
	case k.backends == 1:
		return fmt.Sprintf("%s, for %s of that time", which, within(k.least, k.most))
	case k.atOnce >= k.backends:
		return fmt.Sprintf("up to %s, for %s of that time", which, within(k.least, k.most))
	case k.atOnce == 1:
		return fmt.Sprintf("%s one after another, the longest for %s, in all for %s of that time", which, long, within(k.least, k.most))
	}
	return fmt.Sprintf("%s, up to %d at once, the longest for %s, in all for %s of that time", which, k.atOnce, long, within(k.least, k.most))
}

// covered is how much of a stretch of time the backends, in order of from_s,
// cover up to when each ends.
func covered(list []StaleBackend, from, to float64, end func(*StaleBackend) float64) (sum float64) {
	for i := range list {
		b := &list[i]
		a, z := max(from, b.FromS), min(to, end(b))
		if z > a {
			sum += z - a
			from = z
		}
	}
	return sum
}

// distinct is how many backends those are: one can be stale more than once.
func distinct(list []StaleBackend) uint64 {
	seen := map[[3]string]bool{}
	for _, b := range list {
		if b.What == "stale" {
			seen[[3]string{b.Service, b.Addr, b.Pod}] = true
		}
	}
	return uint64(len(seen))
}

// InAll is like: 3 backends, one at a time; of one, and of several that were all
// stale at the same time: at most 2 backends at once.
func (s *Stale) InAll(noun string) string {
	n := distinct(s.Backends)
	// Those that are not listed are the last of an order that has the stale ones first.
	listed := s.Other == 0 || slices.ContainsFunc(s.Backends, func(b StaleBackend) bool { return b.What != "stale" })
	switch {
	case n <= s.MaxBackends && listed:
		return fmt.Sprintf("at most %s at once", plural(s.MaxBackends, noun))
	case !listed:
		return fmt.Sprintf("at least %s, at most %d at once", plural(n, noun), s.MaxBackends)
	case s.MaxBackends == 1:
		return plural(n, noun) + ", one at a time"
	}
	return fmt.Sprintf("%s, at most %d at once", plural(n, noun), s.MaxBackends)
}

// outOfDate is the same as a sentence.
func (s *Stale) outOfDate() string {
	if distinct(s.Backends) > 1 {
		return fmt.Sprintf("Out of date were %s, the longest for %s", s.InAll("backend"), s.Longest())
	}
	return "A backend was out of date for " + s.Longest()
}

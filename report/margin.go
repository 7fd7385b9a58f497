package report

import (
	"fmt"
	"math"
)

// roomLeft says how a recommended limit was computed from what is needed in the
// steady state and what may wait for the collector besides: see recommended.
func roomLeft(needed, late, limit uint64) string {
	fill := func(n uint64) string { return percent(float64(n) / float64(max(1, limit))) }
	aimed := max(math.Ceil(float64(needed)/target-slop), float64(needed+late))
	s := fmt.Sprintf("%d entries fill %s of %d", needed, fill(needed), limit)
	switch {
	case aimed <= leastLimit:
		return s + ", which is the least that is recommended"
	case float64(needed+late) >= aimed:
		s += fmt.Sprintf(", and %s with the %d that have expired and are not collected yet, which must find room as well", fill(needed+late), late)
	default:
		s += fmt.Sprintf(": at most %.0f %%, so that a burst finds room", 100*target)
	}
	if float64(limit) > aimed {
		s += fmt.Sprintf("; rounded up from %.0f", aimed)
	}
	return s
}

// marginText is that of the limit that is given: for all that was there, where
// anything was besides this traffic.
func (s *Sizing) marginText() string {
	if s.NeededEntries == nil || s.RecommendedLimit == nil || s.UncollectedEntries == nil {
		return ""
	}
	entries, limit := s.inAll()
	return roomLeft(entries, *s.UncollectedEntries, limit)
}

package report

import (
	"fmt"
	"math"
)

// secondStays is how long, in s, the second entry of a connection lives that the
// kernel lets in after a clash, for the answer alone (nf_ct_resolve_clash_harder in
// nf_conntrack_core.c). Another clash it resolves without: clashres counts both.
// Measured: half of them, with two pods to be sent to.
const secondStays = 1.0

// clashShare is how many clashes the node's kernel resolved for each entry that the
// attempts made: as many second entries at most.
func (n *node) clashShare(d *need) float64 {
	var made float64
	for _, p := range d.parts {
		made += p.entries * p.due.total
	}
	if made == 0 {
		return 0
	}
	return float64(n.counters["clashres"]) / made
}

// second is how many second entries there are at t at most: those of the last second,
// and those that have expired since the last walk, which collects them.
func (n *node) second(d *need, share, t float64) float64 {
	if share == 0 {
		return 0
	}
	from := math.Inf(-1)
	for _, w := range n.walked.cells {
		if w.t <= t {
			from = max(from, w.t-secondStays)
		}
	}
	var made float64
	for _, p := range d.parts {
		made += p.entries * (p.due.before(t) - p.due.before(from))
	}
	return share * made
}

// clashes notes how many second entries per second the counted traffic makes at
// most, if it clashes as it did in the run.
func (l *log) clashes(s *Sizing, n *node) {
	if n == nil {
		return
	}
	share := n.clashShare(l.need(n.name))
	for _, p := range s.Parts {
		if p.Counted && p.Entries != nil && p.ResidenceS > 0 {
			s.secondPerS += share * p.ArrivalsPerS * p.EntriesPerAttempt
		}
	}
}

// secondLate is how many second entries there are at worst when the collector comes.
func (s *Sizing) secondLate() float64 { return s.secondPerS * (secondStays + collectorGap) }

// secondNote says what second entries are, where there are any.
func (s *Sizing) secondNote() string {
	n := uint64(math.Ceil(s.secondLate() - slop))
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("; %d of them are second entries of connections whose packets clashed (clashres), which live for %g s: at most one for each clash that the kernel resolved, at the rate of this run", n, secondStays)
}

package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Machine is what sizing has to know of a node. What is 0 is unknown.
type Machine struct {
	EntryBytes  uint64 // an entry's size in its slab
	MemoryBytes uint64
	CPUs        int
	Limit       uint64 // present nf_conntrack_max
	Buckets     uint64 // present nf_conntrack_buckets
}

// Size computes what limit a load needs that is given in numbers, not taken
// from a run, on a node that has base entries besides. Of the parts only what
// they need is taken: arrivals, entries per attempt, residence and what is held.
func Size(parts []SizingPart, base uint64, m Machine) *Sizing {
	s := newSizing()
	for _, p := range parts {
		n := p.Held + uint64(math.Ceil(p.ArrivalsPerS*p.EntriesPerAttempt*p.ResidenceS-slop))
		p.Entries, p.Counted, p.Given = &n, true, true
		s.Parts = append(s.Parts, p)
	}
	s.compute(base, m)
	return s
}

func newSizing() *Sizing {
	return &Sizing{
		Parts: []SizingPart{}, Timeouts: []TimeoutEffect{}, Notes: []string{},
		Growth: []Growth{}, Fits: []Fit{}, Fills: []Fill{},
	}
}

// kubeProxyDefault is the limit that kube-proxy sets by default on so many
// cores: maxPerCore 32768, min 131072 (pkg/proxy/apis/config/v1alpha1); from
// 1.36 on no more than 1048576 of maxPerCore x cores (pkg/proxy/conntrack).
func kubeProxyDefault(cores int, from136 bool) uint64 {
	scaled := kubeProxyPerCore * uint64(max(cores, 0)) //nolint:gosec // not negative
	if from136 {
		scaled = min(scaled, kubeProxyCap)
	}
	return max(131072, scaled)
}

// grow says what more of the same would need.
func (s *Sizing) grow(needed, late uint64) {
	perEntry := float64(*s.MemoryBytesMax) / float64(*s.RecommendedLimit)
	for _, factor := range []float64{1.5, 2, 5} {
		n := uint64(math.Ceil(float64(needed)*factor - slop))
		limit := recommended(n, uint64(math.Ceil(float64(late)*factor)))
		s.Growth = append(s.Growth, Growth{Factor: factor, NeededEntries: n, Limit: limit, MemoryBytesMax: uint64(math.Ceil(perEntry * float64(limit)))})
	}
}

// fits goes through sizes of nodes.
func (s *Sizing) fits(needed, late uint64) {
	holds := func(limit uint64) string {
		switch {
		case limit <= needed: // the next connection would be one too many
			return "no"
		case float64(limit)*target < float64(needed), limit < needed+late:
			return "tight"
		}
		return "yes"
	}
	for _, cores := range []int{2, 4, 8, 16, 32, 48, 64, 96, 128} {
		old, now := kubeProxyDefault(cores, false), kubeProxyDefault(cores, true)
		s.Fits = append(s.Fits, Fit{Cores: cores, Limit: old, Holds: holds(old), LimitFrom136: now, HoldsFrom136: holds(now)})
	}
}

// fill says how long the present limit lasts when all of the load comes at
// once, and when that of a node that has failed comes on top.
func (s *Sizing) fill(base uint64, m Machine) {
	if m.Limit == 0 {
		return
	}
	cold := s.fills("cold start", float64(base), 1, m.Limit)
	s.Fills = append(s.Fills, cold)
	for _, nodes := range []int{2, 3, 5, 10} {
		more := 1 / float64(nodes-1)
		name := fmt.Sprintf("failover, %d of %d nodes left", nodes-1, nodes)
		s.Fills = append(s.Fills, s.fills(name, float64(*s.NeededEntries), more, m.Limit))
	}
}

// fills is when a table with so many entries reaches the limit while so much
// of the load begins: what is held at once, the rest as it arrives, and each
// kind grows until its first entries expire.
func (s *Sizing) fills(name string, entries, share float64, limit uint64) Fill {
	type growth struct{ rate, until float64 }
	var parts []growth
	steady := entries
	for _, p := range s.Parts {
		if !p.Counted || p.Entries == nil {
			continue
		}
		entries += share * float64(p.Held)
		steady += share * float64(*p.Entries)
		if rate := share * p.ArrivalsPerS * p.EntriesPerAttempt; p.Held == 0 && rate > 0 {
			// Entries include those of attempts that still go on.
			parts = append(parts, growth{rate, share * float64(*p.Entries) / rate})
		}
	}
	f := Fill{Case: name, Limit: limit, SteadyEntries: uint64(math.Ceil(steady - slop))}
	slices.SortFunc(parts, func(x, y growth) int { return cmp.Compare(x.until, y.until) })
	at, room := 0.0, float64(limit)-entries
	for i := range parts {
		if room <= slop {
			break
		}
		var rate float64
		for _, p := range parts[i:] {
			rate += p.rate
		}
		step := min(parts[i].until-at, room/rate)
		at, room = at+step, room-rate*step
	}
	if room <= slop {
		f.Seconds = &at
	}
	return f
}

package report

import (
	"maps"
	"math"
)

// A proof is a counter whose increments are evidence of a cause.
type proof struct {
	cause, counter string
	supplies       []supply
	node           string  // whose table's counter it is; empty for a pod's, or where that is not known
	limit          float64 // increments that may be taken in all
	shared         bool    // with traffic whose losses nobody counts
}

// lost explains attempts by the packets that counters say were lost, of all
// proofs at once: which of the attempts of one moment lost its packet to which
// counter cannot be known and does not matter, but that the numbers fit does.
// Attempts of which first is true lost the packets they sent at their start and
// after; those of which later is true lost something while they waited, which
// autopsies of their own entry say nothing about. It returns what is left of the
// supplies, whose kind is the index of their proof.
func (a *attribution) lost(proofs []proof, first func(*item) bool, possible found, later func(*item) bool) []supply {
	return a.lostAs(proofs, func(it *item) found {
		if first(it) {
			return possible
		}
		return 0
	}, later, possible)
}

// lostAs is lost where first is what an autopsy of the item's attempts would
// find, if they can have lost the packets they sent at their start; 0 if not.
// What autopsies of the others agree with is agree.
func (a *attribution) lostAs(proofs []proof, first func(*item) found, later func(*item) bool, agree found) []supply {
	var demands []demand
	for _, it := range a.items {
		possible := first(it)
		switch {
		case possible != 0:
			if it.allow(possible) > 0 {
				demands = append(demands, it.demandsOf(a.retries, a.offered[it.lane].in(it.start(), it.end())*it.t.connections())...)
			}
		case later(it):
			if it.allow(^found(0)) > 0 {
				demands = append(demands, it.waiting())
			}
		}
	}
	return a.settle(proofs, demands, func(it *item) found {
		if f := first(it); f != 0 {
			return f
		}
		return agree
	})
}

// settle matches and takes what is explained. It returns what is left of the
// supplies. Autopsies of the items' attempts agree where they found what agree says.
func (a *attribution) settle(proofs []proof, demands []demand, agree func(*item) found) []supply {
	var supplies []supply
	var deltas [kinds]map[string]float64
	var from, to [kinds]float64
	for k := range from {
		deltas[k] = map[string]float64{}
		from[k] = math.Inf(1)
	}
	for k, p := range proofs {
		for _, s := range p.supplies {
			s.kind = k
			deltas[k][s.host] += max(s.left, s.all)
			from[k], to[k] = min(from[k], max(0, s.a)), max(to[k], s.b)
			supplies = append(supplies, s)
		}
	}
	if len(demands) == 0 || len(supplies) == 0 {
		return supplies
	}
	hosts, short := match(supplies, demands, a.slack)
	for k, p := range proofs {
		capKind(demands, k, p.limit)
	}
	// A stable order of items: that of their first demand.
	byItem := map[*item][]demand{}
	var order []*item
	for _, d := range demands {
		if byItem[d.item] == nil {
			order = append(order, d.item)
		}
		byItem[d.item] = append(byItem[d.item], d)
	}
	had := map[tallyKey]uint64{}
	for key, t := range a.tallies {
		had[key] = t.failures
	}
	carried := map[*lane]*[kinds + 1]portion{}
	nodes := map[string]found{} // what autopsies agree with, by node
	for _, it := range order {
		c := carried[it.lane]
		if c == nil {
			c = &[kinds + 1]portion{}
			carried[it.lane] = c
		}
		nodes[it.lane.node] |= agree(it)
		a.takeAll(it, byItem[it], proofs, c)
	}
	for k, p := range proofs {
		for node, agrees := range nodes {
			key := tallyKey{p.cause, node}
			t := a.tallies[key]
			if t == nil || t.failures == had[key] {
				continue // none of these increments are theirs
			}
			t.counter = p.counter
			t.gained(deltas[k])
			t.rose, t.rested = min(t.rose, from[k]), max(t.rested, to[k])
			if t.agree == 0 {
				t.agree = agrees
			}
			t.shared = t.shared || short || p.shared
			maps.Copy(t.hosts, hosts[k])
		}
	}
	return supplies
}

// capKind scales what demands got of one kind down to the limit.
func capKind(demands []demand, kind int, limit float64) {
	var got float64
	for _, d := range demands {
		got += d.by[kind]
	}
	if got <= limit {
		return
	}
	for i := range demands {
		d := &demands[i]
		less := d.by[kind] * (1 - limit/got)
		d.by[kind] -= less
		d.got -= less
	}
}

// takeAll puts the item's explained attempts down to the proofs' causes, in
// the proportion in which these explain its packets.
func (a *attribution) takeAll(it *item, demands []demand, proofs []proof, carried *[kinds + 1]portion) {
	n := carried[kinds].of(it.allowed, explained(demands)/float64(it.allowed))
	var by [kinds]float64
	var got float64
	last := 0
	for _, d := range demands {
		for k := range by {
			by[k] += d.by[k]
			got += d.by[k]
		}
	}
	if n == 0 || got < slop {
		return
	}
	for k := range by {
		if by[k] > slop {
			last = k
		}
	}
	rest := n
	for k := range proofs {
		if by[k] <= slop {
			continue
		}
		m := rest
		if k != last {
			m = min(rest, carried[k].of(n, by[k]/got))
		}
		rest -= m
		a.take(it, proofs[k].cause, m, it.mask)
		if m > 0 {
			a.of(proofs[k].cause, it).packets += by[k]
			it.metFull(proofs[k])
		}
	}
}

// metFull notes when the first attempt of the item was started, where it was a
// full table that dropped it.
func (it *item) metFull(p proof) {
	if p.cause != tableFull || it.class != silent {
		return
	}
	if at := it.lane.bins.at(it.key).bad.firstStart[silent]; !math.IsNaN(at) {
		if it.lane.full == nil {
			it.lane.full = map[string]float64{}
		}
		it.lane.full[p.node] = least(it.lane.fullAt(p.node), at)
	}
}

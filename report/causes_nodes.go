package report

import (
	"maps"
	"math"
	"slices"
)

// tableProofs are the counters of a node's table that say that it dropped what
// was new to it; those of all nodes together where the name is empty, because
// nobody knows what entered by which.
func (a *attribution) tableProofs(node string) []proof {
	of := func(all []supply) []supply {
		if node == "" {
			return all
		}
		return slices.DeleteFunc(slices.Clone(all), func(s supply) bool { return s.host != node })
	}
	return []proof{
		a.leaveToOneWay(proof{cause: tableFull, counter: "drop", supplies: of(a.full), node: node}),
		a.leaveToOneWay(proof{cause: natClash, counter: "insert_failed", supplies: of(a.clashes), node: node}),
		a.leaveToOneWay(proof{cause: chainLong, counter: "chainlength", supplies: of(a.chains), node: node}),
		a.leaveToOneWay(proof{cause: snatPorts, counter: "insert_failed", supplies: of(a.ports), node: node}),
	}
}

// rest are proofs with what is left of their supplies.
func rest(proofs []proof, left []supply) []proof {
	out := slices.Clone(proofs)
	for k := range out {
		var used float64
		for _, s := range out[k].supplies {
			used += s.left
		}
		out[k].supplies = slices.DeleteFunc(slices.Clone(left), func(s supply) bool { return s.kind != k })
		for _, s := range out[k].supplies {
			used -= s.left
		}
		out[k].limit = max(0, out[k].limit-used)
	}
	return out
}

// lostOnNodes explains attempts by what each node's table dropped. Those that
// entered by the node have no entry there. Those that entered by another one
// and were sent on to a pod of this one, which tracks them as well, have an entry
// there that nothing answered. What is left then may also be of attempts that
// were not looked up, and of the connections of gateways, which go any way.
func (a *attribution) lostOnNodes(dropped found) {
	further := func(it *item, node string) bool {
		return it.class == silent && !it.lane.via(node) && a.l.costs(it.lane, node, it.start()) > 0
	}
	left := map[string][]proof{}
	for _, n := range a.l.nodeList {
		proofs := a.tableProofs(n.name)
		left[n.name] = rest(proofs, a.lostAs(proofs, func(it *item) found {
			switch {
			case it.class == silent && it.lane.via(n.name):
				return dropped
			case further(it, n.name):
				return foundAny(unreplied)
			}
			return 0
		}, func(*item) bool { return false }, dropped))
	}
	for _, n := range a.l.nodeList {
		a.lost(left[n.name], func(it *item) bool { return further(it, n.name) }, foundAny(unreplied, notLooked), a.secondLeg)
	}
}

// merged are the tallies of each cause, those of all nodes together.
func (a *attribution) merged() []*tally {
	by := map[string][]*tally{}
	for k, t := range a.tallies {
		by[k.cause] = append(by[k.cause], t)
	}
	out := make([]*tally, 0, len(by))
	for _, list := range by {
		out = append(out, mergeTallies(list))
	}
	return out
}

// cause is the tally of a cause, nil for none.
func (a *attribution) cause(name string) *tally {
	for _, t := range a.merged() {
		if t.cause == name {
			return t
		}
	}
	return nil
}

// mergeTallies adds up tallies of one cause.
func mergeTallies(list []*tally) *tally {
	if len(list) == 1 {
		return list[0]
	}
	slices.SortFunc(list, func(x, y *tally) int { return compareText(x.node, y.node) })
	sum := newTally(tallyKey{cause: list[0].cause})
	for _, t := range list {
		sum.failures += t.failures
		sum.later += t.later
		sum.packets += t.packets
		addCounts(sum.traffic, t.traffic)
		addCounts(sum.entered, t.entered)
		addCounts(sum.outcomes, t.outcomes)
		addCounts(sum.steps, t.steps)
		sum.from, sum.to = min(sum.from, t.from), max(sum.to, t.to)
		sum.rose, sum.rested = min(sum.rose, t.rose), max(sum.rested, t.rested)
		sum.counter, sum.how = cmpOr(sum.counter, t.counter), cmpOr(sum.how, t.how)
		sum.agree |= t.agree
		sum.shared = sum.shared || t.shared
		sum.kept += t.kept
		sum.led += t.led
		maps.Copy(sum.hosts, t.hosts)
		maps.Copy(sum.kinds, t.kinds)
		maps.Copy(sum.ties, t.ties)
		for f, n := range t.looked {
			sum.looked[f] += n
		}
		sum.unclear += t.unclear
		sum.gained(t.deltas)
	}
	return sum
}

func addCounts[K comparable](to, from map[K]uint64) {
	for k, n := range from {
		to[k] += n
	}
}

// gained notes what the counter gained, by host, of the same host the most.
func (t *tally) gained(by map[string]float64) {
	var sum float64
	for host, n := range by {
		t.deltas[host] = max(t.deltas[host], n)
	}
	for _, n := range t.deltas {
		sum += n
	}
	t.delta = uint64(math.Round(sum))
}

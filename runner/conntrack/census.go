package conntrack

import (
	"bytes"
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/tablefull/tablefull/report/runlog"
)

// maxGroups bounds a census. Entries of groups that are met first after that
// count as Other. The table is walked in the order of its hash, which is
// random, so a group that holds the share s of the entries is missed only if
// none of it is among the first 4096 entries or more: with a probability below
// exp(-4096*s), 2 % for a tenth of a percent.
const maxGroups = 4096

// groupKey is what entries of one group have in common.
type groupKey struct {
	service, backend         address
	servicePort, backendPort uint16
	proto, state             uint8
	flags                    uint8
}

const (
	groupAssured = 1 << iota
	groupReplied
	groupV6
)

// tally counts entries in constant memory.
type tally struct {
	entries, ballast, other uint64
	lookalikes              uint64 // have bulkBit, but are not ballast
	groups                  map[groupKey]*uint64
	counts                  []uint64            // backs groups
	others                  map[stateKey]uint64 // other, by state
	sources                 *spaceSaving[sourceKey]
	services                *spaceSaving[serviceKey]
	turnover                *turnover
}

// newTally makes a tally that can name at least the given number of sources.
func newTally(sources int) *tally {
	t := &tally{
		groups: make(map[groupKey]*uint64, maxGroups),
		counts: make([]uint64, 0, maxGroups),
		others: map[stateKey]uint64{},
	}
	if sources > 0 {
		t.sources = newSpaceSaving[sourceKey](sketchSize(sources))
	}
	return t
}

// sketchSize is how many counters a sketch has that is to name n. The error of a
// count is at most entries/counters: more counters than names keep it well
// below what is worth naming.
func sketchSize(n int) int { return max(1024, 4*n) }

func (t *tally) reset() {
	t.entries, t.ballast, t.other, t.lookalikes = 0, 0, 0, 0
	clear(t.groups)
	t.counts = t.counts[:0]
	clear(t.others)
	if t.sources != nil {
		t.sources.reset()
	}
	if t.services != nil {
		t.services.reset()
	}
	if t.turnover != nil {
		t.turnover.begin()
	}
}

func (t *tally) add(e *entry) {
	t.entries++
	if isBallast(e.mark) {
		t.ballast++
		return
	}
	if e.mark&bulkBit != 0 {
		t.lookalikes++
	}
	if t.sources != nil {
		t.sources.add(sourceKey{e.src, e.v6})
	}
	if t.services != nil {
		t.services.add(serviceKey{e.dst, e.dstPort, e.proto, e.v6})
	}
	if t.turnover != nil {
		t.turnover.add(e)
	}
	k := groupKey{
		service: e.dst, servicePort: e.dstPort,
		backend: e.replySrc, backendPort: e.replySrcPort,
		proto: e.proto, state: e.state,
	}
	if e.status&statusAssured != 0 {
		k.flags |= groupAssured
	}
	if e.status&statusSeenReply != 0 {
		k.flags |= groupReplied
	}
	if e.v6 {
		k.flags |= groupV6
	}
	if n := t.groups[k]; n != nil {
		*n++
		return
	}
	if len(t.counts) == cap(t.counts) {
		t.other++
		t.others[k.inState()]++
		return
	}
	t.counts = append(t.counts, 1)
	t.groups[k] = &t.counts[len(t.counts)-1]
}

// census returns what has been counted, with the given number of the heaviest
// sources.
func (t *tally) census(sources int) *runlog.Census {
	c := &runlog.Census{Entries: t.entries, Ballast: t.ballast, Other: t.other}
	c.Groups = make([]runlog.CensusGroup, 0, len(t.groups))
	for k, n := range t.groups {
		c.Groups = append(c.Groups, k.group(*n))
	}
	slices.SortFunc(c.Groups, func(a, b runlog.CensusGroup) int {
		return cmp.Or(
			cmp.Compare(b.Count, a.Count),
			a.Service.Compare(b.Service), a.Backend.Compare(b.Backend),
			cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.State, b.State),
			compareBool(a.Assured, b.Assured), compareBool(a.Replied, b.Replied),
		)
	})
	if t.sources != nil {
		c.Sources = []runlog.TopSource{}
		for _, s := range t.sources.top(sources, sourceKey.compare) {
			c.Sources = append(c.Sources, runlog.TopSource{Addr: s.key.addr.addr(s.key.v6), Count: s.count, Error: s.error})
		}
	}
	if t.other > 0 {
		c.States = t.stateCounts()
	}
	return c
}

func (t *tally) stateCounts() []runlog.StateCount {
	states := maps.Clone(t.others)
	for k, n := range t.groups {
		states[k.inState()] += *n
	}
	var out []runlog.StateCount
	for k, n := range states {
		s := runlog.StateCount{Proto: protoName(k.proto), Assured: k.flags&groupAssured != 0, Replied: k.flags&groupReplied != 0, Count: n}
		if k.proto == protoTCP {
			s.State = stateName(k.state)
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b runlog.StateCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.State, b.State),
			compareBool(a.Assured, b.Assured), compareBool(a.Replied, b.Replied))
	})
	return out
}

// topServices are the n destinations with most entries.
func (t *tally) topServices(n int) []runlog.TopService {
	if t.services == nil {
		return nil
	}
	var out []runlog.TopService
	for _, s := range t.services.top(n, serviceKey.compare) {
		out = append(out, runlog.TopService{
			Proto: protoName(s.key.proto), Addr: netip.AddrPortFrom(s.key.addr.addr(s.key.v6), s.key.port), Count: s.count, Error: s.error,
		})
	}
	return out
}

func (k groupKey) group(n uint64) runlog.CensusGroup {
	v6 := k.flags&groupV6 != 0
	g := runlog.CensusGroup{
		Proto:   protoName(k.proto),
		Assured: k.flags&groupAssured != 0,
		Replied: k.flags&groupReplied != 0,
		Service: netip.AddrPortFrom(k.service.addr(v6), k.servicePort),
		Backend: netip.AddrPortFrom(k.backend.addr(v6), k.backendPort),
		Count:   n,
	}
	if k.proto == protoTCP {
		g.State = stateName(k.state)
	}
	return g
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// stateKey is what a state census tells apart.
type stateKey struct{ proto, state, flags uint8 }

func (k groupKey) inState() stateKey { return stateKey{k.proto, k.state, k.flags &^ groupV6} }

type sourceKey struct {
	addr address
	v6   bool
}

func (k sourceKey) compare(l sourceKey) int { return bytes.Compare(k.addr[:], l.addr[:]) }

type serviceKey struct {
	addr  address
	port  uint16
	proto uint8
	v6    bool
}

func (k serviceKey) compare(l serviceKey) int {
	return cmp.Or(bytes.Compare(k.addr[:], l.addr[:]), cmp.Compare(k.port, l.port), cmp.Compare(k.proto, l.proto))
}

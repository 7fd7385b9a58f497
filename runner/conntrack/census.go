package conntrack

import (
	"bytes"
	"cmp"
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
	counts                  []uint64 // backs groups
	sources                 *spaceSaving
}

// newTally makes a tally that can name at least the given number of sources.
func newTally(sources int) *tally {
	t := &tally{
		groups: make(map[groupKey]*uint64, maxGroups),
		counts: make([]uint64, 0, maxGroups),
	}
	if sources > 0 {
		// The error of a count is at most entries/capacity: more counters
		// than names keep it well below what is worth naming.
		t.sources = newSpaceSaving(max(1024, 4*sources))
	}
	return t
}

func (t *tally) reset() {
	t.entries, t.ballast, t.other, t.lookalikes = 0, 0, 0, 0
	clear(t.groups)
	t.counts = t.counts[:0]
	if t.sources != nil {
		t.sources.reset()
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
		c.Sources = t.sources.top(sources)
	}
	return c
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

type sourceKey struct {
	addr address
	v6   bool
}

// spaceSaving finds the heavy hitters of a stream in constant memory (Metwally,
// Agrawal, El Abbadi: Efficient Computation of Frequent and Top-k Elements in
// Data Streams, 2005). It keeps a fixed number of counters. A new item takes
// over the smallest one, and with it, as its error, what it had counted. Each
// item that makes up more than 1/capacity of the stream has a counter, and its
// true count is in [count-error, count].
type spaceSaving struct {
	capacity int
	where    map[sourceKey]int // index in heap
	heap     []sourceCount     // the smallest count on top
}

type sourceCount struct {
	key          sourceKey
	count, error uint64
}

func newSpaceSaving(capacity int) *spaceSaving {
	return &spaceSaving{
		capacity: capacity,
		where:    make(map[sourceKey]int, capacity),
		heap:     make([]sourceCount, 0, capacity),
	}
}

func (s *spaceSaving) reset() {
	clear(s.where)
	s.heap = s.heap[:0]
}

func (s *spaceSaving) add(k sourceKey) {
	i, ok := s.where[k]
	switch {
	case ok:
		s.heap[i].count++
		s.down(i)
	case len(s.heap) < s.capacity:
		s.heap = append(s.heap, sourceCount{key: k, count: 1})
		i = len(s.heap) - 1
		s.where[k] = i
		s.up(i)
	default:
		least := &s.heap[0]
		delete(s.where, least.key)
		*least = sourceCount{key: k, count: least.count + 1, error: least.count}
		s.where[k] = 0
		s.down(0)
	}
}

func (s *spaceSaving) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if s.heap[parent].count <= s.heap[i].count {
			return
		}
		s.swap(i, parent)
		i = parent
	}
}

func (s *spaceSaving) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(s.heap) {
			return
		}
		if child+1 < len(s.heap) && s.heap[child+1].count < s.heap[child].count {
			child++
		}
		if s.heap[i].count <= s.heap[child].count {
			return
		}
		s.swap(i, child)
		i = child
	}
}

func (s *spaceSaving) swap(i, j int) {
	s.heap[i], s.heap[j] = s.heap[j], s.heap[i]
	s.where[s.heap[i].key] = i
	s.where[s.heap[j].key] = j
}

// top returns the n heaviest, heaviest first.
func (s *spaceSaving) top(n int) []runlog.TopSource {
	all := slices.Clone(s.heap)
	slices.SortFunc(all, func(a, b sourceCount) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.error, b.error), bytes.Compare(a.key.addr[:], b.key.addr[:]))
	})
	all = all[:min(n, len(all))]
	top := make([]runlog.TopSource, len(all))
	for i, c := range all {
		top[i] = runlog.TopSource{Addr: c.key.addr.addr(c.key.v6), Count: c.count, Error: c.error}
	}
	return top
}

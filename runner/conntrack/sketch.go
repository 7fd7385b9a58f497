package conntrack

import (
	"cmp"
	"slices"
)

// spaceSaving finds the heavy hitters of a stream in constant memory (Metwally,
// Agrawal, El Abbadi: Efficient Computation of Frequent and Top-k Elements in
// Data Streams, 2005). It keeps a fixed number of counters. A new item takes
// over the smallest one, and with it, as its error, what it had counted. Each
// item that makes up more than 1/capacity of the stream has a counter, and its
// true count is in [count-error, count].
type spaceSaving[K comparable] struct {
	capacity int
	where    map[K]int     // index in heap
	heap     []sketched[K] // the smallest count on top
}

// sketched is one counter.
type sketched[K comparable] struct {
	key          K
	count, error uint64
}

func newSpaceSaving[K comparable](capacity int) *spaceSaving[K] {
	return &spaceSaving[K]{
		capacity: capacity,
		where:    make(map[K]int, capacity),
		heap:     make([]sketched[K], 0, capacity),
	}
}

func (s *spaceSaving[K]) reset() {
	clear(s.where)
	s.heap = s.heap[:0]
}

func (s *spaceSaving[K]) add(k K) {
	i, ok := s.where[k]
	switch {
	case ok:
		s.heap[i].count++
		s.down(i)
	case len(s.heap) < s.capacity:
		s.heap = append(s.heap, sketched[K]{key: k, count: 1})
		i = len(s.heap) - 1
		s.where[k] = i
		s.up(i)
	default:
		least := &s.heap[0]
		delete(s.where, least.key)
		*least = sketched[K]{key: k, count: least.count + 1, error: least.count}
		s.where[k] = 0
		s.down(0)
	}
}

func (s *spaceSaving[K]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if s.heap[parent].count <= s.heap[i].count {
			return
		}
		s.swap(i, parent)
		i = parent
	}
}

func (s *spaceSaving[K]) down(i int) {
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

func (s *spaceSaving[K]) swap(i, j int) {
	s.heap[i], s.heap[j] = s.heap[j], s.heap[i]
	s.where[s.heap[i].key] = i
	s.where[s.heap[j].key] = j
}

// top returns the n heaviest, heaviest first; compare decides between those
// that are as heavy.
func (s *spaceSaving[K]) top(n int, compare func(a, b K) int) []sketched[K] {
	all := slices.Clone(s.heap)
	slices.SortFunc(all, func(a, b sketched[K]) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.error, b.error), compare(a.key, b.key))
	})
	return all[:min(n, len(all))]
}

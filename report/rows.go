package report

import (
	"iter"
	"math"
)

// rowChunk is how many samples are allocated at once. A slice that grows by
// copying would need twice the memory.
const rowChunk = 4096

// rows are a node's samples: the last one before the run, or the first of all,
// and those of the run. What the counters that causes rest on gained since the
// sample before is kept for the few samples at which they gained anything.
type rows struct {
	chunks [][]tableSample
	n      int
	gained []gain // in order of at
}

// gain is what counters gained up to one sample.
type gain struct {
	at                                  int // index of the sample
	drop, early, failed, chain, invalid uint64
}

func (r *rows) add(s tableSample, g gain) {
	if r.n%rowChunk == 0 {
		var chunk []tableSample // the first one grows
		if r.n > 0 {
			chunk = make([]tableSample, 0, rowChunk)
		}
		r.chunks = append(r.chunks, chunk)
	}
	last := len(r.chunks) - 1
	r.chunks[last] = append(r.chunks[last], s)
	if g != (gain{}) {
		g.at = r.n
		r.gained = append(r.gained, g)
	}
	r.n++
}

func (r *rows) at(i int) *tableSample { return &r.chunks[i/rowChunk][i%rowChunk] }

// measured says whether there is an interval of the run.
func (r *rows) measured() bool { return r.n > 1 }

// intervals are what lies between successive samples, in order.
func (r *rows) intervals() iter.Seq[interval] {
	return func(yield func(interval) bool) {
		next := 0
		for i := 1; i < r.n; i++ {
			iv := interval{a: *r.at(i - 1), b: *r.at(i)}
			if next < len(r.gained) && r.gained[next].at == i {
				g := r.gained[next]
				iv.drop, iv.early, iv.failed, iv.chain, iv.invalid = g.drop, g.early, g.failed, g.chain, g.invalid
				next++
			}
			if !yield(iv) {
				return
			}
		}
	}
}

// thinned are the rows, but of each block, by index of time, that keep says no
// to only the one with the most entries. Counters gained nothing there.
func (r *rows) thinned(block func(t float64) int64, keep func(block int64) bool) rows {
	var out rows
	var most *tableSample // of a block that is not kept
	flush := func() {
		if most != nil {
			out.add(*most, gain{})
			most = nil
		}
	}
	in := int64(math.MinInt64)
	add := func(s tableSample, g gain) {
		b := block(s.t)
		if b != in {
			flush()
			in = b
		}
		switch {
		case keep(b):
			out.add(s, g)
		case most == nil || s.entries > most.entries:
			most = &s
		}
	}
	if r.n == 0 {
		return out
	}
	out.add(*r.at(0), gain{}) // what the first interval begins with
	for iv := range r.intervals() {
		add(iv.b, gain{drop: iv.drop, early: iv.early, failed: iv.failed, chain: iv.chain, invalid: iv.invalid})
	}
	flush()
	return out
}

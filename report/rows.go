package report

import (
	"iter"
	"slices"
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

// binPage is how many successive bins are allocated at once.
const binPage = 64

// bins are a traffic's bins by their index. Nearly all of a run's are there,
// so they are kept in pages; those in which nothing was counted are not told
// from those that are not there.
type bins struct {
	pages map[int64]*[binPage]bin
	n     int // bins in pages
	last  *[binPage]bin
	lastK int64
}

// at returns the bin, which is made where there is none.
func (b *bins) at(k int64) *bin {
	page := k >> 6
	if b.last == nil || b.lastK != page {
		p := b.pages[page]
		if p == nil {
			if b.pages == nil {
				b.pages = map[int64]*[binPage]bin{}
			}
			p = &[binPage]bin{}
			b.pages[page] = p
			b.n += binPage
		}
		b.last, b.lastK = p, page
	}
	return &b.last[k&(binPage-1)]
}

// get returns the bin, nil where there is none.
func (b *bins) get(k int64) *bin {
	if page := b.pages[k>>6]; page != nil {
		return &page[k&(binPage-1)]
	}
	return nil
}

// all are the bins in which something was counted, in order of time.
func (b *bins) all() iter.Seq2[int64, *bin] {
	return func(yield func(int64, *bin) bool) {
		pages := make([]int64, 0, len(b.pages))
		for p := range b.pages {
			pages = append(pages, p)
		}
		slices.Sort(pages)
		for _, p := range pages {
			page := b.pages[p]
			for i := range page {
				if page[i] != (bin{}) && !yield(p*binPage+int64(i), &page[i]) {
					return
				}
			}
		}
	}
}

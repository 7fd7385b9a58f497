package report

import (
	"cmp"
	"iter"
	"slices"
)

// binPage is how many successive bins are allocated at once.
const (
	binPage  = 1 << pageBits
	pageBits = 4
)

// bins are a traffic's bins by their index. Nearly all of a run's are there,
// so they are kept in pages; those in which nothing was counted are not told
// from those that are not there.
type bins struct {
	pages map[int64]*[binPage]bin
	n     int // bins in pages, and of sums
	last  *[binPage]bin
	lastK int64
	sums  []foldedPage // of pages that were folded, in order
}

// foldedPage is all that was counted in a page, as if it were in its first bin.
type foldedPage struct {
	page int64
	bin  bin
}

// at returns the bin, which is made where there is none.
func (b *bins) at(k int64) *bin {
	page := k >> pageBits
	if b.last == nil || b.lastK != page {
		p := b.pages[page]
		if p == nil {
			if i, ok := b.summed(page); ok {
				return &b.sums[i].bin
			}
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
	if page := b.pages[k>>pageBits]; page != nil {
		return &page[k&(binPage-1)]
	}
	if i, ok := b.summed(k >> pageBits); ok {
		return &b.sums[i].bin
	}
	return nil
}

func (b *bins) summed(page int64) (int, bool) {
	return slices.BinarySearchFunc(b.sums, page, func(f foldedPage, page int64) int { return cmp.Compare(f.page, page) })
}

// all are the bins in which something was counted, in order of time.
func (b *bins) all() iter.Seq2[int64, *bin] {
	return func(yield func(int64, *bin) bool) {
		sums := b.sums
		for _, p := range b.sorted() {
			for len(sums) > 0 && sums[0].page < p {
				if !yield(sums[0].page*binPage, &sums[0].bin) {
					return
				}
				sums = sums[1:]
			}
			page := b.pages[p]
			for i := range page {
				if page[i] != (bin{}) && !yield(p*binPage+int64(i), &page[i]) {
					return
				}
			}
		}
		for i := range sums {
			if !yield(sums[i].page*binPage, &sums[i].bin) {
				return
			}
		}
	}
}

func (b *bins) sorted() []int64 {
	pages := make([]int64, 0, len(b.pages))
	for p := range b.pages {
		pages = append(pages, p)
	}
	slices.Sort(pages)
	return pages
}

// fold keeps of each page that may be folded only what was counted in it.
func (b *bins) fold(may func(page int64) bool) {
	for _, p := range b.sorted() {
		if !may(p) {
			continue
		}
		var all bin
		for _, one := range b.pages[p] {
			all.due += one.due
			all.started += one.started
			all.late += one.late
			all.ok += one.ok
		}
		delete(b.pages, p)
		b.n -= binPage
		if all != (bin{}) {
			b.sums = append(b.sums, foldedPage{p, all})
			b.n++
		}
	}
	b.last = nil
	slices.SortFunc(b.sums, func(x, y foldedPage) int { return cmp.Compare(x.page, y.page) })
}

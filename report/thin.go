package report

import (
	"math"
	"slices"

	"github.com/tablefull/tablefull/scenarios"
)

const (
	// thinAfter is how long before the newest that all hosts have told, in s of run
	// time, something has to be before it is thinned.
	thinAfter = 60
	// thinEvery is after how much more of the run, in s, it is done again.
	thinEvery = 30
	// thinBlock is the length of a block of samples, in s.
	thinBlock = 1.6
	// thinCells is how many cells are kept of what only plots are drawn from, which
	// nobody draws of such an analysis.
	thinCells = 120
)

// thin keeps less of what is long past: where nothing failed, no counter of a
// table gained anything, its limit stayed what it was, and no threshold's window
// has its edge, of each stretch of 1.6 s the sample with the most entries, and
// of each 16 bins the sum of what was counted. All that thresholds fail by, and
// what causes rest on, stays; where samples are missing is no longer known, and plots
// have no more than some 120 steps.
func (l *log) thin() {
	before := l.toldTo() - thinAfter
	if !sane(before) || before < l.thinnedTo+thinEvery {
		return
	}
	l.thinnedTo = before
	busy := l.moments()
	for _, n := range l.nodeList {
		n.table.limit(thinCells)
		n.used.limit(thinCells)
		block := func(t float64) int64 { return int64(math.Floor(t / thinBlock)) }
		n.rows = n.rows.thinned(block, func(b int64) bool {
			from := float64(b) * thinBlock
			return from+thinBlock > before || busy.in(from, from+thinBlock)
		})
	}
	for _, t := range l.order {
		t.holding.limit(thinCells)
		t.took.limit(thinCells)
		fold := func(b *bins) { // which changes nothing where it has been folded
			b.fold(func(page int64) bool {
				from, to := t.start(page*binPage), t.start((page+1)*binPage)
				return to <= before && !busy.in(from, to) && !b.open(page, t.oneWay())
			})
		}
		fold(&t.bins)
		for _, v := range t.lanes {
			fold(v.bins)
		}
	}
}

// toldTo is the run time in s up to which each load and each node has told what it has.
func (l *log) toldTo() float64 {
	to := min(l.lastT, l.countedTo())
	for _, n := range l.nodeList {
		if n.last != nil {
			to = min(to, n.last.t)
		}
	}
	return to
}

// open says whether attempts of the page have not ended yet, as far as is known.
func (b *bins) open(page int64, oneWay bool) bool {
	return !oneWay && slices.ContainsFunc(b.pages[page][:], func(one bin) bool { return one.started != one.ok })
}

// moments are times in s, sorted, of which all is kept, for what is concluded
// rests on them.
type moments struct {
	at     []float64
	around float64 // s before and after them of which all is kept as well
}

// in says whether one of them is in [from, to), or near.
func (m moments) in(from, to float64) bool {
	i, _ := slices.BinarySearch(m.at, from-m.around)
	return i < len(m.at) && m.at[i] < to+m.around
}

func (l *log) moments() moments {
	m := moments{around: 1 + l.clockBound}
	if h := l.header; h != nil {
		if s := h.SampleEvery; s > 0 && s <= 60 {
			m.around += 2 * s
		}
		for _, spec := range slices.Concat(h.Thresholds, h.Expect) {
			if t, err := scenarios.ParseThreshold(spec); err == nil {
				m.at = append(m.at, t.From, t.To)
			}
		}
	}
	for _, n := range l.nodeList {
		for iv := range n.rows.intervals() {
			if iv.drop|iv.early|iv.failed|iv.chain|iv.invalid != 0 || iv.a.limit != iv.b.limit {
				m.at = append(m.at, iv.a.t, iv.b.t)
			}
		}
	}
	for _, t := range l.order {
		for k, b := range t.bins.all() {
			if b.bad != nil {
				m.at = append(m.at, t.start(k), t.start(k)+t.width)
			}
		}
	}
	slices.Sort(m.at)
	m.at = slices.Compact(m.at)
	return m
}

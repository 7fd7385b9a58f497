package report

import (
	"math"
	"slices"
)

// maxSteps is how many steps a plotted series has at most.
const maxSteps = 1200

// keptCells is how many cells a grid keeps while the log is read, when nobody
// knows how long the run is. It is several times maxSteps, so that the steps
// that are plotted can be chosen at the end.
const keptCells = 10 * maxSteps

// readable are the lengths of a plotted step in s. Each is a multiple of the
// levels that a grid can have reached in a run of which it is a step.
var readable = []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 36000, 72000, 144000}

// levels are the lengths of a grid's cells in s. Each is a multiple of the one
// before, so that cells can be merged.
var levels = []float64{0.1, 0.5, 1, 5, 10, 60, 600, 3600, 36000}

// stepFor is the smallest readable step, not below least, of which the length
// has at most maxSteps, all in s.
func stepFor(length, least float64) float64 {
	for _, s := range readable {
		if length <= s*maxSteps && s >= least-slop {
			return s
		}
	}
	return math.Ceil(length / maxSteps) // no run time is as long as that
}

// stepAbove is the smallest readable step that is not below least, both in s.
func stepAbove(least float64) float64 {
	for _, s := range readable {
		if s >= least-slop {
			return s
		}
	}
	return math.Ceil(least)
}

// stepOf is the number of the step that t is in, counted from the one that
// begins at 0.
func stepOf(t, step float64) int64 { return int64(math.Floor(t/step + slop)) }

// A grid keeps what is plotted of a run in bounded memory: cells of equal
// length in order of time, of which neighbours are merged into longer ones
// when there are too many. Cells in which nothing was measured are left out.
type grid[C any] struct {
	level int
	most  int
	keys  []int64
	cells []C
	// merge adds a later cell to one, and may keep parts of it.
	merge func(into *C, later C)
}

func newGrid[C any](least float64, most int, merge func(*C, C)) *grid[C] {
	return &grid[C]{level: slices.Index(levels, least), most: most, merge: merge}
}

// step is the present length of a cell in s.
func (g *grid[C]) step() float64 { return levels[g.level] }

// add merges c, measured at t, into its cell.
func (g *grid[C]) add(t float64, c C) {
	g.put(stepOf(t, g.step()), c)
	g.fit()
}

// limit has it keep no more than most cells from now on.
func (g *grid[C]) limit(most int) {
	g.most = min(g.most, most)
	g.fit()
}

func (g *grid[C]) fit() {
	for len(g.keys) > g.most && g.level+1 < len(levels) {
		g.level++
		*g = *g.thinned(g.step(), levels[g.level-1], nil)
	}
}

func (g *grid[C]) put(key int64, c C) {
	i := len(g.keys)
	if i == 0 || key > g.keys[i-1] {
		g.keys, g.cells = append(g.keys, key), append(g.cells, c)
		return
	}
	i, found := slices.BinarySearch(g.keys, key)
	if found {
		g.merge(&g.cells[i], c)
		return
	}
	g.keys, g.cells = slices.Insert(g.keys, i, key), slices.Insert(g.cells, i, c)
}

// thinned is a copy with cells of that many s, a multiple of was, the length
// of the present ones. own, where it is not nil, copies what a cell shares
// with the one it was copied from.
func (g *grid[C]) thinned(step, was float64, own func(C) C) *grid[C] {
	out := &grid[C]{level: g.level, most: g.most, merge: g.merge}
	for i, k := range g.keys {
		c := g.cells[i]
		if own != nil {
			c = own(c)
		}
		out.put(stepOf(float64(k)*was, step), c)
	}
	return out
}

package report

import (
	"math"
	"sort"
)

// counts is a series of counts by due time that can be asked how many fall
// into any stretch of time, as if they were spread evenly in their bins.
type counts struct {
	width float64
	start []float64
	sum   []float64 // of all before
	total float64
}

func (t *traffic) series(of func(*bin) uint64) *counts { return t.seriesOf(&t.bins, of) }

// seriesOf is of some of the traffic's attempts.
func (t *traffic) seriesOf(some *bins, of func(*bin) uint64) *counts {
	c := &counts{width: t.width}
	c.start, c.sum = make([]float64, 0, some.n), make([]float64, 0, some.n)
	for k, b := range some.all() {
		n := of(b)
		if n == 0 {
			continue
		}
		c.start = append(c.start, t.start(k))
		c.sum = append(c.sum, c.total)
		c.total += float64(n)
	}
	return c
}

// before is the count due before x.
func (c *counts) before(x float64) float64 {
	i := sort.SearchFloat64s(c.start, x) // the first bin that starts at or after x
	if i == 0 {
		return 0
	}
	i--
	next := c.total
	if i+1 < len(c.sum) {
		next = c.sum[i+1]
	}
	return c.sum[i] + (next-c.sum[i])*math.Min(1, (x-c.start[i])/c.width)
}

// in is the count due in [a, b).
func (c *counts) in(a, b float64) float64 {
	if b <= a {
		return 0
	}
	return c.before(b) - c.before(a)
}

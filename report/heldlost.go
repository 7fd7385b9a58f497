package report

import "slices"

// maxLosses bounds how many moments at which held connections were lost are
// told apart.
const maxLosses = 1 << 16

// loss is how many held connections of a traffic had been lost by a time.
type loss struct {
	t    float64
	lost uint64
}

// lostHeld notes a traffic's count of lost connections.
func (t *traffic) lostHeld(at float64, lost uint64) {
	n := len(t.losses)
	switch {
	case lost == 0, n > 0 && (lost <= t.losses[n-1].lost || at < t.losses[n-1].t):
	case n == maxLosses:
		t.losses[n-1].lost = lost
	default:
		t.losses = append(t.losses, loss{at, lost})
	}
}

// lostBy is how many held connections had been lost when the count was made
// that was the last before at.
func (t *traffic) lostBy(at float64) uint64 {
	i, found := slices.BinarySearchFunc(t.losses, at, func(x loss, at float64) int {
		switch {
		case x.t < at:
			return -1
		case x.t > at:
			return 1
		}
		return 0
	})
	if found {
		return t.losses[i].lost
	}
	if i == 0 {
		return 0
	}
	return t.losses[i-1].lost
}

// lostBetween is how many held connections were lost between two times.
func (l *log) lostBetween(a, b float64) uint64 {
	var n uint64
	for _, t := range l.order {
		n += t.lostBy(b) - t.lostBy(a)
	}
	return n
}

package report

import (
	"math"
	"sort"
)

// onsets finds when it began on the node. An onset that a counter shows lies
// between two samples; its middle has the smallest error.
func (l *log) onsets(n *node, a *attribution) Knee {
	var k Knee
	for iv := range n.rows.intervals() {
		if iv.early > 0 {
			k.EarlyDrop = l.between(n.name, iv)
			break
		}
	}
	for iv := range n.rows.intervals() {
		if iv.fullDrops(a.arrivals(n.name, iv.a.t, iv.b.t)) == 0 {
			continue
		}
		k.Drop = l.between(n.name, iv)
		l.refine(n.name, k.Drop, iv)
		break
	}
	return k
}

// between is an onset somewhere in the interval, on the node.
func (l *log) between(node string, iv interval) *Onset {
	from := max(iv.a.t, min(0, iv.b.t)) // nothing of the run happens before 0
	if iv.a.t < 0 && iv.b.t > 0 {
		from = 0
	}
	entries := max(iv.a.entries, iv.b.entries)
	o := &Onset{
		AtS:          (from + iv.b.t) / 2,
		Entries:      &entries,
		UncertaintyS: (iv.b.t-from)/2 + iv.b.took/2 + l.clockBound,
		OfferedPerS:  l.offeredAt(node, (from+iv.b.t)/2),
	}
	o.Occupancy, o.Limit = occupancy(entries, iv.b.limit), known(iv.b.limit)
	return o
}

// known is nil for a limit that was not read.
func known(limit uint64) *uint64 {
	if limit == 0 {
		return nil
	}
	return &limit
}

func occupancy(entries, limit uint64) *float64 {
	if limit == 0 {
		return nil
	}
	v := float64(entries) / float64(limit)
	return &v
}

// refine puts a drop onset at the start of the first attempt that met the full
// table, where that lies in the same interval: the drop was that attempt's SYN.
// With one-way traffic in the interval it may have been another packet.
func (l *log) refine(node string, o *Onset, iv interval) {
	first := math.NaN()
	for _, t := range l.order {
		if t.oneWay() {
			if t.series(func(b *bin) uint64 { return b.started }).in(iv.a.t-1, iv.b.t) > 0 {
				return
			}
			continue
		}
		for _, v := range t.lanes {
			first = least(least(first, v.fullAt(node)), v.fullAt(""))
		}
	}
	edge := iv.b.took/2 + l.clockBound + 0.001
	if math.IsNaN(first) || first < iv.a.t-edge || first > iv.b.t+edge {
		return
	}
	o.AtS = first
	o.UncertaintyS = 0.001 + l.clockBound
	if o.OfferedPerS = l.offeredAt(node, first); o.OfferedPerS != nil && *o.OfferedPerS > 0 {
		// The table may have been full since the attempt before.
		o.UncertaintyS += 1 / *o.OfferedPerS
	}
}

// offeredAt is the number of attempts due per second within half a second of
// at, of those that entered by the node; of all where the name is empty. It is
// nil where none were.
func (l *log) offeredAt(node string, at float64) *float64 {
	from, to := at-0.5, at+0.5
	start, end := math.Inf(1), math.Inf(-1)
	var n float64
	for _, t := range l.order {
		for _, v := range t.lanes {
			c := v.dueCounts()
			if len(c.start) == 0 || node != "" && !v.via(node) {
				continue
			}
			start, end = min(start, c.start[0]), max(end, c.start[len(c.start)-1]+c.width)
			n += c.in(from, to)
		}
	}
	if from, to = max(from, start), min(to, end); to-from < slop {
		return nil
	}
	rate := n / (to - from)
	return &rate
}

// due is the traffic's attempts by due time.
func (t *traffic) due() *counts {
	if t.dueCounts == nil {
		t.dueCounts = t.series(func(b *bin) uint64 { return b.due })
	}
	return t.dueCounts
}

// clientLoss is the first attempt that failed at the client, of those that
// entered by the node; of all where the name is empty.
func (l *log) clientLoss(node string) *Onset {
	var best *Onset
	for _, t := range l.order {
		if t.oneWay() {
			continue
		}
		for _, v := range t.lanes {
			if node != "" && !v.via(node) {
				continue
			}
			if o := l.firstLoss(v); o != nil && (best == nil || o.AtS < best.AtS) {
				best = o
			}
		}
	}
	if best == nil {
		return nil
	}
	best.OfferedPerS = l.offeredAt(node, best.AtS)
	var s *tableSample
	for _, n := range l.nodeList {
		if node != "" && n.name != node {
			continue
		}
		if x := n.at(best.AtS); x != nil && (s == nil || x.entries > s.entries) {
			s = x
		}
	}
	if s != nil {
		e := s.entries
		best.Entries, best.Occupancy, best.Limit = &e, occupancy(e, s.limit), known(s.limit)
	}
	return best
}

// lateStart is the delay, in s, from which a started attempt counts as late.
const lateStart = 0.01

func (l *log) firstLoss(v *lane) *Onset {
	t := v.t
	lastOK := math.NaN() // end of the last bin with a success
	for k, b := range v.bins.all() {
		if b.failed() == 0 {
			if b.ok > 0 {
				lastOK = t.start(k) + t.width
			}
			continue
		}
		o := &Onset{AtS: t.start(k) + t.width/2, UncertaintyS: t.width/2 + l.clockBound}
		if due := b.bad.firstDue; !math.IsNaN(due) {
			// Attempts of one bin are spread evenly in it. What befell this one befell it
			// when it was started: so it is no earlier than the drop of its own SYN.
			o.AtS, o.UncertaintyS = due+b.bad.firstLate, t.width/max(1, float64(b.due))+l.clockBound
			if b.bad.firstLate > lateStart {
				o.UncertaintyS += b.bad.firstLate
			}
		}
		if b.ok == 0 && !math.IsNaN(lastOK) && t.start(k)-lastOK > t.width/2 {
			o.UncertaintyS = max(o.UncertaintyS, o.AtS-lastOK)
		}
		return o
	}
	return nil
}

// at is the sample nearest to t, nil without any. Where the limit was set
// between the two around t it is the one with the fuller table: which limit was
// in force is not known then, and a table that is not full loses nothing.
func (n *node) at(t float64) *tableSample {
	if !n.rows.measured() {
		return n.last
	}
	i := 1 + sort.Search(n.rows.n-1, func(i int) bool { return n.rows.at(i+1).t >= t })
	if i == n.rows.n {
		return n.last
	}
	a, b := n.rows.at(i-1), n.rows.at(i)
	nearest := b
	if t-a.t < b.t-t {
		nearest = a
	}
	if a.limit > 0 && b.limit > 0 && a.limit != b.limit {
		if float64(a.entries)/float64(a.limit) > float64(b.entries)/float64(b.limit) {
			return a
		}
		return b
	}
	return nearest
}

// firstNode is the node whose table filled first, the one with the fullest
// table where none did, nil without samples.
func firstNode(l *log, knees map[*node]Knee) *node {
	var best *node
	bestAt := math.Inf(1)
	for _, n := range l.nodeList {
		if n.last == nil {
			continue
		}
		at := math.Inf(1)
		for _, o := range []*Onset{knees[n].EarlyDrop, knees[n].Drop} {
			if o != nil {
				at = min(at, o.AtS)
			}
		}
		if best == nil || at < bestAt || at == bestAt && n.peakShare > best.peakShare {
			best, bestAt = n, at
		}
	}
	return best
}

// firstOf merges the nodes' onsets: the first to get there, of each kind.
func firstOf(l *log, knees map[*node]Knee) Knee {
	var k Knee
	earlier := func(have, o *Onset) *Onset {
		if o != nil && (have == nil || o.AtS < have.AtS) {
			return o
		}
		return have
	}
	for _, n := range l.nodeList {
		k.EarlyDrop = earlier(k.EarlyDrop, knees[n].EarlyDrop)
		k.Drop = earlier(k.Drop, knees[n].Drop)
	}
	return k
}

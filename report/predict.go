package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// need is how many entries the planned attempts ask a node for at a moment: those
// that were due less than their residence ago. It is exact for attempts that
// take no time themselves.
type need struct {
	parts   []needPart
	unknown []string
	// evictable says that some entries are not ASSURED, so that a full table
	// evicts before it drops.
	evictable bool
	expires   bool // some residence is shorter than the run
}

type needPart struct {
	due       *counts
	entries   float64 // per attempt
	residence float64 // s; infinite where connections are held
}

func (l *log) need(node string) *need {
	n := &need{}
	for _, t := range l.order {
		c := t.due()
		if c.total == 0 {
			continue
		}
		// Which nodes the connections of a gateway's own go through is not
		// known where there are several.
		if t.info.EntriesPerAttempt <= 0 || l.parted() && t.info.EntriesPerAttempt != 1 {
			n.unknown = append(n.unknown, t.info.Name)
			continue
		}
		p := needPart{residence: t.info.Residence}
		if t.idle() || p.residence <= 0 {
			p.residence = math.Inf(1)
		}
		for _, v := range t.lanes {
			p.due, p.entries = v.dueCounts(), l.costs(v, node, 0)
			if p.due.total > 0 && p.entries > 0 {
				n.parts = append(n.parts, p)
			}
		}
		n.evictable = n.evictable || evictable(t.info.ResidueState)
		n.expires = n.expires || c.start[len(c.start)-1]-c.start[0] > p.residence
	}
	return n
}

// evictable says whether the kernel may evict entries in that state to make
// room: those that are not ASSURED. A one-shot UDP exchange never becomes so.
func evictable(state string) bool {
	switch state {
	case "SYN_SENT", "SYN_RECV", "SYN_SENT2", "UDP":
		return true
	}
	return false
}

func (n *need) at(t float64) float64 {
	var sum float64
	for _, p := range n.parts {
		sum += p.entries * (p.due.before(t) - p.due.before(t-p.residence))
	}
	return sum
}

// times are the moments at which the slope of the need can change.
func (n *need) times() []float64 {
	most := 0
	for _, p := range n.parts {
		most += 2 * len(p.due.start)
	}
	ts := make([]float64, 0, most)
	for _, p := range n.parts {
		for i, s := range p.due.start {
			edges := []float64{s, s + p.due.width}
			if i+1 < len(p.due.start) && p.due.start[i+1]-edges[1] < slop {
				edges = edges[:1] // where this one ends the next one starts
			}
			for _, e := range edges {
				ts = append(ts, e)
				if !math.IsInf(p.residence, 1) {
					ts = append(ts, e+p.residence)
				}
			}
		}
	}
	slices.Sort(ts)
	return slices.Compact(ts)
}

// reaches returns the first moment at which the need is more than room, and
// the highest need of all.
//
// Room may change at the steps, and is constant between them.
func (n *need) reaches(room func(t float64) float64, steps []float64) (at float64, reached bool, peak float64) {
	last, lastNeed := math.NaN(), 0.0
	times := slices.Concat(n.times(), steps)
	slices.Sort(times)
	for _, t := range times {
		now, free := n.at(t), room(t)
		peak = max(peak, now)
		if !reached && now > free+slop {
			reached, at = true, t
			if !math.IsNaN(last) && now > lastNeed && !slices.Contains(steps, t) {
				at = last + (t-last)*max(0, free-lastNeed)/(now-lastNeed)
			}
		}
		last, lastNeed = t, now
	}
	return at, reached, peak
}

// predict computes when the table should be full on the node and sets it
// beside when it was. It is nil without samples or attempts.
func (l *log) predict(n *node, k Knee) *Prediction {
	if n == nil || n.atStart == nil || n.atStart.limit == 0 {
		return nil
	}
	room := float64(n.atStart.limit) - float64(n.atStart.entries)
	need := l.need(n.name)
	if len(need.parts) == 0 && len(need.unknown) == 0 {
		return nil
	}
	p := &Prediction{Node: n.name, UnknownTraffic: need.unknown, several: len(l.nodeList) > 1}
	if p.UnknownTraffic == nil {
		p.UnknownTraffic = []string{}
	}
	said := []string{fmt.Sprintf("headroom of %.0f entries when traffic began", room)}
	if len(need.parts) > 0 {
		at, reached, peak := need.reaches(n.roomAt, n.roomSteps())
		total := n.atStart.entries + uint64(math.Ceil(peak-slop)) + uint64(n.mostRefilled())
		p.PeakEntries = &total
		if reached {
			p.FullAtS = &at
			for i := range n.limitChanges {
				if c := n.limitChanges[i]; c.AtS == at {
					p.lowered = &c
				}
			}
			if !need.evictable {
				p.DropAtS = &at
			}
		}
		said = append(said, l.arrivalText(n.name))
	}
	for _, c := range n.limitChanges {
		said = append(said, fmt.Sprintf("limit %d from a moment %s on", c.To, c.when()))
	}
	for _, r := range n.refills {
		said = append(said, fmt.Sprintf("%+.0f entries of ballast at %s", r.by, seconds(r.t)))
	}
	if l.retimed {
		said = append(said, "timeouts were changed while traffic flowed, and those of its start are what this is computed with")
	}
	if need.evictable {
		said = append(said, "some entries are not ASSURED, so a full table evicts (early_drop) before it drops")
	}
	if need.expires {
		said = append(said, "entries that have expired leave the count only when the kernel comes across them")
	}
	if len(need.unknown) > 0 {
		said = append(said, "left out, because their entries cannot be computed: "+strings.Join(need.unknown, ", "))
	}
	p.measure(n, k, room)
	p.Explanation = strings.Join(said, "; ")
	return p
}

// arrivalText is like: web 700/s x 1 entry for 120 s in TIME_WAIT.
// With several nodes it also says how many entries an attempt costs this one.
func (l *log) arrivalText(node string) string {
	var parts []string
	for _, t := range l.order {
		if t.info.EntriesPerAttempt <= 0 || t.due().total == 0 {
			continue
		}
		s := fmt.Sprintf("%s %s x %g", t.info.Name, perSecond(t.peakRate()), t.info.EntriesPerAttempt)
		switch {
		case t.idle():
			s += ", held"
		case t.info.Residence > 0:
			s += fmt.Sprintf(" for %g s in %s", t.info.Residence, cmpOr(t.info.ResidueState, "its last state"))
		default:
			s += ", for an unknown time, taken as for ever"
		}
		if l.parted() {
			s += fmt.Sprintf(", of which %s has %.3g entries per attempt: it tracks those that enter by it, and those to its pods", node, l.loadOn(node, t))
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, "; ")
}

// measure fills in what happened.
func (p *Prediction) measure(n *node, k Knee, room float64) {
	end := n.last.t
	o := firstOnset(k)
	switch {
	case o == nil:
	case o == k.Drop:
		p.MeasuredOnset = "drop"
	default:
		p.MeasuredOnset = "early_drop"
	}
	if o != nil {
		at, within := o.AtS, o.UncertaintyS
		p.MeasuredAtS, p.MeasuredUncertaintyS = &at, &within
	}
	if p.MeasuredAtS != nil {
		end = *p.MeasuredAtS
	}
	if p.FullAtS != nil && p.MeasuredAtS != nil && *p.FullAtS > 0 && p.lowered == nil {
		e := (*p.MeasuredAtS - *p.FullAtS) / *p.FullAtS
		p.RelativeError = &e
	}
	// The growth up to the last sample at or before the end.
	var s *tableSample
	for i := 1; i < n.rows.n && n.rows.at(i).t <= end; i++ {
		s = n.rows.at(i)
	}
	if s == nil || s.t <= 0 {
		return
	}
	from := max(0, n.atStart.t)
	if s.t-from < slop || s.entries <= n.atStart.entries || len(n.roomSteps()) > 0 { // no line leads through a step
		return
	}
	g := float64(s.entries-n.atStart.entries) / (s.t - from)
	at := from + room/g
	p.GrowthPerS, p.GrowthFullAtS = &g, finite(at)
}

// peakRate is the highest mean rate of due attempts per second over 5 s.
func (t *traffic) peakRate() float64 {
	rate, _ := t.busiest()
	return rate
}

// busiest is the highest mean rate of due attempts per second over 5 s, and how
// many seconds that is: less where the traffic is shorter. Then it is without
// one count at each end, of which the traffic may have only a part: 200 attempts
// at 200/s can be in 11 counts of 100 ms.
func (t *traffic) busiest() (perS, window float64) {
	c := t.due()
	if len(c.start) == 0 {
		return 0, 0
	}
	first, end := c.start[0], c.start[len(c.start)-1]+c.width
	window = min(5, end-first)
	if window < slop {
		return 0, 0
	}
	if window < 5-slop && window > 10*c.width-slop {
		window -= 2 * c.width
	}
	for _, s := range c.start {
		if s+window > end+slop {
			break
		}
		perS = max(perS, c.in(s, s+window)/window)
	}
	return perS, window
}

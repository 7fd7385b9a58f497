package report

import (
	"math"
	"slices"
)

const (
	// fewestCompared is how many samples a residual is taken from at least.
	fewestCompared = 10
	// fewestEntries is how many entries the model must reach: below that a few
	// entries of other origin are a large share.
	fewestEntries = 100
)

// residual compares the model with what the table did until it was full. It is
// nil where something else filled the table, where some traffic's entries cannot be computed, and where there is too
// little to compare.
func (l *log) residual(n *node) *Residual {
	if n == nil || n.atStart == nil || !n.rows.measured() || len(n.refills) > 0 {
		return nil
	}
	need := l.need(n.name)
	if len(need.parts) == 0 || len(need.unknown) > 0 {
		return nil
	}
	from, to := l.comparable(n)
	share := n.clashShare(need)
	r := Residual{FromS: from, ToS: to, second: share > 0, others: n.others}
	var apart, sum, worst float64
	for i := 1; i < n.rows.n; i++ {
		s := n.rows.at(i)
		if s.t <= from || s.t > to {
			continue
		}
		is := float64(s.entries) - float64(n.atStart.entries)
		want := need.at(s.t)
		want = max(want, min(is, want+n.second(need, share, s.t)))
		r.Samples++
		apart += math.Abs(is - want)
		sum += want
		if d := math.Abs(is - want); d >= worst {
			worst, r.AtS, r.Computed, r.Measured = d, s.t, want, is
		}
	}
	if r.Samples < fewestCompared || sum/float64(r.Samples) < fewestEntries {
		return nil
	}
	r.MeanShare = apart / sum
	return &r
}

// comparable is the time in which nothing but arrivals and residence moves the
// table: from the first attempt to the first drop or eviction, or to the last
// attempt.
func (l *log) comparable(n *node) (from, to float64) {
	from, to = math.Inf(1), 0
	for _, t := range l.order {
		if c := t.due(); len(c.start) > 0 {
			from = min(from, c.start[0])
			to = max(to, c.start[len(c.start)-1]+c.width)
		}
	}
	for iv := range n.rows.intervals() {
		if iv.early > 0 || iv.drop > 0 || iv.failed > 0 {
			return max(from, 0), min(to, iv.a.t)
		}
	}
	return max(from, 0), to
}

// residences measures how long entries stayed in the last state of each
// traffic: by Little's law, the entries in it by the arrivals per second, over
// the walks that began when the first ones had left it already.
func (l *log) residences(s *Sizing, n *node) {
	if n == nil {
		return
	}
	_, to := l.comparable(n)
	for i := range s.Parts {
		p := &s.Parts[i]
		t := l.traffics[p.Traffic]
		states := n.stateIndexes(p.State)
		if t == nil || len(states) == 0 || p.ResidenceS <= 0 || p.EntriesPerAttempt <= 0 || l.sharesState(t) {
			continue
		}
		c := t.due()
		var entries, arrivals float64
		walks := 0
		for _, w := range n.walked.cells {
			if w.t < c.start[0]+p.ResidenceS || w.t > min(to, c.start[len(c.start)-1]) {
				continue
			}
			walks++
			for _, i := range states {
				if i < len(w.count) {
					entries += float64(w.count[i])
				}
			}
			arrivals += p.EntriesPerAttempt * (c.before(w.t) - c.before(w.t-p.ResidenceS)) / p.ResidenceS
		}
		if walks >= 2 && arrivals > 0 {
			v := entries / arrivals
			p.MeasuredS = &v
		}
	}
}

// stateIndexes are the places of a part's state in the node's census. Entries of
// UDP stay for udp_timeout whether answered or not, until they are ASSURED.
func (n *node) stateIndexes(state string) []int {
	names := []string{"tcp " + state}
	if state == "UDP" {
		names = []string{"udp replied", "udp UNREPLIED"}
	}
	var out []int
	for i, s := range n.states {
		if slices.Contains(names, s) {
			out = append(out, i)
		}
	}
	return out
}

// sharesState says whether another traffic's entries end in the same state.
func (l *log) sharesState(t *traffic) bool {
	for _, o := range l.order {
		if o != t && o.info.ResidueState == t.info.ResidueState {
			return true
		}
	}
	return false
}

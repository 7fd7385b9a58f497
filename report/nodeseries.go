package report

import (
	"cmp"
	"math"
	"slices"

	"github.com/tablefull/tablefull/report/runlog"
)

const (
	// maxPlotted and maxStates bound what names in a log can make of memory;
	// the kernel has 17 counters and fewer states.
	maxPlotted = 64
	maxStates  = 64
	// shownStates is how many states a census series tells apart.
	shownStates = 12

	ballastState = "ballast"
	otherState   = "other"
)

// tableCell is a node's table in one step.
type tableCell struct {
	t                     float64 // of the first sample
	entries, least, limit uint64
	gained                []uint64 // by the index of the counter in node.plotted; those missing are 0
}

func mergeTable(into *tableCell, later tableCell) {
	into.entries, into.least = max(into.entries, later.entries), min(into.least, later.least)
	into.limit = max(into.limit, later.limit)
	into.gained = addUp(into.gained, later.gained)
}

// addUp adds the counts of b to those of a, and may keep b.
func addUp(a, b []uint64) []uint64 {
	if len(a) < len(b) {
		a, b = b, a
	}
	for i, n := range b {
		a[i] += n
	}
	return a
}

// plot notes a sample and what its counters gained since the one before.
func (n *node) plot(s tableSample, gained map[string]uint64) {
	c := tableCell{t: s.t, entries: s.entries, least: s.entries, limit: s.limit}
	for name, d := range gained {
		if d == 0 {
			continue
		}
		i := slices.Index(n.plotted, name)
		if i < 0 && len(n.plotted) < maxPlotted {
			n.plotted = append(n.plotted, name)
			i = len(n.plotted) - 1
		}
		if i < 0 {
			continue
		}
		for len(c.gained) <= i {
			c.gained = append(c.gained, 0)
		}
		c.gained[i] += d
	}
	n.table.add(s.t, c)
}

func (n *node) series(step float64) NodeSeries {
	s := NodeSeries{Name: n.name, T: []float64{}, Entries: []uint64{}, EntriesMin: []uint64{}, Limit: []uint64{}, Counters: map[string][]uint64{}}
	s.CPU, s.Census = n.cpuSeries(step), n.censusSeries(step)
	if n.atStart == nil {
		return s
	}
	step = max(step, n.table.step())
	g := n.table.thinned(step, n.table.step(), func(c tableCell) tableCell {
		c.gained = slices.Clone(c.gained)
		return c
	})
	cells := g.cells
	// No interval of the run ends at the first of its samples.
	start := tableCell{t: n.atStart.t, entries: n.atStart.entries, least: n.atStart.entries, limit: n.atStart.limit}
	if len(cells) > 0 && g.keys[0] == stepOf(start.t, step) {
		mergeTable(&cells[0], start)
		cells[0].t = start.t
	} else {
		cells = slices.Insert(cells, 0, start)
	}
	for _, name := range n.plotted {
		s.Counters[name] = make([]uint64, len(cells))
	}
	for i, c := range cells {
		s.T = append(s.T, round(c.t))
		s.Entries, s.EntriesMin, s.Limit = append(s.Entries, c.entries), append(s.EntriesMin, c.least), append(s.Limit, c.limit)
		for j, d := range c.gained {
			s.Counters[n.plotted[j]][i] = d
		}
	}
	return s
}

// idleOver is the stretch in s over which the lowest share of idle CPU is
// looked for: shorter ones say little of a machine's being busy.
const idleOver = 3

// addCPU notes a sample of a run whose traffic ends at that many s, 0 where
// nobody knows.
func (n *node) addCPU(end float64, c cpuSample) {
	if c.t >= 0 && n.cpuFrom == nil {
		n.cpuFrom = &c
	}
	if c.t <= end || end <= 0 {
		n.cpuTo = &c
	}
	n.cpuRecent = append(n.cpuRecent, c)
	for len(n.cpuRecent) > 1 && c.t-n.cpuRecent[0].t >= idleOver {
		if a := n.cpuRecent[0]; a.t >= 0 && c.total > a.total {
			n.minIdle = least(n.minIdle, max(0, (c.idle-a.idle)/(c.total-a.total)))
		}
		n.cpuRecent = n.cpuRecent[1:]
	}
	// Only the last sample before traffic is of use: what follows is compared
	// with it.
	if len(n.used.keys) == 1 && c.t <= 0 {
		n.used.keys, n.used.cells = nil, nil
	}
	n.used.add(c.t, c)
}

// mergeCPU keeps the last sample: they are cumulative.
func mergeCPU(into *cpuSample, later cpuSample) {
	if later.t >= into.t {
		*into = later
	}
}

// cpuSeries is nil where fewer than two samples can be compared.
func (n *node) cpuSeries(step float64) *CPUSeries {
	s := &CPUSeries{}
	cells := n.used.thinned(max(step, n.used.step()), n.used.step(), nil).cells
	for i := 1; i < len(cells); i++ {
		a, b := cells[i-1], cells[i]
		d, dt := b.total-a.total, b.t-a.t
		parts := [...]float64{(b.user - a.user) / d, (b.system - a.system) / d, (b.softirq - a.softirq) / d, (b.steal - a.steal) / d, (b.self - a.self) / dt}
		// A share below 0, or NaN, is no measurement.
		if dt <= 0 || d <= 0 || slices.ContainsFunc(parts[:], func(v float64) bool { return !(v >= 0 && v <= math.MaxInt32) }) {
			continue
		}
		s.T = append(s.T, round(b.t))
		for j, to := range []*[]float64{&s.User, &s.System, &s.SoftIRQ, &s.Steal, &s.Self} {
			*to = append(*to, round(parts[j]))
		}
	}
	if len(s.T) == 0 {
		return nil
	}
	return s
}

// walkCell is the walks over a table in one step.
type walkCell struct {
	t     float64  // of the first
	count []uint64 // by the index of the state in node.states, the highest
}

func mergeWalks(into *walkCell, later walkCell) {
	into.t = min(into.t, later.t)
	into.count = highest(into.count, later.count)
}

// highest takes the higher of each two counts, and may keep b.
func highest(a, b []uint64) []uint64 {
	if len(a) < len(b) {
		a, b = b, a
	}
	for i, n := range b {
		a[i] = max(a[i], n)
	}
	return a
}

// plotWalk notes a whole walk. One that left ballast out is given what the
// last other one counted of it.
func (n *node) plotWalk(t float64, c *runlog.Census) {
	w := walkCell{t: t}
	add := func(name string, count uint64) {
		if count == 0 {
			return
		}
		i := slices.Index(n.states, name)
		if i < 0 && len(n.states) >= maxStates {
			name = otherState
			i = slices.Index(n.states, name)
		}
		if i < 0 {
			n.states = append(n.states, name)
			i = len(n.states) - 1
		}
		for len(w.count) <= i {
			w.count = append(w.count, 0)
		}
		w.count[i] += count
	}
	for _, g := range c.Groups {
		add(stateName(g), g.Count)
	}
	add(otherState, c.Other)
	add(ballastState, n.ballast)
	n.walked.add(t, w)
}

// stateName is the group's protocol and state: that of the kernel for TCP,
// and for UDP whether both sides have sent.
func stateName(g runlog.CensusGroup) string {
	switch {
	case g.State != "":
		return g.Proto + " " + g.State
	case g.Proto != "udp":
		return g.Proto
	case g.Assured:
		return "udp ASSURED"
	case g.Replied:
		return "udp replied"
	}
	return "udp UNREPLIED"
}

// censusSeries is nil without a whole walk.
func (n *node) censusSeries(step float64) *CensusSeries {
	if len(n.walked.keys) == 0 {
		return nil
	}
	g := n.walked.thinned(max(step, n.walked.step()), n.walked.step(), func(c walkCell) walkCell {
		c.count = slices.Clone(c.count)
		return c
	})
	s := &CensusSeries{T: []float64{}, States: []StateSeries{}}
	peaks := make([]uint64, len(n.states))
	for _, c := range g.cells {
		s.T = append(s.T, round(c.t))
		peaks = highest(peaks, slices.Clone(c.count))
	}
	order := make([]int, len(n.states))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(x, y int) int {
		return cmp.Or(cmp.Compare(peaks[y], peaks[x]), cmp.Compare(n.states[x], n.states[y]))
	})
	rest := StateSeries{Name: otherState, Count: make([]uint64, len(g.cells))}
	some := false
	for i, state := range order {
		to := rest.Count
		if own := n.states[state] != otherState && i < shownStates; own {
			to = make([]uint64, len(g.cells))
			s.States = append(s.States, StateSeries{Name: n.states[state], Count: to})
		} else {
			some = true
		}
		for j, c := range g.cells {
			if state < len(c.count) {
				to[j] += c.count[state]
			}
		}
	}
	if some {
		s.States = append(s.States, rest)
	}
	return s
}

package report

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
)

// overlayCharts are the plots of several runs on one axis.
type overlayCharts struct {
	from, to float64
	all      []chart
	gaps     []string
}

const (
	// stepEnd is how long before its end in s a last step is drawn to.
	stepEnd = 1e-6
	// dotted is below how many points report.js marks each, so that steps, of
	// which each has the other run's moments as well, need more.
	dotted = 24
)

// A line is a series of one run on its own times.
type line struct {
	t []float64
	v values
	// until is how long the last value holds, for a series of steps; 0 for one
	// of moments.
	until float64
}

// A laid run is one of those that lie over each other, by its name in the plots.
type laid struct {
	name string
	f    *Findings
}

func newOverlayCharts(runs []laid) *overlayCharts {
	c := &overlayCharts{}
	for i, r := range runs {
		own := &charts{f: r.f}
		own.span()
		if i == 0 {
			c.from, c.to = own.from, own.to
		}
		c.from, c.to = min(c.from, own.from), max(c.to, own.to)
	}
	marks := c.marks(runs)
	c.table(runs, marks)
	c.load(runs, marks)
	c.latency(runs, marks)
	return c
}

func (c *overlayCharts) data() any {
	return struct {
		From   float64 `json:"from"`
		To     float64 `json:"to"`
		Charts []chart `json:"charts"`
	}{c.from, c.to, append([]chart{}, c.all...)}
}

// marks are where the runs began to drop or to evict.
func (c *overlayCharts) marks(runs []laid) []chartMark {
	out := []chartMark{}
	for _, run := range runs {
		for _, o := range []struct {
			name, kind string
			o          *Onset
		}{{"early_drop", "early", run.f.Knee.EarlyDrop}, {"drop", "drop", run.f.Knee.Drop}} {
			if o.o != nil {
				out = append(out, chartMark{At: o.o.AtS, To: o.o.AtS, Name: run.name + ": " + o.name, Kind: o.kind, Plus: o.o.UncertaintyS})
			}
		}
	}
	return out
}

// headSeries is the table that the run's headline is about.
func headSeries(f *Findings) *NodeSeries {
	head := headNode(f)
	for i := range f.Timeline.Nodes {
		s := &f.Timeline.Nodes[i]
		if head != nil && s.Name == head.Name && len(s.T) > 0 && len(s.Entries) == len(s.T) && len(s.Limit) == len(s.T) {
			return s
		}
	}
	return nil
}

func (c *overlayCharts) table(runs []laid, marks []chartMark) {
	share := func(s *NodeSeries) values {
		out := make(values, len(s.T))
		for i := range s.T {
			out[i] = math.NaN()
			if s.Limit[i] > 0 {
				out[i] = 100 * float64(s.Entries[i]) / float64(s.Limit[i])
			}
		}
		return out
	}
	whole := func(s *NodeSeries) values { return floats(s.Entries) }
	for _, p := range []struct {
		id, title, unit string
		of              func(*NodeSeries) values
	}{
		{"occupancy", "Entries relative to each run's own limit", "% of the limit", share},
		{"entries", "Entries", "entries", whole},
	} {
		ch := chart{ID: p.id, Kind: "time", XUnit: "s", Tall: true, Labels: true, Title: p.title, Unit: p.unit, Marks: marks}
		if p.id == "occupancy" {
			ch.Lines = []chartLine{{100, "the limit"}}
		}
		var lines []namedLine
		for _, r := range runs {
			var l *line
			if s := headSeries(r.f); s != nil {
				l = &line{t: s.T, v: p.of(s)}
			}
			lines = append(lines, namedLine{nodeName(r.name, r.f), l})
		}
		ch.join(lines)
		if len(ch.Series) == 0 {
			c.gaps = append(c.gaps, "entries: neither run's table was sampled")
			return
		}
		ch.window(c.from, c.lastDue(runs), p.id == "occupancy")
		c.all = append(c.all, ch)
	}
}

// nodeName is like: A, or A: node2 where A has several nodes.
func nodeName(run string, f *Findings) string {
	if head := headNode(f); head != nil && len(f.Nodes) > 1 {
		return run + ": " + head.Name
	}
	return run
}

// lastDue is when the last attempt of all runs was due.
func (c *overlayCharts) lastDue(runs []laid) float64 {
	last := math.Inf(-1)
	for _, r := range runs {
		if l := r.f.Timeline.Load; len(l.T) > 0 {
			last = max(last, l.T[len(l.T)-1]+l.StepS)
		}
	}
	if math.IsInf(last, -1) {
		return c.to
	}
	return last
}

// window begins the axis where something happens, as the report's does, when
// the tables are mostly ballast.
func (ch *chart) window(from, to float64, percent bool) {
	low, high := math.Inf(1), 0.0
	for _, s := range ch.Series {
		for i, v := range s.V {
			if math.IsNaN(v) {
				continue
			}
			high = max(high, v)
			if ch.X[i] >= from && ch.X[i] <= to {
				low = min(low, v)
			}
		}
	}
	if percent {
		high = max(high, 100)
	}
	if low >= high/2 && !math.IsInf(low, 1) {
		step := max(1, math.Pow(10, math.Floor(math.Log10(max(1, high-low))))/2)
		ch.Floor = max(0, math.Floor((low-(high-low)*0.1)/step)*step)
	}
	ch.Ceil = high + (high-ch.Floor)*0.06
	if ch.Ceil <= ch.Floor {
		ch.Ceil = ch.Floor + 1
	}
}

func (c *overlayCharts) load(runs []laid, marks []chartMark) {
	for _, p := range []struct {
		id, title string
		of        func(LoadSeries) []float64
	}{
		{"offered", "Attempts offered, by when they were due", func(l LoadSeries) []float64 { return l.Offered }},
		{"failed", "Attempts that failed, by when they were due", func(l LoadSeries) []float64 { return l.Failed }},
	} {
		ch := chart{ID: p.id, Kind: "time", XUnit: "s", Title: p.title, Unit: "per second", Steps: "after", Marks: marks}
		var lines []namedLine
		for _, r := range runs {
			var l *line
			if s := r.f.Timeline.Load; len(s.T) > 0 && len(p.of(s)) == len(s.T) {
				l = &line{t: s.T, v: p.of(s), until: s.T[len(s.T)-1] + s.StepS}
			}
			lines = append(lines, namedLine{r.name, l})
		}
		ch.join(lines)
		if len(ch.Series) == 0 {
			c.gaps = append(c.gaps, "attempts: neither log has any")
			return
		}
		c.all = append(c.all, ch)
	}
}

// latency plots the p99 of each traffic, those of the same name together.
func (c *overlayCharts) latency(runs []laid, marks []chartMark) {
	find := func(f *Findings, name string) *line {
		for _, s := range f.Timeline.Latency {
			if s.Traffic == name && len(s.P99Ms) == len(s.T) && len(s.T) > 0 {
				return &line{t: s.T, v: pointers(s.P99Ms), until: s.T[len(s.T)-1] + s.StepS}
			}
		}
		return nil
	}
	var names []string
	for _, r := range runs {
		for _, s := range r.f.Timeline.Latency {
			if !slices.Contains(names, s.Traffic) {
				names = append(names, s.Traffic)
			}
		}
	}
	if len(names) > latencyPlots {
		c.gaps = append(c.gaps, fmt.Sprintf("p99 of %d more traffics: it is in the reports", len(names)-latencyPlots))
		names = names[:latencyPlots]
	}
	for i, name := range names {
		ch := chart{
			ID: fmt.Sprintf("p99-%d", i+1), Kind: "time", XUnit: "s", Log: true, Title: "p99 of " + name + ", successful attempts from when they were due",
			Unit: "ms, log scale", Steps: "after", Marks: marks,
		}
		var lines []namedLine
		for _, r := range runs {
			lines = append(lines, namedLine{r.name, find(r.f, name)})
		}
		ch.join(lines)
		if len(ch.Series) == 0 || mostIn(ch.Series) <= 0 {
			continue
		}
		for _, l := range lines {
			if l.line == nil {
				ch.Note = strings.TrimSpace(ch.Note + " Run " + l.name + " has no such traffic, or none of its attempts succeeded.")
			}
		}
		datagrams := slices.ContainsFunc(runs, func(r laid) bool { return r.f.datagrams(name) })
		if mostIn(ch.Series) >= 500 && !datagrams {
			ch.Lines = []chartLine{{1000, "1 s: SYN again"}, {3000, "3 s: SYN again"}, {5000, "5 s: DNS again"}}
		}
		c.all = append(c.all, ch)
	}
	if len(names) == 0 {
		c.gaps = append(c.gaps, "p99: neither log has times of successful attempts")
	}
}

func mostIn(all []chartSeries) (most float64) {
	for _, s := range all {
		for _, v := range s.V {
			if !math.IsNaN(v) {
				most = max(most, v)
			}
		}
	}
	return most
}

// A namedLine is a run's line, nil where it has none.
type namedLine struct {
	name string
	line *line
}

// runColors are those of the runs, in their order. Whoever cannot tell colours
// apart has the dashes.
var runColors = []struct {
	name string
	dash int
}{{"blue", 0}, {"red", 1}, {"green", 2}, {"orange", 0}, {"purple", 1}, {"sky", 2}, {"ink", 0}, {"yellow", 1}}

// join puts the lines of all runs on one axis: each keeps the shape that it
// has on its own times. A run without the line is left out.
func (ch *chart) join(lines []namedLine) {
	ch.X = nil
	kind := "line"
	if ch.Steps != "" {
		kind = "steps" // which, unlike lines, do not go on to the end of the axis
	}
	for _, n := range lines {
		if l := n.line; l != nil {
			ch.X = append(ch.X, l.t...)
			if l.until > 0 {
				ch.X = append(ch.X, l.until-stepEnd, l.until)
			}
		}
	}
	sort.Float64s(ch.X)
	ch.X = slices.Compact(ch.X)
	for ch.Steps != "" && len(ch.X) > 1 && len(ch.X) < dotted {
		ch.X = halved(ch.X)
	}
	for i, n := range lines {
		if n.line != nil {
			c := runColors[i%len(runColors)]
			ch.Series = append(ch.Series, chartSeries{Name: n.name, V: n.line.on(ch.X), Color: c.name, Dash: c.dash, Kind: kind})
		}
	}
}

// halved puts a moment between any two.
func halved(x values) values {
	out := values{x[0]}
	for i := 1; i < len(x); i++ {
		out = append(out, (x[i-1]+x[i])/2, x[i])
	}
	return out
}

// on is the line at the moments x, which hold all of its own: between two of
// them it is the step, or the straight line, that a plot would draw there.
func (l *line) on(x values) values {
	out := make(values, len(x))
	last := -1
	for i, at := range x {
		for last+1 < len(l.t) && l.t[last+1] <= at {
			last++
		}
		switch {
		case last < 0, l.until > 0 && at >= l.until:
			out[i] = math.NaN()
		case l.until > 0 || l.t[last] == at:
			out[i] = l.v[last]
		case last+1 == len(l.t):
			out[i] = math.NaN()
		default:
			share := (at - l.t[last]) / (l.t[last+1] - l.t[last])
			out[i] = l.v[last] + (l.v[last+1]-l.v[last])*share
		}
	}
	return out
}

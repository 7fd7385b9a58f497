package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

const (
	// detailedNodes is how many nodes have plots of counters, CPU and census;
	// each node has its entries plotted.
	detailedNodes = 4
	// plottedSeries is how many series of a kind one plot can tell apart.
	plottedSeries = 8
	// latencyPlots is how many traffics have their latency plotted.
	latencyPlots = 6
)

// values is a series for plotting: NaN is a step without a measurement.
type values []float64

// MarshalJSON writes NaN as null, and no more digits than can be seen.
func (v values) MarshalJSON() ([]byte, error) {
	if v == nil {
		return []byte("[]"), nil
	}
	b := []byte{'['}
	for i, x := range v {
		if i > 0 {
			b = append(b, ',')
		}
		switch {
		case math.IsNaN(x) || math.IsInf(x, 0):
			b = append(b, "null"...)
		case x == math.Trunc(x) && math.Abs(x) < 1e15:
			b = strconv.AppendFloat(b, x, 'f', 0, 64)
		default:
			b = strconv.AppendFloat(b, x, 'g', 7, 64)
		}
	}
	return append(b, ']'), nil
}

// A chart is one plot and the table behind it.
type chart struct {
	ID     string        `json:"id"`
	Title  string        `json:"title"`
	Unit   string        `json:"unit"`
	Kind   string        `json:"kind"` // time or load: what the x axis is
	XUnit  string        `json:"x_unit"`
	Tall   bool          `json:"tall"`
	Stack  bool          `json:"stack"`
	Log    bool          `json:"log"`
	Steps  string        `json:"steps"` // "after" or "before": a point stands for the step after or before it; empty for a moment
	Stops  bool          `json:"stops"` // the last point is the end of the step before it, short of the others' end
	Wide   bool          `json:"wide"`  // a log scale that has 0 as well
	Share  bool          `json:"share"` // the axis is a share, 0 to 1
	Limit  float64       `json:"limit"` // entries that are 100 %, for a second axis; 0 for none
	Floor  float64       `json:"floor"` // where the axis begins unless asked from 0
	Ceil   float64       `json:"ceil"`  // where it ends; 0 to fit
	X      values        `json:"x"`
	Series []chartSeries `json:"series"`
	Marks  []chartMark   `json:"marks"`
	Labels bool          `json:"labels"` // whether marks have their names drawn
	Lines  []chartLine   `json:"lines"`
	Note   string        `json:"-"`
}

type chartSeries struct {
	Name  string `json:"name"`
	V     values `json:"v"`
	Color string `json:"color"` // a name in report.css
	Dash  int    `json:"dash"`  // an index in report.js, 0 is a whole line
	Kind  string `json:"kind"`  // line, area, steps, points or rings
	Right bool   `json:"right"` // belongs to the share axis on the right
}

// A chartMark is a moment, or a stretch where To is after At.
type chartMark struct {
	At    float64 `json:"at"`
	To    float64 `json:"to"`
	Name  string  `json:"name"`
	Kind  string  `json:"kind"` // early, drop, loss, action or phase
	Plus  float64 `json:"plus"` // uncertainty, s
	Where string  `json:"-"`
}

// A chartLine is a level worth knowing.
type chartLine struct {
	At   float64 `json:"at"`
	Name string  `json:"name"`
}

// charts are the plots of a report. All over time share one axis.
type charts struct {
	f        *Findings
	from, to float64
	first    []chart
	over     []chart
	byLoad   []chart
	gaps     []string
}

func newCharts(f *Findings) *charts {
	c := &charts{f: f}
	c.span()
	if f.Capacity != nil {
		c.first = f.Capacity.charts()
		return c
	}
	head := headNode(f)
	name := ""
	if head != nil {
		name = head.Name
	}
	c.first = append(c.first, c.entries(name)...)
	held := c.held()
	if onlyHeldLost(f) { // then the other plots do not show what happened
		c.first = append(c.first, held...)
		held = nil
	}
	c.first = append(c.first, c.load()...)
	for _, n := range f.Timeline.Nodes {
		if n.Name != name {
			c.over = append(c.over, c.entries(n.Name)...)
		}
	}
	c.over = append(c.over, c.causes()...)
	c.latency()
	nodes := c.detailed(name)
	for _, n := range nodes {
		c.over = append(c.over, c.census(n)...)
	}
	for _, n := range nodes {
		c.over = append(c.over, c.counters(n)...)
	}
	for i, n := range nodes {
		if i == 0 || f.Target != "lab" { // whose nodes share one machine
			c.over = append(c.over, c.cpu(n)...)
		}
	}
	c.over = append(c.over, c.generator()...)
	c.over = append(c.over, held...)
	c.loads()
	return c
}

// onlyHeldLost tells of a run that lost connections which it held, and in which
// no attempt failed and no table was full.
func onlyHeldLost(f *Findings) bool {
	lost := false
	for _, t := range f.Traffic {
		if t.Failed > 0 {
			return false
		}
		lost = lost || t.HeldLost != nil && *t.HeldLost > 0
	}
	return lost && firstOnset(f.Knee) == nil
}

// data is what the page's script gets.
func (c *charts) data() any {
	all := append([]chart{}, slices.Concat(c.first, c.over, c.byLoad)...)
	return struct {
		From   float64 `json:"from"`
		To     float64 `json:"to"`
		Charts []chart `json:"charts"`
	}{c.from, c.to, all}
}

// span is the time all plots show: from the first due attempt, or the sample
// before it, to the end. Set-up is left out.
func (c *charts) span() {
	l := c.f.Timeline.Load
	for _, t := range l.T {
		c.from, c.to = min(c.from, t), max(c.to, t+l.StepS)
	}
	for _, n := range c.f.Timeline.Nodes {
		for _, t := range n.T {
			c.to = max(c.to, t)
			if t > -1 {
				c.from = min(c.from, t)
			}
		}
	}
	if c.to-c.from < 0.1 {
		c.to = c.from + 0.1
	}
}

// detailed are the nodes that have all plots: the headline's first.
func (c *charts) detailed(head string) []NodeSeries {
	var out []NodeSeries
	for _, n := range c.f.Timeline.Nodes {
		if n.Name == head {
			out = slices.Insert(out, 0, n)
		} else {
			out = append(out, n)
		}
	}
	if len(out) > detailedNodes {
		c.gaps = append(c.gaps, fmt.Sprintf("census, counters and CPU of %d more nodes: they are in summary.json", len(out)-detailedNodes))
		out = out[:detailedNodes]
	}
	return out
}

// of adds the node's name to a title where there are several.
func (c *charts) of(title, node string) string {
	if len(c.f.Nodes) > 1 {
		return title + " of " + node
	}
	return title
}

// id is unique and the same in each rendering of the same run.
func (c *charts) id(kind, node string) string {
	i := slices.IndexFunc(c.f.Timeline.Nodes, func(n NodeSeries) bool { return n.Name == node })
	return fmt.Sprintf("%s-%d", kind, i+1)
}

func (c *charts) entries(node string) []chart {
	var out []chart
	for _, s := range c.f.Timeline.Nodes {
		if s.Name != node || len(s.T) == 0 || len(s.Entries) != len(s.T) || len(s.Limit) != len(s.T) {
			continue
		}
		ch := chart{
			ID: c.id("entries", node), Kind: "time", XUnit: "s", Tall: true, Labels: true, Title: "Entries of " + node,
			Unit: "entries", X: s.T, Marks: c.marks(c.knee(node)),
		}
		ch.Series = []chartSeries{
			{Name: "entries", V: floats(s.Entries), Color: "blue", Kind: "line"},
			{Name: "limit", V: floats(s.Limit), Color: "ink", Dash: 1, Kind: "steps"},
		}
		if len(s.EntriesMin) == len(s.T) && !slices.Equal(s.EntriesMin, s.Entries) {
			ch.Series[0].Name = "entries, highest"
			ch.Series = slices.Insert(ch.Series, 1, chartSeries{Name: "lowest of the step", V: floats(s.EntriesMin), Color: "sky", Dash: 2, Kind: "line"})
		}
		ch.Note = unmarkedNote(c.f)
		c.entriesAxis(&ch, s, 0)
		if most := mostIn(ch.Series[:1]); c.f.Verdict != Live && ch.Limit > 0 && most < farBelow*ch.Limit {
			// Beside its limit it would be a flat line at the bottom.
			limit := ch.Limit
			ch.Series, ch.Limit = slices.DeleteFunc(ch.Series, func(s chartSeries) bool { return s.Name == "limit" }), 0
			c.entriesAxis(&ch, s, limit)
			ch.Note = strings.TrimSpace(fmt.Sprintf("The limit of %s is far above and not drawn: the table was at most %s full. %s", number(limit), percent(most/limit), ch.Note))
		}
		out = append(out, ch)
	}
	return out
}

// farBelow is the share of the limit up to which a table is shown without it.
const farBelow = 0.03

// entriesAxis chooses what of the axis is shown. A table that is mostly
// ballast would be a flat line at the top: then it is the part in which
// something happens. What came before traffic and after it does not count. A
// limit that is left out has no part in it, and the axis then begins at 0.
func (c *charts) entriesAxis(ch *chart, s NodeSeries, leftOut float64) {
	last := c.to
	if l := c.f.Timeline.Load; len(l.T) > 0 {
		last = l.T[len(l.T)-1] + l.StepS
	}
	low, high := math.Inf(1), 0.0
	for i, t := range s.T {
		e, limit := float64(s.Entries[i]), float64(s.Limit[i])
		if high = max(high, e); leftOut == 0 {
			high = max(high, limit)
		}
		if t >= c.from && t <= last {
			low = min(low, e)
		}
		switch {
		case leftOut > 0:
		case i == 0:
			ch.Limit = limit
		case ch.Limit != limit:
			ch.Limit = 0 // a share of what?
		}
	}
	if leftOut == 0 && low >= high/2 && !math.IsInf(low, 1) {
		step := max(1, math.Pow(10, math.Floor(math.Log10(max(1, high-low))))/2)
		ch.Floor = max(0, math.Floor((low-(high-low)*0.1)/step)*step)
	}
	ch.Ceil = high + (high-ch.Floor)*0.06
	if ch.Ceil <= ch.Floor {
		ch.Ceil = ch.Floor + 1
	}
	if leftOut > 0 {
		ch.Ceil = max(ch.Ceil, 5) // whole entries beside the axis
	}
}

func (c *charts) knee(node string) Knee {
	for _, n := range c.f.Nodes {
		if n.Name == node {
			return n.Knee
		}
	}
	return c.f.Knee
}

// notAllEnded marks where failures only seem to end, in a log that was cut off.
const notAllEnded = "ends known up to here"

// marks are the onsets, the actions, and the end of traffic.
func (c *charts) marks(k Knee) []chartMark {
	out := []chartMark{}
	for _, m := range []struct {
		kind, name string
		o          *Onset
	}{{"early", "early_drop", k.EarlyDrop}, {"drop", "drop", k.Drop}, {"loss", "client loss", k.ClientLoss}} {
		if m.o != nil {
			out = append(out, chartMark{At: m.o.AtS, To: m.o.AtS, Name: m.name, Kind: m.kind, Plus: m.o.UncertaintyS})
		}
	}
	for _, s := range marked(c.f.Spikes) {
		to := s.BeginS
		if s.DoneS != nil {
			to = *s.DoneS
		}
		out = append(out, chartMark{At: s.BeginS, To: to, Name: s.Action, Kind: "action"})
	}
	for _, e := range c.f.Timeline.Events {
		switch {
		case e.Kind == "phase" && e.Name == "drain" && e.AtS < c.to:
			out = append(out, chartMark{At: e.AtS, To: e.AtS, Name: "last attempts ended", Kind: "phase"})
		}
	}
	if at := c.f.Timeline.Load.EndsKnownToS; at != nil {
		out = append(out, chartMark{At: *at, To: *at, Name: notAllEnded, Kind: "phase"})
	}
	return out
}

// markedActions is how many actions the plots mark at most. More would hide the
// lines, and their names each other.
const markedActions = 30

// marked are the actions that the plots mark: where there are many, those that
// cost something.
func marked(all []Spike) []Spike {
	if len(all) <= markedActions {
		return all
	}
	costly := slices.DeleteFunc(slices.Clone(all), func(s Spike) bool {
		return s.Failures == 0 && s.Error == "" && (s.HeldLost == nil || *s.HeldLost == 0)
	})
	listed, _ := worst(costly, markedActions)
	return listed
}

// unmarkedNote says which actions the plots do not mark; empty for none.
func unmarkedNote(f *Findings) string {
	all, shown := uint64(len(f.Spikes))+f.OtherSpikes, uint64(len(marked(f.Spikes)))
	switch {
	case shown == all:
		return ""
	case shown == 0:
		return fmt.Sprintf("The %s actions are not marked: none of them cost anything.", grouped(all))
	}
	return fmt.Sprintf("Of %s actions those that cost most are marked: %d.", grouped(all), shown)
}

// paint gives each series a colour of its own.
func paint(s []chartSeries, colors ...string) {
	for i := range s {
		s[i].Color = colors[i%len(colors)]
	}
}

// paintCounters gives drop and early_drop the colours of their onsets.
func paintCounters(s []chartSeries) {
	own := map[string]string{"drop": "red", "early_drop": "orange"}
	rest := []string{"blue", "green", "purple", "sky", "yellow", "ink"}
	next := 0
	for i := range s {
		s[i].Dash = i % 4
		if s[i].Color = own[s[i].Name]; s[i].Color == "" {
			s[i].Color = rest[next%len(rest)]
			next++
		}
	}
}

func floats(v []uint64) values {
	out := make(values, len(v))
	for i, x := range v {
		out[i] = float64(x)
	}
	return out
}

func pointers(v []*float64) values {
	out := make(values, len(v))
	for i, x := range v {
		out[i] = math.NaN()
		if x != nil {
			out[i] = *x
		}
	}
	return out
}

func sum(a values, b []float64) values {
	if a == nil {
		a = make(values, len(b))
	}
	for i := range a {
		a[i] += b[i]
	}
	return a
}

func middles(t []float64, step float64) values {
	out := make(values, len(t))
	for i := range t {
		out[i] = t[i] + step/2
	}
	return out
}

// perStep turns what was gained since the step before into a rate.
func perStep(t []float64, gained []uint64) values {
	out := make(values, len(t))
	for i := range t {
		out[i] = math.NaN()
		if i > 0 && t[i] > t[i-1] {
			out[i] = float64(gained[i]) / (t[i] - t[i-1])
		}
	}
	return out
}

// stopped ends a plot of steps where its last step does, which is before the
// others where the log was cut off: the page would draw it to the edge.
func (c *charts) stopped(ch chart, step float64) chart {
	n := len(ch.X)
	if n == 0 || ch.X[n-1]+step > c.to-slop {
		return ch
	}
	ch.Stops = true
	ch.X = append(slices.Clone(ch.X), round(ch.X[n-1]+step-stepEnd))
	for i, s := range ch.Series {
		ch.Series[i].V = append(slices.Clone(s.V), s.V[n-1])
	}
	return ch
}

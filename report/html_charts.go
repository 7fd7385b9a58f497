package report

import (
	"fmt"
	"maps"
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
	Kind  string `json:"kind"`  // line, area, steps or points
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
	head := headNode(f)
	name := ""
	if head != nil {
		name = head.Name
	}
	c.first = append(c.first, c.entries(name)...)
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
	for _, n := range nodes {
		c.over = append(c.over, c.cpu(n)...)
	}
	c.over = append(c.over, c.generator()...)
	c.over = append(c.over, c.held()...)
	c.loads()
	return c
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
		c.entriesAxis(&ch, s)
		out = append(out, ch)
	}
	return out
}

// entriesAxis chooses what of the axis is shown. A table that is mostly
// ballast would be a flat line at the top: then it is the part in which
// something happens. What came before traffic and after it does not count.
func (c *charts) entriesAxis(ch *chart, s NodeSeries) {
	last := c.to
	if l := c.f.Timeline.Load; len(l.T) > 0 {
		last = l.T[len(l.T)-1] + l.StepS
	}
	low, high := math.Inf(1), 0.0
	for i, t := range s.T {
		e, limit := float64(s.Entries[i]), float64(s.Limit[i])
		high = max(high, e, limit)
		if t >= c.from && t <= last {
			low = min(low, e)
		}
		switch {
		case i == 0:
			ch.Limit = limit
		case ch.Limit != limit:
			ch.Limit = 0 // a share of what?
		}
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

func (c *charts) knee(node string) Knee {
	for _, n := range c.f.Nodes {
		if n.Name == node {
			return n.Knee
		}
	}
	return c.f.Knee
}

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
	for _, s := range c.f.Spikes {
		to := s.BeginS
		if s.DoneS != nil {
			to = *s.DoneS
		}
		out = append(out, chartMark{At: s.BeginS, To: to, Name: s.Action, Kind: "action"})
	}
	for _, e := range c.f.Timeline.Events {
		switch {
		case e.Kind == "phase" && e.Name == "drain" && e.AtS < c.to:
			out = append(out, chartMark{At: e.AtS, To: e.AtS, Name: "traffic over", Kind: "phase"})
		}
	}
	return out
}

func (c *charts) load() []chart {
	l := c.f.Timeline.Load
	if len(l.T) == 0 {
		c.gaps = append(c.gaps, "attempts: the log has none")
		return nil
	}
	ch := chart{ID: "load", Kind: "time", XUnit: "s", Title: "Attempts, by when they were due", Unit: "per second", Steps: "after", X: l.T, Marks: c.marks(c.f.Knee)}
	ch.Series = []chartSeries{
		{Name: "offered", V: l.Offered, Color: "ink", Dash: 2, Kind: "line"},
		{Name: "succeeded", V: l.OK, Color: "green", Kind: "line"},
		{Name: "failed", V: l.Failed, Color: "red", Dash: 1, Kind: "line"},
	}
	var oneWay []string
	for _, t := range c.f.Traffic {
		if t.OneWay {
			oneWay = append(oneWay, t.Name)
		}
	}
	if len(oneWay) > 0 {
		ch.Note = "Nobody answers " + strings.Join(oneWay, ", ") + ", so its attempts are offered, and neither succeeded nor failed."
		if len(oneWay) == len(c.f.Traffic) {
			ch.Series = ch.Series[:1]
		}
	}
	// A flood beside a little traffic would make the latter a flat line.
	if len(ch.Series) > 1 && mostOf(l.Offered) > 20*max(mostOf(l.OK), mostOf(l.Failed)) {
		ch.Wide, ch.Unit = true, "per second, log scale"
	}
	return []chart{ch}
}

func mostOf(v []float64) (most float64) {
	for _, x := range v {
		most = max(most, x)
	}
	return most
}

func (c *charts) causes() []chart {
	l := c.f.Timeline.Load
	ch := chart{ID: "causes", Kind: "time", XUnit: "s", Title: "Failed attempts by cause", Unit: "per second", Steps: "after", Stack: true, X: l.T, Marks: c.marks(c.f.Knee)}
	var rest values
	for _, s := range c.f.Timeline.Causes {
		if len(s.PerS) != len(l.T) {
			continue
		}
		if len(ch.Series) < plottedSeries-1 {
			ch.Series = append(ch.Series, chartSeries{Name: s.Cause, V: s.PerS, Kind: "area"})
			continue
		}
		rest = sum(rest, s.PerS)
	}
	if rest != nil {
		ch.Series = append(ch.Series, chartSeries{Name: "all other causes", V: rest, Kind: "area"})
	}
	if len(ch.Series) == 0 {
		if len(c.f.Causes) == 0 && len(l.T) > 0 {
			c.gaps = append(c.gaps, "failures by cause: no attempt is known to have failed")
		}
		return nil
	}
	paint(ch.Series, "red", "blue", "orange", "purple", "green", "sky", "yellow", "ink")
	return []chart{ch}
}

func (c *charts) latency() {
	for i, s := range c.f.Timeline.Latency {
		if i >= latencyPlots {
			c.gaps = append(c.gaps, fmt.Sprintf("latency of %d more traffics: it is in summary.json", len(c.f.Timeline.Latency)-latencyPlots))
			break
		}
		ch := chart{
			ID: fmt.Sprintf("latency-%d", i+1), Kind: "time", XUnit: "s", Log: true, Title: "Latency of " + s.Traffic + ", successful attempts from when they were due",
			Unit: "ms, log scale", X: middles(s.T, s.StepS), Marks: c.marks(c.f.Knee),
		}
		ch.Series = []chartSeries{
			{Name: "p50", V: pointers(s.P50Ms), Color: "blue", Kind: "line"},
			{Name: "p90", V: pointers(s.P90Ms), Color: "green", Dash: 1, Kind: "line"},
			{Name: "p99", V: pointers(s.P99Ms), Color: "orange", Dash: 2, Kind: "line"},
			{Name: "longest", V: pointers(s.MaxMs), Color: "red", Dash: 3, Kind: "line"},
		}
		longest := 0.0
		for _, v := range ch.Series[3].V {
			if !math.IsNaN(v) {
				longest = max(longest, v)
			}
		}
		if longest <= 0 {
			continue
		}
		// The steps stay out of sight where nothing comes near the first: the
		// axis would be empty between.
		if longest >= 500 {
			ch.Lines = []chartLine{{1000, "1 s: SYN again"}, {3000, "3 s: SYN again"}, {5000, "5 s: DNS again"}}
			ch.Note = "TCP sends a lost SYN again after 1 s and 3 s, and glibc's resolver asks again after 5 s."
		} else {
			ch.Note = fmt.Sprintf("No successful attempt came near the 1 s after which TCP sends a lost SYN again: the longest took %s ms.", number(longest))
		}
		c.over = append(c.over, ch)
	}
	if len(c.f.Timeline.Latency) == 0 && len(c.f.Timeline.Load.T) > 0 {
		c.gaps = append(c.gaps, "latency: the log has no times of successful attempts")
	}
}

func (c *charts) census(n NodeSeries) []chart {
	if n.Census == nil || len(n.Census.T) == 0 {
		c.gaps = append(c.gaps, c.of("census", n.Name)+": the table was not walked")
		return nil
	}
	ch := chart{
		ID: c.id("census", n.Name), Kind: "time", XUnit: "s", Stack: true, Title: c.of("Entries by state", n.Name), Unit: "entries", X: n.Census.T, Marks: c.marks(c.knee(n.Name)),
		Note: plural(uint64(len(n.Census.T)), "walk") + " over the table; between them the areas only connect the dots.",
	}
	var rest values
	for _, s := range n.Census.States {
		switch {
		case len(s.Count) != len(n.Census.T):
		case s.Name == "ballast":
			if most := slices.Max(s.Count); most > 0 {
				ch.Note += " Ballast, " + grouped(most) + " entries at most, is left out: it is a filling of ours, which stands for other load."
			}
		case len(ch.Series) < plottedSeries-1:
			ch.Series = append(ch.Series, chartSeries{Name: s.Name, V: floats(s.Count), Kind: "area"})
		default:
			rest = sum(rest, floats(s.Count))
		}
	}
	if rest != nil {
		ch.Series = append(ch.Series, chartSeries{Name: "all other states", V: rest, Kind: "area"})
	}
	if len(ch.Series) == 0 {
		return nil
	}
	paint(ch.Series, "blue", "orange", "green", "purple", "red", "sky", "yellow", "ink")
	return []chart{ch}
}

func (c *charts) counters(n NodeSeries) []chart {
	ch := chart{ID: c.id("counters", n.Name), Kind: "time", XUnit: "s", Title: c.of("Kernel counters that moved", n.Name), Unit: "per second", Steps: "before", X: n.T, Marks: c.marks(c.knee(n.Name))}
	names := slices.Sorted(maps.Keys(n.Counters))
	total := func(name string) (t float64) {
		for _, v := range n.Counters[name] {
			t += float64(v)
		}
		return t
	}
	slices.SortStableFunc(names, func(a, b string) int { return int(math.Copysign(1, total(b)-total(a))) })
	var left []string
	for _, name := range names {
		gained := n.Counters[name]
		if len(gained) != len(n.T) || total(name) == 0 {
			continue
		}
		if len(ch.Series) == plottedSeries {
			left = append(left, name)
			continue
		}
		ch.Series = append(ch.Series, chartSeries{Name: name, V: perStep(n.T, gained), Kind: "line"})
	}
	if len(ch.Series) == 0 {
		if len(n.T) > 0 {
			c.gaps = append(c.gaps, c.of("kernel counters", n.Name)+": none of them moved, or they are not in the series")
		}
		return nil
	}
	if len(left) > 0 {
		ch.Note = "Not drawn: " + strings.Join(left, ", ") + "."
	}
	paintCounters(ch.Series)
	return []chart{ch}
}

func (c *charts) cpu(n NodeSeries) []chart {
	s := n.CPU
	if s == nil || len(s.T) == 0 {
		c.gaps = append(c.gaps, c.of("CPU", n.Name)+": not in the series")
		return nil
	}
	ch := chart{ID: c.id("cpu", n.Name), Kind: "time", XUnit: "s", Stack: true, Share: true, Ceil: 1, Title: "CPU time of the machine of " + n.Name, Unit: "share of all CPUs", Steps: "before", X: s.T, Marks: c.marks(c.knee(n.Name))}
	for _, x := range []chartSeries{
		{Name: "softirq", V: s.SoftIRQ, Color: "red"}, {Name: "system", V: s.System, Color: "orange"},
		{Name: "user", V: s.User, Color: "blue"}, {Name: "steal", V: s.Steal, Color: "purple"},
	} {
		if len(x.V) == len(s.T) {
			x.Kind = "area"
			ch.Series = append(ch.Series, x)
		}
	}
	if len(ch.Series) == 0 {
		return nil
	}
	ch.Note = "What is not filled was idle. In the lab the generator and the node share the machine."
	if c.f.Target != "lab" {
		ch.Note = "What is not filled was idle."
	}
	return []chart{ch}
}

func (c *charts) generator() []chart {
	l := c.f.Timeline.Load
	if len(l.T) == 0 {
		return nil
	}
	if len(l.Started) != len(l.T) {
		c.gaps = append(c.gaps, "generator audit: not in the series")
		return nil
	}
	ch := chart{ID: "generator", Kind: "time", XUnit: "s", Title: "Generator: what was due against what was started", Unit: "per second", Steps: "after", X: l.T, Marks: c.marks(c.f.Knee)}
	ch.Series = []chartSeries{
		{Name: "due", V: l.Offered, Color: "ink", Dash: 2, Kind: "line"},
		{Name: "started", V: l.Started, Color: "green", Kind: "line"},
	}
	if len(l.Late) == len(l.T) {
		ch.Series = append(ch.Series, chartSeries{Name: "started over 10 ms late", V: l.Late, Color: "orange", Dash: 1, Kind: "line"})
	}
	if len(l.NotStarted) == len(l.T) {
		ch.Series = append(ch.Series, chartSeries{Name: "not started", V: l.NotStarted, Color: "red", Dash: 3, Kind: "line"})
	}
	return []chart{ch}
}

func (c *charts) held() []chart {
	var out []chart
	for i, s := range c.f.Timeline.Held {
		if i >= latencyPlots || len(s.T) == 0 || len(s.Open) != len(s.T) {
			continue
		}
		ch := chart{ID: fmt.Sprintf("held-%d", i+1), Kind: "time", XUnit: "s", Title: "Connections held by " + s.Traffic, Unit: "connections", X: s.T, Marks: c.marks(c.f.Knee)}
		ch.Series = []chartSeries{{Name: "open", V: floats(s.Open), Color: "blue", Kind: "line"}}
		if len(s.Validated) == len(s.T) {
			ch.Series = append(ch.Series, chartSeries{Name: "answered in the last round", V: floats(s.Validated), Color: "green", Dash: 1, Kind: "line"})
		}
		out = append(out, ch)
	}
	return out
}

// loads plots what load did, where the load varied.
func (c *charts) loads() {
	points := slices.Clone(c.f.Timeline.ByLoad)
	if len(points) == 0 {
		return
	}
	slices.SortStableFunc(points, func(a, b LoadPoint) int {
		switch {
		case a.OfferedPerS < b.OfferedPerS:
			return -1
		case a.OfferedPerS > b.OfferedPerS:
			return 1
		}
		return 0
	})
	ch := chart{ID: "by-load", Kind: "load", XUnit: "attempts offered per second", Tall: true, Title: "Entries and loss against the load", Unit: "entries", Marks: []chartMark{}}
	var entries, loss values
	for _, p := range points {
		ch.X = append(ch.X, p.OfferedPerS)
		entries = append(entries, float64(p.Entries))
		loss = append(loss, p.Loss)
	}
	ch.Series = []chartSeries{
		{Name: "entries", V: entries, Color: "blue", Kind: "points"},
		{Name: "share of attempts that failed", V: loss, Color: "red", Dash: 1, Kind: "points", Right: true},
	}
	ch.Note = "Each dot is one step of the run. Entries stay for a while after the load that made them, so dots of a falling load lie above those of a rising one."
	c.byLoad = append(c.byLoad, ch)
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

package report

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

func (c *charts) load() []chart {
	l := c.f.Timeline.Load
	if len(l.T) == 0 {
		c.gaps = append(c.gaps, "attempts: the log has none")
		return nil
	}
	ch := chart{ID: "load", Kind: "time", XUnit: "s", Title: "Attempts, by when they were due", Unit: meansOver(l.StepS), Steps: "after", X: l.T, Marks: c.marks(c.f.Knee)}
	if len(c.f.Nodes) > 1 {
		ch.Title += ", all nodes together"
	}
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
		ch.Note = "Nobody waits for answers to " + listed(oneWay) + ": what was sent of it is offered, and neither succeeded nor failed."
		if len(oneWay) == len(c.f.Traffic) {
			ch.Series = ch.Series[:1]
		}
	}
	// A flood beside a little traffic would make the latter a flat line.
	if len(ch.Series) > 1 && mostOf(l.Offered) > 20*max(mostOf(l.OK), mostOf(l.Failed)) {
		ch.Wide, ch.Unit = true, ch.Unit+", log scale"
	}
	return []chart{c.stopped(ch, l.StepS)}
}

// meansOver is the unit of a rate whose points stand for steps, in s.
func meansOver(step float64) string {
	return "per second, means over " + number(step) + " s"
}

func mostOf(v []float64) (most float64) {
	for _, x := range v {
		most = max(most, x)
	}
	return most
}

func (c *charts) causes() []chart {
	l := c.f.Timeline.Load
	ch := chart{ID: "causes", Kind: "time", XUnit: "s", Title: "Failed attempts by cause", Unit: meansOver(l.StepS), Steps: "after", Stack: true, X: l.T, Marks: c.marks(c.f.Knee)}
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
	if has := func(cause string) bool {
		return slices.ContainsFunc(c.f.Causes, func(x Cause) bool { return x.Cause == cause })
	}; has(tableFull) && has(evicted) {
		ch.Note = "How many of the attempts without an answer were dropped and how many were evicted is known over the whole stretch, and not of each step: they are spread evenly."
	}
	paint(ch.Series, "red", "blue", "orange", "purple", "green", "sky", "yellow", "ink")
	return []chart{c.stopped(ch, l.StepS)}
}

func (c *charts) latency() {
	for i, s := range c.f.Timeline.Latency {
		if i >= latencyPlots {
			c.gaps = append(c.gaps, fmt.Sprintf("latency of %s: it is in summary.json", plural(uint64(len(c.f.Timeline.Latency)-latencyPlots), "more traffic")))
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
		switch {
		case c.f.datagrams(s.Traffic):
			ch.Note = fmt.Sprintf("A datagram is not sent again by itself: the longest successful attempt took %s ms.", number(longest))
		case longest >= 500:
			ch.Lines = []chartLine{{1000, "1 s: SYN again"}, {3000, "3 s: SYN again"}, {5000, "5 s: DNS again"}}
			ch.Note = "TCP sends a lost SYN again after 1 s and 3 s, and glibc's resolver asks again after 5 s."
		default:
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
		Note: plural(uint64(len(n.Census.T)), "walk") + " over the table; what was between them is not known.",
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
	// A counter such as found moves a hundred times as much as drop, which would
	// be a flat line.
	most, least := 0.0, math.Inf(1)
	for i := range ch.Series {
		m := mostIn(ch.Series[i : i+1])
		most, least = max(most, m), min(least, m)
	}
	if most > 20*least {
		ch.Wide, ch.Unit = true, ch.Unit+", log scale"
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
	ch := chart{ID: c.id("cpu", n.Name), Kind: "time", XUnit: "s", Stack: true, Share: true, Ceil: 1, Title: "CPU time of the machine", Unit: "share of all CPUs", Steps: "before", X: s.T, Marks: c.marks(c.knee(n.Name))}
	for _, x := range []chartSeries{
		{Name: "softirq", V: s.SoftIRQ, Color: "red"},
		{Name: "system", V: s.System, Color: "orange"},
		{Name: "user", V: s.User, Color: "blue"},
		{Name: "steal", V: s.Steal, Color: "purple"},
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
		ch.Title += " of " + n.Name
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
	ch := chart{ID: "generator", Kind: "time", XUnit: "s", Title: "Generator: what was due against what was started", Unit: meansOver(l.StepS), Steps: "after", X: l.T, Marks: c.marks(c.f.Knee)}
	ch.Series = []chartSeries{
		{Name: "due", V: l.Offered, Color: "ink", Dash: 2, Kind: "line"},
		{Name: "started", V: l.Started, Color: "green", Kind: "line"},
	}
	if len(l.Late) == len(l.T) {
		ch.Series = append(ch.Series, chartSeries{Name: "started " + c.f.Generator.LateOver(), V: l.Late, Color: "orange", Dash: 1, Kind: "line"})
	}
	if len(l.NotStarted) == len(l.T) {
		ch.Series = append(ch.Series, chartSeries{Name: "not started", V: l.NotStarted, Color: "red", Dash: 3, Kind: "line"})
	}
	return []chart{c.stopped(ch, l.StepS)}
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
	if positions(points) < 5 {
		c.gaps = append(c.gaps, "entries and loss against the load: it had too few values for a picture")
		return
	}
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

// positions is how many places on the axis the points, sorted by load, take: those
// nearer to each other than a fiftieth of it are one.
func positions(points []LoadPoint) (n int) {
	last := math.Inf(-1)
	for _, p := range points {
		if p.OfferedPerS-last >= points[len(points)-1].OfferedPerS/50 {
			n, last = n+1, p.OfferedPerS
		}
	}
	return n
}

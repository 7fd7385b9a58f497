package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/report/picture"
	"github.com/tablefull/tablefull/report/search"
	"github.com/tablefull/tablefull/scenarios"
)

// endWords say how a search ended, in the tables.
var endWords = map[search.End]string{
	search.Bounded: "bounded", search.AtMax: "end of the range", search.BelowMin: "below the range",
	search.Generator: "generator at its limit", search.Unfinished: "unfinished",
}

// boundsRows are the bounds for each goal: name, lower, upper, throughput, end.
func (c *Capacity) boundsRows() [][]string {
	out := make([][]string, 0, len(c.Goals))
	of := func(v *float64) string {
		if v == nil {
			return "none"
		}
		return c.load(*v)
	}
	for _, g := range c.Goals {
		out = append(out, []string{percent(g.LossRatio), of(g.Lower), of(g.Upper), of(g.Throughput), endWords[search.End(g.End)]})
	}
	return out
}

// trialRows are the trials: number, kind, load, due, lost, loss, peak, what it
// showed.
func (c *Capacity) trialRows() [][]string {
	out := make([][]string, 0, len(c.Trials))
	for _, t := range c.Trials {
		peak := "?"
		if t.PeakEntries != nil {
			peak = fmt.Sprint(*t.PeakEntries)
		}
		out = append(out, []string{
			fmt.Sprint(t.Number), t.Kind, c.load(t.Load), fmt.Sprint(t.Due), fmt.Sprint(t.Lost), percent(t.LossRatio), peak, t.showed(c),
		})
	}
	return out
}

// dueAndLost are the headings of what was due in a trial and what was lost of it.
func (c *Capacity) dueAndLost() (due, lost string) {
	if c.Measure == scenarios.TeardownRate {
		return "to close", "unclosed"
	}
	return "due", "lost"
}

// showed is what a trial means: good, or bad with the causes, or why it says
// nothing.
func (t *CapacityTrial) showed(c *Capacity) string {
	also := ""
	if t.closed != "" {
		also = ", " + t.closed
	}
	if t.evicted > 0 {
		also += fmt.Sprintf("; early_drop %d", t.evicted)
	}
	switch {
	case t.Inconclusive:
		return "says nothing: " + strings.Join(t.Why, "; ")
	case t.LossRatio == 0:
		return "holds" + also
	}
	s := "bad"
	if len(c.Goals) > 1 {
		bad := 0
		for _, g := range c.Goals {
			if t.LossRatio > g.LossRatio {
				bad++
			}
		}
		s = fmt.Sprintf("bad for %d of %d goals", bad, len(c.Goals))
	}
	if len(t.Causes) > 0 {
		s += ": " + strings.Join(t.Causes, ", ")
	}
	return s + also
}

// advise says what to change for more than what holds, from what bounded it.
func (c *Capacity) advise() advice {
	if len(c.Goals) == 0 {
		return advice{Do: "Nothing is known."}
	}
	g := c.Goals[0]
	load := c.Min
	switch {
	case g.End == string(search.AtMax):
		return advice{Do: "Nothing: the highest load that was asked for holds."}
	case g.Upper != nil:
		load = *g.Upper
	}
	cause := c.lostOf(g, load)
	switch {
	case cause == "":
		return advice{Do: "What bounds it is not known: see the reports of the trials that did not hold."}
	case cause != tableFull:
		return advice{Do: fmt.Sprintf("Not the limit of the table: attempts failed because of %s. The report of a trial that did not hold says what helps.", cause)}
	}
	a := advice{Do: fmt.Sprintf("For more, give the table more room: it was full in each trial of %s that did not hold.", prose(c.load(load)))}
	for _, t := range c.Trials {
		if t.Load == load && t.Kind == string(search.Measure) && !t.Inconclusive && t.FreeAtStart != nil {
			a.Why = append(a.Why, fmt.Sprintf("It had %s free when traffic began, and %s of %s failed at %s.", prose(plural(uint64(max(0, *t.FreeAtStart)), "entry", "entries")), grouped(t.Lost), grouped(t.Due), prose(c.load(load)))) //nolint:gosec // not below 0
			if t.evicted > 0 {
				a.Why = append(a.Why, fmt.Sprintf("%s let in there by evicting entries (early_drop), which a load that needs its entries loses.", prose(plural(t.evicted, "more was", "more were"))))
			}
			break
		}
	}
	if c.Unit == perSecondUnit {
		a.Why = append(a.Why, fmt.Sprintf("It holds for %g s.%s A rate that lasts needs as many free entries as it is times the time that an entry stays: the report of a trial has the limit for it, under Sizing.", c.TrialS, prose(c.lastsText())))
	}
	return a
}

// about says what was turned, and where the search began.
func (c *Capacity) about() string {
	s := fmt.Sprintf("%s from %s to %s, ", c.Knob, c.load(c.Min), c.load(c.Max))
	switch c.Measure {
	case scenarios.TeardownRate:
		s += fmt.Sprintf("each trial lasts until all connections are closed and counts as %g s", c.TrialS)
	case "concurrent_connections":
		s += fmt.Sprintf("trials of %g s after all connections were opened", c.TrialS)
	default:
		s += fmt.Sprintf("trials of %g s", c.TrialS)
	}
	switch {
	case c.Predicted == nil:
	case c.Unit == perSecondUnit:
		s += fmt.Sprintf("; by arithmetic the table holds about %s", perSecond(*c.Predicted))
	default:
		s += fmt.Sprintf("; by arithmetic the table holds %s", c.load(fourDigits(*c.Predicted)))
	}
	return s
}

// fourDigits rounds to as many digits, or to the unit: no arithmetic about
// traffic is right to more.
func fourDigits(v float64) float64 {
	unit := min(1, math.Pow(10, math.Floor(math.Log10(max(v, 1e-9)))-3))
	return math.Round(v/unit) * unit
}

func (t *text) capacity(c *Capacity) {
	if c == nil {
		return
	}
	t.line("")
	t.para("", plain(c.Name))
	t.para("  ", plain(c.about()))
	t.line("  %-10s %12s %12s %12s  %s", "may lose", "holds", "does not", "conditional", "end")
	for _, r := range c.boundsRows() {
		t.line("  %-10s %12s %12s %12s  %s", r[0], r[1], r[2], r[3], r[4])
	}
	t.line("")
	due, lost := c.dueAndLost()
	t.line("%5s %-8s %11s %9s %9s %9s  %s", "trial", "", "load", due, lost, "loss", "")
	for _, r := range c.trialRows() {
		t.para(fmt.Sprintf("%5s %-8s %11s %9s %9s %9s  ", r[0], r[1], r[2], r[3], r[4], r[5]), plain(shortened(r[7], 60)))
	}
}

// shortened is enough of a reason for a table.
func shortened(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + " ..."
}

func mdCapacity(p func(string, ...any), c *Capacity) {
	if c == nil {
		return
	}
	p("### %s\n", md(c.Name))
	p("%s.\n", md(c.about()))
	p("| may lose | holds | does not | conditional throughput | end |\n|---:|---:|---:|---:|---|")
	for _, r := range c.boundsRows() {
		p("| %s |", strings.Join(mdAll(r), " | "))
	}
	p("\n<details><summary>%s</summary>\n", plural(uint64(len(c.Trials)), "trial"))
	due, lost := c.dueAndLost()
	p("| trial | | load | %s | %s | loss | most entries | |\n|---:|---|---:|---:|---:|---:|---:|---|", due, lost)
	for _, r := range c.trialRows() {
		r[7] = shortened(r[7], 200)
		p("| %s |", strings.Join(mdAll(r), " | "))
	}
	p("\n</details>\n")
}

func mdAll(cells []string) []string {
	out := make([]string, len(cells))
	for i, s := range cells {
		out[i] = md(s)
	}
	return out
}

// capacityCharts are the plots of a search: loss against load with the bounds,
// and the search itself, trial by trial.
func (c *Capacity) charts() []chart {
	if len(c.Trials) == 0 {
		return nil
	}
	loads := []float64{}
	for _, t := range c.Trials {
		if !slices.Contains(loads, t.Load) {
			loads = append(loads, t.Load)
		}
	}
	slices.Sort(loads)
	ch := chart{
		ID: "by-load", Kind: "load", XUnit: c.loadAxis(), Tall: true, Share: true, Labels: true,
		Title: "Loss against load", Unit: "share of attempts lost", X: loads, Marks: []chartMark{},
		Note: "Each dot is the worst trial of its kind at that load. The dotted lines are the bounds of the strictest goal.",
	}
	for _, kind := range []struct {
		name, color, kind string
		is                func(CapacityTrial) bool
	}{
		{"trials that say nothing", "orange", "rings", func(t CapacityTrial) bool { return t.Inconclusive }},
		{"trials", "blue", "points", func(t CapacityTrial) bool { return t.Kind == string(search.Measure) && !t.Inconclusive }},
		{"control arm", "green", "points", func(t CapacityTrial) bool { return t.Kind == string(search.Control) && !t.Inconclusive }},
	} {
		v := make(values, len(loads))
		any := false
		for i, load := range loads {
			v[i] = math.NaN()
			for _, t := range c.Trials {
				if t.Load == load && kind.is(t) && !(t.LossRatio < v[i]) {
					v[i], any = t.LossRatio, true
				}
			}
		}
		if any {
			ch.Series = append(ch.Series, chartSeries{Name: kind.name, V: v, Color: kind.color, Kind: kind.kind})
		}
	}
	for _, b := range []struct {
		name string
		at   *float64
	}{{"holds", c.Lower}, {"does not", c.Upper}} {
		if b.at != nil {
			ch.Marks = append(ch.Marks, chartMark{At: *b.at, To: *b.at, Name: b.name + ": " + prose(c.load(*b.at)), Kind: "phase"})
		}
	}
	worst := 0.0
	for _, t := range c.Trials {
		worst = max(worst, t.LossRatio)
	}
	ch.Ceil = 1.07 * max(0.001, worst) // by itself an axis of nothing lost would end at 100 %
	return []chart{ch}
}

func (c *Capacity) loadAxis() string {
	if c.Unit == perSecondUnit {
		return c.Knob + ", per second"
	}
	return c.Knob
}

// panels are a search over its own time: what was tried, and what was lost.
func (c *Capacity) panels() (panels []picture.Panel, to float64) {
	load := picture.Line{Name: "load tried", Style: picture.Offered}
	lost := picture.Line{Name: "lost", Style: picture.Failed}
	from, least, most, worst := 0.0, math.Inf(1), 0.0, 0.0
	for _, t := range c.Trials {
		for _, at := range []float64{from, max(from, t.EndedS)} {
			load.T, load.V = append(load.T, at), append(load.V, t.Load)
			lost.T, lost.V = append(lost.T, at), append(lost.V, 100*t.LossRatio)
		}
		from = max(from, t.EndedS)
		least, most, worst = min(least, t.Load), max(most, t.Load), max(worst, 100*t.LossRatio)
	}
	top := picture.Panel{Title: "Load tried (" + c.loadAxis() + ")", Share: 1.25, High: 1.05 * max(1e-9, most), Lines: []picture.Line{load}, Empty: "No trial was made."}
	if least > most/2 && least < most {
		top.Low, top.High = least-(most-least)/10, most+(most-least)/10
		top.Title += "; the axis does not begin at 0"
	}
	for _, b := range []struct {
		name  string
		at    *float64
		style picture.Style
	}{{"holds: ", c.Lower, picture.OK}, {"does not: ", c.Upper, picture.Limit}} {
		if b.at != nil {
			top.Lines = append(top.Lines, picture.Line{Name: b.name + c.load(*b.at), Style: b.style, T: []float64{0, from}, V: []float64{*b.at, *b.at}})
		}
	}
	bottom := picture.Panel{Title: "Attempts lost, %", Share: 1, High: max(1, 1.1*worst), Lines: []picture.Line{lost}, Empty: "No trial was made."}
	if len(c.Trials) == 0 {
		top.Lines, bottom.Lines = nil, nil
	}
	return []picture.Panel{top, bottom}, from
}

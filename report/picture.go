package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tablefull/tablefull/report/picture"
)

// mostNodes is how many nodes a picture shows: the headline's, and the fullest
// of the others.
const mostNodes = 5

func renderSVG(f *Findings, w io.Writer) error { return newPicture(f).SVG(w) }
func renderPNG(f *Findings, w io.Writer) error { return newPicture(f).PNG(w) }

// newPicture is the run on one time axis: entries against the limit of the node
// that the headline is about, and below it attempts per second.
func newPicture(f *Findings) *picture.Picture {
	p := &picture.Picture{
		Verdict: f.Badge(), Tone: map[Verdict]picture.Tone{Pass: picture.Good, Fail: picture.Bad}[f.Verdict],
		Name: "tablefull: " + cmpOr(f.Scenario, "unknown scenario"), Headline: f.Headline, Footer: provenance(f),
	}
	if f.Incomplete {
		p.Name += " (incomplete: the log ends early)"
	}
	// An inconclusive run's first reason is its headline.
	if f.Verdict == Fail && len(f.Reasons) > 0 {
		p.Reason = f.Reasons[0]
	}
	if f.Capacity != nil {
		p.Panels, p.To = f.Capacity.panels()
		return p
	}
	p.From, p.To = span(f)
	p.Panels = append([]picture.Panel{tablePanel(f, p.From, p.To)}, loadPanels(f)...)
	n := headNode(f)
	kinds := map[string]picture.MarkKind{"early_drop": picture.EarlyDrop, "drop": picture.Drop, "client_loss": picture.ClientLoss}
	for _, o := range onsets(f) {
		if n == nil || o.node == n.Name || o.node == "" {
			p.Marks = append(p.Marks, picture.Mark{Name: strings.ReplaceAll(o.name, "client_loss", "client loss"), At: o.AtS, Kind: kinds[o.name], PlusS: o.UncertaintyS})
		}
	}
	for _, s := range f.Spikes {
		p.Marks = append(p.Marks, picture.Mark{Name: s.Action, At: s.BeginS, Kind: picture.Action})
		if s.DoneS != nil && *s.DoneS-s.BeginS > (p.To-p.From)/100 { // else it is the same moment
			p.Marks = append(p.Marks, picture.Mark{Name: s.Action + " done", At: *s.DoneS, Kind: picture.Action})
		}
	}
	return p
}

// span is the time in which traffic was due, and what was sampled after it. The
// time before, in which the table is filled, is left out.
func span(f *Findings) (from, to float64) {
	load := f.Timeline.Load
	if len(load.T) > 0 {
		from, to = load.T[0], load.T[len(load.T)-1]+load.StepS
	}
	for _, n := range f.Timeline.Nodes {
		if len(n.T) > 0 {
			to = max(to, n.T[len(n.T)-1])
		}
	}
	return from, to
}

// provenance says in a line when, where and with what the run was made.
func provenance(f *Findings) string {
	e := f.Environment
	s := e.Started
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		s = t.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	add := func(format string, args ...any) {
		if s != "" {
			s += ", "
		}
		s += fmt.Sprintf(format, args...)
	}
	if e.Kernel != "" {
		add("kernel %s", e.Kernel)
	}
	if e.CPUs > 0 {
		add("%d CPUs", e.CPUs)
	}
	if e.Version != "" {
		add("tablefull %s", e.Version)
	}
	return s
}

// madeText is the same with what programmed the services, for which a picture has no
// room.
func madeText(f *Findings) string {
	s := provenance(f)
	if f.Environment.Proxy != "" {
		s += "; services by " + f.Environment.Proxy
	}
	return strings.TrimPrefix(s, "; ")
}

// tablePanel has the headline's node first, so that it can be told from others.
func tablePanel(f *Findings, from, to float64) picture.Panel {
	p := picture.Panel{Title: "Entries in the table", Share: 1.25, Empty: "No node's table was sampled."}
	nodes, left := pictureNodes(f)
	if len(nodes) == 0 {
		return p
	}
	p.Title = "Entries in " + nodes[0].Name + "'s table"
	low, high, farFrom := math.Inf(1), 0.0, ""
	for i, n := range nodes {
		t, entries, limit := inside(n, from, to)
		style, name := picture.Entries, "entries"
		if i > 0 {
			style, name = picture.Other+picture.Style(i-1), "entries of "+n.Name
		}
		p.Lines = append(p.Lines, picture.Line{Name: name, Style: style, T: t, V: entries})
		for _, v := range entries {
			low, high = min(low, v), max(high, v)
		}
		if i == 0 && len(limit) > 0 && fullestOf(nodes) < farBelow*slices.Min(limit) {
			farFrom = limitName(nodes) // beside it the entries would be a flat line
		} else if i == 0 {
			p.Lines = append(p.Lines, picture.Line{Name: limitName(nodes), Style: picture.Limit, T: t, V: limit})
			for _, v := range limit {
				high = max(high, v)
			}
		}
	}
	if left > 0 {
		p.Title += fmt.Sprintf(" (%d more nodes are not shown)", left)
	}
	p.Low, p.High = 0, high+high*0.04
	if farFrom != "" {
		p.Title += "; the " + farFrom + " is far above"
	}
	// A table that is mostly filling would be a flat line at the top: show the
	// part in which something happens, and say so.
	if farFrom == "" && low >= high/2 && !math.IsInf(low, 1) && high > low {
		p.Low, p.High = max(0, low-(high-low)*0.1), high+(high-low)*0.08
		if p.Low > 0 {
			p.Title += "; the axis does not begin at 0"
		}
	}
	p.High = max(p.High, p.Low+1)
	return p
}

// fullestOf is the highest count of entries of any of the nodes.
func fullestOf(nodes []NodeSeries) (most float64) {
	for _, n := range nodes {
		most = max(most, float64(slices.Max(n.Entries)))
	}
	return most
}

// limitName states the limit, and whether it is that of all nodes shown.
func limitName(nodes []NodeSeries) string {
	last := func(n NodeSeries) uint64 { return n.Limit[len(n.Limit)-1] }
	s := fmt.Sprintf("limit %d", last(nodes[0]))
	if slices.Min(nodes[0].Limit) != slices.Max(nodes[0].Limit) {
		s = "limit"
	}
	for _, n := range nodes[1:] {
		if last(n) != last(nodes[0]) {
			return s + " of " + nodes[0].Name
		}
	}
	return s
}

// pictureNodes are the nodes to draw, and how many are left out.
func pictureNodes(f *Findings) ([]NodeSeries, int) {
	var out []NodeSeries
	head := headNode(f)
	peak := func(n NodeSeries) uint64 { return slices.Max(n.Entries) }
	for _, n := range f.Timeline.Nodes {
		if len(n.T) > 0 && len(n.Entries) == len(n.T) && len(n.Limit) == len(n.T) {
			out = append(out, n)
		}
	}
	slices.SortStableFunc(out, func(a, b NodeSeries) int {
		for _, n := range []NodeSeries{a, b} {
			if head != nil && n.Name == head.Name && a.Name != b.Name {
				if n.Name == a.Name {
					return -1
				}
				return 1
			}
		}
		switch {
		case peak(a) > peak(b):
			return -1
		case peak(a) < peak(b):
			return 1
		}
		return 0
	})
	left := max(0, len(out)-mostNodes)
	return out[:len(out)-left], left
}

// inside is a node's series between from and to, and the last point before, so
// that its line begins at the edge.
func inside(n NodeSeries, from, to float64) (t, entries, limit []float64) {
	for i := range n.T {
		if n.T[i] > to || i+1 < len(n.T) && n.T[i+1] <= from {
			continue
		}
		t, entries, limit = append(t, max(n.T[i], from)), append(entries, float64(n.Entries[i])), append(limit, float64(n.Limit[i]))
	}
	return t, entries, limit
}

// loadPanels is one panel of attempts per second, or two where what was offered
// is so much more than what is known of its end that the latter would lie flat
// on the axis: a flood beside traffic.
func loadPanels(f *Findings) []picture.Panel {
	s := f.Timeline.Load
	all := picture.Panel{Title: "Attempts per second when due", Share: 1, Empty: "The log has no attempts."}
	if len(s.T) == 0 {
		return []picture.Panel{all}
	}
	if len(s.Offered) != len(s.T) || slices.Max(s.Offered) <= 0 {
		all.Empty = "No attempt was due in the time that the log covers."
		return []picture.Panel{all}
	}
	all.Title += fmt.Sprintf(", means over %g s", s.StepS)
	if s.EndsKnownToS != nil {
		all.Title += fmt.Sprintf("; ends known up to %.1f s", *s.EndsKnownToS)
	}
	add := func(p *picture.Panel, name string, style picture.Style, v []float64) {
		if len(v) != len(s.T) {
			return
		}
		most := slices.Max(v)
		p.Lines = append(p.Lines, picture.Line{Name: fmt.Sprintf("%s, up to %s", name, perSecond(most)), Style: style, T: s.T, V: v, Step: s.StepS})
		p.High = max(p.High, most*1.06, 1)
	}
	answered, oneWay := false, false
	for _, t := range f.Traffic {
		answered, oneWay = answered || !t.OneWay, oneWay || t.OneWay
	}
	known := picture.Panel{Share: 0.8}
	if answered { // otherwise nobody knows how they ended
		add(&known, "succeeded", picture.OK, s.OK)
	}
	add(&known, "failed", picture.Failed, s.Failed)
	add(&all, "offered", picture.Offered, s.Offered)
	if oneWay && answered && known.High < all.High/6 {
		all.Share = 0.5
		known.Title = "Of those, with a known end"
		return []picture.Panel{all, known}
	}
	if oneWay {
		all.Title += "; nobody knows how one-way traffic ends"
	}
	all.Lines = append(all.Lines, known.Lines...)
	return []picture.Panel{all}
}

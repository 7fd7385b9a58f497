package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// The plots' size in SVG units; the page scales them.
const (
	plotWidth  = 860.0
	plotHeight = 240.0
	plotLeft   = 70.0
	plotRight  = 14.0
	plotTop    = 14.0
	plotBottom = 30.0
)

// A plot draws series over run time. All plots of a report share their time
// axis, so that one can be read below the other.
type plot struct {
	b         strings.Builder
	from, to  float64 // s
	low, high float64
}

func newPlot(f *Findings, low, high float64) *plot {
	p := &plot{low: low, high: high}
	for _, t := range f.Timeline.Load.T {
		p.from, p.to = min(p.from, t), max(p.to, t+f.Timeline.Load.StepS)
	}
	for _, n := range f.Timeline.Nodes {
		for _, t := range n.T {
			p.to = max(p.to, t)
			if t > -1 {
				p.from = min(p.from, t)
			}
		}
	}
	if p.to-p.from < 0.1 {
		p.to = p.from + 0.1
	}
	if p.high-p.low < 1e-9 {
		p.high = p.low + 1
	}
	return p
}

func (p *plot) x(t float64) float64 {
	return plotLeft + (plotWidth-plotLeft-plotRight)*(t-p.from)/(p.to-p.from)
}

func (p *plot) y(v float64) float64 {
	return plotHeight - plotBottom - (plotHeight-plotTop-plotBottom)*(v-p.low)/(p.high-p.low)
}

func (p *plot) add(format string, args ...any) { fmt.Fprintf(&p.b, format, args...) }

// ticks returns round numbers in [low, high], about n.
func ticks(low, high float64, n int) []float64 {
	span := high - low
	if span <= 0 || math.IsInf(span, 0) || math.IsNaN(span) {
		return nil
	}
	step := math.Pow(10, math.Floor(math.Log10(span/float64(n))))
	for _, m := range []float64{1, 2, 5, 10} {
		if span/(step*m) <= float64(n) {
			step *= m
			break
		}
	}
	var out []float64
	for v := math.Ceil(low/step-1e-9) * step; v <= high+step*1e-9 && len(out) < 50; v += step {
		out = append(out, v)
	}
	return out
}

func (p *plot) axes(unit string) {
	for _, v := range ticks(p.low, p.high, 5) {
		p.add(`<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, plotLeft, plotWidth-plotRight, p.y(v), p.y(v))
		p.add(`<text class="tick" x="%.1f" y="%.1f" text-anchor="end">%s</text>`, plotLeft-6, p.y(v)+4, number(v))
	}
	for _, t := range ticks(p.from, p.to, 10) {
		p.add(`<text class="tick" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, p.x(t), plotHeight-plotBottom+16, number(t))
	}
	p.add(`<text class="tick" x="%.1f" y="%.1f" text-anchor="end">s</text>`, plotWidth-plotRight, plotHeight-2)
	p.add(`<text class="tick" x="%.1f" y="%.1f">%s</text>`, 2.0, plotTop-3, html.EscapeString(unit))
}

func number(v float64) string {
	a := math.Abs(v)
	switch {
	case a >= 1e6:
		return fmt.Sprintf("%.4gM", v/1e6)
	case a >= 1e4:
		return fmt.Sprintf("%.4gk", v/1e3)
	case a < 1e-9:
		return "0"
	}
	return fmt.Sprintf("%.4g", v)
}

func (p *plot) path(class string, t, v []float64) {
	if len(t) == 0 {
		return
	}
	p.add(`<path class="%s" d="`, class)
	for i := range t {
		verb := "L"
		if i == 0 {
			verb = "M"
		}
		p.add("%s%.1f %.1f", verb, p.x(max(t[i], p.from)), p.y(v[i]))
	}
	p.add(`"/>`)
}

// mark is a vertical line with a name on top.
func (p *plot) mark(class, name string, at float64, row int) {
	p.add(`<line class="%s" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, class, p.x(at), p.x(at), plotTop, plotHeight-plotBottom)
	anchor, dx := "start", 4.0
	if p.x(at) > plotWidth*0.8 {
		anchor, dx = "end", -4.0
	}
	p.add(`<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, class, p.x(at)+dx, plotTop+12+14*float64(row), anchor, html.EscapeString(name))
}

// svg wraps what was drawn. Everything in it was made here; names were escaped.
func (p *plot) svg(label string) template.HTML {
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">%s</svg>`, plotWidth, plotHeight, html.EscapeString(label), p.b.String())) //nolint:gosec // escaped above
}

// tablePlot draws a node's entries under its limit, with the onsets.
func tablePlot(f *Findings, n Node) template.HTML {
	for _, s := range f.Timeline.Nodes {
		if s.Name != n.Name || len(s.T) == 0 {
			continue
		}
		var entries, limit []float64
		low, high := math.Inf(1), 0.0
		for i := range s.T {
			entries, limit = append(entries, float64(s.Entries[i])), append(limit, float64(s.Limit[i]))
			low, high = min(low, entries[i]), max(high, entries[i], limit[i])
		}
		// A table that is mostly ballast would be a flat line at the top: show
		// the part in which something happens, and say so on the axis.
		if low < high/2 {
			low = 0
		} else {
			low = max(0, low-(high-low)*0.1)
		}
		p := newPlot(f, low, high+(high-low)*0.05)
		unit := "entries"
		if low > 0 {
			unit = "entries; the axis begins at " + number(low)
		}
		p.axes(unit)
		p.path("limit", s.T, limit)
		p.path("entries", s.T, entries)
		p.marks(n.Knee)
		return p.svg("entries of " + n.Name + " over time, under its limit")
	}
	return ""
}

func (p *plot) marks(k Knee) {
	for i, m := range []struct {
		class, name string
		o           *Onset
	}{{"early", "early_drop", k.EarlyDrop}, {"drop", "drop", k.Drop}, {"loss", "client loss", k.ClientLoss}} {
		if m.o != nil {
			p.mark(m.class, m.name, m.o.AtS, i+1)
		}
	}
}

// loadPlot draws attempts per second by when they were due.
func loadPlot(f *Findings) template.HTML {
	s := f.Timeline.Load
	if len(s.T) == 0 {
		return ""
	}
	high := 0.0
	t := make([]float64, len(s.T))
	for i := range s.T {
		high = max(high, s.Offered[i], s.OK[i], s.Failed[i])
		t[i] = s.T[i] + s.StepS/2
	}
	p := newPlot(f, 0, high*1.05)
	p.axes("attempts/s")
	p.path("offered", t, s.Offered)
	p.path("ok", t, s.OK)
	p.path("failed", t, s.Failed)
	p.marks(f.Knee)
	return p.svg("attempts per second: offered, succeeded, failed")
}

// causePlot draws the causes' shares as bars.
func causePlot(f *Findings) template.HTML {
	var b strings.Builder
	const row, left = 26.0, 150.0
	var most uint64
	for _, c := range f.Causes {
		most = max(most, c.Failures)
	}
	if most == 0 {
		return ""
	}
	for i, c := range f.Causes {
		y := float64(i) * row
		width := (plotWidth - left - 150) * float64(c.Failures) / float64(most)
		class := "bar"
		if byTable(c.Cause) {
			class = "bar table"
		}
		fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%.1f" text-anchor="end">%s</text>`, left-8, y+17, html.EscapeString(c.Cause))
		fmt.Fprintf(&b, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="16"/>`, class, left, y+4, max(width, 1))
		fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%.1f">%d (%s)</text>`, left+width+6, y+17, c.Failures, html.EscapeString(percent(c.Share)))
	}
	return template.HTML(fmt.Sprintf(`<svg viewBox="0 0 %.0f %.0f" role="img" aria-label="attempts by cause">%s</svg>`, plotWidth, row*float64(len(f.Causes))+4, b.String())) //nolint:gosec // escaped above
}

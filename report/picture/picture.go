// Package picture draws plots over run time, one below the other on one time
// axis, as SVG or PNG. It needs neither a browser nor the fonts of the machine,
// and the same Picture always gives the same bytes.
package picture

import (
	"math"
	"slices"
	"strings"
	"unicode"
)

// Tone colours the verdict.
type Tone int

const (
	Neutral Tone = iota
	Good
	Bad
)

// Picture is what to draw. Strings may hold anything: what cannot be printed is
// drawn as a question mark. Numbers that are not finite are left out.
type Picture struct {
	Verdict  string // short: it is drawn in a coloured box
	Tone     Tone
	Name     string // of what was run, beside the verdict
	Headline string // drawn whole, on as many lines as it needs
	Reason   string // smaller, below it
	Footer   string
	From, To float64 // of the time axis, s
	Panels   []Panel
	Marks    []Mark
}

// Panel is one plot.
type Panel struct {
	Title     string // with the unit
	Low, High float64
	Share     float64 // of the height, compared with the other panels
	Lines     []Line
	Empty     string // drawn instead of a plot that has no lines
}

// Line is one series. T and V have the same length.
type Line struct {
	Name  string
	Style Style
	T, V  []float64
	// Step is how long each value holds from its T on, s; 0 draws straight
	// lines from value to value.
	Step float64
}

// Style is a line's role. Roles differ in dashes and width as well as in
// colour, in colours that colour-blind people can tell apart.
type Style int

const (
	Entries Style = iota
	Limit
	Offered
	OK
	Failed
	Other // further nodes: Other+1, Other+2 and so on
)

// Mark is a moment, drawn across all panels.
type Mark struct {
	Name  string
	At    float64 // s
	Kind  MarkKind
	PlusS float64 // the true moment is within plus or minus this, s; drawn where it can be seen
}

// MarkKind says how a mark is drawn.
type MarkKind int

const (
	EarlyDrop MarkKind = iota
	Drop
	ClientLoss
	Action
)

// most bounds what is drawn: coordinates beyond it are no measurements.
const most = 1e20

func finite(v float64) bool { return !math.IsNaN(v) && math.Abs(v) <= most }

// tame is a copy whose numbers can be drawn: axes have a length, and marks lie on
// theirs.
func (p *Picture) tame() *Picture {
	t := *p
	t.From, t.To = axis(p.From, p.To, 0.1)
	t.Panels = slices.Clone(p.Panels)
	for i := range t.Panels {
		x := &t.Panels[i]
		x.Low, x.High = axis(x.Low, x.High, 1e-6)
		if !(x.Share > 0.01 && x.Share < 100) {
			x.Share = 1
		}
	}
	t.Marks = nil
	for _, m := range p.Marks {
		if !finite(m.At) || m.At < t.From || m.At > t.To {
			continue
		}
		if !finite(m.PlusS) {
			m.PlusS = 0
		}
		t.Marks = append(t.Marks, m)
	}
	return &t
}

// axis has at least this length.
func axis(low, high, length float64) (float64, float64) {
	if !finite(low) || !finite(high) {
		return 0, 1
	}
	return low, max(high, low+max(length, math.Abs(low)*1e-9))
}

// printable is s on one line, without what a font or XML has no sign for.
func printable(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// ticks returns round numbers in [low, high], about n.
func ticks(low, high float64, n int) []float64 {
	span := high - low
	if span <= 0 {
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
	first := math.Ceil(low/step - 1e-9)
	for i := 0; i <= 2*n; i++ {
		v := (first + float64(i)) * step
		if v > high+step*1e-9 {
			break
		}
		out = append(out, v+0) // -0 becomes 0
	}
	return out
}

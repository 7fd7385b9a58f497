package picture

import (
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"
)

// layout is where everything goes, worked out before the height is known.
type layout struct {
	p        *Picture
	headline []string
	reason   []string
	footer   []string
	from, to float64
	groups   []group // marks
	keys     [][]keyRow
	markRows int
	top      float64 // of the first panel's title
	plots    float64 // height of the plots alone
	height   float64
}

// keyRow is one line of a panel's legend.
type keyRow []key

type key struct {
	line Line
	name string
	x    float64
}

// group is marks too close to each other for a label each.
type group struct {
	marks  []Mark
	x      float64
	label  string
	labelX float64
	row    int // from the top
}

const (
	near       = 5.0 // marks closer than this share a label
	mostLabels = 8   // with more, actions are drawn without
	keySample  = 26.0
	gapAbove   = 9.0 // each plot
	gapBelow   = 12.0
)

func (p *Picture) layout() *layout {
	p = p.tame()
	l := &layout{p: p, from: p.From, to: p.To}
	l.headline = wrap(headlineText, p.Headline, width-2*margin)
	l.reason = wrap(smallText, p.Reason, width-2*margin)
	l.footer = wrap(tickText, p.Footer, width-2*margin)
	l.groupMarks()
	l.placeLabels()
	l.top = margin + 26 + 6 + 22*float64(len(l.headline)) + row*float64(len(l.reason)) + 8
	y := l.top
	for _, panel := range p.Panels {
		rows := keyRows(panel)
		l.keys = append(l.keys, rows)
		y += row*float64(len(rows)) + gapAbove + gapBelow
	}
	y += row * float64(l.markRows)
	y += 20 + 14*float64(len(l.footer)) + margin + 4
	l.plots = max(minPlots, minHeight-y)
	l.height = math.Ceil(y + l.plots)
	return l
}

// keyRows is a panel's title and legend, in as many rows as they need.
func keyRows(p Panel) []keyRow {
	title := shorten(p.Title, 90)
	rows := []keyRow{{}}
	x := margin + wide(panelText, title) + 22
	for _, line := range p.Lines {
		k := key{line: line, name: shorten(line.Name, 48)}
		w := keySample + 6 + wide(smallText, k.name)
		if x+w > plotRight {
			rows, x = append(rows, keyRow{}), plotLeft
		}
		k.x = x
		x += w + 20
		rows[len(rows)-1] = append(rows[len(rows)-1], k)
	}
	return rows
}

func (l *layout) x(t float64) float64 {
	return plotLeft + (plotRight-plotLeft)*(t-l.from)/(l.to-l.from)
}

func (l *layout) groupMarks() {
	marks := slices.Clone(l.p.Marks)
	slices.SortStableFunc(marks, func(a, b Mark) int {
		if a.At != b.At {
			if a.At < b.At {
				return -1
			}
			return 1
		}
		return int(a.Kind - b.Kind)
	})
	for _, m := range marks {
		x := l.x(m.At)
		if n := len(l.groups); n > 0 && x-l.groups[n-1].x < near {
			l.groups[n-1].marks = append(l.groups[n-1].marks, m)
			continue
		}
		l.groups = append(l.groups, group{marks: []Mark{m}, x: x})
	}
	bare := len(l.groups) > mostLabels
	for i := range l.groups {
		l.groups[i].label = l.groups[i].text(bare)
	}
}

// text is like: drop and client loss 5.001 s, early_drop 5.051 s.
func (g *group) text(onsetsOnly bool) string {
	var parts []string
	last, left := "", 0
	for _, m := range g.marks {
		if onsetsOnly && m.Kind == Action {
			continue
		}
		at := fmt.Sprintf("%.3f s", m.At)
		switch {
		case len(parts) == 4:
			left++
		case at == last:
			head := strings.TrimSuffix(parts[len(parts)-1], " "+at)
			parts[len(parts)-1] = head + " and " + shorten(m.Name, 24) + " " + at
		default:
			parts = append(parts, shorten(m.Name, 24)+" "+at)
		}
		last = at
	}
	if left > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", left))
	}
	return shorten(strings.Join(parts, ", "), 110)
}

// placeLabels puts labels that would touch into rows, left ones higher, so that
// the line down from a label passes left of the labels below it.
func (l *layout) placeLabels() {
	var starts []float64 // left end of what is in each row, the lowest first
	for i := len(l.groups) - 1; i >= 0; i-- {
		g := &l.groups[i]
		if g.label == "" {
			continue
		}
		w := wide(smallText, g.label)
		g.labelX = max(plotLeft, min(g.x-3, plotRight-w))
		lowest := 0 // not below a label whose line would pass through it
		for _, right := range l.groups[i+1:] {
			if right.label != "" && right.x < g.labelX+w+4 {
				lowest = max(lowest, right.row+1)
			}
		}
		g.row = lowest
		for g.row < len(starts) && g.labelX+w+10 >= starts[g.row] {
			g.row++
		}
		for g.row >= len(starts) {
			starts = append(starts, plotRight*2)
		}
		starts[g.row] = g.labelX
	}
	l.markRows = len(starts)
	for i := range l.groups { // from here on counted from the top
		l.groups[i].row = max(0, l.markRows-1-l.groups[i].row)
	}
}

func (l *layout) draw(s *sheet) {
	s.rect(color.White, 0, 0, width, l.height)
	y := l.head(s)
	marksTop, axisY := 0.0, 0.0
	shares := 0.0
	for _, p := range l.p.Panels {
		shares += p.Share
	}
	type area struct{ top, bottom float64 }
	areas := make([]area, len(l.p.Panels))
	for i, p := range l.p.Panels {
		y = l.legend(s, p, l.keys[i], y)
		if i == 0 {
			marksTop = y
			y += row * float64(l.markRows)
		}
		y += gapAbove
		areas[i] = area{y, y + l.plots*p.Share/shares}
		l.grid(s, p, areas[i].top, areas[i].bottom)
		y = areas[i].bottom + gapBelow
		axisY = areas[i].bottom
	}
	for i, p := range l.p.Panels {
		l.bands(s, areas[i].top, areas[i].bottom)
		l.lines(s, p, areas[i].top, areas[i].bottom)
	}
	if slices.ContainsFunc(l.p.Panels, func(p Panel) bool { return len(p.Lines) > 0 }) {
		l.timeAxis(s, axisY)
	}
	for _, a := range areas {
		l.markLines(s, a.top, a.bottom)
	}
	l.markLabels(s, marksTop, marksTop+row*float64(l.markRows)+gapAbove)
	y = l.height - margin - 14*float64(len(l.footer)) + 10
	for _, f := range l.footer {
		s.text(tickText, margin, y, f)
		y += 14
	}
}

// head is the verdict, the headline and the reason; it returns where the
// panels begin.
func (l *layout) head(s *sheet) float64 {
	verdict := strings.ToUpper(shorten(l.p.Verdict, 30))
	w := wide(verdictText, verdict)
	x := margin
	if verdict != "" {
		back := map[Tone]color.Color{Neutral: grey, Good: blue, Bad: vermillion}[l.p.Tone]
		s.rect(back, margin, margin, margin+w+16, margin+23)
		s.text(verdictText, margin+8, margin+16.5, verdict)
		x += w + 28
	}
	s.text(nameText, x, margin+16.5, shorten(l.p.Name, 80))
	y := margin + 32.0
	for _, line := range l.headline {
		y += 22
		s.text(headlineText, margin, y-6, line)
	}
	for _, line := range l.reason {
		y += row
		s.text(smallText, margin, y-3, line)
	}
	return l.top
}

func (l *layout) legend(s *sheet, p Panel, rows []keyRow, y float64) float64 {
	for i, r := range rows {
		y += row
		if i == 0 {
			s.text(panelText, margin, y-4, shorten(p.Title, 90))
		}
		for _, k := range r {
			s.line(k.line.Style.line(), k.x, y-8, k.x+keySample, y-8)
			s.text(smallText, k.x+keySample+6, y-4, k.name)
		}
	}
	return y
}

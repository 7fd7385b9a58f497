package picture

import (
	"fmt"
	"image/color"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

var hairline = draw.LineStyle{Color: pale, Width: 1}

// scale maps values to the height of a panel.
func scale(p Panel, top, bottom float64) func(float64) float64 {
	return func(v float64) float64 { return bottom - (bottom-top)*(v-p.Low)/(p.High-p.Low) }
}

func (l *layout) grid(s *sheet, p Panel, top, bottom float64) {
	if len(p.Lines) == 0 {
		s.rect(hairline.Color, plotLeft, top, plotRight, bottom)
		for i, line := range wrap(smallText, p.Empty, plotRight-plotLeft-40) {
			s.text(smallText, plotLeft+20, top+26+row*float64(i), line)
		}
		return
	}
	y := scale(p, top, bottom)
	at := ticks(p.Low, p.High, max(2, int((bottom-top)/34)))
	right := tickText
	right.XAlign = draw.XRight
	for i, name := range labels(at) {
		s.line(hairline, plotLeft, y(at[i]), plotRight, y(at[i]))
		s.text(right, plotLeft-7, y(at[i])+4, name)
	}
	for _, t := range ticks(l.from, l.to, 10) {
		s.line(hairline, l.x(t), top, l.x(t), bottom)
	}
	s.line(draw.LineStyle{Color: grey, Width: 1}, plotLeft, bottom, plotRight, bottom)
}

func (l *layout) timeAxis(s *sheet, y float64) {
	at := ticks(l.from, l.to, 10)
	center := tickText
	center.XAlign = draw.XCenter
	for i, name := range labels(at) {
		if i == len(at)-1 {
			name += " s"
		}
		s.text(center, min(l.x(at[i]), plotRight-wide(center, name)/2), y+15, name)
	}
}

// lines draws a panel's series, clipped to it.
func (l *layout) lines(s *sheet, p Panel, top, bottom float64) {
	y := scale(p, top, bottom)
	// A line that lies on the edge shows its whole width.
	area := draw.Canvas{Canvas: s.c.Canvas, Rectangle: vg.Rectangle{Min: s.pt(plotLeft, bottom+3), Max: s.pt(plotRight, top-3)}}
	for _, line := range p.Lines {
		var pts []vg.Point
		put := func(t, v float64) { pts = append(pts, s.pt(l.x(t), y(v))) }
		for i := range min(len(line.T), len(line.V)) {
			t, v := line.T[i], line.V[i]
			if !finite(t) || !finite(v) {
				continue
			}
			put(t, v)
			if line.Step > 0 && finite(line.Step) {
				put(t+line.Step, v)
			}
		}
		if len(pts) == 1 { // a line needs two
			pts = []vg.Point{{X: pts[0].X - 5, Y: pts[0].Y}, {X: pts[0].X + 5, Y: pts[0].Y}}
		}
		area.StrokeLines(line.Style.line(), area.ClipLinesXY(thin(pts))...)
	}
}

// thin drops points that lie on a straight line between their neighbours, which
// is most of them where nothing happens.
func thin(pts []vg.Point) []vg.Point {
	var out []vg.Point
	for _, p := range pts {
		if n := len(out); n >= 2 && flat(out[n-2], out[n-1], p) {
			out[n-1] = p
			continue
		}
		out = append(out, p)
	}
	return out
}

func flat(a, b, c vg.Point) bool {
	return a.Y == b.Y && b.Y == c.Y && a.X <= b.X && b.X <= c.X || a.X == b.X && b.X == c.X && (a.Y <= b.Y) == (b.Y <= c.Y)
}

// bands shows how exactly each onset is known, where that is wide enough.
func (l *layout) bands(s *sheet, top, bottom float64) {
	for _, g := range l.groups {
		for _, m := range g.marks {
			x0, x1 := max(plotLeft, l.x(m.At-m.PlusS)), min(plotRight, l.x(m.At+m.PlusS))
			if x1-x0 > 3 {
				s.rect(hairline.Color, x0, top, x1, bottom)
			}
		}
	}
}

func (l *layout) markLines(s *sheet, top, bottom float64) {
	for _, g := range l.groups {
		for _, m := range g.marks {
			s.line(m.Kind.line(), l.x(m.At), top, l.x(m.At), bottom)
		}
	}
}

// markLabels writes the groups' labels, and leads each down to its plot.
func (l *layout) markLabels(s *sheet, top, bottom float64) {
	for _, g := range l.groups {
		y := bottom
		if g.label != "" {
			y = top + row*float64(g.row+1)
		}
		s.line(g.marks[0].Kind.line(), g.x, y, g.x, bottom)
	}
	for _, g := range l.groups {
		if g.label == "" {
			continue
		}
		// A label at the right edge may hide a part of another's line.
		y := top + row*float64(g.row)
		s.rect(color.White, g.labelX-1, y+2, g.labelX+wide(smallText, g.label)+2, y+row)
		s.text(smallText, g.labelX, y+row-4, g.label)
	}
}

// Description is what a reader who does not see the picture is told.
func (p *Picture) Description() string {
	p = p.tame()
	d := ""
	for i, panel := range p.Panels {
		if i > 0 {
			d += "; below it "
		}
		d += printable(panel.Title)
	}
	d += fmt.Sprintf(" over run time in s, from %.4g to %.4g", p.From, p.To)
	for _, m := range p.Marks[:min(len(p.Marks), mostLabels)] {
		d += fmt.Sprintf("; %s at %.3f s", printable(m.Name), m.At)
	}
	return d + "."
}

package picture

import (
	"image/color"
	"math"
	"strconv"
	"strings"

	xfont "golang.org/x/image/font"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/font/liberation"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Lengths in points from the upper left corner. A picture is shown about 1000
// pixels wide, so that a point is about a pixel.
const (
	width     = 960.0
	margin    = 18.0
	plotLeft  = 78.0
	plotRight = width - margin
	minHeight = 540.0
	minPlots  = 330.0 // of all panels together, at least
	row       = 17.0  // height of a line of small text
)

// The colours are those of Okabe and Ito.
var (
	black      = color.RGBA{0x22, 0x22, 0x22, 0xff}
	grey       = color.RGBA{0x5f, 0x5f, 0x5f, 0xff}
	pale       = color.RGBA{0xe4, 0xe4, 0xe4, 0xff}
	shade      = color.RGBA{0xbb, 0xc4, 0xcc, 0xff}
	blue       = color.RGBA{0x00, 0x72, 0xb2, 0xff}
	vermillion = color.RGBA{0xd5, 0x5e, 0x00, 0xff}
	purple     = color.RGBA{0xa0, 0x4a, 0x7e, 0xff}
	ochre      = color.RGBA{0xb8, 0x86, 0x00, 0xff}
)

var fonts = text.Plain{Fonts: font.NewCache(liberation.Collection())}

func style(size float64, bold bool, c color.Color) text.Style {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(size)}
	if bold {
		f.Weight = xfont.WeightBold
	}
	return text.Style{Color: c, Font: f, Handler: fonts}
}

var (
	headlineText = style(17, true, black)
	verdictText  = style(14, true, color.White)
	nameText     = style(14, false, black)
	panelText    = style(13, true, black)
	smallText    = style(13, false, black)
	tickText     = style(12, false, grey)
)

func (s Style) line() draw.LineStyle {
	switch s {
	case Entries:
		return draw.LineStyle{Color: blue, Width: 2.2}
	case Limit:
		return draw.LineStyle{Color: black, Width: 1.6, Dashes: []vg.Length{8, 4}}
	case Offered:
		return draw.LineStyle{Color: shade, Width: 6}
	case OK:
		return draw.LineStyle{Color: blue, Width: 1.8}
	case Failed:
		return draw.LineStyle{Color: vermillion, Width: 2.2, Dashes: []vg.Length{5, 2.5}}
	}
	dashes := [][]vg.Length{{2, 2}, {7, 3}, {1, 4}, {9, 2, 2, 2}}
	return draw.LineStyle{Color: grey, Width: 1.2, Dashes: dashes[int(max(0, s-Other))%len(dashes)]}
}

func (k MarkKind) line() draw.LineStyle {
	switch k {
	case EarlyDrop:
		return draw.LineStyle{Color: ochre, Width: 1.6, Dashes: []vg.Length{6, 2, 1.5, 2}}
	case Drop:
		return draw.LineStyle{Color: vermillion, Width: 1.6}
	case ClientLoss:
		return draw.LineStyle{Color: purple, Width: 1.6, Dashes: []vg.Length{4, 3}}
	}
	return draw.LineStyle{Color: grey, Width: 1.2, Dashes: []vg.Length{1.5, 3}}
}

// sheet is a canvas whose y goes down.
type sheet struct {
	c      draw.Canvas
	height float64
}

func (s *sheet) pt(x, y float64) vg.Point {
	return vg.Point{X: vg.Length(x), Y: vg.Length(s.height - y)}
}

// text writes with the baseline at y.
func (s *sheet) text(st text.Style, x, y float64, what string) {
	if what != "" {
		s.c.FillText(st, s.pt(x, y), what)
	}
}

func (s *sheet) rect(c color.Color, x0, y0, x1, y1 float64) {
	s.c.FillPolygon(c, []vg.Point{s.pt(x0, y0), s.pt(x1, y0), s.pt(x1, y1), s.pt(x0, y1)})
}

func (s *sheet) line(st draw.LineStyle, x0, y0, x1, y1 float64) {
	s.c.StrokeLines(st, []vg.Point{s.pt(x0, y0), s.pt(x1, y1)})
}

func wide(st text.Style, s string) float64 { return st.Width(s).Points() }

// wrap breaks what at spaces, and inside a word that is too long for a line.
func wrap(st text.Style, what string, width float64) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(printable(what)) {
		if next := strings.TrimSpace(line + " " + word); wide(st, next) <= width {
			line = next
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
		line = ""
		for _, r := range word {
			if line != "" && wide(st, line+string(r)) > width {
				lines = append(lines, line)
				line = ""
			}
			line += string(r)
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// shorten cuts a name to at most n signs, and shows that it did.
func shorten(s string, n int) string {
	r := []rune(printable(s))
	if len(r) <= n {
		return string(r)
	}
	return string(r[:n-1]) + "\u2026"
}

// labels writes ticks with as many digits as their distance needs.
func labels(at []float64) []string {
	out := make([]string, len(at))
	for i, v := range at {
		step := 1.0
		if len(at) > 1 {
			step = at[1] - at[0]
		}
		if math.Abs(at[0]) >= 1e7 || math.Abs(at[len(at)-1]) >= 1e7 {
			out[i] = strconv.FormatFloat(v, 'g', 10, 64)
			continue
		}
		out[i] = strconv.FormatFloat(v, 'f', int(max(0, min(9, math.Ceil(-math.Log10(step)-1e-9)))), 64)
	}
	return out
}

package live

import (
	"math"
	"strconv"
	"strings"
)

// Style is what the terminal can show.
type Style struct {
	Color bool
	// ASCII draws with #, - and digits where the terminal's character set has
	// no blocks.
	ASCII bool
}

// span is text in one colour: an SGR code, empty for none.
type span struct{ text, code string }

// line is a row of the screen before it is cut to the screen's width.
type line []span

const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
	alarm  = "1;31"
)

func text(s string) line           { return line{{s, ""}} }
func (l line) add(s string) line   { return append(l, span{s, ""}) }
func (l line) in(c, s string) line { return append(l, span{s, c}) }

// render is the line in at most width columns, each rune one column: what
// comes from outside has been through clean.
func (l line) render(width int, color bool) string {
	var b strings.Builder
	for _, s := range l {
		r := []rune(s.text)
		if len(r) > width {
			r = r[:width]
		}
		width -= len(r)
		if color && s.code != "" && len(r) > 0 {
			b.WriteString("\x1b[" + s.code + "m" + string(r) + "\x1b[0m")
		} else {
			b.WriteString(string(r))
		}
	}
	return b.String()
}

// clean makes text from outside safe and one column per rune: the terminal
// obeys control characters, and only it knows how wide others are.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, s)
}

// bar fills width columns as far as share, which is in [0, 1]. It is full only
// at 1, and empty only at 0.
func (st Style) bar(share float64, width int) string {
	if width <= 0 {
		return ""
	}
	full, rest := "#", "-"
	if !st.ASCII {
		full, rest = "\u2588", "\u2591"
	}
	n := int(math.Floor(min(max(share, 0), 1) * float64(width)))
	if n == 0 && share > 0 && width > 1 {
		n = 1
	}
	return strings.Repeat(full, n) + strings.Repeat(rest, width-n)
}

var (
	blocks = []rune("\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588")
	digits = []rune("0123456789")
)

// spark draws v between lo and hi. NaN is a gap.
func (st Style) spark(v []float64, lo, hi float64) string {
	steps := blocks
	if st.ASCII {
		steps = digits
	}
	out := make([]rune, len(v))
	for i, x := range v {
		switch {
		case math.IsNaN(x):
			out[i] = ' '
		case hi <= lo:
			out[i] = steps[0]
		default:
			out[i] = steps[min(len(steps)-1, int((x-lo)/(hi-lo)*float64(len(steps))))]
		}
	}
	return string(out)
}

// filled is entries/limit in percent, cut and not rounded: 100 % is said of a
// full table alone.
func filled(entries, limit uint64) string {
	switch {
	case limit == 0:
		return "?"
	case entries >= limit:
		return "100 %"
	}
	return strconv.FormatFloat(math.Floor(float64(entries)/float64(limit)*1000)/10, 'f', 1, 64) + " %"
}

func seconds(s float64) string {
	switch {
	case s >= 3600:
		return strconv.Itoa(int(s)/3600) + " h " + strconv.Itoa(int(s)%3600/60) + " min"
	case s >= 120:
		return strconv.Itoa(int(s)/60) + " min " + strconv.Itoa(int(s)%60) + " s"
	}
	return strconv.FormatFloat(s, 'f', 1, 64) + " s"
}

package picture

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func sample() *Picture {
	return &Picture{
		Verdict: "fail", Tone: Bad, Name: "x", Headline: "node1 drops.", From: 0, To: 10,
		Panels: []Panel{
			{Title: "Entries", Low: 0, High: 110, Share: 1, Lines: []Line{{Name: "entries", Style: Entries, T: []float64{0, 5, 10}, V: []float64{0, 100, 100}}}},
			{Title: "Attempts", Low: 0, High: 20, Share: 1, Lines: []Line{{Name: "offered", Style: Offered, T: []float64{0, 5}, V: []float64{10, 20}, Step: 5}}},
		},
	}
}

func svg(t *testing.T, p *Picture) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, p.SVG(&b))
	return b.String()
}

// Labels of marks never touch, wherever the marks are.
func TestLabelsDoNotOverlap(t *testing.T) {
	cases := map[string][]float64{
		"one": {5}, "same": {5, 5, 5}, "near": {5, 5.01, 5.02}, "a little apart": {5, 5.1, 5.2, 5.9},
		"at the edges": {0, 10}, "crowded at the end": {9.5, 9.7, 9.8, 9.9, 10}, "all over": {1, 2, 3, 4, 5, 6, 7},
	}
	for name, at := range cases {
		p := sample()
		for i, x := range at {
			p.Marks = append(p.Marks, Mark{Name: fmt.Sprintf("a mark with a long name %d", i), At: x, Kind: MarkKind(i % 4)})
		}
		l := p.layout()
		for i, a := range l.groups {
			require.NotEmpty(t, a.label, name)
			endA := a.labelX + wide(smallText, a.label)
			assert.LessOrEqual(t, endA, width-margin+0.5, name)
			assert.GreaterOrEqual(t, a.labelX, plotLeft, name)
			assert.Less(t, a.row, l.markRows)
			for _, b := range l.groups[i+1:] {
				if b.row < a.row && b.labelX+3 >= b.x-0.01 {
					assert.False(t, b.x > a.labelX && b.x < endA, "%s: the line of %q goes through %q", name, b.label, a.label)
				}
				if a.row != b.row {
					continue
				}
				assert.True(t, endA < b.labelX || b.labelX+wide(smallText, b.label) < a.labelX, "%s: %q over %q", name, a.label, b.label)
			}
		}
	}
}

func TestMarksAtOneMomentShareALabel(t *testing.T) {
	p := sample()
	p.Marks = []Mark{{Name: "drop", At: 5.0001, Kind: Drop}, {Name: "client loss", At: 5.0002, Kind: ClientLoss}, {Name: "early_drop", At: 5.03, Kind: EarlyDrop}}
	assert.Contains(t, svg(t, p), "drop and client loss 5.000 s, early_drop 5.030 s")
}

// With very many actions the onsets keep their labels.
func TestManyActions(t *testing.T) {
	p := sample()
	for i := range 500 {
		p.Marks = append(p.Marks, Mark{Name: "action", At: float64(i) / 50, Kind: Action})
	}
	p.Marks = append(p.Marks, Mark{Name: "drop", At: 5, Kind: Drop})
	out := svg(t, p)
	assert.Contains(t, out, "drop 5.000 s")
	assert.NotContains(t, out, "action 1.000 s")
}

func TestHeadlineIsNeverCut(t *testing.T) {
	p := sample()
	p.Headline = strings.Repeat("many words ", 100) + strings.Repeat("q", 400) + " end"
	_, out, _ := strings.Cut(svg(t, p), "</desc>") // the title has it, too
	assert.Equal(t, 100, strings.Count(out, "many"))
	assert.Equal(t, 400, strings.Count(out, "q"))
	for _, line := range wrap(headlineText, p.Headline, 300) {
		assert.LessOrEqual(t, wide(headlineText, line), 300.0)
	}
}

func TestAbsurdNumbers(t *testing.T) {
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1e300, -1e300, 1e20, -1e20, 1e18, 0} {
		p := sample()
		p.Panels[0].Lines[0].V[1], p.Panels[1].Lines[0].T[1] = v, v
		p.Panels[0].Low, p.Panels[1].High, p.Panels[1].Share = v, v, v
		p.From, p.To = -v, v
		p.Marks = []Mark{{Name: "m", At: v, PlusS: v}}
		out := svg(t, p)
		assert.False(t, strings.Contains(out, "NaN") || strings.Contains(out, "Inf"), "%g", v)
	}
	var none Picture
	assert.Contains(t, svg(t, &none), "</svg>")
}

func TestTextIsText(t *testing.T) {
	p := sample()
	evil := "<script>\"'&\x00\x1b[31m\u202e\xff\ufffe\n</text>"
	p.Headline, p.Name, p.Verdict, p.Reason, p.Footer = evil, evil, evil, evil, evil
	p.Panels[0].Title, p.Panels[0].Lines[0].Name = evil, evil
	p.Panels[1].Lines, p.Panels[1].Empty = nil, evil
	p.Marks = []Mark{{Name: evil, At: 5}}
	out := svg(t, p)
	assert.NotContains(t, strings.ToLower(out), "<script")
	assert.NotContains(t, out, "\x1b")
	assert.NotContains(t, out, "\u202e")
	assert.True(t, strings.HasPrefix(out, "<svg "))
}

func TestTicks(t *testing.T) {
	assert.Equal(t, []string{"0", "2", "4", "6", "8", "10"}, labels(ticks(0, 10, 6)))
	assert.Equal(t, []string{"0.00", "0.05", "0.10"}, labels(ticks(0, 0.1, 2)))
	assert.Equal(t, []string{"259000", "260000", "261000", "262000"}, labels(ticks(258900, 262200, 5)))
	assert.Equal(t, []string{"-1", "0", "1"}, labels(ticks(-1, 1, 3)))
	assert.Empty(t, ticks(1, 1, 5))
	for _, high := range []float64{1e-6, 3, 7e4, 1e12, 1e18} {
		assert.NotEmpty(t, ticks(0, high, 5))
		assert.LessOrEqual(t, len(ticks(0, high, 5)), 7)
	}
}

func TestPNGIsDeterministic(t *testing.T) {
	var a, b bytes.Buffer
	require.NoError(t, sample().PNG(&a))
	require.NoError(t, sample().PNG(&b))
	assert.Equal(t, a.Bytes(), b.Bytes())
}

package report

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A table that is nearly empty is not a flat line below its limit.
func TestPlotOfAnInnocentTable(t *testing.T) {
	plot := func(headroom uint64) (chart, *sim) {
		s := newSim(t, 262144, headroom, finTraffic("web", 0, 2))
		s.fill("web", 200, 0, 2)
		return newCharts(s.analyze()).first[0], s
	}
	ch, s := plot(262144)
	require.Len(t, ch.Series, 1)
	assert.Equal(t, "entries", ch.Series[0].Name)
	assert.Less(t, ch.Ceil, 500.0)
	assert.Zero(t, ch.Limit)
	assert.Zero(t, ch.Floor)
	assert.Contains(t, ch.Note, "The limit of 262,144 is far above and not drawn: the table was at most 0.1")
	f := s.analyze()
	p := tablePanel(f, 0, 2)
	require.Len(t, p.Lines, 1)
	assert.Contains(t, p.Title, "; the limit 262144 is far above")
	assert.Less(t, p.High, 500.0)
	f.Verdict = Live
	assert.Len(t, newCharts(f).first[0].Series, 2, "a run that goes on can fill it yet")
	ch, _ = plot(200000)
	assert.Len(t, ch.Series, 2)
	assert.InDelta(t, 262144, ch.Limit, 0)
}

func TestPlotAgainstLoadNeedsLoads(t *testing.T) {
	byLoad := func(rates ...float64) int {
		c := &charts{f: &Findings{}}
		for _, r := range rates {
			c.f.Timeline.ByLoad = append(c.f.Timeline.ByLoad, LoadPoint{OfferedPerS: r, Entries: 5})
		}
		c.loads()
		return len(c.byLoad)
	}
	assert.Zero(t, byLoad(200, 200, 203, 15200, 15200, 15190), "two places are no picture")
	assert.Equal(t, 1, byLoad(100, 200, 300, 400, 500, 600))
}

func TestCountOfEvictionsIsOnTheFirstScreen(t *testing.T) {
	f := goldenRuns(t)["soft"].analyze()
	require.NotNil(t, f.Knee.EarlyDrop)
	lines := figures(f)[0].Lines
	assert.Equal(t, "early_drop +"+grouped(f.Nodes[0].Counters["early_drop"])+" in all", lines[len(lines)-1])
}

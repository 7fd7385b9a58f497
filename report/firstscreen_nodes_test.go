package report

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// filledByAnAction is three nodes with as many free entries, of which node2's ballast
// takes so many at 1 s.
func filledByAnAction(t *testing.T, took int, said string) *Findings {
	s := newNodesSim(t, 3, 10_000, 9000, 9000, 9000)
	act := func(at float64, phase string) {
		s.records = append(s.records, runlog.Record{Host: "controller", T: at, Event: &runlog.Event{Kind: "action", Name: "fill", Detail: "ballast", Fields: map[string]string{
			"kind": "ballast", "phase": phase, "number": "1",
		}}})
	}
	act(1, "begin")
	act(1.2, "end")
	s.records = append(s.records, runlog.Record{Host: "node2", T: 1.1, Event: &runlog.Event{Kind: "ballast", Name: "changed", Fields: map[string]string{"inserted": said, "deleted": "0"}}})
	added := false
	return s.run(900, func(_ int, due float64) {
		if due > 1.1 && !added {
			s.entries[1] += took
			added = true
		}
	})
}

// What took the room is named on the first screen, and whose rate and whose prediction
// it is.
func TestFirstScreenSaysWhatFilledTheNode(t *testing.T) {
	f := filledByAnAction(t, 8000, "8000")
	require.NotNil(t, f.Knee.Drop)
	assert.Contains(t, f.Headline, "node2 drops new connections at 10000 of 10000 entries (100 %)")
	assert.Contains(t, f.Headline, " at 300/s that enter by it: its table is full, mostly by fill (ballast) at 1.0 s, which added 8000 entries where 9000 were free; ")
	assert.Equal(t, "node2", f.Predicted.Node)
	said := render(t, "text", f)
	from, to := strings.Index(said, "\nnode2: at most"), strings.Index(said, "\nnode3: at most")
	assert.Contains(t, said[from:to], "\n  predicted: full at ")
	assert.Equal(t, 1, strings.Count(said, "predicted:"))
	assert.Contains(t, render(t, "markdown", f), "Predicted for node2: full at ")
	assert.Contains(t, renderedHTML(t, f), "Predicted for node2: full at ")

	f = filledByAnAction(t, 8000, "4000")
	assert.NotContains(t, f.Headline, "mostly by", "not the most of it")

	s := newSim(t, 10_000, 500, finTraffic("web", 0, 10))
	s.fill("web", 100, 0, 10)
	f = s.analyze()
	assert.NotContains(t, f.Headline, "enter by it")
	assert.Contains(t, render(t, "markdown", f), "Predicted: full at ")
}

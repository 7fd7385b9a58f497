package report

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// soaked is a run of hundreds of rollouts, of which two cost something.
func soaked() *Findings {
	f := &Findings{Nodes: []Node{{Name: "node1"}}}
	for i := range 150 {
		f.Spikes = append(f.Spikes, Spike{Action: "roll", Kind: "rollout", Number: i + 1, BeginS: float64(i)})
		f.Backends = append(f.Backends, Backend{Name: fmt.Sprintf("web-%d", i), Service: "web"})
		for range 6 {
			f.Timeline.Events = append(f.Timeline.Events, Event{AtS: float64(i), Kind: "pod", Name: "ready"})
		}
	}
	f.Timeline.OtherEvents = 1000
	f.Timeline.Nodes = []NodeSeries{{
		Name: "node1", T: []float64{0, 150}, Entries: []uint64{1, 2}, Limit: []uint64{9, 9},
		Counters: map[string][]uint64{"found": {0, 30000}, "drop": {0, 10}},
	}}
	return f
}

// Of hundreds of actions the plots mark those that cost something: lines and
// names on all of them would hide what they are about.
func TestPlotsMarkActionsThatCost(t *testing.T) {
	f := soaked()
	c := newCharts(f)
	assert.Empty(t, c.marks(Knee{}))
	assert.Equal(t, "The 150 actions are not marked: none of them cost anything.", c.entries("node1")[0].Note)
	f.Spikes[70].Failures, f.Spikes[90].HeldLost = 3, ref(uint64(2))
	c = newCharts(f)
	assert.Len(t, c.marks(Knee{}), 2)
	assert.InDelta(t, 70, c.marks(Knee{})[0].At, 0)
	assert.Equal(t, "Of 150 actions those that cost most are marked: 2.", c.entries("node1")[0].Note)
	for i := range f.Spikes {
		f.Spikes[i].Failures = uint64(i)
	}
	assert.Len(t, newCharts(f).marks(Knee{}), markedActions)
	f.Spikes = f.Spikes[:markedActions]
	c = newCharts(f)
	assert.Len(t, c.marks(Knee{}), markedActions)
	assert.Empty(t, c.entries("node1")[0].Note)
}

// Tables do not grow with the run for ever, and say what they leave out.
func TestTablesOfALongRunEnd(t *testing.T) {
	f := soaked()
	f.Backends[120].Errors = 7
	f.Spikes[130].Failures = 5
	page := renderedHTML(t, f)
	assert.Equal(t, listedRows, strings.Count(page, `<th scope="row">roll`))
	assert.Contains(t, page, "And 90 more, which cost no more than these.")
	assert.Contains(t, page, "roll #131")
	assert.Equal(t, listedRows, strings.Count(page, `<th scope="row">web-`))
	assert.Contains(t, page, `<th scope="row">web-120</th>`)
	assert.Contains(t, page, "And 90 more, with no more errors")
	assert.Equal(t, listedEvents, strings.Count(page, "<td>ready</td>"))
	assert.Contains(t, page, "And 1,750 more, which are in the run log.")
}

// A counter that moves a thousand times as much as another does not hide it.
func TestCountersOfDifferentSize(t *testing.T) {
	f := soaked()
	f.Timeline.Nodes[0].T = []float64{0, 1}
	ch := newCharts(f).counters(f.Timeline.Nodes[0])[0]
	assert.True(t, ch.Wide)
	assert.Contains(t, ch.Unit, "log scale")
	f.Timeline.Nodes[0].Counters["drop"][1] = 20000
	ch = newCharts(f).counters(f.Timeline.Nodes[0])[0]
	assert.False(t, ch.Wide)
}

// The nodes of a lab share a machine, and so one plot of its CPU.
func TestOnePlotOfALabsCPU(t *testing.T) {
	f := &Findings{Target: "lab"}
	for _, name := range []string{"node1", "node2"} {
		f.Nodes = append(f.Nodes, Node{Name: name})
		f.Timeline.Nodes = append(f.Timeline.Nodes, NodeSeries{Name: name, CPU: &CPUSeries{T: []float64{0}, User: []float64{0.5}}})
	}
	titles := func() (out []string) {
		for _, ch := range newCharts(f).over {
			out = append(out, ch.Title)
		}
		return out
	}
	assert.Equal(t, []string{"CPU time of the machine"}, titles())
	f.Target = "kubernetes"
	assert.Equal(t, []string{"CPU time of the machine of node1", "CPU time of the machine of node2"}, titles())
}

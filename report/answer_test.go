package report

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A table that drops before it is seen to evict says both: most of the
// attempts came through at the expense of others' entries.
func TestHeadlineSaysWhatMadeRoom(t *testing.T) {
	drops := Node{Name: "node1", Limit: new(uint64), PeakEntries: new(uint64), Counters: map[string]uint64{"drop": 6133, "early_drop": 35866}, Knee: Knee{Drop: &Onset{AtS: 5}, EarlyDrop: &Onset{AtS: 5.05}}}
	f := &Findings{Verdict: Fail, Nodes: []Node{drops}}
	assert.Contains(t, headline(f), "its table is full, and it evicts others to make room (early_drop +35866).")
	f.Nodes[0].Knee.EarlyDrop, f.Nodes[0].Counters = nil, map[string]uint64{"drop": 6133, "early_drop": 0}
	assert.NotContains(t, headline(f), "early_drop")
}

// Each cause that says by itself what is to be changed is answered by that.
func TestRemedyOfEachCause(t *testing.T) {
	for _, cause := range []string{noEndpoint, drainingBackend, backendGone, listenOverflow, invalidReset} {
		f := &Findings{Verdict: Fail, Causes: []Cause{{Cause: cause, Failures: 9}}, Traffic: []Traffic{{Name: "clients", Failed: 9}}}
		a := advise(f)
		assert.NotContains(t, a.Do, "for another cause", cause)
		assert.Contains(t, a.Do, "Not the limit: ", cause)
		assert.NotEmpty(t, a.Why, cause)
	}
}

// Drops that are not the table's have no onset, and are not hidden either.
func TestDropsOfAnotherCause(t *testing.T) {
	f := &Findings{Nodes: []Node{{Name: "node1", PeakEntries: new(uint64), Counters: map[string]uint64{"drop": 1200}}}}
	g := figures(f)[1]
	assert.Equal(t, "none", g.Value)
	assert.Equal(t, "dropped by a full table", g.What)
	assert.Equal(t, []string{"drop +1,200, the table not full"}, g.Lines)
	f.Nodes[0].Counters["drop"] = 0
	assert.Empty(t, figures(f)[1].Lines)
}

// A trial that says nothing does not hide one that does at the same load.
func TestTrialsThatCountAreOnTop(t *testing.T) {
	c := Capacity{Trials: []CapacityTrial{{Kind: "search", Load: 1500}, {Kind: "search", Load: 1500, Inconclusive: true}}}
	charts := c.charts()
	require.NotEmpty(t, charts)
	s := charts[0].Series
	require.Len(t, s, 2)
	assert.Equal(t, "trials", s[1].Name, "the last is drawn over the others")
}

package report

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

func nearlyFull(t *testing.T) *sim {
	t.Helper()
	s := newSim(t, 100000, 1000, runlog.TrafficInfo{
		Name: "web", Shape: "short_lived", Close: "fin", End: 5, Timeout: 0.9,
		EntriesPerAttempt: 1, Residence: 120, ResidueState: "TIME_WAIT", ExpectsAnswer: true,
	})
	return s
}

// Another namespace's full table makes the kernel take closing connections
// out of this one, and no counter says so: the run must.
func TestReclaimedEntriesAreSaid(t *testing.T) {
	s := nearlyFull(t)
	s.fill("web", 400, 0, 5)
	s.bump(1.5, simNode, "entries", -500)
	f := s.analyze()
	r := f.Nodes[0].Reclaimed
	require.NotNil(t, r)
	assert.InDelta(t, 500, r.Entries, 80, "what came meanwhile hides some")
	assert.InDelta(t, 1.5, r.FromS, 0.11)
	assert.True(t, r.Early)
	assert.Contains(t, strings.Join(f.Doubts, "\n"), "that no counter shows")
}

func TestNothingReclaimed(t *testing.T) {
	s := nearlyFull(t)
	s.fill("web", 400, 0, 5)
	f := s.analyze()
	assert.Nil(t, f.Nodes[0].Reclaimed)
	assert.NotContains(t, strings.Join(f.Doubts, "\n"), "that no counter shows")
}

// The collector takes entries one by one while others come, so that the table
// never falls: the attempts' number tells. Had they stayed, it would have been
// full.
func TestReclaimedWhileOthersCame(t *testing.T) {
	trickle := func(each int64, headroom uint64) *Findings {
		s := newSim(t, 100000, headroom, finTraffic("web", 0, 5))
		s.header.Thresholds = []string{"drop == 0"}
		s.fill("web", 400, 0, 1)
		for _, due := range dues(1, 5, 400) { // no longer limited by the table
			s.ok("web", due)
			s.bump(due+0.0001, simNode, "entries", 1)
			s.entries++
		}
		for at := 1.0; at < 4.9; at += 0.05 {
			s.bump(at, simNode, "entries", -each)
			s.entries -= each
		}
		return s.analyze()
	}
	f := trickle(10, 1500) // 20 of 20 a tenth leave: at most 1500 are there
	require.NotNil(t, f.Nodes[0].Reclaimed)
	assert.InDelta(t, 780, f.Nodes[0].Reclaimed.Entries, 85)
	assert.True(t, f.Nodes[0].Reclaimed.Early)
	assert.Equal(t, Inconclusive, f.Verdict, f.Reasons)
	assert.Contains(t, strings.Join(f.Reasons, "\n"), "would have been full without the")

	f = trickle(10, 4000) // room for all of them
	require.NotNil(t, f.Nodes[0].Reclaimed)
	assert.Equal(t, Pass, f.Verdict, f.Reasons)

	f = trickle(0, 4000)
	assert.Nil(t, f.Nodes[0].Reclaimed)
	assert.Equal(t, Pass, f.Verdict, f.Reasons)
}

// Before the first failure, too: then the onset is later than predicted.
func TestReclaimedBeforeTheOnset(t *testing.T) {
	s := newSim(t, 100000, 1000, finTraffic("web", 0, 5))
	s.fill("web", 400, 0, 1)
	for range 5 {
		s.bump(1.01, simNode, "entries", -40)
		s.entries -= 40
	}
	s.fill("web", 400, 1, 5)
	f := s.analyze()
	require.NotNil(t, f.Knee.Drop)
	require.NotNil(t, f.Nodes[0].Reclaimed)
	assert.True(t, f.Nodes[0].Reclaimed.Early)
}

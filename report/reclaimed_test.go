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

	assert.Contains(t, strings.Join(f.Doubts, "\n"), "there would have been more entries")
	assert.NotContains(t, strings.Join(f.Doubts, "\n"), "they expired", "none can have by then")

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

// Entries that end in time are none that were taken, and one failure of another
// kind hides none that were.
func TestReclaimedAndEntriesThatEnd(t *testing.T) {
	short := finTraffic("web", 0, 5)
	short.Residence = 2
	s := newSim(t, 100000, 4000, short)
	for _, due := range dues(0, 5, 700) {
		s.ok("web", due)
		s.bump(due+0.0001, simNode, "entries", 1)
		s.bump(due+2.0001, simNode, "entries", -1)
	}
	f := s.analyze()
	assert.False(t, f.Nodes[0].Reclaimed.beforeTime(f), "%+v", f.Nodes[0].Reclaimed)
	assert.Empty(t, f.Disturbed())
	assert.NotContains(t, strings.Join(f.Doubts, "\n"), "without that")

	s = newSim(t, 100000, 1500, finTraffic("web", 0, 5))
	s.header.Expect = []string{"drop == 0"}
	s.fail("web", 0.02, runlog.Reset, 0)
	for i, due := range dues(0, 5, 400) {
		s.ok("web", due)
		if i%2 == 0 || i < 400 { // the others are taken as soon as they come
			s.bump(due+0.0001, simNode, "entries", 1)
			s.entries++
		}
	}
	f = s.analyze()
	require.NotNil(t, f.Nodes[0].Reclaimed)
	assert.InDelta(t, 800, f.Nodes[0].Reclaimed.Entries, 50)
	assert.Equal(t, Inconclusive, f.Verdict, "it would have been full, so drop == 0 was not shown: %v", f.Reasons)
}

// A node that does not track the traffic loses none of its entries.
func TestNothingReclaimedWhereNothingIsTracked(t *testing.T) {
	s := newSim(t, 65536, 800, finTraffic("web", 0, 5))
	for _, due := range dues(0, 5, 400) {
		s.ok("web", due)
	}
	assert.Nil(t, s.analyze().Nodes[0].Reclaimed)
}

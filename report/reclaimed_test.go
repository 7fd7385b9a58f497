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

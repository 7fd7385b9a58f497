package report

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// lowers makes the limit another one from at on, by an action if it has a name.
func lowers(s *sim, at float64, to uint64, action, kind string) {
	was := s.limit
	s.limitAt = func(t float64) uint64 {
		if t < at {
			return was
		}
		return to
	}
	s.bump(at, simNode, "entries", 0)
	if action == "" {
		return
	}
	for _, phase := range []string{"begin", "end"} {
		s.records = append(s.records, runlog.Record{Host: "controller", T: at, Event: &runlog.Event{
			Kind: "action", Name: action, Fields: map[string]string{"kind": kind, "phase": phase, "number": "1"},
		}})
	}
}

// fullFrom has the table take what is due before a moment, and drop the rest.
func fullFrom(s *sim, at float64) (failed uint64) {
	for _, due := range dues(0, 10, 100) {
		if due < at {
			s.enter(due)
			s.ok("web", due)
			continue
		}
		s.bump(due, simNode, "drop", 1)
		s.fail("web", due, runlog.ConnectTimeout, 1)
		failed++
	}
	return failed
}

// A limit that is lowered to less than there is makes the table full from that
// moment on, whatever room there was: onset, occupancy, prediction, evidence and
// advice are by the limit of the moment.
func TestLimitLowered(t *testing.T) {
	s := newSim(t, 2000, 1500, finTraffic("web", 0, 10))
	lowers(s, 4.015, 700, "restart", "restart_proxy")
	failed := fullFrom(s, 4.015)
	f := s.analyze()
	n := f.Nodes[0]
	require.Len(t, n.LimitChanges, 1)
	c := n.LimitChanges[0]
	assert.InDelta(t, 4.015, c.AtS, c.UncertaintyS)
	assert.Equal(t, []any{uint64(2000), uint64(700), uint64(902)}, []any{c.From, c.To, c.Entries})
	assert.Equal(t, []string{"restart"}, c.Actions)
	require.NotNil(t, n.Knee.Drop)
	assert.InDelta(t, 4.02, n.Knee.Drop.AtS, n.Knee.Drop.UncertaintyS)
	assert.Equal(t, uint64(700), *n.Knee.Drop.Limit)
	assert.InDelta(t, 902./700, *n.Knee.Drop.Occupancy, 0.01)
	assert.InDelta(t, 902./700, *n.PeakOccupancy, 0.01)
	require.NotNil(t, n.Knee.ClientLoss)
	assert.InDelta(t, 902./700, *n.Knee.ClientLoss.Occupancy, 0.01, "not a share of the limit that was just lowered")
	assert.Equal(t, map[string]uint64{"table_full": failed}, causesOf(f))
	assert.Contains(t, f.Causes[0].Evidence, "902 of 700, to which the limit was lowered from 2000 between 3.9")
	require.NotNil(t, f.Predicted.FullAtS)
	assert.InDelta(t, 4.015, *f.Predicted.FullAtS, c.UncertaintyS)
	assert.Contains(t, f.Headline, "since its limit was lowered from 2000 to 700 (restart)")
	assert.NotContains(t, strings.Join(f.Doubts, " "), "limit")
	assert.Equal(t, uint64(1500), *f.Sizing.RunNeeded, "500 that were there, and 1000 attempts")
	a := advise(f)
	assert.Contains(t, a.Do, "Let nothing lower nf_conntrack_max")
	assert.Contains(t, a.Set, "min: 2000")

	// An action can have done that and not be done: a kube-proxy writes the limit
	// first, and may never be ready.
	assert.NotContains(t, spikeText(&f.Spikes[0]), "which lowered")
	f.Spikes[0].Error = "it was not ready within 12 s"
	assert.Contains(t, spikeText(&f.Spikes[0]), "restart (restart_proxy) at 4.0 s, which lowered node1's limit from 2000 to 700, and was not done: it was not ready within 12 s:")
	assert.Contains(t, renderedHTML(t, f), "which lowered node1&#39;s limit from 2,000 to 700, and was not done: it was not ready")
	assert.Equal(t, []string{"restart (restart_proxy) was never carried out to its end, although it lowered node1's limit from 2000 to 700: it was not ready within 12 s"}, neverDone(f))
	f.Spikes[0].did = ""
	assert.Contains(t, spikeText(&f.Spikes[0]), ", did not work: it was not ready within 12 s")
}

// What the run needed counts others' entries that had come by the time of the first
// drop, such as a kube-proxy's own connections, and no attempt twice.
func TestRunNeededCountsOthers(t *testing.T) {
	const others = 7
	s := newSim(t, 2000, 1500, finTraffic("web", 0, 10))
	lowers(s, 4.015, 700, "restart", "restart_proxy")
	s.bump(2.5, simNode, "entries", others)
	s.entries += others
	fullFrom(s, 4.015)
	f := s.analyze()
	assert.InDelta(t, 500+1000+others, float64(*f.Sizing.RunNeeded), 2, f.Sizing.RunNeededHow)
	assert.LessOrEqual(t, *f.Sizing.RunNeeded, uint64(500+1000+others))
	assert.Regexp(t, ", and [67] of others that had come by when it was full$", f.Sizing.RunNeededHow)
}

// One that is lowered and still has room is no cause; and where no action did it,
// somebody else has.
func TestLimitLoweredWithRoom(t *testing.T) {
	s := newSim(t, 2000, 1500, finTraffic("web", 0, 5))
	lowers(s, 2, 1200, "", "")
	s.fill("web", 100, 0, 5)
	f := s.analyze()
	require.Len(t, f.Nodes[0].LimitChanges, 1)
	assert.Empty(t, f.Nodes[0].LimitChanges[0].Actions)
	assert.Nil(t, f.Nodes[0].Knee.Drop)
	assert.Nil(t, f.Predicted.FullAtS)
	assert.NotContains(t, f.Headline, "lowered")
	assert.Contains(t, strings.Join(f.Doubts, " "), "no action changed it")
}

// One that is raised gives room: the table is full later than it would have been.
func TestLimitRaised(t *testing.T) {
	s := newSim(t, 2000, 300, finTraffic("web", 0, 10))
	lowers(s, 1, 2200, "raise", "conntrack_settings")
	s.limit = 2200 // for what enters
	fullFrom(s, 5-1e-9)
	f := s.analyze()
	require.NotNil(t, f.Predicted.FullAtS)
	assert.InDelta(t, 5, *f.Predicted.FullAtS, 0.02)
	require.NotNil(t, f.Nodes[0].Knee.Drop)
	assert.InDelta(t, 5, f.Nodes[0].Knee.Drop.AtS, 0.1)
	assert.NotContains(t, f.Headline, "lowered")
	assert.Contains(t, limitText(&f.Nodes[0]), "2200 from a moment between 0.9")
}

// When a limit was lowered lies between two samples; a loss that the old limit
// cannot explain came after that, not before. And that it was lowered needs no
// sound generator.
func TestLimitWasLoweredBeforeTheFirstLoss(t *testing.T) {
	s := newSim(t, 2000, 1500, finTraffic("web", 0, 10))
	lowers(s, 4.032, 700, "restart", "restart_proxy")
	fullFrom(s, 4.032)
	for _, due := range dues(0, 10, 100) {
		s.bin("web", due).Late = 1
	}
	f := s.analyze()
	n := f.Nodes[0]
	require.NotNil(t, n.Knee.Drop)
	c, by := n.LimitChanges[0], n.Knee.Drop.AtS+n.Knee.Drop.UncertaintyS
	assert.LessOrEqual(t, c.AtS+c.UncertaintyS, by+1e-9)
	assert.InDelta(t, 4.032, c.AtS, c.UncertaintyS+1e-9)
	assert.Contains(t, f.Causes[0].Evidence, "lowered from 2000 "+c.when())
	assert.Contains(t, predictionText(f.Predicted), "full when the limit was lowered, "+c.when()+"; measured 4.")
	assert.Nil(t, f.Predicted.RelativeError, "what is measured has narrowed it")

	require.Equal(t, Inconclusive, f.Verdict)
	assert.Contains(t, f.Headline, "But node1's limit was seen to be lowered from 2000 to 700 (restart)")
	a := advise(f)
	assert.Contains(t, a.Do, "Let nothing lower nf_conntrack_max")
	assert.Contains(t, strings.Join(a.Why, " "), "restart started the proxy anew. A kube-proxy writes the limit of its own configuration")
	assert.Contains(t, strings.Join(a.Why, " "), "They do not touch this")
}

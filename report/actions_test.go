package report

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

func TestActionsThatBeginTogether(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.act("one", "rollout", 1, 3.001, 3.1, "")
	s.act("two", "flush", 1, 3.002, 3.003, "no such host")
	for i, due := range dues(0, 10, 100) {
		if s.enter(due); due > 3.005 && due < 3.5 && i%2 == 0 {
			s.fail("web", due, runlog.Refused, 0)
			continue
		}
		s.ok("web", due)
	}
	f := s.analyze()
	require.Len(t, f.Spikes, 2)
	for i, other := range []string{"two", "one"} {
		assert.Equal(t, []string{other}, f.Spikes[i].Together)
		assert.EqualValues(t, 24, f.Spikes[i].Failures)
	}
	assert.Equal(t, "no such host", f.Spikes[1].Error)
	assert.Contains(t, strings.Join(strings.Fields(render(t, "text", f)), " "), "two (flush) at 3.0 s (together with one: what failed can be of either), did not work: no such host")
}

// A run in which an action was never carried out to its end is no pass: nobody
// knows what it would have cost. One that was, once, is enough, and so is that
// all was shown that the scenario expects, unless thresholds judge it.
func TestActionThatWasNeverDone(t *testing.T) {
	for _, c := range []struct {
		name               string
		once               bool
		expect, thresholds []string
		want               Verdict
	}{
		{"once", true, nil, nil, Pass},
		{"never", false, nil, nil, Inconclusive},
		{"never, and all was shown", false, []string{"failures == 0"}, nil, Pass},
		{"never, and thresholds judge", false, []string{"failures == 0"}, []string{"failures == 0"}, Inconclusive},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
			s.header.Expect, s.header.Thresholds = c.expect, c.thresholds
			if c.once {
				s.act("roll", "rollout", 1, 2, 3, "")
			}
			s.act("roll", "rollout", 2, 8, 10, "the run ended before it had")
			for _, due := range dues(0, 10, 100) {
				s.enter(due)
				s.ok("web", due)
			}
			f := s.analyze()
			assert.Equal(t, c.want, f.Verdict, "%v", f.Reasons)
			said := strings.Contains(strings.Join(f.Reasons, " "), "roll (rollout) was never carried out: the run ended before it had")
			assert.Equal(t, c.want != Pass, said, "%v", f.Reasons)
		})
	}
}

// What fails all the time is no action's doing, and what begins long after one
// is not either.
func TestFailuresThatAreNoActions(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 40))
	s.header.Duration = 40
	s.act("roll", "rollout", 1, 10, 10.5, "")
	for i, due := range dues(0, 40, 100) {
		if s.enter(due); i%10 == 0 || due > 30 && i%2 == 0 {
			s.fail("web", due, runlog.Refused, 0)
			continue
		}
		s.ok("web", due)
	}
	f := s.analyze()
	assert.Nil(t, f.Spikes[0].StartS)
	assert.Zero(t, f.Spikes[0].Failures)
	assert.InDelta(t, 10, f.Spikes[0].Before, 0.2)
	assert.Nil(t, f.Spikes[0].StoppedS)
	assert.InDelta(t, 20.5, *f.Spikes[0].WatchedToS, 0.11)
}

// Of a spike, what failed anyway is taken off.
func TestSpikeOnTopOfFailures(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 20))
	s.header.Duration = 20
	s.act("roll", "rollout", 1, 10, 10.5, "")
	for i, due := range dues(0, 20, 100) {
		if s.enter(due); i%10 == 0 || due >= 10 && due < 12 && i%2 == 1 {
			s.fail("web", due, runlog.Refused, 0)
			continue
		}
		s.ok("web", due)
	}
	f := s.analyze()
	assert.InDelta(t, 100, float64(f.Spikes[0].Failures), 2)
	assert.True(t, f.Spikes[0].Recovered)
	assert.InDelta(t, 12, *f.Spikes[0].EndS, 0.11)
}

func TestOneWayTrafficShowsNoRecovery(t *testing.T) {
	s := newSim(t, 262144, 200000, floodTraffic("flood", 0, 10))
	s.act("roll", "rollout", 1, 3, 3.5, "")
	for _, due := range dues(0, 10, 100) {
		s.enter(due)
		s.ok("flood", due) // it was sent, and nobody knows more
	}
	f := s.analyze()
	assert.Nil(t, f.Spikes[0].WatchedToS)
	assert.NotContains(t, f.Headline, "whatever was done")
	assert.Contains(t, strings.Join(strings.Fields(render(t, "text", f)), " "), "no attempt was due then that anybody can count")
}

// Where the log is cut off, attempts that are under way have not recovered.
func TestCutOffDuringAnAction(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.trailer = nil
	s.act("roll", "rollout", 1, 3, 3.1, "")
	for _, due := range dues(0, 6, 100) {
		switch s.enter(due); {
		case due < 3.05:
			s.ok("web", due)
		case due < 3.5:
			s.fail("web", due, runlog.Refused, 0)
		default:
			s.sent("web", due) // and nothing is known of them
		}
	}
	f := s.analyze()
	assert.False(t, f.Spikes[0].Recovered)
	assert.InDelta(t, 3.5, *f.Spikes[0].WatchedToS, 1e-9)
}

// A soak's actions are many; those that cost something are shown.
func TestSoakOfActions(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 600))
	s.header.Duration = 600
	for i := range 300 {
		at := 1 + 2*float64(i)
		s.act("roll", "rollout", i+1, at, at+0.5, "")
	}
	for _, due := range dues(0, 600, 10) {
		if due > 401.05 && due < 401.6 {
			s.fail("web", due, runlog.Refused, 0)
			continue
		}
		s.ok("web", due)
	}
	f := s.analyze()
	assert.Len(t, f.Spikes, maxSpikes)
	assert.EqualValues(t, 300-maxSpikes, f.OtherSpikes)
	worst := worstSpike(f)
	require.NotNil(t, worst)
	assert.Equal(t, 201, worst.Number)
	assert.LessOrEqual(t, len(actionLines(f)), maxSpikeLines+2)
	assert.Contains(t, strings.Join(actionLines(f), "\n"), "roll no. 201 (rollout)")

	l := newLog()
	l.addBin(&runlog.Bin{Traffic: "web", Start: maxActs + 3, Width: 0.1, Due: 9, Started: 9, Outcomes: map[runlog.Outcome]uint64{runlog.Refused: 9}})
	for i := range maxActs + 5 {
		e := &runlog.Event{Name: "a", Fields: map[string]string{"phase": "begin", "number": strconv.Itoa(i)}}
		l.addAct(float64(i), e)
	}
	assert.Len(t, l.cluster.acts, maxActs)
	assert.LessOrEqual(t, len(l.cluster.going), maxGoing)
	f = l.findings()
	assert.Nil(t, worstSpike(f), "what failed after one that was not kept is not the last one's")
	assert.Contains(t, strings.Join(f.Doubts, "\n"), "5 actions came after the first 20000")
}

func TestHeldConnectionsLost(t *testing.T) {
	idle := runlog.TrafficInfo{Name: "pools", Shape: "idle", To: "web", End: 10, Timeout: 0.9, EntriesPerAttempt: 1, ExpectsAnswer: true}
	s := newSim(t, 262144, 200000, idle)
	s.header.Expect = []string{"held_lost == 30", "pools: held_lost > 10"}
	s.act("kill", "delete_pod", 1, 3, 3.1, "")
	for _, due := range dues(0, 1, 100) {
		s.enter(due)
		s.ok("pools", due)
	}
	for k, lost := range []uint64{0, 0, 0, 5, 20, 30, 30, 30} {
		s.records = append(s.records, runlog.Record{Host: "client", T: float64(k) + 0.5, Held: &runlog.Held{Traffic: "pools", Open: 100 - lost, Lost: lost}})
	}
	seq := uint64(5)
	s.records = append(s.records,
		runlog.Record{Host: "client", T: 3.4, Failure: &runlog.Failure{Traffic: "pools", Seq: seq, Due: 3.3, Start: 3.3, Outcome: runlog.Reset, Phase: "held"}},
		runlog.Record{Host: simNode, T: 3.41, Autopsy: &runlog.Autopsy{Traffic: "pools", Seq: seq}})
	f := s.analyze()
	require.NotNil(t, f.Spikes[0].HeldLost)
	assert.EqualValues(t, 30, *f.Spikes[0].HeldLost)
	require.NotNil(t, f.Reproduced)
	assert.True(t, *f.Reproduced, f.Expected)
	assert.Contains(t, f.Headline, "pools lost 30 held connections")
	assert.NotContains(t, strings.Join(f.Doubts, "\n"), "autops")
}

// Of a run that was ended before its time nobody knows what the rest would have shown:
// what it had not shown yet is open, and what it should not have shown is not.
func TestNotReproducedYet(t *testing.T) {
	s, _ := hangRun(t)
	s.header.Expect = []string{"stale > 60s", "table_full > 10", "stale_backend < 5", "drop > 5 during 1s..2s"}
	s.trailer.Outcome, s.trailer.Error = "interrupted", "by a signal"
	f := s.analyze()
	var got []Verdict
	for _, r := range f.Expected {
		got = append(got, r.Result)
	}
	assert.Equal(t, []Verdict{Inconclusive, Inconclusive, Fail, Fail}, got)
	assert.Contains(t, joined(f.Reasons), "cannot say whether it was reproduced: table_full > 10 (no attempt failed because of table_full, up to where the run ended)")
	s.trailer.Outcome = "completed"
	assert.Contains(t, joined(s.analyze().Reasons), "not reproduced here: table_full > 10")
}

// The headline of a run without an answer says what is missing.
func TestHeadlineOfWhatWasNotReproduced(t *testing.T) {
	s, _ := hangRun(t)
	s.header.Expect = []string{"stale > 5s", "table_full > 10"}
	f := s.analyze()
	assert.Equal(t, Inconclusive, f.Verdict)
	assert.Contains(t, f.Headline, "Inconclusive: not reproduced here: table_full > 10")
	require.NotNil(t, f.Reproduced)
	assert.False(t, *f.Reproduced)
	assert.Contains(t, render(t, "junit", f), `name="expect: table_full &gt; 10"`)
	assert.Contains(t, render(t, "markdown", f), "not shown")
}

// From when to when attempts failed is said as their records say it, not by the
// steps they are counted in; and that nothing ended it but the traffic.
func TestWhenAttemptsFailedAroundAnAction(t *testing.T) {
	ended, next := true, 0.0
	run := func(until float64, unrecorded float64) *Findings {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 8))
		if !ended {
			s.trailer = nil
		}
		s.act("late", "restart_proxy", 1, 1.501, 1.9, "")
		if next > 0 {
			s.act("heal", "restart_proxy", 1, next, next+0.1, "")
		}
		for i := range 800 {
			due := float64(i) / 100
			if due >= 1.85 && due < until-0.001 && i%2 == 1 {
				s.fail("web", due, runlog.ConnectTimeout, 1)
				continue
			}
			s.enter(due)
			s.ok("web", due)
		}
		s.records = slices.DeleteFunc(s.records, func(r runlog.Record) bool { return r.Failure != nil && r.Failure.Due == unrecorded })
		return s.analyze()
	}
	f := run(2.5, 0)
	assert.Contains(t, spikeHeadline(f, &f.Spikes[0]), "33 attempts failed from 349 ms after late (restart_proxy) began, for 640 ms")
	assert.Equal(t, []string{"1.850 s", "2.490 s", "yes"}, []string{f.Spikes[0].DueFrom(), f.Spikes[0].DueTo(), f.Spikes[0].Calmed()})
	assert.InDelta(t, 1.8, *f.Spikes[0].StartS, 1e-9, "the step, as summary.json says")
	f = run(2.5, 2.45)
	assert.Contains(t, spikeHeadline(f, &f.Spikes[0]), "from 299 ms after late (restart_proxy) began, for about 700 ms", "one in the last step is not known")
	assert.Equal(t, "about 1.8 s", f.Spikes[0].DueFrom())
	f = run(8, 0)
	assert.Contains(t, spikeHeadline(f, &f.Spikes[0]), "for 6.1 s until the traffic ended")
	assert.Equal(t, "no, to the end of the traffic", f.Spikes[0].Calmed())
	assert.Contains(t, actionLines(f)[0], "; it went on until the traffic ended")
	s, _ := hangRun(t)
	assert.Equal(t, "not before heal", s.analyze().Spikes[1].Calmed())
	f = run(7, 0)
	assert.NotContains(t, spikeHeadline(f, &f.Spikes[0]), "until the traffic ended")
	assert.Equal(t, "cannot tell: the traffic ended 1.0 s after the last of them", f.Spikes[0].Calmed())
	assert.Contains(t, actionLines(f)[0], "; whether it recovered cannot be told: the traffic ended 1.0 s after the last of them")
	f = run(5.9, 0)
	assert.Equal(t, "yes", f.Spikes[0].Calmed())
	next = 6.3
	f = run(5.9, 0)
	assert.Equal(t, "cannot tell: heal began 410 ms after the last of them", f.Spikes[0].Calmed())
	assert.Contains(t, actionLines(f)[0], "; whether it recovered cannot be told: heal began 410 ms after the last of them")
	next = 0
	ended = false
	assert.NotContains(t, actionLines(run(8, 0))[0], "until the traffic ended", "only the log did")
	ended = true
	f = run(1.86, 0)
	assert.Contains(t, spikeHeadline(f, &f.Spikes[0]), "1 attempt failed from 349 ms after late (restart_proxy) began.")
}

// That the last attempts of all happened to succeed is no end of it.
func TestFailuresToTheEndOfTheTraffic(t *testing.T) {
	f := failing{due: []float64{4, 4, 4, 4, 4, 4}, failed: []float64{0, 2, 2, 2, 0, 0}}
	assert.False(t, f.toEnd(1, 3), "8 more came, and 4 of them would have failed")
	f.failed[4] = 1
	assert.True(t, f.toEnd(1, 4), "of 4 more, 2 might not have")
	assert.True(t, failing{due: []float64{4}, failed: []float64{4}}.toEnd(0, 0))
	assert.False(t, failing{due: []float64{0}, failed: []float64{4}}.toEnd(0, 0), "of one-way traffic nobody knows")
}

package report

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// failingRun is a run at 20/s in which those attempts failed.
func failingRun(t *testing.T, to float64, failed func(i int, due float64) bool) *sim {
	t.Helper()
	s := newSim(t, 262144, 200000, finTraffic("web", 0, to))
	s.header.Duration = to
	for i, due := range dues(0, to, 20) {
		if s.enter(due); failed(i, due) {
			s.fail("web", due, runlog.ConnectTimeout, 1)
			continue
		}
		s.ok("web", due)
	}
	return s
}

// Actions in the middle of failures make none of them, and one long after their
// end does not end them. As a run of a cluster had it: a pod is drained, a proxy
// paused, and what ends it is that the proxy is replaced.
func TestFailuresOfAnActionBefore(t *testing.T) {
	s := failingRun(t, 20, func(i int, due float64) bool { return due > 0.79 && due < 8.45 && i%2 == 0 })
	s.act("drain", "drain_node", 1, 0.2, 2.3, "")
	s.act("pause", "pause_proxy", 1, 0.501, 0.53, "")
	s.act("settings", "conntrack_settings", 1, 1.001, 3.6, "")
	s.act("replace", "upgrade_proxy", 1, 2.001, 8.2, "")
	s.act("resume", "resume_proxy", 1, 4.001, 4.1, "")
	s.act("uncordon", "uncordon_node", 1, 15.001, 15.2, "")
	f := s.analyze()
	require.Len(t, f.Spikes, 6)
	require.Len(t, disturbed(f), 2)
	assert.EqualValues(t, 3, f.Spikes[1].Failures)
	assert.Equal(t, "74 more attempts failed, which are put down to no action by itself", disturbed(f)[1], "of 77")
	var said []string
	for i := range f.Spikes {
		said = append(said, costText(&f.Spikes[i]))
	}
	assert.Equal(t, "no attempt failed of those due to 0.5 s", said[0])
	assert.Contains(t, said[1], "3 attempts that were due from 0.8 s to 1.0 s failed")
	assert.Contains(t, said[1], "; drain was not done when it began: what failed can be of either")
	assert.Contains(t, said[2], "attempts went on failing as before it: 10/s of those due to 2.0 s, ")
	assert.Equal(t, "attempts went on failing as before it: 10/s of those due to 4.0 s, 10.9/s before; 20 and 12 failed, which chance can make of one rate", said[3])
	assert.Equal(t, "before it 10.3/s of those due failed, then 44 more, and none of those due from 8.5 s to 14.1 s; replace was not done when it began: that they ended can be of either", said[4])
	assert.Equal(t, "no attempt failed of those due to 20.0 s", said[5], "it was over long before")
	assert.Nil(t, f.Spikes[5].StoppedS)
	assert.Equal(t, []string{"drain", "settings"}, f.Spikes[3].Overlaps)
}

// However short the time, no more attempts fail than are due: of one each 100 ms, one
// that failed in the 32 ms before an action are not 31 a second.
func TestNoMoreFailThanAreDue(t *testing.T) {
	f := failing{width: 0.1, due: []float64{1, 1, 1}, failed: []float64{1, 0, 0}, lastDue: []float64{0, 0, 0}}
	short := f.tallied(0, 0.032)
	assert.InDelta(t, 10, short.rate(), 1e-9)
	assert.False(t, short.more(f.tallied(0, 0.1)))
	assert.InDelta(t, 5, f.tallied(0, 0.2).rate(), 1e-9)
}

// Fewer that fail, or none for a moment, are said to be fewer.
func TestFailuresThatFell(t *testing.T) {
	s := failingRun(t, 10, func(i int, due float64) bool { return due > 2.09 && due < 5.9 || i == 170 })
	s.act("roll", "rollout", 1, 2, 2.5, "")
	s.act("heal", "restart_proxy", 1, 6.001, 6.1, "")
	f := s.analyze()
	assert.Equal(t, "failures fell: before it 19.5/s of those due failed, and 0.25/s of those due to 10.0 s", costText(&f.Spikes[1]))
	few := failingRun(t, 10, func(_ int, due float64) bool { return due > 5.59 && due < 5.9 })
	few.act("roll", "rollout", 1, 5.5, 5.6, "")
	few.act("pause", "pause_proxy", 1, 5.951, 5.96, "")
	few.act("flush", "flush", 1, 6.201, 6.21, "")
	assert.Equal(t, "no attempt failed of those due to 6.2 s, and 6 before it: too few to tell whether they ended then", costText(&few.analyze().Spikes[1]))
	s.act("flush", "flush", 1, 7.001, 7.1, "")
	f = s.analyze()
	assert.Equal(t, "before it 19.5/s of those due failed, and none of those due to 7.0 s", costText(&f.Spikes[1]))
}

// What failed in the step in which an action began, and was due before it did, is
// not its doing.
func TestDueBeforeItBegan(t *testing.T) {
	s := failingRun(t, 10, func(_ int, due float64) bool { return due > 2.99 && due < 3.01 || due > 3.09 && due < 3.4 })
	s.act("early", "flush", 1, 2.5, 2.51, "")
	s.act("roll", "rollout", 1, 3.04, 13, "")
	f := s.analyze()
	assert.EqualValues(t, 1, f.Spikes[0].Failures)
	assert.EqualValues(t, 6, f.Spikes[1].Failures)
	assert.InDelta(t, 3.1, *f.Spikes[1].StartS, 1e-9)
	assert.InDelta(t, 1/3.04, f.Spikes[1].Before, 1e-9, "up to when it began, not to the end of that step")
	assert.InDelta(t, 6/6.96, f.Spikes[1].After, 1e-9, "and from then on")
}

// Where more fail than before, and no more than chance makes, both counts are said.
func TestMoreFailuresByChance(t *testing.T) {
	s := failingRun(t, 10, func(i int, _ float64) bool { return i == 5 || i == 9 || i == 12 || i >= 20 && i < 40 && i%5 < 2 })
	s.act("one", "flush", 1, 1.001, 1.1, "")
	s.act("two", "flush", 1, 2.001, 2.1, "")
	assert.Equal(t, "attempts failed before it, too: 8/s of those due to 2.0 s, 3/s before; 8 and 3 failed, which chance can make of one rate", costText(&s.analyze().Spikes[0]))
}

// Where failures end in the time of an action is said, though it is too short for
// what healed them to be said, and that they did not end with its begin.
func TestFailuresThatEndedLater(t *testing.T) {
	s := failingRun(t, 12, func(_ int, due float64) bool { return due > 2.99 && due < 7.98 })
	s.act("roll", "rollout", 1, 2.951, 3, "")
	s.act("go-on", "resume_proxy", 1, 4.001, 4.1, "")
	s.act("flush", "flush", 1, 9.501, 9.6, "")
	f := s.analyze()
	assert.Contains(t, costText(&f.Spikes[0]), "; it was not over when go-on began: 80 more failed of those due from then to 9.5 s")
	assert.Equal(t, "attempts went on failing until 4.0 s after it began: 80 more did, and none of those due from 8.0 s to 9.5 s", costText(&f.Spikes[1]))
	assert.Nil(t, f.Spikes[1].StoppedS, "1.5 s are no 2 s")
}

// What was not seen to recover in an action's own time may have done so later.
func TestNotSeenToRecover(t *testing.T) {
	s := failingRun(t, 6, func(_ int, due float64) bool { return due > 1.99 && due < 2.49 || due > 3.99 && due < 5.21 })
	s.act("one", "flush", 1, 1.951, 2, "")
	s.act("two", "flush", 1, 3.001, 3.1, "")
	s.act("three", "flush", 1, 3.951, 4, "")
	f := s.analyze()
	assert.Contains(t, costText(&f.Spikes[0]), "; whether it recovered cannot be told: two began 550 ms after the last of them; ")
	assert.Contains(t, costText(&f.Spikes[2]), "; whether it recovered cannot be told: the traffic ended 800 ms after the last of them; ")
	s = failingRun(t, 10, func(_ int, due float64) bool { return due > 1.99 && due < 2.49 })
	s.act("one", "rollout", 1, 1.951, 7, "") // which may yet do something
	s.act("two", "flush", 1, 5.001, 5.1, "")
	f = s.analyze()
	assert.Contains(t, costText(&f.Spikes[0]), "; it was not seen to recover before two began")
	assert.Equal(t, "not before two", f.Spikes[0].Calmed())
}

func TestSinceWhenTheyFail(t *testing.T) {
	f := failing{width: 0.1, due: make([]float64, 100), failed: make([]float64, 100), lastDue: make([]float64, 100)}
	fail := func(from, to int, n float64) {
		for i := from; i < to; i++ {
			f.failed[i], f.lastDue[i] = n, float64(i)/10+0.09
		}
	}
	for i := range f.due {
		f.due[i] = 2
	}
	assert.InDelta(t, 0, f.lately(0, 10), 1e-9, "nothing failed")
	fail(50, 52, 1)
	assert.InDelta(t, 0, f.lately(0, 10), 1e-9, "two are too few to tell")
	fail(50, 60, 1)
	assert.InDelta(t, 6, f.lately(0, 10), 1e-9, "they ended")
	assert.InDelta(t, 5, f.lately(0, 6), 1e-9, "they began")
	fail(0, 100, 1)
	assert.InDelta(t, 0, f.lately(0, 10), 1e-9, "they fail all the time")
	clear(f.due[60:])
	clear(f.failed[60:])
	assert.InDelta(t, 0, f.lately(0, 10), 1e-9, "nothing was due that could")
}

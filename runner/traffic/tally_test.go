package traffic

import (
	"math"
	"sync"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/scenarios"
)

// records keeps what is recorded, in order.
type records struct{ envtest.Recorder }

// totals is all bins of a log added up, as a reader does.
type totals struct {
	due, started, late, lostPackets uint64
	notStarted                      map[runlog.NotStartedReason]uint64
	outcomes                        map[runlog.Outcome]uint64
	failures                        []runlog.Failure
	lost                            uint64 // failures that were not recorded
	held                            []runlog.Held
}

func (r *records) totals() totals {
	t := totals{notStarted: map[runlog.NotStartedReason]uint64{}, outcomes: map[runlog.Outcome]uint64{}}
	for _, x := range r.Records() {
		switch {
		case x.Bin != nil:
			t.due += x.Bin.Due
			t.started += x.Bin.Started
			t.late += x.Bin.Late
			t.lostPackets += x.Bin.LostPackets
			for k, n := range x.Bin.NotStarted {
				t.notStarted[k] += n
			}
			for k, n := range x.Bin.Outcomes {
				t.outcomes[k] += n
			}
		case x.Failure != nil:
			t.failures = append(t.failures, *x.Failure)
		case x.Loss != nil:
			t.lost += x.Loss.Count
		case x.Held != nil:
			t.held = append(t.held, *x.Held)
		}
	}
	return t
}

func newTally(failuresPerSecond int) (*Tally, *records, *float64) {
	out, now := new(records), new(float64)
	job := env.LoadJob{Traffic: scenarios.Traffic{Name: "web"}, FailuresPerSecond: failuresPerSecond}
	return NewTally(out, job, func() float64 { return *now }), out, now
}

func bins(out *records) (b []runlog.Bin) {
	for _, r := range out.Records() {
		if r.Bin != nil {
			b = append(b, *r.Bin)
		}
	}
	return b
}

func TestTallyCountsByDueTime(t *testing.T) {
	tally, out, _ := newTally(10)
	tally.Due(0.95)
	tally.Started(0.95, 0.95)
	tally.Due(1.05)
	tally.Started(1.05, 1.0601)
	tally.Due(1.06)
	tally.NotStarted(runlog.Failure{Due: 1.06, NotStarted: runlog.NoPorts})
	tally.Flush()
	assert.Equal(t, []runlog.Bin{
		{Traffic: "web", Start: 0.9, Width: 0.1, Due: 1, Started: 1},
		{Traffic: "web", Start: 1, Width: 0.1, Due: 2, Started: 1, Late: 1, NotStarted: map[runlog.NotStartedReason]uint64{runlog.NoPorts: 1}},
	}, bins(out))

	// What ends later arrives in the bin of its due time, as an increment.
	tally.OK(0.95, 0.95, 0.96, 1.5)
	tally.Failed(runlog.Failure{Due: 1.05, Outcome: runlog.ConnectTimeout, Packets: 2})
	tally.Flush()
	assert.Equal(t, []runlog.Bin{
		{Traffic: "web", Start: 0.9, Width: 0.1, Outcomes: map[runlog.Outcome]uint64{runlog.OK: 1}},
		{Traffic: "web", Start: 1, Width: 0.1, Outcomes: map[runlog.Outcome]uint64{runlog.ConnectTimeout: 1}, LostPackets: 2},
	}, bins(out)[2:])

	n := len(out.Records())
	tally.Flush()
	assert.Len(t, out.Records(), n, "nothing new, nothing recorded")
}

// Due times that are multiples of the width begin a bin, whatever their
// binary representation.
func TestTallyBinEdges(t *testing.T) {
	for i := range 100_000 {
		tally, out, _ := newTally(0)
		tally.Due(0 + (float64(i) * 0.1))
		tally.Close()
		require.Equal(t, float64(i)/10, bins(out)[0].Start, "bin %d", i)
	}
	tally, out, _ := newTally(0)
	tally.Due(-0.05)
	tally.Close()
	assert.Equal(t, -0.1, bins(out)[0].Start)
}

func TestTallySums(t *testing.T) {
	tally, out, now := newTally(1000)
	all := []runlog.Outcome{
		runlog.OK, runlog.ConnectTimeout, runlog.ResponseTimeout, runlog.Refused, runlog.Reset, runlog.Unreachable,
		runlog.NotPermitted, runlog.Closed, runlog.BadResponse, runlog.Interrupted, runlog.Other,
	}
	for i := range 11_000 {
		*now = float64(i) / 1000
		due := *now
		tally.Due(due)
		tally.Started(due, due)
		switch o := all[i%len(all)]; o {
		case runlog.OK:
			tally.OK(due, due, math.NaN(), due+0.001)
		case runlog.Interrupted:
			tally.Interrupted(due)
		default:
			tally.Failed(runlog.Failure{Due: due, Outcome: o})
		}
		if i%100 == 0 {
			tally.Flush()
		}
	}
	tally.Close()
	got := out.totals()
	assert.Equal(t, uint64(11_000), got.due)
	assert.Equal(t, uint64(11_000), got.started)
	for _, o := range all {
		assert.Equal(t, uint64(1000), got.outcomes[o], o)
	}
	assert.Len(t, got.failures, 9000)
	assert.Zero(t, got.lost)
	for _, f := range got.failures {
		require.Equal(t, "web", f.Traffic)
	}
}

func TestTallyLatencies(t *testing.T) {
	tally, out, now := newTally(0)
	for i := range 100 {
		due := 3 + float64(i)/100
		tally.OK(due, due+0.001, due+0.003, due+0.011)
	}
	tally.OK(4.5, 4.5, math.NaN(), 4.5+3600) // beyond the range: counted at its edge
	*now = 4.6
	tally.Flush()
	tally.OK(3.5, 3.5, math.NaN(), 5) // late: another increment
	*now = 4.9
	tally.Flush() // same second: nothing yet
	var l []runlog.Latency
	collect := func() {
		l = nil
		for _, r := range out.Records() {
			if r.Latency != nil {
				l = append(l, *r.Latency)
			}
		}
	}
	collect()
	require.Len(t, l, 2)
	tally.Close()
	collect()
	require.Len(t, l, 3)

	decode := func(s string) *hdrhistogram.Histogram {
		h, err := hdrhistogram.Decode([]byte(s))
		require.NoError(t, err)
		return h
	}
	assert.Equal(t, 3.0, l[0].Start)
	assert.Equal(t, 1.0, l[0].Width)
	assert.Equal(t, "web", l[0].Traffic)
	h := decode(l[0].FromDue)
	assert.Equal(t, int64(100), h.TotalCount())
	assert.InEpsilon(t, 11_000, h.ValueAtQuantile(50), 0.01)
	assert.InEpsilon(t, 10_000, decode(l[0].Started).ValueAtQuantile(50), 0.01)
	assert.InEpsilon(t, 2_000, decode(l[0].Connect).ValueAtQuantile(50), 0.01)
	assert.Equal(t, 4.0, l[1].Start)
	assert.InEpsilon(t, 600e6, decode(l[1].FromDue).Max(), 0.01)
	assert.Empty(t, l[1].Connect, "no handshake, no histogram of it")
	assert.Equal(t, 3.0, l[2].Start)
	assert.Equal(t, int64(1), decode(l[2].FromDue).TotalCount())
}

func TestTallyBoundsFailures(t *testing.T) {
	tally, out, now := newTally(20)
	const perSecond, seconds = 1000, 5
	for i := range perSecond * seconds {
		*now = float64(i) / perSecond
		tally.Failed(runlog.Failure{Due: *now, Seq: uint64(i), Outcome: runlog.Reset})
	}
	tally.Close()
	got := out.totals()
	assert.Equal(t, uint64(perSecond*seconds), got.outcomes[runlog.Reset])
	assert.Len(t, got.failures, 20*seconds)
	assert.Equal(t, uint64(perSecond*seconds-20*seconds), got.lost, "recorded and lost add up")
	tenths := map[int]int{}
	for _, f := range got.failures {
		tenths[int(f.Seq)/100]++
	}
	for i := range 10 * seconds {
		assert.Equal(t, 2, tenths[i], "tenth %d of a second", i)
	}
}

func TestTallyFailureBounds(t *testing.T) {
	t.Run("none are wanted", func(t *testing.T) {
		tally, out, _ := newTally(0)
		tally.Failed(runlog.Failure{Outcome: runlog.Reset})
		tally.Close()
		assert.Empty(t, out.totals().failures)
		assert.Equal(t, uint64(1), out.totals().lost)
	})
	t.Run("one per second", func(t *testing.T) {
		tally, out, now := newTally(1)
		for i := range 30 {
			*now = float64(i) / 10
			tally.Failed(runlog.Failure{Outcome: runlog.Reset})
		}
		tally.Close()
		assert.Len(t, out.totals().failures, 3)
		assert.Equal(t, uint64(27), out.totals().lost)
	})
	t.Run("those not started do not crowd out those that failed", func(t *testing.T) {
		tally, out, now := newTally(100)
		for i := range 1000 {
			*now = float64(i) / 1000
			tally.NotStarted(runlog.Failure{NotStarted: runlog.Behind})
			tally.NotStarted(runlog.Failure{NotStarted: runlog.Behind})
			if i%20 == 0 {
				tally.Failed(runlog.Failure{Outcome: runlog.Reset})
			}
		}
		tally.Close()
		n := map[runlog.Outcome]int{}
		for _, f := range out.totals().failures {
			n[f.Outcome]++
		}
		assert.Equal(t, 50, n[runlog.Reset])
		assert.Equal(t, 50, n[""])
	})
	t.Run("the losses of a second are recorded once it is over", func(t *testing.T) {
		tally, out, now := newTally(1)
		tally.Failed(runlog.Failure{Outcome: runlog.Reset})
		tally.Failed(runlog.Failure{Outcome: runlog.Reset})
		tally.Flush()
		assert.Zero(t, out.totals().lost)
		*now = 1.1
		tally.Flush()
		assert.Equal(t, uint64(1), out.totals().lost)
	})
	t.Run("a held connection's failure is in no bin", func(t *testing.T) {
		tally, out, _ := newTally(1)
		tally.Lost(runlog.Failure{Outcome: runlog.Reset, Phase: "held"})
		tally.Close()
		require.Len(t, out.totals().failures, 1)
		assert.Equal(t, "web", out.totals().failures[0].Traffic)
		assert.Empty(t, bins(out))
	})
}

// An outcome nobody has thought of is counted, as other.
func TestTallyUnknownOutcome(t *testing.T) {
	tally, out, _ := newTally(1)
	tally.Failed(runlog.Failure{Outcome: "new"})
	tally.Close()
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.Other: 1}, out.totals().outcomes)
}

func TestTallyConcurrently(t *testing.T) {
	tally, out, _ := newTally(5)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 1000 {
				tally.Due(float64(i) / 1000)
				tally.OK(float64(i)/1000, 0, 0, 0)
				if i%100 == 0 {
					tally.Flush()
				}
			}
		})
	}
	wg.Wait()
	tally.Close()
	assert.Equal(t, uint64(4000), out.totals().due)
	assert.Equal(t, uint64(4000), out.totals().outcomes[runlog.OK])
}

func BenchmarkTally(b *testing.B) {
	out := discard{}
	now := 0.0
	tally := NewTally(out, env.LoadJob{}, func() float64 { return now })
	b.ReportAllocs()
	for i := range b.N {
		due := float64(i) / 17_000
		tally.Due(due)
		tally.Started(due, due)
		tally.OK(due, due, due, due+0.001)
		if i%1700 == 0 {
			now = due
			tally.Flush()
		}
	}
}

type discard struct{}

func (discard) Record(runlog.Record) {}

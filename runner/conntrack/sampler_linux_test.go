package conntrack

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
)

// fakeSource answers like the kernel, in the time and with the error a test
// wants.
type fakeSource struct {
	reads  int
	took   map[int]time.Duration // by number of the read, from 1
	err    map[int]error
	closed bool
}

func (f *fakeSource) read(int64) (runlog.Sample, error) {
	f.reads++
	time.Sleep(f.took[f.reads])
	return runlog.Sample{Net: map[string]uint64{"n": uint64(f.reads)}}, f.err[f.reads]
}
func (f *fakeSource) close() { f.closed = true }

// runSampler runs a sampler with a fake source for a while of fake time. The
// epoch is lead after its start.
func runSampler(t *testing.T, src *fakeSource, every, lead, lasts time.Duration) []runlog.Record {
	t.Helper()
	rec := &recorder{}
	synctest.Test(t, func(t *testing.T) {
		s := &sampler{
			every: every, epoch: time.Now().Add(lead).UnixNano(),
			now:  func() int64 { return time.Now().UnixNano() },
			open: func() (source, error) { return src, nil },
		}
		ctx, cancel := context.WithTimeout(t.Context(), lasts)
		defer cancel()
		ready := false
		require.NoError(t, s.Run(ctx, func() { ready = true; assert.Len(t, rec.Records(), 1, "one sample before ready") }, rec))
		assert.True(t, ready)
		assert.True(t, src.closed)
	})
	return rec.Records()
}

func times(records []runlog.Record) (at []float64) {
	for _, r := range records {
		if r.Sample != nil {
			at = append(at, r.T)
		}
	}
	return at
}

func TestSamplerTicksOnMultiplesOfRunTime(t *testing.T) {
	// It starts 0.25 s before run time 0, so the ticks of 0.1 s are odd ones.
	got := times(runSampler(t, &fakeSource{}, 100*time.Millisecond, 250*time.Millisecond, 510*time.Millisecond))
	assert.InDeltaSlice(t, []float64{-0.25, -0.2, -0.1, 0, 0.1, 0.2, 0.26}, got, 1e-9)
}

func TestSamplerTimesTheMiddle(t *testing.T) {
	src := &fakeSource{took: map[int]time.Duration{2: 40 * time.Millisecond}}
	records := runSampler(t, src, 100*time.Millisecond, 0, 150*time.Millisecond)
	require.Len(t, records, 3)
	assert.InDelta(t, 0.12, records[1].T, 1e-9)
	assert.InDelta(t, 0.04, records[1].Sample.Took, 1e-9)
}

func TestSamplerCountsWhatItMissed(t *testing.T) {
	src := &fakeSource{took: map[int]time.Duration{3: 350 * time.Millisecond}} // the one at 0.2 s lasts until 0.55 s
	records := runSampler(t, src, 100*time.Millisecond, 0, 750*time.Millisecond)
	assert.InDeltaSlice(t, []float64{0, 0.1, 0.375, 0.55, 0.6, 0.7, 0.75}, times(records), 1e-9)
	var lost []runlog.Loss
	for _, r := range records {
		if r.Loss != nil {
			lost = append(lost, *r.Loss)
		}
	}
	require.Len(t, lost, 1)
	assert.Equal(t, "samples", lost[0].What)
	assert.EqualValues(t, 2, lost[0].Count, "0.3 and 0.4; the one of 0.5 came late")
}

func TestSamplerCountsReadingsThatFail(t *testing.T) {
	src := &fakeSource{err: map[int]error{2: assert.AnError, 5: assert.AnError}}
	records := runSampler(t, src, 100*time.Millisecond, 0, 350*time.Millisecond)
	require.Len(t, records, 5)
	assert.EqualValues(t, 1, records[1].Loss.Count)
	assert.NotNil(t, records[2].Sample)
	assert.Contains(t, records[4].Loss.Why, assert.AnError.Error(), "the last one too")
}

func TestSamplerThatCannotStartSaysSo(t *testing.T) {
	s := &sampler{every: time.Second, now: monotonic, open: func() (source, error) {
		return &fakeSource{err: map[int]error{1: assert.AnError}}, nil
	}}
	require.ErrorIs(t, s.Run(t.Context(), func() { t.Error("ready") }, &recorder{}), assert.AnError)
	for _, j := range []env.Job{{}, {Sample: &env.SampleJob{}}, {Sample: &env.SampleJob{Every: -1}}} {
		_, err := NewSampler(j)
		assert.Error(t, err)
	}
}

func TestSamplerReadsThisNamespace(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	vip, _ := service(t)
	w, err := NewSampler(env.Job{Epoch: monotonic(), Sample: &env.SampleJob{Every: 0.05, Conntrack: true, Machine: true}})
	s := start(t, w, err)
	for range 3 {
		_ = connect(t, vip)
	}
	insertFlows(t, 0, 20, 600)
	require.NoError(t, s.stop())
	records := s.Records()
	first, last := records[0].Sample, records[len(records)-1].Sample
	require.NotNil(t, first)
	require.NotNil(t, last)
	assert.Less(t, records[0].T, records[len(records)-1].T)
	f := facts(t)
	assert.Equal(t, f.Limit, first.Conntrack.Limit)
	assert.EqualValues(t, 0, first.Conntrack.Entries)
	assert.EqualValues(t, 23, last.Conntrack.Entries)
	assert.EqualValues(t, 20, last.Conntrack.Counters["insert"]-first.Conntrack.Counters["insert"])
	assert.EqualValues(t, 3, last.Net["Tcp.ActiveOpens"]-first.Net["Tcp.ActiveOpens"])
	assert.GreaterOrEqual(t, last.CPU.Idle+last.CPU.User, first.CPU.Idle+first.CPU.User)
	assert.Positive(t, last.CPU.Self)
	assert.Positive(t, last.Took)
}

func TestSamplerReadsOnlyWhatIsAskedFor(t *testing.T) {
	c, err := openCounters(env.SampleJob{})
	require.NoError(t, err)
	defer c.close()
	s, err := c.read(0)
	require.NoError(t, err)
	assert.Nil(t, s.Conntrack)
	assert.Nil(t, s.CPU)
	assert.Nil(t, s.SlabBytes)
	assert.NotEmpty(t, s.Net)
}

func TestSamplesHoldWhatChanged(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	c, err := openCounters(env.SampleJob{Conntrack: true, Machine: true})
	require.NoError(t, err)
	defer c.close()
	whole := func(now int64) bool {
		t.Helper()
		s, err := c.read(now)
		require.NoError(t, err)
		assert.Equal(t, len(s.Conntrack.Counters) > 10, len(s.Net) > 30)
		return len(s.Conntrack.Counters) > 10
	}
	assert.True(t, whole(0))
	assert.False(t, whole(1))
	insertFlows(t, 0, 3, 600)
	s, err := c.read(2)
	require.NoError(t, err)
	assert.EqualValues(t, 3, s.Conntrack.Counters["insert"])
	assert.NotContains(t, s.Conntrack.Counters, "drop")
	assert.True(t, whole(int64(wholeEvery)))
	assert.False(t, whole(int64(wholeEvery)+1))
	// What a reading that fails has seen is in no sample.
	good := c.stat
	bad, err := openProc("/proc/stat")
	require.NoError(t, err)
	bad.close()
	c.stat = bad
	_, err = c.read(int64(wholeEvery) + 2)
	require.Error(t, err)
	c.stat = good
	assert.True(t, whole(int64(wholeEvery)+3))
}

func TestReadFacts(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	f := facts(t)
	assert.Positive(t, f.Limit)
	assert.Positive(t, f.Buckets)
	assert.Zero(t, f.Entries)
	for name, s := range map[string]float64{"tcp_timeout_time_wait": 120, "tcp_timeout_established": 432000, "udp_timeout": 30, "generic_timeout": 600} {
		assert.InDelta(t, s, f.Timeouts[name], 0, name)
	}
	assert.NotContains(t, f.Timeouts, "tcp_max_retrans", "is a number of packets")
}

package traffic

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	vegeta "github.com/tsenart/vegeta/v12/lib"

	"github.com/tablefull/tablefull/scenarios"
)

func dues(t *testing.T, p scenarios.Pacing, start float64, d time.Duration) []float64 {
	t.Helper()
	pacer, err := PacerOf(p, d)
	require.NoError(t, err)
	s := NewSchedule(pacer, start, start+d.Seconds())
	var out []float64
	for {
		due, seq, ok := s.Next()
		if !ok {
			break
		}
		// Plain comparisons: testify's would take most of the time.
		if seq != uint64(len(out)) || due < start || due >= start+d.Seconds() || len(out) > 0 && due < out[len(out)-1] {
			t.Fatalf("attempt %d has number %d and is due at %v", len(out), seq, due)
		}
		out = append(out, due)
	}
	_, _, ok := s.Next()
	require.False(t, ok, "a schedule that has ended stays so")
	return out
}

func TestConstantRate(t *testing.T) {
	for _, c := range []struct {
		rate float64
		d    time.Duration
	}{
		{700, 20 * time.Second},
		{2.5, 20 * time.Second},
		{1.0 / 3, 30 * time.Second},
		{1.0 / 3600, 5 * time.Hour},
		{17_000, 10 * time.Second},
		{699_999, time.Second},
		{0.7, time.Hour},
		{999.999, time.Minute},
		{3, 7 * time.Second},
	} {
		t.Run(fmt.Sprint(c.rate), func(t *testing.T) {
			got := dues(t, scenarios.Pacing{Rate: scenarios.Rate(c.rate)}, 3, c.d)
			// One at each multiple of the interval that is before the end.
			want := math.Ceil(c.rate*c.d.Seconds()-1e-6) - 1
			require.Len(t, got, int(want))
			for k, due := range got {
				if want := 3 + float64(k+1)/c.rate; math.Abs(due-want) > 2e-9 {
					t.Fatalf("attempt %d is due at %v, want %v", k, due, want)
				}
			}
		})
	}
}

// 700/s has an interval that is no whole number of ns. After three hours the
// seven millionth attempt is still where it belongs.
func TestNoDriftOverHours(t *testing.T) {
	const rate, hours = 700, 3
	pacer, err := PacerOf(scenarios.Pacing{Rate: rate}, hours*time.Hour)
	require.NoError(t, err)
	s := NewSchedule(pacer, 0, hours*3600)
	var last float64
	var n uint64
	for {
		due, _, ok := s.Next()
		if !ok {
			break
		}
		last = due
		n++
	}
	assert.Equal(t, uint64(rate*hours*3600-1), n)
	assert.InDelta(t, hours*3600-1.0/rate, last, 2e-9)
}

func TestRamp(t *testing.T) {
	for _, c := range []struct{ from, to scenarios.Rate }{{100, 1100}, {1100, 100}, {0, 1000}, {1000, 0}, {500, 500}} {
		t.Run(fmt.Sprint(c.from, c.to), func(t *testing.T) {
			const d = 10.0
			got := dues(t, scenarios.Pacing{Ramp: &scenarios.Ramp{From: c.from, To: c.to}}, 1, d*time.Second)
			want := float64(c.from+c.to) / 2 * d
			assert.InDelta(t, want, float64(len(got)), 1)
			for k, due := range got {
				u := due - 1
				hits := float64(c.from)*u + float64(c.to-c.from)/d*u*u/2
				require.InDelta(t, float64(k+1), hits, 1e-4, "attempt %d", k)
			}
		})
	}
}

func TestStages(t *testing.T) {
	rate := func(r scenarios.Rate) *scenarios.Rate { return &r }
	sec := func(n int) scenarios.Duration { return scenarios.Duration(time.Duration(n) * time.Second) }
	t.Run("up, hold, jump down, silence, and again", func(t *testing.T) {
		got := dues(t, scenarios.Pacing{Stages: []scenarios.Stage{
			{From: rate(0), To: 100, For: sec(2)}, // 100
			{To: 100, For: sec(3)},                // 300
			{From: rate(10), To: 10, For: sec(1)}, // 10
			{From: rate(0), To: 0, For: sec(5)},
			{From: rate(50), To: 50, For: sec(2)}, // 100, the last at the end
		}}, 0, 13*time.Second)
		require.Len(t, got, 509)
		assert.InDelta(t, 2, got[99], 1e-8, "hit 100 ends the first stage")
		assert.InDelta(t, 5, got[399], 1e-8)
		assert.InDelta(t, 6, got[409], 1e-8, "the last before the silence")
		assert.InDelta(t, 11.02, got[410], 1e-8, "the first after it")
	})
	t.Run("the first stage begins at its own to", func(t *testing.T) {
		assert.Len(t, dues(t, scenarios.Pacing{Stages: []scenarios.Stage{{To: 10, For: sec(1)}}}, 0, time.Second), 9)
	})
	t.Run("a stage begins where the last ended", func(t *testing.T) {
		got := dues(t, scenarios.Pacing{Stages: []scenarios.Stage{{To: 10, For: sec(1)}, {To: 30, For: sec(2)}}}, 0, 3*time.Second)
		assert.Len(t, got, 49)
	})
	t.Run("the last rate stays", func(t *testing.T) {
		got := dues(t, scenarios.Pacing{Stages: []scenarios.Stage{{From: rate(0), To: 10, For: sec(2)}}}, 0, 4*time.Second)
		assert.Len(t, got, 29)
	})
	t.Run("after a last rate of 0 there is nothing", func(t *testing.T) {
		got := dues(t, scenarios.Pacing{Stages: []scenarios.Stage{{From: rate(10), To: 0, For: sec(2)}}}, 0, time.Hour)
		assert.Len(t, got, 10)
	})
	t.Run("a hit due at a stage's end is not lost to rounding", func(t *testing.T) {
		// Ten times 0.1 is 0.9999999999999999.
		var stages []scenarios.Stage
		for range 10 {
			stages = append(stages, scenarios.Stage{From: rate(0.1), To: 0.1, For: sec(1)})
		}
		stages = append(stages, scenarios.Stage{From: rate(0), To: 0, For: sec(10)})
		got := dues(t, scenarios.Pacing{Stages: stages}, 0, 20*time.Second)
		require.Len(t, got, 1)
		assert.InDelta(t, 10, got[0], 1e-8)
	})
	t.Run("nothing at all", func(t *testing.T) {
		assert.Empty(t, dues(t, scenarios.Pacing{Stages: []scenarios.Stage{{To: 0, For: sec(2)}}}, 0, time.Hour))
	})
	t.Run("length 0 is a jump", func(t *testing.T) {
		got := dues(t, scenarios.Pacing{Stages: []scenarios.Stage{{To: 10, For: sec(1)}, {To: 100, For: 0}, {To: 100, For: sec(1)}}}, 0, 2*time.Second)
		assert.Len(t, got, 109)
	})
}

func TestSine(t *testing.T) {
	for _, c := range []scenarios.Sine{
		{Mean: 100, Amplitude: 50, Period: scenarios.Duration(10 * time.Second)},
		{Mean: 1000, Amplitude: 990, Period: scenarios.Duration(5 * time.Second)},
		{Mean: 2.5, Amplitude: 1.25, Period: scenarios.Duration(8 * time.Second)},
		{Mean: 1, Amplitude: 0.9, Period: scenarios.Duration(2 * time.Second)},
		{Mean: 40, Amplitude: 0, Period: scenarios.Duration(2 * time.Second)},
	} {
		t.Run(fmt.Sprint(c.Mean, c.Amplitude), func(t *testing.T) {
			const d = 40.0
			got := dues(t, scenarios.Pacing{Sine: &c}, 0, d*time.Second)
			m, a, w := float64(c.Mean), float64(c.Amplitude), 2*math.Pi/c.Period.Seconds()
			assert.InDelta(t, m*d, float64(len(got)), 1)
			for k, due := range got {
				hits := m*due + a/w*(1-math.Cos(w*due))
				require.InDelta(t, float64(k+1), hits, 1e-8*m+1e-6, "attempt %d at %v", k, due)
			}
		})
	}
}

func TestRateIsTheDerivative(t *testing.T) {
	p, err := NewStagesPacer([]scenarios.Stage{{To: 10, For: scenarios.Duration(time.Second)}, {To: 30, For: scenarios.Duration(2 * time.Second)}})
	require.NoError(t, err)
	for at, want := range map[time.Duration]float64{0: 10, 999 * time.Millisecond: 10, 2 * time.Second: 20, 3 * time.Second: 30, time.Hour: 30} {
		assert.InDelta(t, want, p.Rate(at), 1e-9, "at %v", at)
	}
}

// vegeta's attacker asks with the true time; behind means at once.
func TestStagesPacerWhenBehind(t *testing.T) {
	p, err := NewStagesPacer([]scenarios.Stage{{To: 10, For: scenarios.Duration(time.Second)}})
	require.NoError(t, err)
	wait, stop := p.Pace(3*time.Second, 5)
	assert.Zero(t, wait)
	assert.False(t, stop)
	wait, _ = p.Pace(0, 5)
	assert.Equal(t, 600*time.Millisecond, wait)
}

func TestPacerOfRefuses(t *testing.T) {
	r := scenarios.Rate(-1)
	sec := scenarios.Duration(time.Second)
	for name, p := range map[string]scenarios.Pacing{
		"nothing":         {},
		"two kinds":       {Rate: 1, Ramp: &scenarios.Ramp{To: 2}},
		"negative":        {Rate: -1},
		"not a number":    {Rate: scenarios.Rate(math.NaN())},
		"infinite":        {Rate: scenarios.Rate(math.Inf(1))},
		"negative stage":  {Stages: []scenarios.Stage{{From: &r, To: 1, For: sec}}},
		"no period":       {Sine: &scenarios.Sine{Mean: 2, Amplitude: 1}},
		"large amplitude": {Sine: &scenarios.Sine{Mean: 2, Amplitude: 2, Period: sec}},
		"no mean":         {Sine: &scenarios.Sine{Period: sec}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := PacerOf(p, time.Second)
			assert.Error(t, err)
		})
	}
}

// A pacer that never waits is bounded by its caller, not by time.
func TestAsFastAsPossible(t *testing.T) {
	s := NewSchedule(vegeta.Rate{}, 5, 6)
	for k := range 1000 {
		due, seq, ok := s.Next()
		require.True(t, ok)
		require.Equal(t, uint64(k), seq)
		require.Equal(t, 5.0, due)
	}
}

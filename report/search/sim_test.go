package search

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A system is what is searched in the simulation: it carries limit, give or
// take. In some trials something else loses attempts, whatever the load, and
// some trials say nothing.
type system struct {
	limit  float64
	wobble float64 // standard deviation of the limit from trial to trial, as a share of it
	bursts float64 // share of trials in which something else loses attempts
	silent float64 // share of trials that are inconclusive
	random *rand.Rand
}

func (s *system) try(load float64) (loss float64, inconclusive bool) {
	limit := s.limit * (1 + s.wobble*s.random.NormFloat64())
	if load > limit {
		loss = (load - limit) / load
	}
	if s.random.Float64() < s.bursts {
		loss = max(loss, math.Pow(10, -4+2*s.random.Float64())) // 0.01 % to 1 %
	}
	return min(1, loss), s.random.Float64() < s.silent
}

// run searches the system and returns what was found and all trials.
func (s *system) run(t *testing.T, c Config) (Conclusion, []Trial) {
	t.Helper()
	var trials []Trial
	for len(trials) < 2000 {
		r, more := Next(c, trials)
		if !more {
			return Conclude(c, trials), trials
		}
		x := Trial{Kind: r.Kind, Load: r.Load, Duration: c.Trial, Elapsed: float64(len(trials)+1) * c.Trial}
		if r.Kind != Control {
			x.Loss, x.Inconclusive = s.try(r.Load)
		}
		trials = append(trials, x)
	}
	require.FailNow(t, "the search does not end")
	return Conclusion{}, nil
}

const runs = 1000

func noisy(seed uint64) *system {
	r := rand.New(rand.NewPCG(seed, 6)) //nolint:gosec // a seeded simulation
	// The limit is anywhere between 200 and 20000, evenly by ratio.
	return &system{limit: 200 * math.Pow(100, r.Float64()), wobble: 0.0005, bursts: 0.1, silent: 0.02, random: r}
}

func searched() Config {
	return Config{
		Goals: []Goal{{ExceedRatio: 0.5, DurationSum: 9, Width: 0.01}},
		Min:   100, Max: 40000, Step: 1, Trial: 1, Retries: 3,
	}
}

// The proof of the method: on a system with a known limit and noise, the limit
// lies inside the bounds in at least 95 % of 1000 seeded searches, with fewer
// trials than plain binary search needs for that.
func TestTheLimitLiesInsideTheBounds(t *testing.T) {
	c := searched()
	inside, count := coverage(t, c, func(*system) float64 { return 0 })
	t.Logf("from the minimum: inside in %d of %d, %.1f trials on average", inside, runs, count)
	assert.GreaterOrEqual(t, inside, runs*95/100)

	guessed, fewer := coverage(t, c, func(s *system) float64 { return s.limit * (1 + 0.02*s.random.NormFloat64()) })
	t.Logf("from a guess that is 2 %% off: inside in %d of %d, %.1f trials on average", guessed, runs, fewer)
	assert.GreaterOrEqual(t, guessed, runs*95/100)
	assert.Less(t, fewer, count, "a good guess saves trials")

	// Plain binary search takes the same number of trials at every load and
	// goes by their majority. How many it needs to be right as often:
	for n := 1; ; n += 2 {
		require.Less(t, n, 60)
		right, took := binary(t, c, n)
		t.Logf("binary search with %d trials per load: inside in %d of %d, %.1f trials on average", n, right, runs, took)
		if right >= inside {
			assert.Less(t, count, took)
			assert.Less(t, fewer, took)
			break
		}
		assert.Less(t, n, 30)
	}
}

// The same for two goals at once, each held to its own truth.
func TestTwoGoals(t *testing.T) {
	c := searched()
	c.Goals = append(c.Goals, Goal{LossRatio: 0.02, ExceedRatio: 0.5, DurationSum: 9, Width: 0.01})
	var strict, loose int
	var took float64
	for seed := range uint64(runs) {
		s := noisy(seed)
		got, trials := s.run(t, c)
		took += float64(len(trials)) / runs
		if r := got.Results[0]; r.End == Bounded && r.Lower <= s.limit && s.limit <= r.Upper {
			strict++
		}
		// A loss of 2 % is reached at limit / 0.98, bursts of at most 1 % apart.
		if r, limit := got.Results[1], s.limit/0.98; r.End == Bounded && r.Lower <= limit && limit <= r.Upper {
			loose++
		}
	}
	t.Logf("strict inside in %d, loose in %d of %d, %.1f trials on average", strict, loose, runs, took)
	assert.GreaterOrEqual(t, strict, runs*95/100)
	assert.GreaterOrEqual(t, loose, runs*95/100)
}

// The proof above can fail: with a single trial per load the noise shows. And
// without noise nothing is ever outside.
func TestTheProofCanFail(t *testing.T) {
	c := searched()
	c.Goals[0].DurationSum = c.Trial
	inside, _ := coverage(t, c, func(*system) float64 { return 0 })
	t.Logf("with one trial per load: inside in %d of %d", inside, runs)
	assert.Less(t, inside, runs*95/100, "the noise is too small to prove anything")
	right := 0
	for seed := range uint64(runs) {
		s := noisy(seed)
		s.wobble, s.bursts, s.silent = 0, 0, 0
		got, _ := s.run(t, c)
		if r := got.Results[0]; r.Lower <= s.limit && s.limit <= r.Upper {
			right++
		}
	}
	assert.Equal(t, runs, right, "without noise one trial is enough")
}

func coverage(t *testing.T, c Config, guess func(*system) float64) (inside int, count float64) {
	t.Helper()
	for seed := range uint64(runs) {
		s := noisy(seed)
		c.First = guess(s)
		got, trials := s.run(t, c)
		count += float64(len(trials)) / runs
		r := got.Results[0]
		if r.End == Bounded && r.Lower <= s.limit && s.limit <= r.Upper {
			inside++
			require.LessOrEqual(t, r.Upper-r.Lower, c.Goals[0].Width*r.Upper+1e-6, "seed %d", seed)
		}
	}
	return inside, count
}

// binary is plain binary search: n conclusive trials at each load, the
// majority decides. Its loads are spaced by ratio, as ours are: that is in its
// favour.
func binary(t *testing.T, c Config, n int) (inside int, count float64) {
	t.Helper()
	for seed := range uint64(runs) {
		s := noisy(seed)
		low, high := c.Min, c.Max
		for high-low > c.Goals[0].Width*high {
			mid, bad := math.Floor(math.Sqrt(low*high)), 0
			for made := 0; made < n; {
				loss, silent := s.try(mid)
				count += 1.0 / runs
				if silent {
					continue
				}
				made++
				if loss > c.Goals[0].LossRatio {
					bad++
				}
			}
			if 2*bad > n {
				high = mid
			} else {
				low = mid
			}
		}
		if low <= s.limit && s.limit <= high {
			inside++
		}
	}
	return inside, count
}

// A search in which everything goes wrong still ends, and says so.
func TestEverythingGoesWrong(t *testing.T) {
	for _, c := range []struct {
		name string
		s    system
		want End
	}{
		{"nothing is ever lost", system{limit: 1e9}, AtMax},
		{"everything is lost", system{limit: 1}, BelowMin},
		{"no trial says anything", system{limit: 1000, silent: 1}, Generator},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.s.random = rand.New(rand.NewPCG(1, 1)) //nolint:gosec // a seeded simulation
			got, trials := c.s.run(t, searched())
			assert.Equal(t, c.want, got.Results[0].End)
			assert.Less(t, len(trials), 40)
		})
	}
}

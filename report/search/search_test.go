package search

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func trials(durations ...float64) []Trial {
	var out []Trial
	for _, d := range durations {
		x := Trial{Kind: Measure, Load: 1, Duration: math.Abs(d)}
		if d < 0 {
			x.Loss = 0.5
		}
		out = append(out, x)
	}
	return out
}

// Good trials are positive, bad ones negative; full ones last 1 s.
func TestClassify(t *testing.T) {
	goal := Goal{ExceedRatio: 0.5, DurationSum: 5}
	for _, c := range []struct {
		name   string
		goal   Goal
		trials []float64
		want   Class
	}{
		{"nothing", goal, nil, Undecided},
		{"one of five good", goal, []float64{1}, Undecided},
		{"two of five good", goal, []float64{1, 1}, Undecided},
		{"three of five good", goal, []float64{1, 1, 1}, LowerBound},
		{"two bad ones cannot change it", goal, []float64{1, -1, 1, -1, 1}, LowerBound},
		{"two of five bad", goal, []float64{-1, -1}, Undecided},
		{"three of five bad", goal, []float64{-1, -1, -1}, UpperBound},
		{"more trials than asked for: all count", goal, []float64{-1, -1, -1, 1, 1, 1, 1}, LowerBound},
		{"a draw is within the exceed ratio", goal, []float64{-1, -1, -1, 1, 1, 1}, LowerBound},
		{"exceed ratio 0: one bad trial is the end", Goal{DurationSum: 5}, []float64{1, 1, -1}, UpperBound},
		{"exceed ratio 0: all have to be good", Goal{DurationSum: 5}, []float64{1, 1, 1, 1}, Undecided},
		{"exceed ratio 0: all are good", Goal{DurationSum: 5}, []float64{1, 1, 1, 1, 1}, LowerBound},
		{"short good trials show nothing", goal, []float64{0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5}, Undecided},
		{"short bad trials count", goal, []float64{-0.5, -0.5, -0.5, -0.5, -0.5, -0.5}, UpperBound},
		{"less what short good ones offset", goal, []float64{-0.5, -0.5, -0.5, -0.5, -0.5, -0.5, 0.5}, Undecided},
		{"but they do not offset full ones", goal, []float64{-1, -1, -1, 0.5, 0.5, 0.5, 0.5}, UpperBound},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, Classify(c.goal, 1, trials(c.trials...)))
		})
	}
}

func TestClassifyLossRatio(t *testing.T) {
	at := func(loss float64) []Trial { return []Trial{{Duration: 1, Loss: loss}} }
	goal := Goal{LossRatio: 0.001, ExceedRatio: 0.5, DurationSum: 1}
	assert.Equal(t, LowerBound, Classify(goal, 1, at(0.001)), "as much as the goal allows")
	assert.Equal(t, UpperBound, Classify(goal, 1, at(0.0010001)))
	goal.LossRatio = 0
	assert.Equal(t, LowerBound, Classify(goal, 1, at(0)))
	assert.Equal(t, UpperBound, Classify(goal, 1, at(1e-9)))
}

// The rule is worked out again in the words of the draft: a load is a lower
// bound if it is one whatever the missing time turns out to be, an upper bound
// likewise. All mixtures of up to six good and six bad full trials.
func TestClassifyIsWhatNoMissingTrialCanChange(t *testing.T) {
	for _, e := range []float64{0, 0.2, 0.5, 0.75} {
		for sum := 1; sum <= 7; sum++ {
			for good := range 7 {
				for bad := range 7 {
					goal := Goal{ExceedRatio: e, DurationSum: float64(sum)}
					missing := max(0, sum-good-bad)
					whole := float64(good + bad + missing)
					holds := func(bad int) bool { return float64(bad) <= e*whole+1e-9 }
					want := Undecided
					switch {
					case good+bad == 0:
					case holds(bad + missing):
						want = LowerBound
					case !holds(bad):
						want = UpperBound
					}
					var list []float64
					for range good {
						list = append(list, 1)
					}
					for range bad {
						list = append(list, -1)
					}
					require.Equal(t, want, Classify(goal, 1, trials(list...)), "e %g, sum %d, %d good, %d bad", e, sum, good, bad)
				}
			}
		}
	}
}

func TestConditionalThroughput(t *testing.T) {
	goal := Goal{LossRatio: 0.1, ExceedRatio: 0.5, DurationSum: 4}
	list := func(losses ...float64) []Trial {
		var out []Trial
		for _, l := range losses {
			out = append(out, Trial{Duration: 1, Loss: l})
		}
		return out
	}
	assert.InDelta(t, 1000, ConditionalThroughput(goal, 1, 1000, list(0, 0, 0.5, 1)), 1e-9, "the better half lost nothing")
	assert.InDelta(t, 900, ConditionalThroughput(goal, 1, 1000, list(0.5, 0.1, 0, 1)), 1e-9, "the worst of the better half")
	assert.InDelta(t, 0, ConditionalThroughput(goal, 1, 1000, list(0)), 1e-9, "what is missing counts as lost")
	assert.InDelta(t, 900, ConditionalThroughput(goal, 1, 1000, append(list(0, 0.1), Trial{Duration: 0.5, Loss: 1})), 1e-9, "short trials do not count")
}

// follow runs a search whose trials are answered by try, and checks what must
// hold of every search.
func follow(t *testing.T, c Config, try func(i int, r Request) (loss float64, inconclusive bool)) (Conclusion, []Trial) {
	t.Helper()
	require.NoError(t, c.Validate())
	var list []Trial
	good := 0.0 // the highest load of a trial that held for the loosest goal
	for {
		r, more := Next(c, list)
		if !more {
			break
		}
		require.Less(t, len(list), 500, "the search does not end")
		require.GreaterOrEqual(t, r.Load, c.Min)
		require.LessOrEqual(t, r.Load, c.Max)
		require.Equal(t, len(list) == 0, r.Kind == Warmup, "the first trial and no other warms up")
		if r.Kind == Measure && good > 0 {
			first := c.Min
			if c.First > 0 {
				first = min(max(c.First, c.Min), c.Max)
			}
			require.LessOrEqual(t, r.Load, max(2*good, first)+1e-9, "beyond twice the last good load")
		}
		x := Trial{Kind: r.Kind, Load: r.Load, Duration: c.Trial, Elapsed: float64(len(list))}
		x.Loss, x.Inconclusive = try(len(list), r)
		if r.Kind == Measure && !x.Inconclusive && x.Loss <= c.Goals[len(c.Goals)-1].LossRatio {
			good = max(good, r.Load)
		}
		list = append(list, x)
	}
	got := Conclude(c, list)
	for _, r := range got.Results {
		if r.Lower > 0 && r.Upper > 0 {
			require.Less(t, r.Lower, r.Upper)
		}
		switch r.End {
		case Bounded:
			require.NotZero(t, r.Lower)
			require.NotZero(t, r.Upper)
			require.True(t, r.Upper-r.Lower <= max(r.Goal.Width*r.Upper, c.Step)*(1+1e-9), "%g to %g is too wide", r.Lower, r.Upper)
			require.NotZero(t, r.Throughput)
		case AtMax:
			require.InDelta(t, c.Max, r.Lower, 0)
			require.Zero(t, r.Upper)
		case BelowMin:
			require.Zero(t, r.Lower)
			require.InDelta(t, c.Min, r.Upper, 0)
		}
	}
	return got, list
}

// Every range of up to 12 counts, every limit in and around it, every guess,
// with one trial per load and with three: the bounds are the limit and the
// count above it.
func TestEverySmallSearch(t *testing.T) {
	for low := 1; low <= 6; low++ {
		for high := low; high <= 12; high++ {
			for limit := low - 1; limit <= high; limit++ {
				for guess := 0; guess <= high+1; guess++ {
					for _, sum := range []float64{1, 3} {
						c := Config{
							Goals: []Goal{{ExceedRatio: 0.5, DurationSum: sum, Width: 0.001}},
							Min:   float64(low), Max: float64(high), Step: 1, First: float64(guess), Trial: 1, Retries: 3, Control: true,
						}
						got, list := follow(t, c, func(_ int, r Request) (float64, bool) {
							if r.Kind != Control && r.Load > float64(limit) {
								return 1 - float64(limit)/r.Load, false
							}
							return 0, false
						})
						name := fmt.Sprintf("%d to %d, limit %d, guess %d, sum %g: %v", low, high, limit, guess, sum, list)
						r := got.Results[0]
						switch {
						case limit < low:
							require.Equal(t, BelowMin, r.End, name)
						case limit == high:
							require.Equal(t, AtMax, r.End, name)
							require.Equal(t, ControlNotDone, got.Control, name)
							continue
						default:
							require.Equal(t, Bounded, r.End, name)
							require.InDelta(t, limit, r.Lower, 0, name)
							require.InDelta(t, limit+1, r.Upper, 0, name)
							require.InDelta(t, limit, r.Throughput, 0, name)
						}
						require.Equal(t, ControlHeld, got.Control, name)
						require.InDelta(t, r.Upper, got.ControlLoad, 0, name)
						require.LessOrEqual(t, len(list), 1+int(sum)*2+14, name)
					}
				}
			}
		}
	}
}

// Whatever the trials answer, in any order, the search keeps its rules and
// ends. All 3^7 sequences of good, bad and inconclusive, the last repeated.
func TestEveryAnswer(t *testing.T) {
	c := Config{
		Goals: []Goal{{ExceedRatio: 0.5, DurationSum: 3, Width: 0.05}, {LossRatio: 0.1, ExceedRatio: 0.5, DurationSum: 3, Width: 0.05}},
		Min:   10, Max: 100, Step: 1, First: 40, Trial: 1, Retries: 2, Control: true,
	}
	const length = 7
	ends := map[End]int{}
	for code := range 2187 {
		var answers [length]int
		for i, rest := 0, code; i < length; i, rest = i+1, rest/3 {
			answers[i] = rest % 3
		}
		got, _ := follow(t, c, func(i int, _ Request) (float64, bool) {
			switch answers[min(i, length-1)] {
			case 0:
				return 0, false
			case 1:
				return 0.5, false
			}
			return 0, true
		})
		require.NotEqual(t, Unfinished, got.Results[0].End)
		if got.Results[0].Lower > 0 {
			require.NotEqual(t, Unfinished, got.Results[1].End)
		}
		for _, r := range got.Results {
			ends[r.End]++
		}
	}
	for _, e := range []End{Bounded, AtMax, BelowMin, Generator} {
		assert.NotZero(t, ends[e], e)
	}
	t.Log(ends)
}

// Random systems, ranges, guesses and noise: the rules of follow hold.
func TestRandomSearches(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 9)) //nolint:gosec // a seeded test
	for range 1000 {
		c := Config{
			Goals: []Goal{{ExceedRatio: 0.9 * random.Float64(), DurationSum: 2 + float64(random.IntN(8)), Width: 0.002 + 0.1*random.Float64()}},
			Trial: 2, Retries: 1 + random.IntN(3), Control: random.IntN(2) == 0, Step: []float64{1, 0.1, 0.01}[random.IntN(3)],
		}
		c.Min = c.Step * float64(1+random.IntN(100))
		c.Max = c.Min * (1 + 1000*random.Float64())
		if random.IntN(2) == 0 {
			c.First = c.Max * 1.2 * random.Float64()
		}
		s := &system{limit: c.Max * 1.1 * random.Float64(), wobble: 0.01 * random.Float64(), bursts: 0.2 * random.Float64(), silent: 0.2 * random.Float64(), random: random}
		follow(t, c, func(_ int, r Request) (float64, bool) { return s.try(r.Load) })
	}
}

// The minimum is where a search that does not hold anywhere ends at once.
func TestMinimumFails(t *testing.T) {
	c := Config{
		Goals: []Goal{{ExceedRatio: 0.5, DurationSum: 1, Width: 0.01}, {LossRatio: 0.5, ExceedRatio: 0.5, DurationSum: 1, Width: 0.01}},
		Min:   100, Max: 1000, Step: 1, Trial: 1, Retries: 3,
	}
	got, list := follow(t, c, func(int, Request) (float64, bool) { return 0.2, false })
	assert.Len(t, list, 2, "the warm-up and one trial at the minimum")
	assert.Equal(t, BelowMin, got.Results[0].End)
	assert.Equal(t, Unfinished, got.Results[1].End, "nothing was shown about the looser goal")
}

func TestBudget(t *testing.T) {
	c := searched()
	c.Budget = 6
	got, list := follow(t, c, func(_ int, r Request) (float64, bool) { return max(0, r.Load-777) / r.Load, false })
	assert.Len(t, list, 7, "the one that ends at 6 s is the last")
	assert.Equal(t, Unfinished, got.Results[0].End)
	assert.Zero(t, got.Results[0].Upper, "what has not stood the duration sum is no bound")
}

// Where the generator is the limit, that is what is said, with what holds
// below it.
func TestGeneratorIsTheLimit(t *testing.T) {
	got, _ := follow(t, searched(), func(_ int, r Request) (float64, bool) { return 0, r.Load > 5000 })
	r := got.Results[0]
	assert.Equal(t, Generator, r.End)
	assert.InEpsilon(t, 5000, r.Lower, 0.011)
	assert.Zero(t, r.Upper)
}

// A control arm that fails where the system did, or says nothing.
func TestControlArm(t *testing.T) {
	c := searched()
	c.Control = true
	for _, x := range []struct {
		loss   float64
		silent bool
		want   ControlEnd
	}{{0, false, ControlHeld}, {0.01, false, ControlFailed}, {0, true, ControlOpen}} {
		got, list := follow(t, c, func(_ int, r Request) (float64, bool) {
			if r.Kind == Control {
				return x.loss, x.silent
			}
			return max(0, r.Load-777) / r.Load, false
		})
		assert.Equal(t, x.want, got.Control)
		assert.Equal(t, Bounded, got.Results[0].End)
		assert.Equal(t, Control, list[len(list)-1].Kind)
		assert.InDelta(t, got.Results[0].Upper, list[len(list)-1].Load, 0)
	}
}

// A good guess is where the search starts, and it stays near it.
func TestFirstGuess(t *testing.T) {
	c := Config{Goals: []Goal{{ExceedRatio: 0.5, DurationSum: 1, Width: 0.01}}, Min: 1, Max: 1e6, Step: 1, Trial: 1, Retries: 3, First: 3000}
	_, list := follow(t, c, func(_ int, r Request) (float64, bool) { return max(0, r.Load-3000) / r.Load, false })
	assert.InDelta(t, 3000, list[0].Load, 0)
	assert.LessOrEqual(t, len(list), 6)
	for _, x := range list {
		assert.InEpsilon(t, 3000, x.Load, 0.1)
	}
}

func TestValidate(t *testing.T) {
	require.NoError(t, searched().Validate())
	err := Config{Min: 5, Max: 1, Goals: []Goal{{LossRatio: 1, ExceedRatio: 1}, {LossRatio: 0.5}}}.Validate()
	require.Error(t, err)
	for _, part := range []string{"range", "step", "trials", "retries", "goal 0: loss", "goal 0: exceed", "goal 0: width", "goal 1 is not looser"} {
		assert.ErrorContains(t, err, part)
	}
}

package search

import (
	"math"
	"slices"
)

// Next says which trial to make after these, and false where the search is
// over: all bounds are close enough, or the rest cannot be found out.
func Next(c Config, trials []Trial) (Request, bool) {
	if len(trials) == 0 {
		return Request{Warmup, c.start()}, true
	}
	if c.Budget > 0 && trials[len(trials)-1].Elapsed >= c.Budget {
		return Request{}, false
	}
	for _, g := range c.Goals {
		if load, more := c.nextFor(g, trials); more {
			return Request{Measure, load}, true
		}
		if c.boundsOf(g, trials).failed(c) {
			return c.control(trials) // looser goals are not worth the time: the strictest has no lower bound
		}
	}
	return c.control(trials)
}

// phases are the steps towards a goal: with one trial per load, then with all
// that it asks for.
func (c Config) phases(g Goal) []Goal {
	quick := g
	quick.DurationSum = c.Trial
	if g.DurationSum <= c.Trial+slack {
		return []Goal{g}
	}
	return []Goal{quick, g}
}

// nextFor is the next load to try for a goal.
func (c Config) nextFor(g Goal, trials []Trial) (load float64, more bool) {
	var hint []float64 // the bounds of the phase before
	for _, phase := range c.phases(g) {
		b := c.boundsOf(phase, trials)
		if load, more := c.pick(b, hint); more {
			return load, true
		}
		hint = hint[:0]
		for _, x := range []float64{b.lower, b.upper} {
			if x > 0 {
				hint = append(hint, x)
			}
		}
	}
	return 0, false
}

// bounds are the bounds for one goal. 0 is none.
type bounds struct {
	goal  Goal
	lower float64 // the highest load below upper that holds
	upper float64 // the lowest load that does not hold
	fence float64 // the lowest load about which trials say nothing
	at    map[float64]Class
	loads []float64 // those with a class, ascending
}

func (c Config) boundsOf(g Goal, trials []Trial) bounds {
	b := bounds{goal: g, at: map[float64]Class{}}
	by := byLoad(trials, Measure)
	for load, at := range by {
		b.at[load] = Classify(g, c.Trial, conclusive(at))
		b.loads = append(b.loads, load)
	}
	slices.Sort(b.loads)
	for _, load := range b.loads {
		if b.at[load] == UpperBound {
			b.upper = load
			break
		}
		if b.at[load] == LowerBound {
			b.lower = load
		}
	}
	for _, load := range b.loads {
		if b.at[load] == Undecided && c.speechless(by[load]) {
			b.fence = load
			break
		}
	}
	return b
}

// speechless says whether the last trials at a load, as many as there are
// retries, were all inconclusive.
func (c Config) speechless(at []Trial) bool {
	if len(at) < c.Retries {
		return false
	}
	return !slices.ContainsFunc(at[len(at)-c.Retries:], func(t Trial) bool { return !t.Inconclusive })
}

// top is the load that cannot be passed: the upper bound or the fence. 0 is none.
func (b bounds) top() float64 {
	switch {
	case b.upper == 0:
		return b.fence
	case b.fence == 0:
		return b.upper
	}
	return min(b.upper, b.fence)
}

// low is the highest load that holds below the top.
func (b bounds) low() float64 {
	low := 0.0
	for _, load := range b.loads {
		if t := b.top(); t > 0 && load >= t {
			break
		}
		if b.at[load] == LowerBound {
			low = load
		}
	}
	return low
}

// failed says that not even the minimum holds, or that it cannot be measured.
func (b bounds) failed(c Config) bool { return b.top() > 0 && b.top() <= c.Min }

// close says whether the bounds need not come closer, or cannot.
func (b bounds) close(c Config, low, top float64) bool {
	return top-low <= b.goal.Width*top+slack || top-low <= c.Step*(1+1e-9)
}

// pick is the next load for one phase of one goal.
func (c Config) pick(b bounds, hint []float64) (load float64, more bool) {
	low, top := b.low(), b.top()
	if b.failed(c) || top == 0 && low >= c.Max || low > 0 && top > 0 && b.close(c, low, top) {
		return 0, false
	}
	for _, x := range hint {
		if x > low && (top == 0 || x < top) && b.at[x] == Undecided {
			return x, true
		}
	}
	switch {
	case low == 0 && top == 0:
		return c.start(), true
	case low == 0:
		return c.down(b, top), true
	case top == 0:
		return c.up(b, low), true
	}
	return c.between(low, top), true
}

// start is where the search begins.
func (c Config) start() float64 {
	if c.First == 0 {
		return c.Min
	}
	return c.round(min(max(c.First, c.Min), c.Max))
}

// up is a load above one that holds: the step from the last one that held,
// doubled; at first a few widths from a guess, and the double without one.
func (c Config) up(b bounds, low float64) float64 {
	ratio := 0.0
	for _, load := range b.loads {
		if load < low && b.at[load] == LowerBound {
			ratio = low / load
		}
	}
	next := c.round(low * c.factor(b, ratio))
	if next <= low {
		next = low + c.Step
	}
	return min(next, c.Max)
}

// down is the same below one that does not hold.
func (c Config) down(b bounds, top float64) float64 {
	ratio := 0.0
	for _, load := range slices.Backward(b.loads) {
		if load > top && b.at[load] == UpperBound {
			ratio = load / top
		}
	}
	next := c.round(top / c.factor(b, ratio))
	if next >= top {
		next = top - c.Step
	}
	return max(next, c.Min)
}

// factor is how far to step from a load when the last step was by ratio, 0 for
// no step before. It is never more than 2.
func (c Config) factor(b bounds, ratio float64) float64 {
	first := 1 + 4*b.goal.Width
	if c.First == 0 {
		first = 2
	}
	return min(2, max(ratio*ratio, first))
}

// between is the load in the middle, by ratio.
func (c Config) between(low, top float64) float64 {
	mid := c.round(math.Sqrt(low * top))
	if mid <= low {
		mid = c.round(low + c.Step)
	}
	if mid >= top || mid <= low {
		mid = (low + top) / 2 // not two steps apart, for Min or Max is no multiple
	}
	return mid
}

// round takes a load down to a whole number of steps, but not below Min.
func (c Config) round(load float64) float64 {
	if load == c.Min || load == c.Max {
		return load
	}
	n := math.Floor(load/c.Step + 1e-9)
	return max(c.Min, rounded(n, c.Step))
}

// rounded is n steps. Steps below 1 are decimal fractions, which multiply
// worse than they divide.
func rounded(n, step float64) float64 {
	if step < 1 {
		return n / math.Round(1/step)
	}
	return n * step
}

// control is the next trial of the control arm: at the highest load that was
// found not to hold, until it is decided there for the strictest goal.
func (c Config) control(trials []Trial) (Request, bool) {
	load := c.controlLoad(trials)
	if !c.Control || load == 0 {
		return Request{}, false
	}
	at := byLoad(trials, Control)[load]
	if c.speechless(at) || Classify(c.Goals[0], c.Trial, conclusive(at)) != Undecided {
		return Request{}, false
	}
	return Request{Control, load}, true
}

// controlLoad is the highest upper bound of all goals, 0 for none.
func (c Config) controlLoad(trials []Trial) float64 {
	load := 0.0
	for _, g := range c.Goals {
		load = max(load, c.boundsOf(g, trials).upper)
	}
	return load
}

func byLoad(trials []Trial, kind Kind) map[float64][]Trial {
	out := map[float64][]Trial{}
	for _, t := range trials {
		if t.Kind == kind {
			out[t.Load] = append(out[t.Load], t)
		}
	}
	return out
}

func conclusive(trials []Trial) []Trial {
	return slices.DeleteFunc(slices.Clone(trials), func(t Trial) bool { return t.Inconclusive })
}

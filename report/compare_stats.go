package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"golang.org/x/perf/benchmath"
)

const (
	// alpha is the share of false alarms that the gating metrics together may
	// cause, and likewise all others together.
	alpha = 0.05
	// confidence of the intervals of medians.
	confidence = 0.95
	// never stands for what did not happen where numbers are sorted and
	// averaged: infinity less infinity is nothing.
	never = 1e300
)

// stand is v for the statistics, which know no infinity, and back.
func stand(v float64) float64 {
	if math.IsInf(v, 1) {
		return never
	}
	return v
}

func unstand(v float64) float64 {
	if v > never/1e6 {
		return math.Inf(1)
	}
	return v
}

func sampleOf(v []float64) *benchmath.Sample {
	x := make([]float64, len(v))
	for i := range v {
		x[i] = stand(v[i])
	}
	return benchmath.NewSample(x, &benchmath.Thresholds{CompareAlpha: alpha})
}

// chance is the p of a two-sided Mann-Whitney U test of a and b. Samples that
// are all the same number have no difference at all: 1.
func chance(a, b []float64) float64 {
	return benchmath.AssumeNothing.Compare(sampleOf(a), sampleOf(b)).P
}

// leastP is the smallest p that the test can come to with so many trials: that
// of samples of which one is wholly above the other, 2 / (n+m over n).
func leastP(n, m int) float64 {
	if n == 0 || m == 0 {
		return 1
	}
	ways := 1.0
	for i := 1; i <= n; i++ {
		ways *= float64(m+i) / float64(i)
	}
	return min(1, 2/ways)
}

// trialsFor is how many trials of each arm it takes for one of so many tests
// to be able to show anything.
func trialsFor(tests int) int {
	n := 1
	for leastP(n, n)*float64(max(1, tests)) > alpha {
		n++
	}
	return n
}

// holm adjusts the p values of a family of tests for their number (Holm 1979):
// those that stay at or below alpha are shown, and the chance of one or more false
// ones among them is at most alpha.
func holm(p []float64) []float64 {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(p[a], p[b]) })
	out := make([]float64, len(p))
	most := 0.0
	for k, i := range order {
		most = max(most, min(1, p[i]*float64(len(p)-k)))
		out[i] = most
	}
	return out
}

// summarize fills in an arm's median and its interval.
func (v *ArmValue) summarize(unit string) {
	v.median = math.NaN()
	if len(v.values) == 0 {
		v.Text = "–"
		return
	}
	s := benchmath.AssumeNothing.Summary(sampleOf(v.values), confidence)
	v.median = unstand(s.Center)
	v.Median = finite(v.median)
	v.Text = amount(v.median, unit)
	if len(v.values) == 1 {
		return
	}
	lo, hi := unstand(s.Lo), unstand(s.Hi)
	if math.IsInf(s.Lo, 0) || math.IsInf(s.Hi, 0) {
		v.Text += " ±∞" // too few for an interval
		return
	}
	v.Low, v.High, v.Confidence = finite(lo), finite(hi), finite(s.Confidence)
	switch {
	case lo == hi:
	case math.IsInf(lo, 0) || math.IsInf(hi, 0):
		v.Text += fmt.Sprintf(" [%s, %s]", amount(lo, ""), amount(hi, ""))
	default:
		v.Text += fmt.Sprintf(" [%s, %s]", digits(lo), digits(hi))
	}
}

// amount is a value with its unit; never where it did not happen.
func amount(v float64, unit string) string {
	switch {
	case math.IsInf(v, 0):
		return "never"
	case math.IsNaN(v):
		return "–"
	case unit == "" || unit == "attempts" || unit == "entries":
		return digits(v)
	}
	return digits(v) + " " + unit
}

// digits is a number with as many digits as say something.
func digits(v float64) string {
	switch a := math.Abs(v); {
	case v == math.Trunc(v), a >= 1000:
		return number(math.Round(v))
	case a >= 100:
		return fmt.Sprintf("%.1f", v)
	case a >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// test compares each arm with the baseline: the gating metrics are one family
// of tests, all others another.
func (c *Comparison) test() {
	for _, gate := range []bool{true, false} {
		var p []float64
		var of []*Against
		for i := range c.Metrics {
			row := &c.Metrics[i]
			if row.Gate != gate {
				continue
			}
			for k := range row.Arms {
				x := row.against(k)
				if x == nil {
					continue
				}
				row.Arms[k].Against = x
				base, arm := row.Arms[0].values, row.Arms[k].values
				if len(base) < 2 || len(arm) < 2 {
					continue // a plain table: it says what there is, and tests nothing
				}
				c.Test = "Mann-Whitney U, two-sided, p adjusted after Holm; medians with order-statistic intervals"
				p, of = append(p, chance(base, arm)), append(of, x)
			}
		}
		for i, q := range holm(p) {
			of[i].P, of[i].Adjusted = &p[i], &q
		}
	}
	for i := range c.Metrics {
		row := &c.Metrics[i]
		tests := c.tests(row.Gate)
		for k := range row.Arms {
			if x := row.Arms[k].Against; x != nil {
				row.decide(x, &row.Arms[0], &row.Arms[k], tests)
			}
		}
	}
}

// tests is how many tests the family has.
func (c *Comparison) tests(gate bool) (n int) {
	for _, row := range c.Metrics {
		for _, v := range row.Arms {
			if row.Gate == gate && v.Against != nil && v.Against.P != nil {
				n++
			}
		}
	}
	return n
}

// against is arm k beside the baseline, as yet undecided; nil for the baseline.
func (r *MetricRow) against(k int) *Against {
	if k == 0 {
		return nil
	}
	x := &Against{Result: Untested, Mark: "", Warnings: []string{}}
	base, arm := r.Arms[0].median, r.Arms[k].median
	if d := arm - base; !math.IsNaN(d) && !math.IsInf(d, 0) {
		x.Change = &d
		if base != 0 {
			x.Relative = finite(d / math.Abs(base))
		}
	}
	return x
}

// worse is by how much arm is worse than base, negative where it is better; of
// two that never came to it neither is.
func (m metric) worse(base, arm float64) float64 {
	d := arm - base
	if math.IsInf(base, 1) && math.IsInf(arm, 1) {
		d = 0
	}
	if !m.less {
		d = -d
	}
	return d
}

// margin is how much worse than base does not matter.
func (m metric) margin(base float64) float64 {
	if math.IsInf(base, 0) {
		return m.abs
	}
	return max(m.abs, m.rel*math.Abs(base))
}

// decide says what the test showed.
func (r *MetricRow) decide(x *Against, base, arm *ArmValue, tests int) {
	change := x.text(base.median, arm.median, r.Unit)
	worse := r.metric.worse(base.median, arm.median)
	beyond := math.Abs(worse) > r.metric.margin(base.median)
	if x.P == nil {
		return // the values stand beside each other; what lies between them can be chance
	}
	x.Result, x.Mark = NotShown, "~"
	if leastP(len(base.values), len(arm.values))*float64(tests) > alpha {
		x.Warnings = append(x.Warnings, fmt.Sprintf("%d and %d trials cannot show a difference at alpha %g with %s: it takes %d of each", len(base.values), len(arm.values), alpha, plural(uint64(tests), "test"), trialsFor(tests))) //nolint:gosec // a length
		x.Result = Untested
		return
	}
	switch {
	case *x.Adjusted > alpha:
		if beyond {
			x.Warnings = append(x.Warnings, fmt.Sprintf("the medians are further apart (%s) than the margin (%s), but with this many trials that can be chance", change, r.Margin))
		}
	case worse == 0 || !beyond || r.metric.neutral:
		x.Result, x.Mark = Small, change
	case worse > 0:
		x.Result, x.Mark = Worse, change
	default:
		x.Result, x.Mark = Better, change
	}
}

// text is the change for people: in percent where that says something.
func (x *Against) text(base, arm float64, unit string) string {
	switch {
	case math.IsNaN(base) || math.IsNaN(arm):
		return "–"
	case math.IsInf(base, 0) && math.IsInf(arm, 0):
		return "none"
	case math.IsInf(arm, 0):
		return "never"
	case math.IsInf(base, 0):
		return "not never"
	case arm == base:
		return "none"
	case base != 0 && unit != "%":
		pct := 100 * (arm - base) / math.Abs(base)
		if math.Abs(pct) < 1000 {
			return fmt.Sprintf("%+.1f %%", pct)
		}
		return fmt.Sprintf("x %s", digits(arm/base))
	}
	if unit == "%" {
		unit = "points"
	}
	s := amount(arm-base, unit)
	if arm > base {
		s = "+" + s
	}
	return s
}

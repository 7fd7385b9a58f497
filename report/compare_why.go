package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// lossMetrics are those that say how much failed: why attempts failed is why they
// are worse.
var lossMetrics = []string{"errors", "failures", "failures_per_action", "spike", "stale", "drop_at"}

// why says, for each arm that fails the gate by what it loses, because of what
// its attempts failed, beside the baseline's, and what the run said that stands
// for it.
func (c *Comparison) why() []string {
	var out []string
	for i := 1; i < len(c.Arms); i++ {
		if !slices.ContainsFunc(c.Metrics, func(r MetricRow) bool {
			return r.Gate && slices.Contains(lossMetrics, r.Group) && r.Arms[i].Against.Result == Worse
		}) {
			continue
		}
		a := &c.Arms[i]
		out = append(out, fmt.Sprintf("why: %s; %s", a.causes(), c.Arms[0].causes()))
		if f := a.typical(); f != nil {
			out = append(out, fmt.Sprintf("%s, trial %d, which stands for the others: %s", a.Name, a.Runs[a.Typical].Trial, f.Headline))
		}
	}
	return out
}

// causes is like: candidate's failed attempts, 4028 in 8 trials: stale_backend 99 %, unknown 1 %.
func (a *ArmFindings) causes() string {
	sums, all := map[string]uint64{}, uint64(0)
	for _, t := range a.trials {
		for _, x := range t.Findings.Causes {
			if !strings.HasPrefix(x.Cause, generatorPrefix) { // which were not even started
				sums[x.Cause] += x.Failures
				all += x.Failures
			}
		}
	}
	s := fmt.Sprintf("%s failed attempts, %d in %s", whose(a.Name), all, plural(uint64(len(a.trials)), "trial"))
	names := make([]string, 0, len(sums))
	for name, n := range sums {
		if n > 0 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(x, y string) int { return cmp.Or(cmp.Compare(sums[y], sums[x]), strings.Compare(x, y)) })
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %s", name, percent(float64(sums[name])/float64(all)))
	}
	if len(names) > 0 {
		s += ": " + strings.Join(names, ", ")
	}
	return s
}

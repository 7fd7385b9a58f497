package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// measure makes the rows: those metrics of which at least one run of one arm has
// a value, the gating ones first.
func (c *Comparison) measure(e *Experiment) {
	for _, m := range c.candidates(e) {
		row := MetricRow{Metric: m.name, Group: m.group, Unit: m.unit, About: m.about, Better: "more", Gate: m.gate, Margin: marginText(m), metric: m}
		switch {
		case m.neutral:
			row.Better = "neither"
		case m.less:
			row.Better = "less"
		}
		known := false
		for _, a := range c.Arms {
			v := ArmValue{Arm: a.Name, Values: []*float64{}}
			for _, t := range a.trials {
				x := m.of(t.Findings)
				if len(t.Findings.unsound) > 0 {
					x = math.NaN() // it says nothing about the system
				}
				if math.IsNaN(x) {
					v.Missing++
					continue
				}
				v.values, v.Values = append(v.values, x), append(v.Values, finite(x))
			}
			v.summarize(m.unit)
			known = known || len(v.values) > 0
			row.Arms = append(row.Arms, v)
		}
		if known {
			c.Metrics = append(c.Metrics, row)
		}
	}
	c.survivors()
	slices.SortStableFunc(c.Metrics, func(a, b MetricRow) int { return boolOrder(!a.Gate, !b.Gate) })
}

// survivors marks latencies where arms lost different shares of their attempts: they
// are of those that succeeded, and what a full table drops at once waits for nothing.
func (c *Comparison) survivors() {
	at := slices.IndexFunc(c.Metrics, func(r MetricRow) bool { return r.Metric == "errors" })
	if at < 0 {
		return
	}
	errors := c.Metrics[at].Arms
	least, most := math.Inf(1), 0.0
	for _, v := range errors {
		if !math.IsNaN(v.median) {
			least, most = min(least, v.median), max(most, v.median)
		}
	}
	if most-least <= 5 { // points
		return
	}
	for i := range c.Metrics {
		r := &c.Metrics[i]
		if r.Group != "p99" {
			continue
		}
		r.About += "; less says nothing where fewer succeeded"
		for k := range r.Arms {
			if v := &r.Arms[k]; len(v.values) > 0 && errors[k].median > 0 {
				v.Text += fmt.Sprintf(", of the %s that succeeded", percent(1-errors[k].median/100))
			}
		}
	}
}

// candidates are all metrics, with the experiment's own gates and margins.
func (c *Comparison) candidates(e *Experiment) []metric {
	var traffics []string
	for _, a := range c.Arms {
		for _, t := range a.trials {
			for _, x := range t.Findings.Traffic {
				if !slices.Contains(traffics, x.Name) && !x.OneWay {
					traffics = append(traffics, x.Name)
				}
			}
		}
	}
	list := runMetrics()
	for _, name := range traffics {
		list = slices.Insert(list, 1, latencyMetric(name, len(traffics) == 1))
	}
	for i := range list {
		m := &list[i]
		m.group = cmp.Or(m.group, m.name)
		m.gate = slices.Contains(e.Gate, m.group) && !m.neutral
		if text, ok := e.Margins[m.group]; ok {
			if _, abs, rel, err := ParseMargin(m.group + "=" + text); err == nil {
				m.abs, m.rel = abs, rel
			}
		}
	}
	return list
}

// DefaultGate names the metrics that decide where nobody says which.
func DefaultGate() []string {
	out := []string{"p99"}
	for _, m := range runMetrics() {
		if m.gate {
			out = append(out, m.name)
		}
	}
	return out
}

func marginText(m metric) string {
	var parts []string
	if m.abs > 0 {
		parts = append(parts, amount(m.abs, cmp.Or(strings.Replace(m.unit, "%", "points", 1), m.unit)))
	}
	if m.rel > 0 {
		parts = append(parts, digits(100*m.rel)+" %")
	}
	return cmp.Or(strings.Join(parts, " or "), "none")
}

// choose finds the run that stands for the arm in plots.
func (a *ArmFindings) choose() {
	type candidate struct {
		at int
		n  float64
	}
	var list []candidate
	for i, r := range a.Runs {
		for _, t := range a.trials {
			if t.Dir == r.Dir && len(r.Unsound) == 0 {
				list = append(list, candidate{i, failedAttempts(t.Findings)})
			}
		}
	}
	if len(list) == 0 {
		return
	}
	slices.SortStableFunc(list, func(x, y candidate) int { return cmp.Compare(x.n, y.n) })
	a.Typical = list[(len(list)-1)/2].at
}

// typical is the findings of that run, nil without one.
func (a *ArmFindings) typical() *Findings {
	if a.Typical < 0 {
		return nil
	}
	for _, t := range a.trials {
		if t.Dir == a.Runs[a.Typical].Dir {
			return t.Findings
		}
	}
	return nil
}

// judge sets the verdict.
func (c *Comparison) judge(e *Experiment) {
	var open, fails, notes []string
	if e.Problem != "" {
		open = append(open, e.Problem)
	}
	open = append(open, c.incomplete()...)
	for i := range c.Arms {
		c.Arms[i].judge()
		a := &c.Arms[i]
		for _, r := range a.Reasons {
			text := a.Name + ": " + r
			switch {
			case len(e.Gate) > 0:
				notes = append(notes, text) // a gate compares; what each arm does by itself is not its business
			case a.Verdict == Fail:
				fails = append(fails, text)
			case a.Verdict == Inconclusive:
				open = append(open, text)
			default:
				notes = append(notes, text)
			}
		}
	}
	shown := c.shown()
	if len(e.Gate) > 0 {
		gateOpen, gateFails := c.gate(e)
		open, fails = append(open, gateOpen...), append(fails, gateFails...)
		if len(gateFails) > 0 {
			fails = append(fails, c.why()...)
		}
	}
	c.Verdict = judged(open, fails, false)
	c.Reasons = append(c.Reasons, slices.Concat(open, fails, shown, notes)...)
	c.headline(e, shown)
}

// incomplete says which of the planned trials say nothing.
func (c *Comparison) incomplete() []string {
	var out []string
	if len(c.Arms) < 2 {
		return []string{"no data: there are no two arms to compare"}
	}
	for _, a := range c.Arms {
		sound := 0
		for _, r := range a.Runs {
			switch {
			case r.Discarded != "":
			case len(r.Unsound) > 0:
				out = append(out, fmt.Sprintf("%s, trial %d says nothing: %s", a.Name, r.Trial, r.Unsound[0]))
			case r.aborted:
				out = append(out, fmt.Sprintf("%s, trial %d was ended early by abort_on and is no whole run", a.Name, r.Trial))
			case len(r.disturbed) > 0:
				out = append(out, fmt.Sprintf("%s, trial %d says little: %s", a.Name, r.Trial, r.disturbed[0]))
			default:
				sound++
			}
		}
		switch {
		case len(a.Runs) == 0:
			out = append(out, fmt.Sprintf("no data: %s was not run", a.Name))
		case len(a.discarded()) == len(a.Runs):
			out = append(out, fmt.Sprintf("no data: %s of %s, of which none counts: %s", plural(uint64(len(a.Runs)), "run was made", "runs were made"), a.Name, a.whyDiscarded()))
		case sound < c.Trials && len(out) == 0:
			out = append(out, fmt.Sprintf("only %d of the %d planned trials of %s count", sound, c.Trials, a.Name))
		}
	}
	return out
}

// sound is how many runs count and say something.
func (a *ArmFindings) sound() (n int) {
	for _, r := range a.Runs {
		if r.Discarded == "" && len(r.Unsound) == 0 {
			n++
		}
	}
	return n
}

// discarded are the runs that do not count.
func (a *ArmFindings) discarded() []TrialFindings {
	return slices.DeleteFunc(slices.Clone(a.Runs), func(r TrialFindings) bool { return r.Discarded == "" })
}

// whyDiscarded is like: bypass/1: the generator could not keep up; bypass/1-again-1: ...
func (a *ArmFindings) whyDiscarded() string {
	var out []string
	for _, r := range a.discarded() {
		out = append(out, r.Dir+": "+r.Discarded)
	}
	return strings.Join(out, "; ")
}

// judge is the arm's verdict over all its trials: what it is asked for must
// hold in each of them.
func (a *ArmFindings) judge() {
	worst := Verdict("")
	for _, t := range a.trials {
		f := t.Findings
		if len(f.Thresholds)+len(f.Expected) == 0 {
			continue
		}
		v := f.Verdict
		if len(f.unsound) > 0 {
			v = Inconclusive
		}
		switch {
		case worst == "", v == Fail, v == Inconclusive && worst == Pass:
			worst = v
		}
		if v == Pass || len(f.unsound) > 0 { // which is said of the trial already
			continue
		}
		reason := first(f.Reasons)
		if len(a.trials) > 1 {
			reason = fmt.Sprintf("trial %d: %s", t.Trial, reason)
		}
		a.Reasons = append(a.Reasons, reason)
	}
	a.Verdict = worst
	if worst == Pass {
		what := "its thresholds hold"
		if a.reproduced() {
			what = "as expected"
		}
		f, asked := a.trials[0].Findings, []string{}
		for _, r := range slices.Concat(f.Thresholds, f.Expected) {
			asked = append(asked, r.Threshold)
		}
		if n := len(a.trials); n > 1 {
			what += fmt.Sprintf(" in all %d trials", n)
		}
		what += ": " + strings.Join(asked, ", ")
		a.Reasons = append(a.Reasons, what)
	}
}

// gate says what the gating metrics decide.
func (c *Comparison) gate(e *Experiment) (open, fails []string) {
	rows := slices.DeleteFunc(slices.Clone(c.Metrics), func(r MetricRow) bool { return !r.Gate })
	if len(rows) == 0 {
		return []string{"no data: no run has a value of a metric that decides"}, nil
	}
	open = c.withoutValue(e, rows)
	for _, a := range c.Arms[1:] {
		if len(a.trials) == 0 || len(c.Arms[0].trials) == 0 {
			continue
		}
		x, y := c.Arms[0].trials[0].Findings.Environment, a.trials[0].Findings.Environment
		if x.Kernel != y.Kernel || x.CPUs != y.CPUs || x.Arch != y.Arch {
			open = append(open, fmt.Sprintf("%s ran under kernel %s with %d CPUs, %s under kernel %s with %d: what differs may be theirs", c.Baseline, x.Kernel, x.CPUs, a.Name, y.Kernel, y.CPUs))
		}
	}
	if c.tests(true) == 0 {
		return []string{fmt.Sprintf("there is but one trial of each arm, which no test can be made of: it takes at least %d of each", trialsFor(len(rows)*(len(c.Arms)-1)))}, nil
	}
	for _, r := range rows {
		for _, v := range r.Arms[1:] {
			switch {
			case len(v.values) == 0 || len(r.Arms[0].values) == 0:
				open = append(open, fmt.Sprintf("no data: %s has no %s", cmp.Or(map[bool]string{true: v.Arm}[len(v.values) == 0], r.Arms[0].Arm), r.Metric))
			case v.Against.Result == Untested:
				open = append(open, fmt.Sprintf("too few trials for %s: %s", r.Metric, cmp.Or(first(v.Against.Warnings), "one of each says nothing about another")))
			case v.Against.Result == Worse:
				fails = append(fails, r.sentence(v))
			case v.Missing > 0 || r.Arms[0].Missing > 0:
				// Which trials those are is no chance: the rest is a selection.
				open = append(open, fmt.Sprintf("%s has no value in %s of %s and %d of %s", r.Metric, plural(uint64(r.Arms[0].Missing), "trial"), c.Baseline, v.Missing, v.Arm)) //nolint:gosec // a length
			}
		}
	}
	return slices.Compact(open), fails
}

// withoutValue are the metrics that are to decide and have no row, because no
// run has a value of them. Of the default ones many do not apply to a scenario:
// that is a warning, and open only where somebody asked for the metric.
func (c *Comparison) withoutValue(e *Experiment, rows []MetricRow) (open []string) {
	for _, g := range e.Gate {
		if slices.ContainsFunc(rows, func(r MetricRow) bool { return r.Group == g }) {
			continue
		}
		text := "no data: no run has a value of " + g + " that could decide"
		if slices.Equal(e.Gate, DefaultGate()) {
			c.Warnings = append(c.Warnings, text)
		} else {
			open = append(open, text)
		}
	}
	return open
}

// sentence is like: candidate: p99 is worse: 12 ms [11, 13] against 8 ms [7, 9], +50.0 %, p 0.002.
func (r *MetricRow) sentence(v ArmValue) string {
	s := fmt.Sprintf("%s: %s is %s: %s against %s", v.Arm, r.Metric, v.Against.Result, v.Text, r.Arms[0].Text)
	if v.Against.Mark != "" && v.Against.Mark != "never" && v.Against.Mark != "not never" {
		s += ", " + v.Against.Mark
	}
	if v.Against.Adjusted != nil {
		s += fmt.Sprintf(", p %.2g", *v.Against.Adjusted)
	}
	return s
}

// shown are the differences that tests have shown, beyond their margins, for
// the better, and those for the worse of metrics that do not decide.
func (c *Comparison) shown() []string {
	var out []string
	for _, r := range c.Metrics {
		for _, v := range r.Arms[1:] {
			if v.Against.Result == Better || v.Against.Result == Worse && !r.Gate {
				out = append(out, r.sentence(v))
			}
		}
	}
	return out
}

func (c *Comparison) headline(e *Experiment, shown []string) {
	n := 0
	for _, r := range c.Metrics {
		if r.Gate {
			n++
		}
	}
	switch {
	case c.Verdict == Inconclusive:
		c.Headline = "Inconclusive: " + strings.TrimSuffix(first(c.Reasons), ".") + "."
	case c.Verdict == Fail:
		c.Headline = strings.TrimSuffix(first(c.Reasons), ".") + "."
	case len(e.Gate) > 0:
		decide := fmt.Sprintf("in any of %d metrics that decide", n)
		if n == 1 {
			decide = "in the metric that decides" + c.medians()
		}
		c.Headline = fmt.Sprintf("Nothing is shown to be worse than %s %s.", c.Baseline, decide)
	case c.Test == "":
		c.Headline = c.beside()
	case len(shown) == 0:
		c.Headline = fmt.Sprintf("No arm is shown to differ from %s.", c.Baseline)
	default:
		c.Headline = fmt.Sprintf("%s is shown: %s.", plural(uint64(len(shown)), "difference", "differences"), shown[0])
	}
}

// medians are those of two arms in the one metric that decides, as the end of a
// sentence; empty where they are not all there.
func (c *Comparison) medians() string {
	for _, r := range c.Metrics {
		if !r.Gate || len(r.Arms) != 2 || r.Arms[0].Median == nil || r.Arms[1].Median == nil {
			continue
		}
		base, other := 0, 1
		if c.Arms[1].Name == c.Baseline {
			base, other = 1, 0
		}
		value := func(i int) string { v, _, _ := strings.Cut(r.Arms[i].Text, " ±"); return v }
		return fmt.Sprintf(": %s is %s with %s, %s with %s", r.Metric, value(other), c.Arms[other].Name, value(base), c.Arms[base].Name)
	}
	return ""
}

// beside is what arms of one trial each showed: which dropped because their
// table was full, and when, and which did not; where none did, or nobody can
// tell, which lost attempts.
func (c *Comparison) beside() string {
	s := fmt.Sprintf("One trial of each of %s", plural(uint64(len(c.Arms)), "arm")) //nolint:gosec // a length
	for _, x := range []struct{ metric, bad, one, value, good string }{
		{"drop_at", "%s drop new connections", "%s drops new connections", " (from %s)", "%s not" + c.within()},
		{"failures", "attempts fail in %s", "attempts fail in %s", " (%s)", "none in %s"},
	} {
		var bad, values, good []string
		for _, r := range c.Metrics {
			for _, v := range r.Arms {
				switch {
				case r.Metric != x.metric || len(v.values) != 1:
				case v.values[0] == 0 || math.IsInf(v.values[0], 1):
					good = append(good, v.Arm)
				default:
					bad, values = append(bad, v.Arm), append(values, v.Text)
				}
			}
		}
		if len(bad)+len(good) != len(c.Arms) || len(bad) == 0 {
			continue
		}
		for i := range bad {
			bad[i] += fmt.Sprintf(x.value, values[i])
		}
		format := x.bad
		if len(bad) == 1 {
			format = x.one
		}
		s += ": " + fmt.Sprintf(format, listed(bad))
		if len(good) > 0 {
			s += ", " + fmt.Sprintf(x.good, listed(good))
		}
		return s + "."
	}
	return s + ", which shows what happened, and not whether it would again."
}

// within is like: " within 5.5 s"; empty where runs had other lengths.
func (c *Comparison) within() string {
	if v := c.length(); v > 0 {
		return " within " + amount(v, "s")
	}
	return " within their runs"
}

// length is for how long attempts were due, s; 0 where not all runs had the same.
func (c *Comparison) length() float64 {
	v := 0.0
	for _, a := range c.Arms {
		for _, t := range a.trials {
			d := t.Findings.Environment.DurationS
			if v != 0 && d != v {
				return 0
			}
			v = d
		}
	}
	return v
}

// listed is like: a, b and c.
func listed(names []string) string {
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}

// differ warns of what was not the same in all runs and is nobody's arm.
func (c *Comparison) differ() {
	warn := func(format string, args ...any) { c.Warnings = append(c.Warnings, fmt.Sprintf(format, args...)) }
	if len(c.Arms) == 0 {
		return
	}
	own := "" // what the arms themselves change
	for _, a := range c.Arms {
		own += strings.Join(a.Set, "\n") + "\n"
	}
	varied := func(in string, trials []Trial, skip ...string) {
		if len(trials) < 2 {
			return
		}
		named := map[string]bool{}
		for _, t := range trials[1:] {
			for _, p := range madeOf(trials[0].Findings, t.Findings) {
				if slices.Contains(skip, p.Name) || named[p.Name] || strings.Contains(own, p.Name) {
					continue
				}
				named[p.Name] = true
				warn("%s: %s is not the same in all runs: %s, %s", in, p.Name, cmp.Or(p.A, "none"), cmp.Or(p.B, "none"))
			}
		}
	}
	var firsts []Trial
	for _, a := range c.Arms {
		// Each planned trial has a seed of its own, and so another resolved scenario.
		skip := []string{"seed"}
		if c.Trials > 0 {
			skip = append(skip, "scenario as resolved")
		}
		varied(a.Name, a.trials, skip...)
		if len(a.trials) > 0 {
			firsts = append(firsts, a.trials[0])
		}
		if bad := a.discarded(); len(bad) > 0 && len(bad) < len(a.Runs) { // else a reason says it
			warn("%s: %s not count, because of conditions and not of results, the first because %s", a.Name, plural(uint64(len(bad)), "run does", "runs do"), bad[0].Discarded)
		}
		for _, t := range a.trials {
			for i := range t.Findings.Nodes {
				if n := &t.Findings.Nodes[i]; n.Reclaimed.beforeTime(t.Findings) {
					warn("%s, trial %d: %s", a.Name, t.Trial, n.Reclaimed.doubt(n, t.Findings))
				}
			}
		}
	}
	varied("between arms", firsts, "seed", "scenario as resolved")
	for _, r := range c.Metrics {
		for _, v := range r.Arms {
			if v.Missing > 0 && len(v.values) > 0 {
				warn("%s: %s has no value in %d of %d trials", r.Metric, v.Arm, v.Missing, v.Missing+len(v.values))
			}
			if v.Against != nil && r.Gate {
				for _, w := range v.Against.Warnings {
					warn("%s, %s: %s", r.Metric, v.Arm, w)
				}
			}
		}
	}
}

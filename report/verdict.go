package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
)

// lateLimit is the share of late attempts above which nothing is concluded
// about the system.
const lateLimit = 0.05

// unexplained is the share of attempts that may fail for an unknown cause in a
// run without thresholds that passes.
const unexplained = 0.01

// lateAfter is how long after its due time, in s, a start counted as late.
func (l *log) lateAfter() float64 {
	if l.header != nil && l.header.LateAfter > 0 && l.header.LateAfter < 10 {
		return l.header.LateAfter
	}
	return 0.01
}

// audit says whether the generator did what it was asked.
func (l *log) audit() (Generator, []string) {
	g := Generator{lateAfter: l.lateAfter()}
	var reasons []string
	for _, t := range l.order {
		g.Due += t.total.Due
		g.Started += t.total.Started
		g.Late += t.total.Late
		g.Interrupted += t.total.Outcomes[runlog.Interrupted]
		g.InFlight += t.inFlight()
		for _, r := range []runlog.NotStartedReason{runlog.NoPorts, runlog.NoFiles, runlog.NoMemory, runlog.Behind, runlog.Stopped} {
			g.NotStarted += t.total.NotStarted[r]
		}
		if n := t.total.Started; n > 0 && float64(t.total.Late) > lateLimit*float64(n) {
			reasons = append(reasons, fmt.Sprintf("the generator could not keep up: %s of %s attempts were started more than %.0f ms late, and a run with over %.0f %% late starts is not used to judge the system", percent(float64(t.total.Late)/float64(n)), whose(t.info.Name), l.lateAfter()*1000, 100*lateLimit))
		}
		if d := l.tearDown(t); d != nil && *d.LateShare > lateLimit {
			reasons = append(reasons, fmt.Sprintf("the generator could not keep up: %s of the connections that %s was to close were closed more than %.0f ms late, and a run with over %.0f %% late ones is not used to judge the system", percent(*d.LateShare), t.info.Name, l.lateAfter()*1000, 100*lateLimit))
		}
		if text := l.refusedText(t); text != "" {
			reasons = append(reasons, fmt.Sprintf("the generator could not start all of %s attempts: %s", whose(t.info.Name), text))
		}
	}
	if g.Started > 0 {
		v := float64(g.Late) / float64(g.Started)
		g.LateShare = &v
	}
	g.MinIdle = l.minIdle()
	g.Saturated = len(reasons) > 0
	return g, reasons
}

// refusedText lists why attempts were not started, empty for none.
func (l *log) refusedText(t *traffic) string {
	texts := map[runlog.NotStartedReason]string{
		runlog.NoPorts:  "had no free source port",
		runlog.NoFiles:  "had no free file descriptor",
		runlog.NoMemory: "found no memory",
		runlog.Behind:   "came up when it was too far behind",
		runlog.Stopped:  "were still due when it was stopped",
	}
	var parts []string
	for _, r := range []runlog.NotStartedReason{runlog.NoPorts, runlog.NoFiles, runlog.NoMemory, runlog.Behind, runlog.Stopped} {
		if r == runlog.Stopped && l.aborted() {
			continue // nobody wanted them any more
		}
		if n := t.total.NotStarted[r]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d of %d %s", n, t.total.Due, texts[r]))
		}
	}
	return strings.Join(parts, ", ")
}

// inFlight is how many attempts were started and have no end in the log. One-way
// traffic has no ends to speak of.
func (t *traffic) inFlight() uint64 {
	var ended uint64
	for _, n := range t.total.Outcomes {
		ended += n
	}
	if t.oneWay() || ended >= t.total.Started {
		return 0
	}
	return t.total.Started - ended
}

// minIdle is the lowest share of idle CPU time over idleOver s while traffic
// flowed, nil where it was not measured.
func (l *log) minIdle() *float64 {
	best := math.NaN()
	for _, n := range l.nodeList {
		if !math.IsNaN(n.minIdle) {
			best = least(best, n.minIdle)
		}
	}
	return finite(best)
}

// leastIdle is the node whose share that was.
func (l *log) leastIdle() (name string) {
	low := math.Inf(1)
	for _, n := range l.nodeList {
		if n.minIdle < low {
			name, low = n.name, n.minIdle
		}
	}
	return name
}

// judge sets the verdict and its reasons, heaviest first.
func (l *log) judge(f *Findings, a *attribution, generator []string) {
	var inconclusive, fails, notes []string
	inconclusive = append(inconclusive, generator...)
	inconclusive = append(inconclusive, l.unfinished()...)
	if !slices.ContainsFunc(f.Traffic, func(t Traffic) bool { return t.Attempted > 0 }) {
		inconclusive = append(inconclusive, "no data: no attempt was started")
	}
	inconclusive = append(inconclusive, l.blanks(f)...)
	f.unsound, f.aborted = slices.Clone(inconclusive), l.aborted()
	if l.aborted() {
		fails = append(fails, fmt.Sprintf("the run was ended at %s, as abort_on asks: %s", seconds(l.endedAt()), cmpOr(l.trailer.Error, "the log does not say why")))
	}
	for _, r := range f.Thresholds {
		switch r.Result {
		case Fail:
			fails = append(fails, "threshold failed: "+thresholdLine(r))
		case Inconclusive:
			// Weighed after failed ones: those are definite.
			notes = append(notes, "threshold without an answer: "+thresholdLine(r))
		}
	}
	// What only ends a run early says nothing about what it was to show.
	judging := len(f.Thresholds) - l.aborting()
	if len(f.Expected) == 0 || judging > 0 {
		notes = append(notes, neverDone(f)...)
	}
	unanswered := len(notes) > 0
	table, without, other := l.weigh(f, a)
	expected, shown := expectations(f)
	switch {
	case len(f.Expected) > 0 && judging <= 0 && !shown:
		inconclusive = append(inconclusive, expected...)
	default:
		notes = append(notes, expected...)
	}
	if len(fails) == 0 {
		inconclusive = append(inconclusive, unproven(f)...)
	}
	if len(f.Thresholds) == 0 && len(f.Expected) == 0 {
		fails = append(fails, disturbed(f)...)
	}
	if len(f.Thresholds) == 0 && len(f.Expected) == 0 {
		fails = append(fails, table...)
		if len(table) == 0 {
			inconclusive = append(inconclusive, without...)
		} else {
			notes = append(notes, without...)
		}
	} else {
		notes = append(notes, table...)
		notes = append(notes, without...)
	}
	notes = append(notes, other...)

	f.Verdict = judged(inconclusive, fails, unanswered)
	f.Reasons = slices.Concat(inconclusive, fails, notes)
	if f.Verdict == Pass {
		f.Reasons = append([]string{l.passText(f)}, f.Reasons...)
	}
}

// neverDone are actions that were never carried out to their end: whatever did not
// fail, it was not their doing. What a scenario only expects of a run can have been
// shown all the same, which is for the caller to see to.
func neverDone(f *Findings) []string {
	if f.OtherSpikes > 0 { // of so many, some were; only the worst are here
		return nil
	}
	var out []string
	for i, s := range f.Spikes {
		done := slices.ContainsFunc(f.Spikes, func(o Spike) bool { return o.Action == s.Action && o.Error == "" })
		first := slices.IndexFunc(f.Spikes, func(o Spike) bool { return o.Action == s.Action }) == i
		if !done && first {
			out = append(out, fmt.Sprintf("%s (%s) was never carried out%s: %s", s.Action, s.Kind, partly(s.did), s.Error))
		}
	}
	return out
}

// partly is what an action did that was not carried out to its end; empty for nothing.
func partly(did string) string {
	if did == "" {
		return ""
	}
	return " to its end, although it " + did
}

// judged weighs what leaves it open, what has definitely failed, and whether
// a threshold has no answer.
func judged(open, fails []string, unanswered bool) Verdict {
	switch {
	case len(open) > 0:
		return Inconclusive
	case len(fails) > 0:
		return Fail
	case unanswered:
		return Inconclusive
	}
	return Pass
}

// passOf is what a pass means where something was expected: what the scenario set out
// to show was shown, which can be a fault. It stands beside the verdict, or a pass over
// a hundred lost attempts reads as if the system were well.
func (f *Findings) passOf() string {
	if f.Reproduced != nil && *f.Reproduced {
		return "reproduced"
	}
	return ""
}

// Badge is the verdict as it stands above a report.
func (f *Findings) Badge() string { return badge(f.Verdict, f.passOf()) }

func badge(v Verdict, of string) string {
	if v == Pass && of != "" {
		return string(v) + ": " + of
	}
	return string(v)
}

func (l *log) passText(f *Findings) string {
	if f.Reproduced != nil && *f.Reproduced && len(f.Thresholds) <= l.aborting() {
		return "reproduced: all that the scenario expects was shown"
	}
	if n := len(f.Thresholds); n > 0 {
		if n == 1 {
			return "the threshold holds"
		}
		return fmt.Sprintf("all %d thresholds hold", n)
	}
	return "nothing failed because of the table"
}

// weigh sorts the causes into those by the table, those that leave open
// whether it was the table, and the rest.
func (l *log) weigh(f *Findings, a *attribution) (table, open, other []string) {
	// Where none of these rose, the node refused and evicted nothing.
	troubled := slices.ContainsFunc(f.Nodes, func(n Node) bool {
		return n.Counters["drop"]+n.Counters["early_drop"]+n.Counters["insert_failed"] > 0 || n.Reclaimed.beforeTime(f)
	})
	for _, c := range f.Causes {
		switch {
		case strings.HasPrefix(c.Cause, generatorPrefix):
			continue // said by the audit
		case byTable(c.Cause):
			table = append(table, fmt.Sprintf("%s failed because of %s (%s of all failures): %s", plural(c.Failures, "attempt"), c.Cause, percent(c.Share), c.Evidence))
		case c.Cause == unknownCause && troubled:
			open = append(open, fmt.Sprintf("%s failed for no proven cause in a run in which the node dropped or evicted: it may have been the table", plural(c.Failures, "attempt")))
		case c.Cause == unknownCause:
			text := fmt.Sprintf("%s failed for an unknown cause; the node dropped and evicted nothing: %s", plural(c.Failures, "attempt"), c.Evidence)
			if float64(c.Failures) > unexplained*float64(f.Generator.Started) {
				open = append(open, text)
			} else {
				other = append(other, text)
			}
		default:
			other = append(other, fmt.Sprintf("%s failed because of %s, not of the table: %s", plural(c.Failures, "attempt"), c.Cause, c.Evidence))
		}
	}
	for _, t := range f.Traffic {
		if t.TearDown != nil && t.TearDown.Failed > 0 {
			text := fmt.Sprintf("%s connections were not all torn down: %s", whose(t.Name), t.TearDown.text())
			if t.TearDown.toldBy(f) != nil {
				text = t.TearDown.failedText(t.Name)
			}
			other = append(other, text)
		}
		if t.HeldLost == nil || *t.HeldLost == 0 {
			continue
		}
		text := fmt.Sprintf("%s lost %s: %s", t.Name, plural(*t.HeldLost, "held connection"), heldCausesText(&t))
		if troubled && unexplainedLosses(&t) > 0 {
			open = append(open, text+": it may have been the table")
		} else {
			if !troubled {
				text += "; the node dropped and evicted nothing"
			}
			other = append(other, text)
		}
	}
	if len(table)+len(open) > 0 || len(a.total) == 0 {
		return table, open, other
	}
	// Drops that no attempt that can be counted suffered from.
	accountable := slices.ContainsFunc(f.Traffic, func(t Traffic) bool { return !t.OneWay && t.Attempted > 0 })
	for _, n := range f.Nodes {
		if n.TableFullDrops == 0 {
			continue
		}
		text := fmt.Sprintf("%s dropped %s of new connections because its table was full", n.Name, plural(n.TableFullDrops, "packet"))
		if accountable {
			other = append(other, text+", and no counted attempt failed of it")
		} else {
			table = append(table, text+"; the traffic is one-way, so nobody else noticed")
		}
	}
	return table, open, other
}

// aborted is the outcome of a run that a threshold of abort_on has ended.
const aborted = "aborted"

// aborting is how many of the thresholds are those of abort_on.
func (l *log) aborting() int {
	if l.header == nil {
		return 0
	}
	return len(l.header.AbortOn)
}

func (l *log) aborted() bool { return l.trailer != nil && l.trailer.Outcome == aborted }

// endedAt is when the last attempts were due, s.
func (l *log) endedAt() float64 {
	if _, to := l.span(); !math.IsInf(to, 0) {
		return to
	}
	return max(0, l.lastT)
}

// unfinished says why the log is not that of a whole run.
func (l *log) unfinished() []string {
	var out []string
	if l.header == nil {
		out = append(out, "the run log has no header: what was planned is unknown")
	}
	switch {
	case l.records == 0:
		return []string{"no data: the run log is empty"}
	case l.trailer == nil:
		out = append(out, fmt.Sprintf("the run log ends in the middle, at %.1f s: it was cut off or the run was killed", max(0, l.lastT)))
	case l.trailer.Outcome == aborted:
	case l.trailer.Outcome == "interrupted":
		out = append(out, "the run was interrupted: "+cmpOr(l.trailer.Error, "by a signal"))
	case l.trailer.Outcome != "completed":
		out = append(out, "the run failed: "+cmpOr(l.trailer.Error, "for a reason the log does not say"))
	}
	if l.nProblems > 0 {
		out = append(out, fmt.Sprintf("the run log is damaged in %s, the first: %s", plural(l.nProblems, "place"), l.problems[0].Text))
	}
	if len(l.missing) > 0 {
		out = append(out, "records are missing: "+strings.Join(l.missing, ", "))
	}
	return out
}

// percent is a share with as many digits as it needs.
func percent(v float64) string {
	p := v * 100
	switch {
	case p >= 99.95 && p < 100:
		return "over 99.9 %"
	case p == 0 || p >= 99.95 && p < 100.05:
		return fmt.Sprintf("%.0f %%", p)
	case p < 0.01:
		return "under 0.01 %"
	case p < 1:
		return fmt.Sprintf("%.2f %%", p)
	default:
		return fmt.Sprintf("%.1f %%", p)
	}
}

package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
)

// blanks says of what the log knows nothing, so that its silence proves
// nothing: a run with any of these cannot pass.
func (l *log) blanks(f *Findings) []string {
	out := slices.Clone(l.wrong)
	for _, k := range l.lossOrder {
		switch k.What {
		case "failures", "autopsies", "samples", "census", "events":
			// Failures are in the bins as well, samples are cumulative, the
			// next two are only ever evidence, and Kubernetes' Events not even that.
		default:
			out = append(out, fmt.Sprintf("%s were lost: %d (%s)", k.What, l.losses[k], k.Why))
		}
	}
	for i, t := range l.order {
		out = append(out, t.blank(&f.Traffic[i], l.aborted())...)
	}
	if !slices.ContainsFunc(l.nodeList, func(n *node) bool { return n.rows.measured() }) {
		return append(out, "no data: no node's table was sampled while traffic flowed")
	}
	from, to := l.span()
	for _, n := range l.nodeList {
		out = append(out, n.blank(from, to, l.patience())...)
	}
	return out
}

// blank says what is not known of the traffic's attempts, in a run that was cut
// short on purpose or not.
func (t *traffic) blank(f *Traffic, cut bool) []string {
	switch {
	case f.Due == 0:
		return []string{fmt.Sprintf("no data: no attempt of %s was due", t.info.Name)}
	case f.OneWay || f.Attempted == 0:
		return nil // what was not started is in the audit
	case *f.Succeeded+f.Failed == 0:
		return []string{fmt.Sprintf("no data: no attempt of %s ended", t.info.Name)}
	}
	unknown := t.total.Outcomes[runlog.Interrupted] + t.inFlight()
	if cut {
		unknown = t.inFlight() // it is known why the others have no end
	}
	if float64(unknown) > lateLimit*float64(f.Attempted) {
		return []string{fmt.Sprintf("how %d of %d attempts of %s would have ended is not known", unknown, f.Attempted, t.info.Name)}
	}
	return nil
}

// span is when attempts were due, s.
func (l *log) span() (from, to float64) {
	from, to = math.Inf(1), math.Inf(-1)
	for _, t := range l.order {
		if c := t.due(); len(c.start) > 0 {
			from, to = min(from, c.start[0]), max(to, c.start[len(c.start)-1]+c.width)
		}
	}
	return from, to
}

// patience is for how long samples may be missing before what they would have
// shown is taken for unknown, s.
func (l *log) patience() float64 {
	every := 0.1
	if l.header != nil && l.header.SampleEvery > 0 {
		every = l.header.SampleEvery
	}
	return max(10*every, 1)
}

// blank says what is not known of the node's table from one time to another.
func (n *node) blank(from, to, patience float64) []string {
	if !n.rows.measured() {
		return []string{"no data: " + n.name + "'s table was not sampled while traffic flowed"}
	}
	var out []string
	if n.first.t > from+patience {
		out = append(out, fmt.Sprintf("%s's table was not sampled before %.1f s, and attempts were due from %.1f s on", n.name, n.first.t, from))
	}
	if n.last.t < to-patience {
		out = append(out, fmt.Sprintf("%s's table was not sampled after %.1f s, and attempts were due until %.1f s", n.name, n.last.t, to))
	}
	var missing []string
	for _, c := range []string{"drop", "early_drop", "insert_failed"} {
		if _, ok := n.counters[c]; !ok {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		out = append(out, fmt.Sprintf("no data: %s's samples do not have the counters %s", n.name, strings.Join(missing, ", ")))
	}
	if n.backwards > 0 {
		out = append(out, fmt.Sprintf("%s's counters were set back during the run, so what they counted is not known", n.name))
	}
	return out
}

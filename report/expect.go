package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/scenarios"
)

// notYet leaves open what a run that ended before its time was to show more of, of
// the whole run or up to a later moment: nobody knows what the rest would have shown.
func (l *log) notYet(expected []ThresholdResult) {
	if len(l.unfinished()) == 0 {
		return
	}
	for i := range expected {
		r := &expected[i]
		t, err := scenarios.ParseThreshold(r.Threshold)
		more := t.Op == scenarios.Greater || t.Op == scenarios.GreaterEqual
		if err == nil && r.Result == Fail && more && (t.To == 0 || t.To > l.lastT) {
			r.Result = Inconclusive
			r.Detail += ", up to where the run ended"
		}
	}
}

// runMetric is a metric that is known for the whole run only. NaN is no data.
func runMetric(t scenarios.Threshold, f *Findings) (v float64, detail string) {
	name := t.Metric
	switch name {
	case "held_lost":
		return heldMetric(t.Traffic, f)
	case "unclosed":
		return unclosedMetric(t.Traffic, f)
	case "entry_expired":
		return expiredMetric(t.Traffic, f)
	case "capacity", "capacity_upper":
		return capacityMetric(name, f)
	case "stale", "stale_backends":
		return staleMetric(name, f, t.Node)
	case "draining_share":
		return drainingMetric(f)
	case "clashres", "chainlength":
		return counterMetric(name, f, t.Node)
	}
	if state := scenarios.TCPState(name); state != "" {
		return stateCount(state, f)
	}
	if !slices.Contains(scenarios.Causes(), name) {
		return math.NaN(), "this version does not know the metric " + name
	}
	return causeMetric(name, f, t.Node)
}

func causeMetric(name string, f *Findings, node string) (v float64, detail string) {
	causes, attempted, which := f.Causes, slices.ContainsFunc(f.Traffic, func(t Traffic) bool { return t.Attempted > 0 }), "attempt"
	for i := range f.Nodes {
		if e := f.Nodes[i].Entered; f.Nodes[i].Name == node && e != nil {
			causes, attempted, which = e.Causes, e.Attempted > 0, "attempt that entered by "+node
		}
	}
	for _, c := range causes {
		if c.Cause == name {
			return float64(c.Failures), fmt.Sprintf("%s failed because of %s", plural(c.Failures, which, strings.Replace(which, "attempt", "attempts", 1)), name)
		}
	}
	if !attempted {
		return math.NaN(), "no " + which + " was started"
	}
	return 0, "no " + which + " failed because of " + name
}

func heldMetric(traffic string, f *Findings) (v float64, detail string) {
	v, detail = math.NaN(), "no traffic holds connections"
	for _, t := range f.Traffic {
		if t.HeldLost == nil || traffic != "" && t.Name != traffic {
			continue
		}
		if math.IsNaN(v) {
			v = 0
		}
		v += float64(*t.HeldLost)
		detail = plural(uint64(v), "held connection") + " lost"
	}
	return v, detail
}

func expiredMetric(traffic string, f *Findings) (v float64, detail string) {
	if v, detail = heldMetric(traffic, f); math.IsNaN(v) {
		return v, detail
	}
	v = 0
	for _, t := range f.Traffic {
		for _, c := range t.HeldCauses {
			if c.Cause == entryExpired && (traffic == "" || t.Name == traffic) {
				v += float64(c.Connections)
			}
		}
	}
	return v, fmt.Sprintf("%s, %.0f of them because of %s", detail, v, entryExpired)
}

// unread says whether the node's dataplane is unknown for a part of the run; any
// node's where the name is empty.
func unread(f *Findings, node string) bool {
	return slices.ContainsFunc(f.Nodes, func(n Node) bool {
		return (node == "" || n.Name == node) && n.Stale != nil && n.Stale.UnreadS > 0.05
	})
}

func staleMetric(name string, f *Findings, node string) (v float64, detail string) {
	v, detail = math.NaN(), "no node's dataplane was read, or no endpoints are known"
	for _, n := range f.Nodes {
		s := n.Stale
		if s == nil || node != "" && n.Name != node {
			continue
		}
		of, text := s.MaxS, fmt.Sprintf("at most %s on %s", stretch(s.MaxS), n.Name)
		if _, told := s.longest(); stretch(told) != stretch(s.MaxS) {
			text += ", up to a reading without it; by what its proxy says " + s.Longest()
		}
		if name == "stale_backends" {
			of, text = float64(s.MaxBackends), fmt.Sprintf("at most %s at once on %s", plural(s.MaxBackends, "stale backend"), n.Name)
		}
		if math.IsNaN(v) || of > v {
			v, detail = of, text
		}
	}
	return v, detail
}

func drainingMetric(f *Findings) (v float64, detail string) {
	v, detail = math.NaN(), "no pod was terminating, and given nothing new by the proxy, for long enough to tell"
	for _, b := range f.Backends {
		if b.DrainingShare == nil {
			continue
		}
		if math.IsNaN(v) || *b.DrainingShare > v {
			v, detail = *b.DrainingShare, fmt.Sprintf("%s took in %s of what its service did while it was terminating, others were usable, and the proxy gave it nothing new", b.Name, percent(*b.DrainingShare))
		}
	}
	return v, detail
}

func counterMetric(name string, f *Findings, node string) (v float64, detail string) {
	v, detail = math.NaN(), "no node's table was sampled"
	for _, n := range f.Nodes {
		gained, ok := n.Counters[name]
		if !ok || n.Samples == 0 || node != "" && n.Name != node {
			continue
		}
		if math.IsNaN(v) {
			v = 0
		}
		v += float64(gained)
		detail = fmt.Sprintf("%s +%.0f", name, v)
	}
	return v, detail
}

// stateCount is the most entries that one node had in a TCP state. Nodes are
// walked at times of their own, so their counts are not added up.
func stateCount(state string, f *Findings) (v float64, detail string) {
	v, detail = math.NaN(), "no census was made"
	for _, n := range f.Nodes {
		if n.PeakByState == nil {
			continue
		}
		if of := n.PeakByState["tcp "+state]; math.IsNaN(v) || float64(of) > v {
			v = float64(of)
			detail = fmt.Sprintf("the census found at most %d entries in %s on %s", of, state, n.Name)
		}
	}
	return v, detail
}

// reproduced says whether all that was expected was shown; nil where it cannot
// be said, or nothing was expected.
func reproduced(expected []ThresholdResult) *bool {
	if len(expected) == 0 {
		return nil
	}
	yes := true
	for _, r := range expected {
		switch r.Result {
		case Fail:
			no := false
			return &no
		case Inconclusive:
			yes = false
		}
	}
	if !yes {
		return nil
	}
	return &yes
}

const asExpected = "as expected: "

// boolOrder puts false first.
func boolOrder(x, y bool) int {
	switch {
	case x == y:
		return 0
	case y:
		return -1
	}
	return 1
}

// expectations are the reasons that what was expected gives, what was not shown
// first, and whether all of it was.
func expectations(f *Findings) (reasons []string, shown bool) {
	shown = true
	defer func() {
		slices.SortStableFunc(reasons, func(x, y string) int {
			return boolOrder(strings.HasPrefix(x, asExpected), strings.HasPrefix(y, asExpected))
		})
	}()
	for _, r := range f.Expected {
		switch r.Result {
		case Fail:
			shown = false
			reasons = append(reasons, "not reproduced here: "+thresholdLine(r))
		case Inconclusive:
			shown = false
			reasons = append(reasons, "cannot say whether it was reproduced: "+thresholdLine(r))
		case Pass:
			reasons = append(reasons, asExpected+thresholdLine(r))
		}
	}
	return reasons, shown
}

// disturbed are the reasons against a run without thresholds whose actions
// cost attempts.
func disturbed(f *Findings) []string {
	var out []string
	for i := range f.Spikes {
		if s := &f.Spikes[i]; s.Failures > 0 && len(out) < maxSpikeLines {
			out = append(out, spikeName(s)+": "+costText(s))
		}
	}
	if rest := f.besideSpikes(); rest > 0 && len(out) > 0 {
		out = append(out, fmt.Sprintf("%s, which are put down to no action by itself", plural(rest, "more attempt failed", "more attempts failed")))
	}
	return out
}

// besideSpikes is how many of the failed attempts are those of no action that is
// listed. Actions that began together have all of theirs each.
func (f *Findings) besideSpikes() uint64 {
	_, _, all := mainCause(f)
	told, n := map[float64]bool{}, 0
	for i := range f.Spikes {
		s := &f.Spikes[i]
		if s.Failures == 0 || told[*s.StartS] || n == maxSpikeLines {
			continue
		}
		told[*s.StartS] = true
		n++
		all -= min(all, s.Failures)
	}
	return all
}

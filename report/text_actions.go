package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// actions writes what the actions did to the traffic, and how far dataplanes
// and pods were behind.
func (t *text) actions(f *Findings) {
	if len(f.Spikes) == 0 {
		return
	}
	t.line("")
	t.line("actions")
	for i := range f.Spikes {
		t.para("  - ", plain(spikeText(&f.Spikes[i])))
	}
	for i := range f.Nodes {
		if s := staleText(&f.Nodes[i]); s != "" {
			t.para("  ", plain(s))
		}
	}
	for _, b := range f.Backends {
		if s := drainText(&b); s != "" {
			t.para("  ", plain(s))
		}
	}
}

// spikeText is like: roll (rollout) at 2.0 s, done at 3.9 s: 120 attempts
// failed ...
func spikeText(s *Spike) string {
	b := &strings.Builder{}
	fmt.Fprintf(b, "%s", s.Action)
	if s.Number > 1 {
		fmt.Fprintf(b, " no. %d", s.Number)
	}
	if s.Kind != s.Action {
		fmt.Fprintf(b, " (%s)", s.Kind)
	}
	fmt.Fprintf(b, " at %s", seconds(s.BeginS))
	switch {
	case s.Error != "":
		fmt.Fprintf(b, ", did not work: %s", s.Error)
	case s.DoneS != nil:
		fmt.Fprintf(b, ", done at %s", seconds(*s.DoneS))
	}
	if s.StartS == nil {
		fmt.Fprintf(b, ": no more attempts failed than before it")
	} else {
		fmt.Fprintf(b, ": %s that were due from %s to %s failed, at most %s of those due at one time", plural(s.Failures, "attempt"), seconds(*s.StartS), seconds(*s.EndS), percent(s.PeakErrorRatio))
		if s.Before > 0 {
			fmt.Fprintf(b, " (less the %s that failed before it, too)", perSecond(s.Before))
		}
		if !s.Recovered {
			b.WriteString("; it was not seen to recover")
		}
		var causes []string
		for _, c := range s.Causes {
			causes = append(causes, fmt.Sprintf("%s %s", c.Cause, percent(c.Share)))
		}
		if len(causes) > 0 {
			fmt.Fprintf(b, "; %s", strings.Join(causes, ", "))
		}
	}
	if s.P99Ms != nil {
		fmt.Fprintf(b, "; p99 %s ms", ms(s.P99Ms))
	}
	for _, k := range slices.Sorted(maps.Keys(s.Steps)) {
		fmt.Fprintf(b, "; %s took about %s", plural(s.Steps[k], "attempt"), k)
	}
	return b.String()
}

// staleText says how far a node's dataplane was from the endpoints.
func staleText(n *Node) string {
	s := n.Stale
	if s == nil {
		return ""
	}
	if s.MaxBackends == 0 {
		return n.Name + "'s dataplane: no stale backend"
	}
	text := fmt.Sprintf("%s's dataplane: at most %s at once, for at most %s", n.Name, plural(s.MaxBackends, "stale backend"), seconds(s.MaxS))
	var names []string
	for _, b := range s.Backends {
		if b.What != "stale" || len(names) == 5 {
			continue
		}
		open := ""
		if !b.Ended {
			open = ", still there at the end"
		}
		names = append(names, fmt.Sprintf("%s (%s, %s to %s%s)", b.Pod, b.Addr, seconds(b.FromS), seconds(b.ToS), open))
	}
	return text + ": " + strings.Join(names, "; ")
}

// drainText says what a pod did while it was terminating.
func drainText(b *Backend) string {
	if b.AcceptedWhileDraining == nil || *b.AcceptedWhileDraining == 0 {
		return ""
	}
	s := fmt.Sprintf("%s accepted %s while it was terminating", b.Name, plural(*b.AcceptedWhileDraining, "connection"))
	if b.DrainingShare != nil {
		s += fmt.Sprintf(", %s of all its service accepted then", percent(*b.DrainingShare))
	}
	return s
}

// worstSpike is the action around which most attempts failed; nil where none
// did.
func worstSpike(f *Findings) *Spike {
	var worst *Spike
	for i := range f.Spikes {
		if s := &f.Spikes[i]; s.Failures > 0 && (worst == nil || s.Failures > worst.Failures) {
			worst = s
		}
	}
	return worst
}

// spikeHeadline is the answer where an action cost attempts and the table held.
func spikeHeadline(f *Findings, s *Spike) string {
	text := fmt.Sprintf("%s failed from %s after %s began, for %s", plural(s.Failures, "attempt"), seconds(max(0, *s.StartS-s.BeginS)), s.Action, seconds(*s.EndS-*s.StartS))
	if len(s.Causes) > 0 && s.Causes[0].Cause != unknownCause {
		text += fmt.Sprintf(", %s of them because of %s", percent(s.Causes[0].Share), s.Causes[0].Cause)
	}
	for i := range f.Nodes {
		n := &f.Nodes[i]
		if n.Stale != nil && n.Stale.MaxBackends > 0 && s.Causes != nil && len(s.Causes) > 0 && s.Causes[0].Cause == staleBackend {
			text += fmt.Sprintf(": %s kept %s for %s", n.Name, plural(n.Stale.MaxBackends, "stale backend"), seconds(n.Stale.MaxS))
			break
		}
	}
	return text + ". The table held."
}

// expected writes what the scenario expects, and whether it was shown.
func (t *text) expected(f *Findings) {
	if len(f.Expected) == 0 {
		return
	}
	t.line("")
	switch {
	case f.Reproduced == nil:
		t.line("expected: cannot say whether it was reproduced")
	case *f.Reproduced:
		t.line("expected: reproduced")
	default:
		t.line("expected: not reproduced here")
	}
	for _, r := range f.Expected {
		word := map[Verdict]string{Pass: "shown", Fail: "not shown", Inconclusive: "no answer"}[r.Result]
		t.para(fmt.Sprintf("  %-12s ", word), plain(thresholdLine(r)))
	}
}

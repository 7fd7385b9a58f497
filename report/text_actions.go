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

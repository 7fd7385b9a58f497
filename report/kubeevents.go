package report

import (
	"fmt"
	"slices"

	"github.com/tablefull/tablefull/report/runlog"
)

// What is kept of Kubernetes' Events, and how many of them a spike names.
const (
	maxKubeEvents  = 1000
	maxSpikeEvents = 5
)

// kubeEvent is one that says that something is wrong, or that is about a node.
type kubeEvent struct {
	at      float64
	warning bool
	text    string
}

// addKubeEvent notes an Event. What is normal of a pod the pods' own events say
// better.
func (l *log) addKubeEvent(t float64, e *runlog.Event) {
	k := kubeEvent{at: t, warning: e.Fields["type"] == "Warning"}
	if !k.warning && e.Fields["object"] != "node" || len(l.kubeEvents) == maxKubeEvents {
		return
	}
	k.text = fmt.Sprintf("%s %s: %s", e.Fields["object"], e.Name, e.Detail)
	if node := e.Fields["node"]; node != "" && node != e.Name {
		k.text = fmt.Sprintf("%s %s on %s: %s", e.Fields["object"], e.Name, node, e.Detail)
	}
	l.kubeEvents = append(l.kubeEvents, k)
}

// eventsOf are those that came while the spike's failures did, and from its
// action's begin on: at the same time, which makes none of them a cause.
// Warnings come first, and each text once.
func (l *log) eventsOf(s *Spike) []string {
	out := []string{}
	if s.StartS == nil || s.EndS == nil {
		return out
	}
	var list []kubeEvent
	for _, k := range l.kubeEvents {
		if k.at >= min(s.BeginS, *s.StartS) && k.at <= *s.EndS && !slices.ContainsFunc(list, func(o kubeEvent) bool { return o.text == k.text }) {
			list = append(list, k)
		}
	}
	slices.SortStableFunc(list, func(a, b kubeEvent) int {
		switch {
		case a.warning == b.warning:
			return 0
		case a.warning:
			return -1
		}
		return 1
	})
	for _, k := range list[:min(maxSpikeEvents, len(list))] {
		out = append(out, fmt.Sprintf("%s: %s", seconds(k.at), k.text))
	}
	return out
}

package cluster

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/tablefull/tablefull/report/runlog"
)

// nodeHandler notes what becomes of the nodes.
func (l *Lab) nodeHandler() cache.ResourceEventHandler {
	known := map[string]map[string]bool{} // an informer calls its handler one at a time
	see := func(o any, gone bool) {
		n, ok := object[*corev1.Node](o)
		if !ok {
			return
		}
		was, first := known[n.Name], known[n.Name] == nil
		is := stateOf(n)
		known[n.Name] = is
		what := nodeChanges(was, is, first)
		if gone {
			delete(known, n.Name)
			what = []string{"gone"}
		}
		for _, detail := range what {
			l.out.Record(runlog.Record{Event: &runlog.Event{Kind: "node", Name: n.Name, Detail: detail}})
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { see(o, false) },
		UpdateFunc: func(_, o any) { see(o, false) },
		DeleteFunc: func(o any) { see(o, true) },
	}
}

// stateOf is whether a node is Ready, and what else is the matter with it: that
// it is cordoned, and its conditions that are problems where they are true.
func stateOf(n *corev1.Node) map[string]bool {
	is := map[string]bool{"cordoned": n.Spec.Unschedulable}
	for _, c := range n.Status.Conditions {
		is[string(c.Type)] = c.Status == corev1.ConditionTrue
	}
	return is
}

// nodeChanges are, in the words of the run log, a node's changes: of one that is
// seen for the first time what is not as it should be.
func nodeChanges(was, is map[string]bool, first bool) []string {
	ready := string(corev1.NodeReady)
	if first {
		was = map[string]bool{ready: true}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(is)) {
		switch now := is[name]; {
		case was[name] == now:
		case name == "cordoned" && now:
			out = append(out, "cordoned")
		case name == "cordoned":
			out = append(out, "uncordoned")
		case name == ready && now:
			out = append(out, "ready")
		case name == ready:
			out = append(out, "not ready")
		case now:
			out = append(out, name)
		default:
			out = append(out, "no "+name)
		}
	}
	return out
}

package report

import (
	"fmt"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
)

// maxConditions is how many changes of one node are kept.
const maxConditions = 100

func (l *log) addCondition(t float64, e *runlog.Event) {
	if l.conditions == nil {
		l.conditions = map[string][]Condition{}
	}
	if list := l.conditions[e.Name]; len(list) < maxConditions {
		l.conditions[e.Name] = append(list, Condition{AtS: t, What: e.Detail})
	}
}

// conditionText is like: node-b: cordoned at 3.20 s, not ready at 9.10 s.
func conditionText(n *Node) string {
	var parts []string
	for _, c := range n.Conditions {
		when := "from the beginning"
		if c.AtS > 0 {
			when = fmt.Sprintf("at %.2f s", c.AtS)
		}
		parts = append(parts, c.What+" "+when)
	}
	if len(parts) == 0 {
		return ""
	}
	return n.Name + ": " + strings.Join(parts, ", ")
}

// proxyText is what a node's kube-proxy said of itself.
func proxyText(n *Node) string {
	p := n.Proxy
	if p == nil || p.Syncs == 0 {
		return ""
	}
	least := ""
	if p.least {
		least = "at least "
	}
	s := fmt.Sprintf("%s's kube-proxy programmed its rules %s%s", n.Name, least, plural(p.Syncs, "time"))
	if p.SyncMeanS != nil {
		s += ", in " + stretch(*p.SyncMeanS) + " on average"
	}
	if p.ProgrammingMeanS != nil {
		s += fmt.Sprintf("; from a change of endpoints to its rules it took %s on average", stretch(*p.ProgrammingMeanS))
	}
	if p.DeletedEntries > 0 {
		s += fmt.Sprintf("; its reconciler deleted %s%s", least, plural(p.DeletedEntries, "entry", "entries"))
	}
	if p.SyncFailures > 0 {
		s += fmt.Sprintf("; the kernel refused its rules %s%s", least, plural(p.SyncFailures, "time"))
	}
	return s
}

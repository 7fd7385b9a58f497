package report

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/scenarios"
)

// scenario is what was run; nil where the log does not say, or cannot be read.
func (l *log) scenario() *scenarios.Scenario {
	if l.header == nil {
		return nil
	}
	s, err := scenarios.Parse("the run log", []byte(l.header.ScenarioYAML))
	if err != nil {
		return nil
	}
	return s
}

// noteMode keeps in which modes the node's proxy was found, in order.
func (c *cluster) noteMode(node string, d *runlog.Dataplane) {
	if d.Failed != "" || d.Mode == "" || len(d.Services) == 0 || slices.Contains(c.modes[node], d.Mode) {
		return
	}
	if c.modes == nil {
		c.modes = map[string][]string{}
	}
	c.modes[node] = append(c.modes[node], d.Mode)
}

// proxyInfo is what programmed the nodes' services, as far as the log knows: kube-proxy
// or the lab's own, its release where the scenario names one, and in which mode, by
// the rules that were read, or as the lab was asked for. Empty for nothing.
func (l *log) proxyInfo() string {
	if l.header == nil {
		return ""
	}
	s := l.scenario()
	lab := l.header.Target == "lab" && s != nil
	mode := l.modesText()
	who := ""
	switch {
	case lab:
		who = released(&s.Lab.Proxy) + ", "
		mode = cmpOr(mode, s.Lab.Proxy.Mode)
	case l.header.Target == "kubernetes":
		who = "kube-proxy, "
	}
	if mode == "" {
		return ""
	}
	return who + "mode " + mode + l.upgradesText(s)
}

// released is like: kube-proxy v1.36.3.
func released(p *scenarios.Proxy) string {
	if p.Binary == "" {
		return "the built-in proxy"
	}
	return "kube-proxy " + strings.TrimPrefix(path.Base(p.Binary), "kube-proxy-")
}

// modesText is like: nftables, or: nftables on node-a, iptables on node-b.
func (l *log) modesText() string {
	var parts, kinds []string
	for _, n := range l.nodeList {
		if modes := l.cluster.modes[n.name]; len(modes) > 0 {
			text := strings.Join(modes, ", then ")
			parts = append(parts, text+" on "+n.name)
			if !slices.Contains(kinds, text) {
				kinds = append(kinds, text)
			}
		}
	}
	if len(kinds) == 1 {
		return kinds[0]
	}
	return strings.Join(parts, ", ")
}

// upgradesText is like: , from 8.2 s on kube-proxy v1.35.4.
func (l *log) upgradesText(s *scenarios.Scenario) string {
	out := ""
	if s == nil {
		return out
	}
	for _, a := range l.cluster.acts {
		if a.kind != "upgrade_proxy" || a.failed != "" || !(a.end >= a.begin) {
			continue
		}
		for i := range s.Actions {
			if x := &s.Actions[i]; x.Name == a.name && x.UpgradeProxy != nil {
				out += fmt.Sprintf(", from %s on %s", seconds(a.end), released(x.UpgradeProxy))
			}
		}
	}
	return out
}

// leftLimit says whether the nodes' proxies were kube-proxies of the lab's that were
// told to leave the limit alone, all of them.
func (l *log) leftLimit() bool {
	if l.header == nil || l.header.Target != "lab" {
		return false
	}
	s := l.scenario()
	if s == nil || s.Lab.Proxy.Binary == "" || s.Lab.Proxy.Conntrack != nil {
		return false
	}
	return !slices.ContainsFunc(s.Actions, func(a scenarios.Action) bool {
		return a.UpgradeProxy != nil && (a.UpgradeProxy.Binary == "" || a.UpgradeProxy.Conntrack != nil)
	})
}

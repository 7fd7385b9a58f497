package runner

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// needed are the capabilities without which no lab can be.
var needed = []string{"userns", "netns", "veth", "nftables", "ctnetlink"}

// NeededForLab names the capabilities without which no lab can be.
func NeededForLab() []string { return slices.Clone(needed) }

// MissingForLab is what a lab needs and caps lacks, with reasons.
func MissingForLab(caps env.Capabilities) []string { return missing(needed, caps) }

// neededBy names the capabilities without which s cannot run: the modes of its
// proxies decide about some of them.
func neededBy(s *scenarios.Scenario) []string {
	out := NeededForLab()
	if !usesMode(s, "nftables") && !usesMode(s, "") {
		out = slices.DeleteFunc(out, func(name string) bool { return name == "nftables" })
	}
	if usesMode(s, "ipvs") {
		out = append(out, "ipvs")
	}
	return out
}

// usesMode says whether the lab's proxy has that mode, at first or after an
// upgrade.
func usesMode(s *scenarios.Scenario, mode string) bool {
	return s.Lab.Proxy.Mode == mode || slices.ContainsFunc(s.Actions, func(a scenarios.Action) bool {
		return a.UpgradeProxy != nil && a.UpgradeProxy.Mode == mode
	})
}

func missing(names []string, caps env.Capabilities) []string {
	var out []string
	for _, name := range names {
		if c := caps.Lookup(name); c.State == env.No {
			out = append(out, c.Name+": "+c.Reason)
		}
	}
	return out
}

// WriteText prints the plan for people: what would be built, what would be
// sent, what that does to the table, and what would be changed.
func (p *Plan) WriteText(out io.Writer) error {
	s := p.Scenario
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "scenario\t%s\n", s.Name)
	fmt.Fprintf(w, "duration\t%s\n", s.Duration)
	fmt.Fprintf(w, "seed\t%d\n", p.Seed)
	p.writePlace(w)
	for _, svc := range s.Services {
		fmt.Fprintf(w, "service\t%s: %s port %d, %d pods%s\n", svc.Name, svc.Protocol, svc.Port, svc.Pods, nodePortText(svc))
	}
	fmt.Fprintf(w, "limit\t%d entries\n", p.Limit())
	if n := s.Conntrack.Buckets; n != nil {
		fmt.Fprintf(w, "buckets\t%d, where the kernel would have %d\n", *n, p.Caps.Buckets)
	}
	p.writeHeadroom(w)
	f := p.fill()
	for i, t := range p.Traffic {
		to := t.To
		if s.Traffic[i].Via == "node_port" {
			to += "'s node port"
		}
		fmt.Fprintf(w, "traffic\t%s: %s to %s, %gs to %gs, timeout %gs\n", t.Name, t.Shape, to, t.Start, t.End, t.Timeout)
		if t.Residence > 0 && t.EntriesPerAttempt > 0 {
			more := ""
			if s.Lab.Nodes > 1 && !t.Local {
				more = " on the node it enters by, and one on its pod's where that is another"
			}
			fmt.Fprintf(w, "\t%g entries per attempt%s, each %gs in %s after it\n", t.EntriesPerAttempt, more, t.Residence, t.ResidueState)
		}
		if at, ok := f.alone[i]; ok && len(p.Traffic) > 1 {
			fmt.Fprintf(w, "\talone it would fill the table at %.2fs\n", at)
		}
	}
	fmt.Fprintf(w, "table\t%s\n", f.text())
	for _, a := range s.Actions {
		fmt.Fprintf(w, "action\t%s\n", actionText(a))
	}
	for _, e := range s.Expect {
		fmt.Fprintf(w, "expects\t%s\n", e)
	}
	for _, th := range s.Thresholds {
		fmt.Fprintf(w, "threshold\t%s\n", th)
	}
	for _, th := range s.AbortOn {
		fmt.Fprintf(w, "ends if not\t%s\n", th)
	}
	if s.Search != nil {
		if err := p.writeSearch(w); err != nil {
			return err
		}
	}
	for _, c := range p.changes() {
		fmt.Fprintf(w, "changes\t%s\n", c)
	}
	for _, d := range p.Doubts() {
		fmt.Fprintf(w, "doubt\t%s\n", d)
	}
	for _, r := range p.Refused {
		fmt.Fprintf(w, "refused\t%s\n", r)
	}
	return w.Flush()
}

// writePlace says what the run is in.
func (p *Plan) writePlace(w io.Writer) {
	l := p.Scenario.Lab
	if p.Caps.Cluster {
		by := "one node, from a pod on it"
		if l.Nodes > 1 {
			by = fmt.Sprintf("%d nodes, from a pod on each", l.Nodes)
		}
		fmt.Fprintf(w, "cluster\ttraffic enters by %s; all is in a namespace of the run's own\n", by)
		return
	}
	hosts := fmt.Sprintf("1 client host with %d addresses", l.Clients.Addresses)
	if l.Nodes > 1 {
		hosts = fmt.Sprintf("%d nodes, each with a client host, together with %d addresses", l.Nodes, l.Clients.Addresses)
	}
	fmt.Fprintf(w, "lab\t%s, proxy %s, %s\n", l.Family, l.Proxy.Mode, hosts)
}

func (p *Plan) writeHeadroom(w io.Writer) {
	h := p.Scenario.Conntrack.Headroom
	if h == nil {
		return
	}
	on, where := "", "in the lab's own namespace"
	if p.Scenario.Lab.Nodes > 1 {
		on = " on each node"
	}
	if p.Caps.Cluster {
		on, where = " on each node that traffic enters by", "in that node's own table, for as long as the run lasts"
	}
	fmt.Fprintf(w, "headroom\t%d entries%s; the rest is ballast %s\n", *h, on, where)
}

// nodePortText is like: , node port 30080 (Local), health check port 30081.
func nodePortText(s scenarios.Service) string {
	if s.NodePort == 0 {
		return ""
	}
	out := fmt.Sprintf(", node port %d (%s)", s.NodePort, s.External)
	if s.HealthCheck != 0 {
		out += fmt.Sprintf(", health check port %d", s.HealthCheck)
	}
	return out
}

// actionText says when an action happens, and what it is: rollout: at 5s,
// then every 30s, web.
func actionText(a scenarios.Action) string {
	out := a.Name + ": at " + a.At.String()
	if a.Every > 0 {
		out += ", then every " + a.Every.String()
		if a.Count > 0 {
			out += fmt.Sprintf(", %d in all", a.Count)
		}
	}
	if a.Name != a.Kind() {
		out += ", " + a.Kind()
	}
	switch {
	case a.Rollout != nil:
		out += fmt.Sprintf(", %s, max_surge %d, max_unavailable %d", a.Rollout.Service, *a.Rollout.MaxSurge, a.Rollout.MaxUnavailable)
	case a.Scale != nil:
		out += fmt.Sprintf(", %s to %d pods", a.Scale.Service, a.Scale.To)
	case a.DeletePod != nil:
		out += fmt.Sprintf(", %d of %s", a.DeletePod.Count, a.DeletePod.Service)
	case a.Ballast != nil:
		out += fmt.Sprintf(", headroom %d", a.Ballast.Headroom)
	}
	if len(a.Nodes) > 0 {
		out += ", on " + strings.Join(a.Nodes, " ")
	}
	return out
}

// changes is what a run would change outside its own processes.
func (p *Plan) changes() []string {
	if m := p.Scenario.Conntrack.Max; m != nil {
		return []string{fmt.Sprintf("the machine's nf_conntrack_max: %d, then %d again", *m, p.Caps.Limit)}
	}
	if p.Caps.Cluster {
		return p.clusterChanges()
	}
	out := []string{"nothing outside namespaces of its own"}
	names := make([]string, 0, len(p.Scenario.Conntrack.Timeouts))
	for n := range p.Scenario.Conntrack.Timeouts {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		out = append(out, fmt.Sprintf("there, nf_conntrack_%s: %gs", n, p.Scenario.Conntrack.Timeouts[n].Seconds()))
	}
	return out
}

// clusterChanges are those in a cluster.
func (p *Plan) clusterChanges() []string {
	out := []string{"in the cluster, a namespace tablefull-RUN with all that is in it; it is removed again"}
	if p.Scenario.Conntrack.Headroom != nil {
		out = append(out, "the tables of the nodes that traffic enters by are filled up to the headroom: whoever else uses these nodes may be dropped while the run lasts")
	}
	kinds := map[string]string{
		"restart_proxy":      "kube-proxy's pods on the nodes are deleted; its DaemonSet makes new ones",
		"upgrade_proxy":      "kube-proxy's DaemonSet gets another image, and its own again",
		"conntrack_settings": "kube-proxy's ConfigMap is changed and its DaemonSet rolled out, and both again to put it back",
		"pause_proxy":        "kube-proxy is stopped on the nodes, and goes on at the end at the latest",
		"drain_node":         "the nodes are cordoned and drained, and uncordoned",
	}
	for _, a := range p.Scenario.Actions {
		if what := kinds[a.Kind()]; what != "" {
			out = append(out, what)
			delete(kinds, a.Kind())
		}
	}
	return out
}

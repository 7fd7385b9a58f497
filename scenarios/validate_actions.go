package scenarios

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const (
	maxPods    = 64        // of a service, at once
	maxEntries = 1<<31 - 1 // the kernel counts them in an int
)

// MaxNodes is how many nodes a lab can have.
const MaxNodes = 8

// NodeNames lists the nodes of the scenario's lab.
func (s *Scenario) NodeNames() []string {
	names := make([]string, 0, MaxNodes)
	for i := range max(1, min(s.Lab.Nodes, MaxNodes)) {
		names = append(names, fmt.Sprintf("node%d", i+1))
	}
	return names
}

// onNodes are the kinds of actions that are done to nodes, not to a service.
var onNodes = kinds[slices.Index(kinds, "restart_proxy"):]

func (v *validator) actions() {
	v.names("actions", validTraffic, len(v.s.Actions), func(i int) string { return v.s.Actions[i].Name })
	for i := range v.s.Actions {
		v.action(fmt.Sprintf("actions[%d]", i), &v.s.Actions[i])
	}
}

func (v *validator) action(path string, a *Action) {
	set := a.setKinds()
	switch {
	case len(set) == 0:
		v.fail(path, "has no kind", "write one of "+strings.Join(kinds, ", "))
	case len(set) > 1:
		v.fail(path, "has "+fmt.Sprint(len(set))+" kinds: "+strings.Join(set, ", "), "write one, and another action for each other")
	}
	v.when(path, a)
	v.nodes(path, a, set)
	if x := a.Rollout; x != nil {
		v.rollout(path+".rollout", x)
	}
	if x := a.Scale; x != nil {
		v.to(path+".scale.service", x.Service)
		v.between(path+".scale.to", int64(x.To), 0, maxPods)
	}
	if x := a.DeletePod; x != nil {
		v.between(path+".delete_pod.count", int64(x.Count), 1, maxPods)
		if s := v.withPods(path+".delete_pod.service", x.Service); s != nil && x.Count <= maxPods && x.Count > v.mostPods(s) {
			v.fail(path+".delete_pod.count", fmt.Sprintf("%d is more than %s ever has, which is %d", x.Count, s.Name, v.mostPods(s)), "")
		}
	}
	if x := a.RestartProxy; x != nil {
		v.lasts(path+".restart_proxy.down", x.Down, 0, maxTimeout)
	}
	if a.UncordonNode != nil && !slices.ContainsFunc(v.s.Actions, func(b Action) bool { return b.DrainNode != nil }) {
		v.fail(path+".uncordon_node", "nothing drains a node", "write an action drain_node before it")
	}
	if x := a.UpgradeProxy; x != nil {
		v.upgrade(path+".upgrade_proxy", x)
	}
	if x := a.Ballast; x != nil {
		v.between(path+".ballast.headroom", x.Headroom, 1, maxEntries)
		if v.s.Conntrack.Headroom == nil {
			v.fail(path+".ballast", "there is no ballast to change", "set conntrack.headroom, which puts it there").needs = []string{"conntrack"}
		}
	}
	if x := a.Flush; x != nil && x.Protocol != "" {
		v.oneOf(path+".flush.protocol", x.Protocol, "tcp", "udp")
	}
	if x := a.SetSysctl; x != nil {
		v.sysctls(path+".set_sysctl", x)
	}
	if x := a.ConntrackSettings; x != nil {
		v.conntrackSettings(path+".conntrack_settings", x, len(a.Nodes) > 0)
	}
	if x := a.HoldXtablesLock; x != nil {
		v.lasts(path+".hold_xtables_lock.for", x.For, millisecond, maxTimeout)
		if !v.usesIptables() {
			v.fail(path+".hold_xtables_lock", "no proxy of the lab takes that lock", "write lab.proxy with binary, and mode iptables or ipvs").needs = []string{"lab.proxy"}
		}
	}
}

// usesIptables says whether any of the lab's proxies runs the programs of
// iptables: the built-in ones do not.
func (v *validator) usesIptables() bool {
	does := func(p *Proxy) bool { return p != nil && p.Binary != "" && p.Mode != "nftables" }
	return does(&v.s.Lab.Proxy) || slices.ContainsFunc(v.s.Actions, func(a Action) bool { return does(a.UpgradeProxy) })
}

// when checks that the action begins inside the run.
func (v *validator) when(path string, a *Action) {
	run := v.s.Duration
	if run > 0 && (a.At < 0 || a.At >= run) {
		v.fail(path+".at", fmt.Sprintf("%s is not within the run, which lasts %s", a.At, run), "write less than "+run.String()).needs = []string{"duration"}
	}
	if a.Every != 0 {
		v.lasts(path+".every", a.Every, 100*millisecond, maxDuration)
	}
	switch {
	case a.Count < 0:
		v.fail(path+".count", fmt.Sprintf("%d is out of range", a.Count), "write how often in all")
	case a.Count > 1 && a.Every == 0:
		v.fail(path+".count", fmt.Sprintf("%d times, but without every it happens once", a.Count), "write every, or leave count out").needs = []string{path + ".every"}
	}
	v.lasts(path+".timeout", a.Timeout, 100*millisecond, maxDuration)
}

func (v *validator) nodes(path string, a *Action, set []string) {
	if len(a.Nodes) == 0 {
		return
	}
	if len(set) == 1 && !slices.Contains(onNodes, set[0]) {
		v.fail(path+".nodes", set[0]+" is done to a service, not to nodes", "leave it out")
		return
	}
	for i, n := range a.Nodes {
		if at := fmt.Sprintf("%s.nodes[%d]", path, i); !slices.Contains(v.s.NodeNames(), n) {
			v.fail(at, "there is no node "+quote(n), didYouMean(n, "nodes are", v.s.NodeNames())).needs = []string{"lab.nodes"}
		}
	}
}

func (v *validator) rollout(path string, r *Rollout) {
	s := v.withPods(path+".service", r.Service)
	surge := 1
	if r.MaxSurge != nil {
		surge = *r.MaxSurge
		v.between(path+".max_surge", int64(surge), 0, maxPods)
	}
	v.between(path+".max_unavailable", int64(r.MaxUnavailable), 0, maxPods)
	switch {
	case surge == 0 && r.MaxUnavailable == 0:
		v.fail(path+".max_unavailable", "0, and so is max_surge: no pod could ever be replaced", "write 1 or more for one of them").needs = []string{path + ".max_surge"}
	case s != nil && r.MaxUnavailable > v.mostPods(s) && r.MaxUnavailable <= maxPods:
		v.fail(path+".max_unavailable", fmt.Sprintf("%d is more than %s ever has, which is %d", r.MaxUnavailable, s.Name, v.mostPods(s)), "")
	}
}

// withPods is the service of that name, or a mistake, also where it never has
// a pod.
func (v *validator) withPods(path, name string) *Service {
	s := v.to(path, name)
	if s == nil {
		return nil
	}
	if v.mostPods(s) == 0 {
		v.fail(path, name+" never has a pod", "leave no_pods out, or scale it first").needs = []string{v.pathOf(s) + ".no_pods"}
		return nil
	}
	return s
}

// mostPods is how many pods the service ever shall have at once.
func (v *validator) mostPods(s *Service) int {
	most := s.Pods
	if s.NoPods {
		most = 0
	}
	for _, a := range v.s.Actions {
		if a.Scale != nil && a.Scale.Service == s.Name {
			most = max(most, a.Scale.To)
		}
	}
	return most
}

func (v *validator) lifecycle(path string, l *Lifecycle) {
	v.lasts(path+".ready_after", l.ReadyAfter, 0, maxTimeout)
	v.lasts(path+".pre_stop", l.PreStop, 0, maxTimeout)
	v.lasts(path+".grace", l.Grace, millisecond, maxDuration)
	v.oneOf(path+".on_sigterm", l.OnSIGTERM, "drain", "close", "ignore")
	if l.PreStop > l.Grace && l.Grace > 0 && l.PreStop <= maxTimeout {
		v.fail(path+".pre_stop", fmt.Sprintf("%s is more than grace, which is %s and has it in it: SIGTERM would never be sent", l.PreStop, l.Grace),
			"write at most "+l.Grace.String()).needs = []string{path + ".grace"}
	}
}

var validVersion = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`)

func (v *validator) proxy(path string, p *Proxy) {
	v.oneOf(path+".mode", p.Mode, "nftables", "ipvs", "iptables")
	own := p.Binary == ""
	if own && p.Mode == "iptables" {
		v.fail(path+".mode", "the built-in proxy knows nftables and ipvs, not iptables", "write binary too: a kube-proxy").needs = []string{path + ".binary"}
	}
	if own && p.Mode == "ipvs" && p.Masquerade {
		v.fail(path+".masquerade", "the built-in proxy does not masquerade in mode ipvs", "leave it out, or write binary too: a kube-proxy").needs = []string{path + ".mode"}
	}
	if r := p.MasqueradePorts; r != nil {
		v.masqueradePorts(path, p, r)
	}
	if !own && !strings.Contains(p.Binary, "/") && !validVersion.MatchString(p.Binary) {
		hint := "write for example ./kube-proxy or v1.36.3"
		if validVersion.MatchString("v" + p.Binary) {
			hint = "did you mean v" + p.Binary + "?"
		}
		v.fail(path+".binary", quote(p.Binary)+" is neither a path, which has a slash, nor a version", hint)
	}
	if !own && p.KeepUDP {
		v.fail(path+".keep_udp", "is a choice of the built-in proxy's, not of kube-proxy's", "leave it or binary out").needs = []string{path + ".binary"}
	}
	if p.PassNew && (!own || p.Mode != "nftables") {
		v.fail(path+".pass_new", "is a choice of the built-in proxy's in mode nftables", "leave it out").needs = []string{path + ".binary", path + ".mode"}
	}
	if p.Conntrack != nil {
		v.proxyConntrack(path, p)
	}
	v.lasts(path+".delay", p.Delay, 0, maxTimeout)
	v.ipvs(path+".ipvs", p)
}

func (v *validator) masqueradePorts(path string, p *Proxy, r *PortRange) {
	at := path + ".masquerade_ports"
	v.between(at+".from", int64(r.From), 1, 65535)
	v.between(at+".to", int64(r.To), 1, 65535)
	if r.From > r.To && r.To >= 1 {
		v.fail(at+".to", fmt.Sprintf("%d is less than from, which is %d", r.To, r.From), "write the last port").needs = []string{at + ".from"}
	}
	switch {
	case p.Binary != "":
		v.fail(at, "is a choice of the built-in proxy's; kube-proxy leaves the ports to the kernel", "leave it or binary out").needs = []string{path + ".binary"}
	case !p.Masquerade:
		v.fail(at, "is about masquerading, which is off", "leave it out, or write masquerade: true").needs = []string{path + ".masquerade"}
	}
}

// proxyConntrack checks the limit that a kube-proxy writes. It is the kernel's,
// and where the kernel is the machine's there is no node that could write it.
func (v *validator) proxyConntrack(path string, p *Proxy) {
	at, c := path+".conntrack", p.Conntrack
	v.between(at+".max_per_core", *c.MaxPerCore, 0, maxEntries)
	v.between(at+".min", *c.Min, 0, maxEntries)
	switch {
	case p.Binary == "":
		v.fail(at, "is a kube-proxy's; the built-in proxy leaves the limit alone", "write binary too, or conntrack.max, or an action conntrack_settings").needs = []string{path + ".binary"}
	case *c.MaxPerCore == 0:
	case v.s.Lab.Kernel != "private":
		v.fail(at, "makes the kube-proxy write nf_conntrack_max, which is the whole machine's and cannot be written from a node's namespace", "write lab.kernel: private, or max_per_core: 0").needs = []string{"lab.kernel"}
	case v.s.Lab.Nodes > 1:
		v.fail(at, "makes the kube-proxy write nf_conntrack_max, which only the node in the kernel's first namespace can", "write lab.nodes: 1, or max_per_core: 0").needs = []string{"lab.nodes"}
	}
}

func (v *validator) conntrackSettings(path string, c *ConntrackSettings, named bool) {
	if c.Max == nil && c.MaxPerCore == nil && c.Min == nil && len(c.Timeouts) == 0 && c.BeLiberal == nil {
		v.fail(path, "changes nothing", "write max, timeouts or be_liberal, or on a cluster max_per_core and min")
	}
	v.timeouts(path+".timeouts", c.Timeouts)
	for _, x := range []struct {
		name  string
		value *int64
	}{{"max_per_core", c.MaxPerCore}, {"min", c.Min}} {
		if x.value != nil {
			v.between(path+"."+x.name, *x.value, 1, maxEntries)
		}
	}
	if c.Max == nil {
		return
	}
	v.between(path+".max", *c.Max, 1, maxEntries)
	switch {
	case named:
		v.fail(path+".max", "is that of all nodes: a kernel has one limit", "leave nodes out, or write an action of its own for the rest")
	case v.s.Lab.Kernel != "private" && v.s.Conntrack.Max == nil:
		v.fail(path+".max", "writes the whole machine's nf_conntrack_max, and the scenario does not say that it may be",
			"write lab.kernel: private, whose limit is its own, or conntrack.max, which needs root, and is put back").needs = []string{"lab.kernel", "conntrack.max"}
	}
}

func (v *validator) ipvs(path string, p *Proxy) {
	x := p.IPVS
	if p.Mode != "ipvs" {
		if x != (IPVS{}) {
			v.fail(path, "is about mode ipvs, and mode is "+p.Mode, "leave it out").needs = []string{strings.TrimSuffix(path, "ipvs") + "mode"}
		}
		return
	}
	if x.ConnReuseMode != nil {
		v.between(path+".conn_reuse_mode", int64(*x.ConnReuseMode), 0, 1)
	}
	switch {
	case p.Binary == "":
		v.lasts(path+".drain_check", x.DrainCheck, 10*millisecond, maxTimeout)
	case x.DrainCheck != 0:
		v.fail(path+".drain_check", "is a choice of the built-in proxy's; kube-proxy looks every minute", "leave it or binary out").needs = []string{strings.TrimSuffix(path, "ipvs") + "binary"}
	}
}

func (v *validator) upgrade(path string, p *Proxy) {
	v.proxy(path, p)
	if p.Delay != 0 {
		v.fail(path+".delay", "is the API server's, and does not change with the proxy", "write it in lab.proxy")
	}
	old, by := v.s.Lab.Proxy, *p
	if old.Mode == by.Mode && old.Binary == by.Binary && old.Masquerade == by.Masquerade && samePointed(old.MasqueradePorts, by.MasqueradePorts) && sameConntrack(old.Conntrack, by.Conntrack) && old.KeepUDP == by.KeepUDP && old.PassNew == by.PassNew && sameIPVS(old.IPVS, by.IPVS) && !v.upgrades(p) {
		v.fail(path, "is the proxy that is there already", "write another binary or mode, or restart_proxy").needs = []string{"lab.proxy"}
	}
}

// upgrades says whether another action changes the proxy too, so that p may
// lead back.
func (v *validator) upgrades(p *Proxy) bool {
	return slices.ContainsFunc(v.s.Actions, func(a Action) bool { return a.UpgradeProxy != nil && a.UpgradeProxy != p })
}

func sameIPVS(a, b IPVS) bool {
	return samePointed(a.ConnReuseMode, b.ConnReuseMode) && samePointed(a.ExpireNodestConn, b.ExpireNodestConn) && a.DrainCheck == b.DrainCheck
}

func sameConntrack(a, b *ProxyConntrack) bool {
	if a == nil || b == nil {
		return a == b
	}
	return samePointed(a.MaxPerCore, b.MaxPerCore) && samePointed(a.Min, b.Min)
}

func samePointed[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}

var (
	// namespaceSysctls are the settings that a network namespace has for
	// itself and that have to do with what this tool is about.
	namespaceSysctls = []string{
		"net.netfilter.nf_conntrack_", "net.ipv4.vs.", "net.ipv4.tcp_", "net.ipv4.conf.", "net.ipv6.conf.", "net.ipv4.neigh.", "net.ipv6.neigh.",
		"net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_forward", "net.ipv4.ip_default_ttl", "net.ipv4.icmp_ratelimit", "net.ipv4.icmp_ratemask",
		"net.core.somaxconn",
	}
	validSysctl = regexp.MustCompile(`^[a-z0-9_]+(\.[a-z0-9_-]+)+$`)
	// globalSysctls belong to the machine, with what to write instead.
	globalSysctls = map[string]string{
		"net.netfilter.nf_conntrack_max":        "write an action conntrack_settings, or change headroom with a ballast action",
		"net.nf_conntrack_max":                  "write an action conntrack_settings, or change headroom with a ballast action",
		"net.netfilter.nf_conntrack_buckets":    "leave it out",
		"net.netfilter.nf_conntrack_expect_max": "leave it out",
	}
)

func (v *validator) sysctls(path string, s *SetSysctl) {
	if len(s.Values) == 0 {
		v.fail(path+".values", "there is none", `write for example net.netfilter.nf_conntrack_tcp_be_liberal: "1"`)
	}
	for _, name := range sortedKeys(s.Values) {
		at := path + ".values." + name
		switch hint, global := globalSysctls[name]; {
		case global:
			v.fail(at, "belongs to the whole machine, not to a node of the lab", hint)
		case name == "net.netfilter.nf_conntrack_count":
			v.fail(at, "can be read, not set", "leave it out")
		case strings.Contains(name, "/") && !strings.Contains(name, ".."):
			v.fail(at, quote(name)+" is a path", "write "+strings.ReplaceAll(name, "/", "."))
		case !validSysctl.MatchString(name) || !slices.ContainsFunc(namespaceSysctls, func(p string) bool { return matches(name, p) }):
			v.fail(at, "is not a setting of a network namespace that can be changed here", "these can: "+strings.Join(namespaceSysctls, ", "))
		}
		if strings.TrimSpace(s.Values[name]) == "" {
			v.fail(at, "is empty", "write a value")
		}
	}
	v.lasts(path+".for", s.For, 0, maxDuration)
}

// matches says whether a name is the pattern, or begins with it where that
// ends in . or _.
func matches(name, pattern string) bool {
	if strings.HasSuffix(pattern, ".") || strings.HasSuffix(pattern, "_") {
		return len(name) > len(pattern) && strings.HasPrefix(name, pattern)
	}
	return name == pattern
}

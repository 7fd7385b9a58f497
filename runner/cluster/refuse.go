package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// maxPorts is how many ports of a service a cluster's proxies are burdened
// with.
const maxPorts = 100

// Refusals are why a scenario cannot be run in a cluster: each setting that a
// lab has and a cluster does not, by its name.
// Restart says that a kube-proxy is named that may be restarted.
func Refusals(s *scenarios.Scenario, restart bool) []string {
	var out []string
	refuse := func(when bool, format string, args ...any) {
		if when {
			out = append(out, fmt.Sprintf(format, args...)+" (--target kubernetes)")
		}
	}
	refuse(s.Lab.Kernel == "private", "lab.kernel: private: the nodes have kernels of their own")
	proxy := s.Lab.Proxy
	if proxy.Mode == "nftables" {
		proxy.Mode = "" // the default
	}
	refuse(proxy != scenarios.Proxy{}, "lab.proxy: the cluster's own kube-proxy is what is tested, as it is: leave it out, as with --set lab.proxy={}")
	refuse(s.Lab.Tunnel != nil, "lab.tunnel: the cluster's network is what it is")
	refuse(s.Conntrack.Max != nil, "conntrack.max: a node's limit is not changed; use conntrack.headroom")
	refuse(len(s.Conntrack.Timeouts) > 0, "conntrack.timeouts: a node's timeouts are not changed")
	if s.Search != nil {
		refuse(s.Search.Measure == scenarios.TeardownRate, "search.measure: %s: its control arm goes past the nodes' tracking, which is not changed", s.Search.Measure)
	}
	for i, a := range s.Actions {
		why := refusedAction(a, restart)
		refuse(why != "", "actions[%d] %s: %s", i, a.Kind(), why)
	}
	for i, svc := range s.Services {
		refuse(svc.PortCount > maxPorts, "services[%d].port_count: %d: at most %d", i, svc.PortCount, maxPorts)
		refuse(svc.Headless, "services[%d].headless: pods of a cluster have no addresses in a row", i)
		refuse(svc.Notrack, "services[%d].notrack: what a node tracks is not changed", i)
		whole(refuse, fmt.Sprintf("services[%d].lifecycle.pre_stop", i), svc.Lifecycle.PreStop)
		whole(refuse, fmt.Sprintf("services[%d].lifecycle.grace", i), svc.Lifecycle.Grace)
		refuse(svc.HealthCheck != 0, "services[%d].health_check_node_port: Kubernetes has one for Services of the type LoadBalancer alone, and none is made", i)
		refuse(svc.NodePort != 0 && isService(s, agentsOf(svc.Name)), "services[%d].node_port: the agents of %s are reached by a Service of the name %s, which the scenario has, too", i, svc.Name, agentsOf(svc.Name))
		refuse(svc.Server.Behaviour == "gone", "services[%d].server.behaviour: gone: a pod cannot leave its address", i)
	}
	for i, t := range s.Traffic {
		refuse(FromOutside(s) && t.Via != nodePort, "traffic[%d].via: cluster_ip: beside traffic to node ports, which comes from other nodes than it enters by", i)
		refuse(t.Flood != nil, "traffic[%d].flood: forged packets are for the lab alone", i)
		unaged := s.Search != nil && t.ShortLived != nil && (t.ShortLived.Close == "none" || t.ShortLived.Close == "half")
		refuse(unaged, "search, and traffic[%d].short_lived.close: an entry of such a connection stays for hours, and each trial would find those of the one before", i)
		refuse(t.ShortLived != nil && t.ShortLived.SourcePorts != nil, "traffic[%d].short_lived.source_ports: a pod may not take ports in TIME_WAIT again (net.ipv4.tcp_tw_reuse)", i)
	}
	return out
}

// whole refuses what Kubernetes has in whole seconds only.
func whole(refuse func(bool, string, ...any), path string, d scenarios.Duration) {
	refuse(time.Duration(d)%time.Second != 0, "%s: %s: Kubernetes knows whole seconds only", path, d)
}

// refusedAction is why an action is not done in a cluster; empty where it is.
func refusedAction(a scenarios.Action, restart bool) string {
	switch {
	case a.Rollout != nil, a.Scale != nil, a.DeletePod != nil, a.Ballast != nil, a.DrainNode != nil, a.UncordonNode != nil:
		return ""
	case a.RestartProxy != nil:
		switch {
		case a.RestartProxy.Clean:
			return "clean: a kube-proxy in a pod leaves its rules, as its DaemonSet starts it"
		case a.RestartProxy.Down != 0:
			return "down: its DaemonSet starts it again at once"
		case !restart:
			return "it deletes kube-proxy's pods on the nodes that traffic enters by: name the DaemonSet for which that is allowed, as --kube-proxy kube-system/kube-proxy"
		}
		return ""
	case a.PauseProxy != nil, a.ResumeProxy != nil:
		if !restart {
			return "it stops kube-proxy on the nodes that traffic enters by: name the DaemonSet for which that is allowed, as --kube-proxy kube-system/kube-proxy"
		}
		return ""
	case a.UpgradeProxy != nil:
		return refusedUpgrade(a, restart)
	case a.Flush != nil:
		return "it would break the connections of everybody on the node"
	case a.SetSysctl != nil:
		return "a node's settings are not changed"
	case a.ConntrackSettings != nil:
		return refusedSettings(a, restart)
	case a.HoldXtablesLock != nil:
		return "the lock is in the node's file system, which is out of reach"
	}
	return "it is not known in a cluster"
}

// refusedSettings is why conntrack_settings is not done: what kube-proxy's
// ConfigMap does not have, or what putting that back would leave as it is.
func refusedSettings(a scenarios.Action, named bool) string {
	c := a.ConntrackSettings
	for _, name := range slices.Sorted(maps.Keys(c.Timeouts)) {
		if name != establishedTimeout && name != closeWaitTimeout {
			return "timeouts." + name + ": of a node's timeouts only " + establishedTimeout + " and " + closeWaitTimeout + " are put back by kube-proxy when its ConfigMap is"
		}
	}
	switch {
	case len(a.Nodes) > 0:
		return "nodes: kube-proxy's ConfigMap is that of all nodes"
	case c.Max != nil:
		return "max: write max_per_core and min, of which kube-proxy makes each node's limit"
	case c.BeLiberal != nil:
		return "be_liberal: kube-proxy does not put it back when its ConfigMap is"
	case !named:
		return "it changes kube-proxy's ConfigMap and restarts kube-proxy on all nodes: name the DaemonSet for which that is allowed, as --kube-proxy kube-system/kube-proxy"
	}
	return ""
}

// refusedUpgrade is why upgrade_proxy is not done: only the version is changed.
func refusedUpgrade(a scenarios.Action, named bool) string {
	p := *a.UpgradeProxy
	version := p.Binary
	if p.Binary = ""; p.Mode == "nftables" {
		p.Mode = "" // the default
	}
	switch {
	case !strings.HasPrefix(version, "v"):
		return "a cluster's kube-proxy is replaced by its image of another version: write binary: v1.36.3"
	case p != scenarios.Proxy{}:
		return "but for its version a cluster's kube-proxy stays as it is: write binary alone"
	case len(a.Nodes) > 0:
		return "nodes: kube-proxy's DaemonSet is that of all nodes"
	case !named:
		return "it changes the image of kube-proxy's DaemonSet: name the one for which that is allowed, as --kube-proxy kube-system/kube-proxy"
	}
	return ""
}

// capabilities are what a scenario may need of an environment, as far as a
// cluster has it.
func capabilities() []env.Capability {
	const why = "a node's limit is its administrator's: with kube-proxy's ConfigMap"
	return []env.Capability{{Name: "ctnetlink", State: env.Yes}, {Name: "limit_writable", State: env.No, Reason: why}, {Name: env.ProxyConfigMap, State: env.Yes}}
}

package cluster

import (
	"fmt"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// maxPorts is how many ports of a service a cluster's proxies are burdened
// with.
const maxPorts = 100

// Refusals are why a scenario cannot be run in a cluster: each setting that a
// lab has and a cluster does not, by its name.
func Refusals(s *scenarios.Scenario) []string {
	var out []string
	refuse := func(when bool, format string, args ...any) {
		if when {
			out = append(out, fmt.Sprintf(format, args...)+" (--target kubernetes)")
		}
	}
	refuse(s.Lab.Kernel == "private", "lab.kernel: private: the nodes have kernels of their own")
	refuse(s.Lab.Family == "ipv6", "lab.family: ipv6: services in a cluster are reached over IPv4 so far")
	proxy := s.Lab.Proxy
	if proxy.Mode == "nftables" {
		proxy.Mode = "" // the default
	}
	refuse(proxy != scenarios.Proxy{}, "lab.proxy: the cluster's own kube-proxy is what is tested, as it is")
	refuse(s.Lab.Tunnel != nil, "lab.tunnel: the cluster's network is what it is")
	refuse(s.Conntrack.Max != nil, "conntrack.max: a node's limit is not changed; use conntrack.headroom")
	refuse(len(s.Conntrack.Timeouts) > 0, "conntrack.timeouts: a node's timeouts are not changed")
	refuse(s.Search != nil, "search: a search fills a table again and again, which is for the lab")
	for i := range s.Actions {
		refuse(true, "actions[%d] %s: actions are not carried out in a cluster yet", i, s.Actions[i].Kind())
	}
	for i, svc := range s.Services {
		refuse(svc.PortCount > maxPorts, "services[%d].port_count: %d: at most %d", i, svc.PortCount, maxPorts)
		refuse(svc.Headless, "services[%d].headless: pods of a cluster have no addresses in a row", i)
		refuse(svc.Notrack, "services[%d].notrack: what a node tracks is not changed", i)
		refuse(svc.Server.Behaviour == "gone", "services[%d].server.behaviour: gone: a pod cannot leave its address", i)
	}
	for i, t := range s.Traffic {
		refuse(t.Flood != nil, "traffic[%d].flood: forged packets are for the lab alone", i)
		refuse(t.ShortLived != nil && t.ShortLived.SourcePorts != nil, "traffic[%d].short_lived.source_ports: a pod may not take ports in TIME_WAIT again (net.ipv4.tcp_tw_reuse)", i)
	}
	return out
}

// capabilities are what a scenario may need of an environment, as far as a
// cluster has it.
func capabilities() []env.Capability {
	const why = "a node's limit is its administrator's: with kube-proxy's ConfigMap"
	return []env.Capability{{Name: "ctnetlink", State: env.Yes}, {Name: "limit_writable", State: env.No, Reason: why}}
}

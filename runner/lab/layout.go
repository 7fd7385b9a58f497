package lab

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// addressing is where things are in one address family. Every lab has
// namespaces of its own, so all labs use the same addresses.
type addressing struct {
	link       netip.Prefix // between the first client host and its node; see place for the others'
	node       netip.Addr   // on link
	client     netip.Addr   // on link; the node's next hop to everything that is not in the lab
	sources    netip.Prefix // what the first client host sends from
	outside    netip.Prefix // what it sends from as somebody outside the cluster
	floods     netip.Prefix // what floods are sent from; nobody answers there
	gateway    netip.Addr   // the node, as every pod of its sees it
	pods       netip.Prefix // pods of the first node are numbered from the address after gateway on
	services   netip.Prefix
	serviceOne netip.Addr // address of the first service
	all        netip.Prefix
	bits       int // of an address
}

func addressingOf(ipv6 bool) addressing {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	if ipv6 {
		return addressing{
			link: p("fd00:64::/126"), node: a("fd00:64::1"), client: a("fd00:64::2"),
			sources: p("fd00:128::/112"), outside: p("fd00:136::/112"), floods: p("2001:2::/48"),
			gateway: a("fd00:244::1"), pods: p("fd00:244::/112"),
			services: p("fd00:96::/112"), serviceOne: a("fd00:96::10"),
			all: p("::/0"), bits: 128,
		}
	}
	return addressing{
		link: p("10.64.0.0/30"), node: a("10.64.0.1"), client: a("10.64.0.2"),
		sources: p("10.128.0.0/16"), outside: p("10.136.0.0/16"), floods: p("198.18.0.0/15"),
		gateway: a("10.244.0.1"), pods: p("10.244.0.0/16"),
		services: p("10.96.0.0/16"), serviceOne: a("10.96.0.10"),
		all: p("0.0.0.0/0"), bits: 32,
	}
}

const hostDev = "eth0" // of clients and pods

// A network is what layout makes of a topology.
type network struct {
	plan   plan
	places []place
	proxy  env.ProxyJob // of each node; without Node, NodeAddr and Services
	// services as they are at first, and the hosts their pods may live on:
	// the first ones have the pods of the beginning.
	services []runlog.ServiceInfo
	slots    map[string][]runlog.BackendInfo
}

// layout turns a topology into what the supervisor builds and what the
// services look like to clients.
//
// Each client host owns one address on its link, and a whole prefix besides by one
// local route (AnyIP), so that 65534 source addresses cost one route there,
// one route and one neighbour on the node. The node's default
// route leads to the client host, which stands for the rest of the world: a
// packet to an address that nobody has (an answer to a flood, or to a service
// address that was not translated) leaves the node as it would leave a real
// one, and vanishes at the client host, which does not forward.
//
// Nodes have a link to each other. What a client sends enters by its own node;
// for a pod of another node it goes on over that link, and the answer comes back
// the same way, because every node sends what is for a client to that client's. Only
// what is for somebody outside the cluster each node sends there by itself, as real
// ones do: an answer to what came in by another node, and was not masqueraded there,
// does not come back by that one, and vanishes.
func layout(t env.Topology) (*network, error) {
	ipv6 := t.Lab.Family == "ipv6"
	a := addressingOf(ipv6)
	tracking, err := nodeSysctls(t.NodeSysctls)
	if err != nil {
		return nil, err
	}
	n := &network{
		slots: map[string][]runlog.BackendInfo{}, places: places(a, max(1, t.Lab.Nodes)),
		proxy: env.ProxyJob{
			Proxy: t.Lab.Proxy, IPv6: ipv6, Clients: a.sources, VIPs: a.services,
			Sysctls: tracking, WorkDir: t.WorkDir,
		},
	}
	if len(n.places) > 1 {
		n.proxy.Clients = netip.PrefixFrom(a.sources.Addr(), a.sources.Bits()-maxNodeBits).Masked()
	}
	if err := n.placeServices(a, t); err != nil {
		return nil, err
	}
	n.plan = plan{WorkDir: t.WorkDir, IPv6: ipv6}
	clients, nodes := n.entryHosts(a, t)
	pods := n.podHosts(a, nodes)
	nodes[0].First = t.FirstNamespace
	n.plan.Hosts = slices.Concat(clients, nodes, pods)
	n.addTunnels(a, t.Lab.Tunnel)
	return n, nil
}

// entryHosts are the client hosts and the nodes, with their links.
func (n *network) entryHosts(a addressing, t env.Topology) (clients, nodes []hostPlan) {
	ipv6 := n.plan.IPv6
	for i, p := range n.places {
		client := hostPlan{Name: p.client, Role: env.Client, Reach: []netip.Addr{p.nodeAddr}, Sysctls: endSysctls(ipv6), Routes: []routePlan{
			{Dst: a.all, Dev: hostDev, Via: p.nodeAddr},
			{Kind: routeLocal, Dst: p.sources},
			{Kind: routeLocal, Dst: p.outside},
			{Kind: routeBlackhole, Dst: a.floods},
		}}
		if t.ReusePorts {
			client.Sysctls = append(client.Sysctls, setting{Name: "net/ipv4/tcp_tw_reuse", Value: "1"})
		}
		node := hostPlan{
			Name: p.node, Role: env.Node, Sysctls: nodeBasics(ipv6),
			Routes: []routePlan{{Dst: a.all, Dev: p.client, Via: p.clientAddr}},
		}
		n.plan.Links = append(n.plan.Links, linkPlan{Ends: [2]linkEnd{
			{Host: p.node, Dev: p.client, Addrs: []netip.Prefix{netip.PrefixFrom(p.nodeAddr, a.link.Bits())}},
			{Host: p.client, Dev: hostDev, Addrs: []netip.Prefix{netip.PrefixFrom(p.clientAddr, a.link.Bits())}},
		}})
		for j, q := range n.places {
			if i == j {
				continue
			}
			addr := netip.PrefixFrom(q.nodeAddr, a.bits)
			node.Reach = append(node.Reach, q.nodeAddr)
			node.Routes = append(node.Routes, routePlan{Dst: addr, Dev: q.node})
			for _, dst := range []netip.Prefix{q.sources, q.floods, q.pods} {
				node.Routes = append(node.Routes, routePlan{Dst: dst, Dev: q.node, Via: q.nodeAddr})
			}
			if i < j {
				n.plan.Links = append(n.plan.Links, linkPlan{Ends: [2]linkEnd{
					{Host: p.node, Dev: q.node, Addrs: []netip.Prefix{netip.PrefixFrom(p.nodeAddr, a.bits)}},
					{Host: q.node, Dev: p.node, Addrs: []netip.Prefix{addr}},
				}})
			}
		}
		clients, nodes = append(clients, client), append(nodes, node)
	}
	return clients, nodes
}

// podHosts are the hosts of pods, each with a link to its node.
func (n *network) podHosts(a addressing, nodes []hostPlan) []hostPlan {
	var pods []hostPlan
	for _, info := range n.services {
		for _, b := range n.slots[info.Name] {
			dev := fmt.Sprintf("pod%d", len(pods)+1)
			addr := netip.PrefixFrom(b.Addr.Addr(), a.bits)
			gateway := netip.PrefixFrom(a.gateway, a.bits)
			n.plan.Links = append(n.plan.Links, linkPlan{Ends: [2]linkEnd{
				{Host: b.Node, Dev: dev, Addrs: []netip.Prefix{gateway}},
				{Host: b.Name, Dev: hostDev, Addrs: []netip.Prefix{addr}},
			}})
			i := slices.IndexFunc(n.places, func(p place) bool { return p.node == b.Node })
			nodes[i].Routes = append(nodes[i].Routes, routePlan{Dst: addr, Dev: dev})
			pods = append(pods, hostPlan{
				Name: b.Name, Role: env.Pod, Reach: []netip.Addr{a.gateway}, Sysctls: append(endSysctls(n.plan.IPv6), listenSysctls()...),
				Routes: []routePlan{{Dst: gateway, Dev: hostDev}, {Dst: a.all, Dev: hostDev, Via: a.gateway}},
			})
		}
	}
	return pods
}

// placeServices gives every service and every host of its pods an address.
func (n *network) placeServices(a addressing, t env.Topology) error {
	names := map[string]bool{}
	last := make([]netip.Addr, len(n.places)) // of the pods of each node
	for i, p := range n.places {
		names[p.client], names[p.node] = true, true
		if last[i] = p.pods.Addr(); p.pods.Contains(a.gateway) {
			last[i] = a.gateway
		}
	}
	vip := a.serviceOne
	for _, s := range t.Services {
		if s.Port < 1 || s.PortCount < 1 || s.Port+s.PortCount-1 > 65535 {
			return fmt.Errorf("service %s: ports %d+%d are not ports", s.Name, s.Port, s.PortCount)
		}
		if !a.services.Contains(vip) {
			return errors.New("there are more services than addresses for them")
		}
		info := runlog.ServiceInfo{Name: s.Name, Addr: netip.AddrPortFrom(vip, uint16(s.Port)), Protocol: s.Protocol, Backends: []runlog.BackendInfo{}}
		if s.Gateway != nil {
			info.Gateway = s.Gateway.To
		}
		info.NodePort = uint16(s.NodePort)
		pods := s.Pods
		if s.NoPods {
			pods = 0
		}
		for i := range max(pods, t.Slots[s.Name]) {
			name := fmt.Sprintf("%s-%d", s.Name, i+1)
			if names[name] {
				return fmt.Errorf("service %s: there is another host named %s", s.Name, name)
			}
			names[name] = true
			at := i % len(n.places)
			if last[at] = last[at].Next(); !n.places[at].pods.Contains(last[at]) {
				return errors.New("there are more pods than addresses for them")
			}
			b := runlog.BackendInfo{Name: name, Addr: netip.AddrPortFrom(last[at], uint16(s.Port)), Node: n.places[at].node}
			n.slots[s.Name] = append(n.slots[s.Name], b)
			if i < pods {
				info.Backends = append(info.Backends, b)
			}
		}
		n.services = append(n.services, info)
		vip = vip.Next()
	}
	return nil
}

// transport is what a service's protocol runs on.
func transport(protocol string) string {
	if protocol == "udp" {
		return "udp"
	}
	return "tcp"
}

// basics are the settings every host has. Namespaces inherit IPv4 settings
// from the machine, so what matters is set even where it is the default.
func basics(ipv6, forward bool) []setting {
	on := map[bool]string{true: "1", false: "0"}
	// ip_forward first: writing it resets the others.
	s := []setting{{Name: "net/ipv4/ip_forward", Value: on[forward]}}
	for _, which := range []string{"all", "default"} {
		s = append(s,
			setting{Name: "net/ipv4/conf/" + which + "/rp_filter", Value: "0"},
			setting{Name: "net/ipv4/conf/" + which + "/send_redirects", Value: "0"},
			setting{Name: "net/ipv4/conf/" + which + "/arp_ignore", Value: "0"},
			setting{Name: "net/ipv4/conf/" + which + "/arp_announce", Value: "0"},
		)
	}
	if !ipv6 {
		for _, which := range []string{"all", "default"} {
			s = append(s, setting{Name: "net/ipv6/conf/" + which + "/disable_ipv6", Value: "1", IfPresent: true})
		}
		return s
	}
	for _, which := range []string{"all", "default"} {
		// Duplicate address detection would keep each address unusable for a
		// second.
		s = append(s,
			setting{Name: "net/ipv6/conf/" + which + "/disable_ipv6", Value: "0"},
			setting{Name: "net/ipv6/conf/" + which + "/forwarding", Value: on[forward]},
			setting{Name: "net/ipv6/conf/" + which + "/accept_dad", Value: "0"},
			setting{Name: "net/ipv6/conf/" + which + "/dad_transmits", Value: "0"},
			setting{Name: "net/ipv6/conf/" + which + "/accept_ra", Value: "0"},
			setting{Name: "net/ipv6/conf/" + which + "/router_solicitations", Value: "0"},
		)
	}
	return s
}

func nodeBasics(ipv6 bool) []setting { return basics(ipv6, true) }

// endSysctls are those of clients and pods. ip_nonlocal_bind lets IPv6 sockets
// bind to addresses that only a local route makes ours; IPv4 needs no more
// than the route.
func endSysctls(ipv6 bool) []setting {
	s := basics(ipv6, false)
	if ipv6 {
		s = append(s, setting{Name: "net/ipv6/ip_nonlocal_bind", Value: "1"})
	}
	return s
}

// listenSysctls let a pod's listen queue be as long as a scenario may ask for.
// tcp_syncookies stays as the kernel has it (1), as in real pods: a full SYN
// queue is answered with cookies, a full accept queue drops.
func listenSysctls() []setting {
	return []setting{
		{Name: "net/core/somaxconn", Value: "4096", AtLeast: true},
		{Name: "net/ipv4/tcp_max_syn_backlog", Value: "4096", AtLeast: true},
	}
}

var (
	trackingName = regexp.MustCompile(`^nf_conntrack_[a-z0-9_]+$`)
	// globalTracking are the names that are the machine's, not a namespace's.
	// The kernel refuses to write most of them in a namespace; older ones did not.
	globalTracking = []string{"nf_conntrack_max", "nf_conntrack_buckets", "nf_conntrack_expect_max", "nf_conntrack_count"}
)

// nodeSysctls turns names below net.netfilter into paths below /proc/sys.
func nodeSysctls(m map[string]string) (map[string]string, error) {
	out := map[string]string{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(m)) {
		switch {
		case slices.Contains(globalTracking, name):
			errs = append(errs, fmt.Errorf("node sysctl net.netfilter.%s belongs to the whole machine, not to a node of the lab", name))
		case !trackingName.MatchString(name):
			errs = append(errs, fmt.Errorf("node sysctl %q is not the name of a net.netfilter.nf_conntrack_ setting", name))
		default:
			out["net/netfilter/"+name] = m[name]
		}
	}
	return out, errors.Join(errs...)
}

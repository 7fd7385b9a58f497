package lab

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

func TestLayout(t *testing.T) {
	for family, a := range map[string]struct{ vip1, vip2, pod1, pod3 string }{
		"ipv4": {"10.96.0.10:80", "10.96.0.11:53", "10.244.0.2:80", "10.244.0.4"},
		"ipv6": {"[fd00:96::10]:80", "[fd00:96::11]:53", "[fd00:244::2]:80", "fd00:244::4"},
	} {
		t.Run(family, func(t *testing.T) {
			n, err := layout(env.Topology{
				Lab: scenarios.Lab{Family: family, Proxy: scenarios.Proxy{Masquerade: true}},
				Services: []scenarios.Service{
					{Name: "web", Protocol: "http", Port: 80, PortCount: 3, Pods: 2, Gateway: &scenarios.Gateway{To: "dns"}},
					{Name: "dns", Protocol: "udp", Port: 53, PortCount: 1, Pods: 1},
					{Name: "none", Protocol: "tcp", Port: 1, PortCount: 1, Pods: 2, NoPods: true},
				},
			})
			require.NoError(t, err)
			p, infos := n.plan, n.services
			var names []string
			for _, h := range p.Hosts {
				names = append(names, h.Name)
			}
			assert.Equal(t, []string{"client", "node1", "web-1", "web-2", "dns-1"}, names)
			assert.Len(t, p.Links, 4)
			assert.Equal(t, netip.MustParseAddrPort(a.vip1), infos[0].Addr)
			assert.Equal(t, "dns", infos[0].Gateway)
			assert.Equal(t, netip.MustParseAddrPort(a.vip2), infos[1].Addr)
			assert.Equal(t, "web-1", infos[0].Backends[0].Name)
			assert.Equal(t, netip.MustParseAddrPort(a.pod1), infos[0].Backends[0].Addr)
			assert.Empty(t, infos[2].Backends)
			assert.True(t, n.proxy.Proxy.Masquerade)
			assert.Equal(t, []runlog.BackendInfo{{Name: "dns-1", Addr: netip.AddrPortFrom(netip.MustParseAddr(a.pod3), 53), Node: "node1"}}, n.slots["dns"])
			assert.Equal(t, "tcp", transport("http"), "http runs on tcp")
			assert.Empty(t, n.slots["none"])
		})
	}
}

// No address of the lab may lie in two of its ranges, or a route would take
// it to the wrong place; and the client must have as many addresses as it may be asked for.
func TestAddressingDoesNotOverlap(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		a := addressingOf(ipv6)
		ranges := []netip.Prefix{a.link, a.sources, a.outside, a.floods, a.pods, a.services}
		if !ipv6 {
			ranges = append(ranges, netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("127.0.0.0/8")) // ballast, loopback
		}
		for i, p := range ranges {
			assert.Equal(t, p.Masked(), p)
			for _, q := range ranges[:i] {
				assert.False(t, p.Overlaps(q), "%s and %s", p, q)
			}
		}
		assert.True(t, a.link.Contains(a.node) && a.link.Contains(a.client) && a.pods.Contains(a.gateway) && a.services.Contains(a.serviceOne))
		assert.Equal(t, 16, a.bits-a.sources.Bits())
		assert.Equal(t, a.bits, a.node.BitLen())
	}
}

func TestLayoutRefuses(t *testing.T) {
	one := scenarios.Service{Name: "a", Port: 1, PortCount: 1, Pods: 1}
	for name, c := range map[string]struct {
		top  env.Topology
		want string
	}{
		"ports":         {env.Topology{Services: []scenarios.Service{{Name: "a", Port: 65535, PortCount: 2}}}, "service a: ports 65535+2 are not ports"},
		"same name":     {env.Topology{Services: []scenarios.Service{one, one}}, "service a: there is another host named a-1"},
		"global sysctl": {env.Topology{NodeSysctls: map[string]string{"nf_conntrack_max": "5"}}, "node sysctl net.netfilter.nf_conntrack_max belongs to the whole machine, not to a node of the lab"},
		"path":          {env.Topology{NodeSysctls: map[string]string{"nf_conntrack_/../x": "5"}}, `node sysctl "nf_conntrack_/../x" is not the name of a net.netfilter.nf_conntrack_ setting`},
		"too many pods": {env.Topology{Services: []scenarios.Service{{Name: "a", Port: 1, PortCount: 1, Pods: 70000}}}, "there are more pods than addresses for them"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := layout(c.top)
			assert.EqualError(t, err, c.want)
		})
	}
}

// Several nodes share the ranges out, and their hosts have links to each other.
func TestLayoutOfSeveralNodes(t *testing.T) {
	for family, w := range map[string]struct{ node3, client3, sources3, floods3, pod2, clients string }{
		"ipv4": {"10.64.0.9", "10.64.0.10", "10.130.0.0/16", "198.19.0.0/17", "10.244.32.1", "10.128.0.0/13"},
		"ipv6": {"fd00:64::9", "fd00:64::a", "fd00:128::2:0/112", "2001:2:0:8000::/50", "fd00:244::2001", "fd00:128::/109"},
	} {
		t.Run(family, func(t *testing.T) {
			n, err := layout(env.Topology{
				Lab:      scenarios.Lab{Family: family, Nodes: 3},
				Services: []scenarios.Service{{Name: "web", Port: 80, PortCount: 1, Pods: 4}},
				Slots:    map[string]int{"web": 5},
			})
			require.NoError(t, err)
			var names []string
			for _, h := range n.plan.Hosts {
				names = append(names, h.Name)
			}
			assert.Equal(t, []string{"client1", "client2", "client3", "node1", "node2", "node3", "web-1", "web-2", "web-3", "web-4", "web-5"}, names)
			assert.Len(t, n.plan.Links, 3+3+5)
			var on []string
			for _, b := range n.slots["web"] {
				on = append(on, b.Node)
			}
			assert.Equal(t, []string{"node1", "node2", "node3", "node1", "node2"}, on, "in turn")
			assert.Equal(t, w.pod2, n.slots["web"][1].Addr.Addr().String())
			p := n.places[2]
			assert.Equal(t, []string{w.node3, w.client3, w.sources3, w.floods3}, []string{p.nodeAddr.String(), p.clientAddr.String(), p.sources.String(), p.floods.String()})
			assert.Equal(t, w.clients, n.proxy.Clients.String())
		})
	}
}

// With as many nodes as there may be, nothing is in two ranges, and no client
// has fewer addresses than floods and traffic may ask of it.
func TestPlacesDoNotOverlap(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		a := addressingOf(ipv6)
		for nodes := 2; nodes <= scenarios.MaxNodes; nodes++ {
			ranges := []netip.Prefix{a.services}
			for _, p := range places(a, nodes) {
				assert.Equal(t, p.sources.Masked(), p.sources)
				assert.Equal(t, p.floods.Masked(), p.floods)
				assert.True(t, a.floods.Contains(p.floods.Addr()) && a.pods.Contains(p.pods.Addr()))
				share := env.Part{Of: nodes}.Has(65534)
				assert.Greater(t, 1<<min(30, a.bits-p.floods.Bits()), share)
				ranges = append(ranges, netip.PrefixFrom(p.nodeAddr, a.link.Bits()).Masked(), p.sources, p.outside, p.floods, p.pods)
			}
			for i, p := range ranges {
				for _, q := range ranges[:i] {
					assert.False(t, p.Overlaps(q), "%s and %s", p, q)
				}
			}
		}
	}
}

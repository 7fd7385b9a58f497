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
			assert.Equal(t, []runlog.BackendInfo{{Name: "dns-1", Addr: netip.AddrPortFrom(netip.MustParseAddr(a.pod3), 53)}}, n.slots["dns"])
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
		ranges := []netip.Prefix{a.link, a.sources, a.floods, a.pods, a.services}
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

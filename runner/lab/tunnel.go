package lab

import (
	"net/netip"

	"github.com/tablefull/tablefull/scenarios"
)

const (
	tunnelDev  = "vxlan0" // at both ends
	tunnelID   = 1
	tunnelPort = 4789 // of VXLAN (RFC 7348), at both ends
)

// A tunnel is a VXLAN between two hosts. Its packets are UDP datagrams to
// tunnelPort, in each direction with source ports that the flows inside decide:
// to a node that tracks them they are flows of their own, one each way.
type tunnel struct {
	Ends [2]tunnelEnd `json:"ends"`
}

type tunnelEnd struct {
	Host  string       `json:"host"`
	Local netip.Addr   `json:"local"` // that its packets come from
	Addr  netip.Prefix `json:"addr"`  // inside
	MTU   int          `json:"mtu"`
}

// tunnelAddrs are the addresses inside the tunnel of the place with that number,
// of the node and of the client host.
func tunnelAddrs(ipv6 bool, place int) (node, client netip.Prefix) {
	base, bits := netip.MustParseAddr("10.65.0.0"), 30
	if ipv6 {
		base, bits = netip.MustParseAddr("fd00:65::"), 126
	}
	for range 4 * place {
		base = base.Next()
	}
	return netip.PrefixFrom(base.Next(), bits), netip.PrefixFrom(base.Next().Next(), bits)
}

// addTunnels lays a tunnel over the link between each client host and its node,
// and sends everything through it that went by their default routes.
func (n *network) addTunnels(a addressing, t *scenarios.Tunnel) {
	if t == nil {
		return
	}
	mtu := 1500 - 50 // Ethernet, IPv4, UDP and VXLAN headers
	if n.plan.IPv6 {
		mtu -= 20
	}
	via := map[string]netip.Addr{}
	for i, p := range n.places {
		node, client := tunnelAddrs(n.plan.IPv6, i)
		n.plan.Tunnels = append(n.plan.Tunnels, tunnel{Ends: [2]tunnelEnd{
			{Host: p.node, Local: p.nodeAddr, Addr: node, MTU: mtu},
			{Host: p.client, Local: p.clientAddr, Addr: client, MTU: mtu},
		}})
		via[p.node], via[p.client] = client.Addr(), node.Addr()
	}
	for i := range n.plan.Hosts {
		for j := range n.plan.Hosts[i].Routes {
			r := &n.plan.Hosts[i].Routes[j]
			if to, ok := via[n.plan.Hosts[i].Name]; ok && r.Dst == a.all {
				r.Dev, r.Via = tunnelDev, to
			}
		}
	}
	if t.Notrack {
		n.proxy.Untracked = []uint16{tunnelPort}
	}
}

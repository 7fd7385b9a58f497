package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// nft is the built-in proxy in mode nftables. Its rules have the shape and the semantics
// of kube-proxy's in nftables mode:
//
//   - a new connection to a service goes to an endpoint chosen at random, each
//     with the same probability (numgen random; see oneOf);
//   - a new connection to a service address that was not translated (a service
//     without endpoints, a port that is not a service's; with passNew the first
//     of these only) is rejected with ICMP
//     port unreachable. The kernel limits how often it sends those (about one
//     per second and source address, after a burst of six): the rest time out.
//     In a lab the error arrives while the client is still inside connect,
//     where the kernel drops ICMPv6 errors unless the socket has IPV6_RECVERR,
//     as those of our traffic have; without that an IPv6 client learns of it
//     one SYN retransmission later;
//   - a new connection to a node port goes to any endpoint, masqueraded; with
//     externalTrafficPolicy Local to one of this node, with the client's
//     address. Where there is none it is rejected if the service has no endpoint
//     at all, and else dropped;
//   - masquerading chooses source ports fully at random;
//   - packets in conntrack state INVALID are not dropped but forwarded as they
//     are. kube-proxy's iptables mode drops them, its nftables mode does not.
//
// It uses the ip or ip6 family, not inet: some kernels have only those.
type nft struct {
	node       string
	nodeAddr   netip.Addr // where node ports are
	ipv6       bool
	masquerade bool
	passNew    bool                 // what no rule translated, except to a service without endpoints
	ports      *scenarios.PortRange // of masquerading; nil: the kernel's choice
	clients    netip.Prefix
	vips       netip.Prefix
	untracked  []uint16   // UDP ports
	asked      []portSpan // to masquerade, of another that translates
	health     *health    // nil for none
}

var _ dataplane = (*nft)(nil)

const (
	tableName    = "tablefull"
	trackingName = "tablefull_tracking" // see addTracking
)

// sync is part of dataplane. All of it is one transaction: there is no moment
// without rules.
func (p *nft) sync(ctx context.Context, services []env.ServiceState) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	b := nftBatch{c: c, ipv6: p.ipv6, table: c.AddTable(p.table())}
	// The chains are added if they are not there yet; the rules of an
	// earlier sync go.
	nat := b.chain("services", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	leave := b.chain("masquerade", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	arrive := b.chain("node-ports", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	forward := b.chain("untranslated", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	c.FlushTable(b.table)

	b.untrack(p.untracked, services)
	for _, s := range services {
		if usable := s.Usable(); len(usable) > 0 && !s.Headless {
			b.translate(nat, s, usable)
		} else if p.passNew {
			b.rule(forward, b.to(s), ctStateNew(), []expr.Any{b.unreachable()})
		}
		if s.NodePort != 0 {
			p.nodePorts(b, nat, arrive, s)
		}
	}
	p.masqueradeOnly(b, nat)
	b.rule(leave, marked(), []expr.Any{&expr.Masq{FullyRandom: true}})
	switch {
	case p.masquerade && p.ports != nil:
		if err := b.masqueradeTo(leave, p.clients, services, p.ports); err != nil {
			return err
		}
	case p.masquerade:
		b.rule(leave, b.sourceIn(p.clients), ctStatusDNAT(), []expr.Any{&expr.Masq{FullyRandom: true}})
	}
	if !p.passNew {
		b.rule(forward, b.destinationIn(p.vips), ctStateNew(), []expr.Any{b.unreachable()})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("program nftables: %w", err)
	}
	if p.health == nil {
		return nil
	}
	return p.health.sync(services)
}

// hang is part of hanger.
func (p *nft) hang(does bool) {
	if p.health != nil {
		p.health.hang(does)
	}
}

// remove is part of dataplane. The node goes on tracking.
func (p *nft) remove() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	addTracking(c, p.ipv6)
	c.DelTable(p.table())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove nftables table: %w", err)
	}
	return nil
}

// keepTracking makes the node track connections while no proxy's rules are
// there.
func keepTracking(ipv6 bool) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	addTracking(c, ipv6)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("keep tracking: %w", err)
	}
	return nil
}

// addTracking adds a rule that does nothing but need connection tracking, as
// those of a network plugin or a firewall do on every node. Without any such
// rule a namespace tracks nothing. It is on the output hook, which what the node
// forwards does not pass.
func addTracking(c *nftables.Conn, ipv6 bool) {
	b := nftBatch{c: c, ipv6: ipv6, table: c.AddTable(&nftables.Table{Name: trackingName, Family: familyOf(ipv6)})}
	chain := b.chain("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
	c.FlushTable(b.table)
	b.rule(chain, ctStateNew())
}

// close is part of dataplane: the rules stay.
func (p *nft) close() error {
	if p.health == nil {
		return nil
	}
	return p.health.close()
}

func (p *nft) table() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: familyOf(p.ipv6)}
}

func familyOf(ipv6 bool) nftables.TableFamily {
	if ipv6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// nftBatch collects one transaction.
type nftBatch struct {
	c     *nftables.Conn
	ipv6  bool
	table *nftables.Table
}

func (b *nftBatch) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
	return b.c.AddChain(&nftables.Chain{Name: name, Table: b.table, Type: kind, Hooknum: hook, Priority: prio})
}

func (b *nftBatch) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	b.c.AddRule(&nftables.Rule{Table: b.table, Chain: chain, Exprs: slices.Concat(parts...)})
}

// translate adds, for each of N endpoints,
//
//	ip daddr VIP PROTO dport FIRST-LAST numgen random mod N == 0 dnat to POD
//
// with N one less in each, and without numgen in the last.
func (b *nftBatch) translate(chain *nftables.Chain, s env.ServiceState, usable []runlog.EndpointState) {
	for i, e := range usable {
		b.rule(chain, b.to(s), oneOf(len(usable)-i), []expr.Any{
			&expr.Immediate{Register: 1, Data: e.Addr.AsSlice()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: b.nfproto(), RegAddrMin: 1},
		})
	}
}

// oneOf matches one packet in n, at random. A rule for each endpoint makes the
// choice, as in kube-proxy's iptables mode, and not one rule with a map of them,
// as in its nftables mode: the kernel reads the rules of a chain as of one
// moment, but looks each key up as of the moment of the lookup. While another
// transaction takes a map's place, a packet that reads the old rules finds the
// old map's elements gone, is translated to nothing and refused: at 1500
// packets/s about one in 750 transactions (Linux 6.18, TestSyncLosesNothing).
func oneOf(n int) []expr.Any {
	if n == 1 {
		return nil
	}
	return []expr.Any{
		&expr.Numgen{Register: 1, Modulus: uint32(n), Type: unix.NFT_NG_RANDOM},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

// to matches what is for one of the service's ports.
func (b *nftBatch) to(s env.ServiceState) []expr.Any { return b.portsOf(s, s.Addr, s.Port, s.Ports) }

// portsOf matches packets of the service's protocol to so many ports of an address.
func (b *nftBatch) portsOf(s env.ServiceState, addr netip.Addr, first, count uint16) []expr.Any {
	proto := byte(unix.IPPROTO_TCP)
	if s.Protocol == "udp" {
		proto = unix.IPPROTO_UDP
	}
	return slices.Concat(b.destinationIn(netip.PrefixFrom(addr, addr.BitLen())), portIs(proto, destinationPort, first, first+count-1))
}

// nfproto is the rules' family of addresses.
func (b *nftBatch) nfproto() uint32 {
	if b.ipv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// masqueradeTo adds, for each endpoint,
//
//	ip saddr CLIENTS ip daddr POD ct status dnat snat to ADDRESS:FROM-TO fully-random
//
// with the address that masquerading would take: that of the route there. The
// kernel's own masquerade with a range would do the same in one rule, but
// the nftables package writes no flags for it, and without them the kernel
// ignores the range.
func (b *nftBatch) masqueradeTo(chain *nftables.Chain, clients netip.Prefix, services []env.ServiceState, ports *scenarios.PortRange) error {
	for _, s := range services {
		for _, e := range s.Usable() {
			routes, err := netlink.RouteGet(e.Addr.AsSlice())
			if err != nil || len(routes) == 0 {
				return fmt.Errorf("find the route to pod %s at %v: %w", e.Name, e.Addr, err)
			}
			source, _ := netip.AddrFromSlice(routes[0].Src)
			b.rule(chain, b.sourceIn(clients), b.destinationIn(netip.PrefixFrom(e.Addr, e.Addr.BitLen())), ctStatusDNAT(), []expr.Any{
				&expr.Immediate{Register: 1, Data: source.Unmap().AsSlice()},
				&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(uint16(ports.From))},
				&expr.Immediate{Register: 3, Data: binaryutil.BigEndian.PutUint16(uint16(ports.To))},
				&expr.NAT{Type: expr.NATTypeSourceNAT, Family: b.nfproto(), RegAddrMin: 1, RegProtoMin: 2, RegProtoMax: 3, FullyRandom: true},
			})
		}
	}
	return nil
}

func (b *nftBatch) sourceIn(p netip.Prefix) []expr.Any {
	if b.ipv6 {
		return addressIn(p, 8)
	}
	return addressIn(p, 12)
}

func (b *nftBatch) destinationIn(p netip.Prefix) []expr.Any {
	if b.ipv6 {
		return addressIn(p, 24)
	}
	return addressIn(p, 16)
}

// addressIn matches the address at offset of the network header.
func addressIn(p netip.Prefix, offset uint32) []expr.Any {
	n := uint32(p.Addr().BitLen() / 8)
	mask := net.CIDRMask(p.Bits(), p.Addr().BitLen())
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: n, Mask: mask, Xor: make([]byte, n)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

// ctStateNew matches packets that begin a connection.
func ctStateNew() []expr.Any {
	return ctBit(expr.CtKeySTATE, expr.CtStateBitNEW)
}

// ctStatusDNAT matches packets of connections whose destination was translated.
func ctStatusDNAT() []expr.Any {
	const ipsDstNAT = 1 << 5 // IPS_DST_NAT
	return ctBit(expr.CtKeySTATUS, ipsDstNAT)
}

func ctBit(key expr.CtKey, bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bit), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// unreachable is what kube-proxy's plain "reject" means.
func (b *nftBatch) unreachable() expr.Any {
	const portUnreachable4, portUnreachable6 = 3, 4
	if b.ipv6 {
		return &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: portUnreachable6}
	}
	return &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: portUnreachable4}
}

package proxy

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/env"
)

// untrack leaves packets out of connection tracking, before it sees them
// (priority raw): UDP datagrams to ports, and connections to the pods of
// services that ask for it, in both directions. What is not tracked is not
// translated either, and has no state: rules that look for one do not see it.
func (b *nftBatch) untrack(ports []uint16, services []env.ServiceState) {
	in := b.chain("untracked-in", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	for _, port := range ports {
		b.rule(in, portIs(unix.IPPROTO_UDP, destinationPort, port, port), []expr.Any{&expr.Notrack{}})
	}
	for _, s := range services {
		if !s.Notrack {
			continue
		}
		proto := byte(unix.IPPROTO_TCP)
		if s.Protocol == "udp" {
			proto = unix.IPPROTO_UDP
		}
		for _, e := range s.Endpoints {
			pod, last := netip.PrefixFrom(e.Addr, e.Addr.BitLen()), s.Port+s.Ports-1
			b.rule(in, b.destinationIn(pod), portIs(proto, destinationPort, s.Port, last), []expr.Any{&expr.Notrack{}})
			b.rule(in, b.sourceIn(pod), portIs(proto, sourcePort, s.Port, last), []expr.Any{&expr.Notrack{}})
		}
	}
	if len(ports) == 0 {
		return
	}
	out := b.chain("untracked-out", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw)
	for _, port := range ports {
		b.rule(out, portIs(unix.IPPROTO_UDP, destinationPort, port, port), []expr.Any{&expr.Notrack{}})
	}
}

// Where ports are in the headers of TCP and UDP.
const (
	sourcePort      = 0
	destinationPort = 2
)

// portIs matches packets of a protocol with a port from first to last.
func portIs(proto byte, which uint32, first, last uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: which, Len: 2},
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: binaryutil.BigEndian.PutUint16(first)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: binaryutil.BigEndian.PutUint16(last)},
	}
}

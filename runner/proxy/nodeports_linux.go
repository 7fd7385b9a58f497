package proxy

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/tablefull/tablefull/runner/env"
)

// masqueradeMark is the bit of a packet's mark that asks for masquerading; it
// is kube-proxy's.
const masqueradeMark = 0x4000

// nodePorts adds for each node port, and each of N endpoints as translate does,
//
//	ip daddr NODE PROTO dport NODEPORT numgen random mod N == 0 [meta mark set mark or 0x4000] dnat to POD:PORT
//
// and, where there is nobody to translate to, what becomes of the packet.
func (p *nft) nodePorts(b nftBatch, nat, arrive *nftables.Chain, s env.ServiceState) {
	usable := s.UsableFrom(p.node)
	if len(usable) == 0 {
		verdict := []expr.Any{b.unreachable()}
		if len(s.Usable()) > 0 {
			verdict = []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
		}
		b.rule(arrive, b.portsOf(s, p.nodeAddr, s.NodePort, s.Ports), ctStateNew(), verdict)
		return
	}
	var asked []expr.Any
	if !s.Local {
		asked = mark()
	}
	for i := range s.Ports {
		for k, e := range usable {
			b.rule(nat, b.portsOf(s, p.nodeAddr, s.NodePort+i, 1), oneOf(len(usable)-k), asked, []expr.Any{
				&expr.Immediate{Register: 1, Data: e.Addr.AsSlice()},
				&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(s.Port + i)},
				&expr.NAT{Type: expr.NATTypeDestNAT, Family: b.nfproto(), RegAddrMin: 1, RegProtoMin: 2, Specified: true},
			})
		}
	}
}

// masqueradeOnly makes what comes to these ports of the node be masqueraded,
// whoever translates it:
//
//	ip daddr NODE PROTO dport FIRST-LAST meta mark set mark or 0x4000
func (p *nft) masqueradeOnly(b nftBatch, nat *nftables.Chain) {
	for _, x := range p.asked {
		b.rule(nat, b.destinationIn(netip.PrefixFrom(p.nodeAddr, p.nodeAddr.BitLen())), portIs(x.proto, destinationPort, x.first, x.last), mark())
	}
}

// mark sets the bit that asks for masquerading.
func mark() []expr.Any {
	keep := binaryutil.NativeEndian.PutUint32(^uint32(masqueradeMark))
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: keep, Xor: binaryutil.NativeEndian.PutUint32(masqueradeMark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

// marked matches packets with that bit.
func marked() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(masqueradeMark), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

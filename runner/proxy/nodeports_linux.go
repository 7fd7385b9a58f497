package proxy

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/env"
)

// masqueradeMark is the bit of a packet's mark that asks for masquerading; it
// is kube-proxy's.
const masqueradeMark = 0x4000

// nodePorts adds for each node port
//
//	ip daddr NODE PROTO dport NODEPORT [meta mark set mark or 0x4000] dnat to numgen random mod N map { 0 : POD, ... } : PORT
//
// and, where there is nobody to translate to, what becomes of the packet.
func (p *nft) nodePorts(b nftBatch, nat, arrive *nftables.Chain, s env.ServiceState) error {
	usable := s.UsableFrom(p.node)
	if len(usable) == 0 {
		verdict := []expr.Any{b.unreachable()}
		if len(s.Usable()) > 0 {
			verdict = []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
		}
		b.rule(arrive, b.portsOf(s, p.nodeAddr, s.NodePort, s.Ports), ctStateNew(), verdict)
		return nil
	}
	for i := range s.Ports {
		pods, family, err := b.listed(usable) // a set without a name is of one rule
		if err != nil {
			return err
		}
		rule := b.portsOf(s, p.nodeAddr, s.NodePort+i, 1)
		if !s.Local {
			rule = append(rule, mark()...)
		}
		b.rule(nat, rule, []expr.Any{
			&expr.Numgen{Register: 1, Modulus: uint32(len(usable)), Type: unix.NFT_NG_RANDOM},
			&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetID: pods.ID, SetName: pods.Name},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(s.Port + i)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
		})
	}
	return nil
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

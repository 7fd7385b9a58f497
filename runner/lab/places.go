package lab

import (
	"fmt"
	"net/netip"

	"github.com/tablefull/tablefull/scenarios"
)

// maxNodeBits is how many bits tell the nodes apart.
const maxNodeBits = 3

var _ = [1 << maxNodeBits]struct{}{scenarios.MaxNodes - 1: {}} // there are enough of them

// A place is a node with its client host, and what is theirs alone.
type place struct {
	node, client         string
	nodeAddr, clientAddr netip.Addr
	sources              netip.Prefix // what the client host sends from as a pod of the node
	outside              netip.Prefix // what it sends from as somebody outside the cluster
	floods               netip.Prefix // what floods from there pretend to be from
	pods                 netip.Prefix // the node's pods
}

// places are those of so many nodes. Those of a lab with one node have all
// there is.
func places(a addressing, nodes int) []place {
	if nodes == 1 {
		return []place{{
			node: "node1", client: "client", nodeAddr: a.node, clientAddr: a.client,
			sources: a.sources, outside: a.outside, floods: a.floods, pods: a.pods,
		}}
	}
	out := make([]place, nodes)
	for i := range out {
		link := part(netip.PrefixFrom(a.link.Addr(), a.link.Bits()), 0, i)
		out[i] = place{
			node: fmt.Sprintf("node%d", i+1), client: fmt.Sprintf("client%d", i+1),
			nodeAddr: link.Addr().Next(), clientAddr: link.Addr().Next().Next(),
			sources: part(a.sources, 0, i), outside: part(a.outside, 0, i), floods: part(a.floods, bitsFor(nodes), i), pods: part(a.pods, maxNodeBits, i),
		}
	}
	return out
}

// bitsFor is how many bits it takes to tell n apart.
func bitsFor(n int) int {
	bits := 0
	for 1<<bits < n {
		bits++
	}
	return bits
}

// part is the ith of the prefixes that are so many bits longer than p, from
// p's address on. Without more bits it is the ith prefix of p's own length.
func part(p netip.Prefix, bits, i int) netip.Prefix {
	b := p.Masked().Addr().AsSlice()
	length := p.Bits() + bits
	// Add i at bit position length, carrying to the left.
	carry := uint(i) << (7 - uint(length-1)%8)
	for k := (length - 1) / 8; carry > 0; k-- {
		carry += uint(b[k])
		b[k] = byte(carry)
		carry >>= 8
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(addr, length)
}

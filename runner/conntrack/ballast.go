package conntrack

import (
	"encoding/binary"
	"net/netip"
)

// ballastMark is the connmark of ballast, and that of its beacons is the same
// without bulkBit. A census counts entries that carry one of them apart, and
// removal deletes exactly these.
const ballastMark = 0x7ab1ef11

// Bits that connmarks of others hardly ever have: kube-proxy uses 0x4000 and
// 0x8000, network plugins bits below 2^28. The kernel can leave out entries by
// one bit, but not by "any mark but this". All ballast has ballastBit; all but
// its beacons has bulkBit.
const (
	ballastBit = 0x40000000
	bulkBit    = 0x20000000
)

// beaconEvery is how many entries of ballast there are to each beacon: one that
// a walk without ballast is shown all the same. The kernel walks its table with
// softirqs off until it has a piece of 32 KiB for the reader, some 160 entries;
// one that leaves out nearly all it meets would hold up every packet on its
// CPU for the whole walk (60 ms with 260 000 entries of ballast, Linux 6.18), and
// so be seen in what is measured. With a beacon in 32 it is 1 or 2 ms at a time.
// net/netfilter/nf_conntrack_netlink.c, ctnetlink_dump_table.
const beaconEvery = 32

func isBallast(mark uint32) bool { return mark|bulkBit == ballastMark }

// Ballast entries are TCP connections within 100.64.0.0/10, the shared address
// space of RFC 6598, or 100::/64, the discard prefix of RFC 6666, to port 9
// (discard): no packet of a lab belongs to one of them. Each source address
// has portsPerSource source ports from firstPort on.
const (
	portsPerSource = 1 << 15
	firstPort      = 1 << 14
	discardPort    = 9
)

var (
	ballastFrom4 = netip.MustParseAddr("100.64.0.0")
	ballastTo4   = netip.MustParseAddr("100.127.255.254")
	ballastFrom6 = netip.MustParseAddr("100::")
	ballastTo6   = netip.MustParseAddr("100::ffff:ffff:ffff:ffff")
)

// batchSize is how many messages go to the kernel at once. The errors of a
// whole batch, about 1 KiB of kernel memory each, fit into the receive buffer
// that any user may have: twice net.core.rmem_max, 416 KiB by default.
const batchSize = 256

// ballastTuple is where ballast entry number n comes from.
func ballastTuple(n uint32, v6 bool) netip.AddrPort {
	port := uint16(firstPort + n%portsPerSource)
	host := 1 + n/portsPerSource
	if v6 {
		a := ballastFrom6.As16()
		binary.BigEndian.PutUint32(a[12:], host)
		return netip.AddrPortFrom(netip.AddrFrom16(a), port)
	}
	a := ballastFrom4.As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])+host)
	return netip.AddrPortFrom(netip.AddrFrom4(a), port)
}

// template is a message about a ballast entry. Those of one kind differ in the
// source address, the source port and the netlink header alone, so it is built
// once and patched.
type template struct {
	msg  []byte
	v6   bool
	addr []int // offsets of the source address
	port []int // offsets of the source port
	mark int   // offset of the connmark, where beacons have another; else 0
}

// createTemplate makes an entry that must not exist yet: an ESTABLISHED TCP
// connection that has seen a reply and is ASSURED, so that early_drop leaves
// it alone.
func createTemplate(v6 bool, timeout, mark uint32) *template {
	t := newTemplate(ctNew, nlmRequest|nlmCreate|nlmExcl, v6)
	t.appendTuple(ctaTupleOrig, false)
	t.appendTuple(ctaTupleReply, true)
	t.msg = appendAttr(t.msg, ctaStatus, be32(statusConfirmed|statusAssured|statusSeenReply)...)
	t.msg = appendAttr(t.msg, ctaTimeout, be32(timeout)...)
	if mark == ballastMark {
		t.mark = len(t.msg) + nlaHdrLen
	}
	t.msg = appendAttr(t.msg, ctaMark, be32(mark)...)
	var info, tcp int
	t.msg, info = beginNest(t.msg, ctaProtoInfo)
	t.msg, tcp = beginNest(t.msg, ctaProtoInfoTCP)
	t.msg = appendAttr(t.msg, ctaTCPState, tcpStateEstablished)
	t.msg = endNest(endNest(t.msg, tcp), info)
	return t.done()
}

// renewTemplate gives an entry that exists its full timeout again. The kernel
// answers ENOENT where it does not exist.
func renewTemplate(v6 bool, timeout uint32) *template {
	t := newTemplate(ctNew, nlmRequest, v6)
	t.appendTuple(ctaTupleOrig, false)
	t.msg = appendAttr(t.msg, ctaTimeout, be32(timeout)...)
	return t.done()
}

// deleteTemplate deletes an entry.
func deleteTemplate(v6 bool) *template {
	t := newTemplate(ctDelete, nlmRequest, v6)
	t.appendTuple(ctaTupleOrig, false)
	return t.done()
}

func newTemplate(typ, flags uint16, v6 bool) *template {
	family := uint8(afIPv4)
	if v6 {
		family = afIPv6
	}
	return &template{msg: appendHeader(nil, typ, flags, 0, family), v6: v6}
}

func (t *template) done() *template {
	t.msg = endMessage(t.msg, 0)
	return t
}

// appendTuple adds one direction of the connection and notes where the source
// of the original direction stands in it.
func (t *template) appendTuple(typ uint16, reply bool) {
	from, to, srcType, dstType := ballastFrom4, ballastTo4, uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
	if t.v6 {
		from, to, srcType, dstType = ballastFrom6, ballastTo6, ctaIPv6Src, ctaIPv6Dst
	}
	addrType, portType, otherAddr, otherPort := srcType, uint16(ctaProtoSrcPort), dstType, uint16(ctaProtoDstPort)
	if reply {
		addrType, portType, otherAddr, otherPort = otherAddr, otherPort, addrType, portType
	}
	var nest, inner int
	t.msg, nest = beginNest(t.msg, typ)
	t.msg, inner = beginNest(t.msg, ctaTupleIP)
	t.addr = append(t.addr, len(t.msg)+nlaHdrLen)
	t.msg = appendAttr(t.msg, addrType, from.AsSlice()...)
	t.msg = appendAttr(t.msg, otherAddr, to.AsSlice()...)
	t.msg = endNest(t.msg, inner)
	t.msg, inner = beginNest(t.msg, ctaTupleProto)
	t.msg = appendAttr(t.msg, ctaProtoNum, protoTCP)
	t.port = append(t.port, len(t.msg)+nlaHdrLen)
	t.msg = appendAttr(t.msg, portType, be16(0)...)
	t.msg = appendAttr(t.msg, otherPort, be16(discardPort)...)
	t.msg = endNest(t.msg, inner)
	t.msg = endNest(t.msg, nest)
}

// append adds the message about ballast entry n to a batch. ack asks for an
// answer even where there is no error.
func (t *template) append(batch []byte, n, seq uint32, ack bool) []byte {
	start := len(batch)
	batch = append(batch, t.msg...)
	msg := batch[start:]
	binary.NativeEndian.PutUint32(msg[8:], seq)
	if ack {
		binary.NativeEndian.PutUint16(msg[6:], binary.NativeEndian.Uint16(msg[6:])|nlmAck)
	}
	if t.mark != 0 && n%beaconEvery == 0 {
		binary.BigEndian.PutUint32(msg[t.mark:], ballastMark&^bulkBit)
	}
	from := ballastTuple(n, t.v6)
	for _, at := range t.addr {
		if t.v6 {
			a := from.Addr().As16()
			copy(msg[at:], a[:])
		} else {
			a := from.Addr().As4()
			copy(msg[at:], a[:])
		}
	}
	for _, at := range t.port {
		binary.BigEndian.PutUint16(msg[at:], from.Port())
	}
	return batch
}

// dueForRenewal spreads the renewal of n entries evenly over a cycle: it is how
// many of them are due once elapsed s of the cycle have passed.
func dueForRenewal(n int, elapsed, cycle float64) int {
	if elapsed >= cycle {
		return n
	}
	return int(float64(n) * elapsed / cycle)
}

package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"syscall"
)

// The parts of the ctnetlink protocol used here, by the kernel's names in
// linux/netlink.h, linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h,
// nf_conntrack_common.h and nf_conntrack_tcp.h. Headers are in the machine's
// byte order, the values of attributes in network byte order.
const (
	nlmsgHdrLen  = 16
	nfgenmsgLen  = 4
	nlaHdrLen    = 4
	nlaTypeMask  = 0x3fff // less NLA_F_NESTED and NLA_F_NET_BYTEORDER
	nlaNested    = 0x8000
	nlmsgMinType = 16

	nlmsgNoop    = 1
	nlmsgError   = 2
	nlmsgDone    = 3
	nlmsgOverrun = 4

	nlmRequest  = 0x1
	nlmAck      = 0x4
	nlmDumpIntr = 0x10
	nlmExcl     = 0x200
	nlmCreate   = 0x400
	nlmDump     = 0x300 // NLM_F_ROOT|NLM_F_MATCH

	subsysCT = 1 << 8   // NFNL_SUBSYS_CTNETLINK
	ctNew    = subsysCT // IPCTNL_MSG_CT_NEW is 0
	ctGet    = subsysCT | 1
	ctDelete = subsysCT | 2

	ctaTupleOrig  = 1
	ctaTupleReply = 2
	ctaStatus     = 3
	ctaProtoInfo  = 4
	ctaTimeout    = 7
	ctaMark       = 8
	ctaID         = 12
	ctaMarkMask   = 21

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	ctaProtoInfoTCP      = 1
	ctaTCPState          = 1
	ctaTCPFlagsOriginal  = 4
	ctaTCPFlagsReply     = 5
	tcpFlagBeLiberal     = 0x08
	tcpStateEstablished  = 3
	afUnspec, afIPv4     = 0, 2
	afIPv6               = 10
	protoICMP            = 1
	protoTCP, protoUDP   = 6, 17
	protoICMPv6          = 58
	statusSeenReply      = 1 << 1
	statusAssured        = 1 << 2
	statusConfirmed      = 1 << 3
	statusDstNAT         = 1 << 5
	maxErrno             = 4095
	firstUnknownTCPState = 10
)

// tcpStates by the kernel's enum tcp_conntrack.
var tcpStates = [firstUnknownTCPState]string{
	"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
}

// stateName is the kernel's name of a TCP state, or its number.
func stateName(state uint8) string {
	if int(state) < len(tcpStates) {
		return tcpStates[state]
	}
	return strconv.Itoa(int(state))
}

// protoName is the name of a transport protocol, or its number.
func protoName(proto uint8) string {
	switch proto {
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case protoICMP:
		return "icmp"
	case protoICMPv6:
		return "icmpv6"
	}
	return strconv.Itoa(int(proto))
}

// address is an IPv4 (in the first four bytes) or IPv6 address. Which of the
// two is known from the entry it belongs to.
type address [16]byte

func (a address) addr(v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16(a)
	}
	return netip.AddrFrom4([4]byte(a[:4]))
}

// entry is what a census needs of one entry of the table.
type entry struct {
	src, dst, replySrc             address
	srcPort, dstPort, replySrcPort uint16 // 0 where the protocol has none
	proto                          uint8
	state                          uint8 // TCP only
	v6                             bool
	status, mark, timeout          uint32 // timeout in s
	id                             uint32 // another one for another entry with the same tuple
}

// message is one netlink message in a receive buffer.
type message struct {
	typ, flags uint16
	seq        uint32
	body       []byte // less the netlink header
}

// nextMessage takes the first message off buf. It fails where the buffer ends
// within a message.
func nextMessage(buf []byte) (m message, rest []byte, err error) {
	if len(buf) < nlmsgHdrLen {
		return m, nil, fmt.Errorf("parse netlink message: %d bytes left, a header has %d", len(buf), nlmsgHdrLen)
	}
	n := uint64(binary.NativeEndian.Uint32(buf))
	if n < nlmsgHdrLen || n > uint64(len(buf)) {
		return m, nil, fmt.Errorf("parse netlink message: its length is %d, %d bytes are left", n, len(buf))
	}
	m = message{
		typ:   binary.NativeEndian.Uint16(buf[4:]),
		flags: binary.NativeEndian.Uint16(buf[6:]),
		seq:   binary.NativeEndian.Uint32(buf[8:]),
		body:  buf[nlmsgHdrLen:n],
	}
	return m, buf[min(align4(n), uint64(len(buf))):], nil
}

// errorCode is the errno of an NLMSG_ERROR (0: acknowledged) or NLMSG_DONE.
func errorCode(body []byte) (syscall.Errno, error) {
	if len(body) < 4 {
		return 0, fmt.Errorf("parse netlink error: %d bytes", len(body))
	}
	code := int32(binary.NativeEndian.Uint32(body))
	if code > 0 || code < -maxErrno {
		return 0, fmt.Errorf("parse netlink error: code %d", code)
	}
	return syscall.Errno(-code), nil
}

// dumpPart works on one buffer of a dump's answer.
func dumpPart(in []byte, seq uint32, fn func(body []byte) error) (done bool, err error) {
	for len(in) > 0 {
		var m message
		if m, in, err = nextMessage(in); err != nil {
			return false, err
		}
		if m.seq != seq || m.typ == nlmsgNoop {
			continue // of an earlier dump that was given up
		}
		if m.flags&nlmDumpIntr != 0 {
			return false, errors.New("walk table: the kernel says that the dump is inconsistent")
		}
		switch m.typ {
		case nlmsgDone, nlmsgError:
			if m.typ == nlmsgDone && len(m.body) == 0 {
				return true, nil
			}
			errno, err := errorCode(m.body)
			if err == nil && errno != 0 {
				err = fmt.Errorf("walk table: %w", errno)
			}
			return true, err
		case nlmsgOverrun:
			return false, errors.New("walk table: data was lost on the way (NLMSG_OVERRUN)")
		case ctNew:
			if err := fn(m.body); err != nil {
				return false, err
			}
		default:
			return false, fmt.Errorf("walk table: unexpected message of type %#x", m.typ)
		}
	}
	return false, nil
}

// nextAttr takes the first attribute off buf. ok is false at its end and
// where the rest is no attribute; the caller sees the difference by
// len(rest).
func nextAttr(buf []byte) (typ uint16, value, rest []byte, ok bool) {
	if len(buf) < nlaHdrLen {
		return 0, nil, buf, false
	}
	n := int(binary.NativeEndian.Uint16(buf))
	if n < nlaHdrLen || n > len(buf) {
		return 0, nil, buf, false
	}
	return binary.NativeEndian.Uint16(buf[2:]) & nlaTypeMask, buf[nlaHdrLen:n], buf[min(int(align4(uint64(n))), len(buf)):], true
}

func align4(n uint64) uint64 { return (n + 3) &^ 3 }

// parse fills e from the body of a ctNew message. It reports false, with e in
// an undefined state, where the body is malformed or lacks the original
// tuple. It does not allocate and keeps nothing of body.
func (e *entry) parse(body []byte) bool {
	*e = entry{}
	if len(body) < nfgenmsgLen {
		return false
	}
	switch body[0] {
	case afIPv4:
	case afIPv6:
		e.v6 = true
	default:
		return false
	}
	var seen bool
	rest := body[nfgenmsgLen:]
	for {
		typ, v, next, ok := nextAttr(rest)
		if !ok {
			return seen && len(next) == 0
		}
		rest = next
		switch typ {
		case ctaTupleOrig:
			var t tuple
			if !t.parse(v) {
				return false
			}
			e.src, e.dst, e.srcPort, e.dstPort, e.proto = t.src, t.dst, t.srcPort, t.dstPort, t.proto
			seen = true
		case ctaTupleReply:
			var t tuple
			if !t.parse(v) {
				return false
			}
			e.replySrc, e.replySrcPort = t.src, t.srcPort
		case ctaProtoInfo:
			if !e.parseProtoInfo(v) {
				return false
			}
		case ctaStatus, ctaMark, ctaTimeout, ctaID:
			if len(v) != 4 {
				return false
			}
			n := binary.BigEndian.Uint32(v)
			switch typ {
			case ctaStatus:
				e.status = n
			case ctaMark:
				e.mark = n
			case ctaTimeout:
				e.timeout = n
			case ctaID:
				e.id = n
			}
		}
	}
}

// parseProtoInfo takes the state out of CTA_PROTOINFO > CTA_PROTOINFO_TCP.
// Other protocols' states are not needed.
func (e *entry) parseProtoInfo(buf []byte) bool {
	for {
		typ, v, rest, ok := nextAttr(buf)
		if !ok {
			return len(rest) == 0
		}
		buf = rest
		if typ != ctaProtoInfoTCP {
			continue
		}
		for {
			typ, value, rest, ok := nextAttr(v)
			if !ok {
				if len(rest) != 0 {
					return false
				}
				break
			}
			v = rest
			if typ == ctaTCPState {
				if len(value) != 1 {
					return false
				}
				e.state = value[0]
			}
		}
	}
}

// tuple is one direction of a connection.
type tuple struct {
	src, dst         address
	srcPort, dstPort uint16
	proto            uint8
}

func (t *tuple) parse(buf []byte) bool {
	for {
		typ, v, rest, ok := nextAttr(buf)
		if !ok {
			return len(rest) == 0
		}
		buf = rest
		switch typ {
		case ctaTupleIP:
			ok = t.parseIP(v)
		case ctaTupleProto:
			ok = t.parseProto(v)
		}
		if !ok {
			return false
		}
	}
}

func (t *tuple) parseIP(buf []byte) bool {
	for {
		typ, v, rest, ok := nextAttr(buf)
		if !ok {
			return len(rest) == 0
		}
		buf = rest
		switch typ {
		case ctaIPv4Src, ctaIPv4Dst:
			ok = len(v) == 4
		case ctaIPv6Src, ctaIPv6Dst:
			ok = len(v) == 16
		}
		if !ok {
			return false
		}
		switch typ {
		case ctaIPv4Src, ctaIPv6Src:
			copy(t.src[:], v)
		case ctaIPv4Dst, ctaIPv6Dst:
			copy(t.dst[:], v)
		}
	}
}

func (t *tuple) parseProto(buf []byte) bool {
	for {
		typ, v, rest, ok := nextAttr(buf)
		if !ok {
			return len(rest) == 0
		}
		buf = rest
		switch typ {
		case ctaProtoNum:
			if len(v) != 1 {
				return false
			}
			t.proto = v[0]
		case ctaProtoSrcPort, ctaProtoDstPort:
			if len(v) != 2 {
				return false
			}
			if typ == ctaProtoSrcPort {
				t.srcPort = binary.BigEndian.Uint16(v)
			} else {
				t.dstPort = binary.BigEndian.Uint16(v)
			}
		}
	}
}

// appendHeader begins a ctnetlink message at the end of buf. endMessage must
// be called with the offset at which it began.
func appendHeader(buf []byte, typ, flags uint16, seq uint32, family uint8) []byte {
	buf = binary.NativeEndian.AppendUint32(buf, 0) // length: endMessage
	buf = binary.NativeEndian.AppendUint16(buf, typ)
	buf = binary.NativeEndian.AppendUint16(buf, flags)
	buf = binary.NativeEndian.AppendUint32(buf, seq)
	buf = binary.NativeEndian.AppendUint32(buf, 0) // the kernel fills in who sent it
	return append(buf, family, 0, 0, 0)            // version NFNETLINK_V0, resource id 0
}

// endMessage fills in the length of the message that begins at start.
func endMessage(buf []byte, start int) []byte {
	binary.NativeEndian.PutUint32(buf[start:], uint32(len(buf)-start))
	return buf
}

// appendAttr adds an attribute, padded to four bytes.
func appendAttr(buf []byte, typ uint16, value ...byte) []byte {
	buf = binary.NativeEndian.AppendUint16(buf, uint16(nlaHdrLen+len(value)))
	buf = binary.NativeEndian.AppendUint16(buf, typ)
	buf = append(buf, value...)
	for len(buf)%4 != 0 {
		buf = append(buf, 0)
	}
	return buf
}

// beginNest opens a nested attribute; endNest closes it.
func beginNest(buf []byte, typ uint16) (_ []byte, start int) {
	start = len(buf)
	buf = binary.NativeEndian.AppendUint16(buf, 0)
	return binary.NativeEndian.AppendUint16(buf, typ|nlaNested), start
}

func endNest(buf []byte, start int) []byte {
	binary.NativeEndian.PutUint16(buf[start:], uint16(len(buf)-start))
	return buf
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

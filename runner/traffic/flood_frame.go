//go:build linux

package traffic

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/server/wire"
)

const (
	etherBytes   = 14
	ipv4Bytes    = 20
	ipv6Bytes    = 40
	synBytes     = 24 // a TCP header with the one option every SYN carries, MSS
	udpHeadBytes = 8
	floodPayload = 64 // bytes of a flood's datagram, a wire.UDP header that asks for no answer in front

	protoTCP = 6
	protoUDP = 17

	firstFloodPort = 1025
	floodPorts     = 65535 - firstFloodPort + 1 // 64511 = 31 * 2081
	// floodStride has no factor in common with floodPorts, so steps of it
	// come by every port before the first again.
	floodStride = 40503
)

// floodTuples is the walk of a flood through its tuples. Source addresses take
// turns. Address i's packet j comes from port
//
//	1025 + (s_i + 40503 j) mod 64511
//
// where s_i depends on the seed, and goes to destination port number
// (j mod 64511 + j div 64511) mod P of P. So no two of the first
// sources * 64511 * P packets are alike, and each of the first
// sources * 64511 has a source address and port of its own.
type floodTuples struct {
	sources  uint64
	starts   []uint16 // s_i
	dstPort  uint16
	dstPorts uint64
}

func newFloodTuples(sources int, l env.LoadJob) floodTuples {
	t := floodTuples{sources: uint64(sources), starts: make([]uint16, sources), dstPort: l.Target.Port(), dstPorts: uint64(max(1, l.Ports))}
	for i := range t.starts {
		t.starts[i] = uint16(mix(l.Seed+uint64(i)) % floodPorts)
	}
	return t
}

// at is the tuple of packet k: the index of its source and its ports.
func (t *floodTuples) at(k uint64) (source uint64, srcPort, dstPort uint16) {
	source = k % t.sources
	j := k / t.sources
	round, j := j/floodPorts, j%floodPorts
	srcPort = firstFloodPort + uint16((uint64(t.starts[source])+floodStride*j)%floodPorts)
	return source, srcPort, t.dstPort + uint16((j+round)%t.dstPorts)
}

// mix scatters x (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// floodFrames builds Ethernet frames. Most of a frame and of its checksums is
// the same in all, so a frame is patched, not built: see put.
type floodFrames struct {
	tuples   floodTuples
	is4      bool
	syn      bool
	seed     uint64
	base     [16]byte // the first source address is the one after it
	template []byte
	ipSum    uint64 // of the IPv4 header, over what put does not write
	sum      uint64 // of the pseudo header, transport header and payload, over what put does not write
}

// newFloodFrames returns the frames of kind syn or udp from src to dst, two
// MAC addresses.
func newFloodFrames(l env.LoadJob, kind string, sources int, src, dst net.HardwareAddr) (*floodFrames, error) {
	f := &floodFrames{tuples: newFloodTuples(sources, l), is4: l.Target.Addr().Is4(), syn: kind == "syn", seed: l.Seed}
	if kind != "syn" && kind != "udp" {
		return nil, fmt.Errorf("unknown kind %q of flood", kind)
	}
	if len(src) != 6 || len(dst) != 6 {
		return nil, fmt.Errorf("%v and %v are not Ethernet addresses", src, dst)
	}
	base := floodBase6
	if f.is4 {
		base = floodBase4
	}
	if l.Floods.IsValid() {
		base = l.Floods.Masked().Addr()
	}
	f.base = base.As16()
	ip, transport, proto := ipv6Bytes, synBytes, byte(protoTCP)
	if f.is4 {
		ip = ipv4Bytes
	}
	if !f.syn {
		transport, proto = udpHeadBytes+floodPayload, protoUDP
	}
	f.template = make([]byte, etherBytes+ip+transport)
	copy(f.template, dst)
	copy(f.template[6:], src)
	f.putIP(f.template[12:etherBytes+ip], proto, transport, l.Target.Addr())
	f.putTransport(f.template[etherBytes+ip:])

	// The pseudo header: addresses, length, protocol. The source is 0 in the
	// template, put adds it.
	if f.is4 {
		f.ipSum = sum16(f.template[etherBytes : etherBytes+ip])
		f.sum = sum16(f.template[etherBytes+16 : etherBytes+20])
	} else {
		f.sum = sum16(f.template[etherBytes+24 : etherBytes+40])
	}
	f.sum += uint64(transport) + uint64(proto) + sum16(f.template[etherBytes+ip:])
	return f, nil
}

var (
	floodBase4 = netip.MustParseAddr("198.18.0.0")
	floodBase6 = netip.MustParseAddr("2001:2::")
)

// putIP writes the Ethernet type and the IP header: no source, no IPv4
// identification and checksum yet.
func (f *floodFrames) putIP(b []byte, proto byte, length int, dst netip.Addr) {
	if f.is4 {
		binary.BigEndian.PutUint16(b, 0x0800)
		h := b[2:]
		h[0] = 0x45
		binary.BigEndian.PutUint16(h[2:], uint16(ipv4Bytes+length))
		h[6] = 0x40 // do not fragment
		h[8] = 64   // TTL
		h[9] = proto
		copy(h[16:], dst.AsSlice())
		return
	}
	binary.BigEndian.PutUint16(b, 0x86dd)
	h := b[2:]
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(length))
	h[6] = proto
	h[7] = 64 // hop limit
	copy(h[24:], dst.AsSlice())
}

// putTransport writes what is the same in all TCP or UDP headers, and the
// payload.
func (f *floodFrames) putTransport(b []byte) {
	if !f.syn {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
		wire.UDP{OneWay: true, Token: f.seed}.Put(b[udpHeadBytes:])
		return
	}
	b[12] = synBytes / 4 << 4
	b[13] = 0x02 // SYN
	binary.BigEndian.PutUint16(b[14:], 64240)
	mss := uint16(1460)
	if !f.is4 {
		mss = 1440
	}
	b[20], b[21] = 2, 4
	binary.BigEndian.PutUint16(b[22:], mss)
}

// frame returns a new frame for put.
func (f *floodFrames) frame() []byte { return append([]byte(nil), f.template...) }

// put makes b, which must be from frame, packet k: it writes source address,
// ports, sequence number or IPv4 identification, and checksums.
func (f *floodFrames) put(b []byte, k uint64) {
	source, srcPort, dstPort := f.tuples.at(k)
	ip := b[etherBytes:]
	var t []byte
	sum := f.sum + uint64(srcPort) + uint64(dstPort)
	if f.is4 {
		src := binary.BigEndian.Uint32(f.base[12:]) + uint32(source) + 1
		id := uint16(k)
		binary.BigEndian.PutUint16(ip[4:], id)
		binary.BigEndian.PutUint32(ip[12:], src)
		half := uint64(src>>16) + uint64(src&0xffff)
		binary.BigEndian.PutUint16(ip[10:], ^fold(f.ipSum+half+uint64(id)))
		sum += half
		t = ip[ipv4Bytes:]
	} else {
		copy(ip[8:], f.base[:12])
		low := uint32(source) + 1
		binary.BigEndian.PutUint32(ip[20:], low)
		sum += sum16(f.base[:12]) + uint64(low>>16) + uint64(low&0xffff)
		t = ip[ipv6Bytes:]
	}
	binary.BigEndian.PutUint16(t, srcPort)
	binary.BigEndian.PutUint16(t[2:], dstPort)
	if f.syn {
		seq := uint32(mix(f.seed ^ k))
		binary.BigEndian.PutUint32(t[4:], seq)
		sum += uint64(seq>>16) + uint64(seq&0xffff)
		binary.BigEndian.PutUint16(t[16:], ^fold(sum))
		return
	}
	check := ^fold(sum)
	if check == 0 {
		check = 0xffff // 0 means no checksum in UDP
	}
	binary.BigEndian.PutUint16(t[6:], check)
}

// sum16 adds b up as big-endian 16-bit words; b has an even length.
func sum16(b []byte) (s uint64) {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint64(b[i])<<8 | uint64(b[i+1])
	}
	return s
}

// fold makes a one's complement sum of 16 bits of s (RFC 1071).
func fold(s uint64) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

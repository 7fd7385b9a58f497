package proxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Some kernels have IPVS and the xtables of old, but no nf_tables for IP:
// Debian's user-mode Linux is one. There IPVS gets its connection tracking, and
// the rejection of unknown service addresses, from one rule in the table
// filter:
//
//	-A FORWARD -d VIPS -m state --state NEW -j REJECT --reject-with icmp-port-unreachable
//
// and, while the proxy's rules are cleaned away, its connection tracking alone from
// one that does nothing else; see addTracking.
//
//	-A OUTPUT -m state --state NEW -j ACCEPT
//
// What comes to a node port with externalTrafficPolicy Cluster is masqueraded by
// the table nat, as kube-proxy does it:
//
//	-A PREROUTING -d NODE -p PROTO -m PROTO --dport FIRST:LAST -j MARK --or-mark 0x4000
//	-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
//
// The kernel takes a table whole, as structures of <linux/netfilter_ipv4/ip_tables.h>
// and <linux/netfilter_ipv6/ip6_tables.h>; this program needs no other to write them.

const (
	soReplace = 64 // IPT_SO_SET_REPLACE and IP6T_SO_SET_REPLACE
	soInfo    = 64 // IPT_SO_GET_INFO and IP6T_SO_GET_INFO

	hookPrerouting  = 0
	hookInput       = 1
	hookForward     = 2
	hookOutput      = 3
	hookPostrouting = 4
	verdictAccept   = ^uint32(1) // -NF_ACCEPT - 1
	stateNew        = 1 << 3
)

// xtTable is a table's rules: of each of its hooks, the entries before the
// policy, which is to accept.
type xtTable struct {
	name  string
	hooks []int
	rules map[int][][]byte
}

// xtInfo is struct ipt_getinfo.
type xtInfo struct {
	Name                 [32]byte
	Hooks                uint32
	HookEntry, Underflow [5]uint32
	Entries, Size        uint32
}

// xtReplace is struct ipt_replace less the entries.
type xtReplace struct {
	Name                 [32]byte
	Hooks                uint32
	Entries, Size        uint32
	HookEntry, Underflow [5]uint32
	OldEntries           uint32
	Counters             unsafe.Pointer // to struct xt_counters[OldEntries], 16 bytes each
}

// trackByXtables writes the table filter of this thread's network namespace:
// vips is empty to write one that tracks and does nothing else.
func trackByXtables(vips netip.Prefix, ipv6 bool) error {
	return writeXtables(filterTable(vips, ipv6), ipv6, "iptable_filter, ip6table_filter, xt_state, ipt_REJECT and ip6t_REJECT")
}

// masqueradeByXtables writes the table nat of this thread's network namespace: one
// that masquerades what comes to these ports of the node, or nothing.
func masqueradeByXtables(node netip.Addr, ports []portSpan, ipv6 bool) error {
	return writeXtables(natTable(node, ports, ipv6), ipv6, "iptable_nat, ip6table_nat, xt_tcpudp, xt_mark and xt_MASQUERADE")
}

// writeXtables puts t in the place of the table of its name. Needs are modules
// that it takes.
func writeXtables(t xtTable, ipv6 bool, needs string) error {
	family, level := unix.AF_INET, unix.SOL_IP
	if ipv6 {
		family, level = unix.AF_INET6, unix.SOL_IPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("open xtables: %w", err)
	}
	defer unix.Close(fd)
	info := xtInfo{}
	copy(info.Name[:], t.name)
	size := uint32(unsafe.Sizeof(info))
	if err := sockopt(unix.SYS_GETSOCKOPT, fd, level, soInfo, unsafe.Pointer(&info), uintptr(unsafe.Pointer(&size))); err != nil {
		return fmt.Errorf("read xtables' table %s: %w; the kernel needs %s", t.name, err, needs)
	}
	old := make([]byte, 16*max(info.Entries, 1))
	r, entries := t.blob(ipv6)
	r.OldEntries, r.Counters = info.Entries, unsafe.Pointer(&old[0])
	head := unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	blob := append(append([]byte(nil), head...), entries...)
	if err := sockopt(unix.SYS_SETSOCKOPT, fd, level, soReplace, unsafe.Pointer(&blob[0]), uintptr(len(blob))); err != nil {
		return fmt.Errorf("program xtables' table %s: %w; the kernel needs %s", t.name, err, needs)
	}
	return nil
}

func sockopt(call uintptr, fd, level, name int, value unsafe.Pointer, size uintptr) error {
	if _, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(level), uintptr(name), uintptr(value), size, 0); errno != 0 {
		return errno
	}
	return nil
}

func filterTable(vips netip.Prefix, ipv6 bool) xtTable {
	t := xtTable{name: "filter", hooks: []int{hookInput, hookForward, hookOutput}, rules: map[int][][]byte{}}
	if vips.IsValid() {
		to := xtAddress(vips, ipv6)
		t.rules[hookForward] = [][]byte{to.with(xtState(stateNew), xtPart("REJECT", 0, xtNumber(portUnreachable(ipv6))))}
	} else {
		t.rules[hookOutput] = [][]byte{xtAddress(vips, ipv6).with(xtState(stateNew), xtVerdict(verdictAccept))}
	}
	return t
}

// portSpan are consecutive ports of the node, of a protocol.
type portSpan struct {
	proto       byte
	first, last uint16
}

func natTable(node netip.Addr, ports []portSpan, ipv6 bool) xtTable {
	t := xtTable{name: "nat", hooks: []int{hookPrerouting, hookInput, hookOutput, hookPostrouting}, rules: map[int][][]byte{}}
	if len(ports) == 0 {
		return t
	}
	bit := xtNumber(masqueradeMark)
	for _, p := range ports {
		to := xtAddress(netip.PrefixFrom(node, node.BitLen()), ipv6)
		to.proto = p.proto
		// New mark: the old one without the mask, XOR the mark.
		t.rules[hookPrerouting] = append(t.rules[hookPrerouting], to.with(xtPorts(p), xtPart("MARK", 2, append(bit, bit...))))
	}
	marked := xtPart("mark", 1, append(append(bit, bit...), 0)) // the last one is for !
	t.rules[hookPostrouting] = [][]byte{xtAddress(netip.Prefix{}, ipv6).with(marked, xtMasquerade(ipv6))}
	return t
}

// blob is the table as the kernel takes it.
func (t xtTable) blob(ipv6 bool) (xtReplace, []byte) {
	r := xtReplace{}
	copy(r.Name[:], t.name)
	var b []byte
	add := func(entry []byte) {
		b = append(b, entry...)
		r.Entries++
	}
	for _, hook := range t.hooks {
		r.Hooks |= 1 << hook
		r.HookEntry[hook] = uint32(len(b))
		for _, entry := range t.rules[hook] {
			add(entry)
		}
		r.Underflow[hook] = uint32(len(b))
		add(xtAddress(netip.Prefix{}, ipv6).with(nil, xtVerdict(verdictAccept)))
	}
	add(xtAddress(netip.Prefix{}, ipv6).with(nil, xtPart("ERROR", 0, append([]byte("ERROR"), make([]byte, 25)...)))) // a name of 30 bytes
	r.Size = uint32(len(b))
	return r, b
}

// portUnreachable is the REJECT target's name for it.
func portUnreachable(ipv6 bool) uint32 {
	if ipv6 {
		return 4 // IP6T_ICMP6_PORT_UNREACH
	}
	return 3 // IPT_ICMP_PORT_UNREACHABLE
}

// xtNumber is a number as the kernel has it in memory.
func xtNumber(n uint32) []byte { return binary.NativeEndian.AppendUint32(make([]byte, 0, 4), n) }

// xtPart is a struct xt_entry_match or xt_entry_target with its data.
func xtPart(name string, revision byte, data []byte) []byte {
	b := make([]byte, 32, 64)
	copy(b[2:31], name)
	b[31] = revision
	b = append(b, data...)
	b = append(b, make([]byte, -len(b)&7)...)
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	return b
}

func xtState(bits uint32) []byte { return xtPart("state", 0, xtNumber(bits)) }

func xtVerdict(verdict uint32) []byte { return xtPart("", 0, xtNumber(verdict)) }

// xtPorts matches destination ports: struct xt_tcp or xt_udp.
func xtPorts(p portSpan) []byte {
	name, rest := "udp", 1
	if p.proto == unix.IPPROTO_TCP {
		name, rest = "tcp", 4
	}
	var b []byte
	for _, port := range []uint16{0, 65535, p.first, p.last} {
		b = binary.NativeEndian.AppendUint16(b, port)
	}
	return xtPart(name, 0, append(b, make([]byte, rest)...))
}

// xtMasquerade is the target with --random-fully: struct
// nf_nat_ipv4_multi_range_compat with one range, or struct nf_nat_range.
func xtMasquerade(ipv6 bool) []byte {
	const randomFully = 1 << 4 // NF_NAT_RANGE_PROTO_RANDOM_FULLY
	if ipv6 {
		return xtPart("MASQUERADE", 0, append(xtNumber(randomFully), make([]byte, 36)...))
	}
	return xtPart("MASQUERADE", 0, slices.Concat(xtNumber(1), xtNumber(randomFully), make([]byte, 12)))
}

// xtSelector is the part of an entry that says which packets it is for.
type xtSelector struct {
	dst   netip.Prefix // zero for all
	proto byte         // 0 for all
	ipv6  bool
}

func xtAddress(dst netip.Prefix, ipv6 bool) xtSelector { return xtSelector{dst: dst, ipv6: ipv6} }

// with is a struct ipt_entry or ip6t_entry, with what belongs to it.
func (s xtSelector) with(match, target []byte) []byte {
	// Offsets within the entry: of the destination, of its mask, of the protocol, of the
	// numbers that say where the target and the next entry begin; and its size.
	at := struct{ dst, mask, proto, offsets, size int }{4, 12, 80, 88, 112}
	if s.ipv6 {
		at.dst, at.mask, at.proto, at.offsets, at.size = 16, 48, 128, 140, 168
	}
	b := make([]byte, at.size)
	if s.dst.IsValid() {
		copy(b[at.dst:], s.dst.Masked().Addr().AsSlice())
		for i := range s.dst.Bits() {
			b[at.mask+i/8] |= 0x80 >> (i % 8)
		}
	}
	binary.NativeEndian.PutUint16(b[at.proto:], uint16(s.proto))
	if s.ipv6 && s.proto != 0 {
		b[at.proto+3] = 1 // IP6T_F_PROTO
	}
	binary.NativeEndian.PutUint16(b[at.offsets:], uint16(at.size+len(match)))
	binary.NativeEndian.PutUint16(b[at.offsets+2:], uint16(at.size+len(match)+len(target)))
	return append(append(b, match...), target...)
}

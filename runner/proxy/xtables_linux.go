package proxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
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
// The kernel takes a table whole, as structures of <linux/netfilter_ipv4/ip_tables.h>
// and <linux/netfilter_ipv6/ip6_tables.h>; this program needs no other to write them.

const (
	soReplace = 64 // IPT_SO_SET_REPLACE and IP6T_SO_SET_REPLACE
	soInfo    = 64 // IPT_SO_GET_INFO and IP6T_SO_GET_INFO

	tableFilter   = "filter"
	hookInput     = 1
	hookForward   = 2
	hookOutput    = 3
	verdictAccept = ^uint32(1) // -NF_ACCEPT - 1
	stateNew      = 1 << 3
)

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
	copy(info.Name[:], tableFilter)
	size := uint32(unsafe.Sizeof(info))
	if err := sockopt(unix.SYS_GETSOCKOPT, fd, level, soInfo, unsafe.Pointer(&info), uintptr(unsafe.Pointer(&size))); err != nil {
		return fmt.Errorf("read xtables: %w; the kernel needs iptable_filter, ip6table_filter and xt_state", err)
	}
	old := make([]byte, 16*max(info.Entries, 1))
	r, entries := filterTable(vips, ipv6)
	r.OldEntries, r.Counters = info.Entries, unsafe.Pointer(&old[0])
	head := unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	blob := append(append([]byte(nil), head...), entries...)
	if err := sockopt(unix.SYS_SETSOCKOPT, fd, level, soReplace, unsafe.Pointer(&blob[0]), uintptr(len(blob))); err != nil {
		return fmt.Errorf("program xtables: %w; the kernel needs xt_state, ipt_REJECT and ip6t_REJECT", err)
	}
	return nil
}

func sockopt(call uintptr, fd, level, name int, value unsafe.Pointer, size uintptr) error {
	if _, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(level), uintptr(name), uintptr(value), size, 0); errno != 0 {
		return errno
	}
	return nil
}

// filterTable is the table and its entries: one rule, and the three chains'
// policy, which is to accept.
func filterTable(vips netip.Prefix, ipv6 bool) (xtReplace, []byte) {
	r := xtReplace{Hooks: 1<<hookInput | 1<<hookForward | 1<<hookOutput}
	copy(r.Name[:], tableFilter)
	var b []byte
	add := func(entry []byte) {
		b = append(b, entry...)
		r.Entries++
	}
	for hook := hookInput; hook <= hookOutput; hook++ {
		r.HookEntry[hook] = uint32(len(b))
		if hook == hookForward && vips.IsValid() {
			add(xtEntry(vips, ipv6, xtPart("state", stateNew), xtPart("REJECT", portUnreachable(ipv6))))
		}
		if hook == hookOutput && !vips.IsValid() {
			add(xtEntry(netip.Prefix{}, ipv6, xtPart("state", stateNew), xtPart("", verdictAccept)))
		}
		r.Underflow[hook] = uint32(len(b))
		add(xtEntry(netip.Prefix{}, ipv6, nil, xtPart("", verdictAccept)))
	}
	last := xtPart("ERROR", 0)
	copy(last[32:], "ERROR\x00\x00\x00")
	last = append(last, make([]byte, 24)...) // a name of 30 bytes, aligned
	binary.NativeEndian.PutUint16(last, uint16(len(last)))
	add(xtEntry(netip.Prefix{}, ipv6, nil, last))
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

// xtPart is a struct xt_entry_match or xt_entry_target with one number in it.
func xtPart(name string, value uint32) []byte {
	b := make([]byte, 40)
	binary.NativeEndian.PutUint16(b, uint16(len(b)))
	copy(b[2:31], name)
	binary.NativeEndian.PutUint32(b[32:], value)
	return b
}

// xtEntry is a struct ipt_entry or ip6t_entry for packets to dst, with what
// belongs to it.
func xtEntry(dst netip.Prefix, ipv6 bool, match, target []byte) []byte {
	// Offsets within the entry: of the destination, of its mask, of the
	// numbers that say where the target and the next entry begin; and its size.
	at := struct{ dst, mask, offsets, size int }{4, 12, 88, 112}
	if ipv6 {
		at.dst, at.mask, at.offsets, at.size = 16, 48, 140, 168
	}
	b := make([]byte, at.size)
	if dst.IsValid() {
		copy(b[at.dst:], dst.Masked().Addr().AsSlice())
		for i := range dst.Bits() {
			b[at.mask+i/8] |= 0x80 >> (i % 8)
		}
	}
	binary.NativeEndian.PutUint16(b[at.offsets:], uint16(at.size+len(match)))
	binary.NativeEndian.PutUint16(b[at.offsets+2:], uint16(at.size+len(match)+len(target)))
	return append(append(b, match...), target...)
}

//go:build linux

package proxy

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"
)

// The kernel walks a table by the offsets in it, and refuses one that does not
// add up.
func TestTablesAddUp(t *testing.T) {
	assert.Equal(t, uintptr(84), unsafe.Sizeof(xtInfo{}))
	assert.Equal(t, uintptr(96), unsafe.Sizeof(xtReplace{}))
	masq := []portSpan{{unix.IPPROTO_TCP, 30080, 30081}, {unix.IPPROTO_UDP, 30053, 30053}}
	for name, c := range map[string]struct {
		t             xtTable
		ipv6          bool
		offsets       int
		entries       int
		begin, policy [5]int // of each hook: the number of its first entry, and of its policy
	}{
		"filter, ipv4": {filterTable(netip.MustParsePrefix("10.96.0.0/12"), false), false, 88, 5, [5]int{-1, 0, 1, 3, -1}, [5]int{-1, 0, 2, 3, -1}},
		"filter, ipv6": {filterTable(netip.MustParsePrefix("fd00:96::/112"), true), true, 140, 5, [5]int{-1, 0, 1, 3, -1}, [5]int{-1, 0, 2, 3, -1}},
		"tracks":       {filterTable(netip.Prefix{}, false), false, 88, 5, [5]int{-1, 0, 1, 2, -1}, [5]int{-1, 0, 1, 3, -1}},
		"nat, ipv4":    {natTable(netip.MustParseAddr("10.64.0.1"), masq, false), false, 88, 8, [5]int{0, 3, -1, 4, 5}, [5]int{2, 3, -1, 4, 6}},
		"nat, ipv6":    {natTable(netip.MustParseAddr("fd00:64::1"), masq, true), true, 140, 8, [5]int{0, 3, -1, 4, 5}, [5]int{2, 3, -1, 4, 6}},
		"no nat":       {natTable(netip.MustParseAddr("10.64.0.1"), nil, false), false, 88, 5, [5]int{0, 1, -1, 2, 3}, [5]int{0, 1, -1, 2, 3}},
	} {
		r, b := c.t.blob(c.ipv6)
		assert.Equal(t, uint32(c.entries), r.Entries, name)
		assert.Equal(t, uint32(len(b)), r.Size, name)
		var starts []uint32
		for at := 0; at < len(b); {
			starts = append(starts, uint32(at))
			target := int(binary.NativeEndian.Uint16(b[at+c.offsets:]))
			next := int(binary.NativeEndian.Uint16(b[at+c.offsets+2:]))
			size := int(binary.NativeEndian.Uint16(b[at+target:]))
			assert.Equal(t, next, target+size, "%s: the target is the last part of an entry", name)
			assert.Zero(t, next%8, "%s: aligned", name)
			at += next
		}
		assert.Len(t, starts, c.entries, name)
		for hook := range 5 {
			if c.begin[hook] < 0 {
				assert.Zero(t, r.Hooks&(1<<hook), name)
				continue
			}
			assert.Equal(t, starts[c.begin[hook]], r.HookEntry[hook], "%s: hook %d", name, hook)
			assert.Equal(t, starts[c.policy[hook]], r.Underflow[hook], "%s: hook %d", name, hook)
		}
	}
}

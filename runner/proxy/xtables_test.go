//go:build linux

package proxy

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
)

// The kernel walks a table by the offsets in it, and refuses one that does not
// add up.
func TestFilterTableAddsUp(t *testing.T) {
	assert.Equal(t, uintptr(84), unsafe.Sizeof(xtInfo{}))
	assert.Equal(t, uintptr(96), unsafe.Sizeof(xtReplace{}))
	for name, c := range map[string]struct {
		vips          netip.Prefix
		ipv6          bool
		offsets, rest int
	}{
		"ipv4": {netip.MustParsePrefix("10.96.0.0/12"), false, 88, 112},
		"ipv6": {netip.MustParsePrefix("fd00:96::/112"), true, 140, 168},
	} {
		r, b := filterTable(c.vips, c.ipv6)
		assert.Equal(t, uint32(5), r.Entries, name)
		assert.Equal(t, uint32(len(b)), r.Size, name)
		var starts []uint32
		for at := 0; at < len(b); {
			starts = append(starts, uint32(at))
			target := int(binary.NativeEndian.Uint16(b[at+c.offsets:]))
			next := int(binary.NativeEndian.Uint16(b[at+c.offsets+2:]))
			size := int(binary.NativeEndian.Uint16(b[at+target:]))
			assert.Equal(t, next, target+size, "%s: the target is the last part of an entry", name)
			at += next
		}
		assert.Len(t, starts, 5, name)
		assert.Equal(t, [5]uint32{0, starts[0], starts[1], starts[3], 0}, r.HookEntry, name)
		assert.Equal(t, [5]uint32{0, starts[0], starts[2], starts[3], 0}, r.Underflow, name)
	}
	r, _ := filterTable(netip.Prefix{}, false)
	assert.Equal(t, uint32(5), r.Entries, "the rule that tracks")
	assert.Equal(t, r.HookEntry[hookForward], r.Underflow[hookForward], "nothing is rejected")
	assert.Less(t, r.HookEntry[hookOutput], r.Underflow[hookOutput])
}

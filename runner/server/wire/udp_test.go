package wire

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestUDPHeaderBytes(t *testing.T) {
	b := make([]byte, UDPHeaderSize)
	UDP{OneWay: true, Part: 1, Token: 0x0102030405060708, ID: 0x1112131415161718}.Put(b)
	assert.Equal(t, []byte("tfQ1\x01\x01\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x11\x12\x13\x14\x15\x16\x17\x18"), b)
	UDP{Answer: true}.Put(b)
	assert.Equal(t, []byte("tfA1"), b[:4])
}

func TestParseUDPRefuses(t *testing.T) {
	good := make([]byte, UDPHeaderSize)
	UDP{}.Put(good)
	_, ok := ParseUDP(good)
	require.True(t, ok)
	_, ok = ParseUDP(good[:UDPHeaderSize-1])
	assert.False(t, ok, "short")
	for i := range 8 {
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x80
		_, ok = ParseUDP(bad)
		assert.False(t, ok, "byte %d", i)
	}
}

func FuzzParseUDP(f *testing.F) {
	f.Add([]byte("tfQ1\x01\x01\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\x11\x12\x13\x14\x15\x16\x17\x18"))
	f.Add([]byte("tfA1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		u, ok := ParseUDP(b)
		if !ok {
			return
		}
		again := make([]byte, UDPHeaderSize)
		u.Put(again)
		assert.Equal(t, b[:UDPHeaderSize], again)
	})
}

package wire

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRequestBytes(t *testing.T) {
	b := Request{Flags: CloseFirst | NeverClose, Response: 0x01020304 & MaxPayload, Payload: 64}.Append(nil)
	assert.Equal(t, []byte{'T', 'F', 1, 5, 0x01, 0, 0, 0, 0, 0, 0, 64}, b)
	assert.Len(t, b, RequestHeader)
}

func TestResponseBytes(t *testing.T) {
	b := Response{Status: 3, Payload: 0x0a0b}.Append(nil)
	assert.Equal(t, []byte{'T', 'F', 1, 3, 0, 0, 0x0a, 0x0b}, b)
	assert.Len(t, b, ResponseHeader)
}

func TestParseRefuses(t *testing.T) {
	good := Request{Response: 1, Payload: 2}.Append(nil)
	_, err := ParseRequest(good)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   error
	}{
		"short":         {func(b []byte) []byte { return b[:RequestHeader-1] }, ErrForeign},
		"empty":         {func(b []byte) []byte { return nil }, ErrForeign},
		"magic":         {func(b []byte) []byte { b[0] = 'H'; return b }, ErrForeign},
		"version":       {func(b []byte) []byte { b[2] = 2; return b }, ErrForeign},
		"unknown flags": {func(b []byte) []byte { b[3] = 0x80; return b }, ErrForeign},
		"long answer":   {func(b []byte) []byte { b[4] = 0xff; return b }, ErrTooLarge},
		"long request":  {func(b []byte) []byte { b[8] = 0xff; return b }, ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseRequest(c.change(append([]byte(nil), good...)))
			assert.ErrorIs(t, err, c.want)
		})
	}
	_, err = ParseResponse([]byte("HTTP/1.1 400"))
	assert.ErrorIs(t, err, ErrForeign)
	_, err = ParseResponse([]byte{'T', 'F', 1, 0, 0xff, 0, 0, 0})
	assert.ErrorIs(t, err, ErrTooLarge)
}

// Whatever parses is written back as the same bytes, and nothing panics.
func FuzzParse(f *testing.F) {
	f.Add(Request{Flags: NeverClose, Response: 64, Payload: 64}.Append(nil))
	f.Add(Response{Payload: 9}.Append(nil))
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRequest(b); err == nil {
			assert.Equal(t, b[:RequestHeader], r.Append(nil))
			assert.LessOrEqual(t, r.Payload, uint32(MaxPayload))
		}
		if r, err := ParseResponse(b); err == nil {
			assert.Equal(t, b[:ResponseHeader], r.Append(nil))
		}
	})
}

package conntrack

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What is sent and what is read must agree on the protocol, for both families.
func TestBallastMessagesReadBack(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, n := range []uint32{0, 1, 32, portsPerSource - 1, portsPerSource, 262144, 5_000_000} {
			batch := createTemplate(v6, 77, ballastMark).append(nil, n, 1234, true)
			m, rest, err := nextMessage(batch)
			require.NoError(t, err)
			assert.Empty(t, rest)
			assert.EqualValues(t, ctNew, m.typ)
			assert.EqualValues(t, nlmRequest|nlmCreate|nlmExcl|nlmAck, m.flags)
			assert.EqualValues(t, 1234, m.seq)
			var e entry
			require.True(t, e.parse(m.body))
			from := ballastTuple(n, v6)
			to := ballastTo4
			if v6 {
				to = ballastTo6
			}
			assert.Equal(t, from, netip.AddrPortFrom(e.src.addr(e.v6), e.srcPort))
			assert.Equal(t, netip.AddrPortFrom(to, discardPort), netip.AddrPortFrom(e.dst.addr(e.v6), e.dstPort))
			assert.Equal(t, netip.AddrPortFrom(to, discardPort), netip.AddrPortFrom(e.replySrc.addr(e.v6), e.replySrcPort))
			assert.Equal(t, v6, e.v6)
			assert.EqualValues(t, protoTCP, e.proto)
			assert.EqualValues(t, tcpStateEstablished, e.state)
			assert.EqualValues(t, statusConfirmed|statusAssured|statusSeenReply, e.status)
			assert.True(t, isBallast(e.mark))
			assert.Equal(t, n%beaconEvery == 0, e.mark&bulkBit == 0, "a beacon")
			assert.EqualValues(t, 77, e.timeout)
		}
	}
}

func TestBallastTuplesDiffer(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		within := netip.MustParsePrefix("100.64.0.0/10")
		if v6 {
			within = netip.MustParsePrefix("100::/64")
		}
		seen := make(map[netip.AddrPort]bool)
		for n := range uint32(100_000) {
			from := ballastTuple(n, v6)
			assert.False(t, seen[from], "entry %d", n)
			seen[from] = true
		}
		// A table of 2^26 entries is beyond any machine; it still fits.
		assert.True(t, within.Contains(ballastTuple(1<<26, v6).Addr()))
	}
}

func TestBatchesAreSplitAgain(t *testing.T) {
	var batch []byte
	tmpl := renewTemplate(false, 60)
	for i := range uint32(5) {
		batch = tmpl.append(batch, i, 100+i, i == 4)
	}
	for i := range uint32(5) {
		var m message
		var err error
		m, batch, err = nextMessage(batch)
		require.NoError(t, err)
		assert.Equal(t, 100+i, m.seq)
		assert.Equal(t, i == 4, m.flags&nlmAck != 0)
		var e entry
		require.True(t, e.parse(m.body))
		assert.Equal(t, ballastTuple(i, false).Port(), e.srcPort)
	}
	assert.Empty(t, batch)
}

func TestDueForRenewal(t *testing.T) {
	for _, tt := range []struct {
		n              int
		elapsed, cycle float64
		want           int
	}{
		{1000, 0, 20, 0}, {1000, 5, 20, 250}, {1000, 19.999, 20, 999}, {1000, 20, 20, 1000}, {1000, 99, 20, 1000}, {0, 5, 20, 0}, {3, 10, 20, 1},
	} {
		assert.Equal(t, tt.want, dueForRenewal(tt.n, tt.elapsed, tt.cycle), "%+v", tt)
	}
}

func TestNextMessageRefuses(t *testing.T) {
	for name, buf := range map[string][]byte{
		"short":                make([]byte, 15),
		"length zero":          make([]byte, 16),
		"longer than the rest": append([]byte{17, 0, 0, 0}, make([]byte, 12)...),
	} {
		_, _, err := nextMessage(buf)
		assert.Error(t, err, name)
	}
}

func TestDumpPart(t *testing.T) {
	msg := func(typ, flags uint16, seq uint32, body ...byte) []byte {
		buf := binary.NativeEndian.AppendUint32(nil, uint32(nlmsgHdrLen+len(body)))
		buf = binary.NativeEndian.AppendUint16(buf, typ)
		buf = binary.NativeEndian.AppendUint16(buf, flags)
		buf = binary.NativeEndian.AppendUint32(buf, seq)
		return append(append(buf, 0, 0, 0, 0), body...)
	}
	errno := func(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
	concat := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	data := msg(ctNew, 2, 7, 1, 2, 3, 4)
	for _, tt := range []struct {
		name    string
		in      []byte
		entries int
		done    bool
		err     string
	}{
		{"more to come", concat(data, data), 2, false, ""},
		{"done", concat(data, msg(nlmsgDone, 2, 7, errno(0)...)), 1, true, ""},
		{"done without a code", msg(nlmsgDone, 2, 7), 0, true, ""},
		{"done with an error", concat(data, msg(nlmsgDone, 2, 7, errno(-12)...)), 1, true, "cannot allocate memory"},
		{"error", msg(nlmsgError, 0, 7, errno(-1)...), 0, true, "operation not permitted"},
		{"error without a code", msg(nlmsgError, 0, 7), 0, true, "0 bytes"},
		{"error with nonsense", msg(nlmsgError, 0, 7, errno(5)...), 0, true, "code 5"},
		{"other sequence", concat(msg(ctNew, 2, 6, 1, 2, 3, 4), data), 1, false, ""},
		{"interrupted", msg(ctNew, nlmDumpIntr, 7, 1, 2, 3, 4), 0, false, "inconsistent"},
		{"overrun", msg(nlmsgOverrun, 0, 7), 0, false, "lost"},
		{"no-op", concat(msg(nlmsgNoop, 0, 7), data), 1, false, ""},
		{"other type", msg(99, 0, 7), 0, false, "type 0x63"},
		{"cut off", concat(data, data[:19]), 1, false, "19 bytes are left"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			done, err := dumpPart(tt.in, 7, func([]byte) error { n++; return nil })
			assert.Equal(t, tt.entries, n)
			assert.Equal(t, tt.done, done)
			if tt.err == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, tt.err)
			}
		})
	}
}

// The parser works on what comes from a socket: whatever it is, it must not
// panic, nor read beyond the message, nor allocate.
func FuzzParseEntry(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		for _, tmpl := range []*template{createTemplate(v6, 60, ballastMark), renewTemplate(v6, 60)} {
			f.Add(tmpl.append(nil, 9, 9, false)[nlmsgHdrLen:])
		}
	}
	f.Add(dumpedEntry)
	f.Fuzz(func(t *testing.T, body []byte) {
		var e, again entry
		ok := e.parse(body)
		// Bytes behind the message must not matter.
		long := append(append(make([]byte, 0, len(body)+64), body...), 0xff, 0xff, 0xff, 0xff, 8, 0, 1, 0, 1, 2, 3, 4)
		okAgain := again.parse(long[:len(body)])
		assert.Equal(t, ok, okAgain)
		if ok {
			assert.Equal(t, e, again)
		}
	})
}

func FuzzDumpPart(f *testing.F) {
	batch := createTemplate(false, 60, ballastMark).append(nil, 1, 7, false)
	f.Add(createTemplate(true, 60, ballastMark).append(batch, 2, 7, true))
	f.Fuzz(func(t *testing.T, in []byte) {
		read := 0
		_, _ = dumpPart(in, 7, func(body []byte) error {
			read += nlmsgHdrLen + len(body)
			return nil
		})
		assert.LessOrEqual(t, read, len(in))
	})
}

func TestParseEntryDoesNotAllocate(t *testing.T) {
	var e entry
	tally := newTally(16)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if !e.parse(dumpedEntry) {
			t.Fatal("a real entry is malformed")
		}
		tally.add(&e)
	}))
}

// dumpedEntry is what a 6.18 kernel on amd64 sent about a connection from
// 10.96.0.1:56360 to 10.96.0.1:80 that DNAT had sent to 127.0.0.1:42725.
var dumpedEntry = []byte{
	0x02, 0x00, 0x00, 0x00, 0x34, 0x00, 0x01, 0x80, 0x14, 0x00, 0x01, 0x80, 0x08, 0x00, 0x01, 0x00, 0x0a, 0x60, 0x00, 0x01,
	0x08, 0x00, 0x02, 0x00, 0x0a, 0x60, 0x00, 0x01, 0x1c, 0x00, 0x02, 0x80, 0x05, 0x00, 0x01, 0x00, 0x06, 0x00, 0x00, 0x00,
	0x06, 0x00, 0x02, 0x00, 0xdc, 0x28, 0x00, 0x00, 0x06, 0x00, 0x03, 0x00, 0x00, 0x50, 0x00, 0x00, 0x34, 0x00, 0x02, 0x80,
	0x14, 0x00, 0x01, 0x80, 0x08, 0x00, 0x01, 0x00, 0x7f, 0x00, 0x00, 0x01, 0x08, 0x00, 0x02, 0x00, 0x0a, 0x60, 0x00, 0x01,
	0x1c, 0x00, 0x02, 0x80, 0x05, 0x00, 0x01, 0x00, 0x06, 0x00, 0x00, 0x00, 0x06, 0x00, 0x02, 0x00, 0xa6, 0xe5, 0x00, 0x00,
	0x06, 0x00, 0x03, 0x00, 0xdc, 0x28, 0x00, 0x00, 0x08, 0x00, 0x03, 0x00, 0x00, 0x00, 0x01, 0xae, 0x08, 0x00, 0x08, 0x00,
	0x00, 0x00, 0x00, 0x00, 0x08, 0x00, 0x0c, 0x00, 0x5c, 0xc1, 0x93, 0x28, 0x08, 0x00, 0x0b, 0x00, 0x00, 0x00, 0x00, 0x01,
	0x08, 0x00, 0x07, 0x00, 0x00, 0x06, 0x97, 0x7f, 0x30, 0x00, 0x04, 0x80, 0x2c, 0x00, 0x01, 0x80, 0x05, 0x00, 0x01, 0x00,
	0x03, 0x00, 0x00, 0x00, 0x05, 0x00, 0x02, 0x00, 0x0a, 0x00, 0x00, 0x00, 0x05, 0x00, 0x03, 0x00, 0x0a, 0x00, 0x00, 0x00,
	0x06, 0x00, 0x04, 0x00, 0x23, 0x00, 0x00, 0x00, 0x06, 0x00, 0x05, 0x00, 0x23, 0x00, 0x00, 0x00,
}

func TestParseEntryFromTheKernel(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("recorded on a little-endian machine")
	}
	var e entry
	require.True(t, e.parse(dumpedEntry))
	assert.Equal(t, entry{
		src: addr4("10.96.0.1"), dst: addr4("10.96.0.1"), replySrc: addr4("127.0.0.1"), srcPort: 56360, dstPort: 80, replySrcPort: 42725,
		proto: protoTCP, state: 3, status: 0x1ae, timeout: 0x6977f, id: 1556189992,
	}, e)
	// Cut anywhere, it reads the same whether or not more follows in memory.
	for n := range len(dumpedEntry) {
		var cut entry
		assert.Equal(t, e.parse(dumpedEntry[:n:n]), cut.parse(dumpedEntry[:n]), "cut at %d", n)
	}
}

package conntrack

import (
	"encoding/binary"
	"math"
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// walkOf is a walk over the entries from (included) to (excluded), by number.
func walkOf(t *turnover, from, to uint32, at float64) *runlog.Turnover {
	t.begin()
	for i := from; i < to; i++ {
		e := entry{id: i, srcPort: uint16(i), dstPort: 80, proto: protoTCP}
		binary.BigEndian.PutUint32(e.src[:], i>>8)
		t.add(&e)
	}
	return t.end(at)
}

func TestTurnover(t *testing.T) {
	x := newTurnover()
	assert.Nil(t, walkOf(x, 0, 1000, 10), "nothing to compare with")
	assert.Equal(t, &runlog.Turnover{Over: 2.5, Came: 300, Went: 200, OneIn: 1}, walkOf(x, 200, 1300, 12.5))
	assert.Equal(t, &runlog.Turnover{Over: 1, OneIn: 1}, walkOf(x, 200, 1300, 13.5))
	x.begin() // a walk that fails is no walk
	x.add(&entry{id: 99999})
	assert.Equal(t, &runlog.Turnover{Over: 2, Went: 1100, OneIn: 1}, walkOf(x, 0, 0, 15.5))

	// The same tuple once more is another entry, where the kernel says so.
	x = newTurnover()
	for id := range uint32(2) {
		x.begin()
		x.add(&entry{id: id, proto: protoUDP})
		if r := x.end(float64(id)); id == 1 {
			assert.Equal(t, &runlog.Turnover{Over: 1, Came: 1, Went: 1, OneIn: 1}, r)
		}
	}
}

// A large table is followed in part: the counts are estimates with the error
// that the record says they have, and the memory stays what it is.
func TestTurnoverOfALargeTable(t *testing.T) {
	x := newTurnover()
	walkOf(x, 0, 1_000_000, 0)
	assert.LessOrEqual(t, len(x.was.hashes), maxFollowed)
	for at := uint32(1); at < 6; at++ {
		r := walkOf(x, at*50_000, 1_000_000+at*50_000, float64(at))
		require.Greater(t, r.OneIn, uint64(8))
		for _, n := range []uint64{r.Came, r.Went} {
			assert.InDelta(t, 50_000, float64(n), 6*math.Sqrt(50_000*float64(r.OneIn)), "six standard errors, one in %d", r.OneIn)
		}
		assert.LessOrEqual(t, len(x.was.hashes), maxFollowed)
	}
	// A table that has become small is followed whole again.
	var r *runlog.Turnover
	for at := range uint32(8) {
		r = walkOf(x, at, 1000+at, float64(6+at))
	}
	assert.Equal(t, &runlog.Turnover{Over: 1, Came: 1, Went: 1, OneIn: 1}, r)
}

// A million entries from a million sources to a million destinations cost a few
// megabytes, and what is named is said to be as uncertain as it is.
func TestTallyOfAMillionSources(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	tl := newTally(10)
	tl.services = newSpaceSaving[serviceKey](sketchSize(10))
	tl.turnover = newTurnover()
	const heavy = 5_000
	e := entry{proto: protoTCP, state: tcpStateEstablished}
	for i := range uint32(1_000_000) {
		e.id, e.dstPort = i, 443
		binary.BigEndian.PutUint32(e.src[:], 0x0a000000+i)
		binary.BigEndian.PutUint32(e.dst[:], 0x0b000000+i)
		if i%200 == 7 { // heavy ones, all along
			e.src, e.dst = addr4("192.0.2.1"), addr4("192.0.2.2")
		}
		tl.add(&e)
	}
	c := tl.census(10)
	services := tl.topServices(10)
	runtime.GC()
	runtime.ReadMemStats(&after)
	assert.Less(t, float64(after.HeapAlloc)-float64(before.HeapAlloc), 16e6, "bytes in use")
	require.Len(t, c.Sources, 10)
	assert.Equal(t, netip.MustParseAddr("192.0.2.1"), c.Sources[0].Addr)
	assert.Equal(t, netip.MustParseAddrPort("192.0.2.2:443"), services[0].Addr)
	assert.Equal(t, "tcp", services[0].Proto)
	for _, n := range [][2]uint64{{c.Sources[0].Count, c.Sources[0].Error}, {services[0].Count, services[0].Error}} {
		assert.GreaterOrEqual(t, n[0], uint64(heavy))
		assert.LessOrEqual(t, n[0]-n[1], uint64(heavy))
		assert.LessOrEqual(t, n[1], uint64(1_000_000/1024))
	}
	for _, s := range c.Sources[1:] {
		assert.LessOrEqual(t, s.Count-s.Error, uint64(1), "the others have one each")
	}
	assert.Equal(t, []runlog.StateCount{{Proto: "tcp", State: "ESTABLISHED", Count: 1_000_000}}, c.States, "by state all are counted")
	runtime.KeepAlive(tl)
}

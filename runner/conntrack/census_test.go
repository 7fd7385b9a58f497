package conntrack

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

func addr4(a string) (b address) {
	v := netip.MustParseAddr(a).As4()
	copy(b[:], v[:])
	return b
}

func TestTallyGroups(t *testing.T) {
	base := entry{
		src: addr4("10.0.0.1"), dst: addr4("10.96.0.10"), replySrc: addr4("10.1.0.5"),
		srcPort: 40000, dstPort: 80, replySrcPort: 8080, proto: protoTCP, state: 3, status: statusAssured | statusSeenReply,
	}
	tl := newTally(2)
	add := func(n int, change func(*entry)) {
		for i := range n {
			e := base
			e.srcPort += uint16(i)
			change(&e)
			tl.add(&e)
		}
	}
	add(5, func(*entry) {})
	add(4, func(e *entry) { e.state = 7 })
	add(3, func(e *entry) { e.state, e.status = 1, 0; e.src = addr4("10.0.0.2") })
	add(2, func(e *entry) { e.proto, e.state, e.status = protoUDP, 0, statusSeenReply; e.dstPort = 53 })
	add(1, func(e *entry) { e.proto, e.srcPort, e.dstPort, e.replySrcPort, e.state = protoICMP, 0, 0, 0, 0 })
	add(6, func(e *entry) { e.mark = ballastMark })
	add(1, func(e *entry) { e.mark = ballastMark &^ bulkBit })
	c := tl.census(1)
	vip, pod := netip.MustParseAddrPort("10.96.0.10:80"), netip.MustParseAddrPort("10.1.0.5:8080")
	assert.Equal(t, &runlog.Census{
		Entries: 22, Ballast: 7,
		Groups: []runlog.CensusGroup{
			{Proto: "tcp", State: "ESTABLISHED", Assured: true, Replied: true, Service: vip, Backend: pod, Count: 5},
			{Proto: "tcp", State: "TIME_WAIT", Assured: true, Replied: true, Service: vip, Backend: pod, Count: 4},
			{Proto: "tcp", State: "SYN_SENT", Service: vip, Backend: pod, Count: 3},
			{Proto: "udp", Replied: true, Service: netip.MustParseAddrPort("10.96.0.10:53"), Backend: pod, Count: 2},
			{Proto: "icmp", Assured: true, Replied: true, Service: netip.MustParseAddrPort("10.96.0.10:0"), Backend: netip.MustParseAddrPort("10.1.0.5:0"), Count: 1},
		},
		Sources: []runlog.TopSource{{Addr: netip.MustParseAddr("10.0.0.1"), Count: 12}},
	}, c)
	tl.reset()
	assert.Equal(t, &runlog.Census{Groups: []runlog.CensusGroup{}, Sources: []runlog.TopSource{}}, tl.census(1))
}

// An IPv4 address and the IPv6 address with the same first bytes are two.
func TestTallyTellsFamiliesApart(t *testing.T) {
	tl := newTally(4)
	e := entry{src: addr4("1.2.3.4"), dst: addr4("5.6.7.8"), proto: protoUDP}
	tl.add(&e)
	e.v6 = true
	tl.add(&e)
	c := tl.census(4)
	require.Len(t, c.Groups, 2)
	require.Len(t, c.Sources, 2)
	assert.NotEqual(t, c.Groups[0].Service.Addr().Is4(), c.Groups[1].Service.Addr().Is4())
}

func TestTallyIsBounded(t *testing.T) {
	tl := newTally(10)
	e := entry{proto: protoUDP}
	big := addr4("10.0.0.1")
	const services = 3 * maxGroups
	for i := range uint32(services) {
		e.dst = big
		tl.add(&e) // one heavy group among many small ones
		binary.BigEndian.PutUint32(e.dst[:], 0x0b000000+i)
		e.src = e.dst
		tl.add(&e)
	}
	c := tl.census(10)
	assert.Len(t, c.Groups, maxGroups)
	assert.Equal(t, uint64(2*services), c.Entries)
	sum := c.Other
	for _, g := range c.Groups {
		sum += g.Count
	}
	assert.Equal(t, c.Entries, sum, "every entry is in a group or in Other")
	assert.Equal(t, uint64(services), c.Groups[0].Count)
	assert.Equal(t, []runlog.StateCount{{Proto: "udp", Count: 2 * services}}, c.States, "by state all are counted")
	assert.Len(t, tl.sources.heap, tl.sources.capacity)
}

func TestStateAndProtocolNames(t *testing.T) {
	assert.Equal(t, "SYN_SENT", stateName(1))
	assert.Equal(t, "SYN_SENT2", stateName(9))
	assert.Equal(t, "10", stateName(10))
	assert.Equal(t, "udp", protoName(17))
	assert.Equal(t, "132", protoName(132))
}

// The promise of the sketch, against exact counts: bounds hold for every
// counter, and no heavy source is missing.
func TestSpaceSavingKeepsItsPromise(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	zipf := rand.NewZipf(rnd, 1.1, 1, 100_000)
	const capacity, n = 256, 200_000
	s := newSpaceSaving[sourceKey](capacity)
	exact := make(map[netip.Addr]uint64)
	for range n {
		var k sourceKey
		binary.BigEndian.PutUint32(k.addr[:], uint32(zipf.Uint64()))
		s.add(k)
		exact[k.addr.addr(false)]++
	}
	seen := make(map[netip.Addr]bool)
	var sum uint64
	for _, c := range s.top(capacity, sourceKey.compare) {
		addr := c.key.addr.addr(false)
		seen[addr] = true
		sum += c.count
		assert.LessOrEqual(t, exact[addr], c.count, "%v", c)
		assert.GreaterOrEqual(t, exact[addr], c.count-c.error, "%v", c)
		assert.LessOrEqual(t, c.error, uint64(n/capacity), "%v", c)
	}
	assert.EqualValues(t, n, sum)
	for a, count := range exact {
		if count > n/capacity {
			assert.True(t, seen[a], "%v occurred %d times", a, count)
		}
	}
}

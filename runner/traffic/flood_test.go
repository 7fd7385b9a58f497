//go:build linux

package traffic

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/scenarios"
)

func floodLoad(target netip.AddrPort, f scenarios.Flood) env.Job {
	j := load(target, 200*time.Millisecond)
	if f.Rate == 0 && f.Ramp == nil {
		f.Rate = 5000
	}
	j.Load.Traffic.Flood = &f
	return j
}

var (
	floodTarget4 = netip.MustParseAddrPort("10.77.0.2:8080")
	floodTarget6 = netip.MustParseAddrPort("[fd77::2]:8080")
	macA         = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	macB         = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

// checksum is RFC 1071 word by word, as the RFC writes it: nothing is shared
// with what it checks.
func checksum(parts ...[]byte) uint16 {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	var sum uint32
	for len(b) > 1 {
		sum += uint32(binary.BigEndian.Uint16(b))
		b = b[2:]
		if sum>>16 != 0 {
			sum = sum&0xffff + 1
		}
	}
	return ^uint16(sum)
}

// A frame byte by byte, worked out by hand.
func TestFloodFrameGolden(t *testing.T) {
	l := *floodLoad(floodTarget4, scenarios.Flood{}).Load
	f, err := newFloodFrames(l, "syn", 4, macA, macB)
	require.NoError(t, err)
	b := f.frame()
	f.put(b, 6) // source 2, the second packet of it
	src := 1025 + (int(mix(2)%floodPorts)+floodStride)%floodPorts
	assert.Equal(t, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}, b[:14])
	assert.Equal(t, []byte{0x45, 0, 0, 44, 0, 6, 0x40, 0, 64, 6}, b[14:24])
	assert.Equal(t, []byte{198, 18, 0, 3, 10, 77, 0, 2}, b[26:34])
	assert.Equal(t, []byte{byte(src >> 8), byte(src), 0x1f, 0x90}, b[34:38])
	assert.Equal(t, []byte{0, 0, 0, 0, 0x60, 2, 0xfa, 0xf0}, b[42:50])
	assert.Equal(t, []byte{0, 0, 2, 4, 5, 180}, b[52:58])
	assert.Len(t, b, 58)
}

func TestFloodChecksums(t *testing.T) {
	for _, target := range []netip.AddrPort{floodTarget4, floodTarget6} {
		for _, kind := range []string{"syn", "udp"} {
			l := *floodLoad(target, scenarios.Flood{}).Load
			l.Ports, l.Seed = 3, 99
			f, err := newFloodFrames(l, kind, 65534, macA, macB)
			require.NoError(t, err)
			b := f.frame()
			for k := range uint64(30000) {
				f.put(b, k*7919)
				ip, transport, pseudo := b[14:], []byte(nil), []byte(nil)
				if target.Addr().Is4() {
					if c := checksum(ip[:20]); c != 0 {
						t.Fatalf("checksum of the IPv4 header of packet %d is off by %#x", k, c)
					}
					transport = ip[20:]
					pseudo = append(append(pseudo, ip[12:20]...), 0, ip[9], 0, byte(len(transport)))
				} else {
					transport = ip[40:]
					pseudo = append(append(pseudo, ip[8:40]...), 0, 0, 0, byte(len(transport)), 0, 0, 0, ip[6])
				}
				if c := checksum(pseudo, transport); c != 0 {
					t.Fatalf("checksum of %s packet %d to %v is off by %#x", kind, k, target, c)
				}
			}
		}
	}
}

// No tuple comes again before every one has been; sources take turns.
func TestFloodTuplesNeverRepeat(t *testing.T) {
	l := *floodLoad(floodTarget4, scenarios.Flood{}).Load
	l.Seed, l.Ports = 5, 2
	const sources = 3
	w := newFloodTuples(sources, l)
	sourceTuples := make([]bool, sources<<16)
	tuples := make([]bool, sources<<17)
	for k := range uint64(sources * floodPorts * 2) {
		s, src, dst := w.at(k)
		if s != k%sources || src < firstFloodPort {
			t.Fatalf("packet %d is from source %d, port %d", k, s, src)
		}
		i := int(s)<<16 | int(src)
		if k < sources*floodPorts {
			if sourceTuples[i] {
				t.Fatalf("packet %d repeats a source tuple", k)
			}
			sourceTuples[i] = true
		}
		i += int(dst-8080) * (sources << 16)
		if tuples[i] {
			t.Fatalf("packet %d repeats a tuple", k)
		}
		tuples[i] = true
	}
	s, src, dst := w.at(sources * floodPorts * 2)
	s0, src0, dst0 := w.at(0)
	assert.Equal(t, []any{s0, src0, dst0}, []any{s, src, dst}, "and then again")
}

// Counting packets agrees with listing them, whatever the steps.
func TestFloodPlanCountsLikeSchedule(t *testing.T) {
	for name, p := range map[string]scenarios.Pacing{
		"rate":   {Rate: 1234},
		"slow":   {Rate: 3},
		"ramp":   {Ramp: &scenarios.Ramp{From: 0, To: 3000}},
		"sine":   {Sine: &scenarios.Sine{Mean: 1000, Amplitude: 900, Period: scenarios.Duration(700 * time.Millisecond)}},
		"stages": {Stages: []scenarios.Stage{{To: 500, For: scenarios.Duration(time.Second)}, {From: new(scenarios.Rate), To: 0, For: scenarios.Duration(time.Second)}, {From: new(scenarios.Rate), To: 900, For: scenarios.Duration(time.Second)}}},
	} {
		t.Run(name, func(t *testing.T) {
			pacer, err := PacerOf(p, 2500*time.Millisecond)
			require.NoError(t, err)
			start, end := 0.95, 3.45
			want, total := map[int64]uint64{}, uint64(0)
			for s := NewSchedule(pacer, start, end); ; total++ {
				due, _, ok := s.Next()
				if !ok {
					break
				}
				want[floorDiv(int64(seconds(due)), binNanos)]++
			}
			plan := newFloodPlan(pacer, seconds(start), seconds(end))
			due, done := map[int64]uint64{}, map[int64]uint64{}
			add := func(m map[int64]uint64, parts []floodPart) {
				for _, p := range parts {
					m[p.bin] += p.n
				}
			}
			for now := 0.0; now < 4; now += 0.0137 {
				add(due, plan.becomeDue(now))
				add(done, plan.take(plan.waiting()*2/3))
			}
			add(done, plan.take(1<<60))
			_, more := plan.next(4)
			assert.False(t, more)
			assert.Equal(t, due, done)
			if name == "sine" { // vegeta's sine solves for due times only approximately
				assert.InDelta(t, total, plan.due, 2)
				return
			}
			assert.Equal(t, total, plan.due)
			assert.Equal(t, want, due)
		})
	}
}

// Ten seconds of 10 000 000/s are counted at once.
func TestFloodPlanGivesUpInBulk(t *testing.T) {
	pacer, err := PacerOf(scenarios.Pacing{Rate: 1e7}, 10*time.Second)
	require.NoError(t, err)
	p := newFloodPlan(pacer, 0, 10*time.Second)
	calls := 0
	p.pacer = countingPacer{pacer, &calls}
	p.becomeDue(9.5)
	assert.Equal(t, uint64(95e6), p.due)
	n := uint64(0)
	for _, part := range p.giveUp(9.5) {
		n += part.n
	}
	assert.Equal(t, uint64(94e6), n)
	assert.Equal(t, uint64(1e6), p.waiting())
	assert.Less(t, calls, 20000)
}

type countingPacer struct {
	pacer interface {
		Pace(time.Duration, uint64) (time.Duration, bool)
		Rate(time.Duration) float64
	}
	n *int
}

func (c countingPacer) Pace(d time.Duration, n uint64) (time.Duration, bool) {
	*c.n++
	return c.pacer.Pace(d, n)
}
func (c countingPacer) Rate(d time.Duration) float64 { return c.pacer.Rate(d) }

// peer makes a second namespace, joined to this one by a veth pair, and
// returns a function that runs another inside it.
func peer(t *testing.T) (inside func(func())) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	require.NoError(t, err)
	there, err := netns.New()
	require.NoError(t, err)
	require.NoError(t, netns.Set(here))
	t.Cleanup(func() { _ = there.Close(); _ = here.Close() })
	inside = func(f func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			if assert.NoError(t, netns.Set(there)) {
				f()
			}
		}()
		<-done
	}
	a := netlink.NewLinkAttrs()
	a.Name = "flood0"
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "node0", PeerNamespace: netlink.NsFd(int(there))}))
	up := func(name, v4, v6 string) {
		l, err := netlink.LinkByName(name)
		require.NoError(t, err)
		for _, s := range []string{v4, v6} {
			addr, err := netlink.ParseAddr(s)
			require.NoError(t, err)
			addr.Flags = unix.IFA_F_NODAD
			require.NoError(t, netlink.AddrAdd(l, addr))
		}
		require.NoError(t, netlink.LinkSetUp(l))
	}
	up("flood0", "10.77.0.1/24", "fd77::1/64")
	inside(func() {
		up("node0", "10.77.0.2/24", "fd77::2/64")
		for dst, gw := range map[string]string{"198.18.0.0/15": "10.77.0.1", "2001:2::/48": "fd77::1"} {
			_, n, err := net.ParseCIDR(dst)
			require.NoError(t, err)
			require.NoError(t, netlink.RouteAdd(&netlink.Route{Dst: n, Gw: net.ParseIP(gw)}))
		}
	})
	// The first questions to a neighbour may be lost while the link comes up.
	for _, target := range []netip.AddrPort{floodTarget4, floodTarget6} {
		var err error
		for range 5 {
			if _, err = findFloodPath(t.Context(), target.Addr()); err == nil {
				break
			}
		}
		require.NoError(t, err)
	}
	return inside
}

// sniffer opens a packet socket that takes what comes in on this namespace's
// interface.
func sniffer(t *testing.T, name string) (fd int) {
	t.Helper()
	l, err := net.InterfaceByName(name)
	require.NoError(t, err)
	all := uint16(unix.ETH_P_ALL)<<8 | unix.ETH_P_ALL>>8
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, int(all))
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: l.Index, Protocol: all}))
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	return fd
}

// sniffed counts the incoming frames for which match is true.
func sniffed(fd int, match func(b []byte) bool) (n uint64) {
	b := make([]byte, 2048)
	for {
		size, from, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			return n
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING && match(b[:size]) {
			n++
		}
	}
}

func TestFlood(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	inside := peer(t)
	t.Run("arrives", func(t *testing.T) { floodArrives(t, inside) })
	t.Run("as fast as possible", floodAsFastAsPossible)
	t.Run("stops", floodStops)
	t.Run("no neighbour", floodWithoutNeighbour)
}

// A real kernel takes every SYN for one: it answers with SYN/ACK, and every
// datagram for one: it gets to a socket.
func floodArrives(t *testing.T, inside func(func())) {
	for i, target := range []netip.AddrPort{floodTarget4, floodTarget6} {
		var listener net.Listener
		var packets *net.UDPConn
		inside(func() {
			var err error
			listener, err = net.Listen("tcp", target.String())
			require.NoError(t, err)
			packets, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(target))
			require.NoError(t, err)
		})
		fd := sniffer(t, "flood0")
		got, _ := run(t, t.Context(), floodLoad(target, scenarios.Flood{Sources: 100}))
		assert.Equal(t, uint64(999), got.due)
		sent := got.outcomes[runlog.OK] // all, unless this machine has no CPU for us for 0.1 s
		assert.Equal(t, got.due, sent+got.notStarted[runlog.Behind])
		assert.Positive(t, sent)
		flags := 14 + 20 + 13
		if i == 1 {
			flags = 14 + 40 + 13
		}
		synacks := uint64(0)
		require.Eventually(t, func() bool {
			synacks += sniffed(fd, func(b []byte) bool { return len(b) > flags && b[flags]&0x3f == 0x12 })
			return synacks >= sent
		}, 10*time.Second, 10*time.Millisecond, "SYN/ACKs of a kernel that found nothing wrong with the SYNs")

		got, _ = run(t, t.Context(), floodLoad(target, scenarios.Flood{Kind: "udp", Sources: 3, Pacing: scenarios.Pacing{Rate: 500}}))
		sent = got.outcomes[runlog.OK]
		assert.Equal(t, uint64(99), got.due)
		assert.Positive(t, sent)
		seen := map[netip.AddrPort]bool{}
		b := make([]byte, 2048)
		require.NoError(t, packets.SetReadDeadline(time.Now().Add(10*time.Second)))
		for range sent {
			n, from, err := packets.ReadFromUDPAddrPort(b)
			require.NoError(t, err)
			assert.Equal(t, floodPayload, n)
			seen[from] = true
		}
		assert.Len(t, seen, int(sent), "no source twice")
		require.NoError(t, listener.Close())
		require.NoError(t, packets.Close())
	}
}

// Asked for more than any machine can do, it says how much it did; and it
// ends.
func floodAsFastAsPossible(t *testing.T) {
	j := floodLoad(floodTarget4, scenarios.Flood{Pacing: scenarios.Pacing{Rate: 1e7}})
	j.Load.End = 1.2
	got, _ := run(t, t.Context(), j)
	assert.Equal(t, uint64(12e6-1), got.due)
	assert.Positive(t, got.outcomes[runlog.OK])
	assert.Positive(t, got.notStarted[runlog.Behind])
	assert.Equal(t, got.due-got.started, got.lost, "each packet that was not sent is in a Loss")
}

func floodStops(t *testing.T) {
	j := floodLoad(floodTarget4, scenarios.Flood{Pacing: scenarios.Pacing{Rate: 1e7}})
	j.Load.End = 3600
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	got, _ := run(t, ctx, j)
	assert.Positive(t, got.notStarted[runlog.Stopped])
}

func floodWithoutNeighbour(t *testing.T) {
	w, err := New(floodLoad(netip.MustParseAddrPort("10.77.0.9:80"), scenarios.Flood{}))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = w.Run(ctx, func() { t.Error("ready") }, new(records))
	assert.ErrorContains(t, err, "10.77.0.9")
	w, err = New(floodLoad(netip.MustParseAddrPort("192.0.2.1:80"), scenarios.Flood{}))
	require.NoError(t, err)
	assert.ErrorIs(t, w.Run(t.Context(), func() { t.Error("ready") }, new(records)), unix.ENETUNREACH)
}

func TestFloodRefusesJobs(t *testing.T) {
	for name, change := range map[string]func(j *env.Job){
		"shape":   func(j *env.Job) { j.Load.Traffic.Flood = nil },
		"kind":    func(j *env.Job) { j.Load.Traffic.Flood.Kind = "icmp" },
		"sources": func(j *env.Job) { j.Load.Traffic.Flood.Sources = maxFloodSources + 1 },
		"target":  func(j *env.Job) { j.Load.Target = netip.AddrPort{} },
		"ports":   func(j *env.Job) { j.Load.Ports = 65535 },
		"pacing":  func(j *env.Job) { j.Load.Traffic.Flood.Pacing = scenarios.Pacing{} },
	} {
		j := floodLoad(floodTarget4, scenarios.Flood{})
		_, err := NewFlood(j)
		require.NoError(t, err)
		change(&j)
		_, err = NewFlood(j)
		assert.Error(t, err, name)
	}
}

func BenchmarkFloodFrame(b *testing.B) {
	for _, target := range []netip.AddrPort{floodTarget4, floodTarget6} {
		b.Run(fmt.Sprint(target.Addr()), func(b *testing.B) {
			f, err := newFloodFrames(*floodLoad(target, scenarios.Flood{}).Load, "syn", 4096, macA, macB)
			require.NoError(b, err)
			frame := f.frame()
			k := uint64(0)
			for b.Loop() {
				f.put(frame, k)
				k++
			}
		})
	}
}

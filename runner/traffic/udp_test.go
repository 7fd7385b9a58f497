//go:build linux

package traffic

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/server"
	"github.com/tablefull/tablefull/runner/server/wire"
	"github.com/tablefull/tablefull/scenarios"
)

// serveAs is serve for any protocol.
func serveAs(t *testing.T, protocol string, at netip.AddrPort, ports int, s scenarios.Server) (stop func() *records) {
	t.Helper()
	w, err := server.New(env.Job{Serve: &env.ServeJob{Service: "web", Backend: "web-1", Protocol: protocol, Addr: at, Ports: ports, Server: s}})
	require.NoError(t, err)
	stop, _ = start(t, w)
	return stop
}

// run runs a load job of any shape to its end, and checks that nothing is
// unaccounted for.
func run(t *testing.T, ctx context.Context, j env.Job) (totals, *records) {
	t.Helper()
	w, err := New(j)
	require.NoError(t, err)
	out := new(records)
	require.NoError(t, w.Run(ctx, func() {}, out))
	got := out.totals()
	sum := uint64(0)
	for _, n := range got.outcomes {
		sum += n
	}
	require.Equal(t, got.started, sum, "every attempt that was started has an outcome")
	for _, n := range got.notStarted {
		sum += n
	}
	require.Equal(t, got.due, sum, "every attempt that was due was started or not started")
	return got, out
}

func udpLoad(target netip.AddrPort, u scenarios.UDP) env.Job {
	j := load(target, 100*time.Millisecond)
	j.Load.Traffic.Timeout = scenarios.Duration(150 * time.Millisecond)
	if u.Rate == 0 {
		u.Rate = 1000
	}
	j.Load.Traffic.UDP = &u
	return j
}

// udpEntries lists the namespace's entries towards port.
func udpEntries(t *testing.T, port uint16) (flows []conntrack.Flow) {
	t.Helper()
	c, err := conntrack.Dial(nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	all, err := c.Dump(nil)
	require.NoError(t, err)
	for _, f := range all {
		if p := f.TupleOrig.Proto; p.DestinationPort == port && p.Protocol == unix.IPPROTO_UDP {
			flows = append(flows, f)
		}
	}
	return flows
}

func TestUDPAnswered(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	no := false
	port := uint16(5300)
	for _, target := range []netip.AddrPort{target4, target6} {
		for _, c := range []struct {
			name             string
			u                scenarios.UDP
			received, served uint64
			entries          int
		}{
			{"per_request", scenarios.UDP{}, 99, 99, 99},
			{"pair", scenarios.UDP{DNSPair: true}, 198, 198, 99},
			{"one-way", scenarios.UDP{Reply: &no}, 99, 0, 99},
			{"long_lived", scenarios.UDP{Socket: "long_lived", Sockets: 3}, 99, 99, 3},
			{"long_lived pair", scenarios.UDP{Socket: "long_lived", Sockets: 3, DNSPair: true, RequestBytes: 500}, 198, 198, 3},
			{"long_lived one-way", scenarios.UDP{Socket: "long_lived", Reply: &no}, 99, 0, 1},
			{"fixed port", scenarios.UDP{SourcePorts: &scenarios.SourcePorts{Fixed: 7000}}, 99, 99, 99},
			{"port range", scenarios.UDP{SourcePorts: &scenarios.SourcePorts{From: 7000, To: 7002}}, 99, 99, 99},
		} {
			t.Run(fmt.Sprint(target.Addr(), " ", c.name), func(t *testing.T) {
				port++
				target := netip.AddrPortFrom(target.Addr(), port)
				stop := serveAs(t, "udp", target, 1, scenarios.Server{})
				j := udpLoad(target, c.u)
				j.Load.Traffic.Timeout = scenarios.Duration(20 * time.Second)
				if c.u.SourcePorts != nil {
					j.Load.SourceCount = 100 // each source socket is used once: none can be in use still
				}
				got, _ := run(t, t.Context(), j)
				assert.Equal(t, uint64(99), got.due)
				assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 99}, got.outcomes)
				assert.Zero(t, got.lostPackets)
				assert.Len(t, udpEntries(t, port), c.entries)
				served := servedTotal(stop())
				assert.Equal(t, c.received, served.Accepted)
				assert.Equal(t, c.served, served.Served)
				assert.Zero(t, served.Errors)
			})
		}
	}
}

// Each datagram of a pair comes once, whether the second thread was awake in
// time or not, and both belong to one entry.
func TestUDPParallelPair(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	stop := serveAs(t, "udp", target4, 1, scenarios.Server{})
	j := udpLoad(target4, scenarios.UDP{DNSPair: true, Parallel: true, Pacing: scenarios.Pacing{Rate: 50}})
	j.Load.End, j.Load.Traffic.Timeout = j.Load.Start+0.6, scenarios.Duration(20*time.Second)
	got, _ := run(t, t.Context(), j)
	assert.NotZero(t, got.started)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: got.started}, got.outcomes)
	assert.Len(t, udpEntries(t, target4.Port()), int(got.started))
	assert.Equal(t, 2*got.started, servedTotal(stop()).Accepted)
}

func TestUDPOutcomes(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	port := uint16(5400)
	for _, target := range []netip.AddrPort{target4, target6} {
		for _, c := range []struct {
			behaviour, socket string
			pair              bool
			outcome           runlog.Outcome
			errno             string
			packets           uint64
		}{
			{"silent", "per_request", false, runlog.ResponseTimeout, "", 1},
			{"silent", "per_request", true, runlog.ResponseTimeout, "", 2},
			{"silent", "long_lived", true, runlog.ResponseTimeout, "", 2},
			{"stall", "per_request", false, runlog.ResponseTimeout, "", 1},
			{"refuse", "per_request", false, runlog.Refused, "ECONNREFUSED", 0},
			{"refuse", "per_request", true, runlog.Refused, "ECONNREFUSED", 0},
			{"refuse", "long_lived", false, runlog.Refused, "ECONNREFUSED", 0},
			{"refuse", "long_lived", true, runlog.Refused, "ECONNREFUSED", 0},
		} {
			t.Run(fmt.Sprint(target.Addr(), c.behaviour, c.socket, c.pair), func(t *testing.T) {
				port++
				target := netip.AddrPortFrom(target.Addr(), port)
				serveAs(t, "udp", target, 1, scenarios.Server{Behaviour: c.behaviour})
				j := udpLoad(target, scenarios.UDP{Pacing: scenarios.Pacing{Rate: 200}, Socket: c.socket, DNSPair: c.pair})
				if c.outcome != runlog.ResponseTimeout {
					j.Load.Traffic.Timeout = scenarios.Duration(20 * time.Second)
				}
				got, _ := run(t, t.Context(), j)
				assert.Equal(t, map[runlog.Outcome]uint64{c.outcome: 19}, got.outcomes)
				assert.Equal(t, 19*c.packets, got.lostPackets)
				require.Len(t, got.failures, 19)
				for i, f := range got.failures {
					assert.Equal(t, uint64(i), f.Seq)
					assert.Equal(t, c.errno, f.Errno)
					assert.Equal(t, "response", f.Phase)
					assert.Equal(t, c.packets, f.Packets)
					assert.Equal(t, "udp", f.Tuple.Proto)
					assert.Equal(t, target, f.Tuple.Dst)
					assert.True(t, clients4.Contains(f.Tuple.Src.Addr()) || clients6.Contains(f.Tuple.Src.Addr()), "%v", f.Tuple.Src)
					assert.NotZero(t, f.Tuple.Src.Port())
					assert.GreaterOrEqual(t, f.Start, f.Due)
				}
			})
		}
	}
}

// A datagram that netfilter drops on its sender's own host fails with EPERM.
func TestUDPNotPermitted(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	nft := nftables.Conn{}
	table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "drop"})
	chain := nft.AddChain(&nftables.Chain{Table: table, Name: "out", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	require.NoError(t, nft.Flush())
	for _, socket := range []string{"per_request", "long_lived"} {
		got, _ := run(t, t.Context(), udpLoad(target4, scenarios.UDP{Socket: socket, DNSPair: true}))
		assert.Equal(t, map[runlog.Outcome]uint64{runlog.NotPermitted: 99}, got.outcomes)
		assert.Zero(t, got.lostPackets)
		require.NotEmpty(t, got.failures)
		assert.Equal(t, "EPERM", got.failures[0].Errno)
		assert.Equal(t, "request", got.failures[0].Phase)
	}
}

func TestUDPUnreachable(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	got, _ := run(t, t.Context(), udpLoad(netip.MustParseAddrPort("192.0.2.7:53"), scenarios.UDP{}))
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.Unreachable: 99}, got.outcomes)
	require.NotEmpty(t, got.failures)
	assert.Equal(t, "ENETUNREACH", got.failures[0].Errno)
	assert.Equal(t, "connect", got.failures[0].Phase)
}

// Whatever comes that is not the answer: it is ignored, and told.
func TestUDPIgnoresStrangers(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(target4))
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			u, ok := wire.ParseUDP(b[:n])
			assert.True(t, ok)
			u.Answer = true
			for _, wrong := range []func(u *wire.UDP){
				func(u *wire.UDP) { u.ID += 1000 },
				func(u *wire.UDP) { u.ID -= 1000 },
				func(u *wire.UDP) { u.Token++ },
				func(u *wire.UDP) { u.Part = 1 },
				func(u *wire.UDP) { u.Answer = false },
			} {
				x := u
				wrong(&x)
				x.Put(b)
				_, _ = c.WriteToUDPAddrPort(b[:n], from)
			}
			_, _ = c.WriteToUDPAddrPort([]byte("hello"), from)
			_, _ = c.WriteToUDPAddrPort(nil, from)
			if u.ID%2 == 0 { // and twice the right one, which counts once
				u.Put(b)
				_, _ = c.WriteToUDPAddrPort(b[:n], from)
				_, _ = c.WriteToUDPAddrPort(b[:n], from)
			}
		}
	}()
	j := udpLoad(target4, scenarios.UDP{Socket: "long_lived"})
	j.Load.Traffic.Timeout = scenarios.Duration(time.Second)
	got, out := run(t, t.Context(), j)
	require.NoError(t, c.Close())
	<-done
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 50, runlog.ResponseTimeout: 49}, got.outcomes)
	var events []runlog.Event
	for _, r := range out.Records() {
		if r.Event != nil {
			events = append(events, *r.Event)
		}
	}
	require.Len(t, events, 1)
	assert.Equal(t, "udp_strays", events[0].Name)
	assert.NotEmpty(t, events[0].Fields["count"])
}

// Of a pair, one answer is not enough; the one that lacks is one lost packet.
func TestUDPHalfAPair(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(target4))
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if u, ok := wire.ParseUDP(b[:n]); ok && u.Part == 1 {
				u.Answer = true
				u.Put(b)
				_, _ = c.WriteToUDPAddrPort(b[:n], from)
			}
		}
	}()
	j := udpLoad(target4, scenarios.UDP{DNSPair: true})
	j.Load.Traffic.Timeout = scenarios.Duration(time.Second)
	got, _ := run(t, t.Context(), j)
	require.NoError(t, c.Close())
	<-done
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.ResponseTimeout: 99}, got.outcomes)
	assert.Equal(t, uint64(99), got.lostPackets)
}

func TestUDPDelayed(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	stop := serveAs(t, "udp", target4, 1, scenarios.Server{Delay: scenarios.Duration(50 * time.Millisecond)})
	j := udpLoad(target4, scenarios.UDP{})
	j.Load.Traffic.Timeout = scenarios.Duration(20 * time.Second)
	got, _ := run(t, t.Context(), j)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 99}, got.outcomes)
	assert.Equal(t, uint64(99), servedTotal(stop()).Served)

	serveAs(t, "udp", target6, 1, scenarios.Server{Delay: scenarios.Duration(time.Minute)})
	got, _ = run(t, t.Context(), udpLoad(target6, scenarios.UDP{}))
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.ResponseTimeout: 99}, got.outcomes)
}

func TestUDPManyPorts(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	stop := serveAs(t, "udp", target4, 4, scenarios.Server{})
	// 50 source sockets: each meets two of the ports.
	j := udpLoad(target4, scenarios.UDP{Pacing: scenarios.Pacing{Rate: 250}, SourcePorts: &scenarios.SourcePorts{From: 7000, To: 7009}})
	j.Load.End = 0.402
	j.Load.Ports, j.Load.SourceCount = 4, 5
	j.Load.Traffic.Timeout = scenarios.Duration(20 * time.Second)
	got, _ := run(t, t.Context(), j)
	assert.Equal(t, uint64(100), got.due)
	assert.Equal(t, got.due, got.outcomes[runlog.OK]+got.notStarted[runlog.NoPorts])
	entries := 0
	for i := range uint16(4) {
		n := len(udpEntries(t, target4.Port()+i))
		assert.Positive(t, n)
		entries += n
	}
	assert.EqualValues(t, got.outcomes[runlog.OK], entries)
	assert.Equal(t, got.outcomes[runlog.OK], servedTotal(stop()).Accepted)
}

func TestUDPPortsUsedUp(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serveAs(t, "udp", target4, 1, scenarios.Server{Behaviour: "silent"})
	j := udpLoad(target4, scenarios.UDP{SourcePorts: &scenarios.SourcePorts{From: 7000, To: 7001}})
	j.Load.SourceCount = 2
	j.Load.Traffic.Timeout = scenarios.Duration(1500 * time.Millisecond) // longer than the traffic lasts
	got, _ := run(t, t.Context(), j)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.ResponseTimeout: 4}, got.outcomes)
	assert.Equal(t, map[runlog.NotStartedReason]uint64{runlog.NoPorts: 95}, got.notStarted)
}

func TestUDPFilesUsedUp(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serveAs(t, "udp", target4, 1, scenarios.Server{Behaviour: "silent"})
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: spareFiles + 10, Max: spareFiles + 10}))
	j := udpLoad(target4, scenarios.UDP{})
	j.Load.Traffic.Timeout = scenarios.Duration(1500 * time.Millisecond)
	got, _ := run(t, t.Context(), j)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.ResponseTimeout: 10}, got.outcomes)
	assert.Equal(t, map[runlog.NotStartedReason]uint64{runlog.NoFiles: 89}, got.notStarted)
}

func TestUDPInterrupted(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serveAs(t, "udp", target4, 1, scenarios.Server{Behaviour: "silent"})
	j := udpLoad(target4, scenarios.UDP{})
	j.Load.Traffic.Timeout = scenarios.Duration(time.Hour)
	j.Load.End = 3600
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	got, _ := run(t, ctx, j)
	assert.Positive(t, got.due)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.Interrupted: got.started}, got.outcomes)
	assert.Equal(t, got.due, got.started+got.notStarted[runlog.Stopped])
}

func TestUDPBehind(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serveAs(t, "udp", target4, 1, scenarios.Server{})
	j := udpLoad(target4, scenarios.UDP{Pacing: scenarios.Pacing{Rate: 100}})
	j.Epoch -= 10e9
	j.Load.End = 9.495 // more than half a second of it is long past, whatever the scheduler does
	got, _ := run(t, t.Context(), j)
	assert.Equal(t, uint64(949), got.due)
	assert.GreaterOrEqual(t, got.notStarted[runlog.Behind], uint64(899))
	assert.Equal(t, got.started, got.late)
}

// Attempts in flight outgrow the ring without being mixed up.
func TestUDPManyInFlight(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serveAs(t, "udp", target4, 1, scenarios.Server{Delay: scenarios.Duration(150 * time.Millisecond)})
	j := udpLoad(target4, scenarios.UDP{Pacing: scenarios.Pacing{Rate: 20000}, Socket: "long_lived", Sockets: 64})
	j.Load.Traffic.Timeout = scenarios.Duration(10 * time.Second)
	got, _ := run(t, t.Context(), j)
	assert.Equal(t, uint64(1999), got.due)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 1999}, got.outcomes)
}

func TestUDPRefusesJobs(t *testing.T) {
	for name, change := range map[string]func(j *env.Job){
		"shape":       func(j *env.Job) { j.Load.Traffic.UDP = nil; j.Load.Traffic.HTTP = &scenarios.HTTP{} },
		"pacing":      func(j *env.Job) { j.Load.Traffic.UDP.Pacing = scenarios.Pacing{} },
		"too small":   func(j *env.Job) { j.Load.Traffic.UDP.RequestBytes = wire.UDPHeaderSize - 1 },
		"too large":   func(j *env.Job) { j.Load.Traffic.UDP.RequestBytes = udpMaxIPv4 + 1 },
		"timeout":     func(j *env.Job) { j.Load.Traffic.Timeout = 0 },
		"target":      func(j *env.Job) { j.Load.Target = netip.AddrPort{} },
		"ports":       func(j *env.Job) { j.Load.Ports = 65535 },
		"source port": func(j *env.Job) { j.Load.Traffic.UDP.SourcePorts = &scenarios.SourcePorts{From: 10, To: 9} },
		"sources":     func(j *env.Job) { j.Load.SourceCount = 1 << 17 },
		"family":      func(j *env.Job) { j.Load.Sources = clients6 },
	} {
		j := udpLoad(target4, scenarios.UDP{})
		_, err := NewUDP(j)
		require.NoError(t, err)
		change(&j)
		_, err = NewUDP(j)
		assert.Error(t, err, name)
	}
}

// The ring's slots are used again: an answer to an attempt that is over must
// not be taken for one to the attempt that has its slot now.
func TestUDPLateAnswerIsNobodys(t *testing.T) {
	e := &udpEngine{UDP: &UDP{token: 7}, flights: make([]udpFlight, 256), head: 300, tail: 310}
	for id := e.head; id < e.tail; id++ {
		e.flight(id).want = 1
	}
	assert.True(t, e.inFlight(wire.UDP{Token: 7, ID: 305}))
	assert.False(t, e.inFlight(wire.UDP{Token: 7, ID: 305 - 256}), "over")
	assert.False(t, e.inFlight(wire.UDP{Token: 7, ID: 305 + 256}), "not begun")
	assert.False(t, e.inFlight(wire.UDP{Token: 8, ID: 305}), "another traffic's")
	assert.False(t, e.inFlight(wire.UDP{Token: 7, ID: 305, Part: 1}), "not asked")
}

func TestUDPTuplesComeRoundLate(t *testing.T) {
	j := udpLoad(target4, scenarios.UDP{})
	j.Load.SourceCount, j.Load.Ports = 3, 5
	w, err := newUDPTuples(*j.Load, &scenarios.SourcePorts{From: 100, To: 119})
	require.NoError(t, err)
	type pair struct{ src, dst netip.AddrPort }
	seen, sources := map[pair]int{}, map[netip.AddrPort]int{}
	last := map[netip.AddrPort]int{}
	for i := range 2 * 3 * 20 * 5 {
		src, dst := w.next(w.source())
		seen[pair{src, dst}]++
		sources[src]++
		if at, ok := last[src]; ok {
			require.Equal(t, 60, i-at, "a source tuple comes back as late as it can")
		}
		last[src] = i
	}
	assert.Len(t, seen, 3*20*5)
	for p, n := range seen {
		require.Equal(t, 2, n, "%v", p)
	}
	assert.Len(t, sources, 60)
}

func TestUDPSeedDecidesWherePortsBegin(t *testing.T) {
	first := func(seed uint64) netip.AddrPort {
		j := udpLoad(target4, scenarios.UDP{})
		j.Load.Seed = seed
		w, err := newUDPTuples(*j.Load, nil)
		require.NoError(t, err)
		src, _ := w.next(w.source())
		return src
	}
	assert.Equal(t, first(1), first(1))
	assert.NotEqual(t, first(1), first(2))
	lo, hi := ephemeralPorts()
	assert.True(t, int(first(1).Port()) >= lo && int(first(1).Port()) <= hi)
}

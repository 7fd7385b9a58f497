//go:build linux

package traffic

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/server/wire"
	"github.com/tablefull/tablefull/scenarios"
)

func TestShortLivedEnds(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	port := uint16(8080)
	for _, target := range []netip.AddrPort{target4, target6} {
		for _, c := range []struct {
			mode, closer string
			state        uint8
		}{
			{"fin", "client", ctTimeWait},
			{"fin", "server", ctTimeWait},
			{"rst", "client", ctClose},
			{"rst", "server", ctClose},
			{"half", "client", ctCloseWait},
			{"half", "server", ctCloseWait},
			{"none", "client", ctEstablished},
			{"none", "server", ctEstablished},
		} {
			t.Run(fmt.Sprint(target.Addr(), c.mode, c.closer), func(t *testing.T) {
				port++
				target := netip.AddrPortFrom(target.Addr(), port)
				stop := serve(t, target, 1, scenarios.Server{})
				j := load(target, 200*time.Millisecond)
				j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 500}, Close: c.mode, Closer: c.closer}
				got := drive(t, j)
				assert.Equal(t, uint64(99), got.due)
				assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 99}, got.outcomes)
				assert.Empty(t, got.failures)
				// The last connections' ends may still be under way.
				assert.EventuallyWithT(t, func(ct *assert.CollectT) {
					assert.Equal(ct, map[uint8]int{c.state: 99}, states(t, port))
				}, 5*time.Second, 10*time.Millisecond)
				served := servedTotal(stop())
				assert.Equal(t, uint64(99), served.Accepted)
				assert.Equal(t, uint64(99), served.Served)
				assert.Zero(t, served.Errors)
				assert.Zero(t, served.Open)
			})
		}
	}
}

func servedTotal(out *records) (sum runlog.Served) {
	for _, r := range out.Records() {
		if r.Served != nil {
			sum.Accepted += r.Served.Accepted
			sum.Served += r.Served.Served
			sum.Errors += r.Served.Errors
			sum.Open = r.Served.Open
		}
	}
	return sum
}

func TestShortLivedOutcomes(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	port := uint16(9000)
	for _, c := range []struct {
		behaviour string
		outcome   runlog.Outcome
		errno     string
		phase     string
		packets   uint64
	}{
		{"refuse", runlog.Refused, "ECONNREFUSED", "connect", 0},
		{"reset", runlog.Reset, "ECONNRESET", "response", 0},
		{"silent", runlog.ResponseTimeout, "", "response", 0},
	} {
		t.Run(c.behaviour, func(t *testing.T) {
			port++
			target := netip.AddrPortFrom(target4.Addr(), port)
			serve(t, target, 1, scenarios.Server{Behaviour: c.behaviour})
			j := load(target, 100*time.Millisecond)
			if c.outcome == runlog.ResponseTimeout {
				j.Load.Traffic.Timeout = scenarios.Duration(300 * time.Millisecond)
			}
			j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 200}}
			got := drive(t, j)
			assert.Equal(t, map[runlog.Outcome]uint64{c.outcome: 19}, got.outcomes)
			require.Len(t, got.failures, 19)
			assert.Zero(t, got.lostPackets)
			for i, f := range got.failures {
				assert.Equal(t, c.errno, f.Errno)
				assert.Equal(t, c.phase, f.Phase)
				assert.Equal(t, c.packets, f.Packets)
				assert.Equal(t, target, f.Tuple.Dst)
				assert.True(t, clients4.Contains(f.Tuple.Src.Addr()), "%v", f.Tuple.Src)
				assert.NotZero(t, f.Tuple.Src.Port(), "failure %d", i)
				assert.GreaterOrEqual(t, f.Start, f.Due)
			}
		})
	}
}

// A server that does not accept: the queue takes backlog+1 connections, and
// the SYNs of all others are dropped.
func TestShortLivedStall(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serve(t, target4, 1, scenarios.Server{Behaviour: "stall", Backlog: 4})
	j := load(target4, 100*time.Millisecond)
	// Long enough for one SYN to be repeated.
	j.Load.Traffic.Timeout = scenarios.Duration(1300 * time.Millisecond)
	j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 200}}
	got := drive(t, j)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.ResponseTimeout: 5, runlog.ConnectTimeout: 14}, got.outcomes)
	assert.Equal(t, uint64(28), got.lostPackets, "two SYNs each")
	for _, f := range got.failures {
		if f.Outcome == runlog.ConnectTimeout {
			assert.Equal(t, uint64(2), f.Packets)
			assert.Equal(t, "connect", f.Phase)
		}
		assert.NotZero(t, f.Tuple.Src.Port())
	}
}

func TestShortLivedUnreachable(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	j := load(netip.MustParseAddrPort("203.0.113.1:80"), 50*time.Millisecond)
	j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 200}}
	got := drive(t, j)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.Unreachable: 9}, got.outcomes)
	assert.Equal(t, "ENETUNREACH", got.failures[0].Errno)
}

// A fixed port serves one connection at a time for each address and
// destination; the shortage is the generator's, not the network's.
func TestShortLivedPortsUsedUp(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serve(t, target4, 2, scenarios.Server{Behaviour: "silent"})
	j := load(target4, 100*time.Millisecond)
	j.Load.Ports = 2
	j.Load.SourceCount = 5
	j.Load.Traffic.Timeout = scenarios.Duration(time.Second)
	j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 200}, SourcePorts: &scenarios.SourcePorts{Fixed: 5000}}
	got := drive(t, j)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.ResponseTimeout: 10}, got.outcomes)
	assert.Equal(t, map[runlog.NotStartedReason]uint64{runlog.NoPorts: 9}, got.notStarted)
	require.Len(t, got.failures, 19)
	assert.Equal(t, netip.MustParseAddrPort("10.9.0.1:5000"), got.failures[0].Tuple.Src)
	assert.Equal(t, runlog.NoPorts, got.failures[0].NotStarted)
	assert.Equal(t, "EADDRNOTAVAIL", got.failures[0].Errno)
}

// A port that was chosen explicitly is taken again while its last connection
// is in TIME_WAIT: the kernel has the timestamps to tell them apart. Every
// attempt then meets the conntrack entry of the one before.
func TestShortLivedReusesPorts(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serve(t, target4, 1, scenarios.Server{})
	j := load(target4, time.Second)
	j.Load.SourceCount = 5
	j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 50}, SourcePorts: &scenarios.SourcePorts{Fixed: 5000}}
	got := drive(t, j)
	// One may meet its predecessor, where that takes more than 100 ms.
	assert.Equal(t, got.due, got.outcomes[runlog.OK]+got.notStarted[runlog.NoPorts])
	assert.Greater(t, got.outcomes[runlog.OK], uint64(5))
	n := 0
	for _, c := range states(t, target4.Port()) {
		n += c
	}
	assert.Equal(t, 5, n)
}

func TestShortLivedCycle(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serve(t, target4, 1, scenarios.Server{Behaviour: "reset"})
	j := load(target4, 100*time.Millisecond)
	j.Load.SourceCount = 3
	j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 100}, SourcePorts: &scenarios.SourcePorts{From: 5000, To: 5001}}
	got := drive(t, j)
	require.Len(t, got.failures, 9)
	for i, want := range []string{"10.9.0.1:5000", "10.9.0.2:5000", "10.9.0.3:5000", "10.9.0.1:5001", "10.9.0.2:5001", "10.9.0.3:5001", "10.9.0.1:5000"} {
		assert.Equal(t, netip.MustParseAddrPort(want), got.failures[i].Tuple.Src)
	}
}

// Requests and answers that need more than one segment, and a server that
// takes its time.
func TestShortLivedLargeAndDelayed(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	for i, closer := range []string{"client", "server"} {
		for k, mode := range []string{"fin", "rst"} {
			t.Run(mode+closer, func(t *testing.T) {
				target := netip.AddrPortFrom(target4.Addr(), uint16(8100+2*i+k))
				stop := serve(t, target, 1, scenarios.Server{Delay: scenarios.Duration(20 * time.Millisecond)})
				j := load(target, 100*time.Millisecond)
				j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 50}, RequestBytes: 300_000, ResponseBytes: 7_000_000, Close: mode, Closer: closer}
				got := drive(t, j)
				assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 4}, got.outcomes)
				served := servedTotal(stop())
				assert.Equal(t, uint64(4), served.Served)
				assert.Zero(t, served.Errors)
			})
		}
	}
}

// listen answers each connection's first request with answer, and then
// closes.
func listen(t *testing.T, at netip.AddrPort, answer []byte) {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(c, make([]byte, wire.RequestHeader+64))
			_, _ = c.Write(answer)
			_ = c.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
}

func TestShortLivedForeignServers(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	payload := func(n int) []byte { return append(wire.Response{Payload: uint32(n)}.Append(nil), make([]byte, n)...) }
	port := uint16(9100)
	for name, c := range map[string]struct {
		answer []byte
		want   runlog.Outcome
	}{
		"right":          {payload(64), runlog.OK},
		"nothing":        {nil, runlog.Closed},
		"half a header":  {payload(64)[:5], runlog.Closed},
		"half an answer": {payload(64)[:30], runlog.Closed},
		"other protocol": {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), runlog.BadResponse},
		"too long":       {append(payload(64), 'x'), runlog.BadResponse},
		"other length":   {payload(63), runlog.BadResponse},
		"status":         {append(wire.Response{Status: 1, Payload: 64}.Append(nil), make([]byte, 64)...), runlog.BadResponse},
	} {
		t.Run(name, func(t *testing.T) {
			port++
			target := netip.AddrPortFrom(target4.Addr(), port)
			listen(t, target, c.answer)
			j := load(target, 100*time.Millisecond)
			j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 50}}
			got := drive(t, j)
			assert.Equal(t, map[runlog.Outcome]uint64{c.want: 4}, got.outcomes)
			for _, f := range got.failures {
				assert.Equal(t, "response", f.Phase)
				assert.Empty(t, f.Errno)
			}
		})
	}
}

// What is under way when the job is stopped is neither success nor failure.
func TestShortLivedInterrupted(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serve(t, target4, 1, scenarios.Server{Behaviour: "silent"})
	j := load(target4, time.Hour)
	j.Load.Traffic.Timeout = scenarios.Duration(time.Hour)
	j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 100}}
	w, err := New(j)
	require.NoError(t, err)
	stop, out := start(t, w)
	require.Eventually(t, func() bool { return out.totals().started >= 10 }, 20*time.Second, 10*time.Millisecond)
	got := stop().totals()
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.Interrupted: got.started}, got.outcomes)
	assert.Equal(t, got.due, got.started+got.notStarted[runlog.Stopped])
	assert.Zero(t, got.lost)
}

// Far more than any machine can do: what could not be begun in time is
// counted, and the job ends when it should all the same.
func TestShortLivedBehind(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serve(t, target4, 1, scenarios.Server{})
	j := load(target4, 1500*time.Millisecond)
	j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 400_000}}
	j.Load.FailuresPerSecond = 10
	got := drive(t, j)
	assert.Equal(t, uint64(599_999), got.due)
	assert.NotZero(t, got.notStarted[runlog.Behind])
	assert.NotZero(t, got.late)
	assert.LessOrEqual(t, len(got.failures), 10*6)
	assert.Equal(t, got.due-got.outcomes[runlog.OK], uint64(len(got.failures))+got.lost)
}

// Ended before it began.
func TestShortLivedStoppedAtOnce(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	j := load(target4, time.Hour)
	j.Load.Start = 1000
	j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 100}}
	w, err := NewShortLived(j)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	out := new(records)
	require.NoError(t, w.Run(ctx, func() {}, out))
	assert.Zero(t, out.totals().due)
}

func TestShortLivedRefusesJobs(t *testing.T) {
	rate := scenarios.Pacing{Rate: 1}
	for name, s := range map[string]scenarios.ShortLived{
		"close":        {Pacing: rate, Close: "bang"},
		"closer":       {Pacing: rate, Closer: "nobody"},
		"no rate":      {},
		"ports":        {Pacing: rate, SourcePorts: &scenarios.SourcePorts{From: 10, To: 9}},
		"large":        {Pacing: rate, RequestBytes: 1 << 30},
		"large answer": {Pacing: rate, ResponseBytes: 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			j := load(target4, time.Second)
			j.Load.Traffic.ShortLived = &s
			_, err := NewShortLived(j)
			assert.Error(t, err)
		})
	}
	t.Run("a source that is not this host's", func(t *testing.T) {
		j := load(target4, time.Second)
		j.Load.Sources = netip.MustParsePrefix("203.0.113.0/24")
		j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: rate}
		w, err := NewShortLived(j)
		require.NoError(t, err)
		err = w.Run(t.Context(), func() { t.Error("ready") }, new(records))
		assert.ErrorContains(t, err, "203.0.113.1")
	})
}

//go:build linux

package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/server"
	"github.com/tablefull/tablefull/scenarios"
)

var oneShot = false // for KeepAlive

func httpLoad(target netip.AddrPort, h scenarios.HTTP) env.Job {
	j := load(target, 100*time.Millisecond)
	j.Load.Traffic.Timeout = scenarios.Duration(20 * time.Second)
	if h.Rate == 0 {
		h.Rate = 500
	}
	j.Load.Traffic.HTTP = &h
	return j
}

func TestHTTPAnswered(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	for _, target := range []netip.AddrPort{target4, target6} {
		stop := serveAs(t, "http", target, 1, scenarios.Server{})
		got, out := run(t, t.Context(), httpLoad(target, scenarios.HTTP{KeepAlive: &oneShot}))
		assert.Equal(t, uint64(49), got.due)
		assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 49}, got.outcomes)
		for _, r := range out.Records() {
			if r.Latency != nil {
				assert.NotEmpty(t, r.Latency.Connect, "each attempt has a handshake")
			}
			assert.Nil(t, r.Event)
		}
		served := servedTotal(stop())
		assert.Equal(t, uint64(49), served.Accepted, "each attempt has a connection of its own")
		assert.Equal(t, uint64(49), served.Served)
		assert.Zero(t, served.Open)

		stop = serveAs(t, "http", target, 1, scenarios.Server{})
		got, _ = run(t, t.Context(), httpLoad(target, scenarios.HTTP{Path: "/some?where"}))
		assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 49}, got.outcomes)
		served = servedTotal(stop())
		assert.Equal(t, uint64(49), served.Served)
		assert.Less(t, served.Accepted, uint64(49), "connections are kept")
	}
}

// Connections come from each source address in turn, and each port serves.
func TestHTTPSources(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serveAs(t, "http", target4, 2, scenarios.Server{Behaviour: "reset"})
	j := httpLoad(target4, scenarios.HTTP{KeepAlive: &oneShot})
	j.Load.Ports = 2
	got, _ := run(t, t.Context(), j)
	require.Len(t, got.failures, 49)
	src, dst := map[netip.Addr]int{}, map[uint16]int{}
	for _, f := range got.failures {
		src[f.Tuple.Src.Addr()]++
		dst[f.Tuple.Dst.Port()]++
		assert.NotZero(t, f.Tuple.Src.Port())
		assert.Equal(t, "tcp", f.Tuple.Proto)
	}
	assert.Len(t, src, 8)
	assert.Equal(t, map[uint16]int{8080: 25, 8081: 24}, dst)
}

// raw answers each connection's first request with bytes, then closes.
func raw(t *testing.T, at netip.AddrPort, answer string) {
	t.Helper()
	l, err := net.Listen("tcp", at.String())
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(b)
			_, _ = c.Write([]byte(answer))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}

func TestHTTPOutcomes(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	port := uint16(8100)
	for _, c := range []struct {
		behaviour, answer string // of a server of ours, or the bytes to answer with
		timeout           time.Duration
		outcome           runlog.Outcome
		errno, phase      string
	}{
		{behaviour: "refuse", outcome: runlog.Refused, errno: "ECONNREFUSED", phase: "connect"},
		{behaviour: "reset", outcome: runlog.Reset, errno: "ECONNRESET", phase: "response"},
		{behaviour: "silent", timeout: 500 * time.Millisecond, outcome: runlog.ResponseTimeout, phase: "response"},
		{answer: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123", outcome: runlog.Closed, phase: "response"},
		{answer: "", outcome: runlog.Closed, phase: "response"},
		{answer: "HTTP/1.1 200 O", outcome: runlog.Closed, phase: "response"},
		{answer: "220 smtp.example.com ESMTP\r\n\r\n", outcome: runlog.BadResponse, phase: "response"},
		{answer: "HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", outcome: runlog.BadResponse, errno: "HTTP_503", phase: "response"},
	} {
		for _, keep := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s%.20q %v", c.behaviour, c.answer, keep), func(t *testing.T) {
				port++
				target := netip.AddrPortFrom(target4.Addr(), port)
				if c.behaviour != "" {
					serveAs(t, "http", target, 1, scenarios.Server{Behaviour: c.behaviour})
				} else {
					raw(t, target, c.answer)
				}
				j := httpLoad(target, scenarios.HTTP{Pacing: scenarios.Pacing{Rate: 100}, KeepAlive: &keep})
				if c.timeout > 0 {
					j.Load.Traffic.Timeout = scenarios.Duration(c.timeout)
				}
				got, _ := run(t, t.Context(), j)
				assert.Equal(t, map[runlog.Outcome]uint64{c.outcome: 9}, got.outcomes)
				assert.Zero(t, got.lostPackets)
				require.Len(t, got.failures, 9)
				for _, f := range got.failures {
					assert.Equal(t, c.errno, f.Errno)
					assert.Equal(t, c.phase, f.Phase)
					assert.Equal(t, target, f.Tuple.Dst)
					assert.GreaterOrEqual(t, f.Start, f.Due)
				}
			})
		}
	}
}

// The answer begins and never ends.
func TestHTTPBodyTimeout(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	l, err := net.Listen("tcp", target4.String())
	require.NoError(t, err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "64")
		_, _ = w.Write([]byte("begin"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	s.Listener = l
	s.Start()
	defer s.Close()
	j := httpLoad(target4, scenarios.HTTP{Pacing: scenarios.Pacing{Rate: 100}})
	j.Load.Traffic.Timeout = scenarios.Duration(500 * time.Millisecond)
	got, _ := run(t, t.Context(), j)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.ResponseTimeout: 9}, got.outcomes)
}

// SYNs that a full listen queue drops are counted: one within the first
// second, two when there was time to send it again.
func TestHTTPConnectTimeout(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	port := uint16(8300)
	for timeout, syns := range map[time.Duration]uint64{700 * time.Millisecond: 1, 1500 * time.Millisecond: 2} {
		port++
		target := netip.AddrPortFrom(target4.Addr(), port)
		t.Run(timeout.String(), func(t *testing.T) {
			t.Parallel()
			serveAs(t, "http", target, 1, scenarios.Server{Behaviour: "stall", Backlog: 2})
			j := httpLoad(target, scenarios.HTTP{Pacing: scenarios.Pacing{Rate: 200}, KeepAlive: &oneShot})
			j.Load.Traffic.Timeout = scenarios.Duration(timeout)
			got, _ := run(t, t.Context(), j)
			assert.Equal(t, map[runlog.Outcome]uint64{runlog.ResponseTimeout: 3, runlog.ConnectTimeout: 16}, got.outcomes)
			assert.Equal(t, 16*syns, got.lostPackets)
			for _, f := range got.failures {
				if f.Outcome == runlog.ConnectTimeout {
					assert.Equal(t, syns, f.Packets)
					assert.Equal(t, "connect", f.Phase)
				}
			}
		})
	}
}

func TestHTTPUnreachable(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	got, _ := run(t, t.Context(), httpLoad(netip.MustParseAddrPort("192.0.2.7:80"), scenarios.HTTP{}))
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.Unreachable: 49}, got.outcomes)
	require.NotEmpty(t, got.failures)
	assert.Equal(t, "ENETUNREACH", got.failures[0].Errno)
}

func TestHTTPPortsUsedUp(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	setSysctl(t, "net/ipv4/ip_local_port_range", "40000 40001")
	serveAs(t, "http", target4, 1, scenarios.Server{Behaviour: "silent"})
	j := httpLoad(target4, scenarios.HTTP{KeepAlive: &oneShot})
	j.Load.SourceCount = 2
	j.Load.Traffic.Timeout = scenarios.Duration(1500 * time.Millisecond)
	got, _ := run(t, t.Context(), j)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.ResponseTimeout: 4}, got.outcomes)
	assert.Equal(t, map[runlog.NotStartedReason]uint64{runlog.NoPorts: 45}, got.notStarted)
}

func TestHTTPInterrupted(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	for _, behaviour := range []string{"silent", "stall"} {
		target := netip.AddrPortFrom(target4.Addr(), uint16(8400+len(behaviour)))
		serveAs(t, "http", target, 1, scenarios.Server{Behaviour: behaviour, Backlog: 1})
		j := httpLoad(target, scenarios.HTTP{})
		j.Load.End = 3600
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		got, _ := run(t, ctx, j)
		cancel()
		assert.Positive(t, got.due)
		assert.Equal(t, got.due, got.outcomes[runlog.Interrupted]+got.notStarted[runlog.Stopped])
	}
}

func TestHTTPBehind(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serveAs(t, "http", target4, 1, scenarios.Server{})
	j := httpLoad(target4, scenarios.HTTP{Pacing: scenarios.Pacing{Rate: 100}})
	j.Epoch -= 10e9
	j.Load.End = 9.495
	got, _ := run(t, t.Context(), j)
	assert.Equal(t, uint64(949), got.due)
	assert.GreaterOrEqual(t, got.notStarted[runlog.Behind], uint64(899))
	assert.Equal(t, got.started, got.late)
}

// A kept connection that the server has closed: net/http sends the request
// again, and it is told.
func TestHTTPResent(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	l, err := net.Listen("tcp", target4.String())
	require.NoError(t, err)
	done := make(chan struct{})
	var conns sync.WaitGroup
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				b := make([]byte, 4096)
				_, _ = c.Read(b)
				_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1"))
				_, _ = c.Read(b) // and closes with the second request unanswered
			})
		}
	}()
	defer func() { _ = l.Close(); <-done; conns.Wait() }()
	j := httpLoad(target4, scenarios.HTTP{Pacing: scenarios.Pacing{Rate: 5}})
	j.Load.End = 0.7
	got, out := run(t, t.Context(), j)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 3}, got.outcomes)
	var event *runlog.Event
	for _, r := range out.Records() {
		if r.Event != nil {
			event = r.Event
		}
	}
	require.NotNil(t, event)
	assert.Equal(t, "http_hidden", event.Name)
	assert.NotEqual(t, "0", event.Fields["resent"])
}

func TestHTTPThroughGateway(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	gateway := func(upstream netip.AddrPort, keep bool, port uint16) (netip.AddrPort, func() *records) {
		at := netip.AddrPortFrom(target4.Addr(), port)
		w, err := server.New(env.Job{Serve: &env.ServeJob{Service: "gw", Backend: "gw-1", Protocol: "http", Addr: at, Ports: 1, Upstream: upstream, Gateway: &scenarios.Gateway{KeepAlive: &keep}}})
		require.NoError(t, err)
		stop, _ := start(t, w)
		return at, stop
	}
	for i, keep := range []bool{true, false} {
		backend := netip.AddrPortFrom(target4.Addr(), uint16(8500+i))
		stop := serveAs(t, "http", backend, 1, scenarios.Server{})
		at, stopGateway := gateway(backend, keep, uint16(8600+i))
		got, _ := run(t, t.Context(), httpLoad(at, scenarios.HTTP{KeepAlive: &oneShot}))
		assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 49}, got.outcomes)
		gw := servedTotal(stopGateway())
		assert.Equal(t, uint64(49), gw.Accepted)
		assert.Equal(t, uint64(49), gw.Served)
		assert.Zero(t, gw.Errors)
		served := servedTotal(stop())
		assert.Equal(t, uint64(49), served.Served)
		if keep {
			assert.Less(t, served.Accepted, uint64(49))
		} else {
			assert.Equal(t, uint64(49), served.Accepted)
		}
	}
	for i, behaviour := range []string{"refuse", "reset"} {
		backend := netip.AddrPortFrom(target4.Addr(), uint16(8700+i))
		serveAs(t, "http", backend, 1, scenarios.Server{Behaviour: behaviour})
		at, stopGateway := gateway(backend, true, uint16(8800+i))
		got, _ := run(t, t.Context(), httpLoad(at, scenarios.HTTP{}))
		assert.Equal(t, map[runlog.Outcome]uint64{runlog.BadResponse: 49}, got.outcomes)
		assert.Equal(t, "HTTP_502", got.failures[0].Errno)
		gw := servedTotal(stopGateway())
		assert.Equal(t, uint64(49), gw.Errors)
		assert.Zero(t, gw.Served)
	}
}

// Where net/http hides why a connection failed, the connection knows.
func TestHTTPClassifies(t *testing.T) {
	hidden := errors.New("http: it broke, and nobody says why")
	for _, c := range []struct {
		err, conn, dial error
		want            httpOutcome
	}{
		{err: hidden, conn: &net.OpError{Op: "read", Err: syscall.ECONNRESET}, want: httpOutcome{outcome: runlog.Reset, errno: "ECONNRESET", phase: "request"}},
		{err: hidden, conn: io.EOF, want: httpOutcome{outcome: runlog.Closed, phase: "request"}},
		{err: hidden, conn: syscall.EPIPE, want: httpOutcome{outcome: runlog.Reset, errno: "EPIPE", phase: "request"}},
		{err: hidden, want: httpOutcome{outcome: runlog.Other, phase: "connect"}},
		{err: context.DeadlineExceeded, want: httpOutcome{outcome: runlog.ConnectTimeout, phase: "connect", syns: 3}},
		{err: syscall.ETIMEDOUT, want: httpOutcome{outcome: runlog.ConnectTimeout, errno: "ETIMEDOUT", phase: "connect", syns: 3}},
		{err: context.DeadlineExceeded, dial: syscall.ECONNREFUSED, want: httpOutcome{outcome: runlog.Refused, errno: "ECONNREFUSED", phase: "connect"}},
		{err: os.ErrDeadlineExceeded, conn: io.EOF, want: httpOutcome{outcome: runlog.ResponseTimeout, phase: "request"}},
		{err: syscall.EMFILE, want: httpOutcome{notStarted: runlog.NoFiles, errno: "EMFILE"}},
		{err: syscall.EPERM, want: httpOutcome{outcome: runlog.NotPermitted, errno: "EPERM", phase: "connect"}},
		{err: context.Canceled, conn: io.EOF, want: httpOutcome{outcome: runlog.Interrupted, phase: "request"}},
	} {
		a := &httpAttempt{err: c.err, dialErr: c.dial, syns: 3, dialed: math.NaN()}
		if c.conn != nil {
			a.conn = &httpConn{attempt: a}
			a.conn.note(net.ErrClosed) // net/http closing it explains nothing
			a.conn.note(c.conn)
		}
		got := a.finish(0, nil)
		assert.True(t, math.IsNaN(got.connected))
		got.connected = 0
		assert.Equal(t, c.want, got, "%v, %v, %v", c.err, c.conn, c.dial)
	}
}

func TestHTTPRefusesJobs(t *testing.T) {
	for name, change := range map[string]func(j *env.Job){
		"shape":       func(j *env.Job) { j.Load.Traffic.HTTP = nil },
		"pacing":      func(j *env.Job) { j.Load.Traffic.HTTP.Pacing = scenarios.Pacing{} },
		"timeout":     func(j *env.Job) { j.Load.Traffic.Timeout = 0 },
		"target":      func(j *env.Job) { j.Load.Target = netip.AddrPort{} },
		"connections": func(j *env.Job) { j.Load.Traffic.HTTP.Connections = -1 },
		"path":        func(j *env.Job) { j.Load.Traffic.HTTP.Path = "@example.com/" },
		"bad path":    func(j *env.Job) { j.Load.Traffic.HTTP.Path = "/%zz" },
	} {
		j := httpLoad(target4, scenarios.HTTP{})
		_, err := NewHTTP(j)
		require.NoError(t, err)
		change(&j)
		_, err = NewHTTP(j)
		assert.Error(t, err, name)
	}
}

func setSysctl(t *testing.T, name, value string) {
	t.Helper()
	require.NoError(t, os.WriteFile("/proc/sys/"+name, []byte(value), 0))
}

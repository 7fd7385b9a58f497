//go:build linux

package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/scenarios"
)

// counted is a Recorder that adds Served records up.
type counted struct {
	mu    sync.Mutex
	sum   runlog.Served
	times int
}

func (c *counted) Record(r runlog.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Served == nil {
		return
	}
	c.times++
	c.sum.Service, c.sum.Backend, c.sum.Open = r.Served.Service, r.Served.Backend, r.Served.Open
	c.sum.Accepted += r.Served.Accepted
	c.sum.Served += r.Served.Served
	c.sum.Draining += r.Served.Draining
	c.sum.Errors += r.Served.Errors
}

func (c *counted) get() (runlog.Served, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sum, c.times
}

// begin runs a server on the loopback of the test's own namespace until stop
// is called.
func begin(t *testing.T, j env.ServeJob) (stop func() runlog.Served, out *counted) {
	t.Helper()
	j.Service, j.Backend = "web", "web-1"
	w, err := New(env.Job{ID: "serve", Serve: &j})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	out = &counted{}
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- w.Run(ctx, sync.OnceFunc(func() { close(ready) }), out) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		require.NoError(t, err)
		t.Fatal("ended without being ready")
	}
	stop = sync.OnceValue(func() runlog.Served {
		cancel()
		require.NoError(t, <-done)
		sum, _ := out.get()
		return sum
	})
	t.Cleanup(func() { stop() })
	return stop, out
}

func loopback(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	require.NoError(t, err)
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	require.NoError(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r))
}

var (
	at4 = netip.MustParseAddrPort("127.0.0.1:8080")
	at6 = netip.MustParseAddrPort("[::1]:8080")
)

func httpClient(t *testing.T) *http.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func get(t *testing.T, c *http.Client, at netip.AddrPort) (string, int) {
	t.Helper()
	r, err := c.Get("http://" + at.String() + "/")
	require.NoError(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(b), r.StatusCode
}

func TestHTTPAnswers(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	for _, at := range []netip.AddrPort{at4, at6} {
		stop, out := begin(t, env.ServeJob{Protocol: "http", Addr: at, Ports: 2})
		c := httpClient(t)
		for i := range 6 {
			body, code := get(t, c, netip.AddrPortFrom(at.Addr(), at.Port()+uint16(i%2)))
			assert.Equal(t, 200, code)
			assert.Equal(t, "web-1"+strings.Repeat(".", 59), body)
		}
		assert.Eventually(t, func() bool { s, _ := out.get(); return s.Open == 2 && s.Served == 6 }, 10*time.Second, 10*time.Millisecond, "a record each second, not only at the end")
		served := stop()
		assert.Equal(t, runlog.Served{Service: "web", Backend: "web-1", Accepted: 2, Served: 6}, served, "stopping closes kept connections")
		_, err := net.Dial("tcp", at.String())
		assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	}
}

func TestHTTPBehaviours(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	begin(t, env.ServeJob{Protocol: "http", Addr: at4, Server: scenarios.Server{Behaviour: "refuse"}})
	_, err := net.Dial("tcp", at4.String())
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)

	at := netip.AddrPortFrom(at4.Addr(), 8081)
	stop, _ := begin(t, env.ServeJob{Protocol: "http", Addr: at, Server: scenarios.Server{Behaviour: "reset"}})
	err = getFails(httpClient(t), at)
	assert.ErrorIs(t, err, syscall.ECONNRESET)
	assert.Equal(t, uint64(1), stop().Accepted)

	at = netip.AddrPortFrom(at4.Addr(), 8082)
	stop, _ = begin(t, env.ServeJob{Protocol: "http", Addr: at, Server: scenarios.Server{Behaviour: "silent"}})
	conn, err := net.Dial("tcp", at.String())
	require.NoError(t, err)
	_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
	n, err := conn.Read(make([]byte, 100))
	assert.Zero(t, n)
	var timeout net.Error
	assert.True(t, errors.As(err, &timeout) && timeout.Timeout(), "%v", err)
	served := stop() // does not wait for the client, and does not answer it
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, _ = conn.Read(make([]byte, 100))
	assert.Zero(t, n)
	assert.Equal(t, runlog.Served{Service: "web", Backend: "web-1", Accepted: 1}, served)
	_ = conn.Close()
}

// A queue of n holds n+1 connections; nothing is accepted.
func TestHTTPStallAndBacklog(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	stop, _ := begin(t, env.ServeJob{Protocol: "http", Addr: at4, Server: scenarios.Server{Behaviour: "stall", Backlog: 3}})
	var open []net.Conn
	for range 6 {
		d := net.Dialer{Timeout: 300 * time.Millisecond}
		if c, err := d.Dial("tcp", at4.String()); err == nil {
			open = append(open, c)
		}
	}
	assert.Len(t, open, 4)
	assert.Zero(t, stop().Accepted)
	for _, c := range open {
		_ = c.Close()
	}
}

func TestHTTPDelay(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	stop, _ := begin(t, env.ServeJob{Protocol: "http", Addr: at4, Server: scenarios.Server{Delay: scenarios.Duration(100 * time.Millisecond)}})
	c := httpClient(t)
	began := time.Now()
	get(t, c, at4)
	assert.GreaterOrEqual(t, time.Since(began), 100*time.Millisecond)
	c.Timeout = 10 * time.Millisecond
	err := getFails(c, at4)
	require.Error(t, err)
	served := stop()
	assert.Equal(t, uint64(1), served.Served)
	assert.LessOrEqual(t, served.Errors, uint64(1), "an answer that nobody waited for")
}

func TestGatewayForwards(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	for i, at := range []netip.AddrPort{at4, at6} {
		backend := netip.AddrPortFrom(at.Addr(), 9000)
		stopBackend, _ := begin(t, env.ServeJob{Protocol: "http", Addr: backend})
		no := false
		g := &scenarios.Gateway{}
		if i == 1 {
			g.KeepAlive = &no
		}
		stop, _ := begin(t, env.ServeJob{Protocol: "http", Addr: at, Upstream: backend, Gateway: g})
		c := httpClient(t)
		c.Transport.(*http.Transport).DisableKeepAlives = true
		for range 5 {
			body, code := get(t, c, at)
			assert.Equal(t, 200, code)
			assert.True(t, strings.HasPrefix(body, "web-1."))
		}
		assert.Equal(t, runlog.Served{Service: "web", Backend: "web-1", Accepted: 5, Served: 5}, stop())
		conns := uint64(1)
		if i == 1 {
			conns = 5
		}
		assert.Equal(t, runlog.Served{Service: "web", Backend: "web-1", Accepted: conns, Served: 5}, stopBackend())
	}
}

func TestGatewayErrors(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	stop, _ := begin(t, env.ServeJob{Protocol: "http", Addr: at4, Upstream: netip.MustParseAddrPort("127.0.0.1:9")})
	_, code := get(t, httpClient(t), at4)
	assert.Equal(t, 502, code)
	assert.Equal(t, runlog.Served{Service: "web", Backend: "web-1", Accepted: 1, Errors: 1}, stop())

	// An upstream that breaks off in the middle of its answer.
	l, err := net.Listen("tcp", "127.0.0.1:9001")
	require.NoError(t, err)
	var broken atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"))
			_ = c.Close()
			broken.Add(1)
		}
	}()
	stop, _ = begin(t, env.ServeJob{Protocol: "http", Addr: at4, Upstream: netip.MustParseAddrPort("127.0.0.1:9001")})
	// The gateway breaks off as well. How much of the answer it has passed on
	// by then is its own affair.
	err = getFails(httpClient(t), at4)
	assert.ErrorIs(t, err, io.EOF)
	served := stop()
	assert.Equal(t, uint64(1), served.Errors)
	assert.Zero(t, served.Served)
	require.NoError(t, l.Close())
	<-done
	assert.Positive(t, broken.Load())

	// An upstream that never answers: the gateway waits as long as its client
	// does.
	silent := netip.MustParseAddrPort("127.0.0.1:9002")
	begin(t, env.ServeJob{Protocol: "http", Addr: silent, Server: scenarios.Server{Behaviour: "silent"}})
	stop, out := begin(t, env.ServeJob{Protocol: "http", Addr: at4, Upstream: silent})
	c := httpClient(t)
	c.Timeout = 200 * time.Millisecond
	require.Error(t, getFails(c, at4))
	require.Eventually(t, func() bool { s, _ := out.get(); return s.Errors == 1 }, 10*time.Second, 10*time.Millisecond)
	stop()
}

func TestHTTPAndUDPRefuseJobs(t *testing.T) {
	for name, j := range map[string]env.ServeJob{
		"no address":          {Protocol: "http"},
		"no udp address":      {Protocol: "udp"},
		"ports":               {Protocol: "http", Addr: netip.MustParseAddrPort("127.0.0.1:65535"), Ports: 2},
		"behaviour":           {Protocol: "http", Addr: at4, Server: scenarios.Server{Behaviour: "dance"}},
		"udp cannot reset":    {Protocol: "udp", Addr: at4, Server: scenarios.Server{Behaviour: "reset"}},
		"gateway to nowhere":  {Protocol: "http", Addr: at4, Gateway: &scenarios.Gateway{}},
		"gateway without one": {Protocol: "http", Upstream: at4},
	} {
		_, err := New(env.Job{Serve: &j})
		assert.Error(t, err, name)
	}
}

func TestHTTPAddressInUse(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	for _, protocol := range []string{"http", "udp"} {
		begin(t, env.ServeJob{Protocol: protocol, Addr: netip.AddrPortFrom(at4.Addr(), 8081)})
		w, err := New(env.Job{Serve: &env.ServeJob{Protocol: protocol, Addr: at4, Ports: 2}})
		require.NoError(t, err)
		err = w.Run(t.Context(), func() { t.Error("ready") }, &counted{})
		assert.ErrorIs(t, err, syscall.EADDRINUSE)
	}
}

// getFails is a request that is expected to fail: it returns why.
func getFails(c *http.Client, at netip.AddrPort) error {
	res, err := c.Get("http://" + at.String())
	if err == nil {
		err = res.Body.Close()
	}
	return err
}

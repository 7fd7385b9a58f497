//go:build linux

package server

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/server/wire"
	"github.com/tablefull/tablefull/scenarios"
)

func dialTCP(t *testing.T, at netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c
}

// exchange sends a request with a payload of 5 bytes and reads the answer,
// whose payload is to be 7.
func exchange(t *testing.T, c net.Conn, f wire.Flags) {
	t.Helper()
	_, err := c.Write(append(wire.Request{Flags: f, Response: 7, Payload: 5}.Append(nil), "12345"...))
	require.NoError(t, err)
	answer := make([]byte, wire.ResponseHeader+7)
	_, err = io.ReadFull(c, answer)
	require.NoError(t, err)
	r, err := wire.ParseResponse(answer)
	require.NoError(t, err)
	assert.Equal(t, wire.Response{Payload: 7}, r)
}

// end reads what comes after the answer: io.EOF, or an errno.
func end(c net.Conn) error {
	_, err := c.Read(make([]byte, 1))
	return err
}

func TestTCPAnswers(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	for _, at := range []netip.AddrPort{at4, at6} {
		t.Run(at.Addr().String(), func(t *testing.T) {
			stop, _ := begin(t, env.ServeJob{Protocol: "tcp", Addr: at, Ports: 3})
			for i := range 3 {
				c := dialTCP(t, netip.AddrPortFrom(at.Addr(), at.Port()+uint16(i)))
				exchange(t, c, 0)
				exchange(t, c, 0) // any number on one connection
				require.NoError(t, c.CloseWrite())
				assert.Equal(t, io.EOF, end(c), "it closes when the client does")
			}
			assert.Equal(t, runlog.Served{Service: "web", Backend: "web-1", Accepted: 3, Served: 6}, stop())
		})
	}
}

// A pod of both families answers at each address and port, and counts all.
func TestBothFamilies(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	for _, protocol := range []string{"tcp", "udp", "http"} {
		t.Run(protocol, func(t *testing.T) {
			stop, _ := begin(t, env.ServeJob{Protocol: protocol, Addr: at4, Also: at6.Addr(), Ports: 2})
			for _, addr := range []netip.Addr{at4.Addr(), at6.Addr()} {
				for i := range uint16(2) {
					at := netip.AddrPortFrom(addr, at4.Port()+i)
					switch protocol {
					case "tcp":
						exchange(t, dialTCP(t, at), 0)
					case "udp":
						c, err := net.Dial("udp", at.String())
						require.NoError(t, err)
						assert.NotNil(t, ask(t, c, request(wire.UDP{Part: 1, Token: 5, ID: 1}, 64), 10*time.Second), at)
						require.NoError(t, c.Close())
					case "http":
						resp, err := http.Get("http://" + at.String())
						require.NoError(t, err)
						require.NoError(t, resp.Body.Close())
						http.DefaultClient.CloseIdleConnections()
					}
				}
			}
			assert.EqualValues(t, 4, stop().Served)
		})
	}
}

func TestTCPEnds(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	stop, _ := begin(t, env.ServeJob{Protocol: "tcp", Addr: at4, Ports: 1})
	t.Run("closes first", func(t *testing.T) {
		c := dialTCP(t, at4)
		exchange(t, c, wire.CloseFirst)
		assert.Equal(t, io.EOF, end(c))
	})
	t.Run("resets when it may", func(t *testing.T) {
		c := dialTCP(t, at4)
		exchange(t, c, wire.ResetFirst)
		_, err := c.Write([]byte{wire.Done})
		require.NoError(t, err)
		assert.ErrorIs(t, end(c), syscall.ECONNRESET)
	})
	t.Run("never closes", func(t *testing.T) {
		c := dialTCP(t, at4)
		exchange(t, c, wire.NeverClose)
		require.NoError(t, c.CloseWrite())
		require.NoError(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		var timeout net.Error
		assert.True(t, errors.As(end(c), &timeout) && timeout.Timeout())
	})
	t.Run("stopping closes", func(t *testing.T) {
		c := dialTCP(t, at4)
		exchange(t, c, 0)
		got := stop()
		assert.Equal(t, io.EOF, end(c), "as the kernel does for a killed process")
		assert.Equal(t, runlog.Served{Service: "web", Backend: "web-1", Accepted: 4, Served: 4}, got)
	})
}

// A request may come in any pieces.
func TestTCPPieces(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	begin(t, env.ServeJob{Protocol: "tcp", Addr: at4, Ports: 1})
	c := dialTCP(t, at4)
	require.NoError(t, c.SetNoDelay(true))
	for range 2 {
		for _, b := range append(wire.Request{Response: 7, Payload: 5}.Append(nil), "12345"...) {
			_, err := c.Write([]byte{b})
			require.NoError(t, err)
			time.Sleep(time.Millisecond)
		}
		_, err := io.ReadFull(c, make([]byte, wire.ResponseHeader+7))
		require.NoError(t, err)
	}
}

func TestTCPRefusesForeignRequests(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	stop, _ := begin(t, env.ServeJob{Protocol: "tcp", Addr: at4, Ports: 1})
	for name, b := range map[string][]byte{
		"http":      []byte("GET / HTTP/1.1\r\n\r\n"),
		"too large": wire.Request{Response: wire.MaxPayload + 1}.Append(nil),
		"two at once": append(wire.Request{Response: 1, Payload: 0}.Append(nil),
			wire.Request{Response: 1, Payload: 0}.Append(nil)...),
	} {
		t.Run(name, func(t *testing.T) {
			c := dialTCP(t, at4)
			_, err := c.Write(b)
			require.NoError(t, err)
			assert.ErrorIs(t, end(c), syscall.ECONNRESET)
		})
	}
	assert.Equal(t, runlog.Served{Service: "web", Backend: "web-1", Accepted: 3, Errors: 3}, stop())
}

func TestTCPBehaviours(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	request := append(wire.Request{Response: 7, Payload: 5}.Append(nil), "12345"...)
	t.Run("silent", func(t *testing.T) {
		stop, _ := begin(t, env.ServeJob{Protocol: "tcp", Addr: at4, Ports: 1, Server: scenarios.Server{Behaviour: "silent"}})
		c := dialTCP(t, at4)
		assert.Nil(t, ask(t, c, request, 100*time.Millisecond))
		require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
		require.NoError(t, c.CloseWrite())
		assert.Equal(t, io.EOF, end(c))
		assert.Equal(t, runlog.Served{Service: "web", Backend: "web-1", Accepted: 1}, stop())
	})
	t.Run("reset", func(t *testing.T) {
		stop, _ := begin(t, env.ServeJob{Protocol: "tcp", Addr: at4, Ports: 1, Server: scenarios.Server{Behaviour: "reset"}})
		c := dialTCP(t, at4)
		_, err := c.Write(request)
		require.NoError(t, err)
		assert.ErrorIs(t, end(c), syscall.ECONNRESET)
		assert.Equal(t, runlog.Served{Service: "web", Backend: "web-1", Accepted: 1}, stop())
	})
	t.Run("refuse", func(t *testing.T) {
		begin(t, env.ServeJob{Protocol: "tcp", Addr: at4, Ports: 1, Server: scenarios.Server{Behaviour: "refuse"}})
		_, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at4))
		assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
	t.Run("stall", func(t *testing.T) {
		begin(t, env.ServeJob{Protocol: "tcp", Addr: at4, Ports: 1, Server: scenarios.Server{Behaviour: "stall", Backlog: 1}})
		dialTCP(t, at4)
		dialTCP(t, at4) // the queue holds one more than its length
		_, err := (&net.Dialer{Timeout: 100 * time.Millisecond}).Dial("tcp", at4.String())
		var timeout net.Error
		assert.True(t, errors.As(err, &timeout) && timeout.Timeout(), "%v", err)
	})
	t.Run("unknown", func(t *testing.T) {
		_, err := NewTCP(env.Job{Serve: &env.ServeJob{Addr: at4, Server: scenarios.Server{Behaviour: "dance"}}})
		assert.Error(t, err)
	})
}

func TestTCPDelay(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	const delay = 100 * time.Millisecond
	stop, _ := begin(t, env.ServeJob{Protocol: "tcp", Addr: at4, Ports: 1, Server: scenarios.Server{Delay: scenarios.Duration(delay)}})
	gone := dialTCP(t, at4)
	_, err := gone.Write(append(wire.Request{Payload: 5}.Append(nil), "12345"...))
	require.NoError(t, err)
	began := time.Now()
	c := dialTCP(t, at4)
	exchange(t, c, 0)
	exchange(t, c, 0)
	assert.GreaterOrEqual(t, time.Since(began), 2*delay)
	require.NoError(t, c.CloseWrite())
	assert.Equal(t, io.EOF, end(c))
	assert.Equal(t, uint64(3), stop().Served)
}

func TestTCPAddressInUse(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	begin(t, env.ServeJob{Protocol: "tcp", Addr: at4, Ports: 2})
	w, err := New(env.Job{Serve: &env.ServeJob{Protocol: "tcp", Addr: netip.AddrPortFrom(at4.Addr(), at4.Port()+1), Ports: 1}})
	require.NoError(t, err)
	err = w.Run(t.Context(), func() { t.Error("ready") }, &counted{})
	assert.ErrorIs(t, err, unix.EADDRINUSE)
	assert.ErrorContains(t, err, "127.0.0.1:8081")
}

// With few descriptors, connections that nobody will ever close make room for
// new ones, oldest first and without a packet.
func TestTCPKeepsWhatItCan(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	var files unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
	// As the limit is read when the server starts, the test itself is not short.
	files.Cur = tcpSpareFiles + 10
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &files))
	stop, out := begin(t, env.ServeJob{Protocol: "tcp", Addr: at4, Ports: 1})
	files.Cur = files.Max
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &files))

	var conns []net.Conn
	for range 30 {
		c := dialTCP(t, at4)
		exchange(t, c, wire.NeverClose)
		conns = append(conns, c)
	}
	require.Eventually(t, func() bool { sum, _ := out.get(); return sum.Accepted == 30 && sum.Open <= 10 }, 20*time.Second, 10*time.Millisecond)
	// Those that vanished do not answer; the others still do.
	exchange(t, conns[29], wire.NeverClose)
	require.NoError(t, conns[0].SetDeadline(time.Now().Add(100*time.Millisecond)))
	var timeout net.Error
	assert.True(t, errors.As(end(conns[0]), &timeout) && timeout.Timeout(), "nothing was sent")
	assert.Zero(t, stop().Errors)
}

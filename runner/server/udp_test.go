//go:build linux

package server

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/server/wire"
	"github.com/tablefull/tablefull/scenarios"
)

// ask sends b and returns what comes back within the time given; nil is
// nothing.
func ask(t *testing.T, c net.Conn, b []byte, within time.Duration) []byte {
	t.Helper()
	_, err := c.Write(b)
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(within)))
	answer := make([]byte, 2048)
	n, err := c.Read(answer)
	if err != nil {
		return nil
	}
	return answer[:n]
}

func request(u wire.UDP, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i)
	}
	u.Put(b)
	return b
}

func TestUDPEchoes(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	for _, at := range []netip.AddrPort{at4, at6} {
		stop, _ := begin(t, env.ServeJob{Protocol: "udp", Addr: at, Ports: 2})
		for i := range uint16(2) {
			c, err := net.Dial("udp", netip.AddrPortFrom(at.Addr(), at.Port()+i).String())
			require.NoError(t, err)
			u := wire.UDP{Part: 1, Token: 5, ID: 1 << 40}
			b := request(u, 700)
			answer := ask(t, c, b, 10*time.Second)
			u.Answer = true
			u.Put(b)
			assert.Equal(t, b, answer)

			u.Answer, u.OneWay = false, true
			assert.Nil(t, ask(t, c, request(u, 64), 50*time.Millisecond), "one that wants no answer")
			assert.Nil(t, ask(t, c, []byte("hello"), 50*time.Millisecond), "not ours")
			assert.Nil(t, ask(t, c, b, 50*time.Millisecond), "an answer: two servers must not play ping-pong")
			require.NoError(t, c.Close())
		}
		assert.Equal(t, runlog.Served{Service: "web", Backend: "web-1", Accepted: 8, Served: 2, Errors: 4}, stop())
	}
}

func TestUDPBehaviours(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	for _, c := range []struct {
		behaviour string
		accepted  uint64
	}{{"silent", 1}, {"stall", 0}, {"refuse", 0}} {
		stop, _ := begin(t, env.ServeJob{Protocol: "udp", Addr: at4, Server: scenarios.Server{Behaviour: c.behaviour}})
		conn, err := net.Dial("udp", at4.String())
		require.NoError(t, err)
		assert.Nil(t, ask(t, conn, request(wire.UDP{}, 64), 100*time.Millisecond))
		if c.behaviour == "refuse" {
			_, err = conn.Write(request(wire.UDP{}, 64))
			require.NoError(t, err)
			_, err = conn.Read(make([]byte, 100))
			assert.ErrorIs(t, err, syscall.ECONNREFUSED)
		}
		served := stop()
		assert.Equal(t, c.accepted, served.Accepted, c.behaviour)
		assert.Zero(t, served.Served)
		assert.Zero(t, served.Errors)
		require.NoError(t, conn.Close())
	}
}

func TestUDPDelays(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	stop, _ := begin(t, env.ServeJob{Protocol: "udp", Addr: at4, Server: scenarios.Server{Delay: scenarios.Duration(100 * time.Millisecond)}})
	c, err := net.Dial("udp", at4.String())
	require.NoError(t, err)
	defer c.Close()
	began := time.Now()
	require.NotNil(t, ask(t, c, request(wire.UDP{ID: 1}, 64), 10*time.Second))
	assert.GreaterOrEqual(t, time.Since(began), 100*time.Millisecond)
	assert.Nil(t, ask(t, c, request(wire.UDP{ID: 2}, 64), time.Millisecond))
	served := stop()
	assert.Equal(t, uint64(2), served.Accepted)
	assert.Equal(t, uint64(2), served.Served+served.Errors, "what is not sent at the end is given up, and counted")
}

package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/runner/env"
)

// serveOn runs an agent on a loopback port and returns its address and its end.
func serveOn(t *testing.T, host string, lonely time.Duration, build func(env.Job) (env.Worker, error)) (netip.AddrPort, <-chan error) {
	t.Helper()
	spool, err := NewSpool(filepath.Join(t.TempDir(), "records"), host)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- NewServer(Config{Host: host, Token: "secret", Spool: spool, Build: build, Lonely: lonely, Errs: io.Discard}).Serve(ctx, l)
	}()
	t.Cleanup(func() { cancel(); <-done; _ = spool.Remove() })
	return netip.MustParseAddrPort(l.Addr().String()), ended
}

func dialTCP(t *testing.T, name string, at netip.AddrPort, token string) (*Client, error) {
	return Dial(t.Context(), ClientConfig{Name: name, Token: token, Patience: time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", at.String())
	}})
}

// An agent tells who answers at an address, seen from where it is, and what
// its machine is.
func TestPeerAndFacts(t *testing.T) {
	a, _ := serveOn(t, "a", 0, nil)
	b, _ := serveOn(t, "b", 0, nil)
	c, err := dialTCP(t, "a", a, "secret")
	require.NoError(t, err)
	defer c.http.CloseIdleConnections()
	h, err := c.Peer(t.Context(), b)
	require.NoError(t, err)
	assert.Equal(t, "b", h.Host)
	_, err = c.Peer(t.Context(), netip.MustParseAddrPort("127.0.0.1:1"))
	require.ErrorContains(t, err, "refused")
	f, err := c.Facts(t.Context())
	if err == nil { // connection tracking may not be loaded
		assert.NotZero(t, f.Limit)
		assert.NotZero(t, f.Timeouts["tcp_timeout_time_wait"])
		assert.NotEmpty(t, f.Kernel)
	}
}

// stopped is a worker that says when it has been stopped in order.
type stopped struct{ in chan struct{} }

func (s stopped) Run(ctx context.Context, ready func(), _ env.Recorder) error {
	ready()
	<-ctx.Done()
	close(s.in)
	return nil
}

// An agent whose controller is gone gives back what its jobs hold, and ends.
// One that is asked now and then, or is being followed, does not.
func TestLonely(t *testing.T) {
	const lonely = 300 * time.Millisecond
	in := make(chan struct{})
	at, ended := serveOn(t, "a", lonely, func(env.Job) (env.Worker, error) { return stopped{in}, nil })
	c, err := dialTCP(t, "a", at, "secret")
	require.NoError(t, err)
	require.NoError(t, c.Start(t.Context(), env.Job{ID: "ballast", Sysctl: &env.SysctlJob{}}))
	follow, stop := context.WithTimeout(t.Context(), 3*lonely)
	defer stop()
	_ = c.Records(follow, 1, nil)
	select {
	case <-in:
		t.Fatal("it was being followed")
	default:
	}
	// Who does not know the token does not count.
	c.http.CloseIdleConnections()
	for range 20 {
		_, err := dialTCP(t, "a", at, "wrong")
		if err == nil || errors.Is(err, context.Canceled) {
			t.Fatal("a wrong token was taken")
		}
		select {
		case <-in:
			require.NoError(t, <-ended)
			return
		case <-time.After(lonely / 4):
		}
	}
	t.Fatal("it went on alone")
}

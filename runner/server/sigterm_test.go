//go:build linux

package server

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
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

// A pod is a server that runs, to be terminated.
type pod struct {
	t    *testing.T
	w    env.Worker
	kill context.CancelFunc
	done chan struct{}
	err  error
	out  *counted
}

func beginPod(t *testing.T, j env.ServeJob, onSIGTERM string) *pod {
	t.Helper()
	j.Service, j.Backend, j.Lifecycle.OnSIGTERM = "web", "web-1", onSIGTERM
	w, err := New(env.Job{ID: "serve", Serve: &j})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	p := &pod{t: t, w: w, kill: cancel, done: make(chan struct{}), out: &counted{}}
	ready := make(chan struct{})
	go func() {
		defer close(p.done)
		p.err = w.Run(ctx, sync.OnceFunc(func() { close(ready) }), p.out)
	}()
	select {
	case <-ready:
	case <-p.done:
		require.NoError(t, p.err)
		t.Fatal("ended without being ready")
	}
	t.Cleanup(func() { cancel(); <-p.done })
	return p
}

func (p *pod) terminate() {
	p.t.Helper()
	// As an agent does: a worker that ends takes its updates with it.
	ctx, cancel := context.WithCancel(p.t.Context())
	defer cancel()
	go func() {
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	require.NoError(p.t, p.w.(env.Updater).Update(ctx, env.Update{Terminate: true}))
}

// ended waits for the server's own end.
func (p *pod) ended() runlog.Served {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.t.Fatal("the server has not ended")
	}
	require.NoError(p.t, p.err)
	sum, _ := p.out.get()
	assert.Zero(p.t, sum.Open)
	return sum
}

func (p *pod) killed() runlog.Served {
	p.t.Helper()
	select {
	case <-p.done:
		p.t.Fatal("the server has ended by itself")
	default:
	}
	p.kill()
	return p.ended()
}

func served(accepted, answers, draining uint64) runlog.Served {
	return runlog.Served{Service: "web", Backend: "web-1", Accepted: accepted, Served: answers, Draining: draining}
}

func refused(t *testing.T, at netip.AddrPort) {
	t.Helper()
	_, err := net.Dial("tcp", at.String())
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestTCPTerminates(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	job := env.ServeJob{Protocol: "tcp", Addr: at4, Ports: 2}
	t.Run("drain", func(t *testing.T) {
		p := beginPod(t, job, "drain")
		c, d := dialTCP(t, at4), dialTCP(t, at4)
		exchange(t, c, 0)
		exchange(t, d, 0)
		p.terminate()
		refused(t, at4)
		refused(t, netip.AddrPortFrom(at4.Addr(), at4.Port()+1))
		exchange(t, c, 0)
		require.NoError(t, c.Close())
		exchange(t, d, 0)
		p.terminate() // again: nothing new
		exchange(t, d, wire.CloseFirst)
		assert.Equal(t, io.EOF, end(d))
		assert.Equal(t, served(2, 5, 3), p.ended(), "the last record is not lost")
	})
	t.Run("drain what is delayed", func(t *testing.T) {
		slow := job
		slow.Server.Delay = scenarios.Duration(100 * time.Millisecond)
		p := beginPod(t, slow, "drain")
		c := dialTCP(t, at4)
		_, err := c.Write(append(wire.Request{Response: 7, Payload: 5}.Append(nil), "12345"...))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return p.w.(*TCP).accepted.Load() == 1 }, 10*time.Second, time.Millisecond)
		p.terminate()
		_, err = io.ReadFull(c, make([]byte, wire.ResponseHeader+7))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		assert.Equal(t, served(1, 1, 1), p.ended())
	})
	t.Run("nothing to drain", func(t *testing.T) {
		for _, behaviour := range []string{"answer", "refuse", "stall"} {
			j := job
			j.Server.Behaviour = behaviour
			p := beginPod(t, j, "")
			p.terminate()
			p.ended()
		}
	})
	t.Run("close", func(t *testing.T) {
		p := beginPod(t, job, "close")
		c := dialTCP(t, at4)
		exchange(t, c, 0)
		p.terminate()
		assert.Equal(t, served(1, 1, 0), p.ended())
		assert.ErrorIs(t, end(c), syscall.ECONNRESET)
		refused(t, at4)
	})
	t.Run("ignore", func(t *testing.T) {
		p := beginPod(t, job, "ignore")
		c := dialTCP(t, at4)
		p.terminate()
		exchange(t, c, 0)
		exchange(t, dialTCP(t, at4), 0)
		assert.Equal(t, served(2, 2, 2), p.killed())
		assert.Equal(t, io.EOF, end(c), "the kernel closes a killed process's sockets by a FIN")
	})
	t.Run("killed while it drains", func(t *testing.T) {
		p := beginPod(t, job, "drain")
		c := dialTCP(t, at4)
		exchange(t, c, 0)
		p.terminate()
		assert.Equal(t, served(1, 1, 0), p.killed())
		assert.Equal(t, io.EOF, end(c))
	})
	t.Run("unknown", func(t *testing.T) {
		for _, protocol := range []string{"tcp", "udp", "http"} {
			_, err := New(env.Job{Serve: &env.ServeJob{Protocol: protocol, Addr: at4, Lifecycle: scenarios.Lifecycle{OnSIGTERM: "faint"}}})
			assert.ErrorContains(t, err, `unknown behaviour on SIGTERM "faint"`)
		}
		p := beginPod(t, job, "drain")
		assert.Error(t, p.w.(env.Updater).Update(t.Context(), env.Update{Proxy: env.PauseProxy}))
		exchange(t, dialTCP(t, at4), 0)
	})
}

// A server under load loses no answer it has begun, and counts each once.
func TestTCPTerminatesUnderLoad(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	p := beginPod(t, env.ServeJob{Protocol: "tcp", Addr: at4, Ports: 1}, "drain")
	var wg sync.WaitGroup
	const clients, requests = 20, 50
	asked := make(chan struct{}, clients*requests)
	for range clients {
		c := dialTCP(t, at4)
		exchange(t, c, 0)
		wg.Go(func() {
			defer c.Close()
			for range requests {
				exchange(t, c, 0)
				asked <- struct{}{}
			}
		})
	}
	<-asked
	p.terminate()
	wg.Wait()
	sum := p.ended()
	assert.EqualValues(t, clients*(requests+1), sum.Served)
	assert.Positive(t, sum.Draining)
	assert.Less(t, sum.Draining, sum.Served)
	assert.Zero(t, sum.Errors)
}

func TestUDPTerminates(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	job := env.ServeJob{Protocol: "udp", Addr: at4, Ports: 1}
	request := request(wire.UDP{ID: 1}, 32)
	dial := func(t *testing.T) net.Conn {
		c, err := net.Dial("udp", at4.String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	t.Run("drain", func(t *testing.T) {
		slow := job
		slow.Server.Delay = scenarios.Duration(200 * time.Millisecond)
		p := beginPod(t, slow, "drain")
		c := dial(t)
		_, err := c.Write(request)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return p.w.(*UDP).accepted.Load() == 1 }, 10*time.Second, time.Millisecond)
		p.terminate()
		require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err = c.Read(make([]byte, 32))
		require.NoError(t, err, "what it had is answered")
		assert.Equal(t, served(1, 1, 1), p.ended())
		_, err = c.Write(request)
		require.NoError(t, err)
		_, err = c.Read(request)
		assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
	t.Run("close", func(t *testing.T) {
		slow := job
		slow.Server.Delay = scenarios.Duration(time.Hour)
		p := beginPod(t, slow, "close")
		_, err := dial(t).Write(request)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return p.w.(*UDP).accepted.Load() == 1 }, 10*time.Second, time.Millisecond)
		p.terminate()
		assert.EqualValues(t, 1, p.ended().Errors, "given up")
	})
	t.Run("ignore", func(t *testing.T) {
		p := beginPod(t, job, "ignore")
		p.terminate()
		assert.NotNil(t, ask(t, dial(t), request, 10*time.Second))
		assert.Equal(t, served(1, 1, 1), p.killed())
	})
	t.Run("nothing to drain", func(t *testing.T) {
		for _, behaviour := range []string{"answer", "refuse", "stall", "silent"} {
			j := job
			j.Server.Behaviour = behaviour
			p := beginPod(t, j, "drain")
			p.terminate()
			p.ended()
		}
	})
}

func TestHTTPTerminates(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	loopback(t)
	job := env.ServeJob{Protocol: "http", Addr: at4, Ports: 1}
	raw := func(t *testing.T) (net.Conn, *bufio.Reader) {
		c := dialTCP(t, at4)
		return c, bufio.NewReader(c)
	}
	request := func(t *testing.T, c net.Conn) {
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: web\r\n\r\n")
		require.NoError(t, err)
	}
	response := func(t *testing.T, r *bufio.Reader) (status int, last bool) {
		res, err := http.ReadResponse(r, nil)
		require.NoError(t, err)
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
		return res.StatusCode, res.Close
	}
	t.Run("drain", func(t *testing.T) {
		slow := job
		slow.Server.Delay = scenarios.Duration(300 * time.Millisecond)
		p := beginPod(t, slow, "drain")
		idle, ir := raw(t)
		request(t, idle)
		_, last := response(t, ir)
		assert.False(t, last)
		busy, br := raw(t)
		request(t, busy)
		require.Eventually(t, func() bool { return p.w.(*HTTP).accepted.Load() == 2 }, 10*time.Second, time.Millisecond)
		time.Sleep(50 * time.Millisecond) // the request is in its handler
		p.terminate()
		refused(t, at4)
		assert.Equal(t, io.EOF, end(idle), "an idle connection is closed")
		_, last = response(t, br)
		assert.True(t, last, "the answer says that it is the last")
		assert.Equal(t, served(2, 2, 1), p.ended())
	})
	t.Run("close", func(t *testing.T) {
		p := beginPod(t, job, "close")
		c, r := raw(t)
		request(t, c)
		response(t, r)
		p.terminate()
		assert.ErrorIs(t, end(c), syscall.ECONNRESET)
		assert.Equal(t, served(1, 1, 0), p.ended())
	})
	t.Run("ignore", func(t *testing.T) {
		p := beginPod(t, job, "ignore")
		p.terminate()
		c, r := raw(t)
		request(t, c)
		_, last := response(t, r)
		assert.False(t, last)
		assert.Equal(t, served(1, 1, 1), p.killed())
		assert.Equal(t, io.EOF, end(c))
	})
	t.Run("killed while it drains", func(t *testing.T) {
		silent := job
		silent.Server.Behaviour = "silent"
		p := beginPod(t, silent, "drain")
		c, _ := raw(t)
		request(t, c)
		require.Eventually(t, func() bool { return p.w.(*HTTP).accepted.Load() == 1 }, 10*time.Second, time.Millisecond)
		p.terminate()
		assert.EqualValues(t, 1, p.killed().Accepted)
	})
	t.Run("nothing to drain", func(t *testing.T) {
		for _, behaviour := range []string{"answer", "refuse", "stall"} {
			j := job
			j.Server.Behaviour = behaviour
			p := beginPod(t, j, "drain")
			p.terminate()
			p.ended()
		}
	})
	t.Run("gateway", func(t *testing.T) {
		up := netip.AddrPortFrom(at4.Addr(), 9000)
		beginPod(t, env.ServeJob{Protocol: "http", Addr: up, Ports: 1, Server: scenarios.Server{Delay: scenarios.Duration(200 * time.Millisecond)}}, "drain")
		gw := job
		gw.Gateway, gw.Upstream = &scenarios.Gateway{}, up
		p := beginPod(t, gw, "drain")
		c, r := raw(t)
		request(t, c)
		require.Eventually(t, func() bool { return p.w.(*HTTP).accepted.Load() == 1 }, 10*time.Second, time.Millisecond)
		time.Sleep(50 * time.Millisecond)
		p.terminate()
		status, _ := response(t, r)
		assert.Equal(t, http.StatusOK, status)
		assert.Equal(t, served(1, 1, 1), p.ended())
	})
}

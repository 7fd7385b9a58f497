//go:build linux

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/env"
)

// HTTP is a pod that speaks HTTP/1.1. It answers every request with status 200
// and a body of 64 bytes that begins with its backend's name.
//
// Behaviours: answer; silent accepts and reads, and never answers; reset
// answers each request with a TCP reset; refuse has no listener; stall listens
// and never accepts, so the listen queue overflows.
//
// In its Served records Accepted counts connections, Served answers handed to
// the kernel whole, and Errors those that could not be, or that failed because
// of an upstream. What a behaviour does on purpose is no error.
//
// On SIGTERM, drain does what http.Server's Shutdown does: it closes the
// listeners and the connections that are idle, lets each other one end with
// the answer it is waiting for, and ends when all are closed. Close resets all
// connections and ends.
type HTTP struct {
	job     env.ServeJob
	handler http.Handler
	done    func() // after the last handler has returned; nil is nothing
	*sigterm
	progress
}

var (
	_ env.Worker  = (*HTTP)(nil)
	_ env.Updater = (*HTTP)(nil)
)

const httpBody = 64 // bytes of an answer's body

// NewHTTP returns a server for job.Serve, which must be set.
func NewHTTP(job env.Job) (env.Worker, error) {
	s, err := newHTTP(*job.Serve)
	if err != nil {
		return nil, fmt.Errorf("make http server: %w", err)
	}
	body := make([]byte, httpBody)
	for i := range copy(body, job.Serve.Backend) {
		body[i] = job.Serve.Backend[i]
	}
	for i := len(job.Serve.Backend); i < httpBody; i++ {
		body[i] = '.'
	}
	s.handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.send(w, body) })
	return s, nil
}

func newHTTP(j env.ServeJob) (*HTTP, error) {
	switch j.Server.Behaviour {
	case "", "answer", "silent", "reset", "refuse", "stall":
	default:
		return nil, fmt.Errorf("unknown behaviour %q", j.Server.Behaviour)
	}
	if err := checkPorts(j); err != nil {
		return nil, err
	}
	term, err := newSigterm(j)
	if err != nil {
		return nil, err
	}
	return &HTTP{job: j, sigterm: term}, nil
}

// send answers with body and learns whether the kernel took it.
func (s *HTTP) send(w http.ResponseWriter, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "text/plain")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, err := w.Write(body)
	if ferr := http.NewResponseController(w).Flush(); err != nil || ferr != nil {
		s.errors.Add(1)
		return
	}
	s.answered()
}

// Run implements env.Worker. It serves until it has ended because of a SIGTERM
// or until ctx is done. Then it closes its sockets as the kernel closes those
// of a killed process: by a FIN, or by a reset where something was not read.
func (s *HTTP) Run(ctx context.Context, ready func(), out env.Recorder) error {
	if s.done != nil {
		defer s.done()
	}
	listeners, err := s.listen(ctx)
	if err != nil {
		return err
	}
	alive, kill := context.WithCancel(ctx)
	defer kill()
	conns := connections{open: map[net.Conn]bool{}}
	srv := &http.Server{
		Handler:           http.HandlerFunc(s.behave),
		ReadHeaderTimeout: 0, // none: how long a client may take is the scenario's matter
		// What a broken connection is worth to us is counted, not logged.
		ErrorLog:    log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return alive },
		ConnState: func(c net.Conn, st http.ConnState) {
			switch st {
			case http.StateNew:
				conns.add(c)
				s.accepted.Add(1)
				s.open.Add(1)
			case http.StateClosed, http.StateHijacked:
				s.open.Add(-1)
				conns.remove(c)
			}
		},
	}
	var wg sync.WaitGroup
	errs := make(chan error, max(1, len(listeners)))
	for _, l := range listeners {
		if s.job.Server.Behaviour == "stall" {
			continue
		}
		wg.Go(func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				errs <- fmt.Errorf("accept connections of %s: %w", s.job.Service, err)
			}
		})
	}
	wg.Go(func() { s.report(alive, s.job, out) })
	ready()
	select {
	case <-ctx.Done():
	case err = <-errs:
	case <-s.asked.Done():
		s.terminate(ctx, srv, listeners, &conns)
	}
	kill()
	_ = srv.Close() // closes listeners and connections; their errors say nothing more
	closeListeners(listeners)
	wg.Wait()
	conns.wg.Wait()
	s.record(s.job, out)
	s.act()
	return err
}

// terminate follows a SIGTERM up. It returns when the server is to be killed.
func (s *HTTP) terminate(ctx context.Context, srv *http.Server, listeners []net.Listener, conns *connections) {
	s.terminating.Store(true)
	switch s.behaviour {
	case ignoreAll:
		s.act()
		<-ctx.Done()
	case drain:
		if s.job.Server.Behaviour == "stall" {
			closeListeners(listeners)
		}
		srv.RegisterOnShutdown(s.act) // called once the listeners are closed
		// Its error is that ctx is done.
		_ = srv.Shutdown(ctx)
	case closeAll:
		conns.reset()
	}
}

// closeListeners closes those too that http.Server does not know, because
// nothing is accepted from them.
func closeListeners(list []net.Listener) {
	for _, l := range list {
		_ = l.Close() // it may be closed already
	}
}

// connections are those a server has.
type connections struct {
	mu   sync.Mutex
	open map[net.Conn]bool
	wg   sync.WaitGroup // one for each
}

func (c *connections) add(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[conn] = true
	c.wg.Add(1)
}

func (c *connections) remove(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
	c.wg.Done()
}

// reset makes closing each of them a reset.
func (c *connections) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		if t, ok := conn.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // its only error is that it is closed
		}
	}
}

// behave does what the scenario wants of a request, then lets the handler
// answer it.
func (s *HTTP) behave(w http.ResponseWriter, r *http.Request) {
	switch s.job.Server.Behaviour {
	case "silent":
		<-r.Context().Done()        // the client has gone, or we stop
		panic(http.ErrAbortHandler) // net/http: close without an answer
	case "reset":
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			s.errors.Add(1)
			return
		}
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0) // makes Close a reset
		}
		_ = c.Close()
		return
	}
	if d := time.Duration(s.job.Server.Delay); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
			s.errors.Add(1)
			panic(http.ErrAbortHandler)
		}
	}
	s.handler.ServeHTTP(w, r)
}

// listen opens the job's listeners; with behaviour refuse there are none.
func (s *HTTP) listen(ctx context.Context) (ls []net.Listener, err error) {
	if s.job.Server.Behaviour == "refuse" {
		return nil, nil
	}
	for _, addr := range listensAt(s.job) {
		l, err := listenTCP(ctx, addr, s.job.Server.Backlog)
		if err != nil {
			for _, l := range ls {
				_ = l.Close()
			}
			return nil, fmt.Errorf("listen for connections of %s: %w", s.job.Service, err)
		}
		ls = append(ls, l)
	}
	return ls, nil
}

// listenTCP listens with a queue of backlog connections; 0 is Go's default,
// net.core.somaxconn. TCP keep-alive is off: its probes would keep conntrack
// entries alive that the traffic under test does not.
func listenTCP(ctx context.Context, addr netip.AddrPort, backlog int) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false) // Go's default for listeners is MPTCP: not what pods speak
	l, err := lc.Listen(ctx, "tcp", addr.String())
	if err != nil || backlog <= 0 {
		return l, err
	}
	// listen(2) on a socket that listens already only changes its backlog.
	if err = relisten(l.(syscall.Conn), backlog); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("set backlog %d: %w", backlog, err)
	}
	return l, nil
}

func relisten(c syscall.Conn, backlog int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var lerr error
	if err := raw.Control(func(fd uintptr) { lerr = unix.Listen(int(fd), backlog) }); err != nil {
		return err
	}
	return lerr
}

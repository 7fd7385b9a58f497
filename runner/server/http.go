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
type HTTP struct {
	job     env.ServeJob
	handler http.Handler
	done    func() // after the last handler has returned; nil is nothing
	progress
}

var _ env.Worker = (*HTTP)(nil)

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
	s.handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.answer(w, body) })
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
	return &HTTP{job: j}, nil
}

// answer sends body and learns whether the kernel took it.
func (s *HTTP) answer(w http.ResponseWriter, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "text/plain")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, err := w.Write(body)
	if ferr := http.NewResponseController(w).Flush(); err != nil || ferr != nil {
		s.errors.Add(1)
		return
	}
	s.served.Add(1)
}

// Run implements env.Worker. It serves until ctx is done, then closes every
// connection at once.
func (s *HTTP) Run(ctx context.Context, ready func(), out env.Recorder) error {
	if s.done != nil {
		defer s.done()
	}
	listeners, err := s.listen(ctx)
	if err != nil {
		return err
	}
	var conns, wg sync.WaitGroup
	srv := &http.Server{
		Handler:           http.HandlerFunc(s.behave),
		ReadHeaderTimeout: 0, // none: how long a client may take is the scenario's matter
		// What a broken connection is worth to us is counted, not logged.
		ErrorLog:    log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnState: func(_ net.Conn, st http.ConnState) {
			switch st {
			case http.StateNew:
				conns.Add(1)
				s.accepted.Add(1)
				s.open.Add(1)
			case http.StateClosed, http.StateHijacked:
				s.open.Add(-1)
				conns.Done()
			}
		},
	}
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
	report, stop := context.WithCancel(ctx)
	wg.Go(func() { s.report(report, s.job, out) })
	ready()
	select {
	case <-ctx.Done():
	case err = <-errs:
	}
	stop()
	_ = srv.Close() // closes listeners and connections; their errors say nothing more
	for _, l := range listeners {
		_ = l.Close() // those of a stalled server, which srv does not know
	}
	wg.Wait()
	conns.Wait()
	s.record(s.job, out)
	return err
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
	for i := range max(1, s.job.Ports) {
		addr := netip.AddrPortFrom(s.job.Addr.Addr(), s.job.Addr.Port()+uint16(i))
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

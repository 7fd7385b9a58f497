//go:build linux

package traffic

import (
	"context"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/server/wire"
)

// ShortLived connects, asks, waits for the answer, and closes: each attempt is
// a connection. An attempt has succeeded when its answer is there whole; how
// its connection ends afterwards is no longer part of it.
//
// The ends, and the conntrack state each leaves:
//
//   - fin: the closer closes in order, the other follows. TIME_WAIT.
//   - rst: the closer resets. CLOSE.
//   - half: the closer sends FIN, the other never does. CLOSE_WAIT. The side
//     that never closes keeps its socket, to the end of the traffic where
//     that is the client. The closer needs none for it: the kernel forgets its
//     side without a packet.
//   - none: both sides' sockets vanish without a packet, by TCP_REPAIR, which
//     needs CAP_NET_ADMIN in the network namespace; without it they are kept
//     to the end. ESTABLISHED.
//
// Sockets that are kept count against the limit of open files. Where that is
// reached the oldest of them vanish, and where they cannot, further attempts
// are not started. A vanished connection's port is free again for the kernel
// to choose: a SYN from it would meet the entry of the old connection, and at
// the server its socket, as it does after a crash.
type ShortLived struct {
	job    env.Job
	setup  tcpSetup
	close  string
	server bool // it closes first
}

var _ env.Worker = (*ShortLived)(nil)

// NewShortLived returns the worker for a job whose traffic is short_lived.
func NewShortLived(job env.Job) (env.Worker, error) {
	s := job.Load.Traffic.ShortLived
	w := &ShortLived{job: job, close: s.Close, server: s.Closer == "server"}
	switch w.close {
	case "":
		w.close = "fin"
	case "fin", "rst", "half", "none":
	default:
		return nil, fmt.Errorf("make short-lived traffic: close is %q, want fin, rst, half or none", s.Close)
	}
	switch s.Closer {
	case "", "client", "server":
	default:
		return nil, fmt.Errorf("make short-lived traffic: closer is %q, want client or server", s.Closer)
	}
	pacer, err := pacerOf(*job.Load, s.Pacing)
	if err != nil {
		return nil, fmt.Errorf("make short-lived traffic: %w", err)
	}
	tuples, err := newTCPTuples(*job.Load, s.SourcePorts)
	if err != nil {
		return nil, fmt.Errorf("make short-lived traffic: %w", err)
	}
	w.setup = tcpSetup{
		schedule: NewSchedule(pacer, job.Load.Start, job.Load.End), limit: math.MaxUint64, tuples: tuples,
		requestBytes: orDefault(s.RequestBytes, tcpPayload), responseBytes: orDefault(s.ResponseBytes, tcpPayload),
		disposable: true,
	}
	if err := w.setup.check(*job.Load); err != nil {
		return nil, fmt.Errorf("make short-lived traffic: %w", err)
	}
	return w, nil
}

// Run implements env.Worker. It can run once.
func (w *ShortLived) Run(ctx context.Context, ready func(), out env.Recorder) error {
	shape := &shortLived{mode: w.close, server: w.server}
	e, err := newTCPEngine(w.job, out, shape, w.setup)
	if err != nil {
		return fmt.Errorf("start short-lived traffic: %w", err)
	}
	shape.e = e
	ready()
	if err := e.run(ctx); err != nil {
		return fmt.Errorf("run short-lived traffic: %w", err)
	}
	return nil
}

var done = []byte{wire.Done}

type shortLived struct {
	e      *tcpEngine
	mode   string
	server bool
}

var _ tcpShape = (*shortLived)(nil)

func (s *shortLived) flags() wire.Flags {
	switch {
	case s.mode == "none", s.mode == "half" && !s.server:
		return wire.NeverClose
	case s.mode == "rst" && s.server:
		return wire.ResetFirst
	case s.server:
		return wire.CloseFirst
	}
	return 0
}

// answered begins the connection's end.
func (s *shortLived) answered(fd int32, events uint32) {
	e := s.e
	switch {
	case s.mode == "none":
		if vanish(fd) != nil {
			e.move(fd, held, 0)
			return
		}
		e.close(fd)
	case s.server:
		e.move(fd, closing, e.now()+e.timeout)
		if s.mode == "rst" {
			_, _ = unix.Write(int(fd), done) // if this fails there is an event as well
		}
		s.event(fd, events) // the server's FIN may have come with the answer
	case s.mode == "rst":
		resetOnClose(fd)
		e.close(fd)
	default:
		e.close(fd)
	}
}

// event follows up what happens to a connection after its attempt: the
// server's end of it, which was expected, or a reset of what was kept for its
// entry, after which there is nothing to keep.
func (s *shortLived) event(fd int32, events uint32) {
	switch {
	case events&(unix.EPOLLERR|unix.EPOLLHUP) != 0:
		s.e.close(fd)
	case events&unix.EPOLLRDHUP == 0 || s.e.conns[fd].state == held:
	case s.mode == "half":
		// The kernel delays the FIN's ACK, and sends it on demand only when
		// the FIN has been read.
		_, _ = unix.Read(int(fd), s.e.buf)
		acknowledge(fd)
		s.e.move(fd, held, 0)
	default:
		s.e.close(fd)
	}
}

func (s *shortLived) failed(int32) {}

func (s *shortLived) unclosed(int32) {}

func (s *shortLived) work(float64) float64 { return math.Inf(1) }

// end lets what was kept vanish where it can, so that the end of a traffic
// changes no entries. Elsewhere it is closed in order.
func (s *shortLived) end() {
	for s.e.evict() {
	}
}

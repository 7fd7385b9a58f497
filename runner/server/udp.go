//go:build linux

package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/server/wire"
)

// UDP answers datagrams: each with itself, marked as an answer (see
// [wire.UDP]). A request that says so is not answered.
//
// Behaviours: answer; silent reads and never answers; stall is bound and never
// reads, so that the receive buffer overflows; refuse has no socket, so that
// the sender hears ICMP port unreachable. There is no reset in UDP.
//
// In its Served records Accepted counts datagrams received, Served answers
// handed to the kernel, and Errors datagrams that are not ours, answers that
// could not be sent, and answers given up because too many were being delayed
// or because the server was ended before they were due.
//
// On SIGTERM, drain reads no more, sends the answers it is delaying and ends;
// what waits in the receive buffer then is lost, as with any server that
// closes its socket. Close gives the delayed answers up.
type UDP struct {
	job env.ServeJob
	*sigterm
	progress
}

var (
	_ env.Worker  = (*UDP)(nil)
	_ env.Updater = (*UDP)(nil)
)

const (
	udpBuffer = 4 << 20 // bytes of receive buffer asked for: a burst is not the server's loss
	maxDelay  = 1 << 16 // answers being delayed at any time, per port
)

// NewUDP returns a server for job.Serve, which must be set.
func NewUDP(job env.Job) (env.Worker, error) {
	s := *job.Serve
	switch s.Server.Behaviour {
	case "", "answer", "silent", "stall", "refuse":
	default:
		return nil, fmt.Errorf("make udp server: there is no behaviour %q in UDP", s.Server.Behaviour)
	}
	if err := checkPorts(s); err != nil {
		return nil, fmt.Errorf("make udp server: %w", err)
	}
	term, err := newSigterm(s)
	if err != nil {
		return nil, fmt.Errorf("make udp server: %w", err)
	}
	return &UDP{job: s, sigterm: term}, nil
}

// Run implements env.Worker. It serves until ctx is done or it has ended
// because of a SIGTERM.
func (s *UDP) Run(ctx context.Context, ready func(), out env.Recorder) error {
	var conns []*net.UDPConn
	closeConns := func() {
		for _, c := range conns {
			_ = c.Close() // nothing was buffered in user space that could be lost
		}
	}
	defer closeConns()
	if s.job.Server.Behaviour != "refuse" {
		for _, at := range listensAt(s.job) {
			c, err := listenUDP(ctx, at)
			if err != nil {
				return fmt.Errorf("listen for datagrams of %s: %w", s.job.Service, err)
			}
			conns = append(conns, c)
		}
	}
	alive, kill := context.WithCancel(ctx)
	defer kill()
	var reporting, serving sync.WaitGroup
	reporting.Go(func() { s.report(alive, s.job, out) })
	if s.job.Server.Behaviour != "stall" {
		for _, c := range conns {
			serving.Go(func() { s.serve(alive, c) })
		}
	}
	ready()
	select {
	case <-ctx.Done():
	case <-s.asked.Done():
		s.terminate(ctx, conns, &serving)
	}
	kill()
	closeConns()
	s.act()
	serving.Wait()
	reporting.Wait()
	s.record(s.job, out)
	return nil
}

// terminate follows a SIGTERM up. It returns when the server is to be killed.
func (s *UDP) terminate(ctx context.Context, conns []*net.UDPConn, serving *sync.WaitGroup) {
	s.terminating.Store(true)
	switch s.behaviour {
	case ignoreAll:
		s.act()
		<-ctx.Done()
	case drain:
		for _, c := range conns {
			_ = c.SetReadDeadline(time.Unix(1, 0)) // its only error is that c is closed
		}
		s.act()
		done := make(chan struct{})
		go func() {
			defer close(done)
			serving.Wait()
		}()
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
}

// serve reads c until it is closed or its deadline has passed.
func (s *UDP) serve(ctx context.Context, c *net.UDPConn) {
	answer := func(b []byte, to netip.AddrPort) {
		if _, err := c.WriteToUDPAddrPort(b, to); err != nil {
			s.errors.Add(1)
			return
		}
		s.answered()
	}
	if d := time.Duration(s.job.Server.Delay); d > 0 {
		late := newDelay(d, answer)
		var wg sync.WaitGroup
		wg.Go(func() { s.errors.Add(late.run(ctx)) })
		defer wg.Wait()
		defer close(late.queue)
		answer = func(b []byte, to netip.AddrPort) {
			if !late.add(b, to) {
				s.errors.Add(1)
			}
		}
	}
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			// An unconnected socket hears of no single peer's errors; what is
			// left (ENOMEM) may pass.
			s.errors.Add(1)
			continue
		}
		s.accepted.Add(1)
		u, ok := wire.ParseUDP(buf[:n])
		switch {
		case !ok || u.Answer:
			s.errors.Add(1)
		case u.OneWay || s.job.Server.Behaviour == "silent":
		default:
			u.Answer = true
			u.Put(buf[:n])
			answer(buf[:n], from)
		}
	}
}

// delay sends answers a fixed time after they were added: in the order they
// came, so a queue and one timer are enough.
type delay struct {
	by    time.Duration
	send  func([]byte, netip.AddrPort)
	queue chan delayed
}

type delayed struct {
	due time.Time
	b   []byte
	to  netip.AddrPort
}

func newDelay(by time.Duration, send func([]byte, netip.AddrPort)) *delay {
	return &delay{by: by, send: send, queue: make(chan delayed, maxDelay)}
}

// add copies b. It reports false where too many are waiting.
func (d *delay) add(b []byte, to netip.AddrPort) bool {
	select {
	case d.queue <- delayed{time.Now().Add(d.by), append([]byte(nil), b...), to}:
		return true
	default:
		return false
	}
}

// run sends until the queue is closed, or ctx is done: what is queued then is
// given up and counted.
func (d *delay) run(ctx context.Context) (givenUp uint64) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for x := range d.queue {
		timer.Reset(time.Until(x.due))
		select {
		case <-ctx.Done():
			givenUp++
		case <-timer.C:
			d.send(x.b, x.to)
		}
	}
	return givenUp
}

func listenUDP(ctx context.Context, addr netip.AddrPort) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			// With CAP_NET_ADMIN beyond net.core.rmem_max; without it up to
			// that. Datagrams that still do not fit are in the host's
			// UdpRcvbufErrors.
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer)
			}
		})
	}}
	c, err := lc.ListenPacket(ctx, "udp", addr.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// listensAt are all addresses and ports of a server.
func listensAt(j env.ServeJob) []netip.AddrPort {
	var out []netip.AddrPort
	for _, addr := range []netip.Addr{j.Addr.Addr().Unmap(), j.Also} {
		for i := range max(1, j.Ports) {
			if addr.IsValid() {
				out = append(out, netip.AddrPortFrom(addr, j.Addr.Port()+uint16(i)))
			}
		}
	}
	return out
}

// checkPorts refuses a job whose ports run past 65535, or that has none.
func checkPorts(j env.ServeJob) error {
	if !j.Addr.IsValid() || j.Addr.Port() == 0 {
		return fmt.Errorf("%v is not an address and port to listen on", j.Addr)
	}
	if last := int(j.Addr.Port()) + max(1, j.Ports) - 1; j.Ports < 0 || last > 65535 {
		return fmt.Errorf("%d ports from %d on run past 65535", j.Ports, j.Addr.Port())
	}
	return nil
}

// progress is what a server has done since its last Served record.
type progress struct {
	accepted, served, errors atomic.Uint64
	drained                  atomic.Uint64 // of served: after SIGTERM
	terminating              atomic.Bool
	open                     atomic.Int64
	lastOpen                 int64 // of the last record
}

// answered counts an answer that was sent whole.
func (p *progress) answered() {
	p.served.Add(1)
	if p.terminating.Load() {
		p.drained.Add(1)
	}
}

// report makes a record every second until ctx is done. The caller makes the
// last one, once nothing is counted any more.
func (p *progress) report(ctx context.Context, j env.ServeJob, out env.Recorder) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.record(j, out)
		}
	}
}

// record makes a record, unless nothing has changed. Of a server that is
// terminating that nobody came is worth one, too.
func (p *progress) record(j env.ServeJob, out env.Recorder) {
	r := runlog.Served{Service: j.Service, Backend: j.Backend, Accepted: p.accepted.Swap(0), Draining: p.drained.Swap(0), Served: p.served.Swap(0), Errors: p.errors.Swap(0)}
	open := p.open.Load()
	if r.Accepted == 0 && r.Served == 0 && r.Draining == 0 && r.Errors == 0 && open == p.lastOpen && !p.terminating.Load() {
		return
	}
	p.lastOpen = open
	r.Open = uint64(max(0, open))
	out.Record(runlog.Record{Served: &r})
}

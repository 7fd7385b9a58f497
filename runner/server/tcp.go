//go:build linux

package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/server/epoll"
	"github.com/tablefull/tablefull/runner/server/wire"
)

// TCP answers requests of the protocol in package wire, and ends connections
// as each request asks for.
//
// Behaviours: answer; silent accepts and reads, and never answers; reset
// answers each request with a TCP reset; refuse has no listener; stall listens
// and never accepts, so the listen queue overflows.
//
// In its Served records Accepted counts connections, Served answers handed to
// the kernel whole, and Errors requests that are not ours, answers that could
// not be sent, and times that no connection could be accepted for want of
// descriptors or memory. What a behaviour does on purpose is no error.
//
// Connections that a client asked never to close are kept until the limit of
// open files is near; then the oldest vanish without a packet where the
// process may do that (CAP_NET_ADMIN in its network namespace).
//
// On SIGTERM, drain closes the listeners at once: the kernel resets what waits
// in their queues, as with any server that just closes its listeners. It
// answers the connections it has, and ends when the last one is closed, by its
// client or as its request asked for. Close resets them all and ends.
type TCP struct {
	job env.ServeJob
	*sigterm
	progress
}

var (
	_ env.Worker  = (*TCP)(nil)
	_ env.Updater = (*TCP)(nil)
)

const (
	tcpBacklog    = 4096
	tcpEvents     = 256     // taken from the kernel at once
	tcpBurst      = 64      // connections accepted from one listener between two looks at the others
	tcpBuffer     = 1 << 16 // bytes read at once
	tcpSpareFiles = 64      // descriptors left to the rest of the process
	tcpStarved    = 10 * time.Millisecond
)

// NewTCP returns a server for job.Serve, which must be set.
func NewTCP(job env.Job) (env.Worker, error) {
	s := *job.Serve
	switch s.Server.Behaviour {
	case "", "answer", "silent", "reset", "refuse", "stall":
	default:
		return nil, fmt.Errorf("make tcp server: unknown behaviour %q", s.Server.Behaviour)
	}
	if err := checkPorts(s); err != nil {
		return nil, fmt.Errorf("make tcp server: %w", err)
	}
	term, err := newSigterm(s)
	if err != nil {
		return nil, fmt.Errorf("make tcp server: %w", err)
	}
	return &TCP{job: s, sigterm: term}, nil
}

// Run implements env.Worker. It serves until it has ended because of a SIGTERM
// or until ctx is done. Then it closes its sockets as the kernel closes those
// of a killed process: by a FIN, or by a reset where something was not read.
func (s *TCP) Run(ctx context.Context, ready func(), out env.Recorder) error {
	poll, err := epoll.New(tcpEvents)
	if err != nil {
		return fmt.Errorf("start tcp server: %w", err)
	}
	l := &tcpLoop{s: s, poll: poll, out: out, buf: make([]byte, tcpBuffer), began: time.Now(), delay: time.Duration(s.job.Server.Delay)}
	l.response = make([]byte, wire.ResponseHeader, tcpBuffer)
	if err := l.listen(); err != nil {
		return errors.Join(fmt.Errorf("start tcp server: %w", err), l.close())
	}
	ready()
	err = errors.Join(l.run(ctx), l.close())
	s.act()
	if err != nil {
		return fmt.Errorf("run tcp server: %w", err)
	}
	return nil
}

// tcpLoop is the running server: one thread, one epoll instance, connections
// in a slice by descriptor, nothing allocated for any of them.
type tcpLoop struct {
	s         *TCP
	poll      *epoll.Poller
	out       env.Recorder
	buf       []byte
	response  []byte // header and payload; the payload is zeros
	began     time.Time
	delay     time.Duration
	maxOpen   int64
	listeners []tcpListener
	conns     []tcpConn
	delayed   fifo          // connections whose answer is due later, all by the same delay
	kept      fifo          // connections that are only kept, oldest first
	starved   time.Duration // since began: when to try accepting again; 0 is now
}

type tcpListener struct {
	fd      int
	pending bool // there may be more to accept
}

func (l *tcpLoop) now() time.Duration { return time.Since(l.began) }

func (l *tcpLoop) listen() error {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("read limit of open files: %w", err)
	}
	l.maxOpen = int64(min(files.Cur, math.MaxInt32)) - tcpSpareFiles
	if l.s.job.Server.Behaviour == "refuse" {
		return nil
	}
	for i, addr := range listensAt(l.s.job) {
		fd, err := l.listenOn(addr)
		if fd >= 0 {
			l.listeners = append(l.listeners, tcpListener{fd: fd})
		}
		if err != nil {
			return fmt.Errorf("listen on %v: %w", addr, err)
		}
		if l.s.job.Server.Behaviour == "stall" {
			continue
		}
		// A listener's generation says which one it is; connections count
		// theirs from 1 on.
		if err := l.poll.Add(fd, int32(-i), unix.EPOLLIN|unix.EPOLLET); err != nil {
			return err
		}
	}
	return nil
}

func (l *tcpLoop) listenOn(addr netip.AddrPort) (fd int, err error) {
	family := unix.AF_INET
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(addr.Port())}
	if addr.Addr().Is4() {
		sa.(*unix.SockaddrInet4).Addr = addr.Addr().As4()
	} else {
		family = unix.AF_INET6
		sa = &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// Connections inherit TCP_NODELAY: an answer's last segment does not wait
	// for the ACK of the one before.
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		backlog := l.s.job.Server.Backlog
		if backlog <= 0 {
			backlog = tcpBacklog
		}
		err = unix.Listen(fd, backlog)
	}
	return fd, err
}

func (l *tcpLoop) run(ctx context.Context) error {
	unlock := epoll.LockThread()
	defer unlock()
	for _, c := range []context.Context{ctx, l.s.asked} {
		release := l.poll.WakeOn(c)
		defer release()
	}
	tell := l.now() + time.Second
	for ctx.Err() == nil {
		if l.s.asked.Err() != nil && l.terminated() {
			return nil
		}
		busy := l.acceptPending()
		now := l.now()
		wake := l.answerDelayed(now)
		if now >= tell {
			l.s.record(l.s.job, l.out)
			tell = now.Truncate(time.Second) + time.Second
		}
		wake = min(wake, tell)
		if l.starved > 0 {
			wake = min(wake, l.starved)
		}
		sleep := max(0, wake-now)
		if busy {
			sleep = 0
		}
		events, err := l.poll.Wait(sleep)
		if err != nil {
			return err
		}
		for _, ev := range events {
			if ev.Gen <= 0 {
				l.listeners[-ev.Gen].pending = true
			} else if c := &l.conns[ev.FD]; c.gen == ev.Gen && c.state != closed {
				l.event(ev.FD, ev.Events)
			}
		}
	}
	return nil
}

// terminated does what a SIGTERM asks for, and says whether that was all.
func (l *tcpLoop) terminated() bool {
	first := !l.s.terminating.Swap(true)
	switch l.s.behaviour {
	case closeAll:
		for fd := range l.conns {
			if l.conns[fd].state != closed {
				l.reset(fd)
			}
		}
		return true
	case drain:
		if first {
			l.closeListeners()
		}
	}
	l.s.act()
	return l.s.behaviour == drain && l.s.open.Load() == 0
}

func (l *tcpLoop) closeListeners() {
	for _, x := range l.listeners {
		_ = unix.Close(x.fd) // there is nothing to be done about an error
	}
	l.listeners = nil
}

// acceptPending accepts what waits at the listeners, in turn; busy tells that
// there is more.
func (l *tcpLoop) acceptPending() (busy bool) {
	if l.starved > 0 && l.now() < l.starved {
		return false
	}
	l.starved = 0
	for i := range l.listeners {
		for n := 0; l.listeners[i].pending && n < tcpBurst; n++ {
			if !l.accept(&l.listeners[i]) {
				return false
			}
		}
		busy = busy || l.listeners[i].pending
	}
	return busy
}

// accept accepts one connection. It returns false where it cannot for want of
// descriptors or memory: then nothing is tried for a while.
func (l *tcpLoop) accept(from *tcpListener) bool {
	if l.s.open.Load() >= l.maxOpen {
		l.evict()
	}
	// Not unix.Accept4: it allocates the peer's address, which nobody needs.
	r, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(from.fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	switch errno {
	case 0:
	case unix.EAGAIN:
		from.pending = false
		return true
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS:
		l.s.errors.Add(1)
		l.starved = l.now() + tcpStarved
		return false
	default:
		return true // the connection is gone already; there may be others
	}
	fd := int(r)
	l.s.accepted.Add(1)
	l.s.open.Add(1)
	for fd >= len(l.conns) {
		l.conns = append(l.conns, make([]tcpConn, max(1024, len(l.conns)))...)
	}
	c := &l.conns[fd]
	*c = tcpConn{gen: c.gen%math.MaxInt32 + 1, state: reading}
	if err := l.poll.Add(fd, c.gen, epoll.In|epoll.Out); err != nil {
		l.s.errors.Add(1)
		l.reset(fd)
	}
	return true
}

// evict lets the oldest connection that is only kept vanish.
func (l *tcpLoop) evict() {
	for {
		k, ok := l.kept.pop()
		if !ok {
			return
		}
		if c := &l.conns[k.fd]; c.gen != k.gen || c.state != keeping {
			continue // closed since
		}
		if unix.SetsockoptInt(k.fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON) != nil {
			l.kept.push(k)
			return
		}
		l.drop(k.fd)
		return
	}
}

// close closes everything, and makes the last record.
func (l *tcpLoop) close() error {
	l.closeListeners()
	for fd := range l.conns {
		if l.conns[fd].state != closed {
			l.drop(fd)
		}
	}
	l.s.record(l.s.job, l.out)
	return l.poll.Close()
}

// fifo is a queue of connections. It does not notice when one is closed: the
// generation tells.
type fifo struct {
	all  []queued
	head int
}

type queued struct {
	fd  int
	gen int32
	due time.Duration // since the loop began
}

func (f *fifo) push(q queued) { f.all = append(f.all, q) }

func (f *fifo) pop() (queued, bool) {
	if f.head == len(f.all) {
		return queued{}, false
	}
	q := f.all[f.head]
	f.head++
	if f.head > 1024 && f.head > len(f.all)/2 {
		f.all = append(f.all[:0], f.all[f.head:]...)
		f.head = 0
	}
	return q, true
}

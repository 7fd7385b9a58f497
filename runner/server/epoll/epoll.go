//go:build linux

// Package epoll waits for many sockets on one thread, with a timeout in
// nanoseconds. It is a leaf that the TCP client and the TCP server share.
package epoll

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Events a socket is added for. All are edge-triggered: an event says that
// something has changed, and is not repeated.
const (
	In  = unix.EPOLLET | unix.EPOLLIN | unix.EPOLLRDHUP
	Out = unix.EPOLLET | unix.EPOLLOUT
)

// Gone are the events after which a socket has an error or an end to read.
const Gone = unix.EPOLLERR | unix.EPOLLHUP | unix.EPOLLRDHUP

// An Event is what happened to a socket. Gen is what the socket was added
// with: a descriptor's number is used again as soon as it is closed, so a
// caller that counts generations can tell an old socket's event from a new
// one's.
type Event struct {
	FD     int
	Gen    int32
	Events uint32
}

// Poller is an epoll instance. Only Wake may be called from another goroutine.
type Poller struct {
	fd, wake int
	raw      []unix.EpollEvent
	events   []Event
	noPwait2 bool
}

// New returns a poller that reports up to n events at once.
func New(n int) (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create eventfd: %w", err), unix.Close(fd))
	}
	p := &Poller{fd: fd, wake: wake, raw: make([]unix.EpollEvent, n), events: make([]Event, 0, n)}
	if err := p.Add(wake, 0, unix.EPOLLIN|unix.EPOLLET); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Add watches fd for events until it is closed.
func (p *Poller) Add(fd int, gen int32, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: gen}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("add descriptor to epoll: %w", err)
	}
	return nil
}

// Wait returns what has happened, after at most timeout; a negative timeout is
// none. The result is valid until the next Wait, and empty after a timeout or
// a Wake.
func (p *Poller) Wait(timeout time.Duration) ([]Event, error) {
	n, err := p.wait(timeout)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return nil, fmt.Errorf("wait for events: %w", err)
	}
	p.events = p.events[:0]
	for _, ev := range p.raw[:max(0, n)] {
		if int(ev.Fd) == p.wake {
			var b [8]byte
			_, _ = unix.Read(p.wake, b[:]) // EAGAIN: nothing left to take
			continue
		}
		p.events = append(p.events, Event{FD: int(ev.Fd), Gen: ev.Pad, Events: ev.Events})
	}
	return p.events, nil
}

func (p *Poller) wait(timeout time.Duration) (int, error) {
	if timeout == 0 {
		return unix.EpollWait(p.fd, p.raw, 0)
	}
	if !p.noPwait2 { // Linux 5.11
		var ts *unix.Timespec
		if timeout > 0 {
			t := unix.NsecToTimespec(timeout.Nanoseconds())
			ts = &t
		}
		n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.raw[0])), uintptr(len(p.raw)), uintptr(unsafe.Pointer(ts)), 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.ENOSYS, unix.EPERM: // EPERM: a container's seccomp filter that is older than the call
			p.noPwait2 = true
		default:
			return 0, errno
		}
	}
	ms := -1
	if timeout > 0 {
		// Rounded up: waking early would be spinning.
		ms = int(min((timeout+time.Millisecond-1)/time.Millisecond, 1<<30))
	}
	return unix.EpollWait(p.fd, p.raw, ms)
}

// Wake makes a Wait that is going on, or else the next one, return at once.
func (p *Poller) Wake() {
	one := [8]byte{1} // any number above 0, in either byte order
	_, _ = unix.Write(p.wake, one[:])
}

// WakeOn calls Wake when ctx is done. The caller calls release before it
// closes the poller.
func (p *Poller) WakeOn(ctx context.Context) (release func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		p.Wake()
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

// Close closes the poller, not the sockets in it.
func (p *Poller) Close() error {
	return errors.Join(unix.Close(p.wake), unix.Close(p.fd))
}

// LockThread keeps the calling goroutine on a thread whose timers fire when
// they are due: a thread's timeouts may otherwise be 50 us late, the kernel's
// default slack, which is most of the distance between attempts at 17 000/s.
// The caller calls release on the same goroutine.
func LockThread() (release func()) {
	runtime.LockOSThread()
	// A kernel that refuses only makes us less exact.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	return func() {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // 0 is the default again
		runtime.UnlockOSThread()
	}
}

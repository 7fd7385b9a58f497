//go:build linux

package traffic

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	floodBatch   = 256 // frames handed to the kernel by one system call at most
	floodThreads = 4   // at most; no more than there are CPUs
)

// floodSenders send frames, past the queueing discipline, on several threads.
type floodSenders struct {
	list []*floodSender
	wg   sync.WaitGroup
}

// floodSender is one thread's socket and frames.
type floodSender struct {
	fd      int
	builder *floodFrames
	frames  [][]byte
	iov     []unix.Iovec
	msgs    []mmsghdr

	work chan floodRange
	done chan floodSent
}

// floodRange is packets first to first+n-1.
type floodRange struct {
	first uint64
	n     int
}

// floodSent is what became of packets: taken by the kernel, or refused for
// lack of memory. errno is any other error, after which the rest was not tried.
type floodSent struct {
	sent, refused uint64
	errno         unix.Errno
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [unsafe.Sizeof(uintptr(0)) - 4]byte
}

// newFloodSenders needs CAP_NET_RAW. The caller calls close.
func newFloodSenders(p floodPath, f *floodFrames) (*floodSenders, error) {
	s := &floodSenders{}
	for range min(floodThreads, runtime.NumCPU()) {
		one, err := newFloodSender(p, f)
		if err != nil {
			s.close()
			return nil, err
		}
		s.list = append(s.list, one)
	}
	for _, one := range s.list[1:] { // the first works on the caller's thread
		one.work, one.done = make(chan floodRange), make(chan floodSent)
		s.wg.Go(func() {
			for r := range one.work {
				one.done <- one.send(r)
			}
		})
	}
	return s, nil
}

func newFloodSender(p floodPath, f *floodFrames) (*floodSender, error) {
	// Protocol 0: the socket receives nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: p.index}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind packet socket to %s: %w", p.name, err), unix.Close(fd))
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return nil, errors.Join(fmt.Errorf("bypass the queueing discipline of %s: %w", p.name, err), unix.Close(fd))
	}
	s := &floodSender{fd: fd, builder: f, iov: make([]unix.Iovec, floodBatch), msgs: make([]mmsghdr, floodBatch)}
	for i := range floodBatch {
		b := f.frame()
		s.frames = append(s.frames, b)
		s.iov[i].Base = &b[0]
		s.iov[i].SetLen(len(b))
		s.msgs[i].hdr.Iov = &s.iov[i]
		s.msgs[i].hdr.SetIovlen(1)
	}
	return s, nil
}

// send sends packets from number first on: up to n, and up to one batch for
// each thread. It blocks until all of them are sent or refused.
func (s *floodSenders) send(first, n uint64) (all floodSent) {
	own := floodRange{first, int(min(n, floodBatch))}
	first, n = first+uint64(own.n), n-uint64(own.n)
	busy := s.list[1:1]
	for _, one := range s.list[1:] {
		if n == 0 {
			break
		}
		r := floodRange{first, int(min(n, floodBatch))}
		one.work <- r
		busy = s.list[1 : len(busy)+2]
		first, n = first+uint64(r.n), n-uint64(r.n)
	}
	all = s.list[0].send(own)
	for _, one := range busy {
		x := <-one.done
		all.sent += x.sent
		all.refused += x.refused
		if all.errno == 0 {
			all.errno = x.errno
		}
	}
	return all
}

func (s *floodSenders) close() {
	for _, one := range s.list {
		if one.work != nil {
			close(one.work)
		}
	}
	s.wg.Wait()
	for _, one := range s.list {
		_ = unix.Close(one.fd)
	}
}

// send sends r, which is at most one batch.
func (s *floodSender) send(r floodRange) (x floodSent) {
	for i := range r.n {
		s.builder.put(s.frames[i], r.first+uint64(i))
	}
	for at := 0; at < r.n; {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.msgs[at])), uintptr(r.n-at), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			at += int(sent)
			x.sent += uint64(sent)
		case unix.EINTR:
		case unix.ENOBUFS, unix.ENOMEM, unix.EAGAIN: // about the first of them; the others may do better
			at++
			x.refused++
		default:
			x.errno = errno
			return x
		}
	}
	runtime.KeepAlive(s)
	return x
}

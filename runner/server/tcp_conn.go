//go:build linux

package server

import (
	"errors"
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/server/epoll"
	"github.com/tablefull/tablefull/runner/server/wire"
)

type tcpState uint8

const (
	closed   tcpState = iota // no socket
	reading                  // a request
	delaying                 // the answer
	writing                  // the answer
	parting                  // answered; until the client says that it may be reset
	keeping                  // answered; never closed by us
)

// tcpConn is one socket's state.
type tcpConn struct {
	gen    int32
	state  tcpState
	events uint32 // that came while the answer was delayed or written
	got    uint32 // bytes of the request, or
	sent   uint32 // bytes of the answer
	header [wire.RequestHeader]byte
	req    wire.Request
}

// event follows up what has happened to a connection.
func (l *tcpLoop) event(fd int, events uint32) {
	c := &l.conns[fd]
	switch c.state {
	case delaying:
		c.events |= events
	case writing:
		c.events |= events
		if events&(unix.EPOLLERR|unix.EPOLLHUP|unix.EPOLLOUT) != 0 {
			l.write(fd)
		}
	default:
		if events&(unix.EPOLLIN|epoll.Gone) != 0 {
			l.read(fd, events)
		}
	}
}

// read takes in what has come.
func (l *tcpLoop) read(fd int, events uint32) {
	c := &l.conns[fd]
	gen := c.gen
	for {
		n, err := unix.Read(fd, l.buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return
		case err != nil: // a reset, most often: how some clients close
			l.drop(fd)
			return
		case n == 0:
			l.ended(fd)
			return
		}
		// What follows may close the connection, and the number be used again.
		l.take(fd, l.buf[:n])
		if c = &l.conns[fd]; c.gen != gen || c.state == closed || c.state == delaying || c.state == writing {
			if c.gen == gen {
				c.events |= events // look again when the answer is out
			}
			return
		}
		// A short read has emptied the queue; what comes later has an event of
		// its own, except an end that this event told of already.
		if n < len(l.buf) && events&epoll.Gone == 0 {
			return
		}
	}
}

// take parses b, the next bytes of a connection.
func (l *tcpLoop) take(fd int, b []byte) {
	c := &l.conns[fd]
	if l.s.job.Server.Behaviour == "silent" {
		return
	}
	if c.state == parting {
		l.reset(fd)
		return
	}
	if c.state == keeping {
		c.state = reading // it goes on after all
	}
	if c.got < wire.RequestHeader {
		n := copy(c.header[c.got:], b)
		c.got += uint32(n)
		if b = b[n:]; c.got < wire.RequestHeader {
			return
		}
		req, err := wire.ParseRequest(c.header[:])
		if err != nil {
			l.s.errors.Add(1)
			l.reset(fd)
			return
		}
		c.req = req
	}
	c.got += uint32(len(b))
	switch want := wire.RequestHeader + c.req.Payload; {
	case c.got < want:
		return
	case c.got > want: // a request before the last one's answer: no client of ours
		l.s.errors.Add(1)
		l.reset(fd)
		return
	}
	c.got = 0
	switch {
	case l.s.job.Server.Behaviour == "reset":
		l.reset(fd)
	case l.delay > 0:
		c.state = delaying
		l.delayed.push(queued{fd: fd, gen: c.gen, due: l.now() + l.delay})
	default:
		c.sent = 0
		l.write(fd)
	}
}

// answerDelayed sends the answers that are due by now, and returns when the
// next one is.
func (l *tcpLoop) answerDelayed(now time.Duration) (next time.Duration) {
	for l.delayed.head < len(l.delayed.all) {
		if due := l.delayed.all[l.delayed.head].due; due > now {
			return due
		}
		q, _ := l.delayed.pop()
		if c := &l.conns[q.fd]; c.gen == q.gen && c.state == delaying {
			c.sent = 0
			l.write(q.fd)
		}
	}
	return math.MaxInt64
}

// write sends what is left of the answer.
func (l *tcpLoop) write(fd int) {
	c := &l.conns[fd]
	c.state = writing
	total := wire.ResponseHeader + c.req.Response
	for uint32(len(l.response)) < total {
		l.response = append(l.response, make([]byte, total-uint32(len(l.response)))...)
	}
	// The buffer is everybody's, and only its header differs.
	wire.Response{Payload: c.req.Response}.Append(l.response[:0])
	for c.sent < total {
		n, err := unix.Write(fd, l.response[c.sent:total])
		switch {
		case err == nil:
			c.sent += uint32(n)
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return // an event tells when there is room
		default:
			l.s.errors.Add(1)
			l.drop(fd)
			return
		}
	}
	l.s.progress.answered()
	l.answered(fd)
}

// answered ends the connection as its request asked for.
func (l *tcpLoop) answered(fd int) {
	c := &l.conns[fd]
	switch {
	case c.req.Flags&wire.CloseFirst != 0:
		l.drop(fd)
		return
	case c.req.Flags&wire.ResetFirst != 0:
		c.state = parting
	case c.req.Flags&wire.NeverClose != 0:
		c.state = keeping
		l.keep(fd)
	default:
		c.state = reading
	}
	if events := c.events; events != 0 {
		c.events = 0
		l.read(fd, events)
	}
}

// keep queues a connection for eviction. Those that were closed since they
// were queued are forgotten before they are more than those that are open.
func (l *tcpLoop) keep(fd int) {
	if len(l.kept.all) > 2*int(l.maxOpen) {
		l.kept.all = slices.DeleteFunc(l.kept.all[l.kept.head:], func(q queued) bool {
			c := &l.conns[q.fd]
			return c.gen != q.gen || c.state != keeping
		})
		l.kept.head = 0
	}
	l.kept.push(queued{fd: fd, gen: l.conns[fd].gen})
}

// ended follows up the client's FIN.
func (l *tcpLoop) ended(fd int) {
	if l.conns[fd].state != keeping {
		l.drop(fd)
		return
	}
	// Nothing will be sent that could carry the ACK, so the kernel would delay
	// it, and the entry in the table would stay a state behind.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
}

// reset closes a connection by RST.
func (l *tcpLoop) reset(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	l.drop(fd)
}

// drop closes a connection.
func (l *tcpLoop) drop(fd int) {
	l.conns[fd].state = closed
	l.s.open.Add(-1)
	_ = unix.Close(fd) // there is nothing to be done about an error
}

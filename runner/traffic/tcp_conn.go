//go:build linux

package traffic

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/server/epoll"
	"github.com/tablefull/tablefull/runner/server/wire"
)

type tcpState uint8

const (
	closed     tcpState = iota // no socket
	connecting                 // until the handshake is complete
	requesting                 // until the request is written whole
	waiting                    // until the answer is read whole
	closing                    // answered; until the peer has closed
	held                       // answered; open, with no deadline
)

// tcpConn is one socket's state. In lists and events it goes by its
// descriptor.
type tcpConn struct {
	gen        int32
	state      tcpState
	again      bool // has been answered before: this is no attempt any more
	sent       int32
	got        uint32 // bytes of the answer
	prev, next int32  // in the list it is in
	header     [wire.ResponseHeader]byte
	dst        netip.AddrPort
	seq        uint64
	due        float64 // s of run time, all four
	start      float64 // of the attempt
	connected  float64
	deadline   float64
	answeredAt float64
}

// attempting tells whether the connection's attempt has not ended yet.
func (c *tcpConn) attempting() bool {
	return !c.again && (c.state == connecting || c.state == requesting || c.state == waiting)
}

const none = -1

// tcpList is a doubly linked list through the connections.
type tcpList struct{ head, tail int32 }

func (l *tcpList) push(conns []tcpConn, fd int32) {
	c := &conns[fd]
	c.prev, c.next = l.tail, none
	if l.tail == none {
		l.head = fd
	} else {
		conns[l.tail].next = fd
	}
	l.tail = fd
}

func (l *tcpList) remove(conns []tcpConn, fd int32) {
	c := &conns[fd]
	if c.prev == none {
		l.head = c.next
	} else {
		conns[c.prev].next = c.next
	}
	if c.next == none {
		l.tail = c.prev
	} else {
		conns[c.next].prev = c.prev
	}
}

// generation makes room for fd's state and begins the generation of the socket
// that now has this number.
func (e *tcpEngine) generation(fd int) {
	for fd >= len(e.conns) {
		e.conns = append(e.conns, make([]tcpConn, max(1024, len(e.conns)))...)
	}
	e.conns[fd].gen++
}

// event follows up what has happened to a socket.
func (e *tcpEngine) event(ev epoll.Event) {
	fd := int32(ev.FD)
	c := &e.conns[fd]
	if c.gen != ev.Gen || c.state == closed {
		return // of a socket that is closed already
	}
	if c.state == connecting {
		if ev.Events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
			err := e.socketError(fd)
			e.fail(fd, outcomeOf(err, true), err)
			return
		}
		if ev.Events&unix.EPOLLOUT == 0 {
			return
		}
		c.connected = e.now()
		if c.dst.Addr().Is6() {
			_ = hearICMP6(int(fd), false) // as it was: cannot fail
		}
		c.state = requesting
	}
	if c.state == requesting && !e.write(fd) {
		return
	}
	switch c.state {
	case waiting:
		if ev.Events&(unix.EPOLLIN|epoll.Gone) != 0 {
			e.read(fd, ev.Events)
		}
	case closing, held:
		e.shape.event(fd, ev.Events)
	}
}

// ask sends a request on a connection that is open. It has the whole timeout
// from now on.
func (e *tcpEngine) ask(fd int32, now float64) {
	c := &e.conns[fd]
	e.move(fd, requesting, now+e.timeout)
	c.start, c.sent, c.got, c.again = now, 0, 0, true
	e.write(fd)
}

// write sends what is left of the request. It returns false where the
// connection has failed.
func (e *tcpEngine) write(fd int32) bool {
	c := &e.conns[fd]
	for int(c.sent) < len(e.request) {
		n, err := unix.Write(int(fd), e.request[c.sent:])
		switch err {
		case nil:
			c.sent += int32(n)
		case unix.EINTR:
		case unix.EAGAIN:
			return true // an event tells when there is room
		default:
			e.fail(fd, outcomeOf(err, false), err)
			return false
		}
	}
	c.state = waiting
	return true
}

// read takes in the answer.
func (e *tcpEngine) read(fd int32, events uint32) {
	c := &e.conns[fd]
	for {
		n, err := unix.Read(int(fd), e.buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return
		case err != nil:
			e.fail(fd, outcomeOf(err, false), err)
			return
		case n == 0:
			e.fail(fd, runlog.Closed, nil)
			return
		}
		whole, good := e.take(c, e.buf[:n])
		if !good {
			e.fail(fd, runlog.BadResponse, nil)
			return
		}
		if whole {
			now := e.now()
			c.answeredAt = now
			if c.attempting() {
				e.tally.OK(c.due, c.start, c.connected, now)
			}
			c.again = true
			e.shape.answered(fd, events)
			return
		}
		// A short read has emptied the queue; what comes later has an event
		// of its own, except an end that this event told of already.
		if n < len(e.buf) && events&epoll.Gone == 0 {
			return
		}
	}
}

// take counts bytes of the answer and checks its header. good is false where
// they are not the answer that was asked for.
func (e *tcpEngine) take(c *tcpConn, b []byte) (whole, good bool) {
	if c.got < wire.ResponseHeader {
		n := copy(c.header[c.got:], b)
		if c.got+uint32(n) == wire.ResponseHeader {
			r, err := wire.ParseResponse(c.header[:])
			if err != nil || r.Status != 0 || r.Payload != e.answer {
				return false, false
			}
		}
	}
	c.got += uint32(len(b))
	want := wire.ResponseHeader + e.answer
	return c.got == want, c.got <= want
}

// move puts a connection into a state, and into the list that goes with it:
// held has no deadline.
func (e *tcpEngine) move(fd int32, to tcpState, deadline float64) {
	e.unlist(fd)
	c := &e.conns[fd]
	c.state, c.deadline = to, deadline
	if to == held {
		e.kept.push(e.conns, fd)
	} else {
		e.running.push(e.conns, fd)
	}
}

func (e *tcpEngine) unlist(fd int32) {
	if e.conns[fd].state == held {
		e.kept.remove(e.conns, fd)
	} else {
		e.running.remove(e.conns, fd)
	}
}

// fail records how a connection's attempt, or its validation, has failed, and
// closes it.
//
// It is closed as an ordinary program would close it. A connection that is
// not complete sends nothing then: the entry in the table stays as the lost
// SYN left it. One that is complete sends FIN, or RST where it has data that
// was not read.
func (e *tcpEngine) fail(fd int32, o runlog.Outcome, err error) {
	c := &e.conns[fd]
	f := runlog.Failure{Seq: c.seq, Due: c.due, Start: c.start, Outcome: o, Errno: errnoName(err)}
	switch c.state {
	case connecting:
		f.Phase = "connect"
	case requesting:
		f.Phase = "request"
	default:
		f.Phase = "response"
	}
	f.Tuple = runlog.Tuple{Proto: "tcp", Src: e.local(fd), Dst: c.dst}
	if o == runlog.ConnectTimeout {
		f.Packets = 1 + e.retransmits(fd)
	}
	if c.attempting() {
		e.tally.Failed(f)
	} else {
		f.Phase, f.Due, f.Quiet = "held", f.Start, max(0, c.start-c.answeredAt)
		if e.keepAlive > 0 {
			f.Quiet = min(f.Quiet, float64(e.keepAlive))
		}
		e.tally.Lost(f)
		e.shape.failed(fd)
	}
	e.close(fd)
}

// close closes the socket.
func (e *tcpEngine) close(fd int32) {
	e.unlist(fd)
	e.conns[fd].state = closed
	e.open--
	_ = unix.Close(int(fd)) // there is nothing to be done about an error
}

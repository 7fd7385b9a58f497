//go:build linux

package traffic

import (
	"errors"
	"math"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/server/epoll"
	"github.com/tablefull/tablefull/scenarios"
)

// tearDown closes held connections at a rate, open loop: each has a due time,
// whatever becomes of those before it.
//
// A connection is torn down when both sides have sent FIN (RFC 3511 5.4: the
// client closes first, and one that is left in FIN-WAIT-2 does not count): this
// side sends its FIN, and within the traffic's timeout reads the end of the
// server's data. One that was lost before its turn, that is reset or that the
// timeout finds open has failed. Each failure has a Failure record with the
// phase close.
type tearDown struct {
	runlog.Closing
	schedule *Schedule
	due      float64
	seq      uint64 // the connection of this attempt is next
	more     bool
}

// closesFrom is when closing begins, s of run time.
func closesFrom(l env.LoadJob) float64 { return l.End - l.Traffic.Closing().Seconds() }

// closeSchedule is when the job's connections are to be closed; nil for at the
// end.
func closeSchedule(l env.LoadJob) (*Schedule, error) {
	rate := l.Traffic.Idle.CloseRate
	if rate == 0 {
		return nil, nil //nolint:nilnil // nil says so
	}
	pacer, err := pacerOf(l, scenarios.Pacing{Rate: rate})
	if err != nil {
		return nil, err
	}
	return NewSchedule(pacer, closesFrom(l), l.End), nil
}

func newTearDown(s *Schedule) *tearDown {
	d := &tearDown{schedule: s}
	d.due, d.seq, d.more = s.Next()
	return d
}

// closeDue closes the connections whose turn it is, and returns when it is the
// next one's.
func (i *idle) closeDue(now float64) float64 {
	d := i.down
	for range tcpBurst {
		if d.seq >= uint64(len(i.slots)) || !d.more {
			return math.Inf(1)
		}
		if d.due > now {
			break
		}
		d.Due++
		if now-d.due > lateness(i.e.job) {
			d.Late++
		}
		i.closeOne(i.slots[d.seq], d.due)
		d.due, d.seq, d.more = d.schedule.Next()
	}
	return d.due
}

// closeOne sends a connection's FIN.
func (i *idle) closeOne(fd int32, due float64) {
	if fd == none {
		i.down.Failed++ // it was lost before, or never opened, which is told
		return
	}
	e, now := i.e, i.e.now()
	if i.down.First == 0 {
		i.down.First = now
	}
	c := &e.conns[fd]
	c.due, c.start = due, now
	if c.state != held { // its last request is not answered
		i.notClosed(fd, runlog.ResponseTimeout, nil)
		e.close(fd)
		return
	}
	e.move(fd, closing, now+e.timeout)
	if err := unix.Shutdown(int(fd), unix.SHUT_WR); err != nil {
		i.notClosed(fd, outcomeOf(err, false), err)
		e.close(fd)
	}
}

// closeEvent looks for the server's FIN.
func (i *idle) closeEvent(fd int32, events uint32) {
	if events&(unix.EPOLLIN|epoll.Gone) == 0 {
		return
	}
	n, err := unix.Read(int(fd), i.e.buf)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return
	case err != nil:
		i.notClosed(fd, outcomeOf(err, false), err)
	case n > 0:
		i.notClosed(fd, runlog.BadResponse, nil)
	default:
		d, now := i.down, i.e.now()
		d.Closed++
		d.Last, d.Longest = now, max(d.Longest, now-i.e.conns[fd].due)
		i.forget(fd)
	}
	i.e.close(fd)
}

func (i *idle) unclosed(fd int32) { i.notClosed(fd, runlog.ResponseTimeout, nil) }

// notClosed records that a connection was not torn down.
func (i *idle) notClosed(fd int32, o runlog.Outcome, err error) {
	c := &i.e.conns[fd]
	i.down.Failed++
	i.e.tally.Lost(runlog.Failure{
		Seq: c.seq, Due: c.due, Start: c.start, Outcome: o, Errno: errnoName(err), Phase: "close",
		Tuple: runlog.Tuple{Proto: "tcp", Src: i.e.local(fd), Dst: c.dst},
	})
	i.forget(fd)
}

// forget takes a connection off those that are open.
func (i *idle) forget(fd int32) {
	i.slots[i.e.conns[fd].seq] = none
	i.open--
}

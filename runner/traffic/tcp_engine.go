//go:build linux

package traffic

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/server/epoll"
	"github.com/tablefull/tablefull/runner/server/wire"
)

const (
	tcpEvents     = 256     // taken from the kernel at once
	tcpBurst      = 64      // attempts begun, or validations sent, between two looks at the sockets
	tcpMaxBehind  = 1.0     // s after its due time an attempt is no longer begun
	tcpFlushEvery = 0.1     // s
	tcpSpareFiles = 256     // descriptors left to the rest of the process
	tcpBuffer     = 1 << 16 // bytes read at once
	tcpSegment    = 1200    // bytes that fit one segment on any network
	tcpPayload    = 64      // bytes of a request and of an answer, unless told
)

// tcpShape is what differs between the shapes that use the engine. All calls
// come from the engine's goroutine.
type tcpShape interface {
	// flags of the next request, and with them the connection's end.
	flags() wire.Flags
	// answered is called when the whole answer to a request is there. It
	// closes the connection, or gives it another state.
	answered(fd int32, events uint32)
	// event is called for an event on a connection in the state closing or
	// held.
	event(fd int32, events uint32)
	// failed is called for a connection with a running request that failed,
	// and that was answered before; the engine closes it.
	failed(fd int32)
	// unclosed is called for a connection in the state closing whose peer has
	// not closed in time; the engine closes it.
	unclosed(fd int32)
	// work does what is due by now and returns when it wants to be called
	// again, in s of run time; +Inf is never.
	work(now float64) (next float64)
	// end is called once, when nothing more is due.
	end()
}

// tcpEngine begins attempts when they are due, and follows them, on one
// thread: sockets are non-blocking, one epoll instance reports what happens to
// them, and it sleeps until the next due time or the next deadline. Nothing is
// allocated for a connection: its state lives in a slice indexed by its
// descriptor.
type tcpEngine struct {
	job        env.LoadJob
	shape      tcpShape
	now        func() float64
	out        env.Recorder
	tally      *Tally
	poll       *epoll.Poller
	tuples     tcpTuples
	timeout    float64 // s
	request    []byte
	answer     uint32 // payload bytes each answer must have
	buf        []byte
	open       int // sockets
	maxOpen    int
	disposable bool      // kept connections may vanish where descriptors run out
	keepAlive  int       // s between TCP keep-alives, 0 is none
	conns      []tcpConn // by descriptor
	// running are the connections with a deadline. They all have the same
	// timeout, so the order of beginning is the order of deadlines. kept are
	// those without one.
	running, kept tcpList

	schedule *Schedule
	limit    uint64 // attempts at most
	due      float64
	seq      uint64
	more     bool // due and seq are of the next attempt

	sa4 unix.SockaddrInet4
	sa6 unix.SockaddrInet6
}

// tcpSetup is what a shape gives its engine.
type tcpSetup struct {
	schedule      *Schedule
	limit         uint64 // attempts at most
	tuples        tcpTuples
	requestBytes  int           // payload
	responseBytes int           // payload
	keepAlive     time.Duration // between TCP keep-alives; 0 is none
	disposable    bool          // held connections may vanish where descriptors run out
}

// check refuses what cannot be run.
func (s tcpSetup) check(job env.LoadJob) error {
	switch {
	case job.Traffic.Timeout <= 0:
		return fmt.Errorf("timeout is %v, must be above 0s", job.Traffic.Timeout)
	case job.End < job.Start:
		return fmt.Errorf("the end, %v s, is before the start, %v s", job.End, job.Start)
	case s.requestBytes < 0 || s.requestBytes > wire.MaxPayload:
		return fmt.Errorf("request of %d bytes is not in [0, %d]", s.requestBytes, wire.MaxPayload)
	case s.responseBytes < 0 || s.responseBytes > wire.MaxPayload:
		return fmt.Errorf("response of %d bytes is not in [0, %d]", s.responseBytes, wire.MaxPayload)
	}
	return nil
}

func newTCPEngine(job env.Job, out env.Recorder, shape tcpShape, s tcpSetup) (*tcpEngine, error) {
	poll, err := epoll.New(tcpEvents)
	if err != nil {
		return nil, err
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return nil, errors.Join(fmt.Errorf("read limit of open files: %w", err), poll.Close())
	}
	now := Clock(job.Epoch)
	e := &tcpEngine{
		job: *job.Load, shape: shape, now: now, out: out, poll: poll,
		tally:    NewTally(out, *job.Load, now),
		tuples:   s.tuples,
		timeout:  time.Duration(job.Load.Traffic.Timeout).Seconds(),
		answer:   uint32(s.responseBytes),
		buf:      make([]byte, tcpBuffer),
		maxOpen:  int(min(files.Cur, 1<<30)) - tcpSpareFiles,
		running:  tcpList{head: none, tail: none},
		kept:     tcpList{head: none, tail: none},
		schedule: s.schedule, limit: s.limit,
		disposable: s.disposable && canVanish(),
		keepAlive:  int((s.keepAlive + time.Second - 1) / time.Second),
	}
	e.request = wire.Request{Flags: shape.flags(), Response: e.answer, Payload: uint32(s.requestBytes)}.Append(nil)
	e.request = append(e.request, make([]byte, s.requestBytes)...)
	if err := e.checkSources(); err != nil {
		return nil, errors.Join(err, poll.Close())
	}
	return e, nil
}

// checkSources tries the first and the last source address: one that this host
// does not have is a mistake in the set-up, and no shortage of ports.
func (e *tcpEngine) checkSources() error {
	if e.tuples.sources == 0 {
		return nil
	}
	for _, a := range []netip.Addr{e.tuples.source, e.tuples.last()} {
		fd, err := e.socket(netip.AddrPortFrom(a, 0))
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("send from %v: %w", a, err)
		}
	}
	return nil
}

// run drives the traffic to its end, or until ctx is done. It closes every
// socket before it returns.
func (e *tcpEngine) run(ctx context.Context) error {
	unlock := epoll.LockThread()
	defer unlock()
	release := e.poll.WakeOn(ctx)
	e.next()
	err := e.loop(ctx)
	e.interrupt()
	e.shape.end()
	e.closeAll()
	e.tally.Close()
	release()
	return errors.Join(err, e.poll.Close())
}

func (e *tcpEngine) loop(ctx context.Context) error {
	flush := e.now() + tcpFlushEvery
	sleep := time.Duration(0)
	for ctx.Err() == nil {
		asked := e.now()
		events, err := e.poll.Wait(sleep)
		if err != nil {
			return err
		}
		for _, ev := range events {
			e.event(ev)
		}
		// Only now, and as of the moment before: an answer that came in time
		// has been seen, however long this thread was kept from looking. The
		// queue has more where it was as long as it can be.
		if len(events) < tcpEvents {
			e.expire(asked)
		}
		busy := e.begin()
		now := e.now()
		wake := e.shape.work(now)
		if now >= flush {
			e.tally.Flush()
			flush = now + tcpFlushEvery
		}
		if !e.more && now >= e.job.End && e.running.head == none {
			return nil
		}
		wake = min(wake, flush)
		if e.more {
			wake = min(wake, e.due)
		}
		if now < e.job.End {
			wake = min(wake, e.job.End)
		}
		if e.running.head != none {
			wake = min(wake, e.conns[e.running.head].deadline)
		}
		sleep = 0
		if !busy {
			sleep = max(0, time.Duration(math.Ceil((wake-e.now())*1e9)))
		}
	}
	return nil
}

// next looks up when the next attempt is due.
func (e *tcpEngine) next() {
	e.due, e.seq, e.more = e.schedule.Next()
	if e.seq >= e.limit {
		e.more = false
	}
}

// begin begins the attempts that are due, up to a number that leaves time for
// those under way; busy tells that more are due already.
func (e *tcpEngine) begin() (busy bool) {
	for range tcpBurst {
		now := e.now()
		if !e.more || e.due > now {
			return false
		}
		e.tally.Due(e.due)
		if now-e.due > tcpMaxBehind {
			e.notStarted(runlog.Behind, nil)
		} else {
			e.attempt(now)
		}
		e.next()
	}
	return e.more && e.due <= e.now()
}

// attempt begins the next attempt.
func (e *tcpEngine) attempt(now float64) {
	if e.open >= e.maxOpen && !e.evict() {
		e.notStarted(runlog.NoFiles, unix.EMFILE)
		return
	}
	src, dst := e.tuples.at(e.seq)
	fd, err := e.socket(src)
	bound := err == nil
	if fd >= 0 {
		e.generation(fd) // makes room, also for a socket that could not be bound
	}
	if bound {
		if err = e.connect(fd, dst); err == nil || errors.Is(err, unix.EINPROGRESS) {
			// Not before: a socket that is neither connected nor connecting
			// has an event already.
			err = e.poll.Add(fd, e.conns[fd].gen, epoll.In|epoll.Out)
		}
	}
	reason, ours := notStartedFor(err)
	if !bound && errors.Is(err, unix.EACCES) {
		reason, ours = runlog.NoPorts, true // a port that one may not bind
	}
	if ours {
		if fd >= 0 {
			_ = unix.Close(fd) // never connected: nothing is sent
		}
		e.notStarted(reason, err)
		return
	}
	e.tally.Started(e.due, now)
	if fd < 0 { // no socket, for no reason we know: told as it is
		e.tally.Failed(e.failureOf(err, src, dst, now))
		return
	}
	e.open++
	c := &e.conns[fd]
	*c = tcpConn{gen: c.gen, state: connecting, seq: e.seq, due: e.due, start: now, dst: dst, deadline: now + e.timeout}
	e.running.push(e.conns, int32(fd))
	if err != nil {
		e.fail(int32(fd), outcomeOf(err, true), err)
	}
}

func (e *tcpEngine) failureOf(err error, src, dst netip.AddrPort, now float64) runlog.Failure {
	return runlog.Failure{
		Seq: e.seq, Due: e.due, Start: now, Outcome: outcomeOf(err, true), Errno: errnoName(err), Phase: "connect",
		Tuple: runlog.Tuple{Proto: "tcp", Src: src, Dst: dst},
	}
}

func (e *tcpEngine) notStarted(why runlog.NotStartedReason, err error) {
	src, dst := e.tuples.at(e.seq)
	e.tally.NotStarted(runlog.Failure{
		Seq: e.seq, Due: e.due, Start: e.now(), NotStarted: why, Errno: errnoName(err), Phase: "connect",
		Tuple: runlog.Tuple{Proto: "tcp", Src: src, Dst: dst},
	})
}

// expire ends what had taken longer than the timeout by now.
func (e *tcpEngine) expire(now float64) {
	for fd := e.running.head; fd != none && e.conns[fd].deadline <= now; fd = e.running.head {
		switch e.conns[fd].state {
		case connecting:
			e.fail(fd, runlog.ConnectTimeout, nil)
		case closing:
			e.shape.unclosed(fd)
			e.close(fd)
		default:
			e.fail(fd, runlog.ResponseTimeout, nil)
		}
	}
}

// interrupt ends, as neither success nor failure, what is under way, and tells
// of what is due and was not begun.
func (e *tcpEngine) interrupt() {
	for now := e.now(); e.more && e.due <= now; e.next() {
		e.tally.Due(e.due)
		e.notStarted(runlog.Stopped, nil)
	}
	for fd := e.running.head; fd != none; fd = e.running.head {
		c := &e.conns[fd]
		if c.attempting() {
			e.tally.Interrupted(c.due)
		}
		e.close(fd)
	}
}

// evict lets the oldest connection that is only kept for its entry in the
// table vanish, which leaves that entry as it is. It returns false where there
// is none.
func (e *tcpEngine) evict() bool {
	fd := e.kept.head
	if !e.disposable || fd == none || vanish(fd) != nil {
		return false
	}
	e.close(fd)
	return true
}

func (e *tcpEngine) closeAll() {
	for e.kept.head != none {
		e.close(e.kept.head)
	}
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

//go:build linux

package traffic

import (
	"context"
	"fmt"
	"hash/fnv"
	"math"
	"math/bits"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/server/epoll"
	"github.com/tablefull/tablefull/runner/server/wire"
	"github.com/tablefull/tablefull/scenarios"
)

const (
	udpBytes   = 64      // of a datagram by default
	udpMaxIPv4 = 65507   // bytes of payload that fit an IPv4 datagram
	udpMaxIPv6 = 65527   // and an IPv6 one without extension headers
	maxBehind  = 1.0     // s behind its due time after which an attempt is not begun any more
	udpBatch   = 128     // attempts begun between two looks at the sockets
	udpFlights = 1 << 20 // attempts in flight at most; only long-lived sockets get there
	flushEvery = 0.1     // s
	spareFiles = 512     // descriptors left to the rest of the agent
)

// UDP sends datagrams and waits for their answers (see [wire.UDP]).
//
// An attempt is one datagram, or two with dns_pair. It is OK once every
// datagram is answered; ResponseTimeout when one is not in time, with as many
// Packets as lack an answer; Refused or Unreachable when ICMP says so of this
// very datagram (the socket's error queue quotes it); NotPermitted when
// sending fails with EPERM. Answers carry the attempt's number, so a late one
// is not taken for another's; datagrams that fit no attempt in flight are
// ignored, counted, and reported in an Event.
//
// Hosts limit how much ICMP they send (net.ipv4.icmp_ratelimit, for each peer
// one per second after a burst), except over loopback: where a port is closed,
// most attempts are ResponseTimeout and only some are Refused.
//
// One-way (reply: false) an attempt is OK once the kernel has taken it.
// Nobody can tell whether it arrived, and its latency is that of sending.
//
// A socket per request is bound to a port that this package chooses, not the
// kernel: see udpTuples.
type UDP struct {
	job    env.LoadJob
	epoch  int64
	shape  scenarios.UDP
	reply  bool
	size   int // bytes of a datagram
	parts  int // datagrams of an attempt
	token  uint64
	tuples *udpTuples
	sched  *Schedule
}

var _ env.Worker = (*UDP)(nil)

// NewUDP returns a worker for job.Load, which must be set, with a traffic of
// shape udp.
func NewUDP(job env.Job) (env.Worker, error) {
	l := *job.Load
	if l.Traffic.UDP == nil {
		return nil, fmt.Errorf("make udp traffic %s: it has another shape", l.Traffic.Name)
	}
	u := &UDP{job: l, epoch: job.Epoch, shape: *l.Traffic.UDP, parts: 1}
	u.reply = u.shape.Reply == nil || *u.shape.Reply
	if u.shape.DNSPair {
		u.parts = 2
	}
	u.shape.Sockets = l.Part.Has(max(1, u.shape.Sockets))
	u.size = u.shape.RequestBytes
	if u.size == 0 {
		u.size = udpBytes
	}
	most := udpMaxIPv4
	if l.Target.Addr().Is6() {
		most = udpMaxIPv6
	}
	if u.size < wire.UDPHeaderSize || u.size > most {
		return nil, fmt.Errorf("make udp traffic %s: request_bytes is %d, must be %d to %d", l.Traffic.Name, u.size, wire.UDPHeaderSize, most)
	}
	if u.reply && l.Traffic.Timeout <= 0 {
		return nil, fmt.Errorf("make udp traffic %s: it has no timeout", l.Traffic.Name)
	}
	p, err := pacerOf(l, u.shape.Pacing)
	if err != nil {
		return nil, fmt.Errorf("make udp traffic %s: %w", l.Traffic.Name, err)
	}
	u.sched = NewSchedule(p, l.Start, l.End)
	if u.tuples, err = newUDPTuples(l, u.shape.SourcePorts); err != nil {
		return nil, fmt.Errorf("make udp traffic %s: %w", l.Traffic.Name, err)
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d %d", job.ID, job.Epoch, l.Seed)
	u.token = h.Sum64()
	return u, nil
}

// Run implements env.Worker.
func (u *UDP) Run(ctx context.Context, ready func(), out env.Recorder) error {
	// One thread does everything: no wake-up of another lies between a due
	// time and its datagram.
	unlock := epoll.LockThread()
	defer unlock()
	e, err := newUDPEngine(u, out)
	if err != nil {
		return fmt.Errorf("run udp traffic %s: %w", u.job.Traffic.Name, err)
	}
	defer e.close()
	ready()
	release := e.poll.WakeOn(ctx)
	defer release()
	if err := e.loop(ctx); err != nil {
		return fmt.Errorf("run udp traffic %s: %w", u.job.Traffic.Name, err)
	}
	return nil
}

// udpFlight is an attempt in flight.
type udpFlight struct {
	seq        uint64
	due, start float64
	socket     int32 // index in the engine's sockets
	want       uint8 // parts that lack an answer, a bit each; 0 is over
}

// udpEngine is a running UDP. It is used by one goroutine.
type udpEngine struct {
	*UDP
	out     env.Recorder
	now     func() float64
	tally   *Tally
	poll    *epoll.Poller
	timeout float64 // s
	maxOpen int

	sockets []udpSocket
	free    []int32 // closed sockets' indices
	open    int
	turn    int // of long-lived sockets
	bind    udpBinder

	// Attempts in flight by id, a ring. All have the same timeout, so they
	// are in the order of their deadlines.
	flights    []udpFlight
	head, tail uint64 // ids

	buf      []byte // a datagram to send
	in       []byte // one received
	oob      []byte
	nextDue  float64
	nextSeq  uint64
	more     bool
	pair     *pairSender // nil where one thread sends both
	together bool        // the datagrams of the last pair were sent at once
	second   unix.Errno  // how sending the second one ended then
	strays   uint64      // datagrams and errors that fit no attempt in flight
}

func newUDPEngine(u *UDP, out env.Recorder) (*udpEngine, error) {
	now := Clock(u.epoch)
	e := &udpEngine{
		UDP: u, out: out, now: now, tally: NewTally(out, u.job, now),
		timeout: u.job.Traffic.Timeout.Seconds(),
		maxOpen: maxSockets(),
		flights: make([]udpFlight, 256),
		buf:     make([]byte, u.size), in: make([]byte, 1<<16), oob: make([]byte, 512),
	}
	var err error
	if e.poll, err = epoll.New(udpBatch); err != nil {
		return nil, err
	}
	if u.shape.DNSPair && u.shape.Parallel {
		e.pair = newPairSender(u.size, now)
	}
	if u.shape.Socket == "long_lived" {
		for range max(1, u.shape.Sockets) {
			if _, err := e.openSocket(); err != nil {
				e.close()
				return nil, fmt.Errorf("open long-lived socket %d of %d: %w", len(e.sockets)+1, max(1, u.shape.Sockets), err)
			}
		}
	}
	return e, nil
}

// maxSockets is how many sockets one engine may have open: the descriptor
// limit, less what the rest of the agent needs.
func maxSockets() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return spareFiles
	}
	return int(max(1, int64(min(r.Cur, math.MaxInt32))-spareFiles))
}

func (e *udpEngine) close() {
	for i := range e.sockets {
		e.closeSocket(int32(i))
	}
	if e.pair != nil {
		e.pair.close()
	}
	_ = e.poll.Close() // nothing can be lost with it
}

// loop runs until no attempt is due any more and none is in flight, or ctx is
// done.
func (e *udpEngine) loop(ctx context.Context) error {
	defer e.tally.Close()
	defer e.reportStrays()
	e.nextDue, e.nextSeq, e.more = e.sched.Next()
	flush := e.now() + flushEvery
	for {
		busy := e.begin()
		now := e.now()
		e.forget()
		if now >= flush {
			e.tally.Flush()
			flush = now + flushEvery
		}
		if ctx.Err() != nil {
			e.interrupt()
			return nil
		}
		if !e.more && e.head == e.tail {
			return nil
		}
		wait := flush - now
		if e.more {
			wait = min(wait, e.nextDue-now)
		}
		if e.head != e.tail {
			wait = min(wait, e.flight(e.head).start+e.timeout-now)
		}
		if busy {
			wait = 0
		}
		asked := e.now()
		events, err := e.poll.Wait(sleepFor(max(0, wait)))
		if err != nil {
			e.interrupt()
			return err
		}
		all := len(events) < udpBatch
		for _, ev := range events {
			// A socket closed because of an event before this one is not
			// opened again before the next round, so its index is enough.
			if e.sockets[ev.Gen].fd == ev.FD {
				all = e.receive(ev.Gen, ev.Events) && all
			}
		}
		// Only now, and as of the moment before: an answer that came in time
		// has been seen, however long this thread was kept from looking.
		if all {
			e.expire(asked)
		}
	}
}

// begin begins the attempts that are due, but only so many: it reports true
// where there may be more.
func (e *udpEngine) begin() (busy bool) {
	for range udpBatch {
		now := e.now()
		if !e.more || e.nextDue > now {
			return false
		}
		due, seq := e.nextDue, e.nextSeq
		e.tally.Due(due)
		switch {
		case now-due > maxBehind:
			e.notStarted(seq, due, runlog.Behind, 0, netip.AddrPort{}, netip.AddrPort{})
		case e.reply && e.tail-e.head >= udpFlights:
			e.notStarted(seq, due, runlog.NoMemory, 0, netip.AddrPort{}, netip.AddrPort{})
		default:
			e.attempt(seq, due)
		}
		e.nextDue, e.nextSeq, e.more = e.sched.Next()
	}
	return true
}

// attempt begins one attempt.
func (e *udpEngine) attempt(seq uint64, due float64) {
	perRequest := e.shape.Socket != "long_lived"
	var s int32
	if perRequest {
		var err error
		if s, err = e.openSocket(); err != nil {
			e.notOpened(seq, due, err)
			return
		}
	} else {
		s = int32(e.turn)
		e.turn = (e.turn + 1) % len(e.sockets)
	}
	start := e.now()
	f := e.push(udpFlight{seq: seq, due: due, start: start, socket: s})
	for part := range e.parts {
		errno := e.sendPart(s, e.tail-1, part)
		if part > 0 && f.want == 0 {
			return // ICMP about the first datagram has just ended the attempt
		}
		if errno == 0 {
			if part == 0 {
				e.tally.Started(due, start)
			}
			f.want |= 1 << part
			continue
		}
		f.want = 0
		if reason := noStart(errno); part == 0 && reason != "" {
			e.notStarted(seq, due, reason, errno, e.sockets[s].src, e.sockets[s].dst)
		} else {
			if part == 0 {
				e.tally.Started(due, start)
			}
			e.failed(f, errno, "request", 0)
		}
		e.release(s)
		return
	}
	if !e.reply {
		f.want = 0
		e.tally.OK(due, start, math.NaN(), e.now())
		e.release(s)
	}
}

// sendPart sends a datagram of an attempt; with pairs of two threads, the second
// together with the first.
func (e *udpEngine) sendPart(s int32, id uint64, part int) unix.Errno {
	if e.pair == nil {
		return e.send(s, id, part)
	}
	if part == 1 {
		if e.together && e.second == 0 {
			return 0
		}
		return e.send(s, id, 1) // not sent yet, or refused for an earlier datagram
	}
	wire.UDP{OneWay: !e.reply, Part: 1, Token: e.token, ID: id}.Put(e.pair.buf)
	e.together = e.pair.begin(e.sockets[s].fd)
	errno := e.send(s, id, 0)
	if e.together {
		e.second = e.pair.end()
	}
	return errno
}

// send sends one datagram. An error that the socket kept from an earlier
// datagram (ICMP) is that one's, not this one's.
func (e *udpEngine) send(s int32, id uint64, part int) unix.Errno {
	wire.UDP{OneWay: !e.reply, Part: uint8(part), Token: e.token, ID: id}.Put(e.buf)
	for {
		_, err := unix.Write(e.sockets[s].fd, e.buf)
		if err == nil {
			return 0
		}
		if err == unix.EINTR || e.readErrors(s) && e.sockets[s].fd >= 0 {
			continue
		}
		return errnoOf(err)
	}
}

// release closes a socket that was for one request.
func (e *udpEngine) release(s int32) {
	if e.shape.Socket != "long_lived" {
		e.closeSocket(s)
	}
}

// receive reads what has come to a socket; all tells that nothing is left.
func (e *udpEngine) receive(s int32, what uint32) (all bool) {
	if what&unix.EPOLLERR != 0 {
		e.readErrors(s)
	}
	for range udpBatch {
		if e.sockets[s].fd < 0 {
			return true // the attempt it was for is over
		}
		n, err := unix.Read(e.sockets[s].fd, e.in)
		switch {
		case err == unix.EAGAIN:
			return true
		case err == unix.EINTR:
		case err != nil:
			if !e.readErrors(s) {
				e.unquoted(s, errnoOf(err))
				return false
			}
		default:
			e.answered(e.in[:n])
		}
	}
	return false
}

// answered counts an answer to the attempt that it names.
func (e *udpEngine) answered(b []byte) {
	u, ok := wire.ParseUDP(b)
	if !ok || !u.Answer || !e.inFlight(u) {
		e.strays++
		return
	}
	f := e.flight(u.ID)
	f.want &^= 1 << u.Part
	if f.want == 0 {
		e.tally.OK(f.due, f.start, math.NaN(), e.now())
		e.release(f.socket)
	}
}

// inFlight tells whether u belongs to an attempt that waits for this part.
func (e *udpEngine) inFlight(u wire.UDP) bool {
	return u.Token == e.token && u.ID >= e.head && u.ID < e.tail && e.flight(u.ID).want&(1<<u.Part) != 0
}

// unquoted handles an error that came without the datagram it is about. With a
// socket of its own there is one attempt it can be about.
func (e *udpEngine) unquoted(s int32, errno unix.Errno) {
	if e.shape.Socket == "long_lived" {
		e.strays++
		return
	}
	for id := e.head; id < e.tail; id++ {
		if f := e.flight(id); f.socket == s && f.want != 0 {
			e.failed(f, errno, "response", 0)
			e.release(s)
			return
		}
	}
}

// forget drops the attempts that are over, as far as none before them is in
// flight.
func (e *udpEngine) forget() {
	for e.head < e.tail && e.flight(e.head).want == 0 {
		e.head++
	}
}

// expire ends the attempts that had taken longer than the timeout by now.
func (e *udpEngine) expire(now float64) {
	for e.forget(); e.head < e.tail; e.forget() {
		f := e.flight(e.head)
		if f.start+e.timeout > now {
			return
		}
		e.fail(f, runlog.ResponseTimeout, "", "response", uint64(bits.OnesCount8(f.want)))
		e.release(f.socket)
	}
}

// interrupt ends every attempt because the job was stopped, and tells of what
// is due and was not begun.
func (e *udpEngine) interrupt() {
	for now := e.now(); e.more && e.nextDue <= now; e.nextDue, e.nextSeq, e.more = e.sched.Next() {
		e.tally.Due(e.nextDue)
		e.notStarted(e.nextSeq, e.nextDue, runlog.Stopped, 0, netip.AddrPort{}, netip.AddrPort{})
	}
	for ; e.head < e.tail; e.head++ {
		if f := e.flight(e.head); f.want != 0 {
			e.tally.Interrupted(f.due)
			f.want = 0
		}
	}
}

func (e *udpEngine) reportStrays() {
	if e.pair != nil && 20*e.pair.apart > e.pair.pairs {
		e.out.Record(runlog.Record{Event: &runlog.Event{
			Kind: "warning", Name: "udp_pairs",
			Detail: fmt.Sprintf("traffic %s: the datagrams of %d of %d pairs were not sent at the same moment, because no CPU was free for the second thread", e.job.Traffic.Name, e.pair.apart, e.pair.pairs),
			Fields: map[string]string{"traffic": e.job.Traffic.Name, "count": fmt.Sprint(e.pair.apart)},
		}})
	}
	if e.strays == 0 {
		return
	}
	e.out.Record(runlog.Record{Event: &runlog.Event{
		Kind: "warning", Name: "udp_strays",
		Detail: fmt.Sprintf("traffic %s: %d datagrams or errors came that fit no attempt in flight (late, repeated or not ours); they were ignored", e.job.Traffic.Name, e.strays),
		Fields: map[string]string{"traffic": e.job.Traffic.Name, "count": fmt.Sprint(e.strays)},
	}})
}

// notOpened counts an attempt whose socket could not be had.
func (e *udpEngine) notOpened(seq uint64, due float64, err error) {
	errno := errnoOf(err)
	if reason := noStart(errno); reason != "" {
		e.notStarted(seq, due, reason, errno, netip.AddrPort{}, e.job.Target)
		return
	}
	// Connecting a UDP socket fails where there is no route: that is the
	// network's doing.
	now := e.now()
	e.tally.Started(due, now)
	e.tally.Failed(runlog.Failure{
		Seq: seq, Due: due, Start: now, Outcome: outcomeOf(errno, true), Errno: errnoName(errno), Phase: "connect",
		Tuple: runlog.Tuple{Proto: "udp", Dst: e.job.Target},
	})
}

func (e *udpEngine) notStarted(seq uint64, due float64, why runlog.NotStartedReason, errno unix.Errno, src, dst netip.AddrPort) {
	e.tally.NotStarted(runlog.Failure{Seq: seq, Due: due, NotStarted: why, Errno: errnoName(errno), Tuple: runlog.Tuple{Proto: "udp", Src: src, Dst: dst}})
}

func (e *udpEngine) failed(f *udpFlight, errno unix.Errno, phase string, packets uint64) {
	e.fail(f, outcomeOf(errno, false), errnoName(errno), phase, packets)
}

func (e *udpEngine) fail(f *udpFlight, o runlog.Outcome, errno, phase string, packets uint64) {
	f.want = 0
	s := e.sockets[f.socket]
	e.tally.Failed(runlog.Failure{
		Seq: f.seq, Due: f.due, Start: f.start, Outcome: o, Errno: errno, Phase: phase, Packets: packets,
		Tuple: runlog.Tuple{Proto: "udp", Src: s.src, Dst: s.dst},
	})
}

// flight returns the attempt with this id, which must be in [head, tail).
func (e *udpEngine) flight(id uint64) *udpFlight { return &e.flights[id&uint64(len(e.flights)-1)] }

// push adds an attempt; its id is tail-1 afterwards. The pointer is good until
// the next push.
func (e *udpEngine) push(f udpFlight) *udpFlight {
	if e.tail-e.head == uint64(len(e.flights)) {
		grown := make([]udpFlight, 2*len(e.flights))
		for id := e.head; id < e.tail; id++ {
			grown[id&uint64(len(grown)-1)] = *e.flight(id)
		}
		e.flights = grown
	}
	e.tail++
	p := e.flight(e.tail - 1)
	*p = f
	return p
}

// noStart is why an attempt whose socket calls ended with errno was never
// begun; empty where it was. Besides the shortages of any socket it knows a
// send buffer that is full, and a port that one may not bind.
func noStart(errno unix.Errno) runlog.NotStartedReason {
	switch errno {
	case unix.EACCES:
		return runlog.NoPorts
	case unix.EAGAIN:
		return runlog.NoMemory
	}
	reason, _ := notStartedFor(errno)
	return reason
}

// sleepFor rounds up: rounded down, the sleep would end before its time has
// come, and the loop would go round once more for nothing.
func sleepFor(s float64) time.Duration { return time.Duration(math.Ceil(s * 1e9)) }

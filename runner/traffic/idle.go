//go:build linux

package traffic

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/server/epoll"
	"github.com/tablefull/tablefull/runner/server/wire"
	"github.com/tablefull/tablefull/scenarios"
)

// Idle opens connections at a rate and holds them to its end. Each opening is
// an attempt; it has succeeded when the first request on it was answered.
//
// A held connection is asked again every ValidateEvery, all of them evenly
// spread over that time. One that fails then, or that the server ends, is
// lost: it is not opened again, it counts in Held.Lost, and there is a Failure
// record whose Phase is held, whose Seq is that of the attempt that opened it,
// and whose Due and Start are when the request was sent or the end was seen.
// As its attempt had succeeded before, no Bin counts it.
//
// At the end connections are closed by FIN, in no time. With a CloseRate they
// are before, each when it is due: see tearDown.
type Idle struct {
	job   env.Job
	setup tcpSetup
	close *Schedule // nil: at the end
}

var _ env.Worker = (*Idle)(nil)

// NewIdle returns the worker for a job whose traffic is idle.
func NewIdle(job env.Job) (env.Worker, error) {
	i := job.Load.Traffic.Idle
	if i.Count < 1 {
		return nil, fmt.Errorf("make idle traffic: count is %d, must be above 0", i.Count)
	}
	pacer, err := pacerOf(*job.Load, scenarios.Pacing{Rate: i.OpenRate})
	if err != nil {
		return nil, fmt.Errorf("make idle traffic: open_rate: %w", err)
	}
	tuples, err := newTCPTuples(*job.Load, nil)
	if err != nil {
		return nil, fmt.Errorf("make idle traffic: %w", err)
	}
	closes, err := closeSchedule(*job.Load)
	if err != nil {
		return nil, fmt.Errorf("make idle traffic: close_rate: %w", err)
	}
	w := &Idle{job: job, close: closes, setup: tcpSetup{
		schedule: NewSchedule(pacer, job.Load.Start, job.Load.End), limit: uint64(job.Load.Part.Has(i.Count)), tuples: tuples,
		requestBytes: tcpPayload, responseBytes: tcpPayload, keepAlive: time.Duration(i.KeepAlive),
	}}
	if err := w.setup.check(*job.Load); err != nil {
		return nil, fmt.Errorf("make idle traffic: %w", err)
	}
	return w, nil
}

// Run implements env.Worker. It can run once.
func (w *Idle) Run(ctx context.Context, ready func(), out env.Recorder) error {
	cfg := w.job.Load.Traffic.Idle
	shape := &idle{every: cfg.ValidateEvery.Seconds(), slots: make([]int32, w.setup.limit), record: math.Floor(w.job.Load.Start) + 1, asks: w.job.Load.End}
	if w.close != nil {
		shape.down = newTearDown(w.close)
		shape.asks = closesFrom(*w.job.Load) - w.job.Load.Traffic.Timeout.Seconds()
	}
	for i := range shape.slots {
		shape.slots[i] = none
	}
	e, err := newTCPEngine(w.job, out, shape, w.setup)
	if err != nil {
		return fmt.Errorf("start idle traffic: %w", err)
	}
	shape.e = e
	ready()
	if err := e.run(ctx); err != nil {
		return fmt.Errorf("run idle traffic: %w", err)
	}
	return nil
}

type idle struct {
	e      *tcpEngine
	every  float64 // s between two requests on one connection; 0 is never
	slots  []int32 // by attempt: the connection it opened, or none
	open   uint64
	lost   uint64
	round  uint64  // validations done, or passed over, so far
	asks   float64 // until when there are validations, s of run time
	record float64 // when the next Held record is due
	down   *tearDown
}

var _ tcpShape = (*idle)(nil)

func (i *idle) flags() wire.Flags { return 0 }

func (i *idle) answered(fd int32, events uint32) {
	slot := &i.slots[i.e.conns[fd].seq]
	if *slot == none {
		*slot = fd
		i.open++
	}
	i.e.move(fd, held, 0)
	if events&epoll.Gone != 0 {
		i.event(fd, events)
	}
}

// event looks at a held connection from which nothing is expected.
func (i *idle) event(fd int32, events uint32) {
	if i.e.conns[fd].state == closing {
		i.closeEvent(fd, events)
		return
	}
	if events&(unix.EPOLLIN|epoll.Gone) == 0 {
		return
	}
	n, err := unix.Read(int(fd), i.e.buf)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return
	}
	i.e.conns[fd].start = i.e.now()
	switch {
	case err != nil:
		i.e.fail(fd, outcomeOf(err, false), err)
	case n == 0:
		i.e.fail(fd, runlog.Closed, nil)
	default:
		i.e.fail(fd, runlog.BadResponse, nil)
	}
}

func (i *idle) failed(fd int32) {
	i.slots[i.e.conns[fd].seq] = none
	i.open--
	i.lost++
}

// work asks the connections whose turn it is. Connection k of n is asked at
// Start + (m + k/n) ValidateEvery, for every whole m: evenly, however quickly
// they were opened.
func (i *idle) work(now float64) float64 {
	next := math.Inf(1)
	if i.every > 0 && len(i.slots) > 0 {
		n := uint64(len(i.slots))
		due := func() float64 { return i.e.job.Start + i.every*float64(i.round)/float64(n) }
		for range tcpBurst {
			if t := due(); t > now || t >= i.asks {
				break
			}
			fd := i.slots[i.round%n]
			i.round++
			// One whose last request is still running is not asked twice.
			if fd != none && i.e.conns[fd].state == held {
				i.e.ask(fd, i.e.now())
			}
		}
		if t := due(); t < i.asks {
			next = t
		}
	}
	if i.down != nil {
		next = min(next, i.closeDue(now))
	}
	if now >= i.record {
		i.tell(now)
		i.record = math.Floor(now) + 1
	}
	return min(next, i.record)
}

// tell records how many connections are held, and how many of them have
// answered in their last round: not longer ago than one round and the time an
// answer may take.
func (i *idle) tell(now float64) {
	h := &runlog.Held{Traffic: i.e.job.Traffic.Name, Node: i.e.job.Node, Open: i.open, Lost: i.lost}
	if i.down != nil && i.down.Due > 0 {
		c := i.down.Closing
		h.Closing = &c
	}
	for _, fd := range i.slots {
		if fd != none && i.e.conns[fd].answeredAt >= now-i.every-i.e.timeout {
			h.Validated++
		}
	}
	i.e.out.Record(runlog.Record{Held: h})
}

func (i *idle) end() { i.tell(i.e.now()) }

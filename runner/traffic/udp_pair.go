//go:build linux

package traffic

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/server/epoll"
)

// pairWait is how long the first datagram of a pair waits for the thread that
// is to send the second.
const pairWait = 2 * time.Millisecond

// A pairSender sends the second datagram of each pair from a thread of its own,
// at the moment at which the first is sent: each of the two is then in the
// network code of a CPU of its own, as those of a resolver with two threads are.
// A thread takes tens of microseconds to wake up, so the first waits until the
// other says that it runs.
type pairSender struct {
	buf   []byte // the second datagram
	fd    int
	errno unix.Errno // how sending it ended, once done
	phase atomic.Uint32
	wake  chan struct{}
	ended chan struct{}
	pairs uint64
	apart uint64 // of pairs: the other thread did not run in time
	now   func() float64
}

const (
	pairAsked uint32 = iota
	pairReady        // the other thread runs, and waits for go
	pairGo
	pairDone
)

// newPairSender starts the thread; close ends it. now is the clock of the run, s.
func newPairSender(size int, now func() float64) *pairSender {
	p := &pairSender{buf: make([]byte, size), wake: make(chan struct{}), ended: make(chan struct{}), now: now}
	go p.run()
	return p
}

func (p *pairSender) run() {
	defer close(p.ended)
	defer epoll.LockThread()()
	for range p.wake {
		p.phase.CompareAndSwap(pairAsked, pairReady)
		for p.phase.Load() != pairGo { //nolint:revive // a few microseconds: going to sleep would take longer
		}
		_, err := unix.Write(p.fd, p.buf)
		p.errno = 0
		if err != nil {
			p.errno = errnoOf(err)
		}
		p.phase.Store(pairDone)
	}
}

// begin returns once the other thread is about to send p.buf to fd, or after
// pairWait. The caller sends at once, and then calls end.
func (p *pairSender) begin(fd int) {
	p.fd = fd
	p.phase.Store(pairAsked)
	p.wake <- struct{}{}
	until := p.now() + pairWait.Seconds()
	for p.phase.Load() != pairReady && p.now() < until { //nolint:revive // see run
	}
	p.pairs++
	if p.phase.Load() != pairReady {
		p.apart++
	}
	p.phase.Store(pairGo)
}

// end waits for the second datagram to be sent and says how that ended.
func (p *pairSender) end() unix.Errno {
	for p.phase.Load() != pairDone { //nolint:revive // see run
	}
	return p.errno
}

// close ends the thread. It waits for it.
func (p *pairSender) close() {
	close(p.wake)
	<-p.ended
}

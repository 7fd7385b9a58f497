//go:build linux

package traffic

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/server/epoll"
)

// pairWait is how long the first datagram of a pair waits for the thread that
// is to send the second. Where CPUs are free it takes some 50 us to wake up.
const pairWait = 500 * time.Microsecond

// A pairSender sends the second datagram of each pair from a thread of its own,
// at the moment at which the first is sent: each of the two is then in the
// network code of a CPU of its own, as those of a resolver with two threads are.
// A thread takes a while to wake up, so the first waits until the other says
// that it runs. Where it does not in time, the caller sends both.
type pairSender struct {
	buf   []byte // the second datagram
	fd    int
	errno unix.Errno   // how sending it ended, once done
	cpu   atomic.Int32 // that the caller ran on when it asked
	phase atomic.Uint32
	wake  chan struct{} // has room for one: a thread that is behind is woken once
	ended chan struct{}
	pairs uint64
	apart uint64 // of pairs: the other thread did not run in time
	now   func() float64
}

const (
	pairIdle  uint32 = iota // or given up
	pairAsked               // the other thread is to wake up
	pairReady               // it runs, and waits for go
	pairGo
	pairDone
)

// newPairSender starts the thread; close ends it. now is the clock of the run, s.
func newPairSender(size int, now func() float64) *pairSender {
	p := &pairSender{buf: make([]byte, size), wake: make(chan struct{}, 1), ended: make(chan struct{}), now: now}
	go p.run()
	return p
}

func (p *pairSender) run() {
	defer close(p.ended)
	defer epoll.LockThread()()
	for range p.wake {
		// On the caller's own CPU the two would only wait for each other.
		if cpu := cpuNow(); cpu >= 0 && cpu == p.cpu.Load() || !p.phase.CompareAndSwap(pairAsked, pairReady) {
			continue // the caller gives it up
		}
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

// begin returns true once the other thread is about to send p.buf to fd: the
// caller sends at once, and then calls end. It returns false where that thread
// did not run within pairWait.
func (p *pairSender) begin(fd int) bool {
	p.pairs++
	p.fd = fd
	p.cpu.Store(cpuNow())
	p.phase.Store(pairAsked)
	select {
	case p.wake <- struct{}{}:
	default: // it has yet to wake up from the time before
	}
	until := p.now() + pairWait.Seconds()
	for p.phase.Load() != pairReady {
		if p.now() > until && p.phase.CompareAndSwap(pairAsked, pairIdle) {
			p.apart++
			return false
		}
	}
	p.phase.Store(pairGo)
	return true
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

// cpuNow is the CPU that this thread runs on, -1 where the kernel does not say.
func cpuNow() int32 {
	var cpu uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0); errno != 0 {
		return -1
	}
	return int32(cpu) //nolint:gosec // a CPU's number
}

package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// lock is the worker of a LockJob.
type lock struct {
	path string
	hold time.Duration
}

// NewLock returns the worker of j.Lock.
func NewLock(j env.Job) (env.Worker, error) {
	if j.Lock == nil || j.Lock.Path == "" {
		return nil, fmt.Errorf("make lock job: job %q names no file", j.ID)
	}
	return &lock{path: j.Lock.Path, hold: time.Duration(j.Lock.For * float64(time.Second))}, nil
}

// tryLock is how often a lock that is taken is tried again.
const tryLock = time.Millisecond

// Run is part of env.Worker. The kernel gives the lock back even if we die.
func (l *lock) Run(ctx context.Context, ready func(), out env.Recorder) error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open lock: %w", err)
	}
	defer f.Close()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", l.path, err)
		}
		if wait(ctx, tryLock); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	event := func(what string) {
		out.Record(runlog.Record{Event: &runlog.Event{Kind: "lock", Name: what, Detail: "the lock of iptables"}})
	}
	event("held")
	ready()
	wait(ctx, l.hold)
	event("released")
	return nil
}

// wait waits until d has passed or ctx is done.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

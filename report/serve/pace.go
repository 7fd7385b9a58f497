package serve

import (
	"context"
	"io"
	"runtime"
	"time"
)

// share is how much of one CPU may be used while a run is going on: it is on
// the same machine, most likely, and would suffer.
const share = 0.2

// maxRest is the longest rest between two parts of the work.
const maxRest = 20 * time.Second

// paced reads a log, and rests between its parts while slow says so. A read
// fails when ctx is done.
type paced struct {
	ctx  context.Context
	in   io.Reader
	slow func() bool
	done func(n int) // told how much was read; nil for nobody

	last time.Time // when there was more to read
}

// Read is part of io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	// What is decoded while we wait here is decoded on several CPUs.
	if !p.last.IsZero() && p.slow() {
		rest(p.ctx, time.Since(p.last)*time.Duration(min(runtime.GOMAXPROCS(0), 5)))
	}
	if err := p.ctx.Err(); err != nil {
		return 0, err //nolint:wrapcheck // it is the caller's own
	}
	n, err := p.in.Read(b)
	p.last = time.Time{}
	if n == len(b) { // there is more
		p.last = time.Now()
	}
	if p.done != nil {
		p.done(n)
	}
	return n, err //nolint:wrapcheck // as io.Reader
}

// rest waits until work of that length, on one CPU, is no more than its share
// of the time.
func rest(ctx context.Context, work time.Duration) {
	t := time.NewTimer(min(time.Duration(float64(work)*(1/share-1)), maxRest))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

package runlog

import (
	"context"
	"time"
)

// pollEvery is how long Follow waits before it looks for more.
const pollEvery = 250 * time.Millisecond

// Follow reads a log that is still being written: it calls fn with each record
// as Each does, and caughtUp, on the same goroutine, whenever it has read
// something new up to the present end, and once at the beginning in any case.
// A last line without its end is taken for one that is being written, and
// waited for. The underlying reader must go on after io.EOF, as a file does.
//
// Follow blocks until the last record of the run, the Trailer, has been read,
// and returns nil then; or until ctx is done or caughtUp fails, and returns
// that error. It looks for more four times a second.
func (r *Reader) Follow(ctx context.Context, fn func(*Record), caughtUp func() error) error {
	r.growing = true
	ended := false
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		if err := ctx.Err(); err != nil {
			return err //nolint:wrapcheck // it is the caller's own
		}
		at := r.Offset()
		err := r.Each(func(rec *Record) {
			ended = ended || rec.Trailer != nil
			fn(rec)
		})
		if err != nil {
			return err
		}
		if first || r.Offset() > at {
			if err := caughtUp(); err != nil {
				return err
			}
		}
		if ended {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

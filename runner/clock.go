package runner

import (
	"context"
	"fmt"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// clockReadings is how many times a host's clock is asked; the quickest
// answer bounds the error best.
const clockReadings = 5

// measureClock returns how far h's monotonic clock is ahead of ours, ns. The
// host read its clock somewhere between our two readings, so the middle is
// off by at most half their distance: Cristian's algorithm.
func measureClock(ctx context.Context, h env.Host) (offset int64, c runlog.Clock, err error) {
	best := int64(1 << 62)
	for range clockReadings {
		before := monotonic()
		theirs, err := h.Clock(ctx)
		if err != nil {
			return 0, c, fmt.Errorf("read clock of %s: %w", h.Name(), err)
		}
		after := monotonic()
		if after-before < best {
			best = after - before
			offset = theirs - (before + best/2)
		}
	}
	return offset, runlog.Clock{Of: h.Name(), Offset: float64(offset) / 1e9, Bound: float64(best) / 2e9}, nil
}

// sleepUntil waits until our monotonic clock reads at, ns, or ctx ends.
func sleepUntil(ctx context.Context, at int64) error {
	t := time.NewTimer(time.Duration(at - monotonic()))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

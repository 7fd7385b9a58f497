package runner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tablefull/tablefull/runner/env"
)

// joins lets hosts come while a run goes on, and none once its end has begun:
// the followers of all of them are waited for then.
type joins struct {
	mu     sync.Mutex
	follow func(env.Host) // nil before open and after close
}

func (j *joins) open(follow func(env.Host)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.follow = follow
}

func (j *joins) close() { j.open(nil) }

var errOver = errors.New("the run is over")

func (j *joins) add(h env.Host) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.follow == nil {
		return errOver
	}
	j.follow(h)
	return nil
}

// keeper is the run as its lab sees it.
type keeper struct {
	env.Recorder
	run *run
}

var _ env.Keeper = keeper{}

// Join is part of env.Keeper.
func (k keeper) Join(ctx context.Context, h env.Host) (int64, error) {
	offset, clock, err := measureClock(ctx, h)
	if err != nil {
		return 0, fmt.Errorf("take %s into the run: %w", h.Name(), err)
	}
	if err := k.run.joins.add(h); err != nil {
		return 0, fmt.Errorf("take %s into the run: %w", h.Name(), err)
	}
	k.run.collect.clock(clock)
	epoch := k.run.provisional + offset
	s := k.run.Plan.Scenario.Sampling
	sample := env.Job{ID: "sample/" + h.Name(), Epoch: epoch, Sample: &env.SampleJob{Every: sampleEvery(time.Duration(s.Every), h.Role() == env.Node).Seconds()}}
	if err := h.Start(ctx, sample); err != nil {
		return 0, fmt.Errorf("take %s into the run: start %s: %w", h.Name(), sample.ID, err)
	}
	return epoch, nil
}

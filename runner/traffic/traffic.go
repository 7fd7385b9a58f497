//go:build linux

package traffic

import (
	"fmt"

	"github.com/tablefull/tablefull/runner/env"
)

// New returns the worker for a job that has Load set.
func New(job env.Job) (env.Worker, error) {
	if job.Load == nil {
		return nil, fmt.Errorf("make traffic: job %s is not one", job.ID)
	}
	switch t := job.Load.Traffic; {
	case t.ShortLived != nil:
		return NewShortLived(job)
	case t.Idle != nil:
		return NewIdle(job)
	case t.UDP != nil:
		return NewUDP(job)
	case t.Flood != nil:
		return NewFlood(job)
	case t.HTTP != nil:
		return NewHTTP(job)
	}
	return nil, fmt.Errorf("make traffic: %s has no shape", job.Load.Traffic.Name)
}

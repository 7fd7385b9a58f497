//go:build linux

package agent

import (
	"errors"

	"github.com/tablefull/tablefull/runner/conntrack"
	"github.com/tablefull/tablefull/runner/dataplane"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/proxy"
	"github.com/tablefull/tablefull/runner/server"
	"github.com/tablefull/tablefull/runner/sysctl"
	"github.com/tablefull/tablefull/runner/traffic"
)

// New makes the worker for a job.
func New(j env.Job) (env.Worker, error) {
	switch {
	case j.Load != nil:
		return traffic.New(j)
	case j.Serve != nil:
		return server.New(j)
	case j.Sample != nil:
		return conntrack.NewSampler(j)
	case j.Census != nil:
		return conntrack.NewCensus(j)
	case j.Ballast != nil:
		return conntrack.NewBallast(j)
	case j.Autopsy != nil:
		return conntrack.NewAutopsy(j)
	case j.Age != nil:
		return conntrack.NewAge(j)
	case j.Flush != nil:
		return conntrack.NewFlush(j)
	case j.Proxy != nil:
		return proxy.New(j)
	case j.Sysctl != nil:
		return sysctl.New(j)
	case j.Lock != nil:
		return proxy.NewLock(j)
	case j.ProxyMetrics != nil:
		return proxy.NewMetrics(j)
	case j.Pause != nil:
		return proxy.NewPause(j)
	case j.Audit != nil:
		return dataplane.New(j)
	}
	return nil, errors.New("the job says nothing to do: this agent may be older than its controller")
}

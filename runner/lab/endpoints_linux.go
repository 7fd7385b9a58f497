package lab

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// publish records a service's endpoints and sends them to the nodes' proxies.
// Changes of one service come in order: the caller is its deployment.
func (l *Lab) publish(service int, s env.ServiceState) {
	l.statesMu.Lock()
	defer l.statesMu.Unlock()
	l.states[service] = s
	l.out.Record(runlog.Record{Endpoints: endpointsRecord(s)})
	all := slices.Clone(l.states)
	for _, f := range l.feeds {
		f.push(all)
	}
}

func endpointsRecord(s env.ServiceState) *runlog.Endpoints {
	return &runlog.Endpoints{Service: s.Name, Endpoints: s.Endpoints}
}

// A feed brings changes of endpoints to one node's proxy, each a while after
// it was made, as an API server's watch does. A proxy that is slow is told the
// newest state that is due, not each one.
type feed struct {
	host  env.Host
	delay time.Duration
	warn  func(string)

	mu    sync.Mutex
	queue []change
	more  chan struct{} // has one element where the queue has grown
}

type change struct {
	due      time.Time
	services []env.ServiceState
}

func newFeed(h env.Host, delay time.Duration, warn func(string)) *feed {
	return &feed{host: h, delay: delay, warn: warn, more: make(chan struct{}, 1)}
}

func (f *feed) push(services []env.ServiceState) {
	f.mu.Lock()
	f.queue = append(f.queue, change{time.Now().Add(f.delay), services})
	f.mu.Unlock()
	select {
	case f.more <- struct{}{}:
	default:
	}
}

// next takes the newest change that is due, or says how long until one is; 0
// without any.
func (f *feed) next(now time.Time) (services []env.ServiceState, wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	due := 0
	for due < len(f.queue) && !f.queue[due].due.After(now) {
		due++
	}
	if due > 0 {
		services = f.queue[due-1].services
		f.queue = slices.Delete(f.queue, 0, due)
		return services, 0
	}
	if len(f.queue) > 0 {
		wait = f.queue[0].due.Sub(now)
	}
	return nil, wait
}

// run delivers until ctx ends.
func (f *feed) run(ctx context.Context) {
	for ctx.Err() == nil {
		services, wait := f.next(time.Now())
		if services != nil {
			if err := f.host.Update(ctx, proxyJob, env.Update{Services: services}); err != nil && ctx.Err() == nil {
				f.warn(fmt.Sprintf("the proxy of %s did not take a change of endpoints: %v", f.host.Name(), err))
			}
			continue
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-f.more:
		case <-timer:
		case <-ctx.Done():
		}
	}
}

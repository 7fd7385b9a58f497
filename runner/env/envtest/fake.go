//go:build linux

package envtest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// Fake is an environment without a network: its hosts run jobs in this
// process, as Build says. It keeps env's contract, so what holds with it holds
// with a lab as far as the contract goes.
type Fake struct {
	Caps   env.Capabilities
	Build  func(host string, j env.Job) (env.Worker, error)
	UpErr  error
	ActErr error

	mu     sync.Mutex
	Acts   []scenarios.Action
	Closed bool
	hosts  []*fakeHost
}

var (
	_ env.Environment = (*Fake)(nil)
	_ env.Lab         = (*fakeLab)(nil)
	_ env.Host        = (*fakeHost)(nil)
)

// Name is fake.
func (f *Fake) Name() string { return "fake" }

// Probe returns Caps.
func (f *Fake) Probe(context.Context) (env.Capabilities, error) { return f.Caps, nil }

// Up makes a client, a node and a host per pod.
func (f *Fake) Up(_ context.Context, t env.Topology) (env.Lab, error) {
	if f.UpErr != nil {
		return nil, f.UpErr
	}
	l := &fakeLab{f: f, topology: t}
	add := func(name string, role env.Role) {
		l.hosts = append(l.hosts, &fakeHost{name: name, role: role, build: f.Build, jobs: map[string]*fakeJob{}, more: make(chan struct{})})
	}
	add("client", env.Client)
	add("node1", env.Node)
	for i, s := range t.Services {
		info := runlog.ServiceInfo{
			Name: s.Name, Protocol: s.Protocol,
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), uint16(s.Port)),
		}
		for p := range s.Pods {
			name := fmt.Sprintf("%s-%d", s.Name, p)
			add(name, env.Pod)
			addr := netip.AddrFrom4([4]byte{198, 51, 100, byte(i*16 + p + 1)})
			info.Backends = append(info.Backends, runlog.BackendInfo{Name: name, Addr: netip.AddrPortFrom(addr, uint16(s.Port))})
		}
		l.services = append(l.services, info)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hosts = l.hosts
	return l, nil
}

// Kill makes a host's agent vanish: its records end with an error.
func (f *Fake) Kill(host string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.hosts {
		if h.name == host {
			h.end(errors.New("connection refused"))
		}
	}
}

type fakeLab struct {
	f        *Fake
	hosts    []*fakeHost
	services []runlog.ServiceInfo
	topology env.Topology
}

func (l *fakeLab) Hosts() []env.Host {
	out := make([]env.Host, len(l.hosts))
	for i, h := range l.hosts {
		out[i] = h
	}
	return out
}
func (l *fakeLab) Services() []runlog.ServiceInfo { return l.services }

// Entries is the client's.
func (l *fakeLab) Entries() []env.Entry {
	return []env.Entry{{Client: l.hosts[0], Node: "node1", Addresses: env.Addresses{Sources: netip.MustParsePrefix("203.0.113.0/24")}}}
}

// Serve starts a server job on each pod.
func (l *fakeLab) Serve(ctx context.Context, epochs map[string]int64, _ env.Keeper) error {
	for i, s := range l.services {
		for _, b := range s.Backends {
			for _, h := range l.hosts {
				if h.name != b.Name {
					continue
				}
				j := env.Job{ID: "serve/" + b.Name, Epoch: epochs[b.Name], Serve: &env.ServeJob{
					Service: s.Name, Backend: b.Name, Protocol: s.Protocol, Addr: b.Addr, Server: l.topology.Services[i].Server, Gateway: l.topology.Services[i].Gateway,
				}}
				if err := h.Start(ctx, j); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Audit is none: there is no dataplane.
func (l *fakeLab) Audit(string) *env.AuditJob { return nil }

// Act notes the action.
func (l *fakeLab) Act(_ context.Context, a scenarios.Action) error {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	l.f.Acts = append(l.f.Acts, a)
	return l.f.ActErr
}

func (l *fakeLab) Close(ctx context.Context) error {
	for _, h := range l.hosts {
		if err := h.Close(ctx); err != nil {
			return err
		}
	}
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	l.f.Closed = true
	return nil
}

type fakeJob struct {
	worker env.Worker
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
}

type fakeHost struct {
	name  string
	role  env.Role
	build func(string, env.Job) (env.Worker, error)

	mu      sync.Mutex
	jobs    map[string]*fakeJob
	records []runlog.Record
	more    chan struct{} // closed and replaced at each record
	closed  bool
	err     error
}

func (h *fakeHost) Name() string   { return h.name }
func (h *fakeHost) Role() env.Role { return h.role }

func (h *fakeHost) Clock(context.Context) (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read clock: %w", err)
	}
	return ts.Nano(), nil
}

// Record numbers r and keeps it.
func (h *fakeHost) Record(r runlog.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r.N, r.Host = uint64(len(h.records)+1), h.name
	h.records = append(h.records, r)
	close(h.more)
	h.more = make(chan struct{})
}

func (h *fakeHost) Start(ctx context.Context, j env.Job) error {
	w, err := h.build(h.name, j)
	if err != nil {
		return err
	}
	jctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	job := &fakeJob{worker: w, cancel: cancel, ended: make(chan struct{})}
	h.mu.Lock()
	h.jobs[j.ID] = job
	h.mu.Unlock()
	ready := make(chan struct{})
	go func() {
		defer close(job.ended)
		job.err = w.Run(jctx, sync.OnceFunc(func() { close(ready) }), h)
	}()
	select {
	case <-ready:
		return nil
	case <-job.ended:
		return job.err
	case <-ctx.Done():
		cancel()
		<-job.ended
		return context.Cause(ctx)
	}
}

func (h *fakeHost) job(id string) (*fakeJob, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	j := h.jobs[id]
	if j == nil {
		return nil, fmt.Errorf("job %s is not known on %s", id, h.name)
	}
	return j, nil
}

func (h *fakeHost) Wait(ctx context.Context, id string) error {
	j, err := h.job(id)
	if err != nil {
		return err
	}
	select {
	case <-j.ended:
		return j.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *fakeHost) Stop(ctx context.Context, id string) error {
	j, err := h.job(id)
	if err != nil {
		return err
	}
	j.cancel()
	return h.Wait(ctx, id)
}

func (h *fakeHost) Update(ctx context.Context, id string, u env.Update) error {
	j, err := h.job(id)
	if err != nil {
		return err
	}
	w, ok := j.worker.(env.Updater)
	if !ok {
		return fmt.Errorf("job %s on %s cannot be changed", id, h.name)
	}
	return w.Update(ctx, u)
}

func (h *fakeHost) Records(ctx context.Context, from uint64, fn func(runlog.Record) error) error {
	for {
		h.mu.Lock()
		batch, more, closed, err := h.records[from-1:], h.more, h.closed, h.err
		h.mu.Unlock()
		for _, r := range batch {
			if err := fn(r); err != nil {
				return err
			}
			from++
		}
		if len(batch) > 0 {
			continue
		}
		if closed {
			return err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Close ends all jobs, then the records.
func (h *fakeHost) Close(ctx context.Context) error {
	h.mu.Lock()
	jobs := make([]*fakeJob, 0, len(h.jobs))
	for _, j := range h.jobs {
		jobs = append(jobs, j)
	}
	h.mu.Unlock()
	for _, j := range jobs {
		j.cancel()
		select {
		case <-j.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	h.end(nil)
	return nil
}

func (h *fakeHost) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.closed, h.err = true, err
	close(h.more)
	h.more = make(chan struct{})
}

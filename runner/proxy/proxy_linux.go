package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/sysctl"
	"github.com/tablefull/tablefull/scenarios"
)

// A dataplane is what makes the kernel translate.
type dataplane interface {
	// sync makes these services be served as their endpoints say. It returns
	// once the kernel, or the process that programs it, has them.
	sync(ctx context.Context, services []env.ServiceState) error
	// remove takes the rules away.
	remove() error
	// close ends it and leaves the rules.
	close() error
}

// A process is a dataplane with a process of its own, which hears of changes
// by itself and so is stopped as one.
type process interface {
	pause(ctx context.Context) error
	resume(ctx context.Context) error
}

// A hanger is a dataplane without a process of its own that answers to others:
// while it hangs, they wait.
type hanger interface{ hang(does bool) }

// A ticker is a dataplane that has something to do from time to time.
type ticker interface {
	// tick does what is due and says after how long to call again.
	tick() (time.Duration, error)
}

// A measured dataplane counts something of itself, and loses it when it ends.
type measured interface{ measure() error }

// Proxy is the worker of a ProxyJob.
type Proxy struct {
	job    env.ProxyJob
	orders chan order
	open   func(context.Context, env.ProxyJob, env.Recorder) (dataplane, error)
}

var (
	_ env.Worker  = (*Proxy)(nil)
	_ env.Updater = (*Proxy)(nil)
)

type order struct {
	u    env.Update
	done chan error
}

// New returns the worker of j.Proxy.
func New(j env.Job) (env.Worker, error) {
	if j.Proxy == nil {
		return nil, fmt.Errorf("make proxy: job %q is none", j.ID)
	}
	if err := check(j.Proxy.Proxy); err != nil {
		return nil, err
	}
	return &Proxy{job: *j.Proxy, orders: make(chan order), open: open}, nil
}

func check(p scenarios.Proxy) error {
	switch {
	case p.Binary == "" && p.Mode == "iptables":
		return errors.New("make proxy: mode iptables needs a kube-proxy binary; the built-in proxy knows nftables and ipvs")
	case p.Binary == "" && p.Mode == "ipvs" && p.Masquerade:
		return errors.New("make proxy: the built-in proxy does not masquerade in mode ipvs")
	}
	return nil
}

func open(ctx context.Context, j env.ProxyJob, out env.Recorder) (dataplane, error) {
	switch {
	case j.Proxy.Binary != "":
		return openKubeProxy(ctx, j, out)
	case j.Proxy.Mode == "ipvs":
		return openIPVS(j)
	}
	return &nft{
		node: j.Node, nodeAddr: j.NodeAddr, ipv6: j.IPv6, masquerade: j.Proxy.Masquerade, ports: j.Proxy.MasqueradePorts, passNew: j.Proxy.PassNew,
		clients: j.Clients, vips: j.VIPs, untracked: j.Untracked, health: newHealth(j),
	}, nil
}

// Update is part of env.Updater. It returns once the change is made: for new
// services, once the rules are programmed or, while the proxy is paused, noted.
func (p *Proxy) Update(ctx context.Context, u env.Update) error {
	o := order{u, make(chan error, 1)}
	select {
	case p.orders <- o:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run is part of env.Worker.
func (p *Proxy) Run(ctx context.Context, ready func(), out env.Recorder) (err error) {
	r := &running{job: p.job, orders: p.orders, open: p.open, out: out}
	if err := r.start(ctx); err != nil {
		return err
	}
	defer func() {
		r.measure()
		err = errors.Join(err, r.plane.close())
	}()
	if err := sysctl.SetAll(p.job.Sysctls); err != nil {
		return err
	}
	ready()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-p.orders:
			o.done <- r.update(ctx, o.u)
			if o.u.Services == nil {
				timer.Reset(0) // what was not done while it was paused, or is another's now
			}
		case <-timer.C:
			next, err := r.tick()
			if err != nil {
				out.Record(runlog.Record{Event: &runlog.Event{Kind: "warning", Name: "proxy", Detail: err.Error()}})
			}
			timer.Reset(next)
		}
	}
}

// running is a proxy that runs. Only Run's goroutine touches it.
type running struct {
	job    env.ProxyJob // Services and Proxy are the newest
	orders <-chan order
	open   func(context.Context, env.ProxyJob, env.Recorder) (dataplane, error)
	out    env.Recorder
	plane  dataplane
	paused bool
}

func (r *running) start(ctx context.Context) error {
	plane, err := r.open(ctx, r.job, r.out)
	if err != nil {
		return err
	}
	if err := r.sync(ctx, plane); err != nil {
		return errors.Join(err, plane.close())
	}
	r.plane = plane
	r.note("synced")
	return nil
}

// sync programs the newest services. The built-in proxies then delete the
// entries of stale UDP flows, unless told not to; a kube-proxy does so itself.
func (r *running) sync(ctx context.Context, plane dataplane) error {
	if err := plane.sync(ctx, r.job.Services); err != nil {
		return err
	}
	if r.job.Proxy.Binary != "" || r.job.Proxy.KeepUDP {
		return nil
	}
	return forgetUDP(r.job)
}

// idleTick is how often a proxy is asked that has nothing to do by itself.
const idleTick = time.Minute

func (r *running) tick() (time.Duration, error) {
	t, ok := r.plane.(ticker)
	if !ok || r.paused {
		return idleTick, nil
	}
	return t.tick()
}

// measure records what the proxy counts of itself before it ends, for with it
// its counts are gone. One that hangs does not answer.
func (r *running) measure() {
	m, ok := r.plane.(measured)
	if !ok || r.paused {
		return
	}
	if err := m.measure(); err != nil {
		r.out.Record(runlog.Record{Event: &runlog.Event{Kind: "warning", Name: "proxy", Detail: err.Error()}})
	}
}

func (r *running) update(ctx context.Context, u env.Update) error {
	switch {
	case u.Services != nil:
		r.job.Services = u.Services
		if _, own := r.plane.(process); r.paused && !own {
			return nil
		}
		if err := r.sync(ctx, r.plane); err != nil {
			return err
		}
		if _, own := r.plane.(process); own {
			r.note("told") // when it has programmed that is for the audit to see
		} else {
			r.note("synced")
		}
		return nil
	case u.Upgrade != nil:
		return r.replace(ctx, *u.Upgrade)
	case u.Proxy != "":
		return r.order(ctx, u.Proxy, time.Duration(u.Down*float64(time.Second)))
	}
	return errors.New("update proxy: the update says nothing to do")
}

func (r *running) order(ctx context.Context, o env.ProxyOrder, pause time.Duration) error {
	own, isProcess := r.plane.(process)
	switch o {
	case env.PauseProxy:
		if r.paused {
			return nil
		}
		if isProcess {
			if err := own.pause(ctx); err != nil {
				return err
			}
		}
		if h, answers := r.plane.(hanger); answers {
			h.hang(true)
		}
		r.paused = true
		r.note("paused")
		return nil
	case env.ResumeProxy:
		if !r.paused {
			return nil
		}
		if isProcess {
			if err := own.resume(ctx); err != nil {
				return err
			}
		}
		if h, answers := r.plane.(hanger); answers {
			h.hang(false)
		}
		r.paused = false
		r.note("resumed")
		if isProcess {
			return nil
		}
		return r.update(ctx, env.Update{Services: r.job.Services})
	case env.RestartProxy, env.RestartProxyClean:
		return r.restart(ctx, o == env.RestartProxyClean, pause, nil)
	}
	return fmt.Errorf("update proxy: %q is no order", o)
}

// down is in the place of a proxy that has ended and was not started again.
type down struct{}

func (down) sync(context.Context, []env.ServiceState) error {
	return errors.New("it is down: it was not started again")
}
func (down) remove() error { return nil }
func (down) close() error  { return nil }

// restart forgets all that the proxy knew, as a new process has. Another proxy
// takes its place where by is set.
func (r *running) restart(ctx context.Context, clean bool, pause time.Duration, by *scenarios.Proxy) error {
	r.measure()
	if err := r.plane.close(); err != nil {
		return fmt.Errorf("end proxy: %w", err)
	}
	r.note("ended")
	ended := r.plane
	r.plane, r.paused = down{}, false
	if clean {
		if err := ended.remove(); err != nil {
			return fmt.Errorf("clean up after proxy: %w", err)
		}
		r.note("cleaned")
	}
	if by != nil {
		r.job.Proxy = *by
	}
	if err := r.stayDown(ctx, pause); err != nil {
		return err
	}
	if err := r.start(ctx); err != nil {
		return fmt.Errorf("start proxy again: %w", err)
	}
	return nil
}

// stayDown waits. Changes of endpoints go to the API server meanwhile, where
// the proxy will find them.
func (r *running) stayDown(ctx context.Context, down time.Duration) error {
	if down <= 0 {
		return nil
	}
	t := time.NewTimer(down)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case o := <-r.orders:
			if o.u.Services == nil {
				o.done <- errors.New("update proxy: it is down")
				continue
			}
			r.job.Services = o.u.Services
			o.done <- nil
		}
	}
}

// replace puts another proxy in this one's place. A change of mode takes the
// old rules away: kube-proxy's modes do not take over each other's.
func (r *running) replace(ctx context.Context, by scenarios.Proxy) error {
	if err := check(by); err != nil {
		return err
	}
	sameRules := by.Mode == r.job.Proxy.Mode && (by.Binary == "") == (r.job.Proxy.Binary == "")
	return r.restart(ctx, !sameRules, 0, &by)
}

// note records what the proxy did, with the endpoints it now works with.
func (r *running) note(what string) {
	fields := map[string]string{}
	for _, s := range r.job.Services {
		var names []string
		for _, e := range s.Usable() {
			names = append(names, e.Name)
		}
		fields[s.Name] = strings.Join(names, " ")
	}
	r.out.Record(runlog.Record{Event: &runlog.Event{Kind: "proxy", Name: what, Fields: fields}})
}

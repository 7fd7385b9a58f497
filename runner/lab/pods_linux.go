package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// A pod is one life of a pod: it is never started again. Its host is a slot,
// which another pod uses after it.
type pod struct {
	name string // its own; the slot's, and a number from the second use on
	slot runlog.BackendInfo
	job  string

	// Guarded by deployment.mu.
	ready       bool
	terminating bool
	exited      bool // its containers have ended
}

// A deployment is the pods of one service, as Kubernetes keeps them.
type deployment struct {
	l     *Lab
	index int // of the service
	spec  scenarios.Service

	mu      sync.Mutex
	want    int
	pods    []*pod // oldest first, those that are terminating included
	free    []runlog.BackendInfo
	lives   map[string]int // of each slot
	changed chan struct{}  // closed and replaced at each change
	busy    bool           // an action has it
}

// newDeployment takes over the pods that Serve has started.
func newDeployment(l *Lab, index int) *deployment {
	s := l.topology.Services[index]
	info := l.network.services[index]
	d := &deployment{
		l: l, index: index, spec: s, want: len(info.Backends), lives: map[string]int{}, changed: make(chan struct{}),
		free: slices.Clone(l.network.slots[s.Name][len(info.Backends):]),
	}
	for _, b := range info.Backends {
		d.lives[b.Name] = 1
		d.pods = append(d.pods, &pod{name: b.Name, slot: b, job: "serve/" + b.Name, ready: true})
	}
	return d
}

// state is the service with its endpoints as they are. Needs mu.
func (d *deployment) state() env.ServiceState {
	info := d.l.network.services[d.index]
	s := env.ServiceState{
		Name: info.Name, Addr: info.Addr.Addr(), Protocol: transport(info.Protocol), Port: info.Addr.Port(),
		Ports: uint16(d.spec.PortCount), Endpoints: []runlog.EndpointState{},
		Headless: d.spec.Headless, Notrack: d.spec.Notrack,
		NodePort: uint16(d.spec.NodePort), Local: d.spec.External == "Local", HealthCheck: uint16(d.spec.HealthCheck),
	}
	for _, p := range d.pods {
		s.Endpoints = append(s.Endpoints, runlog.EndpointState{
			Name: p.name, Addr: p.slot.Addr.Addr(), Node: p.slot.Node,
			Ready: p.ready && !p.terminating, Serving: p.ready && !p.exited, Terminating: p.terminating,
		})
	}
	return s
}

// change makes a change and tells everybody who has to know, in the order in
// which changes are made.
func (d *deployment) change(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	close(d.changed)
	d.changed = make(chan struct{})
	d.l.publish(d.index, d.state())
}

// create starts a pod on a free slot. It returns once the pod's server is
// started; the pod becomes ready later.
func (d *deployment) create(ctx context.Context) error {
	d.mu.Lock()
	if len(d.free) == 0 {
		d.mu.Unlock()
		return fmt.Errorf("start pod of %s: all its %d hosts are in use: pods that are terminating hold theirs", d.spec.Name, len(d.l.network.slots[d.spec.Name]))
	}
	slot := d.free[0]
	d.free = d.free[1:]
	d.lives[slot.Name]++
	p := &pod{name: slot.Name, slot: slot}
	if n := d.lives[slot.Name]; n > 1 {
		p.name = fmt.Sprintf("%s.%d", slot.Name, n)
	}
	p.job = "serve/" + p.name
	d.mu.Unlock()

	if err := d.l.attach(ctx, slot); err != nil {
		d.mu.Lock()
		d.free = append(d.free, slot)
		d.mu.Unlock()
		return fmt.Errorf("start pod %s: %w", p.name, err)
	}
	backend := slot
	backend.Name = p.name
	j := d.l.serveJob(d.index, backend)
	j.Epoch = d.l.epochs[slot.Name]
	if err := d.l.host(slot.Name).Start(ctx, j); err != nil {
		return errors.Join(fmt.Errorf("start pod %s: %w", p.name, err), d.giveBack(slot))
	}
	d.note(p, "started")
	d.change(func() { d.pods = append(d.pods, p) })
	d.l.tasks.Go(func() {
		if !sleep(d.l.ctx, time.Duration(d.spec.Lifecycle.ReadyAfter)) {
			return
		}
		became := false
		d.change(func() {
			became = !p.terminating
			p.ready = p.ready || became
		})
		if became {
			d.note(p, "ready")
		}
	})
	return nil
}

// giveBack makes a slot whose pod did not start free again.
func (d *deployment) giveBack(slot runlog.BackendInfo) error {
	if err := d.l.detach(d.l.ctx, slot); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free = append(d.free, slot)
	return nil
}

// remove deletes a pod as its API object is deleted: the endpoint is
// terminating from now on, and what the kubelet does follows by itself.
func (d *deployment) remove(p *pod, force bool) {
	d.change(func() { p.terminating = true })
	d.note(p, "terminating")
	d.l.tasks.Go(func() {
		if err := d.terminate(p, force); err != nil && d.l.ctx.Err() == nil {
			d.l.warn(fmt.Sprintf("end pod %s: %v", p.name, err))
		}
	})
}

// terminate is the kubelet's part: preStop, SIGTERM, and SIGKILL at the end of
// the grace period; then the pod's network goes, and its endpoint.
func (d *deployment) terminate(p *pod, force bool) error {
	ctx, host := d.l.ctx, d.l.host(p.slot.Name)
	life := d.spec.Lifecycle
	grace, cancel := context.WithTimeout(ctx, time.Duration(life.Grace))
	defer cancel()
	how := "exited"
	if force || !d.gracefully(grace, host, p) {
		how = "killed"
		if err := host.Stop(ctx, p.job); err != nil {
			if ctx.Err() != nil {
				return err
			}
			// Its server had ended by an error: it is gone all the same.
			d.l.warn(fmt.Sprintf("the server of pod %s: %v", p.name, err))
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	d.note(p, how)
	d.change(func() { p.exited = true })
	if err := d.l.detach(ctx, p.slot); err != nil {
		return err
	}
	d.note(p, "gone")
	d.change(func() {
		d.pods = slices.DeleteFunc(d.pods, func(q *pod) bool { return q == p })
		d.free = append(d.free, p.slot)
	})
	return nil
}

// gracefully reports whether the server has ended by itself before ctx ended.
func (d *deployment) gracefully(ctx context.Context, host env.Host, p *pod) bool {
	if !sleep(ctx, time.Duration(d.spec.Lifecycle.PreStop)) {
		return false
	}
	d.note(p, "sigterm")
	if err := host.Update(ctx, p.job, env.Update{Terminate: true}); err != nil {
		return false
	}
	return host.Wait(ctx, p.job) == nil
}

func (d *deployment) note(p *pod, what string) {
	d.l.out.Record(runlog.Record{Event: &runlog.Event{Kind: "pod", Name: p.name, Detail: what, Fields: map[string]string{
		"service": d.spec.Name, "addr": p.slot.Addr.String(),
	}}})
}

// await calls done, which has mu, at each change until it returns true.
func (d *deployment) await(ctx context.Context, done func() bool) error {
	for {
		d.mu.Lock()
		ok, changed := done(), d.changed
		d.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take makes an action the only one that changes the number of pods.
func (d *deployment) take() (release func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy {
		return nil, fmt.Errorf("service %s is being changed by another action", d.spec.Name)
	}
	d.busy = true
	return func() {
		d.mu.Lock()
		d.busy = false
		d.mu.Unlock()
	}, nil
}

// roll replaces every pod there is now.
func (d *deployment) roll(ctx context.Context, maxSurge, maxUnavailable int) error {
	release, err := d.take()
	if err != nil {
		return err
	}
	defer release()
	d.mu.Lock()
	old := map[*pod]bool{}
	for _, p := range d.pods {
		old[p] = true
	}
	d.mu.Unlock()
	for {
		var r rollout
		var doomed []*pod
		d.mu.Lock()
		r = rollout{want: d.want, maxSurge: maxSurge, maxUnavailable: maxUnavailable}
		for _, p := range d.pods {
			r.count(p, old[p])
			if old[p] && !p.terminating {
				doomed = append(doomed, p)
			}
		}
		changed := d.changed
		d.mu.Unlock()
		if r.done() {
			break
		}
		create, del := r.step()
		if err := d.apply(ctx, create, doomed, del); err != nil {
			return err
		}
		if create+del > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return d.await(ctx, func() bool { return !slices.ContainsFunc(d.pods, func(p *pod) bool { return old[p] }) })
}

// count adds a pod to the state of a rollout.
func (r *rollout) count(p *pod, old bool) {
	switch {
	case p.terminating:
	case old && p.ready:
		r.oldReady++
	case old:
		r.oldStarting++
	case p.ready:
		r.newReady++
	default:
		r.newStarting++
	}
}

// apply creates pods and deletes some of the doomed ones, those that are not
// ready first.
func (d *deployment) apply(ctx context.Context, create int, doomed []*pod, del int) error {
	for range create {
		if err := d.create(ctx); err != nil {
			return err
		}
	}
	d.mu.Lock()
	slices.SortStableFunc(doomed, func(a, b *pod) int {
		switch {
		case a.ready == b.ready:
			return 0
		case b.ready:
			return -1
		}
		return 1
	})
	d.mu.Unlock()
	for _, p := range doomed[:max(0, min(del, len(doomed)))] {
		d.remove(p, false)
	}
	return nil
}

// scale changes how many pods there shall be, and returns when there are.
func (d *deployment) scale(ctx context.Context, to int) error {
	release, err := d.take()
	if err != nil {
		return err
	}
	defer release()
	d.mu.Lock()
	d.want = to
	alive := d.alive()
	d.mu.Unlock()
	slices.Reverse(alive) // a ReplicaSet deletes the newest first
	if err := d.apply(ctx, to-len(alive), alive, len(alive)-to); err != nil {
		return err
	}
	return d.settled(ctx)
}

// alive are the pods that are not terminating. Needs mu.
func (d *deployment) alive() []*pod {
	return slices.DeleteFunc(slices.Clone(d.pods), func(p *pod) bool { return p.terminating })
}

// settled waits until all pods there are are ready, and as many as wanted.
func (d *deployment) settled(ctx context.Context) error {
	return d.await(ctx, func() bool {
		return len(d.pods) == d.want && !slices.ContainsFunc(d.pods, func(p *pod) bool { return !p.ready || p.terminating })
	})
}

// deletePods deletes the oldest pods and lets them be replaced.
func (d *deployment) deletePods(ctx context.Context, count int, force bool) error {
	release, err := d.take()
	if err != nil {
		return err
	}
	defer release()
	d.mu.Lock()
	alive := d.alive()
	d.mu.Unlock()
	for _, p := range alive[:min(count, len(alive))] {
		d.remove(p, force)
		if err := d.create(ctx); err != nil {
			return err
		}
	}
	return d.settled(ctx)
}

// sleep reports whether the time has passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// detach takes a slot's network away, as the end of a pod's sandbox does.
func (l *Lab) detach(ctx context.Context, slot runlog.BackendInfo) error {
	j := env.Job{ID: fmt.Sprintf("gone/%s/%d", slot.Name, l.serial.Add(1)), Epoch: l.epochs[slot.Name], Serve: &env.ServeJob{
		Backend: slot.Name, Addr: slot.Addr, Server: scenarios.Server{Behaviour: "gone"},
	}}
	if err := l.host(slot.Name).Start(ctx, j); err != nil {
		return fmt.Errorf("take network of %s away: %w", slot.Name, err)
	}
	l.away.Store(slot.Name, j.ID)
	return nil
}

// attach gives a slot its network back.
func (l *Lab) attach(ctx context.Context, slot runlog.BackendInfo) error {
	id, ok := l.away.LoadAndDelete(slot.Name)
	if !ok {
		return errors.New("its host is in use")
	}
	if err := l.host(slot.Name).Stop(ctx, id.(string)); err != nil {
		l.away.Store(slot.Name, id)
		return fmt.Errorf("give %s its network: %w", slot.Name, err)
	}
	return nil
}

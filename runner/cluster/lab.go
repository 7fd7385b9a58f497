package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// Lab is a run's namespace in a cluster.
type Lab struct {
	env      *Env
	settings settings
	workers  []*remote
	nodes    []*remote
	pods     []*remote
	services []runlog.ServiceInfo

	close    sync.Mutex
	closed   bool
	closeErr error
}

var _ env.Lab = (*Lab)(nil)

// Up is part of env.Environment.
func (e *Env) Up(ctx context.Context, t env.Topology) (env.Lab, error) {
	l, err := e.up(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("start pods: %w", err)
	}
	return l, nil
}

func (e *Env) up(ctx context.Context, t env.Topology) (_ *Lab, err error) {
	nodes, err := e.entryNodes(ctx, max(1, t.Lab.Nodes))
	if err != nil {
		return nil, err
	}
	l := &Lab{env: e, settings: e.settings(t.RunID, nodes, t.Services)}
	objects, err := l.settings.objects("namespace.yaml", "accounts.yaml", "sampler.yaml", "worker.yaml", "target.yaml")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close(context.WithoutCancel(ctx)))
		}
	}()
	if err := apply(ctx, e.client, objects); err != nil {
		return nil, err
	}
	if err := l.findAgents(ctx); err != nil {
		return nil, err
	}
	return l, l.findServices(ctx)
}

// findAgents waits for the pods and reaches the agent of each.
func (l *Lab) findAgents(ctx context.Context) error {
	nodes, err := l.samplers(ctx)
	if err != nil {
		return err
	}
	targets := 0
	for _, s := range l.settings.services {
		targets += s.Pods
	}
	for _, want := range []struct {
		component string
		n         int
		role      env.Role
		to        *[]*remote
	}{
		{"worker", len(l.settings.nodes), env.Client, &l.workers},
		{"sampler", nodes, env.Node, &l.nodes},
		{"target", targets, env.Pod, &l.pods},
	} {
		pods, err := l.env.waitForPods(ctx, l.settings, want.component, want.n)
		if err != nil {
			return err
		}
		*want.to = make([]*remote, len(pods))
		g, gctx := errgroup.WithContext(ctx)
		for i, p := range pods {
			name := p.Name
			if want.role == env.Node {
				name = p.Spec.NodeName
			}
			g.Go(func() error {
				a, err := l.env.dial(gctx, l.settings, p, name, want.role)
				(*want.to)[i] = a
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	byNode := func(a, b *remote) int { return strings.Compare(a.pod.Spec.NodeName, b.pod.Spec.NodeName) }
	slices.SortFunc(l.nodes, byNode)
	slices.SortFunc(l.workers, byNode)
	return nil
}

// samplers is how many nodes have one: the DaemonSet's controller decides it.
func (l *Lab) samplers(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, podsTimeout)
	defer cancel()
	for {
		ds, err := l.env.client.AppsV1().DaemonSets(l.settings.namespace).Get(ctx, "sampler", metav1.GetOptions{})
		if err == nil && ds.Status.ObservedGeneration >= ds.Generation && ds.Status.DesiredNumberScheduled > 0 {
			return int(ds.Status.DesiredNumberScheduled), nil
		}
		select {
		case <-ctx.Done():
			return 0, errors.Join(fmt.Errorf("start samplers: %w", context.Cause(ctx)), err)
		case <-time.After(poll):
		}
	}
}

// findServices asks for the addresses that services have been given.
func (l *Lab) findServices(ctx context.Context) error {
	for _, s := range l.settings.services {
		svc, err := l.env.client.CoreV1().Services(l.settings.namespace).Get(ctx, s.Name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("look up service %s: %w", s.Name, err)
		}
		addr, err := netip.ParseAddr(svc.Spec.ClusterIP)
		if err != nil {
			return fmt.Errorf("look up service %s: %w", s.Name, err)
		}
		info := runlog.ServiceInfo{Name: s.Name, Protocol: s.Protocol, Addr: netip.AddrPortFrom(addr, uint16(s.Port))}
		if s.Gateway != nil {
			info.Gateway = s.Gateway.To
		}
		for _, p := range l.of(s) {
			info.Backends = append(info.Backends, runlog.BackendInfo{Name: p.Name(), Addr: netip.AddrPortFrom(p.addr, uint16(s.Port))})
		}
		l.services = append(l.services, info)
	}
	return nil
}

// of are the pods of a service.
func (l *Lab) of(s scenarios.Service) []*remote {
	var out []*remote
	for _, p := range l.pods {
		if p.pod.Labels[nameLabel] == s.Name {
			out = append(out, p)
		}
	}
	return out
}

// Hosts is part of env.Lab.
func (l *Lab) Hosts() []env.Host {
	var out []env.Host
	for _, list := range [][]*remote{l.workers, l.nodes, l.pods} {
		for _, r := range list {
			out = append(out, r)
		}
	}
	return out
}

// Services is part of env.Lab.
func (l *Lab) Services() []runlog.ServiceInfo { return l.services }

// Serve is part of env.Lab. It returns when the worker reaches every pod of
// every service through the service's address, which is when its node's
// kube-proxy knows of all.
func (l *Lab) Serve(ctx context.Context, epochs map[string]int64, out env.Recorder) error {
	g, gctx := errgroup.WithContext(ctx)
	for i, s := range l.settings.services {
		record := &runlog.Endpoints{Service: s.Name}
		for k, p := range l.of(s) {
			addr := l.services[i].Backends[k].Addr
			record.Endpoints = append(record.Endpoints, runlog.EndpointState{Name: p.Name(), Addr: addr.Addr(), Node: p.pod.Spec.NodeName, Ready: true, Serving: true})
			job := env.Job{ID: "serve/" + p.Name(), Epoch: epochs[p.Name()], Serve: &env.ServeJob{
				Service: s.Name, Backend: p.Name(), Protocol: s.Protocol, Addr: addr, Ports: s.PortCount,
				Server: s.Server, Lifecycle: s.Lifecycle, Gateway: s.Gateway,
			}}
			if s.Gateway != nil {
				job.Serve.Upstream = l.address(s.Gateway.To)
			}
			g.Go(func() error { return p.Start(gctx, job) })
		}
		out.Record(runlog.Record{Endpoints: record})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	for i, s := range l.settings.services {
		at := netip.AddrPortFrom(l.services[i].Addr.Addr(), uint16(l.settings.port))
		for _, w := range l.workers {
			if err := reachAll(ctx, w, at, l.of(s)); err != nil {
				return fmt.Errorf("reach service %s from node %s: %w", s.Name, w.pod.Spec.NodeName, err)
			}
		}
	}
	return nil
}

func (l *Lab) address(service string) netip.AddrPort {
	for _, s := range l.services {
		if s.Name == service {
			return s.Addr
		}
	}
	return netip.AddrPort{}
}

// How a service is asked for its pods.
const (
	reachTimeout = 30 * time.Second
	reachPoll    = 10 * time.Millisecond
)

// reachAll asks at a service's address until each of its pods has answered.
// Where new connections go is chance, so it takes several for each.
func reachAll(ctx context.Context, w *remote, at netip.AddrPort, pods []*remote) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	missing := map[string]bool{}
	for _, p := range pods {
		missing[p.Name()] = true
	}
	var last error
	for len(missing) > 0 {
		h, err := w.Peer(ctx, at)
		if err == nil {
			delete(missing, h.Host)
		} else if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%d of %d pods have not answered: %w", len(missing), len(pods), context.Cause(ctx)), last)
		case <-time.After(reachPoll):
		}
	}
	return nil
}

// Entries is part of env.Lab. A worker sends from its pod's address alone.
func (l *Lab) Entries() []env.Entry {
	out := make([]env.Entry, len(l.workers))
	for i, w := range l.workers {
		out[i] = env.Entry{Client: w, Node: w.pod.Spec.NodeName, Sources: netip.PrefixFrom(w.addr, w.addr.BitLen())}
	}
	return out
}

// Audit is part of env.Lab: a cluster's dataplane is not read.
func (*Lab) Audit(string) *env.AuditJob { return nil }

// Act is part of env.Lab.
func (*Lab) Act(_ context.Context, a scenarios.Action) error {
	return fmt.Errorf("do action %s: %w", a.Name, errors.ErrUnsupported)
}

// Close is part of env.Lab: it removes the run's namespace and waits for that,
// at most removeTimeout and also where ctx has ended. A cluster takes its time.
func (l *Lab) Close(ctx context.Context) error {
	l.close.Lock()
	defer l.close.Unlock()
	if l.closed {
		return l.closeErr
	}
	l.closed = true
	for _, list := range [][]*remote{l.workers, l.nodes, l.pods} {
		for _, r := range list {
			if r != nil {
				_ = r.forward.Close() // its pod goes away
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	l.closeErr = remove(ctx, l.env.client, l.settings.namespace)
	return l.closeErr
}

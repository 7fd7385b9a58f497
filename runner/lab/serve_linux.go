package lab

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// proxyJob is the ID of the proxy on each node.
const proxyJob = "proxy"

// Serve is part of env.Lab: first the nodes' proxies, without which a gateway
// would not reach what is behind it, then the servers.
func (l *Lab) Serve(ctx context.Context, epochs map[string]int64, out env.Keeper) error {
	l.epochs, l.out = epochs, out
	g, gctx := errgroup.WithContext(ctx)
	for _, p := range l.network.places {
		h := l.host(p.node)
		j := l.network.proxy
		j.Node, j.NodeAddr, j.Services = p.node, p.nodeAddr, l.serviceStates()
		g.Go(func() error {
			return h.Start(gctx, env.Job{ID: proxyJob, Epoch: epochs[h.Name()], Proxy: &j})
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("start proxy: %w", err)
	}
	for i, s := range l.network.services {
		for _, b := range s.Backends {
			g.Go(func() error { return l.host(b.Name).Start(ctx, l.serveJob(i, b)) })
		}
	}
	// The other slots are hosts without a pod.
	for i, s := range l.network.services {
		for _, b := range l.network.slots[s.Name][len(s.Backends):] {
			g.Go(func() error { return l.detach(ctx, b) })
		}
		l.deployments = append(l.deployments, newDeployment(l, i))
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	l.states = l.serviceStates()
	for _, s := range l.states {
		out.Record(runlog.Record{Endpoints: endpointsRecord(s)})
	}
	// What goes on by itself ends with the run: pods that are ended by its
	// teardown did not end in it.
	l.ctx, l.stop = context.WithCancel(ctx)
	for _, h := range l.hosts {
		if h.Role() == env.Node {
			f := newFeed(h, time.Duration(l.topology.Lab.Proxy.Delay), l.warn)
			l.feeds = append(l.feeds, f)
			l.tasks.Go(func() { f.run(l.ctx) })
		}
	}
	return nil
}

// serveJob is the server of a pod of the service with that index.
func (l *Lab) serveJob(service int, b runlog.BackendInfo) env.Job {
	s := l.topology.Services[service]
	j := env.Job{ID: "serve/" + b.Name, Epoch: l.epochs[b.Name], Serve: &env.ServeJob{
		Service: s.Name, Backend: b.Name, Protocol: s.Protocol, Addr: b.Addr, Ports: s.PortCount,
		Server: s.Server, Lifecycle: s.Lifecycle, Gateway: s.Gateway,
	}}
	if s.Gateway != nil {
		j.Serve.Upstream = l.address(s.Gateway.To)
	}
	return j
}

// serviceStates are the services with the endpoints of the beginning.
func (l *Lab) serviceStates() []env.ServiceState {
	out := make([]env.ServiceState, 0, len(l.network.services))
	for i := range l.network.services {
		d := newDeployment(l, i)
		out = append(out, d.state())
	}
	return out
}

// Audit is part of env.Lab.
func (l *Lab) Audit(node string) *env.AuditJob {
	j := &env.AuditJob{Mode: l.topology.Lab.Proxy.Mode, Services: l.serviceStates(), Node: node}
	for _, p := range l.network.places {
		for _, s := range l.topology.Services {
			if p.node == node && s.HealthCheck != 0 {
				j.Health = append(j.Health, env.HealthPort{Service: s.Name, Addr: netip.AddrPortFrom(p.nodeAddr, uint16(s.HealthCheck))})
			}
		}
	}
	return j
}

func (l *Lab) host(name string) env.Host {
	for _, h := range l.hosts {
		if h.Name() == name {
			return h
		}
	}
	return nil
}

// address is where clients reach a service.
func (l *Lab) address(service string) netip.AddrPort {
	for _, s := range l.network.services {
		if s.Name == service {
			return s.Addr
		}
	}
	return netip.AddrPort{}
}

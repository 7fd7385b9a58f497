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
	pausers  []*remote // by node; none where nothing is paused
	services []runlog.ServiceInfo

	// What Serve sets.
	epochs map[string]int64 // run time 0 on the agents' clocks
	out    env.Keeper
	ctx    context.Context // of what goes on by itself
	stop   context.CancelFunc
	tasks  sync.WaitGroup
	watch  *watch

	duration time.Duration // of the traffic

	mu       sync.Mutex // guards pods and what follows
	want     map[string]int
	busy     map[string]bool
	changed  chan struct{}     // closed and replaced at each change of a pod
	events   int               // that were recorded
	touched  []string          // nodes whose kube-proxy was deleted
	turn     chan struct{}     // has one in it while kube-proxy is being changed
	held     []outside         // what Close has to put back, in that order
	paused   map[string]string // by node whose kube-proxy this run has stopped: the job that holds it
	pausings int

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
	l := &Lab{
		env: e, settings: e.settings(t.RunID, nodes, t.Services),
		want: map[string]int{}, busy: map[string]bool{}, turn: make(chan struct{}, 1), changed: make(chan struct{}),
		paused: map[string]string{}, duration: t.Duration,
	}
	l.settings.family = t.Lab.Family
	l.settings.pauses = pauses(t.Actions)
	l.settings.changes = changes(t.Actions, e.cfg.KubeProxy, nodes)
	if t.FromOutside {
		if err := e.outside(ctx, &l.settings); err != nil {
			return nil, err
		}
	}
	for _, s := range t.Services {
		l.want[s.Name] = s.Pods
	}
	objects, err := l.settings.objects(l.settings.files()...)
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
	type component struct {
		component string
		n         int
		role      env.Role
		to        *[]*remote
	}
	all := []component{
		{"worker", len(l.settings.nodes), env.Client, &l.workers},
		{"sampler", nodes, env.Node, &l.nodes},
		{"target", targets, env.Pod, &l.pods},
	}
	if l.settings.pauses {
		all = append(all, component{pauserName, len(l.settings.nodes), env.Helper, &l.pausers})
	}
	for _, want := range all {
		wait := notReady
		if want.role == env.Pod {
			wait = notRunning
		}
		pods, err := l.env.waitUntil(ctx, l.settings, want.component, want.n, wait)
		if err != nil {
			return err
		}
		*want.to = make([]*remote, len(pods))
		port := l.settings.port
		if want.role == env.Client {
			port = l.settings.workerPort()
		}
		g, gctx := errgroup.WithContext(ctx)
		for i, p := range pods {
			name := p.Name
			if want.role == env.Node {
				name = p.Spec.NodeName
			}
			g.Go(func() error {
				a, err := l.env.dialAt(gctx, l.settings, p, port, name, want.role)
				if err != nil {
					return err
				}
				a.lost = l.missed(name)
				(*want.to)[i] = a
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	for _, s := range l.settings.services {
		for _, r := range append(l.of(s), l.workers...) {
			if err := r.needs(l.settings.families(s)); err != nil {
				return err
			}
		}
	}
	byNode := func(a, b *remote) int { return strings.Compare(a.pod.Spec.NodeName, b.pod.Spec.NodeName) }
	slices.SortFunc(l.nodes, byNode)
	slices.SortFunc(l.workers, byNode)
	return nil
}

// samplerRights are for samplers.
func samplerRights() []Right { return only(samplerName, may("apps", "daemonsets", "get")) }

// samplers is how many nodes have one: the DaemonSet's controller decides it.
func (l *Lab) samplers(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, podsTimeout)
	defer cancel()
	for {
		ds, err := l.env.client.AppsV1().DaemonSets(l.settings.namespace).Get(ctx, samplerName, metav1.GetOptions{})
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

// serviceRights are for findServices.
func serviceRights(services []scenarios.Service) []Right {
	var out []Right
	for _, s := range services {
		out = append(out, only(s.Name, may("", "services", "get"))...)
		if s.NodePort != 0 {
			out = append(out, only(agentsOf(s.Name), may("", "services", "get"))...)
		}
	}
	return out
}

// findServices asks for the addresses that services have been given, of which
// each is a service to records.
func (l *Lab) findServices(ctx context.Context) error {
	for _, s := range l.settings.services {
		families := l.settings.families(s)
		svc, err := l.env.client.CoreV1().Services(l.settings.namespace).Get(ctx, s.Name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("look up service %s: %w", s.Name, err)
		}
		addrs, err := parseAddrs(svc.Spec.ClusterIPs)
		if err != nil {
			return fmt.Errorf("look up service %s: %w", s.Name, err)
		}
		for _, family := range families {
			if !addrs[family].IsValid() {
				return fmt.Errorf("look up service %s: of %v none is of %s", s.Name, svc.Spec.ClusterIPs, familyNames[family])
			}
			info := runlog.ServiceInfo{Name: scenarios.AddressName(s.Name, families, family), Protocol: s.Protocol, Addr: netip.AddrPortFrom(addrs[family], uint16(s.Port)), NodePort: uint16(s.NodePort)}
			if s.Gateway != nil {
				info.Gateway = s.Gateway.To
			}
			for _, p := range l.of(s) {
				info.Backends = append(info.Backends, runlog.BackendInfo{Name: p.Name(), Addr: netip.AddrPortFrom(p.addrs[family], uint16(s.Port))})
			}
			l.services = append(l.services, info)
		}
	}
	return nil
}

// of are the pods of a service.
func (l *Lab) of(s scenarios.Service) []*remote {
	l.mu.Lock()
	defer l.mu.Unlock()
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
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []env.Host
	for _, list := range [][]*remote{l.workers, l.nodes, l.pods, l.pausers} {
		for _, r := range list {
			if !r.ended.Load() {
				out = append(out, r)
			}
		}
	}
	return out
}

// Services is part of env.Lab.
func (l *Lab) Services() []runlog.ServiceInfo { return l.services }

// Serve is part of env.Lab. It returns when the worker reaches every pod of
// every service through the service's address, which is when its node's
// kube-proxy knows of all.
func (l *Lab) Serve(ctx context.Context, epochs map[string]int64, out env.Keeper) error {
	l.epochs, l.out = epochs, out
	g, gctx := errgroup.WithContext(ctx)
	for _, s := range l.settings.services {
		for _, p := range l.of(s) {
			g.Go(func() error { return p.Start(gctx, l.serveJob(s, p, epochs[p.Name()])) })
		}
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	for _, s := range l.settings.services {
		if s.Pods == 0 {
			continue
		}
		if _, err := l.env.waitForPods(ctx, l.settings, "target,"+nameLabel+"="+s.Name, s.Pods); err != nil {
			return err
		}
	}
	// What goes on by itself ends with the run: pods that are ended by its
	// teardown did not end in it.
	l.ctx, l.stop = context.WithCancel(ctx)
	if err := l.startWatch(); err != nil {
		return err
	}
	if err := l.readProxies(ctx); err != nil {
		return err
	}
	for _, s := range l.settings.services {
		if err := l.reach(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// Where kube-proxy serves its metrics if it is not told otherwise, and how often
// they are read: that is some milliseconds of a CPU each time.
var proxyMetrics = netip.MustParseAddrPort("127.0.0.1:10249")

const proxyMetricsEvery = 2 * time.Second

// readProxies has each node's sampler read what its kube-proxy says of itself.
func (l *Lab) readProxies(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range l.nodes {
		g.Go(func() error {
			return n.Start(ctx, env.Job{ID: "proxy-metrics/" + n.Name(), Epoch: l.epochs[n.Name()], ProxyMetrics: &env.ProxyMetricsJob{At: proxyMetrics, Every: proxyMetricsEvery.Seconds()}})
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("start reading kube-proxy's metrics: %w", err)
	}
	return nil
}

// serveJob is the server of a pod of the service.
func (l *Lab) serveJob(s scenarios.Service, p *remote, epoch int64) env.Job {
	families := l.settings.families(s)
	j := env.Job{ID: "serve/" + p.Name(), Epoch: epoch, Serve: &env.ServeJob{
		Service: s.Name, Backend: p.Name(), Protocol: s.Protocol, Addr: netip.AddrPortFrom(p.addrs[families[0]], uint16(s.Port)), Ports: s.PortCount,
		Server: s.Server, Lifecycle: s.Lifecycle, Gateway: s.Gateway,
	}}
	if len(families) > 1 {
		j.Serve.Also = p.addrs[families[1]]
	}
	if s.Gateway != nil {
		j.Serve.Upstream = l.address(s.Gateway.To)
	}
	return j
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

// Entries is part of env.Lab. A worker sends from its pod's addresses alone, or
// from its node's.
func (l *Lab) Entries() []env.Entry {
	out := make([]env.Entry, len(l.workers))
	for i, w := range l.workers {
		node := w.pod.Spec.NodeName
		from := func(family string) env.Addresses {
			own := netip.PrefixFrom(w.addrs[family], w.addrs[family].BitLen())
			if len(l.settings.origins) > 0 {
				return env.Addresses{NodeAddr: l.settings.addrs[i][family], Outside: own}
			}
			return env.Addresses{Sources: own}
		}
		if len(l.settings.origins) > 0 {
			node = l.settings.nodes[i]
		}
		out[i] = env.Entry{Client: w, Node: node, Addresses: from(scenarios.IPv4), Other: from(scenarios.IPv6)}
	}
	return out
}

// Audit is part of env.Lab. A sampler can read kube-proxy's rules in mode nftables
// and, where iptables is the variant of nf_tables, in mode iptables; elsewhere the
// readings fail, and the findings say so.
func (l *Lab) Audit(string) *env.AuditJob {
	j := &env.AuditJob{Mode: env.KubeProxyRules}
	for _, s := range l.services {
		j.Services = append(j.Services, env.ServiceState{Name: s.Name, Addr: s.Addr.Addr(), Protocol: s.Protocol, Port: s.Addr.Port()})
	}
	return j
}

// Close is part of env.Lab: it puts back what actions have changed, then removes
// the run's namespace, and waits for both, at most putBackTimeout and
// removeTimeout and also where ctx has ended. A cluster takes its time.
func (l *Lab) Close(ctx context.Context) error {
	l.close.Lock()
	defer l.close.Unlock()
	if l.closed {
		return l.closeErr
	}
	l.closed = true
	if l.stop != nil {
		l.stop()
		l.tasks.Wait()
	}
	goOn := l.resumeAll(ctx)
	for _, list := range [][]*remote{l.workers, l.nodes, l.pods, l.pausers} {
		for _, r := range list {
			if r != nil {
				_ = r.forward.Close() // its pod goes away
			}
		}
	}
	back := l.putBack(ctx, false)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	l.closeErr = errors.Join(goOn, back, l.proxiesAreBack(ctx), remove(ctx, l.env.client, l.settings.namespace))
	return l.closeErr
}

package cluster

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// A watch is what the API server says of the run's pods and endpoints, of the
// nodes, and of kube-proxy's pods where the run may delete them. Its times are those at
// which the controller heard, on the clock of the run.
type watch struct {
	pods    corelisters.PodLister
	proxies corelisters.PodLister // nil where they are not watched
}

// seen is what has been recorded of a pod. Guarded by Lab.mu.
type seen struct{ ready, terminating, exited, adopted bool }

// watchRights are for startWatch.
func watchRights(proxy types.NamespacedName) []Right {
	out := append(may("", "pods", "list", "watch"), may("discovery.k8s.io", "endpointslices", "list", "watch")...)
	out = append(out, may("", "nodes", "list", "watch")...)
	out = append(out, eventRights()...)
	if proxy != (types.NamespacedName{}) {
		out = append(out, inside(proxy.Namespace, may("", "pods", "list", "watch"))...)
		out = append(out, selectorRights(proxy)...)
	}
	return out
}

// startWatch begins to follow the API server until l.ctx ends, and returns when
// it knows all there is.
func (l *Lab) startWatch() error {
	w := &watch{}
	l.watch = w
	f := informers.NewSharedInformerFactoryWithOptions(l.env.client, 0, informers.WithNamespace(l.settings.namespace))
	w.pods = f.Core().V1().Pods().Lister()
	known := map[types.UID]*seen{}
	if _, err := f.Core().V1().Pods().Informer().AddEventHandler(l.podHandler(known, "")); err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	handler := l.sliceHandler()
	if _, err := f.Discovery().V1().EndpointSlices().Informer().AddEventHandler(handler); err != nil {
		return fmt.Errorf("watch endpoints: %w", err)
	}
	nf := informers.NewSharedInformerFactory(l.env.client, 0)
	if _, err := nf.Core().V1().Nodes().Informer().AddEventHandler(l.nodeHandler()); err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	factories := []informers.SharedInformerFactory{f, nf}
	if p := l.env.cfg.KubeProxy; p != (types.NamespacedName{}) {
		selector, err := l.env.proxySelector(l.ctx)
		if err != nil {
			return err
		}
		kf := informers.NewSharedInformerFactoryWithOptions(l.env.client, 0, informers.WithNamespace(p.Namespace),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = selector }))
		w.proxies = kf.Core().V1().Pods().Lister()
		if _, err := kf.Core().V1().Pods().Informer().AddEventHandler(l.podHandler(map[types.UID]*seen{}, p.Name)); err != nil {
			return fmt.Errorf("watch pods of %s: %w", p, err)
		}
		factories = append(factories, kf)
	}
	for _, f := range factories {
		f.Start(l.ctx.Done())
		l.tasks.Go(func() {
			<-l.ctx.Done()
			f.Shutdown()
		})
	}
	for _, f := range factories {
		for kind, ok := range f.WaitForCacheSync(l.ctx.Done()) {
			if !ok {
				return fmt.Errorf("watch %s: %w", kind, context.Cause(l.ctx))
			}
		}
	}
	return l.followEvents()
}

// object is what an informer hands over, also where it has missed the end.
func object[T any](o any) (T, bool) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	t, ok := o.(T)
	return t, ok
}

// podHandler notes what happens to pods: to those under load, or where proxy
// is not empty to all.
func (l *Lab) podHandler(known map[types.UID]*seen, proxy string) cache.ResourceEventHandler {
	see := func(o any, gone bool) {
		p, ok := object[*corev1.Pod](o)
		if !ok || proxy == "" && p.Labels[componentLabel] != "target" {
			return
		}
		service := proxy
		if service == "" {
			service = p.Labels[nameLabel]
		}
		l.mu.Lock()
		s := known[p.UID]
		first := s == nil
		if first {
			s = &seen{}
			known[p.UID] = s
		}
		what := s.changes(p, first, gone)
		r := l.remoteOf(p.UID)
		if r != nil {
			s.adopted = true
			r.ending.Store(r.ending.Load() || p.DeletionTimestamp != nil || gone)
		}
		adopt := proxy == "" && !s.adopted && running(p)
		s.adopted = s.adopted || adopt
		if gone {
			delete(known, p.UID)
		}
		close(l.changed)
		l.changed = make(chan struct{})
		l.mu.Unlock()
		for _, detail := range what {
			l.out.Record(runlog.Record{Event: &runlog.Event{Kind: "pod", Name: p.Name, Detail: detail, Fields: map[string]string{
				"service": service, "addr": p.Status.PodIP, "node": p.Spec.NodeName,
			}}})
		}
		if adopt {
			l.tasks.Go(func() {
				if err := l.adopt(l.ctx, p); err != nil && l.ctx.Err() == nil {
					l.warn(fmt.Sprintf("start the server of pod %s: %v", p.Name, err))
				}
			})
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { see(o, false) },
		UpdateFunc: func(_, o any) { see(o, false) },
		DeleteFunc: func(o any) { see(o, true) },
	}
}

// changes are what is new about a pod, in the words of the run log.
func (s *seen) changes(p *corev1.Pod, first, gone bool) (out []string) {
	if first {
		out = append(out, "started")
	}
	if !s.ready && isReady(p) {
		s.ready = true
		out = append(out, "ready")
	}
	if !s.terminating && p.DeletionTimestamp != nil {
		s.terminating = true
		out = append(out, "terminating")
	}
	if t := terminated(p); !s.exited && t != nil {
		s.exited = true
		if t.ExitCode == 137 {
			out = append(out, "killed")
		} else {
			out = append(out, "exited")
		}
	}
	if gone {
		out = append(out, "gone")
	}
	return out
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func terminated(p *corev1.Pod) *corev1.ContainerStateTerminated {
	if len(p.Status.ContainerStatuses) == 0 {
		return nil
	}
	return p.Status.ContainerStatuses[0].State.Terminated
}

// remoteOf is the agent in a pod; nil where there is none. Needs mu.
func (l *Lab) remoteOf(uid types.UID) *remote {
	for _, r := range l.pods {
		if r.pod.UID == uid {
			return r
		}
	}
	return nil
}

// adopt takes a pod that has come later into the run and starts its server,
// which makes it ready.
func (l *Lab) adopt(ctx context.Context, p *corev1.Pod) error {
	i := slices.IndexFunc(l.settings.services, func(s scenarios.Service) bool { return s.Name == p.Labels[nameLabel] })
	if i < 0 {
		return fmt.Errorf("there is no service %q", p.Labels[nameLabel])
	}
	r, err := l.env.dial(ctx, l.settings, *p, p.Name, env.Pod)
	if err != nil {
		return err
	}
	r.lost = l.missed(p.Name)
	l.mu.Lock()
	l.pods = append(l.pods, r)
	l.mu.Unlock()
	if now, err := l.watch.pods.Pods(p.Namespace).Get(p.Name); err != nil || now.DeletionTimestamp != nil {
		r.ending.Store(true) // meanwhile
	}
	epoch, err := l.out.Join(ctx, r)
	if err != nil {
		return err
	}
	return r.Start(ctx, l.serveJob(l.settings.services[i], r, epoch))
}

// missed notes that a pod which was to go went too fast.
func (l *Lab) missed(pod string) func(error) {
	return func(err error) {
		l.warn(fmt.Sprintf("pod %s ended before all that it had counted was read: %v", pod, err))
	}
}

func (l *Lab) serves(service string) bool {
	return slices.ContainsFunc(l.settings.services, func(s scenarios.Service) bool { return s.Name == service })
}

// addressOf is which of the services' addresses a slice is about, by its name
// in records.
func (l *Lab) addressOf(s *discoveryv1.EndpointSlice) string {
	name := s.Labels[discoveryv1.LabelServiceName]
	for _, svc := range l.settings.services {
		families := l.settings.families(svc)
		for _, f := range families {
			if svc.Name == name && string(familyNames[f]) == string(s.AddressType) {
				return scenarios.AddressName(name, families, f)
			}
		}
	}
	return name
}

// sliceHandler records the endpoints of a service's address whenever they have changed:
// each state that the API server has told, also where another one has come
// before this one was seen to.
func (l *Lab) sliceHandler() cache.ResourceEventHandler {
	now := map[string]map[string]*discoveryv1.EndpointSlice{} // by address, by name; an informer calls its handler one at a time
	last := map[string][]runlog.EndpointState{}
	tell := func(o any, gone bool) {
		s, ok := object[*discoveryv1.EndpointSlice](o)
		if !ok || !l.serves(s.Labels[discoveryv1.LabelServiceName]) {
			return // those of a Service for agents alone are not the scenario's
		}
		service := l.addressOf(s)
		if now[service] == nil {
			now[service] = map[string]*discoveryv1.EndpointSlice{}
		}
		if now[service][s.Name] = s; gone {
			delete(now[service], s.Name)
		}
		var list []*discoveryv1.EndpointSlice
		for _, name := range slices.Sorted(maps.Keys(now[service])) {
			list = append(list, now[service][name])
		}
		states := endpointStates(list)
		if old, told := last[service]; told && slices.Equal(old, states) {
			return
		}
		last[service] = states
		l.out.Record(runlog.Record{Endpoints: &runlog.Endpoints{Service: service, Endpoints: states}})
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { tell(o, false) },
		UpdateFunc: func(_, o any) { tell(o, false) },
		DeleteFunc: func(o any) { tell(o, true) },
	}
}

// endpointStates are the endpoints of a service's slices, by address. An
// endpoint can be in two slices while it moves: the last one to be read counts.
func endpointStates(list []*discoveryv1.EndpointSlice) []runlog.EndpointState {
	is := func(b *bool, otherwise bool) bool {
		if b == nil {
			return otherwise
		}
		return *b
	}
	byAddr := map[netip.Addr]runlog.EndpointState{}
	for _, s := range list {
		for _, e := range s.Endpoints {
			for _, a := range e.Addresses {
				addr, err := netip.ParseAddr(a)
				if err != nil {
					continue // of the type FQDN
				}
				st := runlog.EndpointState{Name: a, Addr: addr, Ready: is(e.Conditions.Ready, true), Terminating: is(e.Conditions.Terminating, false)}
				st.Serving = is(e.Conditions.Serving, st.Ready)
				if e.TargetRef != nil {
					st.Name = e.TargetRef.Name
				}
				if e.NodeName != nil {
					st.Node = *e.NodeName
				}
				byAddr[addr] = st
			}
		}
	}
	out := make([]runlog.EndpointState, 0, len(byAddr))
	for _, s := range byAddr {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b runlog.EndpointState) int { return a.Addr.Compare(b.Addr) })
	return out
}

// warn records what limits the trust in the run.
func (l *Lab) warn(detail string) {
	l.out.Record(runlog.Record{Event: &runlog.Event{Kind: "warning", Name: "cluster", Detail: detail}})
}

// names are those of pods, for people.
func names(pods []*corev1.Pod) string {
	var out []string
	for _, p := range pods {
		out = append(out, p.Name)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// Act is part of env.Lab. What it does to services is done in the run's own
// namespace and goes with it. Pods of kube-proxy are put back by their
// DaemonSet, for which Close waits.
func (l *Lab) Act(ctx context.Context, a scenarios.Action) error {
	switch {
	case a.Rollout != nil:
		return l.alone(a.Rollout.Service, func() error { return l.roll(ctx, *a.Rollout) })
	case a.Scale != nil:
		return l.alone(a.Scale.Service, func() error { return l.scale(ctx, *a.Scale) })
	case a.DeletePod != nil:
		return l.alone(a.DeletePod.Service, func() error { return l.deletePods(ctx, *a.DeletePod) })
	case a.RestartProxy != nil:
		return l.restart(ctx, l.chosen(a.Nodes), a.RestartProxy.Rolling)
	case a.PauseProxy != nil:
		return l.pauseProxies(ctx, l.chosen(a.Nodes))
	case a.ResumeProxy != nil:
		return l.resumeProxies(ctx, l.chosen(a.Nodes))
	case a.DrainNode != nil:
		return l.drain(ctx, l.chosen(a.Nodes))
	case a.UncordonNode != nil:
		return l.uncordon(ctx, l.chosen(a.Nodes))
	case a.ConntrackSettings != nil:
		return l.inTurn(ctx, func() error { return l.configure(ctx, a) })
	case a.UpgradeProxy != nil:
		return l.inTurn(ctx, func() error { return l.upgrade(ctx, a.UpgradeProxy.Binary) })
	case a.Ballast != nil:
		return l.refill(ctx, l.chosen(a.Nodes), uint64(a.Ballast.Headroom))
	}
	return fmt.Errorf("do action %s: %w", a.Name, errors.ErrUnsupported)
}

// actionRights are for Act, and for what Close and Clean put back after it.
func actionRights(a scenarios.Action, proxy types.NamespacedName) ([]Right, error) {
	var out []Right
	for _, o := range outsides(a, proxy, []string{""}) { // a node has no right of its own
		out = append(out, o.rights()...)
	}
	if a.DrainNode != nil {
		out = append(out, drainRights()...)
	}
	if len(out) > 0 {
		return out, nil
	}
	switch {
	case a.Rollout != nil:
		return only(a.Rollout.Service, may("apps", "deployments", "patch")), nil
	case a.Scale != nil:
		return only(a.Scale.Service, may("apps", "deployments", "patch")), nil
	case a.DeletePod != nil:
		return may("", "pods", "delete"), nil
	case a.RestartProxy != nil:
		return append(inside(proxy.Namespace, may("", "pods", "delete", "list")), selectorRights(proxy)...), nil
	case a.PauseProxy != nil:
		return pauseRights()
	}
	return nil, nil // of agents that are reached already
}

// chosen are the named nodes, or all that traffic enters by: no other is ever
// changed.
func (l *Lab) chosen(named []string) []string {
	if len(named) == 0 {
		return l.settings.nodes
	}
	return slices.DeleteFunc(slices.Clone(l.settings.nodes), func(n string) bool { return !slices.Contains(named, n) })
}

// alone makes an action the only one that changes a service's pods.
func (l *Lab) alone(service string, do func() error) error {
	l.mu.Lock()
	if l.busy[service] {
		l.mu.Unlock()
		return fmt.Errorf("service %s is being changed by another action", service)
	}
	l.busy[service] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.busy[service] = false
		l.mu.Unlock()
	}()
	return do()
}

// roll does what kubectl rollout restart does, and returns when the last old
// pod has gone.
func (l *Lab) roll(ctx context.Context, r scenarios.Rollout) error {
	surge := 1
	if r.MaxSurge != nil {
		surge = *r.MaxSurge
	}
	old := l.podsOf(r.Service)
	patch := map[string]any{"spec": map[string]any{
		"strategy": map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxSurge": surge, "maxUnavailable": r.MaxUnavailable}},
		"template": map[string]any{"metadata": map[string]any{"annotations": map[string]any{
			"kubectl.kubernetes.io/restartedAt": time.Now().Format(time.RFC3339Nano),
		}}},
	}}
	if err := l.patch(ctx, r.Service, patch); err != nil {
		return err
	}
	return l.settled(ctx, r.Service, old)
}

func (l *Lab) scale(ctx context.Context, s scenarios.Scale) error {
	if err := l.patch(ctx, s.Service, map[string]any{"spec": map[string]any{"replicas": s.To}}); err != nil {
		return err
	}
	l.mu.Lock()
	l.want[s.Service] = s.To
	l.mu.Unlock()
	return l.settled(ctx, s.Service, nil)
}

// patch changes a service's Deployment. Doing it twice changes nothing more,
// so an API server that is away is asked again until ctx ends.
func (l *Lab) patch(ctx context.Context, service string, patch map[string]any) error {
	b, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encode change of deployment %s: %w", service, err)
	}
	return insist(ctx, "change deployment "+service, func() error {
		_, err := l.env.client.AppsV1().Deployments(l.settings.namespace).Patch(ctx, service, types.StrategicMergePatchType, b, metav1.PatchOptions{FieldManager: fieldManager})
		return err
	})
}

// insist does what may be repeated until the API server has answered.
func insist(ctx context.Context, what string, do func() error) error {
	for {
		err := do()
		if err == nil {
			return nil
		}
		// What the API server itself says is an answer, but for what it says
		// while it starts.
		if s := apierrors.APIStatus(nil); ctx.Err() != nil || errors.As(err, &s) && !apierrors.IsServiceUnavailable(err) && !apierrors.IsInternalError(err) && !apierrors.IsTooManyRequests(err) {
			return fmt.Errorf("%s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(ctx.Err(), err))
		case <-time.After(poll):
		}
	}
}

// deletePods deletes the oldest pods; their ReplicaSet replaces them.
func (l *Lab) deletePods(ctx context.Context, d scenarios.DeletePod) error {
	alive := slices.DeleteFunc(l.podsOf(d.Service), func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	slices.SortFunc(alive, func(a, b *corev1.Pod) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	doomed := alive[:min(max(1, d.Count), len(alive))]
	var grace *int64
	if d.Force {
		grace = new(int64(0))
	}
	for _, p := range doomed {
		if err := l.env.deletePod(ctx, p, grace); err != nil {
			return err
		}
	}
	return l.settled(ctx, d.Service, doomed)
}

// deletePod deletes exactly this pod, not another one of its name.
func (e *Env) deletePod(ctx context.Context, p *corev1.Pod, grace *int64) error {
	return insist(ctx, "delete pod "+p.Name, func() error {
		err := e.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: grace, Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	})
}

// podsOf are the pods of a service, the terminating ones included.
func (l *Lab) podsOf(service string) []*corev1.Pod {
	list, err := l.watch.pods.Pods(l.settings.namespace).List(labels.SelectorFromSet(labels.Set{componentLabel: "target", nameLabel: service}))
	if err != nil {
		return nil // a lister of what is in memory: there is no such error
	}
	return list
}

// settled waits until there are as many pods of a service as there shall be,
// all of them ready, and none of the old ones.
func (l *Lab) settled(ctx context.Context, service string, old []*corev1.Pod) error {
	why := ""
	err := l.await(ctx, func() bool {
		why = unsettled(l.podsOf(service), old, l.want[service])
		return why == ""
	})
	if err != nil {
		return fmt.Errorf("wait for the pods of %s: %s: %w", service, why, err)
	}
	return nil
}

// unsettled is what is still to come; empty where nothing is.
func unsettled(now, old []*corev1.Pod, want int) string {
	var left, waiting []*corev1.Pod
	for _, p := range now {
		switch {
		case p.DeletionTimestamp != nil || slices.ContainsFunc(old, func(o *corev1.Pod) bool { return o.UID == p.UID }):
			left = append(left, p)
		case !isReady(p):
			waiting = append(waiting, p)
		}
	}
	switch {
	case len(left) > 0:
		return "still there: " + names(left)
	case len(waiting) > 0:
		return "not ready: " + names(waiting)
	case len(now) != want:
		return fmt.Sprintf("%d of %d are there", len(now), want)
	}
	return ""
}

// await calls done, which has mu, at each change of a pod until it returns
// true.
func (l *Lab) await(ctx context.Context, done func() bool) error {
	for {
		l.mu.Lock()
		ok, changed := done(), l.changed
		l.mu.Unlock()
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

// refill changes the ballast of nodes.
func (l *Lab) refill(ctx context.Context, nodes []string, headroom uint64) error {
	for _, h := range l.nodes {
		if slices.Contains(nodes, h.Name()) {
			if err := h.Update(ctx, env.BallastID(h.Name()), env.Update{Headroom: &headroom}); err != nil {
				return err
			}
		}
	}
	return nil
}

// restart replaces kube-proxy's pods of nodes, all at once, or one after the
// other, each when the one before is ready.
func (l *Lab) restart(ctx context.Context, nodes []string, rolling bool) error {
	if !rolling {
		return l.restartProxies(ctx, nodes)
	}
	for _, n := range nodes {
		if err := l.restartProxies(ctx, []string{n}); err != nil {
			return err
		}
	}
	return nil
}

// restartProxies deletes kube-proxy's pods of nodes, all at once, and returns
// when others are ready in their place.
func (l *Lab) restartProxies(ctx context.Context, nodes []string) error {
	if l.watch.proxies == nil {
		return errors.New("no kube-proxy is named that may be touched (--kube-proxy)")
	}
	old := slices.DeleteFunc(l.proxies(), func(p *corev1.Pod) bool { return !slices.Contains(nodes, p.Spec.NodeName) })
	l.mu.Lock()
	l.touched = append(l.touched, nodes...)
	l.mu.Unlock()
	for _, n := range nodes {
		if !slices.ContainsFunc(old, func(p *corev1.Pod) bool { return p.Spec.NodeName == n }) {
			return fmt.Errorf("%s has no pod on node %s", l.env.cfg.KubeProxy, n)
		}
	}
	for _, p := range old {
		if err := l.env.deletePod(ctx, p, l.graceFor(p)); err != nil {
			return err
		}
	}
	why := ""
	if err := l.await(ctx, func() bool { why = proxiesMissing(l.proxies(), old, nodes); return why == "" }); err != nil {
		return fmt.Errorf("wait for %s: %s: %w", l.env.cfg.KubeProxy, why, err)
	}
	return nil
}

func (l *Lab) proxies() []*corev1.Pod {
	list, err := l.watch.proxies.Pods(l.env.cfg.KubeProxy.Namespace).List(labels.Everything())
	if err != nil {
		return nil // a lister of what is in memory: there is no such error
	}
	return slices.Clone(list)
}

// proxiesMissing says on which of the nodes no other pod than the old ones is
// ready; empty where none is missing.
func proxiesMissing(now, old []*corev1.Pod, nodes []string) string {
	var missing []string
	for _, n := range nodes {
		if !slices.ContainsFunc(now, func(p *corev1.Pod) bool {
			return p.Spec.NodeName == n && p.DeletionTimestamp == nil && isReady(p) && !slices.ContainsFunc(old, func(o *corev1.Pod) bool { return o.UID == p.UID })
		}) {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return "no new pod is ready on " + strings.Join(missing, ", ")
}

// proxiesAreBack waits until kube-proxy is ready on every node on which it was
// deleted.
func (l *Lab) proxiesAreBack(ctx context.Context) error {
	l.mu.Lock()
	nodes := slices.Compact(slices.Sorted(slices.Values(l.touched)))
	l.mu.Unlock()
	for len(nodes) > 0 {
		list, err := l.env.proxyPods(ctx)
		why := ""
		if err == nil {
			if why = proxiesMissing(list, nil, nodes); why == "" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for %s: %s: %w; by hand: kubectl -n %s get pods -o wide", l.env.cfg.KubeProxy, why, ctx.Err(), l.env.cfg.KubeProxy.Namespace), err)
		case <-time.After(poll):
		}
	}
	return nil
}

func (e *Env) proxyPods(ctx context.Context) ([]*corev1.Pod, error) {
	selector, err := e.proxySelector(ctx)
	if err != nil {
		return nil, err
	}
	list, err := e.client.CoreV1().Pods(e.cfg.KubeProxy.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list pods of %s: %w", e.cfg.KubeProxy, err)
	}
	out := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, nil
}

// selectorRights are for proxySelector.
func selectorRights(proxy types.NamespacedName) []Right {
	return inside(proxy.Namespace, only(proxy.Name, may("apps", "daemonsets", "get")))
}

// proxySelector selects the pods of the DaemonSet that is named as kube-proxy.
func (e *Env) proxySelector(ctx context.Context) (string, error) {
	p := e.cfg.KubeProxy
	ds, err := e.client.AppsV1().DaemonSets(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("there is no DaemonSet %s: where kube-proxy runs in another way, or another program has its part, it cannot be restarted from here", p)
	}
	if err != nil {
		return "", fmt.Errorf("look up kube-proxy's DaemonSet: %w", err)
	}
	s, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		return "", fmt.Errorf("read selector of DaemonSet %s: %w", p, err)
	}
	return s.String(), nil
}

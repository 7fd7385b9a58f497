package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tablefull/tablefull/runner/agent"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// Pausing kube-proxy takes a pod that sees the node's processes: manifests/
// pauser.yaml, which a run applies only where its scenario pauses.
const (
	pauserName  = "pauser" // of the DaemonSet
	pauserFile  = "pauser.yaml"
	stoppedFile = "/spool/stopped" // on the pod's own volume
	proxyComm   = "kube-proxy"     // as the kernel calls the process
	// pauseSlack is how much longer than the run's traffic kube-proxy may be
	// stopped at most.
	pauseSlack = time.Minute
	// hungGrace is how long, in s, the kubelet waits for a kube-proxy that is
	// stopped and so does not hear its SIGTERM.
	hungGrace = 1
)

// pauses says whether any of the actions pauses kube-proxy.
func pauses(actions []scenarios.Action) bool {
	return slices.ContainsFunc(actions, func(a scenarios.Action) bool { return a.PauseProxy != nil })
}

// pauseRights are for the pausers.
func pauseRights() ([]Right, error) {
	objects, err := settings{}.objects(pauserFile)
	if err != nil {
		return nil, err
	}
	return append(applyRights(objects), only(pauserName, may("apps", "daemonsets", "delete"))...), nil
}

// cleanPauses ends the pausers of a run that was killed, which lets kube-proxy go
// on where they have stopped it, and waits for that. It tells did of each node.
func cleanPauses(ctx context.Context, c kubernetes.Interface, namespace string, did func(what string)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	nodes := map[string]bool{}
	for deleted := false; ; deleted = true {
		list, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: componentLabel + "=" + pauserName})
		switch {
		case err != nil:
			return fmt.Errorf("look for what may have paused kube-proxy: %w", err)
		case len(list.Items) == 0:
			for _, n := range slices.Sorted(maps.Keys(nodes)) {
				did("put back kube-proxy on node " + n + ", which goes on if it was paused")
			}
			return nil
		}
		for _, p := range list.Items {
			nodes[p.Spec.NodeName] = true
		}
		if !deleted {
			err := c.AppsV1().DaemonSets(namespace).Delete(ctx, pauserName, metav1.DeleteOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("let kube-proxy go on: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("let kube-proxy go on: wait for the pods %s/%s to end: %w", namespace, pauserName, ctx.Err())
		case <-time.After(poll):
		}
	}
}

// pauseProxies stops kube-proxy on nodes, and returns when all of its threads
// stand there. Where it is stopped already nothing is done.
func (l *Lab) pauseProxies(ctx context.Context, nodes []string) error {
	for _, n := range nodes {
		if err := l.pauseProxy(ctx, n); err != nil {
			return fmt.Errorf("pause kube-proxy on node %s: %w", n, err)
		}
	}
	return nil
}

func (l *Lab) pauseProxy(ctx context.Context, node string) error {
	h := l.pauser(node)
	if h == nil {
		return errors.New("there is no pod that could")
	}
	container, err := l.proxyContainer(node)
	if err != nil {
		return err
	}
	l.mu.Lock()
	if l.paused[node] != "" {
		l.mu.Unlock()
		return nil
	}
	l.pausings++
	id := fmt.Sprintf("pause/%d", l.pausings)
	l.paused[node] = id // before it is, so that it is put back whatever becomes of Start
	l.mu.Unlock()
	err = h.Start(ctx, env.Job{ID: id, Epoch: l.epochs[h.Name()], Pause: &env.PauseJob{
		Node: node, Container: container, Program: proxyComm, For: (l.duration + pauseSlack).Seconds(), Journal: stoppedFile,
	}})
	if err != nil {
		return err
	}
	l.tasks.Go(func() {
		if h.Wait(l.ctx, id) == nil { // it ended by itself, or was replaced, or goes on
			l.goesOn(node, id)
		}
	})
	return nil
}

// pauser is what can pause on a node; nil where nothing can.
func (l *Lab) pauser(node string) *remote {
	i := slices.IndexFunc(l.pausers, func(r *remote) bool { return r.pod.Spec.NodeName == node })
	if i < 0 {
		return nil
	}
	return l.pausers[i]
}

// proxyContainer is the runtime's id of the container that kube-proxy runs in on
// a node.
func (l *Lab) proxyContainer(node string) (string, error) {
	var ids []string
	for _, p := range l.proxies() {
		if p.Spec.NodeName != node || p.DeletionTimestamp != nil {
			continue
		}
		for _, c := range p.Status.ContainerStatuses {
			if (c.Name == proxyComm || len(p.Status.ContainerStatuses) == 1) && c.State.Running != nil {
				_, id, _ := strings.Cut(c.ContainerID, "://")
				ids = append(ids, id)
			}
		}
	}
	if len(ids) != 1 {
		return "", fmt.Errorf("%s has %d running containers there", l.env.cfg.KubeProxy, len(ids))
	}
	return ids[0], nil
}

// goesOn forgets a pause that is over.
func (l *Lab) goesOn(node, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.paused[node] == id {
		delete(l.paused, node)
	}
}

// resumeProxies lets kube-proxy go on where this run has stopped it.
func (l *Lab) resumeProxies(ctx context.Context, nodes []string) error {
	l.mu.Lock()
	paused := maps.Clone(l.paused)
	l.mu.Unlock()
	var errs []error
	for _, n := range nodes {
		id := paused[n]
		if id == "" {
			continue
		}
		h := l.pauser(n)
		err := h.Stop(ctx, id)
		if err != nil && !errors.Is(err, agent.ErrUnknownJob) {
			errs = append(errs, fmt.Errorf("let kube-proxy on node %s go on: %w; it goes on when the pod %s/%s ends; otherwise by hand: kubectl -n %s delete pod --grace-period=1 its pod on that node",
				n, err, l.settings.namespace, h.pod.Name, l.env.cfg.KubeProxy.Namespace))
			continue
		}
		l.goesOn(n, id)
	}
	return errors.Join(errs...)
}

// resumeAll is resumeProxies for all nodes, also where ctx has ended. It is done
// once: PutBack does it, and Close where nobody has.
func (l *Lab) resumeAll(ctx context.Context) error {
	l.mu.Lock()
	nodes := slices.Sorted(maps.Keys(l.paused))
	l.mu.Unlock()
	if len(nodes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err := l.resumeProxies(ctx, nodes)
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.paused) // what went wrong is said
	return err
}

// graceFor is how long a kube-proxy's pod is given to end: one that is stopped
// ends by SIGKILL alone.
func (l *Lab) graceFor(p *corev1.Pod) *int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.paused[p.Spec.NodeName] == "" {
		return nil
	}
	return new(int64(hungGrace))
}

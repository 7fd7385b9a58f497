package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/agent"
	"github.com/tablefull/tablefull/runner/env"
)

// podRights are to wait for pods, and to reach their agents: as web sockets
// that is to get, and since Kubernetes 1.35 to create, too; otherwise, to create.
func podRights() []Right {
	return append(may("", "pods", "list"), may("", "pods/portforward", "create", "get")...)
}

// waitForPods waits until n pods of a component are ready, and returns them by
// name.
func (e *Env) waitForPods(ctx context.Context, s settings, component string, n int) ([]corev1.Pod, error) {
	return e.waitUntil(ctx, s, component, n, notReady)
}

// waitUntil waits until there is no reason to wait for any of n pods of a
// component, and returns them by name.
func (e *Env) waitUntil(ctx context.Context, s settings, component string, n int, wait func(corev1.Pod) (why string, final bool)) ([]corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, podsTimeout)
	defer cancel()
	for {
		list, err := e.client.CoreV1().Pods(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: componentLabel + "=" + component})
		var waiting []string
		var ready []corev1.Pod
		if err == nil {
			for _, p := range list.Items {
				switch why, final := wait(p); {
				case final:
					return nil, fmt.Errorf("start %s: pod %s: %s", component, p.Name, why)
				case why == "":
					ready = append(ready, p)
				default:
					waiting = append(waiting, p.Name+": "+why)
				}
			}
			if len(ready) == n {
				slices.SortFunc(ready, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
				return ready, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("start %s: %d of %d pods are ready: %s: %w", component, len(ready), n, strings.Join(waiting, "; "), context.Cause(ctx)), err)
		case <-time.After(poll):
		}
	}
}

// notReady is why a pod is not ready; empty where it is. Final says that
// waiting is in vain.
func notReady(p corev1.Pod) (why string, final bool) {
	if p.DeletionTimestamp != nil {
		return "it is being deleted", false
	}
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			return strings.TrimSpace(w.Reason + " " + w.Message), w.Reason == "ErrImageNeverPull" || w.Reason == "InvalidImageName"
		}
		if t := c.State.Terminated; t != nil {
			return fmt.Sprintf("it ended with exit code %d %s", t.ExitCode, t.Message), true
		}
	}
	for _, c := range p.Status.Conditions {
		switch {
		case c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue:
			return "", false
		case c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse:
			return c.Message, false
		}
	}
	return "it is starting", false
}

// notRunning is why a pod's agent cannot be reached; empty where it can. A pod
// under load is ready only when its server listens, which its agent is told.
func notRunning(p corev1.Pod) (why string, final bool) {
	if running(&p) {
		return "", false
	}
	return notReady(p)
}

func running(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.PodIP != "" && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Running != nil
}

// remote is an agent in a pod.
type remote struct {
	*agent.Client
	pod     corev1.Pod
	addrs   map[string]netip.Addr // the pod's, by family
	forward *forwarder
	lost    func(error) // told why the last records of a pod that was to go are missing

	ending atomic.Bool // it was deleted: it goes because it shall
	ended  atomic.Bool // and it has gone
}

// Records is part of env.Host. The end of a pod that was to go is no error.
func (r *remote) Records(ctx context.Context, from uint64, fn func(runlog.Record) error) error {
	err := r.Client.Records(ctx, from, fn)
	if !r.ending.Load() {
		return err
	}
	if err != nil && ctx.Err() == nil {
		r.lost(err)
	}
	r.ended.Store(true)
	_ = r.forward.Close() // there is nobody any more
	return nil
}

// Stop is part of env.Host. What ran in a pod that has gone has stopped.
func (r *remote) Stop(ctx context.Context, id string) error {
	if r.ended.Load() {
		return nil
	}
	err := r.Client.Stop(ctx, id)
	if r.ending.Load() {
		return nil
	}
	return err
}

// Close is part of env.Host.
func (r *remote) Close(ctx context.Context) error {
	if r.ended.Load() {
		return nil
	}
	err := r.Client.Close(ctx)
	if r.ending.Load() {
		return nil
	}
	return err
}

// dial reaches the agent of a pod, which calls itself name.
func (e *Env) dial(ctx context.Context, s settings, pod corev1.Pod, name string, role env.Role) (*remote, error) {
	return e.dialAt(ctx, s, pod, s.port, name, role)
}

// dialAt is dial for an agent that listens on another port.
func (e *Env) dialAt(ctx context.Context, s settings, pod corev1.Pod, port int, name string, role env.Role) (*remote, error) {
	addrs, err := parseAddrs(podIPs(pod))
	if err != nil {
		return nil, fmt.Errorf("read addresses of pod %s: %w", pod.Name, err)
	}
	f, err := newForwarder(e.cfg.REST, e.client, s.namespace, pod.Name, port)
	if err != nil {
		return nil, err
	}
	c, err := agent.Dial(ctx, agent.ClientConfig{
		Name: name, Role: role, Token: s.token, Dial: f.Dial, Patience: patience,
		Gone: func() error { return e.gone(pod) },
	})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &remote{Client: c, pod: pod, addrs: addrs, forward: f, lost: func(error) {}}, nil
}

// gone returns an error once a pod's agent is known to have ended.
func (e *Env) gone(pod corev1.Pod) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	// A list, which is needed anyway, and no right more.
	list, err := e.client.CoreV1().Pods(pod.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name})
	switch {
	case err != nil:
		return nil //nolint:nilerr // nothing is known
	case len(list.Items) == 0:
		return fmt.Errorf("pod %s on node %s has been deleted", pod.Name, pod.Spec.NodeName)
	case list.Items[0].UID != pod.UID:
		return fmt.Errorf("pod %s on node %s is another one now", pod.Name, pod.Spec.NodeName)
	}
	for _, c := range list.Items[0].Status.ContainerStatuses {
		t := c.State.Terminated
		if t == nil {
			t = c.LastTerminationState.Terminated
		}
		if t != nil {
			return fmt.Errorf("the agent in pod %s on node %s ended: %s, exit code %d", pod.Name, pod.Spec.NodeName, t.Reason, t.ExitCode)
		}
	}
	return nil
}

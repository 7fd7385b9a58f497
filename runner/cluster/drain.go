package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/drain"
)

// unschedulable is the key of a Node's undo.
const unschedulable = "unschedulable"

// drainRights are for drain, with those to change a node.
func drainRights() []Right {
	return append(may("", "pods", "get"), may("", "pods/eviction", "create")...)
}

// drain cordons nodes and evicts the run's own pods under load from them, as
// kubectl does, and returns when these have gone. Their Deployments make others
// elsewhere, if there is anywhere else.
func (l *Lab) drain(ctx context.Context, nodes []string) error {
	for _, n := range nodes {
		o := outside{node, "", n}
		l.holds(o)
		if err := o.change(ctx, l.env.client, change{run: l.settings.run, key: unschedulable, value: "true"}); err != nil {
			return err
		}
		if err := l.evict(ctx, n); err != nil {
			return fmt.Errorf("drain node %s: %w", n, err)
		}
	}
	return nil
}

// evict evicts only pods with the run's labels, of the component under load: not
// what sends, not what samples, and nobody else's.
func (l *Lab) evict(ctx context.Context, node string) error {
	var said strings.Builder
	h := &drain.Helper{
		Ctx: ctx, Client: l.env.client, GracePeriodSeconds: -1, // the pod's own
		DeleteEmptyDirData: true, EvictErrorRetryDelay: time.Second,
		PodSelector: labels.Set{managedBy: managedByUs, runLabel: l.settings.run, componentLabel: "target"}.String(),
		Out:         io.Discard, ErrOut: &said,
	}
	if deadline, ok := ctx.Deadline(); ok {
		h.Timeout = time.Until(deadline)
	}
	list, errs := h.GetPodsForDeletion(node)
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if err := h.DeleteOrEvictPods(list.Pods()); err != nil {
		if ctx.Err() != nil { // which the library says in text only
			err = errors.Join(ctx.Err(), err)
		}
		return fmt.Errorf("%w %s", err, said.String())
	}
	return nil
}

// uncordon lets pods come to nodes again that the run has drained.
func (l *Lab) uncordon(ctx context.Context, nodes []string) error {
	for _, n := range nodes {
		o := outside{node, "", n}
		did, err := o.putBack(ctx, l.env.client, l.settings.run)
		if err != nil {
			return err
		}
		if !did {
			return fmt.Errorf("uncordon node %s: this run has not drained it", n)
		}
		if err := uncordoned(ctx, l.env.client, o); err != nil {
			return err
		}
	}
	return nil
}

// uncordoned waits until a node that was uncordoned has lost the taint of that:
// a controller takes it away.
func uncordoned(ctx context.Context, c kubernetes.Interface, o outside) error {
	for {
		object, err := o.get(ctx, c)
		if err == nil {
			n := object.(*corev1.Node)
			if n.Spec.Unschedulable || !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeUnschedulable }) {
				return nil // it is, or it was cordoned before
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait until %s has no taint %s: %w", o, corev1.TaintNodeUnschedulable, ctx.Err()), err)
		case <-time.After(poll):
		}
	}
}

// drainedNodes are those that a run has drained and not uncordoned.
func drainedNodes(ctx context.Context, c kubernetes.Interface) ([]outside, error) {
	list, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("look for nodes that a run has drained: %w", err)
	}
	var out []outside
	for _, n := range list.Items {
		if _, ok := n.Annotations[undoAnnotation]; ok {
			out = append(out, outside{node, "", n.Name})
		}
	}
	return out, nil
}

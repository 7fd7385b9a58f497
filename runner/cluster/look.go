package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tablefull/tablefull/runner/env"
)

// A Look is samplers on chosen nodes, in a namespace of their own, labelled as
// a run's: they read the nodes' tables and change nothing. Where its controller
// is killed, the samplers end by themselves a minute later, and Clean removes
// the namespace.
type Look struct {
	env      *Env
	settings settings
	agents   []*remote         // by node
	missed   map[string]string // why a node's sampler did not start
}

// Look starts a sampler on each of the nodes, which the cluster must have, and
// waits for them, at most podsTimeout. Without walk they have no capabilities
// at all, and can read counters only. When it fails it has removed what it had
// made; a node whose sampler alone does not start is no failure: see Complete.
func (e *Env) Look(ctx context.Context, kind string, nodes []string, walk bool) (_ *Look, err error) {
	if e.cfg.Image == "" {
		return nil, errors.New("no image: name one that the nodes have or can pull")
	}
	l := &Look{env: e, settings: e.settings(kind+"-"+randomHex(4), nodes, nil), missed: map[string]string{}}
	objects, err := l.settings.lookObjects(walk)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close(ctx))
		}
	}()
	if err := apply(ctx, e.client, objects); err != nil {
		return nil, err
	}
	pods, err := l.await(ctx)
	if err != nil {
		return nil, err
	}
	return l, l.dial(ctx, pods)
}

// LookRights are what a Look needs, with what Clean needs where it is killed.
func LookRights() ([]Right, error) {
	objects, err := settings{}.lookObjects(true)
	if err != nil {
		return nil, err
	}
	return LeastOf(slices.Concat(entryRights(), applyRights(objects), podRights(), removeRights(), cleanRights())), nil
}

// lookObjects are those of a run, less all but the samplers, which are on its
// nodes alone.
func (s settings) lookObjects(walk bool) ([]runtime.Object, error) {
	objects, err := s.objects("namespace.yaml", "accounts.yaml", "sampler.yaml")
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if ds, ok := o.(*appsv1.DaemonSet); ok {
			pod := &ds.Spec.Template.Spec
			pod.Affinity = &corev1.Affinity{NodeAffinity: on(s.nodes)}
			if !walk {
				pod.Containers[0].SecurityContext.Capabilities.Add = nil
			}
		}
	}
	return objects, nil
}

// await waits until each node has a sampler, or a reason why it never will; a
// node that has neither in time is missed, too.
func (l *Look) await(ctx context.Context) (ready map[string]corev1.Pod, err error) {
	until := time.Now().Add(podsTimeout)
	for {
		list, err := l.env.client.CoreV1().Pods(l.settings.namespace).List(ctx, metav1.ListOptions{LabelSelector: componentLabel + "=sampler"})
		if err == nil {
			var waiting bool
			if ready, waiting = l.sort(list.Items); !waiting {
				return ready, nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("start samplers: %w", ctx.Err())
		case time.Now().Before(until):
		case err != nil:
			return nil, fmt.Errorf("start samplers: %w", err)
		default:
			return ready, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(poll):
		}
	}
}

// sort notes which nodes have a sampler and why others have none; waiting says
// that there may still be one.
func (l *Look) sort(pods []corev1.Pod) (ready map[string]corev1.Pod, waiting bool) {
	ready = map[string]corev1.Pod{}
	clear(l.missed)
	for _, node := range l.settings.nodes {
		l.missed[node] = "no pod has been made for it"
	}
	final := map[string]bool{}
	for _, p := range pods {
		node := nodeOf(p)
		if _, ours := l.missed[node]; !ours {
			continue
		}
		why, done := notReady(p)
		if why == "" {
			ready[node] = p
			delete(l.missed, node)
			continue
		}
		l.missed[node], final[node] = "pod "+p.Name+": "+why, done
	}
	return ready, len(final) < len(l.missed) || slices.Contains(slices.Collect(maps.Values(final)), false)
}

// nodeOf is the node that a DaemonSet's pod runs on, or is made for.
func nodeOf(p corev1.Pod) string {
	if p.Spec.NodeName != "" || p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil {
		return p.Spec.NodeName
	}
	required := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required != nil && len(required.NodeSelectorTerms) == 1 {
		for _, f := range required.NodeSelectorTerms[0].MatchFields {
			if f.Key == "metadata.name" && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

// dial reaches the agents of the pods.
func (l *Look) dial(ctx context.Context, pods map[string]corev1.Pod) error {
	nodes := slices.Sorted(maps.Keys(pods))
	l.agents = make([]*remote, len(nodes))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, node := range nodes {
		g.Go(func() (err error) {
			l.agents[i], err = l.env.dial(ctx, l.settings, pods[node], node, env.Node)
			return err
		})
	}
	return g.Wait()
}

// Hosts are the samplers that run, by node; their names are the nodes'.
func (l *Look) Hosts() []env.Host {
	out := make([]env.Host, len(l.agents))
	for i, a := range l.agents {
		out[i] = a
	}
	return out
}

// Complete returns an error where a node has no sampler.
func (l *Look) Complete() error {
	var why []string
	for _, node := range slices.Sorted(maps.Keys(l.missed)) {
		why = append(why, "node "+node+": "+l.missed[node])
	}
	if len(why) == 0 {
		return nil
	}
	return errors.New("start samplers: " + strings.Join(why, "; "))
}

// Facts are those of each node's machine and network namespace, or why they
// were not read.
func (l *Look) Facts(ctx context.Context) (read map[string]env.Capabilities, not map[string]string) {
	read, not = map[string]env.Capabilities{}, maps.Clone(l.missed)
	for _, a := range l.agents {
		facts, err := a.Facts(ctx)
		if err != nil {
			not[a.Name()] = err.Error()
			continue
		}
		read[a.Name()] = facts
	}
	return read, not
}

// Namespace is the name of the namespace that the samplers are in.
func (l *Look) Namespace() string { return l.settings.namespace }

// Close removes the samplers with their namespace and waits until they are
// gone, at most removeTimeout and also where ctx has ended.
func (l *Look) Close(ctx context.Context) error {
	for _, a := range l.agents {
		if a != nil {
			_ = a.forward.Close() // its pod goes away
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	return remove(ctx, l.env.client, l.settings.namespace)
}

// CheckNodes returns an error where a sampler cannot run on one of these nodes.
func (e *Env) CheckNodes(ctx context.Context, names []string) error {
	list, err := e.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for _, name := range names {
		i := slices.IndexFunc(list.Items, func(n corev1.Node) bool { return n.Name == name })
		if i < 0 {
			return fmt.Errorf("the cluster has no node %s", name)
		}
		if why := unreadable(viewNode(list.Items[i])); why != "" {
			return fmt.Errorf("node %s: %s", name, why)
		}
	}
	return nil
}

// Server is the address of the API server.
func (e *Env) Server() string { return e.cfg.REST.Host }

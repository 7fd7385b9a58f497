package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// Config is how a cluster is reached and what runs in it.
type Config struct {
	REST  *rest.Config
	Image string // of tablefull, for the nodes' platform; needed by all that starts pods
	// Nodes are where traffic enters: a worker runs on each, and their tables
	// are filled to the scenario's headroom. They are as many as the scenario's
	// lab.nodes. Empty: the first ones by name that take ordinary pods.
	Nodes []string
	// KubeProxy names the DaemonSet whose pods a scenario may restart; nothing
	// else outside a run's own namespace is ever changed. Empty: none.
	KubeProxy types.NamespacedName
}

// An Env runs scenarios in a cluster.
type Env struct {
	cfg    Config
	client kubernetes.Interface
}

var _ env.Environment = (*Env)(nil)

// New returns the environment. Nothing is asked of the cluster yet.
func New(cfg Config) (*Env, error) {
	rc := rest.CopyConfig(cfg.REST)
	rc.QPS, rc.Burst = 50, 100 // the default of 5/s is for controllers that run for ever
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("prepare client: %w", err)
	}
	cfg.REST = rc
	return &Env{cfg: cfg, client: client}, nil
}

// Name is part of env.Environment.
func (*Env) Name() string { return "kubernetes" }

// How long things may take in a cluster.
const (
	podsTimeout   = 90 * time.Second
	removeTimeout = 2 * time.Minute
	poll          = 200 * time.Millisecond
	// patience is how long an agent is asked again: an API server that is
	// restarted is away for some seconds.
	patience = time.Minute
)

// Probe is part of env.Environment. To read a node's settings it starts one
// pod on the first node that traffic enters by, in a namespace of its own, and removes
// both.
func (e *Env) Probe(ctx context.Context) (caps env.Capabilities, err error) {
	nodes, err := e.entryNodes(ctx, max(1, len(e.cfg.Nodes)))
	if err != nil {
		return caps, fmt.Errorf("probe cluster: %w", err)
	}
	l, err := e.Look(ctx, "probe", nodes[:1], false)
	if err != nil {
		return caps, fmt.Errorf("probe cluster: %w", err)
	}
	defer func() { err = errors.Join(err, l.Close(ctx)) }()
	if err := l.Complete(); err != nil {
		return caps, fmt.Errorf("probe cluster: %w", err)
	}
	if caps, err = l.agents[0].Facts(ctx); err != nil {
		return caps, fmt.Errorf("probe cluster: read settings of connection tracking of node %s: %w", nodes[0], err)
	}
	return Capable(caps), nil
}

// Capable are a node's facts with what a scenario may need of an environment,
// as far as a cluster has it.
func Capable(node env.Capabilities) env.Capabilities {
	node.List, node.Cluster = capabilities(), true
	return node
}

// settings are those of one run.
func (e *Env) settings(run string, nodes []string, services []scenarios.Service) settings {
	return settings{
		namespace: "tablefull-" + strings.ToLower(run), run: run, token: randomHex(32), image: e.cfg.Image,
		port: freePort(services, mathrand.IntN), nodes: nodes, services: services,
	}
}

// entryRights are for entryNodes.
func entryRights() []Right { return may("", "nodes", "list") }

// entryNodes are the n nodes that traffic enters by: Config.Nodes, or the
// first by name that take ordinary pods.
func (e *Env) entryNodes(ctx context.Context, n int) ([]string, error) {
	list, err := e.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var fit, unfit []string
	why := map[string]string{}
	for _, node := range list.Items {
		why[node.Name] = unfitNode(node)
		if why[node.Name] == "" {
			fit = append(fit, node.Name)
		} else {
			unfit = append(unfit, node.Name+" "+why[node.Name])
		}
	}
	for _, name := range e.cfg.Nodes {
		reason, known := why[name]
		switch {
		case !known:
			return nil, fmt.Errorf("the cluster has no node %s", name)
		case reason != "":
			return nil, fmt.Errorf("node %s %s", name, reason)
		}
	}
	if len(e.cfg.Nodes) > 0 {
		if len(e.cfg.Nodes) != n {
			return nil, fmt.Errorf("the scenario has %d nodes (lab.nodes), and %d are named", n, len(e.cfg.Nodes))
		}
		return e.cfg.Nodes, nil
	}
	if len(fit) < n {
		return nil, fmt.Errorf("the scenario needs %d nodes (lab.nodes), and %d of the cluster's %d take ordinary pods: %s", n, len(fit), len(list.Items), strings.Join(unfit, "; "))
	}
	slices.Sort(fit)
	return fit[:n], nil
}

// unfitNode is why ordinary pods cannot run on a node; empty where they can.
func unfitNode(n corev1.Node) string {
	if n.Spec.Unschedulable {
		return "is cordoned"
	}
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute {
			return "has the taint " + t.Key
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return ""
		}
	}
	return "is not ready"
}

// removeRights are for remove.
func removeRights() []Right { return may("", "namespaces", "delete", "get") }

// NotRemoved is that a namespace of ours is still in the cluster.
type NotRemoved struct{ err error }

func (e *NotRemoved) Error() string { return e.err.Error() }
func (e *NotRemoved) Unwrap() error { return e.err }

// remove deletes a namespace and waits until it is gone, with all in it. An API
// server that cannot be reached is asked again until ctx ends. Its errors are
// NotRemoved.
func remove(ctx context.Context, client kubernetes.Interface, namespace string) error {
	for {
		// Deleting what is being deleted already changes nothing.
		err := client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{})
		if err == nil || apierrors.IsConflict(err) {
			_, err = client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		}
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case apierrors.IsForbidden(err):
			return &NotRemoved{fmt.Errorf("remove namespace %s: %w", namespace, err)}
		}
		select {
		case <-ctx.Done():
			return &NotRemoved{fmt.Errorf("remove namespace %s (kubectl delete namespace %s): %w", namespace, namespace, errors.Join(ctx.Err(), err))}
		case <-time.After(poll):
		}
	}
}

// cleanRights are for Clean, with those for remove and, for cleanPauses, to list
// pods, which a run does as well.
func cleanRights() []Right { return may("", "namespaces", "list") }

// Clean removes what runs whose controller was killed have left: all
// namespaces with our label, whose names it returns. Before that it puts back what their
// actions have changed outside of these, and what a run whose namespace is not
// there any more has changed of nodes and, where kube-proxy is named, of that; it
// tells did of each. A namespace whose changes could not be put back stays. It must not be
// called while a run goes on in the cluster.
func Clean(ctx context.Context, config *rest.Config, proxy types.NamespacedName, did func(what string)) ([]string, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("prepare client: %w", err)
	}
	return clean(ctx, client, proxy, did)
}

func clean(ctx context.Context, client kubernetes.Interface, proxy types.NamespacedName, did func(what string)) ([]string, error) {
	list, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: managedBy + "=" + managedByUs + "," + runLabel})
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var removed []string
	var errs []error
	back := func(objects []outside, run string) error {
		ctx, cancel := context.WithTimeout(ctx, putBackTimeout(0))
		defer cancel()
		return putBackAll(ctx, client, objects, run, func(o outside) { did(o.String()) })
	}
	for _, n := range list.Items {
		// First of all: what is rolled out waits for a kube-proxy that is stopped.
		if err := cleanPauses(ctx, client, n.Name, did); err != nil {
			errs = append(errs, err)
		}
		objects, err := parseOutsides(n.Annotations[changesAnnotation])
		if err == nil {
			err = back(objects, n.Labels[runLabel])
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("put back what the run %s has changed: %w", n.Labels[runLabel], err))
			if !errors.Is(err, errTheirs) {
				continue
			}
		}
		if err := remove(ctx, client, n.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, n.Name)
	}
	left, err := drainedNodes(ctx, client)
	if err != nil {
		errs = append(errs, err)
	}
	if proxy != (types.NamespacedName{}) {
		left = append(left, proxyObjects(proxy)...)
	}
	errs = append(errs, back(left, ""))
	return removed, errors.Join(errs...)
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

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
// pods, which a run does as well, and with all that LookRights are, which a run's are.
func cleanRights() []Right { return may("", "namespaces", "list") }

// Clean removes what runs whose controller was killed have left: all
// namespaces with our label, whose names it returns. Before that it puts back what their
// actions have changed outside of these, and what a run whose namespace is not
// there any more has changed of nodes and, where kube-proxy is named, of that.
// Where kube-proxy's ConfigMap may have been changed it reads the nodes' settings
// back, with samplers of the run's image or else the Config's. It
// tells did of each. A namespace whose changes could not be put back, or not be
// seen to be, stays. It must not be called while a run goes on in the cluster.
func Clean(ctx context.Context, cfg Config, did func(what string)) ([]string, error) {
	e, err := New(cfg)
	if err != nil {
		return nil, err
	}
	return (&cleaner{env: e, did: did, read: e.settingsAreBack}).clean(ctx)
}

// A cleaner does what Clean says.
type cleaner struct {
	env  *Env
	did  func(what string)
	read func(ctx context.Context, image string, section conntrackSection) ([]string, error)
}

func (c *cleaner) clean(ctx context.Context) ([]string, error) {
	client := c.env.client
	list, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: managedBy + "=" + managedByUs + "," + runLabel})
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var removed []string
	var errs []error
	for _, n := range list.Items {
		err := c.putBack(ctx, n)
		errs = append(errs, err)
		if err != nil && !errors.Is(err, errTheirs) {
			continue
		}
		if err := remove(ctx, client, n.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, n.Name)
	}
	left, err := drainedNodes(ctx, client)
	errs = append(errs, err)
	if c.env.cfg.KubeProxy != (types.NamespacedName{}) {
		left = append(left, proxyObjects(c.env.cfg.KubeProxy)...)
	}
	back, err := c.objectsBack(ctx, left, "")
	if err == nil {
		err = c.readBack(ctx, back, c.env.cfg.Image)
	}
	return removed, errors.Join(append(errs, err)...)
}

// putBack puts back what a run has changed outside of its namespace.
func (c *cleaner) putBack(ctx context.Context, namespace corev1.Namespace) error {
	// First of all: what is rolled out waits for a kube-proxy that is stopped.
	if err := cleanPauses(ctx, c.env.client, namespace.Name, c.did); err != nil {
		return err
	}
	run := namespace.Labels[runLabel]
	objects, err := parseOutsides(namespace.Annotations[changesAnnotation])
	if err != nil {
		return fmt.Errorf("put back what the run %s has changed: %w", run, err)
	}
	back, err := c.objectsBack(ctx, objects, run)
	if err != nil {
		return fmt.Errorf("put back what the run %s has changed: %w", run, err)
	}
	if !slices.ContainsFunc(objects, isConfigMap) {
		return nil
	}
	image, err := imageOf(ctx, c.env.client, namespace.Name)
	switch {
	case err != nil:
		return err
	case image == "" && len(back) == 0: // it had not come so far as to change anything
		return nil
	case image == "":
		image = c.env.cfg.Image
	}
	// Also where it is the run itself, or a Clean before this, that has put it back.
	if err := c.readBack(ctx, objects, image); err != nil {
		return fmt.Errorf("%w; kube-proxy writes them when it starts (kubectl delete pod, of the one on that node); the namespace stays for the next clean, or for: kubectl delete namespace %s", err, namespace.Name)
	}
	return nil
}

// objectsBack puts objects back and returns those of which there was anything to.
func (c *cleaner) objectsBack(ctx context.Context, objects []outside, run string) (back []outside, err error) {
	ctx, cancel := context.WithTimeout(ctx, putBackTimeout(0))
	defer cancel()
	err = putBackAll(ctx, c.env.client, objects, run, func(o outside) {
		c.did("put back " + o.String())
		back = append(back, o)
	})
	return back, err
}

// readBack reads nodes' settings where kube-proxy's ConfigMap is one of the objects.
func (c *cleaner) readBack(ctx context.Context, objects []outside, image string) error {
	section, changed, err := writtenSettings(ctx, c.env.client, objects)
	if err != nil || !changed {
		return err
	}
	if image == "" {
		return errors.New("whether the nodes have their settings again was not read: no image of tablefull is named")
	}
	read, err := c.read(ctx, image, section)
	for _, what := range read {
		c.did("read back: " + what)
	}
	return err
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

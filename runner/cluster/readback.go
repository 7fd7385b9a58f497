package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tablefull/tablefull/runner/env"
)

// readTimeout is how long after a rollout a node may have other settings than
// its kube-proxy shall have written: it writes them first of all.
const readTimeout = 20 * time.Second

// sampled is a node whose settings a sampler reads; its name is the node's.
type sampled interface {
	Name() string
	Facts(ctx context.Context) (env.Capabilities, error)
}

// readBack waits until each node has the settings, as its sampler reads them, and
// tells note of each. The error names every node that has others, and which.
func readBack[N sampled](ctx context.Context, nodes []N, want conntrackSection, note func(N, env.Capabilities)) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	why := map[string]string{} // of the nodes that are left
	left := slices.Clone(nodes)
	for {
		var not []N
		for _, h := range left {
			n, err := h.Facts(ctx)
			node := h.Name()
			switch {
			case err == nil && want.differs(n) == "":
				delete(why, node)
				note(h, n)
				continue
			case err == nil:
				why[node] = want.differs(n)
			case ctx.Err() == nil || why[node] == "": // what was read before says more than that time is up
				why[node] = err.Error()
			}
			not = append(not, h)
		}
		if left = not; len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			var errs []error
			for _, node := range slices.Sorted(maps.Keys(why)) {
				errs = append(errs, fmt.Errorf("read settings of node %s back: %s", node, why[node]))
			}
			return errors.Join(errs...)
		case <-time.After(poll):
		}
	}
}

// writtenSettings is what kube-proxy makes of the ConfigMap among these objects;
// changed says that there is one.
func writtenSettings(ctx context.Context, c kubernetes.Interface, objects []outside) (section conntrackSection, changed bool, err error) {
	i := slices.IndexFunc(objects, isConfigMap)
	if i < 0 {
		return section, false, nil
	}
	o := objects[i]
	var object, set metav1.Object
	err = insist(ctx, "read "+o.String()+" back", func() (err error) {
		if object, err = o.get(ctx, c); err == nil {
			set, err = outside{daemonset, o.namespace, o.name}.get(ctx, c) // whose name it has: see proxyObjects
		}
		return err
	})
	if err != nil {
		return section, true, err
	}
	p, err := readProxySet(set.(*appsv1.DaemonSet))
	if err != nil {
		return section, true, err
	}
	conf, err := valueOf(object, p.key)
	if err != nil {
		return section, true, fmt.Errorf("read %s back: %w", o, err)
	}
	section, err = readSection(conf)
	return section, true, err
}

func isConfigMap(o outside) bool { return o.kind == configMap }

// settingsAreBack reads with samplers of their own, for those of a run that was
// killed have ended, whether each node has the settings that kube-proxy's
// ConfigMap makes; it returns what it has read of each.
func (e *Env) settingsAreBack(ctx context.Context, image string, section conntrackSection) (read []string, err error) {
	with := *e
	with.cfg.Image = image
	list, err := e.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var nodes []string
	var errs []error
	for _, n := range list.Items {
		switch why := unreadable(viewNode(n)); {
		case why == "":
			nodes = append(nodes, n.Name)
		case n.Status.NodeInfo.OperatingSystem == "linux":
			errs = append(errs, fmt.Errorf("read settings of node %s back: %s", n.Name, why))
		}
	}
	if len(nodes) == 0 {
		return nil, errors.Join(errs...)
	}
	l, err := with.Look(ctx, "clean", nodes, false)
	if err != nil {
		return nil, errors.Join(append(errs, fmt.Errorf("read settings of nodes back: %w", err))...)
	}
	if err := l.Complete(); err != nil {
		errs = append(errs, fmt.Errorf("read settings of nodes back: %w", err))
	}
	err = readBack(ctx, l.agents, section, func(h *remote, n env.Capabilities) {
		read = append(read, "node "+h.Name()+" has "+section.told(n))
	})
	return read, errors.Join(append(errs, err, l.Close(ctx))...)
}

// told is what was read of a node.
func (c conntrackSection) told(n env.Capabilities) string {
	now, written := reads(n), c.settingsOf(n)
	var out []string
	for _, name := range settingNames {
		text := fmt.Sprintf("nf_conntrack_%s %d", name, now[name])
		if written[name] == nil {
			text += " (which kube-proxy leaves alone)"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ") + ", as kube-proxy's ConfigMap makes it"
}

// imageOf is the image of a run's samplers; empty where there are none any more.
func imageOf(ctx context.Context, c kubernetes.Interface, namespace string) (string, error) {
	image := ""
	err := insist(ctx, "look up the image of the samplers in "+namespace, func() error {
		ds, err := c.AppsV1().DaemonSets(namespace).Get(ctx, samplerName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			image = ds.Spec.Template.Spec.Containers[0].Image
		}
		return err
	})
	return image, err
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// outsides are the objects that an action changes outside of the run's own
// namespace, in the order in which they are put back. The ConfigMap has the name
// of the DaemonSet, as kubeadm's has: what is changed is known before any cluster
// is asked.
func outsides(a scenarios.Action, proxy types.NamespacedName, nodes []string) []outside {
	if a.ConntrackSettings != nil {
		return proxyObjects(proxy)
	}
	if a.UpgradeProxy != nil {
		return []outside{{daemonset, proxy.Namespace, proxy.Name}}
	}
	var out []outside
	if a.DrainNode != nil {
		for _, n := range nodes {
			out = append(out, outside{node, "", n})
		}
	}
	return out
}

// proxyObjects are all of kube-proxy's that may be changed.
func proxyObjects(proxy types.NamespacedName) []outside {
	return []outside{{configMap, proxy.Namespace, proxy.Name}, {daemonset, proxy.Namespace, proxy.Name}}
}

// changes are those of all actions.
func changes(actions []scenarios.Action, proxy types.NamespacedName, nodes []string) []outside {
	var out []outside
	for _, a := range actions {
		for _, o := range outsides(a, proxy, nodes) {
			if !slices.Contains(out, o) {
				out = append(out, o)
			}
		}
	}
	return out
}

// proxySet is kube-proxy's DaemonSet, as far as it is looked at here.
type proxySet struct {
	container string // that it runs in
	key       string // of its configuration in the ConfigMap of its name; empty where it has none there
	whyNot    string // for people, where it has none
}

// readProxySet finds out how a DaemonSet runs kube-proxy.
func readProxySet(ds *appsv1.DaemonSet) (proxySet, error) {
	if ds.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		return proxySet{}, fmt.Errorf("DaemonSet %s/%s has the update strategy OnDelete: nothing that is changed in it is rolled out", ds.Namespace, ds.Name)
	}
	pod := ds.Spec.Template.Spec
	i := slices.IndexFunc(pod.Containers, func(c corev1.Container) bool { return len(pod.Containers) == 1 || c.Name == "kube-proxy" })
	if i < 0 {
		return proxySet{}, fmt.Errorf("DaemonSet %s/%s has no container kube-proxy", ds.Namespace, ds.Name)
	}
	c := pod.Containers[i]
	p := proxySet{container: c.Name}
	p.key, p.whyNot = configKey(ds.Name, pod, c)
	return p, nil
}

// configKey is the key in the ConfigMap of this name that a kube-proxy reads its
// configuration from, or why there is none.
func configKey(name string, pod corev1.PodSpec, c corev1.Container) (key, whyNot string) {
	file := flagValue(slices.Concat(c.Command, c.Args), "--config")
	if file == "" {
		return "", "it runs without --config"
	}
	for _, m := range c.VolumeMounts {
		if path.Dir(file) != path.Clean(m.MountPath) || m.SubPath != "" {
			continue
		}
		for _, v := range pod.Volumes {
			switch {
			case v.Name != m.Name:
			case v.ConfigMap == nil:
				return "", "its configuration " + file + " is in no ConfigMap"
			case v.ConfigMap.Name != name:
				return "", "its configuration is in the ConfigMap " + v.ConfigMap.Name + ", and only one of the DaemonSet's own name is changed"
			default:
				return keyOf(v.ConfigMap.Items, path.Base(file)), ""
			}
		}
	}
	return "", "its configuration " + file + " is in no ConfigMap"
}

// keyOf is the key that is mounted as a file.
func keyOf(items []corev1.KeyToPath, file string) string {
	for _, i := range items {
		if i.Path == file {
			return i.Key
		}
	}
	return file
}

// flagValue finds --name=value or --name value.
func flagValue(args []string, name string) string {
	for i, a := range args {
		if v, ok := strings.CutPrefix(a, name+"="); ok {
			return v
		}
		if a == name && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// proxyDaemonSet asks for the DaemonSet that is named as kube-proxy.
func (e *Env) proxyDaemonSet(ctx context.Context) (*appsv1.DaemonSet, error) {
	p := e.cfg.KubeProxy
	if p == (types.NamespacedName{}) {
		return nil, errors.New("no kube-proxy is named that may be touched (--kube-proxy)")
	}
	var ds *appsv1.DaemonSet
	err := insist(ctx, "look up kube-proxy's DaemonSet", func() (err error) {
		ds, err = e.client.AppsV1().DaemonSets(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no DaemonSet %s: where kube-proxy runs in another way, or another program has its part, it cannot be changed from here", p)
	}
	return ds, err
}

// proxySet is that DaemonSet, and how it runs kube-proxy.
func (e *Env) proxySet(ctx context.Context) (*appsv1.DaemonSet, proxySet, error) {
	ds, err := e.proxyDaemonSet(ctx)
	if err != nil {
		return nil, proxySet{}, err
	}
	p, err := readProxySet(ds)
	return ds, p, err
}

// configure writes kube-proxy's ConfigMap, rolls it out, and returns when each
// node has the new settings.
func (l *Lab) configure(ctx context.Context, a scenarios.Action) error {
	ds, p, err := l.env.proxySet(ctx)
	if err != nil {
		return err
	}
	if p.key == "" {
		return fmt.Errorf("kube-proxy of DaemonSet %s cannot be configured: %s", l.env.cfg.KubeProxy, p.whyNot)
	}
	targets := outsides(a, l.env.cfg.KubeProxy, nil)
	object, err := targets[0].get(ctx, l.env.client)
	if err != nil {
		return fmt.Errorf("look up %s: %w", targets[0], err)
	}
	before, err := valueOf(object, p.key)
	if err != nil {
		return fmt.Errorf("look up %s: %w", targets[0], err)
	}
	after, err := editSection(before, sectionValues(a.ConntrackSettings))
	if err != nil {
		return err
	}
	was, err := readSection(before)
	if err != nil {
		return err
	}
	want, err := readSection(after)
	if err != nil {
		return err
	}
	if before == after {
		return fmt.Errorf("%s has these settings already", targets[0])
	}
	if err := l.undoable(ctx, was, want); err != nil {
		return err
	}
	l.holds(targets...)
	if err := targets[0].change(ctx, l.env.client, change{run: l.settings.run, key: p.key, value: after}); err != nil {
		return err
	}
	if err := l.rollOut(ctx, p.container, image(ds, p.container)); err != nil {
		return err
	}
	return readBack(ctx, l.nodes, want, func(h *remote, n env.Capabilities) { l.noteSettings(h.Name(), n, was, want) })
}

// upgrade rolls out kube-proxy's image of another version: its own with another
// tag.
func (l *Lab) upgrade(ctx context.Context, version string) error {
	ds, p, err := l.env.proxySet(ctx)
	if err != nil {
		return err
	}
	now := image(ds, p.container)
	want := withTag(now, version)
	if now == want {
		return fmt.Errorf("DaemonSet %s has the image %s already", l.env.cfg.KubeProxy, now)
	}
	l.holds(outsides(scenarios.Action{UpgradeProxy: &scenarios.Proxy{}}, l.env.cfg.KubeProxy, nil)...)
	return l.rollOut(ctx, p.container, want)
}

// withTag is an image with another tag, and without a digest.
func withTag(image, tag string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		image = image[:i]
	}
	return image + ":" + tag
}

// inTurn does one thing to kube-proxy after the other: those that are to be done
// at once wait.
func (l *Lab) inTurn(ctx context.Context, do func() error) error {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-l.turn }()
	return do()
}

// image is that of a container.
func image(ds *appsv1.DaemonSet, container string) string {
	v, _ := valueOf(ds, container) // which readProxySet has seen
	return v
}

// holds notes what Close has to put back: before it is changed, so that
// nothing that may have been is forgotten.
func (l *Lab) holds(objects ...outside) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range objects {
		if !slices.Contains(l.held, o) {
			l.held = append(l.held, o)
		}
	}
}

// rollOut replaces kube-proxy's pods on all nodes by such with this image, as
// its DaemonSet's strategy says, and waits for them.
func (l *Lab) rollOut(ctx context.Context, container, image string) error {
	p := l.env.cfg.KubeProxy
	o := outside{daemonset, p.Namespace, p.Name}
	err := o.change(ctx, l.env.client, change{run: l.settings.run, key: container, value: image, roll: time.Now().UTC().Format(time.RFC3339Nano)})
	if err != nil {
		return err
	}
	return rolledOut(ctx, l.env.client, o)
}

// rolledOut waits until all pods of a DaemonSet are those that it describes now,
// and ready.
func rolledOut(ctx context.Context, c kubernetes.Interface, o outside) error {
	why := ""
	for {
		object, err := o.get(ctx, c)
		switch {
		case err == nil:
			if why = notRolledOut(object.(*appsv1.DaemonSet)); why == "" {
				return nil
			}
		case apierrors.IsNotFound(err) || apierrors.IsForbidden(err):
			return fmt.Errorf("wait for %s: %w", o, err)
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for %s: %s: %w; see: kubectl -n %s get pods -o wide", o, why, ctx.Err(), o.namespace), err)
		case <-time.After(poll):
		}
	}
}

// notRolledOut is what is still to come; empty where nothing is.
func notRolledOut(ds *appsv1.DaemonSet) string {
	s := ds.Status
	switch {
	case s.ObservedGeneration < ds.Generation:
		return "its controller has not seen the change yet"
	case s.UpdatedNumberScheduled < s.DesiredNumberScheduled:
		return fmt.Sprintf("%d of %d pods are new", s.UpdatedNumberScheduled, s.DesiredNumberScheduled)
	case s.NumberReady < s.DesiredNumberScheduled || s.NumberAvailable < s.DesiredNumberScheduled:
		return fmt.Sprintf("%d of %d pods are ready", min(s.NumberReady, s.NumberAvailable), s.DesiredNumberScheduled)
	}
	return ""
}

// settingsOf are a section's settings of a node, with the values each may have;
// those that kube-proxy leaves alone are not there.
func (c conntrackSection) settingsOf(n env.Capabilities) map[string][]uint64 {
	out := map[string][]uint64{}
	if limits := c.limits(n.CPUs); len(limits) > 0 {
		out["max"] = limits
	}
	if c.established > 0 {
		out[establishedTimeout] = []uint64{uint64(c.established / time.Second)}
	}
	if c.closeWait > 0 {
		out[closeWaitTimeout] = []uint64{uint64(c.closeWait / time.Second)}
	}
	return out
}

// settingNames are the names of these, less the nf_conntrack_ prefix.
var settingNames = []string{"max", establishedTimeout, closeWaitTimeout}

// reads are a node's own values of the same.
func reads(n env.Capabilities) map[string]uint64 {
	return map[string]uint64{
		"max": n.Limit, establishedTimeout: uint64(n.Timeouts[establishedTimeout]), closeWaitTimeout: uint64(n.Timeouts[closeWaitTimeout]),
	}
}

// differs says which settings of a node are not what the section makes them;
// empty where all are.
func (c conntrackSection) differs(n env.Capabilities) string {
	now := reads(n)
	want := c.settingsOf(n)
	var out []string
	for _, name := range settingNames {
		if w, ok := want[name]; ok && !slices.Contains(w, now[name]) {
			out = append(out, fmt.Sprintf("nf_conntrack_%s is %d, and kube-proxy's configuration makes it %d", name, now[name], w[0]))
		}
	}
	return strings.Join(out, "; ")
}

// undoable returns an error where a node could not be made what it was by
// putting kube-proxy's configuration back: where a value is not from there, which
// a kube-proxy that is restarted would make so, where that configuration leaves a
// setting alone that the new one does not, or where kube-proxy would make the hash
// table larger, which it never makes smaller.
func (l *Lab) undoable(ctx context.Context, was, want conntrackSection) error {
	for _, h := range l.nodes {
		n, err := h.Facts(ctx)
		if err != nil {
			return fmt.Errorf("read settings of node %s: %w", h.Name(), err)
		}
		if err := undoableOn(n, was, want); err != nil {
			return fmt.Errorf("node %s: %w: nothing was changed", h.Name(), err)
		}
	}
	return nil
}

func undoableOn(n env.Capabilities, was, want conntrackSection) error {
	before, after := was.settingsOf(n), want.settingsOf(n)
	for _, name := range settingNames {
		old, written := before[name]
		values, ok := after[name]
		switch {
		case written && !slices.Contains(old, reads(n)[name]):
			return fmt.Errorf("nf_conntrack_%s is %d and not what kube-proxy's configuration makes it, %d, so that it could not be put back", name, reads(n)[name], old[0])
		case !ok || slices.Equal(old, values):
		case !written:
			return fmt.Errorf("kube-proxy's configuration leaves nf_conntrack_%s alone as it is, and would not put it back", name)
		case name == "max" && slices.Max(values)/4 > n.Buckets:
			return fmt.Errorf("for a limit of %d kube-proxy would make the hash table of %d buckets larger, which nothing makes smaller again", slices.Max(values), n.Buckets)
		}
	}
	return nil
}

// noteSettings records what a node was found to have of the settings that were
// changed.
func (l *Lab) noteSettings(node string, n env.Capabilities, was, now conntrackSection) {
	before, fields := was.settingsOf(n), map[string]string{"node": node}
	for name, values := range now.settingsOf(n) {
		if !slices.Equal(before[name], values) {
			fields["net.netfilter.nf_conntrack_"+name] = strconv.FormatUint(reads(n)[name], 10)
		}
	}
	l.out.Record(runlog.Record{Event: &runlog.Event{Kind: "sysctl", Name: "set", Detail: "by kube-proxy, as its ConfigMap says now", Fields: fields}})
}

// putBackTimeout is for a rollout of kube-proxy at the end of a run, which goes
// from node to node.
func putBackTimeout(nodes int) time.Duration {
	return 2*time.Minute + time.Duration(nodes)*15*time.Second
}

// PutBack lets a kube-proxy go on that the run has stopped, puts back what it has
// changed outside its own namespace, waits
// until that has been rolled out, and reads the nodes' settings back, for which
// their agents must not have ended. It is done once: Close does it where nobody has,
// and then reads nothing.
func (l *Lab) PutBack(ctx context.Context) error {
	return errors.Join(l.resumeAll(ctx), l.putBack(ctx, true))
}

func (l *Lab) putBack(ctx context.Context, verify bool) error {
	l.mu.Lock()
	held := l.held
	l.held = nil
	l.mu.Unlock()
	if len(held) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), putBackTimeout(len(l.nodes)))
	defer cancel()
	if err := putBackAll(ctx, l.env.client, held, l.settings.run, func(outside) {}); err != nil || !verify {
		return err
	}
	section, changed, err := writtenSettings(ctx, l.env.client, held)
	if err != nil || !changed {
		return err
	}
	return readBack(ctx, l.nodes, section, func(*remote, env.Capabilities) {})
}

// putBackAll puts objects back in their order, past errors, and waits until that
// has been rolled out. It tells did of each that was changed.
func putBackAll(ctx context.Context, c kubernetes.Interface, objects []outside, run string, did func(outside)) error {
	var errs []error
	for _, o := range objects {
		was, err := o.putBack(ctx, c, run)
		if err == nil && was {
			did(o)
			switch o.kind {
			case daemonset:
				err = rolledOut(ctx, c, o)
			case node:
				err = uncordoned(ctx, c, o)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

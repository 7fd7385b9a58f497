package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// What a run changes outside its own namespace it journals on the changed object
// itself, in the same write as the change: an annotation says who has changed
// what and what was there. So there is no moment in which one is there without
// the other, whatever happens to the controller, its machine or the run's
// namespace; and a second run sees that the first one's change is there.
const (
	undoAnnotation = "tablefull/undo"
	// rolledAnnotation is on the template of a DaemonSet whose pods were replaced
	// for a run. Taking it away replaces them again, which puts them back.
	rolledAnnotation = "tablefull/rolled-out"
	// changesAnnotation is on a run's namespace: the objects that its actions may
	// change, for Clean to look at.
	changesAnnotation = "tablefull/changes"
)

// An undo is what undoAnnotation says: the value that a run has changed.
type undo struct {
	Run  string `json:"run"`
	Key  string `json:"key"`  // of a ConfigMap's data; the container whose image it is; or unschedulable
	Old  string `json:"old"`  // what was there
	Ours string `json:"ours"` // what the run has written last
}

// An outside is an object outside of a run's own namespace that the run changes.
type outside struct{ kind, namespace, name string }

const (
	configMap = "ConfigMap"
	daemonset = "DaemonSet"
	node      = "Node"
)

// String is like: DaemonSet kube-system/kube-proxy.
func (o outside) String() string {
	return o.kind + " " + strings.TrimPrefix(o.namespace+"/"+o.name, "/")
}

// parseOutside reads what String has written.
func parseOutside(text string) (outside, error) {
	kind, name, _ := strings.Cut(text, " ")
	namespace, base, in := strings.Cut(name, "/")
	if !in {
		namespace, base = "", name
	}
	if base == "" || in == (kind == node) || kind != configMap && kind != daemonset && kind != node {
		return outside{}, fmt.Errorf("%q is no object that a run changes", text)
	}
	return outside{kind, namespace, base}, nil
}

// formatOutsides is all of them, a comma between two.
func formatOutsides(objects []outside) string {
	names := make([]string, len(objects))
	for i, o := range objects {
		names[i] = o.String()
	}
	return strings.Join(names, ",")
}

// parseOutsides reads what formatOutsides has written.
func parseOutsides(text string) ([]outside, error) {
	var out []outside
	for name := range strings.SplitSeq(text, ",") {
		if name == "" {
			continue
		}
		o, err := parseOutside(name)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// get asks for the object.
func (o outside) get(ctx context.Context, c kubernetes.Interface) (metav1.Object, error) {
	switch o.kind {
	case configMap:
		return c.CoreV1().ConfigMaps(o.namespace).Get(ctx, o.name, metav1.GetOptions{})
	case daemonset:
		return c.AppsV1().DaemonSets(o.namespace).Get(ctx, o.name, metav1.GetOptions{})
	}
	return c.CoreV1().Nodes().Get(ctx, o.name, metav1.GetOptions{})
}

func (o outside) patch(ctx context.Context, c kubernetes.Interface, b []byte) (err error) {
	opts := metav1.PatchOptions{FieldManager: fieldManager}
	switch o.kind {
	case configMap:
		_, err = c.CoreV1().ConfigMaps(o.namespace).Patch(ctx, o.name, types.StrategicMergePatchType, b, opts)
	case daemonset:
		_, err = c.AppsV1().DaemonSets(o.namespace).Patch(ctx, o.name, types.StrategicMergePatchType, b, opts)
	default:
		_, err = c.CoreV1().Nodes().Patch(ctx, o.name, types.StrategicMergePatchType, b, opts)
	}
	return err
}

// rights are for get and patch.
func (o outside) rights() []Right {
	switch o.kind {
	case configMap:
		return inside(o.namespace, only(o.name, may("", "configmaps", "get", "patch")))
	case daemonset:
		return inside(o.namespace, only(o.name, may("apps", "daemonsets", "get", "patch")))
	}
	return may("", "nodes", "get", "patch") // whose names nobody knows before
}

// valueOf is an object's value of a key.
func valueOf(object metav1.Object, key string) (string, error) {
	switch x := object.(type) {
	case *corev1.ConfigMap:
		if v, ok := x.Data[key]; ok {
			return v, nil
		}
		return "", fmt.Errorf("it has no key %s", key)
	case *appsv1.DaemonSet:
		for _, c := range x.Spec.Template.Spec.Containers {
			if c.Name == key {
				return c.Image, nil
			}
		}
		return "", fmt.Errorf("it has no container %s", key)
	case *corev1.Node:
		return fmt.Sprint(x.Spec.Unschedulable), nil
	}
	return "", fmt.Errorf("a %T is not changed", object)
}

// patchOf is the part of a patch that makes the value of a key another one.
func patchOf(kind, key, value string) map[string]any {
	switch kind {
	case configMap:
		return map[string]any{"data": map[string]any{key: value}}
	case daemonset:
		containers := []any{map[string]any{"name": key, "image": value}}
		return map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"containers": containers}}}}
	}
	if value == "false" { // is how it is written where it is not said
		return map[string]any{"spec": map[string]any{"unschedulable": nil}}
	}
	return map[string]any{"spec": map[string]any{"unschedulable": true}}
}

// templateAnnotation adds an annotation to the template of a DaemonSet's patch;
// nil takes it away.
func templateAnnotation(patch map[string]any, value any) {
	template := patch["spec"].(map[string]any)["template"].(map[string]any)
	template["metadata"] = map[string]any{"annotations": map[string]any{rolledAnnotation: value}}
}

// undoOf is what an object's annotation says; nil where nobody has changed it.
func undoOf(object metav1.Object) (*undo, error) {
	text, ok := object.GetAnnotations()[undoAnnotation]
	if !ok {
		return nil, nil
	}
	var u undo
	if err := json.Unmarshal([]byte(text), &u); err != nil {
		return nil, fmt.Errorf("read its annotation %s: %w", undoAnnotation, err)
	}
	return &u, nil
}

// writeTimeout is for one write. It does not end with the action that wants it:
// a write whose outcome nobody knows could come after its undoing.
const writeTimeout = time.Minute

// write makes a change that depends on what is there. Make returns it, or nil
// where there is nothing to do. It is made of just that state of the object, and
// the API server is asked again where another was first or it does not answer.
func (o outside) write(ctx context.Context, c kubernetes.Interface, make func(metav1.Object) (map[string]any, error)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	for {
		var object metav1.Object
		err := insist(ctx, "look up "+o.String(), func() (err error) {
			object, err = o.get(ctx, c)
			return err
		})
		if err != nil {
			return err
		}
		patch, err := make(object)
		if err != nil {
			return fmt.Errorf("change %s: %w", o, err)
		}
		if patch == nil {
			return nil
		}
		meta, _ := patch["metadata"].(map[string]any)
		meta = maps.Clone(meta)
		meta["resourceVersion"] = object.GetResourceVersion()
		patch["metadata"] = meta
		b, err := json.Marshal(patch)
		if err != nil {
			return fmt.Errorf("encode change of %s: %w", o, err)
		}
		err = insist(ctx, "change "+o.String(), func() error { return o.patch(ctx, c, b) })
		if !apierrors.IsConflict(err) { // which is also what a write that was made, but not answered, comes to
			return err
		}
	}
}

// A change is what a run does to an object outside.
type change struct {
	run, key, value string
	roll            string // of a DaemonSet: replace its pods, with this new value of rolledAnnotation
}

// change makes the value of a key another one and notes, in the same write, what
// was there before the run. What another run has changed is refused.
func (o outside) change(ctx context.Context, c kubernetes.Interface, want change) error {
	return o.write(ctx, c, func(object metav1.Object) (map[string]any, error) {
		now, err := valueOf(object, want.key)
		if err != nil {
			return nil, err
		}
		u, err := undoOf(object)
		switch {
		case err != nil:
			return nil, err
		case u == nil:
			u = &undo{Run: want.run, Key: want.key, Old: now}
		case u.Run != want.run:
			return nil, fmt.Errorf("the run %s has changed it and not put it back: wait for its end, or where it was killed: tablefull clean", u.Run)
		case u.Key != want.key:
			return nil, fmt.Errorf("this run has changed %s of it already", u.Key)
		case now == want.value && u.Ours == now && rolledOf(object) == want.roll:
			return nil, nil // a write that was not answered
		case now != u.Ours:
			return nil, fmt.Errorf("somebody else has changed it since this run did: %w", errTheirs)
		}
		u.Ours = want.value
		text, err := json.Marshal(u)
		if err != nil {
			return nil, fmt.Errorf("encode undo: %w", err)
		}
		patch := patchOf(o.kind, want.key, want.value)
		patch["metadata"] = map[string]any{"annotations": map[string]any{undoAnnotation: string(text)}}
		if want.roll != "" {
			templateAnnotation(patch, want.roll)
		}
		return patch, nil
	})
}

// rolledOf is the rolledAnnotation of a DaemonSet's template.
func rolledOf(object metav1.Object) string {
	if ds, ok := object.(*appsv1.DaemonSet); ok {
		return ds.Spec.Template.Annotations[rolledAnnotation]
	}
	return ""
}

// errTheirs is what is not put back any more.
var errTheirs = errors.New("it was left alone")

// putBack makes the object what it was before a run changed it, and says whether
// there was anything to do. Where run is empty it is any run's change. A value
// that is neither that of the run nor the old one is somebody else's and stays;
// the error says so.
func (o outside) putBack(ctx context.Context, c kubernetes.Interface, run string) (did bool, err error) {
	var theirs error
	err = o.write(ctx, c, func(object metav1.Object) (map[string]any, error) {
		u, err := undoOf(object)
		if err != nil || u == nil || run != "" && u.Run != run {
			return nil, err
		}
		did = true
		now, err := valueOf(object, u.Key)
		patch := map[string]any{}
		switch {
		case err == nil && (now == u.Ours || now == u.Old):
			patch = patchOf(o.kind, u.Key, u.Old)
		default:
			theirs = fmt.Errorf("put back %s: somebody else has changed %s of it since the run %s did: %w", o, u.Key, u.Run, errTheirs)
			if o.kind == daemonset {
				patch["spec"] = map[string]any{"template": map[string]any{}}
			}
		}
		if o.kind == daemonset {
			templateAnnotation(patch, nil)
		}
		patch["metadata"] = map[string]any{"annotations": map[string]any{undoAnnotation: nil}}
		return patch, nil
	})
	if err != nil {
		return did, fmt.Errorf("put back %s, of which its annotation %s says what was there: %w", o, undoAnnotation, err)
	}
	return did, theirs
}

package kubeapi

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"
)

// Object is an API object of a served kind.
type Object interface {
	runtime.Object
	metav1.Object
}

// version is one state of an object. It never changes once it is made, so it
// is read without a lock.
type version struct {
	object Object
	json   []byte // as a client gets it
}

// change is one step in the history of a resource.
type change struct {
	rv       uint64
	old, new *version // nil where the object was not, or is no more
	gone     []byte   // the last state with the version of its end, if new is nil
}

// resource is all the state of one kind. The server's mutex guards it.
type resource struct {
	schema.GroupVersionResource
	kind       string
	namespaced bool
	objects    map[types.NamespacedName]*version
	history    []change
	since      uint64 // the history has every change after this version
}

func (r *resource) gvk() schema.GroupVersionKind { return r.GroupVersion().WithKind(r.kind) }

// sorted returns the present objects that sel selects, in kube-apiserver's
// order: by namespace and name.
func (r *resource) sorted(sel selector) []*version {
	keys := make([]types.NamespacedName, 0, len(r.objects))
	for k, v := range r.objects {
		if sel.matches(v) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b types.NamespacedName) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	out := make([]*version, len(keys))
	for i, k := range keys {
		out[i] = r.objects[k]
	}
	return out
}

// after returns the changes after version rv, or false if some of them are
// forgotten already.
func (r *resource) after(rv uint64) ([]change, bool) {
	if rv < r.since {
		return nil, false
	}
	i, _ := slices.BinarySearchFunc(r.history, rv, func(c change, rv uint64) int {
		if c.rv <= rv {
			return -1
		}
		return 1
	})
	return slices.Clone(r.history[i:]), true
}

func (r *resource) remember(c change, limit int) {
	r.history = append(r.history, c)
	if over := len(r.history) - limit; over > 0 {
		r.since = r.history[over-1].rv
		r.history = slices.Delete(r.history, 0, over)
	}
}

// selector is what a request asks of the objects it wants.
type selector struct {
	namespace string
	labels    labels.Selector
	fields    fields.Selector
}

func (s selector) matches(v *version) bool {
	if v == nil {
		return false
	}
	o := v.object
	return (s.namespace == "" || o.GetNamespace() == s.namespace) &&
		s.labels.Matches(labels.Set(o.GetLabels())) &&
		s.fields.Matches(fieldsOf(o))
}

// fieldsOf are the fields of o that can be selected by: those of kube-apiserver.
func fieldsOf(o Object) fields.Set {
	set := fields.Set{"metadata.name": o.GetName(), "metadata.namespace": o.GetNamespace()}
	switch o := o.(type) {
	case *corev1.Service:
		set["spec.clusterIP"], set["spec.type"] = o.Spec.ClusterIP, string(o.Spec.Type)
	case *corev1.Node:
		set["spec.unschedulable"] = strconv.FormatBool(o.Spec.Unschedulable)
	}
	return set
}

// event is what a watcher that selects with s is told of c: an object that
// begins or ceases to be selected is added or deleted for it.
func (c *change) event(s selector) (watch.EventType, []byte, error) {
	was, is := s.matches(c.old), s.matches(c.new)
	switch {
	case is && was:
		return watch.Modified, c.new.json, nil
	case is:
		return watch.Added, c.new.json, nil
	case was && c.new == nil:
		return watch.Deleted, c.gone, nil
	case was:
		last, err := stamped(c.old.object, c.rv)
		return watch.Deleted, last, err
	}
	return "", nil, nil
}

// stamped encodes o as of version rv.
func stamped(o Object, rv uint64) ([]byte, error) {
	o = o.DeepCopyObject().(Object)
	o.SetResourceVersion(strconv.FormatUint(rv, 10))
	return encode(o)
}

// Set creates objects, or updates those that exist by the same kind, namespace
// and name. An object that is as it was makes no change. The objects are
// copied; their resource versions, UIDs and creation times are the server's.
// If one of the objects is refused, none is set.
func (s *Server) Set(objects ...Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(objects); err != nil {
		return err
	}
	defer s.wake()
	for _, o := range objects {
		if err := s.set(o); err != nil {
			return err
		}
	}
	return nil
}

// Delete deletes the objects of the same kind, namespace and name as objects.
// It is no mistake if there are none.
func (s *Server) Delete(objects ...Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(objects); err != nil {
		return err
	}
	defer s.wake()
	for _, o := range objects {
		r, _ := s.resourceOf(o)
		if err := s.remove(r, keyOf(o)); err != nil {
			return err
		}
	}
	return nil
}

// Replace makes objects all there is: what is not among them is deleted.
func (s *Server) Replace(objects ...Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.check(objects); err != nil {
		return err
	}
	defer s.wake()
	kept := map[*resource]map[types.NamespacedName]bool{}
	for _, r := range s.resources {
		kept[r] = map[types.NamespacedName]bool{}
	}
	for _, o := range objects {
		r, _ := s.resourceOf(o)
		kept[r][keyOf(o)] = true
		if err := s.set(o); err != nil {
			return err
		}
	}
	for _, r := range s.resources {
		for _, v := range r.sorted(everything) {
			if key := keyOf(v.object); !kept[r][key] {
				if err := s.remove(r, key); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

var everything = selector{labels: labels.Everything(), fields: fields.Everything()}

func keyOf(o Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func (s *Server) check(objects []Object) error {
	for _, o := range objects {
		r, err := s.resourceOf(o)
		if err != nil {
			return err
		}
		if o.GetName() == "" {
			return fmt.Errorf("set %s: it has no name", r.kind)
		}
		if r.namespaced != (o.GetNamespace() != "") {
			return fmt.Errorf("set %s %s: namespace %q; namespaced is %t", r.kind, o.GetName(), o.GetNamespace(), r.namespaced)
		}
	}
	return nil
}

func (s *Server) resourceOf(o Object) (*resource, error) {
	kinds, _, err := scheme.ObjectKinds(o)
	if err != nil {
		return nil, fmt.Errorf("find kind of %T: %w", o, err)
	}
	for _, r := range s.resources {
		if slices.Contains(kinds, r.gvk()) {
			return r, nil
		}
	}
	return nil, fmt.Errorf("set %s: this kind is not served", kinds[0].Kind)
}

func (s *Server) set(o Object) error {
	r, err := s.resourceOf(o)
	if err != nil {
		return err
	}
	o = o.DeepCopyObject().(Object)
	// Objects are kept without kind and version, as typed clients hold them.
	o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	old := r.objects[keyOf(o)]
	if old != nil {
		o.SetUID(old.object.GetUID())
		o.SetCreationTimestamp(old.object.GetCreationTimestamp())
		o.SetResourceVersion(old.object.GetResourceVersion())
		o.SetGeneration(old.object.GetGeneration())
		if apiequality.Semantic.DeepEqual(o, old.object) {
			return nil
		}
	} else {
		o.SetUID(uuid.NewUUID())
		o.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
	}
	rv := s.rv + 1
	o.SetResourceVersion(strconv.FormatUint(rv, 10))
	raw, err := encode(o)
	if err != nil {
		return err
	}
	s.rv = rv
	v := &version{object: o, json: raw}
	r.objects[keyOf(o)] = v
	r.remember(change{rv: rv, old: old, new: v}, s.options.History)
	return nil
}

func (s *Server) remove(r *resource, key types.NamespacedName) error {
	old := r.objects[key]
	if old == nil {
		return nil
	}
	raw, err := stamped(old.object, s.rv+1)
	if err != nil {
		return err
	}
	s.rv++
	delete(r.objects, key)
	r.remember(change{rv: s.rv, old: old, gone: raw}, s.options.History)
	return nil
}

// encode encodes an object the way kube-apiserver's JSON has it, with kind and
// version. It changes o's kind and version, so o must be the caller's own.
func encode(o runtime.Object) ([]byte, error) {
	kinds, _, err := scheme.ObjectKinds(o)
	if err != nil {
		return nil, fmt.Errorf("find kind of %T: %w", o, err)
	}
	o.GetObjectKind().SetGroupVersionKind(kinds[0])
	defer o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	var b bytes.Buffer
	if err := serializer.Encode(o, &b); err != nil {
		return nil, fmt.Errorf("encode %s: %w", kinds[0].Kind, err)
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// list encodes the selected objects as of now.
func (r *resource) list(sel selector, rv uint64) (runtime.Object, error) {
	list, err := scheme.New(r.GroupVersion().WithKind(r.kind + "List"))
	if err != nil {
		return nil, fmt.Errorf("make a list of %s: %w", r.kind, err)
	}
	present := r.sorted(sel)
	objects := make([]runtime.Object, len(present))
	for i, v := range present {
		objects[i] = v.object
	}
	if err := meta.SetList(list, objects); err != nil {
		return nil, fmt.Errorf("make a list of %s: %w", r.kind, err)
	}
	access, err := meta.ListAccessor(list)
	if err != nil {
		return nil, fmt.Errorf("make a list of %s: %w", r.kind, err)
	}
	access.SetResourceVersion(strconv.FormatUint(rv, 10))
	return list, nil
}

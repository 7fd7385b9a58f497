//go:build linux

package kubeapi_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	clientfeatures "k8s.io/client-go/features"
	featuretesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/tablefull/tablefull/runner/kubeapi"
)

// The suite: what clients see must be the same from the façade and from a real
// kube-apiserver.

// told is what an informer tells its handler, as lines.
type told struct {
	mu    sync.Mutex
	lines []string
}

func (l *told) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *told) has(t *testing.T, want ...string) {
	t.Helper()
	assert.EventuallyWithT(t, func(c *assert.CollectT) {
		l.mu.Lock()
		defer l.mu.Unlock()
		assert.Equal(c, want, l.lines)
	}, soon, tick)
}

// begins waits for want in any order (the order of the first list is not
// promised), and forgets it.
func (l *told) begins(t *testing.T, want ...string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		l.mu.Lock()
		defer l.mu.Unlock()
		assert.ElementsMatch(c, want, l.lines)
	}, soon, tick)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = nil
}

func describe(o any) string {
	if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = d.Obj
	}
	switch o := o.(type) {
	case *discoveryv1.EndpointSlice:
		return o.Name + " " + o.Endpoints[0].Addresses[0]
	case metav1.Object:
		return o.GetName()
	}
	return fmt.Sprintf("%T", o)
}

// inform runs an informer until the test ends and returns what it tells.
func inform(t *testing.T, inf cache.SharedIndexInformer) *told {
	t.Helper()
	l := &told{}
	_, err := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { l.add("add %s", describe(o)) },
		UpdateFunc: func(old, o any) {
			// A relist tells of objects that are as they were.
			if old.(metav1.Object).GetResourceVersion() != o.(metav1.Object).GetResourceVersion() {
				l.add("update %s", describe(o))
			}
		},
		DeleteFunc: func(o any) { l.add("delete %s", describe(o)) },
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		inf.RunWithContext(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	require.True(t, cache.WaitForCacheSync(ctx.Done(), inf.HasSynced))
	return l
}

func factory(b *backend, tweak func(*metav1.ListOptions)) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(b.client, 0,
		informers.WithNamespace(b.namespace), informers.WithTweakListOptions(tweak))
}

// bothWays runs f with clients that list and then watch, and with clients that
// ask for a watch-list.
func bothWays(t *testing.T, f func(t *testing.T, b *backend)) {
	for _, watchList := range []bool{false, true} {
		t.Run(fmt.Sprintf("watchlist=%t", watchList), func(t *testing.T) {
			featuretesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, watchList)
			backends(t, f)
		})
	}
}

func TestInformer(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend) {
		b.set(t, b.slice("a", "10.0.0.1", "x"), b.slice("b", "10.0.0.2", "x"))
		inf := factory(b, nil).Discovery().V1().EndpointSlices().Informer()
		l := inform(t, inf)
		l.begins(t, "add a 10.0.0.1", "add b 10.0.0.2")
		b.set(t, b.slice("c", "10.0.0.3", "x"))
		b.set(t, b.slice("a", "10.0.0.4", "x"))
		b.set(t, b.slice("b", "10.0.0.2", "x")) // as it was: no event
		b.delete(t, b.slice("b", "", "x"))
		l.has(t, "add c 10.0.0.3", "update a 10.0.0.4", "delete b 10.0.0.2")
		assert.ElementsMatch(t, []string{b.namespace + "/a", b.namespace + "/c"}, inf.GetStore().ListKeys())
	})
}

func TestInformerOfNothing(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend) {
		l := inform(t, factory(b, nil).Core().V1().Services().Informer())
		l.has(t)
		b.set(t, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: "first"},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
		})
		l.has(t, "add first")
	})
}

// A change of labels brings an object into a selection, or takes it out.
func TestLabelSelector(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend) {
		b.set(t, b.slice("a", "10.0.0.1", "x"), b.slice("b", "10.0.0.2", "y"))
		l := inform(t, factory(b, func(o *metav1.ListOptions) { o.LabelSelector = "suite=x,!other" }).Discovery().V1().EndpointSlices().Informer())
		l.has(t, "add a 10.0.0.1")
		b.set(t, b.slice("a", "10.0.0.5", "y"))
		b.set(t, b.slice("b", "10.0.0.6", "x"))
		b.set(t, b.slice("c", "10.0.0.7", "y"))
		b.set(t, b.slice("c", "10.0.0.7", "x"))
		// The deleted object is the last that was selected.
		l.has(t, "add a 10.0.0.1", "delete a 10.0.0.1", "add b 10.0.0.6", "add c 10.0.0.7")
	})
}

func TestFieldSelector(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend) {
		one, other := kubeapi.Node{Name: b.namespace + "-1"}.Object(), kubeapi.Node{Name: b.namespace + "-2"}.Object()
		b.set(t, one, other)
		t.Cleanup(func() { b.delete(t, one, other) })
		l := inform(t, factory(b, func(o *metav1.ListOptions) { o.FieldSelector = "metadata.name=" + one.Name }).Core().V1().Nodes().Informer())
		l.has(t, "add "+one.Name)
		other.Labels["changed"], one.Labels["changed"] = "yes", "yes"
		b.set(t, other, one)
		l.has(t, "add "+one.Name, "update "+one.Name)
	})
}

// kube-proxy 1.36 asks for services so.
func TestFieldSelectorOfServices(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend) {
		service := func(name, clusterIP string) *corev1.Service {
			return &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: name},
				Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: clusterIP, Ports: []corev1.ServicePort{{Port: 80}}},
			}
		}
		b.set(t, service("headless", corev1.ClusterIPNone), service("one", ""))
		l := inform(t, factory(b, func(o *metav1.ListOptions) { o.FieldSelector = "spec.clusterIP!=None,spec.type=ClusterIP" }).Core().V1().Services().Informer())
		b.set(t, service("two", ""))
		l.has(t, "add one", "add two")
	})
}

func TestServiceCIDRs(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend) {
		if b.server != nil { // a real one has its own
			b.set(t, kubeapi.ServiceCIDR())
		}
		inform(t, factory(b, nil).Networking().V1().ServiceCIDRs().Informer()).has(t, "add kubernetes")
	})
}

// raw is one watch with its events in order.
func raw(t *testing.T, b *backend, o metav1.ListOptions) watch.Interface {
	t.Helper()
	o.Watch = true
	w, err := b.client.DiscoveryV1().EndpointSlices(b.namespace).Watch(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(w.Stop)
	return w
}

func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		require.True(t, ok, "the watch ended")
		return e
	case <-time.After(soon):
		require.Fail(t, "no event")
		return watch.Event{}
	}
}

func rvOf(t *testing.T, o any) uint64 {
	t.Helper()
	m, ok := o.(interface{ GetResourceVersion() string })
	require.True(t, ok)
	rv, err := strconv.ParseUint(m.GetResourceVersion(), 10, 64)
	require.NoError(t, err)
	return rv
}

func slicesOf(t *testing.T, b *backend, o metav1.ListOptions) *discoveryv1.EndpointSliceList {
	t.Helper()
	list, err := b.client.DiscoveryV1().EndpointSlices(b.namespace).List(t.Context(), o)
	require.NoError(t, err)
	return list
}

// A client that comes back with the version it had gets what it missed.
func TestWatchFromOldVersion(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.set(t, b.slice("a", "10.0.0.1", "x"))
		list := slicesOf(t, b, metav1.ListOptions{})
		b.set(t, b.slice("b", "10.0.0.2", "x"))
		b.set(t, b.slice("a", "10.0.0.3", "x"))
		b.delete(t, b.slice("b", "", ""))
		w := raw(t, b, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		last := rvOf(t, list)
		for _, want := range []string{"ADDED b 10.0.0.2", "MODIFIED a 10.0.0.3", "DELETED b 10.0.0.2"} {
			e := next(t, w)
			assert.Equal(t, want, string(e.Type)+" "+describe(e.Object))
			rv := rvOf(t, e.Object)
			assert.Greater(t, rv, last, "an event's version is that of its change, a deletion's included")
			last = rv
		}
	})
}

func TestWatchWithoutVersion(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.set(t, b.slice("a", "10.0.0.1", "x"))
		for _, rv := range []string{"", "0"} {
			assert.Equal(t, "ADDED a 10.0.0.1", string(watch.Added)+" "+describe(next(t, raw(t, b, metav1.ListOptions{ResourceVersion: rv})).Object))
		}
		// Without initial events the first is the next change.
		no := false
		w := raw(t, b, metav1.ListOptions{SendInitialEvents: &no, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
		b.set(t, b.slice("b", "10.0.0.2", "x"))
		assert.Equal(t, "b 10.0.0.2", describe(next(t, w).Object))
	})
}

func TestWatchList(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.set(t, b.slice("b", "10.0.0.2", "x"), b.slice("a", "10.0.0.1", "x"))
		yes := true
		w := raw(t, b, metav1.ListOptions{
			SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
		})
		first := next(t, w)
		if s, ok := first.Object.(*metav1.Status); ok {
			// It asks etcd for its progress, which an etcd of 3.4 does not tell.
			require.Nil(t, b.server, s.Message)
			t.Skip(s.Message)
		}
		assert.Equal(t, "a 10.0.0.1", describe(first.Object))
		second := next(t, w)
		assert.Equal(t, "b 10.0.0.2", describe(second.Object))
		e := next(t, w)
		require.Equal(t, watch.Bookmark, e.Type)
		mark := e.Object.(*discoveryv1.EndpointSlice)
		assert.Equal(t, map[string]string{metav1.InitialEventsAnnotationKey: "true"}, mark.Annotations)
		assert.Empty(t, mark.Name)
		assert.GreaterOrEqual(t, rvOf(t, mark), rvOf(t, second.Object))
		b.set(t, b.slice("c", "10.0.0.3", "x"))
		e = next(t, w)
		assert.Equal(t, "c 10.0.0.3", describe(e.Object))
		assert.Greater(t, rvOf(t, e.Object), rvOf(t, mark))
	})
}

func TestWatchEndsInTime(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		seconds := int64(1)
		w := raw(t, b, metav1.ListOptions{ResourceVersion: slicesOf(t, b, metav1.ListOptions{}).ResourceVersion, TimeoutSeconds: &seconds})
		assert.Eventually(t, func() bool {
			select {
			case e, ok := <-w.ResultChan():
				return assert.False(t, ok, "%v", e)
			default:
				return false
			}
		}, soon, tick)
	})
}

// A version from before what the server remembers is an event with status 410.
func TestTooOldVersion(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.set(t, b.slice("a", "10.0.0.1", "x"))
		w := raw(t, b, metav1.ListOptions{ResourceVersion: "1"})
		e := next(t, w)
		if e.Type == watch.Added && b.server == nil {
			t.Skip("this kube-apiserver remembers everything since it began: restart it")
		}
		require.Equal(t, watch.Error, e.Type)
		err := apierrors.FromObject(e.Object)
		assert.True(t, apierrors.IsResourceExpired(err), "%v", err)
		assert.Equal(t, int32(410), e.Object.(*metav1.Status).Code)
		_, ok := <-w.ResultChan()
		assert.False(t, ok, "the watch ends with it")
	})
}

func TestManyWatchersSeeTheSame(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		const watchers, changes = 30, 100
		from := slicesOf(t, b, metav1.ListOptions{}).ResourceVersion
		seen := make([][]string, watchers)
		var wg sync.WaitGroup
		for i := range watchers {
			w := raw(t, b, metav1.ListOptions{ResourceVersion: from})
			wg.Go(func() {
				for e := range w.ResultChan() {
					seen[i] = append(seen[i], string(e.Type)+" "+describe(e.Object)+" "+e.Object.(metav1.Object).GetResourceVersion())
					if len(seen[i]) == changes {
						return
					}
				}
			})
		}
		for i := range changes {
			b.set(t, b.slice("s"+strconv.Itoa(i%7), "10.0.0."+strconv.Itoa(i+1), "x"))
		}
		wg.Wait()
		require.Len(t, seen[0], changes)
		for i := range watchers {
			assert.Equal(t, seen[0], seen[i])
		}
	})
}

func TestListVersions(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.set(t, b.slice("b", "10.0.0.1", "x"), b.slice("a", "10.0.0.1", "y"))
		list := slicesOf(t, b, metav1.ListOptions{})
		require.Len(t, list.Items, 2)
		assert.Equal(t, "a", list.Items[0].Name, "lists are in order of names")
		assert.NotEmpty(t, list.Items[0].UID)
		assert.False(t, list.Items[0].CreationTimestamp.IsZero())
		assert.Empty(t, list.Items[0].Kind, "the items of a typed list name no kind")
		assert.Len(t, slicesOf(t, b, metav1.ListOptions{ResourceVersion: "0"}).Items, 2)
		assert.Len(t, slicesOf(t, b, metav1.ListOptions{ResourceVersion: list.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}).Items, 2)
		assert.Len(t, slicesOf(t, b, metav1.ListOptions{ResourceVersion: list.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}).Items, 2)
		assert.Len(t, slicesOf(t, b, metav1.ListOptions{LabelSelector: "suite in (y,z)"}).Items, 1)
		assert.Len(t, slicesOf(t, b, metav1.ListOptions{FieldSelector: "metadata.name!=a,metadata.namespace=" + b.namespace}).Items, 1)
	})
}

func TestErrors(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		ctx, c := t.Context(), b.client.DiscoveryV1().EndpointSlices(b.namespace)
		_, err := c.Get(ctx, "none", metav1.GetOptions{})
		assert.True(t, apierrors.IsNotFound(err), "%v", err)
		assert.EqualError(t, err, `endpointslices.discovery.k8s.io "none" not found`)
		_, err = c.List(ctx, metav1.ListOptions{FieldSelector: "spec.color=red"})
		assert.True(t, apierrors.IsBadRequest(err), "%v", err)
		_, err = c.List(ctx, metav1.ListOptions{LabelSelector: "a b c"})
		assert.True(t, apierrors.IsBadRequest(err), "%v", err)
		// Without retries, which clients do as the answer's Retry-After says.
		err = b.client.DiscoveryV1().RESTClient().Get().Resource("endpointslices").
			Param("resourceVersion", "9223372036854775807").MaxRetries(0).Do(ctx).Error()
		assert.True(t, apierrors.IsTimeout(err), "%v", err)
		assert.True(t, apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge), "%v", err)
		yes := true
		_, err = c.Watch(ctx, metav1.ListOptions{SendInitialEvents: &yes})
		assert.True(t, apierrors.IsInvalid(err), "%v", err)
		_, err = b.client.DiscoveryV1().RESTClient().Get().AbsPath("/apis/discovery.k8s.io/v1/nothings").DoRaw(ctx)
		assert.True(t, apierrors.IsNotFound(err), "%v", err)
		_, err = b.client.DiscoveryV1().RESTClient().Get().AbsPath("/apis/nothing.k8s.io/v1/nothings").DoRaw(ctx)
		assert.True(t, apierrors.IsNotFound(err), "%v", err)
	})
}

func TestGet(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		b.set(t, b.slice("a", "10.0.0.1", "x"))
		got, err := b.client.DiscoveryV1().EndpointSlices(b.namespace).Get(t.Context(), "a", metav1.GetOptions{})
		require.NoError(t, err)
		assert.Equal(t, "a 10.0.0.1", describe(got))
		assert.Equal(t, "x", got.Labels["suite"])
	})
}

func TestDiscovery(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		v, err := b.client.Discovery().ServerVersion()
		require.NoError(t, err)
		assert.Regexp(t, `^v1\.\d+\.\d+`, v.GitVersion)
		assert.Equal(t, "1", v.Major)
		_, lists, err := b.client.Discovery().ServerGroupsAndResources()
		require.NoError(t, err)
		got := map[string]metav1.APIResource{}
		for _, l := range lists {
			for _, r := range l.APIResources {
				got[l.GroupVersion+" "+r.Name] = r
			}
		}
		for name, want := range map[string]string{
			"v1 services": "Service true service", "v1 nodes": "Node false node", "v1 events": "Event true event",
			"discovery.k8s.io/v1 endpointslices": "EndpointSlice true endpointslice",
			"networking.k8s.io/v1 servicecidrs":  "ServiceCIDR false servicecidr",
			"events.k8s.io/v1 events":            "Event true event",
		} {
			r := got[name]
			assert.Equal(t, want, fmt.Sprintf("%s %t %s", r.Kind, r.Namespaced, r.SingularName), name)
		}
		for _, path := range []string{"/healthz", "/livez", "/readyz"} {
			body, err := b.client.Discovery().RESTClient().Get().AbsPath(path).DoRaw(t.Context())
			require.NoError(t, err)
			assert.Equal(t, "ok", string(body))
		}
	})
}

func TestEventsAreAccepted(t *testing.T) {
	backends(t, func(t *testing.T, b *backend) {
		now := metav1.NowMicro()
		about := corev1.ObjectReference{Kind: "Node", Name: "n", Namespace: b.namespace}
		e, err := b.client.EventsV1().Events(b.namespace).Create(t.Context(), &eventsv1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: "one", Namespace: b.namespace}, EventTime: now, ReportingController: "kube-proxy",
			ReportingInstance: "kube-proxy-n", Action: "StartKubeProxy", Reason: "Starting", Regarding: about, Type: "Normal",
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		assert.NotEmpty(t, e.UID)
		old, err := b.client.CoreV1().Events(b.namespace).Create(t.Context(), &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: "two", Namespace: b.namespace}, InvolvedObject: about, Reason: "Old", Message: "the message", Type: "Warning",
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		assert.Equal(t, "two", old.Name)
		assert.Greater(t, rvOf(t, old), rvOf(t, e))
	})
}

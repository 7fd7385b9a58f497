//go:build linux

package kubeapi_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	clientfeatures "k8s.io/client-go/features"
	featuretesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/tablefull/tablefull/runner/kubeapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What only this server can be asked: its own settings and methods.

// A client that was away for longer than the server remembers lists again.
func TestRelistAfterForgottenHistory(t *testing.T) {
	for _, watchList := range []bool{false, true} {
		t.Run(fmt.Sprintf("watchlist=%t", watchList), func(t *testing.T) {
			featuretesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, watchList)
			b := facade(t, kubeapi.Options{History: 5})
			b.set(t, b.slice("a", "10.0.0.1", "x"), b.slice("b", "10.0.0.2", "x"))
			api := b.client.DiscoveryV1().EndpointSlices(b.namespace)
			var away atomic.Bool
			var lists atomic.Int32
			lw := &cache.ListWatch{
				ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
					lists.Add(1)
					return api.List(ctx, o)
				},
				WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
					if away.Load() {
						return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
					}
					second := int64(1) // so that it soon asks again
					o.TimeoutSeconds = &second
					if o.SendInitialEvents != nil {
						lists.Add(1)
					}
					return api.Watch(ctx, o)
				},
			}
			inf := cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(lw, b.client), &discoveryv1.EndpointSlice{}, 0, nil)
			l := inform(t, inf)
			l.begins(t, "add a 10.0.0.1", "add b 10.0.0.2")
			away.Store(true)
			time.Sleep(1100 * time.Millisecond) // the present watch ends
			b.delete(t, b.slice("b", "", ""))
			for i := range 20 {
				b.set(t, b.slice("a", fmt.Sprintf("10.0.1.%d", i), "x"))
			}
			away.Store(false)
			assert.Eventually(t, func() bool {
				keys := inf.GetStore().List()
				return len(keys) == 1 && describe(keys[0]) == "a 10.0.1.19"
			}, soon, tick)
			assert.Equal(t, int32(2), lists.Load(), "what it had was too old, so it listed again, once")
		})
	}
}

func TestBookmarks(t *testing.T) {
	b := facade(t, kubeapi.Options{BookmarkEvery: 5 * time.Millisecond})
	b.set(t, b.slice("a", "10.0.0.1", "x"))
	from := slicesOf(t, b, metav1.ListOptions{}).ResourceVersion
	w := raw(t, b, metav1.ListOptions{ResourceVersion: from, AllowWatchBookmarks: true, LabelSelector: "suite=none"})
	assert.Equal(t, from, next(t, w).Object.(metav1.Object).GetResourceVersion())
	b.set(t, b.slice("b", "10.0.0.1", "x")) // not selected, but time goes on
	assert.Eventually(t, func() bool { return rvOf(t, next(t, w).Object) == rvOf(t, slicesOf(t, b, metav1.ListOptions{})) }, soon, tick)
	quiet := raw(t, b, metav1.ListOptions{ResourceVersion: from})
	e := next(t, quiet)
	assert.Equal(t, watch.Added, e.Type, "who did not ask gets no bookmark")
}

func TestSetAndReplace(t *testing.T) {
	b := facade(t, kubeapi.Options{})
	a := b.slice("a", "10.0.0.1", "x")
	b.set(t, a)
	before := slicesOf(t, b, metav1.ListOptions{})
	b.set(t, a)
	assert.Equal(t, before, slicesOf(t, b, metav1.ListOptions{}), "what is the same makes no version")
	assert.Empty(t, a.ResourceVersion, "the caller's object stays as it was")

	a.Endpoints[0].Addresses[0] = "10.9.9.9"
	assert.Equal(t, "10.0.0.1", slicesOf(t, b, metav1.ListOptions{}).Items[0].Endpoints[0].Addresses[0], "the server's copy, too")

	w := raw(t, b, metav1.ListOptions{ResourceVersion: before.ResourceVersion})
	require.NoError(t, b.server.Replace(b.slice("b", "10.0.0.2", "x"), kubeapi.Node{Name: "n"}.Object()))
	assert.Equal(t, "b 10.0.0.2", describe(next(t, w).Object))
	e := next(t, w)
	assert.Equal(t, "DELETED a 10.0.0.1", string(e.Type)+" "+describe(e.Object))
	require.NoError(t, b.server.Replace())
	assert.Empty(t, slicesOf(t, b, metav1.ListOptions{}).Items)

	require.ErrorContains(t, b.server.Set(&corev1.Pod{}), "not served")
	require.ErrorContains(t, b.server.Set(&corev1.Node{}), "no name")
	require.ErrorContains(t, b.server.Set(b.slice("c", "10.0.0.3", "x"), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}}), "namespace")
	assert.Empty(t, slicesOf(t, b, metav1.ListOptions{}).Items, "all or none")
	b.delete(t, b.slice("never", "", ""))
}

func TestCallbacks(t *testing.T) {
	var events eventLog
	unknown := make(chan string, 10)
	b := facade(t, kubeapi.Options{OnEvent: events.add, OnUnknown: func(method, path string) { unknown <- method + " " + path }})
	ctx := t.Context()
	_, err := b.client.CoreV1().Events(b.namespace).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "old", Namespace: b.namespace}, Reason: "Old", Message: "the message", Type: "Warning",
		InvolvedObject: corev1.ObjectReference{Name: "n"}, Source: corev1.EventSource{Component: "c"}, Count: 2,
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = b.client.EventsV1().Events(b.namespace).Create(ctx, &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "new", Namespace: b.namespace}, Note: "note"}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Len(t, events.events, 2)
	old := events.events[0]
	assert.Equal(t, "Old the message Warning n c 2", fmt.Sprint(old.Reason, " ", old.Note, " ", old.Type, " ", old.Regarding.Name, " ", old.DeprecatedSource.Component, " ", old.DeprecatedCount))
	assert.Equal(t, "note", events.events[1].Note)

	_, err = b.client.CoreV1().Pods("x").List(ctx, metav1.ListOptions{})
	assert.True(t, apierrors.IsNotFound(err), "%v", err)
	assert.Equal(t, "GET /api/v1/namespaces/x/pods", <-unknown)
	err = b.client.CoreV1().Nodes().Delete(ctx, "n", metav1.DeleteOptions{})
	assert.True(t, apierrors.IsMethodNotSupported(err), "%v", err)
	_, err = b.client.CoreV1().RESTClient().Post().AbsPath("/api/v1/namespaces/x/events").Body([]byte("{")).DoRaw(ctx)
	assert.True(t, apierrors.IsBadRequest(err), "%v", err)
	_, err = b.client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes").SetHeader("Accept", "application/vnd.kubernetes.protobuf").DoRaw(ctx)
	assert.True(t, apierrors.IsNotAcceptable(err), "%v", err)
}

// Close ends a watch even if its client does not read.
func TestCloseWithBlockedWatcher(t *testing.T) {
	s := kubeapi.New(kubeapi.Options{})
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	n := kubeapi.Node{Name: "n"}.Object()
	n.Annotations = map[string]string{"big": strings.Repeat("x", 1<<20)}
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprint(conn, "GET /api/v1/nodes?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	one := make([]byte, 1)
	require.NoError(t, s.Set(n))
	_, err = conn.Read(one) // the watch is on; no byte more is read
	require.NoError(t, err)
	for i := range 20 {
		n.Labels["i"] = fmt.Sprint(i)
		require.NoError(t, s.Set(n))
	}
	s.Close()
	resp, err := http.Get(srv.URL + "/api/v1/nodes?watch=1")
	require.NoError(t, err)
	defer resp.Body.Close()
	assert.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
	http.DefaultClient.CloseIdleConnections()
}

func TestObjects(t *testing.T) {
	s := kubeapi.Service{
		Name: "web", ClusterIP: netip.MustParseAddr("10.96.0.10"),
		Ports: []kubeapi.Port{{Name: "http", Protocol: "tcp", Port: 80, Target: 8080}, {Name: "dns", Protocol: "UDP", Port: 53}},
	}
	o := s.Object()
	assert.Equal(t, corev1.ServiceTypeClusterIP, o.Spec.Type)
	assert.Equal(t, []string{"10.96.0.10"}, o.Spec.ClusterIPs)
	assert.Empty(t, o.Spec.ExternalTrafficPolicy)
	assert.Equal(t, corev1.ProtocolUDP, o.Spec.Ports[1].Protocol)
	assert.Equal(t, int32(53), o.Spec.Ports[1].TargetPort.IntVal)

	changed := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	sl, err := s.Slice([]kubeapi.Endpoint{
		{Pod: "web-0", Addr: netip.MustParseAddr("10.244.0.2"), Node: "node1", Ready: true, Serving: true},
		{Pod: "web-1", Addr: netip.MustParseAddr("10.244.0.3"), Ready: true, Serving: true, Terminating: true},
	}, changed)
	require.NoError(t, err)
	assert.Equal(t, "web", sl.Labels[discoveryv1.LabelServiceName])
	assert.Equal(t, "2026-01-02T03:04:05.000006Z", sl.Annotations[corev1.EndpointsLastChangeTriggerTime])
	assert.Equal(t, int32(8080), *sl.Ports[0].Port)
	assert.True(t, *sl.Endpoints[0].Conditions.Ready)
	assert.False(t, *sl.Endpoints[1].Conditions.Ready, "a terminating endpoint is not ready")
	assert.True(t, *sl.Endpoints[1].Conditions.Serving)
	assert.Equal(t, "node1", *sl.Endpoints[0].NodeName)
	assert.Nil(t, sl.Endpoints[1].NodeName)
	_, err = s.Slice(make([]kubeapi.Endpoint, 1001), time.Time{})
	require.Error(t, err)

	s.Ports[0].NodePort, s.Local = 30080, true
	assert.Equal(t, corev1.ServiceTypeNodePort, s.Object().Spec.Type)
	assert.Equal(t, corev1.ServiceExternalTrafficPolicyLocal, s.Object().Spec.ExternalTrafficPolicy)
	s.HealthCheckNodePort = 30081
	assert.Equal(t, corev1.ServiceTypeLoadBalancer, s.Object().Spec.Type)
	assert.Equal(t, corev1.ClusterIPNone, kubeapi.Service{Name: "h"}.Object().Spec.ClusterIP)
}

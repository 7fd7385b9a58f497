//go:build linux

package kubeapi_test

import (
	"context"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/kubeapi"
)

// backend is an API server under test, and the way to put objects into it.
// All namespaced objects are in namespace, which is this backend's own.
type backend struct {
	config    *rest.Config
	client    kubernetes.Interface
	namespace string
	set       func(t testing.TB, objects ...kubeapi.Object)
	delete    func(t testing.TB, objects ...kubeapi.Object)
	server    *kubeapi.Server // nil for a real kube-apiserver
}

// backends runs f against the façade, and against the kube-apiserver that the
// environment names: TABLEFULL_APISERVER=url, with TABLEFULL_APISERVER_TOKEN.
func backends(t *testing.T, f func(t *testing.T, b *backend)) {
	t.Run("facade", func(t *testing.T) { f(t, facade(t, kubeapi.Options{})) })
	t.Run("kube-apiserver", func(t *testing.T) { f(t, actual(t)) })
}

func facade(t testing.TB, o kubeapi.Options) *backend {
	s := kubeapi.New(o)
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		s.Close()
		srv.Close()
	})
	b := &backend{config: &rest.Config{Host: srv.URL, QPS: -1}, namespace: "suite", server: s}
	b.client = client(t, b.config)
	b.set = func(t testing.TB, objects ...kubeapi.Object) { require.NoError(t, s.Set(objects...)) }
	b.delete = func(t testing.TB, objects ...kubeapi.Object) { require.NoError(t, s.Delete(objects...)) }
	return b
}

func actual(t *testing.T) *backend {
	url := os.Getenv("TABLEFULL_APISERVER")
	if url == "" {
		envtest.Require(t, "kube-apiserver", "TABLEFULL_APISERVER names none")
	}
	b := &backend{config: &rest.Config{
		Host: url, QPS: -1, BearerToken: os.Getenv("TABLEFULL_APISERVER_TOKEN"),
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	}}
	b.client = client(t, b.config)
	ctx := t.Context()
	ns, err := b.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "suite-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	b.namespace = ns.Name
	b.set = func(t testing.TB, objects ...kubeapi.Object) {
		for _, o := range objects {
			require.NoError(t, put(ctx, b.client, o))
		}
	}
	b.delete = func(t testing.TB, objects ...kubeapi.Object) {
		for _, o := range objects {
			require.NoError(t, remove(context.WithoutCancel(ctx), b.client, o))
		}
	}
	t.Cleanup(func() {
		_ = b.client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{})
		// The transport is shared by all clients of this configuration.
		if tr, err := rest.TransportFor(b.config); err == nil {
			utilnet.CloseIdleConnectionsFor(tr)
		}
	})
	return b
}

func client(t testing.TB, c *rest.Config) kubernetes.Interface {
	cs, err := kubernetes.NewForConfig(c)
	require.NoError(t, err)
	return cs
}

// api is the part of a typed client that put and remove use.
type api[T any] interface {
	Create(ctx context.Context, o T, opts metav1.CreateOptions) (T, error)
	Update(ctx context.Context, o T, opts metav1.UpdateOptions) (T, error)
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
}

func put(ctx context.Context, c kubernetes.Interface, o kubeapi.Object) error {
	switch o := o.DeepCopyObject().(type) {
	case *corev1.Service:
		return upsert(ctx, c.CoreV1().Services(o.Namespace), o)
	case *discoveryv1.EndpointSlice:
		return upsert(ctx, c.DiscoveryV1().EndpointSlices(o.Namespace), o)
	case *corev1.Node:
		return upsert(ctx, c.CoreV1().Nodes(), o)
	}
	panic("the suite has no such object")
}

func upsert[T kubeapi.Object](ctx context.Context, c api[T], o T) error {
	_, err := c.Create(ctx, o, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	old, err := c.Get(ctx, o.GetName(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	o.SetResourceVersion(old.GetResourceVersion())
	_, err = c.Update(ctx, o, metav1.UpdateOptions{})
	return err
}

func remove(ctx context.Context, c kubernetes.Interface, o kubeapi.Object) error {
	var err error
	switch o := o.(type) {
	case *corev1.Service:
		err = c.CoreV1().Services(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{})
	case *discoveryv1.EndpointSlice:
		err = c.DiscoveryV1().EndpointSlices(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{})
	case *corev1.Node:
		err = c.CoreV1().Nodes().Delete(ctx, o.Name, metav1.DeleteOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// slice is an EndpointSlice with one endpoint and one label.
func (b *backend) slice(name, addr, label string) *discoveryv1.EndpointSlice {
	ready, port, portName, tcp := true, int32(8080), "", corev1.ProtocolTCP
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: b.namespace, Name: name, Labels: map[string]string{"suite": label}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Protocol: &tcp, Port: &port}},
	}
}

// eventLog collects posted Events.
type eventLog struct {
	mu     sync.Mutex
	events []*eventsv1.Event
}

func (l *eventLog) add(e *eventsv1.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

const (
	soon = 20 * time.Second // only how long a failing test waits
	tick = 5 * time.Millisecond
)

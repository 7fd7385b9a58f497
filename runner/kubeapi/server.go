package kubeapi

import (
	"context"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	runtimeserializer "k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

// Options of a Server. The zero value is usable.
type Options struct {
	// History is how many changes of each kind are remembered. A watch from
	// before them gets 410 Gone. 0 means 1000.
	History int
	// BookmarkEvery is the time between bookmarks on a quiet watch. 0 means
	// one minute, as in kube-apiserver.
	BookmarkEvery time.Duration
	// WatchFor is how long a watch lasts that does not say it. 0 means 30 minutes.
	WatchFor time.Duration
	// Version is what /version says, like v1.36.3. Empty means v1.36.3.
	Version string
	// OnEvent gets the Events that clients post, an Event of the core group in
	// the form of events.k8s.io. OnUnknown gets requests for what is not
	// served. Both are called by the goroutine of the request, several at a
	// time, and must not keep it waiting. Nil drops them.
	OnEvent   func(*eventsv1.Event)
	OnUnknown func(method, path string)
}

// Server holds the objects and answers for them. It has no listener: serve
// Handler with an http.Server. Its methods may be called concurrently.
type Server struct {
	options   Options
	resources []*resource
	handler   http.Handler

	ctx  context.Context // ends the watches
	stop context.CancelFunc

	mu       sync.Mutex
	watchers sync.WaitGroup // Add under mu, and only until closed
	closed   bool
	rv       uint64
	changed  chan struct{} // closed and replaced when rv moves
}

var (
	scheme     = newScheme()
	decoder    = runtimeserializer.NewCodecFactory(scheme).UniversalDeserializer()
	serializer = json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{})
)

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme, eventsv1.AddToScheme,
	} {
		utilruntime.Must(add(s))
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}

// New returns a server without objects. Its resource versions begin at the
// time of day in microseconds: a client that outlives a server does not take
// the versions of the next one for those it knows; it is told 410 Gone and
// lists again.
func New(o Options) *Server {
	if o.History == 0 {
		o.History = 1000
	}
	if o.BookmarkEvery == 0 {
		o.BookmarkEvery = time.Minute
	}
	if o.WatchFor == 0 {
		o.WatchFor = 30 * time.Minute
	}
	if o.Version == "" {
		o.Version = "v1.36.3"
	}
	s := &Server{options: o, rv: uint64(time.Now().UnixMicro()), changed: make(chan struct{})}
	s.ctx, s.stop = context.WithCancel(context.Background())
	for _, r := range []resource{
		{GroupVersionResource: corev1.SchemeGroupVersion.WithResource("services"), kind: "Service", namespaced: true},
		{GroupVersionResource: corev1.SchemeGroupVersion.WithResource("nodes"), kind: "Node"},
		{GroupVersionResource: discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), kind: "EndpointSlice", namespaced: true},
		{GroupVersionResource: networkingv1.SchemeGroupVersion.WithResource("servicecidrs"), kind: "ServiceCIDR"},
	} {
		r.objects = map[types.NamespacedName]*version{}
		r.since = s.rv
		s.resources = append(s.resources, &r)
	}
	s.handler = s.routes()
	return s
}

// Handler answers the API's requests. A watch lasts until its client leaves,
// its time is over or the server is closed.
func (s *Server) Handler() http.Handler { return s.handler }

// Close ends all watches as a server that goes down does, and waits for them.
// New ones are refused. The objects stay readable.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.watchers.Wait()
}

// wake tells the watchers that there are changes. It needs mu.
func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

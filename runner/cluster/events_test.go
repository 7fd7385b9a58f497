package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/scenarios"
)

// kept is what was recorded.
type kept struct{ envtest.Recorder }

func (k *kept) Join(context.Context, env.Host) (int64, error) { return 0, nil }

func anEvent(version, object, reason string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{ResourceVersion: version, Name: object + "." + version},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: object}, Type: "Warning", Reason: reason, Message: "it\n", Count: 3,
		Source: corev1.EventSource{Component: "kubelet", Host: "b"},
	}
}

// What comes is recorded, of objects whose names begin as they shall; a watch that
// breaks is made again from where it was, and one that the API server cannot go on
// with is a loss.
func TestFollowEvents(t *testing.T) {
	client := fake.NewClientset()
	watches := make(chan *apiwatch.FakeWatcher)
	client.PrependWatchReactor("events", func(k8stesting.Action) (bool, apiwatch.Interface, error) {
		w := apiwatch.NewFakeWithOptions(apiwatch.FakeOptions{ChannelSize: 10})
		watches <- w
		return true, w, nil
	})
	client.PrependReactor("list", "events", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, &corev1.EventList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}}, nil
	})
	ctx, stop := context.WithCancel(t.Context())
	out := &kept{}
	l := &Lab{env: &Env{client: client}, out: out, ctx: ctx}
	l.tasks.Go(func() { l.follow(ctx, eventsOf{"kube-system", "Pod", "kube-proxy-"}, "7") })
	w := <-watches
	w.Add(anEvent("8", "kube-proxy-1", "Killing"))
	w.Add(anEvent("9", "coredns", "Killing"))
	w.Modify(anEvent("10", "kube-proxy-1", "Unhealthy"))
	w.Delete(anEvent("11", "kube-proxy-1", "Unhealthy"))
	require.Eventually(t, func() bool { return len(out.Records()) == 2 }, 10*time.Second, time.Millisecond)
	assert.Equal(t, &runlog.Event{Kind: "event", Name: "kube-proxy-1", Detail: "Killing: it", Fields: map[string]string{
		"object": "pod", "type": "Warning", "reason": "Killing", "count": "3", "by": "kubelet", "node": "b",
	}}, out.Records()[0].Event)
	w.Error(&metav1.Status{Code: 410, Reason: metav1.StatusReasonGone})
	w = <-watches
	w.Add(anEvent("12", "kube-proxy-1", "Started"))
	require.Eventually(t, func() bool { return len(out.Records()) == 4 }, 10*time.Second, time.Millisecond)
	assert.Equal(t, "events", out.Records()[2].Loss.What)
	stop()
	l.tasks.Wait()
}

// Each state of a service's endpoints is recorded that was told, in order, and
// those of other services are not.
func TestEachStateOfEndpointsIsRecorded(t *testing.T) {
	out := &kept{}
	l := &Lab{out: out, settings: settings{services: []scenarios.Service{{Name: "web"}}}}
	h := l.sliceHandler()
	slice := func(name, service string, addrs ...string) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}}}
		for _, a := range addrs {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
		}
		return s
	}
	one := slice("web-1", "web", "10.0.0.1")
	h.OnAdd(one, true)
	h.OnAdd(slice("web-agents-1", "web-agents", "10.0.0.1"), true)
	h.OnUpdate(one, slice("web-1", "web", "10.0.0.1", "10.0.0.2"))
	h.OnAdd(slice("web-2", "web", "10.0.0.3"), false)
	h.OnUpdate(one, slice("web-1", "web", "10.0.0.1", "10.0.0.2")) // nothing new
	h.OnDelete(cache.DeletedFinalStateUnknown{Obj: slice("web-1", "web")})
	var states []string
	for _, r := range out.Records() {
		states = append(states, r.Endpoints.Service)
		for _, e := range r.Endpoints.Endpoints {
			states[len(states)-1] += " " + e.Addr.String()
		}
	}
	assert.Equal(t, []string{"web 10.0.0.1", "web 10.0.0.1 10.0.0.2", "web 10.0.0.1 10.0.0.2 10.0.0.3", "web 10.0.0.3"}, states)
}

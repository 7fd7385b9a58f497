package cluster

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/tablefull/tablefull/report/runlog"
)

// maxEvents is how many of Kubernetes' Events are recorded. Their sources send
// at most some of a kind in a row (client-go's EventCorrelator), so that it takes
// a day of trouble on many nodes.
const maxEvents = 5000

// eventRights are for followEvents: those about nodes are in the namespace
// default, those about pods in the pods', which for the run's nobody knows before.
func eventRights() []Right { return may("", "events", "list", "watch") }

// eventsOf is where Events are, and about which kind of object.
type eventsOf struct {
	namespace, kind string
	prefix          string // of the objects' names
}

// followEvents records what is said of nodes, of the run's pods, and of
// kube-proxy's where that is watched, until l.ctx ends. What was said before is
// not about the run. It returns when it knows from where on.
func (l *Lab) followEvents() error {
	places := []eventsOf{{metav1.NamespaceDefault, "Node", ""}, {l.settings.namespace, "Pod", ""}}
	if p := l.env.cfg.KubeProxy; l.watch.proxies != nil {
		places = append(places, eventsOf{p.Namespace, "Pod", p.Name + "-"})
	}
	for _, x := range places {
		from, err := l.lastEvent(l.ctx, x)
		if err != nil {
			return err
		}
		l.tasks.Go(func() { l.follow(l.ctx, x, from) })
	}
	return nil
}

func (x eventsOf) options() metav1.ListOptions {
	return metav1.ListOptions{FieldSelector: "involvedObject.kind=" + x.kind}
}

// lastEvent is the version after which Events are new.
func (l *Lab) lastEvent(ctx context.Context, x eventsOf) (version string, err error) {
	options := x.options()
	options.Limit = 1 // it is only about the version
	list, err := l.env.client.CoreV1().Events(x.namespace).List(ctx, options)
	if err != nil {
		return "", fmt.Errorf("list events of %s: %w", x.namespace, err)
	}
	return list.ResourceVersion, nil
}

// follow records Events after a version until ctx ends. Where the API server
// does not know that any more, as after it was away for minutes, it goes on from
// now, and what may be missing is a Loss.
func (l *Lab) follow(ctx context.Context, x eventsOf, version string) {
	watcher := &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
		o.FieldSelector = x.options().FieldSelector
		return l.env.client.CoreV1().Events(x.namespace).Watch(ctx, o)
	}}
	for ctx.Err() == nil {
		w, err := watchtools.NewRetryWatcherWithContext(ctx, version, watcher)
		if err == nil {
			for e := range w.ResultChan() {
				l.tellEvent(x, e)
			}
			w.Stop()
			<-w.Done()
		}
		if ctx.Err() != nil {
			return
		}
		l.out.Record(runlog.Record{Loss: &runlog.Loss{What: "events", Count: 1, Why: "the API server could not say which of Kubernetes' Events came meanwhile, of " + x.namespace}})
		for ctx.Err() == nil {
			if version, err = l.lastEvent(ctx, x); err == nil {
				break
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// tellEvent records one, up to maxEvents.
func (l *Lab) tellEvent(x eventsOf, w apiwatch.Event) {
	e, ok := w.Object.(*corev1.Event)
	if !ok || w.Type != apiwatch.Added && w.Type != apiwatch.Modified || !strings.HasPrefix(e.InvolvedObject.Name, x.prefix) {
		return
	}
	l.mu.Lock()
	l.events++
	n := l.events
	l.mu.Unlock()
	switch {
	case n <= maxEvents:
		l.out.Record(eventRecord(e))
	case n == maxEvents+1:
		l.out.Record(runlog.Record{Loss: &runlog.Loss{What: "events", Count: 1, Why: fmt.Sprintf("there were more than %d of Kubernetes' Events", maxEvents)}})
	}
}

// eventRecord is an Event in the words of the run log.
func eventRecord(e *corev1.Event) runlog.Record {
	count := e.Count
	if e.Series != nil {
		count = e.Series.Count
	}
	fields := map[string]string{
		"object": strings.ToLower(e.InvolvedObject.Kind), "type": e.Type, "reason": e.Reason, "count": strconv.Itoa(int(max(1, count))),
		"by": cmp.Or(e.ReportingController, e.Source.Component),
	}
	switch {
	case e.InvolvedObject.Kind == "Node":
		fields["node"] = e.InvolvedObject.Name
	case e.Source.Host != "": // a kubelet's
		fields["node"] = e.Source.Host
	}
	return runlog.Record{Event: &runlog.Event{Kind: "event", Name: e.InvolvedObject.Name, Detail: strings.TrimSpace(e.Reason + ": " + e.Message), Fields: fields}}
}

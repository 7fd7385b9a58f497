package kubeapi

import (
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// watcher is one watch being answered.
type watcher struct {
	s         *Server
	r         *resource
	sel       selector
	bookmarks bool
	pos       uint64 // what the client has seen

	w  http.ResponseWriter
	rc *http.ResponseController
}

// watch answers a watch request from its first event to its end.
func (s *Server) watch(w http.ResponseWriter, req *http.Request, r *resource, o internalversion.ListOptions, sel selector) error {
	rv, err := parseVersion(o.ResourceVersion)
	if err != nil {
		return err
	}
	asked := o.SendInitialEvents != nil && *o.SendInitialEvents
	initial := asked || o.SendInitialEvents == nil && rv == 0

	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return apierrors.NewServiceUnavailable("the server is shutting down")
	}
	if asked && rv > s.rv {
		now := s.rv
		s.mu.Unlock()
		return tooLarge(rv, now)
	}
	var present []*version
	if initial {
		present = r.sorted(sel)
	}
	if initial || rv == 0 {
		rv = s.rv
	}
	s.watchers.Add(1)
	s.mu.Unlock()
	defer s.watchers.Done()

	wa := &watcher{s: s, r: r, sel: sel, bookmarks: o.AllowWatchBookmarks, pos: rv, w: w, rc: http.NewResponseController(w)}
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(http.StatusOK)
	defer wa.unblock()()
	if err := wa.start(present, asked); err != nil {
		return nil //nolint:nilerr // the client is gone
	}
	last := s.options.WatchFor
	if o.TimeoutSeconds != nil && *o.TimeoutSeconds > 0 {
		last = time.Duration(*o.TimeoutSeconds) * time.Second
	}
	ctx, cancel := context.WithTimeout(req.Context(), last)
	defer cancel()
	wa.follow(ctx)
	return nil
}

// unblock makes the end of the server end a write to a client that does not
// read (a stopped process, for one). It returns what ends that watch.
func (wa *watcher) unblock() func() {
	done := make(chan struct{})
	stop := context.AfterFunc(wa.s.ctx, func() {
		defer close(done)
		_ = wa.rc.SetWriteDeadline(time.Unix(1, 0)) // a connection that is gone needs none
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

func (wa *watcher) start(present []*version, watchList bool) error {
	for _, v := range present {
		if err := wa.send(watch.Added, v.json); err != nil {
			return err
		}
	}
	if watchList && wa.bookmarks {
		if err := wa.bookmark(map[string]string{metav1.InitialEventsAnnotationKey: "true"}); err != nil {
			return err
		}
	}
	return wa.rc.Flush()
}

// follow sends changes until ctx or the server ends, or the client is gone.
func (wa *watcher) follow(ctx context.Context) {
	bookmark := time.NewTicker(wa.s.options.BookmarkEvery)
	defer bookmark.Stop()
	for {
		wa.s.mu.Lock()
		changes, known := wa.r.after(wa.pos)
		now, changed := wa.s.rv, wa.s.changed
		wa.s.mu.Unlock()
		if !known {
			wa.expired()
			return
		}
		if err := wa.pass(changes); err != nil {
			return
		}
		wa.pos = max(wa.pos, now)
		select {
		case <-changed:
		case <-bookmark.C:
			if wa.bookmarks && (wa.bookmark(nil) != nil || wa.rc.Flush() != nil) {
				return
			}
		case <-wa.s.ctx.Done():
			return
		case <-ctx.Done():
			// The client goes on from here next time: tell it where here is.
			if wa.bookmarks && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
				_ = wa.bookmark(nil) // no harm if the client left meanwhile
			}
			return
		}
	}
}

func (wa *watcher) pass(changes []change) error {
	for i := range changes {
		kind, object, err := changes[i].event(wa.sel)
		if err != nil {
			return err
		}
		if kind == "" {
			continue
		}
		if err := wa.send(kind, object); err != nil {
			return err
		}
	}
	if len(changes) == 0 {
		return nil
	}
	return wa.rc.Flush()
}

func (wa *watcher) send(kind watch.EventType, object []byte) error {
	line, err := stdjson.Marshal(metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: object}})
	if err != nil {
		return fmt.Errorf("encode watch event: %w", err)
	}
	if _, err := wa.w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("send watch event: %w", err)
	}
	return nil
}

// bookmark tells the client the version it has seen.
func (wa *watcher) bookmark(annotations map[string]string) error {
	empty, err := scheme.New(wa.r.gvk())
	if err != nil {
		return fmt.Errorf("make a bookmark: %w", err)
	}
	o := empty.(Object)
	o.SetResourceVersion(strconv.FormatUint(wa.pos, 10))
	o.SetAnnotations(annotations)
	raw, err := encode(o)
	if err != nil {
		return err
	}
	return wa.send(watch.Bookmark, raw)
}

// expired is how kube-apiserver says 410 Gone on a watch: as an event.
func (wa *watcher) expired() {
	st := apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d", wa.pos)).Status()
	raw, err := encode(&st)
	if err != nil {
		return // a Status always encodes
	}
	_ = wa.send(watch.Error, raw) // the watch ends either way
}

func parseVersion(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	rv, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %q: %v", s, err))
	}
	return rv, nil
}

// tooLarge is what a client gets that has seen a newer state than there is.
func tooLarge(asked, now uint64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", asked, now), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	}}
	return err
}

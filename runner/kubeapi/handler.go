package kubeapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	internalscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
)

const maxEvent = 1 << 20 // bytes; kube-apiserver takes 3 MiB of anything

// handler is an http handler that may fail with an API status.
type handler func(http.ResponseWriter, *http.Request) error

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h handler) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			if !acceptsJSON(req) {
				fail(w, notAcceptable())
			} else if err := h(w, req); err != nil {
				fail(w, err)
			}
		})
	}
	for _, r := range s.resources {
		root := apiRoot(r.GroupVersion())
		collection := func(w http.ResponseWriter, req *http.Request) error { return s.collection(w, req, r) }
		object := func(w http.ResponseWriter, req *http.Request) error { return s.object(w, req, r) }
		handle(root+"/"+r.Resource, collection)
		if r.namespaced {
			handle(root+"/namespaces/{namespace}/"+r.Resource, collection)
			handle(root+"/namespaces/{namespace}/"+r.Resource+"/{name}", object)
		} else {
			handle(root+"/"+r.Resource+"/{name}", object)
		}
	}
	handle("POST /api/v1/namespaces/{namespace}/events", s.postEvent)
	handle("POST /apis/events.k8s.io/v1/namespaces/{namespace}/events", s.postEvent)
	s.discovery(handle)
	handle("/", func(_ http.ResponseWriter, req *http.Request) error {
		if s.options.OnUnknown != nil {
			s.options.OnUnknown(req.Method, req.URL.Path)
		}
		return apierrors.NewGenericServerResponse(http.StatusNotFound, req.Method, schema.GroupResource{}, "", "", 0, true)
	})
	return mux
}

func apiRoot(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "/api/" + gv.Version
	}
	return "/apis/" + gv.String()
}

// collection answers list and watch.
func (s *Server) collection(w http.ResponseWriter, req *http.Request, r *resource) error {
	if req.Method != http.MethodGet {
		return apierrors.NewMethodNotSupported(r.GroupResource(), strings.ToLower(req.Method))
	}
	var o internalversion.ListOptions
	if err := internalscheme.ParameterCodec.DecodeParameters(req.URL.Query(), metav1.SchemeGroupVersion, &o); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if errs := validation.ValidateListOptions(&o, true); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	sel := selector{namespace: req.PathValue("namespace"), labels: labels.Everything(), fields: fields.Everything()}
	if o.LabelSelector != nil {
		sel.labels = o.LabelSelector
	}
	if o.FieldSelector != nil {
		known, err := r.knownFields(o.FieldSelector)
		if err != nil {
			return err
		}
		sel.fields = known
	}
	if o.Watch {
		return s.watch(w, req, r, o, sel)
	}
	return s.list(w, r, o, sel)
}

// knownFields refuses fields that objects of this kind cannot be selected by.
func (r *resource) knownFields(sel fields.Selector) (fields.Selector, error) {
	empty, err := scheme.New(r.gvk())
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	has := fieldsOf(empty.(Object))
	sel, err = sel.Transform(func(label, value string) (string, string, error) {
		if !has.Has(label) {
			return "", "", fmt.Errorf("field label not supported: %s", label)
		}
		return label, value, nil
	})
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return sel, nil
}

func (s *Server) list(w http.ResponseWriter, r *resource, o internalversion.ListOptions, sel selector) error {
	rv, err := parseVersion(o.ResourceVersion)
	if err != nil {
		return err
	}
	if o.Continue != "" {
		return apierrors.NewBadRequest("continue: this server gives out no such token; a list is always whole")
	}
	s.mu.Lock()
	now := s.rv
	list, err := r.list(sel, now)
	s.mu.Unlock()
	switch {
	case err != nil:
		return apierrors.NewInternalError(err)
	case rv > now:
		return tooLarge(rv, now)
	case o.ResourceVersionMatch == metav1.ResourceVersionMatchExact && rv != now:
		return apierrors.NewResourceExpired("The provided resource version is no longer available; only the present one is.")
	}
	return write(w, http.StatusOK, list)
}

// object answers get.
func (s *Server) object(w http.ResponseWriter, req *http.Request, r *resource) error {
	if req.Method != http.MethodGet {
		return apierrors.NewMethodNotSupported(r.GroupResource(), strings.ToLower(req.Method))
	}
	key := types.NamespacedName{Namespace: req.PathValue("namespace"), Name: req.PathValue("name")}
	s.mu.Lock()
	v := r.objects[key]
	s.mu.Unlock()
	if v == nil {
		return apierrors.NewNotFound(r.GroupResource(), key.Name)
	}
	return writeJSON(w, http.StatusOK, v.json)
}

// postEvent accepts an Event of either group.
func (s *Server) postEvent(w http.ResponseWriter, req *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxEvent))
	if err != nil {
		return apierrors.NewBadRequest("read event: " + err.Error())
	}
	o, _, err := decoder.Decode(body, nil, nil)
	if err != nil {
		return apierrors.NewBadRequest("decode event: " + err.Error())
	}
	var told *eventsv1.Event
	switch e := o.(type) {
	case *eventsv1.Event:
		told = e.DeepCopy()
	case *corev1.Event:
		told = fromCore(e)
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("the object is not an Event but %T", o))
	}
	if s.options.OnEvent != nil {
		s.options.OnEvent(told)
	}
	made := o.(Object)
	made.SetUID(uuid.NewUUID())
	s.mu.Lock()
	s.rv++
	made.SetResourceVersion(strconv.FormatUint(s.rv, 10))
	s.mu.Unlock()
	return write(w, http.StatusCreated, o)
}

// fromCore is a core Event in the form of events.k8s.io: the same object with
// newer names of its fields.
func fromCore(e *corev1.Event) *eventsv1.Event {
	return &eventsv1.Event{
		ObjectMeta: *e.ObjectMeta.DeepCopy(), EventTime: e.EventTime,
		ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
		Action: e.Action, Reason: e.Reason, Regarding: e.InvolvedObject, Related: e.Related.DeepCopy(),
		Note: e.Message, Type: e.Type, DeprecatedSource: e.Source,
		DeprecatedFirstTimestamp: e.FirstTimestamp, DeprecatedLastTimestamp: e.LastTimestamp, DeprecatedCount: e.Count,
	}
}

func acceptsJSON(req *http.Request) bool {
	accept := req.Header.Get("Accept")
	return accept == "" || strings.Contains(accept, runtime.ContentTypeJSON) || strings.Contains(accept, "*/*") || strings.Contains(accept, "application/*")
}

func notAcceptable() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "only the following media types are accepted: " + runtime.ContentTypeJSON,
	}}
}

// fail answers with err as a metav1.Status.
func fail(w http.ResponseWriter, err error) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		status = apierrors.NewInternalError(err)
	}
	st := status.Status()
	if st.Details != nil && st.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(st.Details.RetryAfterSeconds)))
	}
	_ = write(w, int(st.Code), &st) // a client that left needs no answer
}

func write(w http.ResponseWriter, code int, o runtime.Object) error {
	raw, err := encode(o)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	return writeJSON(w, code, raw)
}

func writeJSON(w http.ResponseWriter, code int, raw []byte) error {
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(code)
	_, _ = w.Write(append(raw[:len(raw):len(raw)], '\n')) // a client that left needs no answer
	return nil
}

package kubeapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"

	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiversion "k8s.io/apimachinery/pkg/version"
)

// discovery answers what is served, by whom, and whether it lives.
func (s *Server) discovery(handle func(string, handler)) {
	resources := s.apiResources()
	groups := &metav1.APIGroupList{}
	for _, list := range resources {
		gv, _ := schema.ParseGroupVersion(list.GroupVersion) // made from one
		handle("GET "+apiRoot(gv), func(w http.ResponseWriter, _ *http.Request) error { return write(w, http.StatusOK, list.DeepCopy()) })
		if gv.Group == "" {
			continue
		}
		v := metav1.GroupVersionForDiscovery{GroupVersion: list.GroupVersion, Version: gv.Version}
		group := metav1.APIGroup{Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v}
		groups.Groups = append(groups.Groups, group)
		handle("GET /apis/"+gv.Group, func(w http.ResponseWriter, _ *http.Request) error { return write(w, http.StatusOK, group.DeepCopy()) })
	}
	handle("GET /apis", func(w http.ResponseWriter, _ *http.Request) error { return write(w, http.StatusOK, groups.DeepCopy()) })
	handle("GET /api", func(w http.ResponseWriter, _ *http.Request) error {
		return write(w, http.StatusOK, &metav1.APIVersions{Versions: []string{"v1"}, ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{}})
	})
	handle("GET /version", s.version)
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		handle("GET "+path, func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.WriteString(w, "ok") // a client that left needs no answer
			return nil
		})
	}
}

// apiResources are the served resources by group and version, in the order of
// the server's list.
func (s *Server) apiResources() []*metav1.APIResourceList {
	var lists []*metav1.APIResourceList
	list := func(gv schema.GroupVersion) *metav1.APIResourceList {
		for _, l := range lists {
			if l.GroupVersion == gv.String() {
				return l
			}
		}
		l := &metav1.APIResourceList{GroupVersion: gv.String()}
		lists = append(lists, l)
		return l
	}
	for _, r := range s.resources {
		l := list(r.GroupVersion())
		l.APIResources = append(l.APIResources, metav1.APIResource{
			Name: r.Resource, SingularName: strings.ToLower(r.kind), Namespaced: r.namespaced, Kind: r.kind,
			Verbs: metav1.Verbs{"get", "list", "watch"},
		})
	}
	for _, gv := range []schema.GroupVersion{{Version: "v1"}, eventsv1.SchemeGroupVersion} {
		l := list(gv)
		l.APIResources = append(l.APIResources, metav1.APIResource{
			Name: "events", SingularName: "event", Namespaced: true, Kind: "Event", Verbs: metav1.Verbs{"create"},
		})
	}
	return lists
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) error {
	info := apiversion.Info{GitVersion: s.options.Version, GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if parts := strings.SplitN(strings.TrimPrefix(s.options.Version, "v"), ".", 3); len(parts) == 3 {
		info.Major, info.Minor = parts[0], parts[1]
	}
	raw, err := json.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode version: %w", err)
	}
	return writeJSON(w, http.StatusOK, raw)
}

package cluster

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/tablefull/tablefull/scenarios"
)

// A Right is one thing that the controller of a run does in a cluster. What
// each part of this package needs stands beside it, in a function ...Rights.
type Right struct {
	Verb, Group, Resource string // Resource with its subresource, as pods/portforward
	Name                  string // of the one object; empty: of any
	// Namespace is the one it is needed in. Empty: in that of the run, which is
	// made for it and whose name nobody knows before, so that no Role can name
	// it; or that of an object that is in none.
	Namespace string
}

// may are the rights to do things with a kind of object.
func may(group, resource string, verbs ...string) []Right {
	out := make([]Right, len(verbs))
	for i, v := range verbs {
		out[i] = Right{Verb: v, Group: group, Resource: resource}
	}
	return out
}

// only narrows rights to one object.
func only(name string, rights []Right) []Right {
	for i := range rights {
		rights[i].Name = name
	}
	return rights
}

// inside narrows rights to a namespace.
func inside(namespace string, rights []Right) []Right {
	for i := range rights {
		rights[i].Namespace = namespace
	}
	return rights
}

// String is like: patch deployments.apps web in every namespace.
func (r Right) String() string {
	out := r.Verb + " " + r.Resource
	if r.Group != "" {
		out += "." + r.Group
	}
	if r.Name != "" {
		out += " " + r.Name
	}
	switch {
	case r.Namespace != "":
		out += " in " + r.Namespace
	case r.Resource != "nodes" && r.Resource != "namespaces" && r.Resource != "servicecidrs":
		out += " in every namespace"
	}
	return out
}

// Rights are what a run of the scenario needs, and no more, with what Clean
// needs where the run is killed: a run that could not be cleaned up after is
// none to start. Proxy is as in Config.
func Rights(s *scenarios.Scenario, proxy types.NamespacedName) ([]Right, error) {
	objects, err := settings{services: s.Services, family: s.Lab.Family}.objects(allFiles()...)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(
		entryRights(), applyRights(objects), podRights(), samplerRights(), serviceRights(s.Services),
		watchRights(proxy), removeRights(), cleanRights(), familyRights(s),
	)
	for _, a := range s.Actions {
		rights, err := actionRights(a, proxy)
		if err != nil {
			return nil, err
		}
		all = append(all, rights...)
	}
	return LeastOf(all), nil
}

// LeastOf leaves out what is there twice, and what is allowed in every
// namespace anyway; in a fixed order.
func LeastOf(all []Right) []Right {
	slices.SortFunc(all, func(a, b Right) int {
		return cmp.Or(
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Group, b.Group), strings.Compare(a.Resource, b.Resource),
			strings.Compare(a.Name, b.Name), strings.Compare(a.Verb, b.Verb),
		)
	})
	all = slices.Compact(all)
	return slices.DeleteFunc(slices.Clone(all), func(r Right) bool {
		for _, wider := range []Right{
			{Verb: r.Verb, Group: r.Group, Resource: r.Resource},
			{Verb: r.Verb, Group: r.Group, Resource: r.Resource, Name: r.Name},
			{Verb: r.Verb, Group: r.Group, Resource: r.Resource, Namespace: r.Namespace},
		} {
			if wider != r && slices.Contains(all, wider) {
				return true
			}
		}
		return false
	})
}

// applyRights are for apply. The API server wants the right to create besides
// that to patch where there is no such object yet, for the name it is applied
// with.
func applyRights(objects []runtime.Object) []Right {
	var out []Right
	for _, o := range objects {
		gvk := o.GetObjectKind().GroupVersionKind()
		resource, _ := meta.UnsafeGuessKindToResource(gvk)
		rights := may(gvk.Group, resource.Resource, "create", "patch")
		if gvk.Kind != "Namespace" { // whose name is the run's
			rights = only(o.(metav1.Object).GetName(), rights) // as fillIn has seen
		}
		out = append(out, rights...)
	}
	return out
}

// Missing are those of these rights that the account of the kubeconfig does not
// have, as the API server says. Nothing is changed.
func (e *Env) Missing(ctx context.Context, rights []Right) ([]Right, error) {
	allowed := make([]bool, len(rights))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, r := range rights {
		g.Go(func() error {
			resource, sub, _ := strings.Cut(r.Resource, "/")
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: r.Namespace, Verb: r.Verb, Group: r.Group, Resource: resource, Subresource: sub, Name: r.Name,
				},
			}}
			answer, err := e.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("ask the API server whether this account may %s: %w", r, err)
			}
			allowed[i] = answer.Status.Allowed
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var missing []Right
	for i, r := range rights {
		if !allowed[i] {
			missing = append(missing, r)
		}
	}
	return missing, nil
}

// Roles are the objects that give the rights for a scenario to subjects, as
// YAML for kubectl apply: a ClusterRole, a Role in each namespace that rights
// are narrowed to, and their bindings; and the service accounts among the
// subjects. All carry the scenario's name.
func Roles(scenario string, rights []Right, subjects []rbacv1.Subject) ([]byte, error) {
	name := "tablefull:" + scenario
	var objects []runtime.Object
	for _, s := range subjects {
		if s.Kind == rbacv1.ServiceAccountKind {
			objects = append(objects, &corev1.ServiceAccount{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
				ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace},
			})
		}
	}
	byNamespace := map[string][]Right{}
	var namespaces []string // in the order of rights
	for _, r := range rights {
		if _, ok := byNamespace[r.Namespace]; !ok {
			namespaces = append(namespaces, r.Namespace)
		}
		byNamespace[r.Namespace] = append(byNamespace[r.Namespace], r)
	}
	kind := func(k string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: k}
	}
	for _, ns := range namespaces {
		m, rules := metav1.ObjectMeta{Name: name, Namespace: ns}, rulesOf(byNamespace[ns])
		ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}
		if ns == "" {
			objects = append(objects,
				&rbacv1.ClusterRole{TypeMeta: kind("ClusterRole"), ObjectMeta: m, Rules: rules},
				&rbacv1.ClusterRoleBinding{TypeMeta: kind("ClusterRoleBinding"), ObjectMeta: m, RoleRef: ref, Subjects: subjects})
			continue
		}
		ref.Kind = "Role"
		objects = append(objects,
			&rbacv1.Role{TypeMeta: kind("Role"), ObjectMeta: m, Rules: rules},
			&rbacv1.RoleBinding{TypeMeta: kind("RoleBinding"), ObjectMeta: m, RoleRef: ref, Subjects: subjects})
	}
	var out bytes.Buffer
	for i, o := range objects {
		b, err := yaml.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("encode role: %w", err)
		}
		if i > 0 {
			out.WriteString("---\n")
		}
		out.Write(b)
	}
	return out.Bytes(), nil
}

// rulesOf puts rights together: those for the same verbs and kind are one rule.
func rulesOf(rights []Right) []rbacv1.PolicyRule {
	var single []rbacv1.PolicyRule // one for each object; Right's order puts these in rows
	for _, r := range rights {
		rule := rbacv1.PolicyRule{Verbs: []string{r.Verb}, APIGroups: []string{r.Group}, Resources: []string{r.Resource}}
		if r.Name != "" {
			rule.ResourceNames = []string{r.Name}
		}
		if n := len(single) - 1; n >= 0 && sameKind(single[n], rule) && slices.Equal(single[n].ResourceNames, rule.ResourceNames) {
			single[n].Verbs = append(single[n].Verbs, r.Verb)
			continue
		}
		single = append(single, rule)
	}
	var out []rbacv1.PolicyRule
	for _, rule := range single {
		i := slices.IndexFunc(out, func(o rbacv1.PolicyRule) bool {
			return sameKind(o, rule) && slices.Equal(o.Verbs, rule.Verbs) && (len(o.ResourceNames) == 0) == (len(rule.ResourceNames) == 0)
		})
		if i < 0 {
			out = append(out, rule)
			continue
		}
		out[i].ResourceNames = append(out[i].ResourceNames, rule.ResourceNames...)
	}
	return out
}

func sameKind(a, b rbacv1.PolicyRule) bool {
	return slices.Equal(a.APIGroups, b.APIGroups) && slices.Equal(a.Resources, b.Resources)
}

package cluster

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/tablefull/tablefull/scenarios"
)

func rightsOf(t *testing.T, s *scenarios.Scenario, proxy types.NamespacedName) map[string]bool {
	t.Helper()
	rights, err := Rights(s, proxy)
	require.NoError(t, err)
	out := map[string]bool{}
	for _, r := range rights {
		assert.False(t, out[r.String()], "%s is there once", r)
		out[r.String()] = true
	}
	return out
}

// Each action and a named kube-proxy add what they need, and nothing that is
// allowed in every namespace anyway.
func TestRights(t *testing.T) {
	s, _, err := scenarios.Load("short-lived", nil)
	require.NoError(t, err)
	proxy := types.NamespacedName{Namespace: "kube-system", Name: "kube-proxy"}
	plain := rightsOf(t, s, types.NamespacedName{})
	assert.Contains(t, plain, "create secrets tablefull-token in every namespace")
	assert.Contains(t, plain, "patch deployments.apps web in every namespace")
	assert.Contains(t, plain, "list nodes")
	added := func(a scenarios.Action, proxy types.NamespacedName) string {
		s := *s
		s.Actions = []scenarios.Action{a}
		var more []string
		rights, err := Rights(&s, proxy)
		require.NoError(t, err)
		for _, r := range rights {
			if !plain[r.String()] {
				more = append(more, r.String())
			}
		}
		return strings.Join(more, "; ")
	}
	none := types.NamespacedName{}
	for _, c := range []struct {
		action scenarios.Action
		proxy  types.NamespacedName
		more   string
	}{
		{scenarios.Action{Ballast: &scenarios.Refill{}}, none, ""},
		{scenarios.Action{Rollout: &scenarios.Rollout{Service: "web"}}, none, ""},
		{scenarios.Action{Scale: &scenarios.Scale{Service: "web"}}, none, ""},
		{scenarios.Action{DeletePod: &scenarios.DeletePod{Service: "web"}}, none, "delete pods in every namespace"},
		{scenarios.Action{DrainNode: &scenarios.Simple{}}, none, "get nodes; patch nodes; get pods in every namespace; create pods/eviction in every namespace"},
		{scenarios.Action{Ballast: &scenarios.Refill{}}, proxy, "get daemonsets.apps kube-proxy in kube-system"},
		{scenarios.Action{RestartProxy: &scenarios.RestartProxy{}}, proxy, "delete pods in kube-system; get daemonsets.apps kube-proxy in kube-system"},
		{scenarios.Action{PauseProxy: &scenarios.Simple{}}, proxy, "create serviceaccounts tablefull-pauser in every namespace; patch serviceaccounts tablefull-pauser in every namespace; " +
			"create daemonsets.apps pauser in every namespace; delete daemonsets.apps pauser in every namespace; patch daemonsets.apps pauser in every namespace; get daemonsets.apps kube-proxy in kube-system"},
		{scenarios.Action{ResumeProxy: &scenarios.Simple{}}, proxy, "get daemonsets.apps kube-proxy in kube-system"},
		{scenarios.Action{UpgradeProxy: &scenarios.Proxy{}}, proxy, "get daemonsets.apps kube-proxy in kube-system; patch daemonsets.apps kube-proxy in kube-system"},
		{scenarios.Action{ConntrackSettings: &scenarios.ConntrackSettings{}}, proxy, "get configmaps kube-proxy in kube-system; patch configmaps kube-proxy in kube-system; get daemonsets.apps kube-proxy in kube-system; patch daemonsets.apps kube-proxy in kube-system"},
	} {
		assert.Equal(t, c.more, added(c.action, c.proxy))
	}
}

// The printed rules give exactly the rights, narrowed as these are.
func TestRoles(t *testing.T) {
	s, _, err := scenarios.Load("short-lived", nil)
	require.NoError(t, err)
	s.Services = append(s.Services, s.Services[0])
	s.Services[1].Name = "dns"
	s.Actions = []scenarios.Action{{RestartProxy: &scenarios.RestartProxy{}}}
	rights, err := Rights(s, types.NamespacedName{Namespace: "kube-system", Name: "kube-proxy"})
	require.NoError(t, err)
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "ci", Name: "load"}, {Kind: "Group", APIGroup: rbacv1.GroupName, Name: "sre"}}
	out, err := Roles("short-lived", rights, subjects)
	require.NoError(t, err)
	var given []Right
	kinds := map[string]int{}
	for doc := range bytes.SplitSeq(out, []byte("---\n")) {
		var o struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
			Rules    []rbacv1.PolicyRule
			Subjects []rbacv1.Subject
			RoleRef  rbacv1.RoleRef
		}
		require.NoError(t, yaml.Unmarshal(doc, &o))
		kinds[o.Kind]++
		if strings.HasSuffix(o.Kind, "Binding") {
			assert.Equal(t, subjects, o.Subjects)
			assert.Equal(t, strings.TrimSuffix(o.Kind, "Binding"), o.RoleRef.Kind)
			assert.Equal(t, "tablefull:short-lived", o.RoleRef.Name)
		}
		for _, rule := range o.Rules {
			require.Len(t, rule.APIGroups, 1)
			require.Len(t, rule.Resources, 1)
			names := rule.ResourceNames
			if len(names) == 0 {
				names = []string{""}
			}
			for _, name := range names {
				for _, verb := range rule.Verbs {
					given = append(given, Right{Verb: verb, Group: rule.APIGroups[0], Resource: rule.Resources[0], Name: name, Namespace: o.Metadata.Namespace})
				}
			}
		}
	}
	assert.ElementsMatch(t, rights, given)
	assert.Equal(t, map[string]int{"ServiceAccount": 1, "ClusterRole": 1, "ClusterRoleBinding": 1, "Role": 1, "RoleBinding": 1}, kinds)
}

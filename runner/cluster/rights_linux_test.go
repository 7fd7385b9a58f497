//go:build linux

package cluster_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/portforward"

	"github.com/tablefull/tablefull/runner/cluster"
	"github.com/tablefull/tablefull/runner/testcluster"
	"github.com/tablefull/tablefull/scenarios"
)

// An account is a service account that has what `doctor --rbac` prints for a
// scenario, and nothing else.
type account struct {
	name       string // and the scenario's
	ref        string // the scenario, as it is given to the program
	proxy      types.NamespacedName
	kubeconfig string
	config     *rest.Config
	rights     []cluster.Right
}

// grant makes the account for runs of a scenario, as an administrator would.
func (s setup) grant(t *testing.T, ref string, proxy types.NamespacedName) account {
	t.Helper()
	sc, _, err := scenarios.Load(ref, nil)
	require.NoError(t, err)
	a := account{name: sc.Name, ref: ref, proxy: proxy}
	a.rights, err = cluster.Rights(sc, proxy)
	require.NoError(t, err)
	return s.give(t, a)
}

// give makes the account with what `doctor --rbac` prints, with these flags.
func (s setup) give(t *testing.T, a account, flags ...string) account {
	t.Helper()
	a.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	cmd := s.command(t.Context(), t, slices.Concat([]string{"doctor", "--for", "ServiceAccount:default/" + a.name, "--rbac", a.ref}, a.flags(), flags)...)
	roles, err := cmd.Output()
	require.NoError(t, err)
	_, err = s.cluster.Kubectl(t.Context(), roles, "apply", "--filename=-")
	require.NoError(t, err)
	token, err := s.cluster.Kubectl(t.Context(), nil, "create", "token", a.name)
	require.NoError(t, err)

	admin, err := clientcmd.LoadFromFile(s.cluster.Kubeconfig())
	require.NoError(t, err)
	for _, user := range admin.Contexts {
		admin.AuthInfos[user.AuthInfo] = &clientcmdapi.AuthInfo{Token: string(bytes.TrimSpace(token))}
	}
	require.NoError(t, clientcmd.WriteToFile(*admin, a.kubeconfig))
	a.config, err = clientcmd.BuildConfigFromFlags("", a.kubeconfig)
	require.NoError(t, err)
	a.config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	s.awaitMissing(t, a, nil)
	return a
}

func (a account) flags() []string {
	if a.proxy == (types.NamespacedName{}) {
		return nil
	}
	return []string{"--kube-proxy", a.proxy.String()}
}

// as is the same program with an account's kubeconfig.
func (s setup) as(a account) setup {
	s.kubeconfig = a.kubeconfig
	return s
}

// awaitMissing waits until an account misses these rights and no others: the
// API server hears of a changed role a moment later.
func (s setup) awaitMissing(t *testing.T, a account, want []cluster.Right) {
	t.Helper()
	e, err := cluster.New(cluster.Config{REST: a.config, Image: image, KubeProxy: a.proxy})
	require.NoError(t, err)
	var missing []cluster.Right
	for range 100 {
		missing, err = e.Missing(t.Context(), a.rights)
		require.NoError(t, err)
		if slices.Equal(missing, want) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	require.Equal(t, want, missing)
}

// allow leaves an account these rights, each as a rule of its own.
func allow(t *testing.T, admin kubernetes.Interface, a account, rights []cluster.Right) {
	t.Helper()
	rules := map[string][]rbacv1.PolicyRule{"": {}, a.proxy.Namespace: {}}
	for _, r := range rights {
		rule := rbacv1.PolicyRule{Verbs: []string{r.Verb}, APIGroups: []string{r.Group}, Resources: []string{r.Resource}}
		if r.Name != "" {
			rule.ResourceNames = []string{r.Name}
		}
		rules[r.Namespace] = append(rules[r.Namespace], rule)
	}
	for ns, rules := range rules {
		m := metav1.ObjectMeta{Name: "tablefull:" + a.name, Namespace: ns}
		var err error
		if ns == "" {
			_, err = admin.RbacV1().ClusterRoles().Update(t.Context(), &rbacv1.ClusterRole{ObjectMeta: m, Rules: rules}, metav1.UpdateOptions{})
		} else {
			_, err = admin.RbacV1().Roles(ns).Update(t.Context(), &rbacv1.Role{ObjectMeta: m, Rules: rules}, metav1.UpdateOptions{})
		}
		require.NoError(t, err)
	}
}

// request is one of the API server's own record of who asked what.
type request struct {
	Verb string
	User struct{ Username string }
	At   struct {
		APIGroup, Resource, Subresource, Namespace, Name string
	} `json:"objectRef"`
	Status struct{ Code int } `json:"responseStatus"`
}

// requests are an account's, less those that ask what it may do.
func (s setup) requests(t *testing.T, a account) (asked int, out []request) {
	t.Helper()
	b, err := os.ReadFile(s.cluster.Log(testcluster.AuditLog))
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		var r request
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		switch {
		case r.User.Username != "system:serviceaccount:default:"+a.name:
		case r.At.Resource == "selfsubjectaccessreviews":
			asked++
		case r.At.Resource == "selfsubjectreviews" || r.At.Resource == "": // anybody may ask who he is, and the version
		default:
			out = append(out, r)
		}
	}
	return asked, out
}

// needs are the rights that the API server wants for a request.
func (r request) needs() []cluster.Right {
	right := cluster.Right{Verb: r.Verb, Group: r.At.APIGroup, Resource: r.At.Resource, Name: r.At.Name, Namespace: r.At.Namespace}
	if r.At.Subresource != "" {
		right.Resource += "/" + r.At.Subresource
	}
	create := right
	create.Verb = "create"
	// What it asks for besides while it works is in no record: to create what is
	// applied first, and what a web socket is for. checkUnrecorded shows both.
	if r.Verb == "patch" && r.Status.Code == http.StatusCreated || right.Resource == "pods/portforward" {
		return []cluster.Right{right, create}
	}
	return []cluster.Right{right}
}

// covers says whether a right that is had is what is needed, or wider.
func covers(had, needed cluster.Right) bool {
	return had.Verb == needed.Verb && had.Group == needed.Group && had.Resource == needed.Resource &&
		(had.Name == "" || had.Name == needed.Name) && (had.Namespace == "" || had.Namespace == needed.Namespace)
}

// checkUsed compares what an account has with what its runs have asked the API
// server: no more was asked, and no less is had.
func checkUsed(t *testing.T, s setup, a account) {
	_, requests := s.requests(t, a)
	require.NotEmpty(t, requests)
	used := map[cluster.Right]bool{}
	for _, r := range requests {
		assert.NotEqual(t, http.StatusForbidden, r.Status.Code, "%+v", r)
		for _, need := range r.needs() {
			i := slices.IndexFunc(a.rights, func(had cluster.Right) bool { return covers(had, need) })
			if assert.GreaterOrEqual(t, i, 0, "it asked to %s, which is in no role", need) {
				used[a.rights[i]] = true
			}
		}
	}
	for _, r := range a.rights {
		assert.True(t, used[r], "the right to %s was never used", r)
	}
}

// checkOneLess takes each right away singly: the run is refused by its name,
// and has asked the API server for nothing but that. What one account has had
// taken away is not run without by the next.
func checkOneLess(t *testing.T, s setup, accounts ...account) {
	config, err := clientcmd.BuildConfigFromFlags("", s.cluster.Kubeconfig())
	require.NoError(t, err)
	admin, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	done := map[cluster.Right]bool{}
	for _, a := range accounts {
		asked, before := s.requests(t, a)
		refused := 0
		for i, right := range a.rights {
			if done[right] {
				continue
			}
			done[right] = true
			refused++
			allow(t, admin, a, slices.Concat(a.rights[:i], a.rights[i+1:]))
			s.awaitMissing(t, a, []cluster.Right{right})
			checkRefusedFor(t, s, a, right)
		}
		now, after := s.requests(t, a)
		assert.Equal(t, before, after, "nothing was done")
		assert.GreaterOrEqual(t, now-asked, 2*refused*len(a.rights), "but asked")
		t.Logf("%s: %d rights, %d of them refused by a run", a.name, len(a.rights), refused)
		allow(t, admin, a, a.rights)
		s.awaitMissing(t, a, nil)
	}
	a := accounts[0]
	without := func(verb, resource string) {
		allow(t, admin, a, slices.DeleteFunc(slices.Clone(a.rights), func(r cluster.Right) bool { return r.Verb == verb && r.Resource == resource }))
	}
	checkUnrecorded(t, s, a, without)
	allow(t, admin, a, a.rights)
	s.awaitMissing(t, a, nil)
}

// checkRefusedFor runs the scenario of an account that lacks a right.
func checkRefusedFor(t *testing.T, s setup, a account, right cluster.Right) {
	cmd := s.as(a).command(t.Context(), t, append([]string{"run", a.ref, "--target", "kubernetes", "--out", filepath.Join(t.TempDir(), "run")}, a.flags()...)...)
	out, _ := cmd.CombinedOutput()
	assert.Equal(t, 5, cmd.ProcessState.ExitCode(), "without %s: %s", right, out)
	assert.Contains(t, string(out), "may not "+right.String()+"\n")
	assert.Contains(t, string(out), "tablefull doctor --rbac "+strings.Join(append([]string{a.ref}, a.flags()...), " ")+" | kubectl apply")
}

// checkDoctorLess takes away singly what doctor looks at: that it is not read is
// said, and what else was.
func checkDoctorLess(t *testing.T, s setup, a account) {
	config, err := clientcmd.BuildConfigFromFlags("", s.cluster.Kubeconfig())
	require.NoError(t, err)
	admin, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	const mode, nodes = "\n  mode nftables (", "\nnode-b  yes "
	says := map[string][2]string{ // what it says instead, and what it says still
		"nodes":        {"\nnodes: not read: this account may not list nodes\n", mode},
		"servicecidrs": {"\naddresses of services: IPv4 and IPv6 (internal addresses of nodes: node-a ", mode},
		"daemonsets":   {": not read: this account may not get it\n", nodes},
		"pods":         {": not read: this account may not list its pods\n", mode},
		"configmaps":   {"\n  mode and conntrack: not read: this account may not get ConfigMap kube-system/kube-proxy\n", nodes},
	}
	for _, right := range cluster.ViewRights(cluster.DefaultKubeProxy) {
		i := slices.IndexFunc(a.rights, func(had cluster.Right) bool { return covers(had, right) })
		require.GreaterOrEqual(t, i, 0, "%s", right)
		allow(t, admin, a, slices.Concat(a.rights[:i], a.rights[i+1:]))
		s.awaitMissing(t, a, a.rights[i:i+1])
		out, _ := s.as(a).command(t.Context(), t, "doctor", "--target=kubernetes", "healthy").Output() // it may run nothing
		want := says[right.Resource]
		require.NotEmpty(t, want[0], "%s", right)
		assert.Contains(t, string(out), want[0], "without %s", right)
		assert.Contains(t, string(out), want[1], "without %s", right)
	}
	allow(t, admin, a, a.rights)
	s.awaitMissing(t, a, nil)
}

// checkUnrecorded shows that the rights which no record shows are needed all
// the same, and that names narrow them.
func checkUnrecorded(t *testing.T, s setup, a account, without func(verb, resource string)) {
	client, err := kubernetes.NewForConfig(a.config)
	require.NoError(t, err)
	secret := func(name string) string {
		_, err := client.CoreV1().Secrets("default").Patch(t.Context(), name, types.ApplyPatchType,
			fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":%q}}`, name), metav1.PatchOptions{FieldManager: "test", DryRun: []string{metav1.DryRunAll}})
		return fmt.Sprint(err)
	}
	pods, err := s.cluster.Kubectl(t.Context(), nil, "--namespace=kube-system", "get", "pods", "--output=jsonpath={.items[0].metadata.name}")
	require.NoError(t, err)
	forward := func() string { return portForward(t, a, "kube-system", string(pods)) }
	for _, c := range []struct {
		verb, resource string
		do             func() string
	}{
		{"create", "secrets", func() string { return secret("tablefull-token") }},
		{"create", "pods/portforward", forward},
		{"get", "pods/portforward", forward},
	} {
		without("", "")
		awaitAnswer(t, c.do, "<nil>")
		without(c.verb, c.resource)
		awaitAnswer(t, c.do, "is forbidden")
	}
	assert.Contains(t, secret("another"), "cannot patch resource")
}

// awaitAnswer asks until the answer is as wanted.
func awaitAnswer(t *testing.T, ask func() string, want string) {
	t.Helper()
	answer := ""
	for range 100 {
		if answer = ask(); strings.Contains(answer, want) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	require.Contains(t, answer, want)
}

// portForward begins one over a web socket, and returns what the API server
// says to it.
func portForward(t *testing.T, a account, namespace, pod string) string {
	client, err := kubernetes.NewForConfig(a.config)
	require.NoError(t, err)
	at := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	dialer, err := portforward.NewSPDYOverWebsocketDialerForStreaming(at, a.config)
	require.NoError(t, err)
	conn, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err == nil {
		_ = conn.Close()
	}
	return fmt.Sprint(err)
}

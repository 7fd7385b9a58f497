package cluster

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/tablefull/tablefull/scenarios"
)

const toNodePorts = `
name: np
duration: 5s
services: [{name: web, node_port: 30080, port_count: 2, external_traffic_policy: Local}, {name: other}]
traffic: [{name: clients, to: web, via: node_port, short_lived: {rate: 10/s}}]
`

// The traffic's ports are the nodes', the agents' is not; whoever sends is on
// another node, on its network.
func TestNodePorts(t *testing.T) {
	sc, err := scenarios.Parse("np", []byte(toNodePorts))
	require.NoError(t, err)
	assert.Empty(t, Refusals(sc, false))
	assert.Equal(t, 2, NodesFor(sc))
	s := settings{port: 61500, nodes: []string{"b"}, origins: []string{"a"}, services: sc.Services}
	objects, err := s.objects(allFiles()...)
	require.NoError(t, err)
	services := map[string]*corev1.Service{}
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Service:
			services[o.Name] = o
		case *batchv1.Job:
			pod := o.Spec.Template.Spec
			assert.True(t, pod.HostNetwork)
			assert.Contains(t, pod.Containers[0].Args, "--listen=tcp:127.0.0.1:61499")
			assert.Equal(t, on([]string{"a"}), pod.Affinity.NodeAffinity)
		}
	}
	require.Len(t, services, 3)
	web := services["web"].Spec
	assert.Equal(t, corev1.ServiceTypeNodePort, web.Type)
	assert.Equal(t, corev1.ServiceExternalTrafficPolicyLocal, web.ExternalTrafficPolicy)
	require.Len(t, web.Ports, 2)
	for i, p := range web.Ports {
		assert.Equal(t, []int32{int32(8080 + i), int32(30080 + i)}, []int32{p.Port, p.NodePort})
	}
	agents := services["web-agents"].Spec
	assert.Equal(t, corev1.ServiceTypeClusterIP, agents.Type)
	require.Len(t, agents.Ports, 1)
	assert.Equal(t, []int32{61500, 0}, []int32{agents.Ports[0].Port, agents.Ports[0].NodePort})
	assert.Equal(t, web.Selector, agents.Selector)
	assert.Equal(t, corev1.ServiceTypeClusterIP, services["other"].Spec.Type)
	assert.Len(t, services["other"].Spec.Ports, 2)

	rights, err := Rights(sc, DefaultKubeProxy)
	require.NoError(t, err)
	assert.Contains(t, rights, Right{Verb: "create", Resource: "services", Name: "web-agents"})
	assert.Contains(t, rights, Right{Verb: "get", Resource: "services", Name: "web-agents"})
}

func TestNodePortRefusals(t *testing.T) {
	for what, change := range map[string]string{
		"traffic[1].via":                     "traffic: [{name: a, to: web, via: node_port, short_lived: {rate: 1/s}}, {name: b, to: web, short_lived: {rate: 1/s}}]",
		"services[0].health_check_node_port": "services: [{name: web, node_port: 30080, external_traffic_policy: Local, health_check_node_port: 30081}]\ntraffic: [{name: a, to: web, via: node_port, short_lived: {rate: 1/s}}]",
		"services[0].node_port: the agents":  "services: [{name: web, node_port: 30080}, {name: web-agents}]\ntraffic: [{name: a, to: web, via: node_port, short_lived: {rate: 1/s}}]",
	} {
		text := "name: np\nduration: 5s\n" + change
		if what == "traffic[1].via" {
			text += "\nservices: [{name: web, node_port: 30080}]"
		}
		sc, err := scenarios.Parse("np", []byte(text))
		require.NoError(t, err, what)
		refused := Refusals(sc, false)
		require.Len(t, refused, 1, what)
		assert.Contains(t, refused[0], what)
	}
}

func TestWhereTrafficToNodePortsComesFrom(t *testing.T) {
	node := func(name, addr string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "fd00::1"}, {Type: corev1.NodeInternalIP, Address: addr}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		}}
	}
	cordoned := node("b", "192.0.2.2")
	cordoned.Spec.Unschedulable = true
	e := &Env{client: fake.NewClientset(node("a", "192.0.2.1"), cordoned, node("c", "192.0.2.3"), node("d", "192.0.2.4"))}
	s := settings{nodes: []string{"c"}}
	require.NoError(t, e.outside(t.Context(), &s))
	assert.Equal(t, []string{"a"}, s.origins)
	assert.Equal(t, []map[string]netip.Addr{{"ipv4": netip.MustParseAddr("192.0.2.3"), "ipv6": netip.MustParseAddr("fd00::1")}}, s.addrs)
	s = settings{nodes: []string{"c", "d"}}
	assert.ErrorContains(t, e.outside(t.Context(), &s), "enters by 2 nodes (lab.nodes) and is sent from as many others, and of the others 1 take")
}

// Node ports are tried in a dry run of the API server, and only what it says of
// them is a reason: not that it has no answer, nor what else is the matter.
func TestNodePortsRefused(t *testing.T) {
	s := &scenarios.Scenario{Services: []scenarios.Service{{Name: "plain", Port: 80}, {Name: "web", Port: 80, PortCount: 2, NodePort: 30080}}}
	kind := schema.GroupKind{Kind: "Service"}
	at := func(name string) *field.Path { return field.NewPath("spec", "ports").Index(0).Child(name) }
	for _, c := range []struct {
		says   string
		answer error
	}{
		{"", nil},
		{"services[1].node_port: 30080: the API server refuses it: Invalid value: 30080: provided port is already allocated;", apierrors.NewInvalid(kind, "web-agents", field.ErrorList{field.Invalid(at("nodePort"), 30080, "provided port is already allocated")})},
		{"", apierrors.NewInvalid(kind, "web-agents", field.ErrorList{field.Invalid(at("name"), "x", "no")})},
		{"", apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "web-agents", errors.New("by a policy"))},
		{"", errors.New("nobody answers")},
	} {
		client := fake.NewClientset()
		asked := 0
		client.PrependReactor("*", "*", func(a k8stesting.Action) (bool, runtime.Object, error) {
			asked++
			p, ok := a.(k8stesting.PatchActionImpl)
			require.True(t, ok)
			assert.Equal(t, []string{metav1.DryRunAll}, p.PatchOptions.DryRun)
			assert.Equal(t, "default/web-agents", p.Namespace+"/"+p.Name)
			assert.Contains(t, string(p.Patch), `"nodePort":30081`)
			return true, &corev1.Service{}, c.answer
		})
		got := strings.Join((&Env{client: client}).NodePortsRefused(t.Context(), s), "\n")
		assert.Equal(t, 1, asked)
		if c.says == "" {
			assert.Empty(t, got)
		} else {
			assert.Contains(t, got, c.says)
		}
	}
}

package cluster

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/tablefull/tablefull/scenarios"
)

// A Service has exactly the addresses that the scenario wants, whatever the
// cluster's own first family is.
func TestServiceFamilies(t *testing.T) {
	for _, c := range []struct {
		lab, families string
		policy        corev1.IPFamilyPolicy
		want          []corev1.IPFamily
	}{
		{"ipv4", "", corev1.IPFamilyPolicySingleStack, []corev1.IPFamily{corev1.IPv4Protocol}},
		{"ipv6", "", corev1.IPFamilyPolicySingleStack, []corev1.IPFamily{corev1.IPv6Protocol}},
		{"ipv6", ", families: [ipv4]", corev1.IPFamilyPolicySingleStack, []corev1.IPFamily{corev1.IPv4Protocol}},
		{"ipv4", ", families: [ipv6, ipv4]", corev1.IPFamilyPolicyRequireDualStack, []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}},
	} {
		sc := parseFamilies(t, c.lab, c.families)
		objects, err := settings{services: sc.Services, family: sc.Lab.Family}.objects("target.yaml")
		require.NoError(t, err)
		for _, o := range objects {
			if svc, ok := o.(*corev1.Service); ok {
				assert.Equal(t, c.want, svc.Spec.IPFamilies)
				assert.Equal(t, c.policy, *svc.Spec.IPFamilyPolicy)
			}
		}
	}
}

func parseFamilies(t *testing.T, lab, families string) *scenarios.Scenario {
	t.Helper()
	sc, err := scenarios.Parse("f", []byte("name: f\nduration: 5s\nlab: {family: "+lab+"}\nservices: [{name: web"+families+"}]\ntraffic: [{to: web, short_lived: {rate: 1/s}}]"))
	require.NoError(t, err)
	return sc
}

// Each address of a service has slices of its own.
func TestSliceOfFamily(t *testing.T) {
	l := &Lab{settings: settings{services: parseFamilies(t, "ipv4", ", families: [ipv6, ipv4]").Services, family: "ipv4"}}
	slice := func(kind discoveryv1.AddressType) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}, AddressType: kind}
	}
	assert.Equal(t, "web", l.addressOf(slice(discoveryv1.AddressTypeIPv6)))
	assert.Equal(t, "web/ipv4", l.addressOf(slice(discoveryv1.AddressTypeIPv4)))
}

// What a cluster's services cannot have is refused, with what was looked at.
func TestFamilyRefusals(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "a"}, {Type: corev1.NodeExternalIP, Address: "2001:db8::1"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.11"},
	}}}
	cidr := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"fd00:10:96::/112"}}}
	four, six, both := parseFamilies(t, "ipv4", ""), parseFamilies(t, "ipv6", ""), parseFamilies(t, "ipv4", ", families: [ipv4, ipv6]")
	forbidden := func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "servicecidrs"}, "", nil)
	}
	absent := func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "servicecidrs"}, "")
	}
	const onNodes = "services of this cluster have no IPv6 addresses, but IPv4 (internal addresses of nodes: a 192.0.2.11)"
	for what, c := range map[string]struct {
		objects []runtime.Object
		listing func(k8stesting.Action) (bool, runtime.Object, error)
		sc      *scenarios.Scenario
		want    []string
	}{
		"IPv4 is there":              {[]runtime.Object{node}, nil, four, nil},
		"IPv4 is not":                {[]runtime.Object{cidr}, nil, both, []string{"services[0].families: ipv4: services of this cluster have no IPv4 addresses, but IPv6 (ServiceCIDR kubernetes: fd00:10:96::/112)"}},
		"IPv6 is there":              {[]runtime.Object{node, cidr}, nil, six, nil},
		"an API server before 1.33":  {[]runtime.Object{node}, absent, six, []string{"lab.family: ipv6: " + onNodes}},
		"not allowed":                {[]runtime.Object{node}, forbidden, both, []string{"services[0].families: ipv6: " + onNodes}},
		"nothing to be seen refuses": {nil, absent, six, nil},
	} {
		client := fake.NewClientset(c.objects...)
		if c.listing != nil {
			client.PrependReactor("list", "servicecidrs", c.listing)
		}
		v, err := (&Env{client: client}).FamiliesFor(t.Context(), c.sc)
		require.NoError(t, err, what)
		assert.Equal(t, c.want, v.Refusals(c.sc), what)
	}
	rights, err := Rights(four, DefaultKubeProxy)
	require.NoError(t, err)
	assert.NotContains(t, rights, cidrRights()[0], "the nodes say it")
	rights, err = Rights(both, DefaultKubeProxy)
	require.NoError(t, err)
	assert.Contains(t, rights, cidrRights()[0])
}

// A pod without an address of a family is no backend of it.
func TestPodNeedsFamily(t *testing.T) {
	r := &remote{pod: corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-1"}, Spec: corev1.PodSpec{NodeName: "a"}, Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.244.1.2"}}}}}
	var err error
	r.addrs, err = parseAddrs(podIPs(r.pod))
	require.NoError(t, err)
	assert.Equal(t, netip.MustParseAddr("10.244.1.2"), r.addrs[scenarios.IPv4])
	require.NoError(t, r.needs([]string{scenarios.IPv4}))
	assert.EqualError(t, r.needs([]string{scenarios.IPv4, scenarios.IPv6}), "pod web-1 on node a has no IPv6 address, and of its network it has [10.244.1.2] alone")
}

package cluster

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	k8stesting "k8s.io/client-go/testing"
)

// aCluster has a node, and a kube-proxy with this configuration.
func aCluster(config string) *Env {
	labels := map[string]string{"k8s-app": "kube-proxy"}
	m := metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-proxy"}
	pod := corev1.PodSpec{
		NodeName: "a",
		Containers: []corev1.Container{{
			Name: "kube-proxy", Image: "registry:5000/kube-proxy:v1.36.3@sha256:0", Args: []string{"--config=/etc/kube-proxy/config.conf"},
			VolumeMounts: []corev1.VolumeMount{{Name: "conf", MountPath: "/etc/kube-proxy"}},
		}},
		Volumes: []corev1.Volume{{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-proxy"}}}}},
	}
	client := fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.NodeStatus{
			Capacity:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8")},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		}},
		&appsv1.DaemonSet{ObjectMeta: m, Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod},
		}},
		&corev1.ConfigMap{ObjectMeta: m, Data: map[string]string{"config.conf": config}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-proxy-1", Labels: labels}, Spec: pod},
	)
	return &Env{cfg: Config{REST: &rest.Config{}}, client: client}
}

func TestExamine(t *testing.T) {
	v, err := aCluster("kind: KubeProxyConfiguration\nconntrack: {min: 1000}\n").Examine(t.Context())
	require.NoError(t, err)
	require.Len(t, v.Nodes, 1)
	assert.Equal(t, "iptables", v.Proxy.Mode)
	assert.Equal(t, "ConfigMap kube-system/kube-proxy, config.conf, which names none: its default on Linux", v.Proxy.From)
	assert.Equal(t, "v1.36.3", v.Proxy.Version)
	require.NotNil(t, v.Nodes[0].ProxyLimit)
	assert.Equal(t, uint64(8*32768), *v.Nodes[0].ProxyLimit, "its default maxPerCore, on this node's CPUs")
	assert.Equal(t, &NodeProxy{Pod: "kube-proxy-1", Version: "v1.36.3"}, v.Nodes[0].Proxy)
	assert.True(t, v.Nodes[0].Ready)

	v, err = aCluster("kind: KubeProxyConfiguration\nmode: nftables\nconntrack: {maxPerCore: 0}\n").Examine(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "nftables", v.Proxy.Mode)
	assert.Nil(t, v.Nodes[0].ProxyLimit)

	v, err = aCluster("mode: nftables\n").Examine(t.Context())
	require.NoError(t, err)
	assert.Empty(t, v.Proxy.Mode, "what is in no KubeProxyConfiguration is not believed")
	assert.NotEmpty(t, v.Proxy.ConfigNotRead)
}

// What may not be read is said to be so, and the rest is there.
func TestExamineForbidden(t *testing.T) {
	for what, says := range map[string]func(View) string{
		"nodes":      func(v View) string { return v.NodesNotRead },
		"daemonsets": func(v View) string { return v.Proxy.NotRead },
		"pods":       func(v View) string { return v.Proxy.NotRead },
		"configmaps": func(v View) string { return v.Proxy.ConfigNotRead },
	} {
		e := aCluster("kind: KubeProxyConfiguration\nmode: nftables\n")
		e.client.(*fake.Clientset).PrependReactor("*", what, func(k8stesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: what}, "", nil)
		})
		v, err := e.Examine(t.Context())
		require.NoError(t, err)
		assert.Contains(t, says(v), "this account may not ", what)
		assert.Equal(t, what == "nodes", len(v.Nodes) == 0)
		assert.Equal(t, what == "daemonsets" || what == "configmaps", v.Proxy.Mode == "", what)
	}
}

func TestLookKnowsWhyANodeIsMissed(t *testing.T) {
	l := &Look{settings: settings{nodes: []string{"a", "b", "c"}}, missed: map[string]string{}}
	pin := on([]string{"c"})
	pod := func(node string, s corev1.PodStatus) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "sampler-" + node}, Spec: corev1.PodSpec{NodeName: node}, Status: s}
	}
	up := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	ready, waiting := l.sort([]corev1.Pod{pod("a", up), pod("d", up)})
	assert.True(t, waiting, "for b and c")
	assert.Contains(t, ready, "a")
	assert.NotContains(t, ready, "d", "which is none of ours")

	never := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImageNeverPull"}}}}}
	pending := pod("", corev1.PodStatus{})
	pending.Spec.Affinity = &corev1.Affinity{NodeAffinity: pin}
	_, waiting = l.sort([]corev1.Pod{pod("a", up), pod("b", never), pending})
	assert.True(t, waiting, "for c")
	_, waiting = l.sort([]corev1.Pod{pod("a", up), pod("b", never), pod("c", never)})
	assert.False(t, waiting)
	assert.ErrorContains(t, l.Complete(), "node b: pod sampler-b: ErrImageNeverPull; node c: ")
	_, waiting = l.sort([]corev1.Pod{pod("a", up), pod("b", up), pod("c", up)})
	assert.False(t, waiting)
	assert.NoError(t, l.Complete())
}

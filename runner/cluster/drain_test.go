package cluster

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// Of all the pods on a node only those under load of this run are evicted, and
// by an eviction, which budgets may refuse; what was cordoned by others stays so.
func TestDrain(t *testing.T) {
	controller := true
	pod := func(name, node, run, component string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Namespace: "tablefull-" + run, Labels: map[string]string{managedBy: managedByUs, runLabel: run, componentLabel: component},
				OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", Controller: &controller}},
			},
			Spec: corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{{Name: "spool", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}},
		}
	}
	client := fake.NewClientset(append(changeable(),
		pod("web-1", "a", "r", "target"), pod("web-2", "b", "r", "target"), pod("worker-0", "a", "r", "worker"), pod("web-3", "a", "other", "target"),
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "theirs", Namespace: "default"}, Spec: corev1.PodSpec{NodeName: "a"}},
	)...)
	client.Resources = []*metav1.APIResourceList{{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "pods/eviction", Kind: "Eviction", Group: "policy", Version: "v1"}}}}
	// The fake knows no field selectors, which the API server does.
	client.PrependReactor("list", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		restrictions := action.(clienttesting.ListAction).GetListRestrictions()
		assert.Equal(t, "spec.nodeName=a", restrictions.Fields.String())
		all, err := client.Tracker().List(corev1.SchemeGroupVersion.WithResource("pods"), corev1.SchemeGroupVersion.WithKind("Pod"), "")
		require.NoError(t, err)
		out := &corev1.PodList{}
		for _, p := range all.(*corev1.PodList).Items {
			if p.Spec.NodeName == "a" && restrictions.Labels.Matches(labels.Set(p.Labels)) {
				out.Items = append(out.Items, p)
			}
		}
		return true, out, nil
	})
	var mu sync.Mutex
	var evicted []string
	client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "eviction" {
			return false, nil, nil
		}
		name := action.(clienttesting.CreateAction).GetObject().(metav1.Object).GetName()
		mu.Lock()
		evicted = append(evicted, action.GetNamespace()+"/"+name)
		mu.Unlock()
		return true, nil, client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), action.GetNamespace(), name)
	})
	l := &Lab{env: &Env{client: client}, settings: settings{run: "r", namespace: "tablefull-r"}}
	require.Error(t, l.uncordon(t.Context(), []string{"a"}), "it has not been drained")
	require.NoError(t, l.drain(t.Context(), []string{"a"}))
	assert.Equal(t, []string{"tablefull-r/web-1"}, evicted)
	cordoned := func() bool {
		n, err := theNode.get(t.Context(), client)
		require.NoError(t, err)
		return n.(*corev1.Node).Spec.Unschedulable
	}
	assert.True(t, cordoned())
	assert.Equal(t, []outside{theNode}, l.held, "Close uncordons it where nothing else has")
	require.NoError(t, l.uncordon(t.Context(), []string{"a"}))
	assert.False(t, cordoned())
}

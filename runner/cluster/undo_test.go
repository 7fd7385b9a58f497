package cluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tablefull/tablefull/runner/env"
)

var (
	theConfigMap = outside{configMap, "kube-system", "kube-proxy"}
	theDaemonSet = outside{daemonset, "kube-system", "kube-proxy"}
	theNode      = outside{node, "", "a"}
)

const oldConf = "kind: KubeProxyConfiguration\nconntrack: {tcpEstablishedTimeout: 7h}\n"

// changeable are the objects outside, as kubeadm makes them.
func changeable() []runtime.Object {
	meta := func(name, namespace string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Namespace: namespace, ResourceVersion: "7", Annotations: map[string]string{"theirs": "stays"}}
	}
	pod := corev1.PodSpec{
		Containers: []corev1.Container{{
			Name: "kube-proxy", Image: "registry/kube-proxy:v1", Command: []string{"kube-proxy", "--config=/var/lib/kube-proxy/config.conf"},
			VolumeMounts: []corev1.VolumeMount{{Name: "conf", MountPath: "/var/lib/kube-proxy/"}},
		}},
		Volumes: []corev1.Volume{{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-proxy"}}}}},
	}
	return []runtime.Object{
		&corev1.ConfigMap{ObjectMeta: meta("kube-proxy", "kube-system"), Data: map[string]string{"config.conf": oldConf, "kubeconfig.conf": "k"}},
		&appsv1.DaemonSet{ObjectMeta: meta("kube-proxy", "kube-system"), Spec: appsv1.DaemonSetSpec{Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"k8s-app": "kube-proxy"}, Annotations: map[string]string{"theirs": "stays"}}, Spec: pod,
		}}},
		&corev1.Node{ObjectMeta: meta("a", "")},
	}
}

// What a run changes is noted in the same write, may be changed again by the
// same run and by no other, and is put back exactly.
func TestPutBack(t *testing.T) {
	for _, c := range []struct {
		o             outside
		key, old, new string
		again, roll   string
	}{
		{theConfigMap, "config.conf", oldConf, "new", "newer", ""},
		{theDaemonSet, "kube-proxy", "registry/kube-proxy:v1", "registry/kube-proxy:v2", "registry/kube-proxy:v3", "now"},
		{theNode, "unschedulable", "false", "true", "true", ""},
	} {
		client := fake.NewClientset(changeable()...)
		before, err := c.o.get(t.Context(), client)
		require.NoError(t, err)
		patches := 0
		client.PrependReactor("patch", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
			patches++
			return false, nil, nil
		})
		require.NoError(t, c.o.change(t.Context(), client, change{"r", c.key, c.new, c.roll}))
		assert.Equal(t, 1, patches, "the change and its undo are one write")
		now, err := c.o.get(t.Context(), client)
		require.NoError(t, err)
		v, err := valueOf(now, c.key)
		require.NoError(t, err)
		assert.Equal(t, c.new, v, c.o)
		u, err := undoOf(now)
		require.NoError(t, err)
		assert.Equal(t, &undo{"r", c.key, c.old, c.new}, u)
		assert.Equal(t, c.roll, rolledOf(now))

		assert.ErrorContains(t, c.o.change(t.Context(), client, change{"other", c.key, c.again, c.roll}), "the run r has changed it")
		require.NoError(t, c.o.change(t.Context(), client, change{"r", c.key, c.again, c.roll}))
		did, err := c.o.putBack(t.Context(), client, "other")
		require.NoError(t, err)
		assert.False(t, did, "that is another run's")
		did, err = c.o.putBack(t.Context(), client, "r")
		require.NoError(t, err)
		assert.True(t, did)
		after, err := c.o.get(t.Context(), client)
		require.NoError(t, err)
		after.SetManagedFields(nil) // who has written what, last
		assert.Equal(t, before, after)
		did, err = c.o.putBack(t.Context(), client, "")
		require.NoError(t, err)
		assert.False(t, did, "twice is harmless")
	}
}

// What somebody else has written since is left alone, and said.
func TestPutBackTheirs(t *testing.T) {
	for _, o := range []outside{theConfigMap, theDaemonSet} {
		key := map[string]string{configMap: "config.conf", daemonset: "kube-proxy"}[o.kind]
		client := fake.NewClientset(changeable()...)
		require.NoError(t, o.change(t.Context(), client, change{"r", key, "ours", map[string]string{daemonset: "now"}[o.kind]}))
		object, err := o.get(t.Context(), client)
		require.NoError(t, err)
		switch x := object.(type) {
		case *corev1.ConfigMap:
			x.Data[key] = "theirs"
			_, err = client.CoreV1().ConfigMaps(o.namespace).Update(t.Context(), x, metav1.UpdateOptions{})
		case *appsv1.DaemonSet:
			x.Spec.Template.Spec.Containers[0].Image = "theirs"
			_, err = client.AppsV1().DaemonSets(o.namespace).Update(t.Context(), x, metav1.UpdateOptions{})
		}
		require.NoError(t, err)
		require.ErrorIs(t, o.change(t.Context(), client, change{"r", key, "more", ""}), errTheirs)
		did, err := o.putBack(t.Context(), client, "r")
		assert.True(t, did)
		require.ErrorIs(t, err, errTheirs)
		object, err = o.get(t.Context(), client)
		require.NoError(t, err)
		v, err := valueOf(object, key)
		require.NoError(t, err)
		assert.Equal(t, "theirs", v)
		assert.NotContains(t, object.GetAnnotations(), undoAnnotation)
		assert.Empty(t, rolledOf(object))
	}
}

// A write that another one came before, or that was made and not answered, is
// made anew of what is there.
func TestWriteConflicts(t *testing.T) {
	client := fake.NewClientset(changeable()...)
	n := 0
	client.PrependReactor("patch", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if n++; n == 1 {
			o, err := client.Tracker().Get(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, "kube-system", "kube-proxy")
			if err != nil {
				return true, nil, err
			}
			x := o.(*corev1.ConfigMap).DeepCopy()
			x.Data["config.conf"] = "of another"
			if err := client.Tracker().Update(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}, x, "kube-system"); err != nil {
				return true, nil, err
			}
			return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "configmaps"}, "kube-proxy", nil)
		}
		return false, nil, nil
	})
	require.NoError(t, theConfigMap.change(t.Context(), client, change{"r", "config.conf", "ours", ""}))
	assert.Equal(t, 2, n)
	object, err := theConfigMap.get(t.Context(), client)
	require.NoError(t, err)
	u, err := undoOf(object)
	require.NoError(t, err)
	assert.Equal(t, "of another", u.Old)
	require.NoError(t, theConfigMap.change(t.Context(), client, change{"r", "config.conf", "ours", ""}), "it has been made already")
	assert.Equal(t, 2, n)
}

// Clean puts back what stands on a run's namespace, and what a run has changed
// whose namespace is gone: of nodes, and of the DaemonSet that it is told of; a namespace whose changes
// could not be put back stays.
func TestClean(t *testing.T) {
	missing := outside{configMap, "kube-system", "gone"}
	client := fake.NewClientset(append(changeable(), leftBy("p"), leftBy("q", missing), leftBy("r", theConfigMap, theNode), samplersOf("r"))...)
	require.NoError(t, theConfigMap.change(t.Context(), client, change{"r", "config.conf", "new", ""}))
	require.NoError(t, theNode.change(t.Context(), client, change{"another", "unschedulable", "true", ""}))
	require.NoError(t, theDaemonSet.change(t.Context(), client, change{"lost", "kube-proxy", "new", "now"}))
	c, did := cleanerOf(client)
	removed, err := c.clean(t.Context())
	assert.Equal(t, []string{"tablefull-p", "tablefull-r"}, removed)
	require.ErrorContains(t, err, "ConfigMap kube-system/gone")
	back := []string{"put back ConfigMap kube-system/kube-proxy", "read back: with of-r", "put back Node a"}
	assert.Equal(t, back, *did, "nodes are looked at, whoever has drained them")
	c.env.cfg.KubeProxy = types.NamespacedName{Namespace: "kube-system", Name: "kube-proxy"}
	removed, err = c.clean(t.Context())
	assert.Empty(t, removed)
	require.Error(t, err)
	assert.Equal(t, append(back, "put back DaemonSet kube-system/kube-proxy"), *did)
}

// leftBy is the namespace of a run that was killed.
func leftBy(name string, objects ...outside) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: "tablefull-" + name, Labels: map[string]string{managedBy: managedByUs, runLabel: name}, Annotations: map[string]string{changesAnnotation: formatOutsides(objects)},
	}}
}

func samplersOf(run string) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: samplerName, Namespace: "tablefull-" + run},
		Spec:       appsv1.DaemonSetSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "of-" + run}}}}},
	}
}

// cleanerOf notes what it has done, and which image it would read settings with.
func cleanerOf(client kubernetes.Interface) (*cleaner, *[]string) {
	did := &[]string{}
	return &cleaner{
		env: &Env{client: client}, did: func(what string) { *did = append(*did, what) },
		read: func(_ context.Context, image string, _ conntrackSection) ([]string, error) {
			return []string{"with " + image}, nil
		},
	}, did
}

// A namespace stays until the nodes have been seen to have their settings again,
// whoever has put these back. Where a run had not come so far as to change any,
// nothing is read.
func TestCleanReadsBack(t *testing.T) {
	client := fake.NewClientset(append(changeable(), leftBy("early", theConfigMap, theDaemonSet), leftBy("r", theConfigMap, theDaemonSet), samplersOf("r"), leftBy("watch"), samplersOf("watch"))...)
	client.PrependReactor("get", "daemonsets", func(a clienttesting.Action) (bool, runtime.Object, error) {
		assert.NotEqual(t, "tablefull-watch", a.GetNamespace(), "who may only watch may not ask for its image")
		return false, nil, nil
	})
	require.NoError(t, theConfigMap.change(t.Context(), client, change{"r", "config.conf", "new", ""}))
	c, did := cleanerOf(client)
	var want conntrackSection
	c.read = func(_ context.Context, _ string, section conntrackSection) ([]string, error) {
		want = section
		return []string{"node b"}, errors.New("node a is not")
	}
	removed, err := c.clean(t.Context())
	require.ErrorContains(t, err, "node a is not")
	assert.Equal(t, []string{"tablefull-early", "tablefull-watch"}, removed)
	assert.Equal(t, []string{"put back ConfigMap kube-system/kube-proxy", "read back: node b"}, *did)
	assert.Equal(t, 7*time.Hour, want.established, "as the old one says")
	c.read = func(context.Context, string, conntrackSection) ([]string, error) { return nil, nil }
	removed, err = c.clean(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"tablefull-r"}, removed)

	require.NoError(t, theConfigMap.change(t.Context(), client, change{"lost", "config.conf", "new", ""}))
	c.env.cfg.KubeProxy = types.NamespacedName{Namespace: "kube-system", Name: "kube-proxy"}
	_, err = c.clean(t.Context())
	require.ErrorContains(t, err, "no image", "its namespace is gone, with its own")
}

// A fakeNode has what its sampler reads, which may be something else later.
type fakeNode struct {
	name  string
	facts func() (env.Capabilities, error)
}

func (n fakeNode) Name() string                                    { return n.name }
func (n fakeNode) Facts(context.Context) (env.Capabilities, error) { return n.facts() }

// Every node that does not get its settings in time is named, with which.
func TestReadBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := conntrackSection{established: 24 * time.Hour, closeWait: time.Hour}
		has := func(established, closeWait float64) env.Capabilities {
			return env.Capabilities{Limit: 9, Timeouts: map[string]float64{establishedTimeout: established, closeWaitTimeout: closeWait}}
		}
		start := time.Now()
		later := fakeNode{"later", func() (env.Capabilities, error) {
			if time.Since(start) < time.Second {
				return has(1, 1), nil
			}
			return has(86400, 3600), nil
		}}
		var noted []string
		note := func(n fakeNode, _ env.Capabilities) { noted = append(noted, n.name) }
		require.NoError(t, readBack(t.Context(), []fakeNode{later}, want, note))
		assert.Equal(t, []string{"later"}, noted)
		err := readBack(t.Context(), []fakeNode{
			{"b", func() (env.Capabilities, error) { return has(7200, 3600), nil }},
			later,
			{"a", func() (env.Capabilities, error) { return has(7200, 90), nil }},
			{"c", func() (env.Capabilities, error) { return env.Capabilities{}, errors.New("it is silent") }},
		}, want, note)
		assert.EqualError(t, err, "read settings of node a back: nf_conntrack_tcp_timeout_established is 7200, and kube-proxy's configuration makes it 86400; "+
			"nf_conntrack_tcp_timeout_close_wait is 90, and kube-proxy's configuration makes it 3600\n"+
			"read settings of node b back: nf_conntrack_tcp_timeout_established is 7200, and kube-proxy's configuration makes it 86400\n"+
			"read settings of node c back: it is silent")
		assert.Equal(t, []string{"later", "later"}, noted)
		assert.Equal(t, "nf_conntrack_max 9 (which kube-proxy leaves alone), nf_conntrack_tcp_timeout_established 86400, nf_conntrack_tcp_timeout_close_wait 3600, as kube-proxy's ConfigMap makes it", want.told(has(86400, 3600)))
	})
}

func TestParseOutside(t *testing.T) {
	all := []outside{theConfigMap, theDaemonSet, theNode}
	got, err := parseOutsides(formatOutsides(all))
	require.NoError(t, err)
	assert.Equal(t, all, got)
	for _, bad := range []string{"Secret a/b", "Node a/b", "ConfigMap b", "DaemonSet a/", "Node", " "} {
		_, err := parseOutside(bad)
		assert.Error(t, err, bad)
	}
}

// Where kube-proxy is not what is expected, it is said how.
func TestReadProxySet(t *testing.T) {
	read := func(change func(*appsv1.DaemonSet)) (proxySet, error) {
		ds := changeable()[1].(*appsv1.DaemonSet)
		change(ds)
		return readProxySet(ds)
	}
	pod := func(ds *appsv1.DaemonSet) *corev1.PodSpec { return &ds.Spec.Template.Spec }
	p, err := read(func(*appsv1.DaemonSet) {})
	require.NoError(t, err)
	assert.Equal(t, proxySet{container: "kube-proxy", key: "config.conf"}, p)
	p, err = read(func(ds *appsv1.DaemonSet) {
		pod(ds).Containers[0].Command = []string{"kube-proxy", "--config", "/var/lib/kube-proxy/conf"}
		pod(ds).Volumes[0].ConfigMap.Items = []corev1.KeyToPath{{Key: "x", Path: "other"}, {Key: "y", Path: "conf"}}
	})
	require.NoError(t, err)
	assert.Equal(t, "y", p.key)
	for says, change := range map[string]func(*appsv1.DaemonSet){
		"without --config":  func(ds *appsv1.DaemonSet) { pod(ds).Containers[0].Command = nil },
		"in no ConfigMap":   func(ds *appsv1.DaemonSet) { pod(ds).Volumes[0].ConfigMap = nil },
		"ConfigMap eks":     func(ds *appsv1.DaemonSet) { pod(ds).Volumes[0].ConfigMap.Name = "eks" },
		"config.conf is in": func(ds *appsv1.DaemonSet) { pod(ds).Containers[0].VolumeMounts = nil },
	} {
		p, err := read(change)
		require.NoError(t, err)
		assert.Empty(t, p.key, says)
		assert.Contains(t, p.whyNot, says)
	}
	for says, change := range map[string]func(*appsv1.DaemonSet){
		"OnDelete": func(ds *appsv1.DaemonSet) { ds.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType },
		"no container": func(ds *appsv1.DaemonSet) {
			pod(ds).Containers = []corev1.Container{{Name: "a"}, {Name: "b"}}
		},
	} {
		_, err := read(change)
		assert.ErrorContains(t, err, says)
	}
	e := &Env{client: fake.NewClientset(), cfg: Config{}}
	_, err = e.proxyDaemonSet(t.Context())
	require.ErrorContains(t, err, "--kube-proxy")
	e.cfg.KubeProxy.Namespace, e.cfg.KubeProxy.Name = "kube-system", "kube-proxy"
	_, err = e.proxyDaemonSet(t.Context())
	require.ErrorContains(t, err, "there is no DaemonSet kube-system/kube-proxy")
}

func TestWithTag(t *testing.T) {
	for image, want := range map[string]string{
		"registry.k8s.io/kube-proxy:v1.36.3":            "registry.k8s.io/kube-proxy:v2",
		"registry:5000/kube-proxy":                      "registry:5000/kube-proxy:v2",
		"registry:5000/kube-proxy:v1@sha256:0123456789": "registry:5000/kube-proxy:v2",
		"kube-proxy": "kube-proxy:v2",
	} {
		assert.Equal(t, want, withTag(image, "v2"), image)
	}
}

func TestNotRolledOut(t *testing.T) {
	ds := func(seen int64, updated, ready, available int32) *appsv1.DaemonSet {
		return &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Status: appsv1.DaemonSetStatus{
			ObservedGeneration: seen, DesiredNumberScheduled: 3, UpdatedNumberScheduled: updated, NumberReady: ready, NumberAvailable: available,
		}}
	}
	assert.Contains(t, notRolledOut(ds(1, 3, 3, 3)), "has not seen")
	assert.Equal(t, "2 of 3 pods are new", notRolledOut(ds(2, 2, 3, 3)))
	assert.Equal(t, "2 of 3 pods are ready", notRolledOut(ds(2, 3, 2, 3)))
	assert.Equal(t, "1 of 3 pods are ready", notRolledOut(ds(2, 3, 3, 1)))
	assert.Empty(t, notRolledOut(ds(2, 3, 3, 3)))
}

// Only what putting the configuration back puts back is changed.
func TestUndoableOn(t *testing.T) {
	node := env.Capabilities{CPUs: 2, Limit: 131072, Buckets: 65536, Timeouts: map[string]float64{establishedTimeout: 86400, closeWaitTimeout: 3600}}
	was := conntrackSection{32768, 131072, 24 * time.Hour, time.Hour}
	assert.Empty(t, was.differs(node))
	for _, c := range []struct {
		says   string
		change func(was, want *conntrackSection, n *env.Capabilities)
	}{
		{"", func(_, want *conntrackSection, _ *env.Capabilities) { want.established = time.Hour }},
		{"", func(_, want *conntrackSection, _ *env.Capabilities) { want.min = 262144 }},
		{"nf_conntrack_max alone", func(was, want *conntrackSection, _ *env.Capabilities) { was.maxPerCore, want.min = 0, 200000 }},
		{"nf_conntrack_max is 262144", func(_, want *conntrackSection, n *env.Capabilities) { want.min, n.Limit = 200000, 262144 }},
		{"hash table of 65536", func(_, want *conntrackSection, _ *env.Capabilities) { want.min = 300000 }},
		{"close_wait is 60", func(_, want *conntrackSection, n *env.Capabilities) {
			want.closeWait = time.Minute
			n.Timeouts = map[string]float64{establishedTimeout: 86400, closeWaitTimeout: 60}
		}},
		{"nf_conntrack_max is 1 and", func(_, want *conntrackSection, n *env.Capabilities) { want.established, n.Limit = time.Hour, 1 }}, // a restart would make it 131072
		{"", func(was, want *conntrackSection, n *env.Capabilities) {
			want.established, n.Limit, was.maxPerCore, want.maxPerCore = time.Hour, 1, 0, 0
		}},
	} {
		was, want, n := was, was, node
		c.change(&was, &want, &n)
		err := undoableOn(n, was, want)
		if c.says == "" {
			assert.NoError(t, err)
		} else {
			assert.ErrorContains(t, err, c.says)
		}
	}
	want := was
	want.closeWait = time.Minute
	assert.Equal(t, "nf_conntrack_tcp_timeout_close_wait is 3600, and kube-proxy's configuration makes it 60", want.differs(node))
	want = was
	want.min = 5
	want.maxPerCore = 7
	assert.Contains(t, want.differs(node), "nf_conntrack_max is 131072, and kube-proxy's configuration makes it 14")
}

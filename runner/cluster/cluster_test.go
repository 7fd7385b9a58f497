package cluster

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/scenarios"
)

func testSettings() settings {
	return settings{
		namespace: "tablefull-r", run: "r", token: "secret", image: "image:1", port: 61001, nodes: []string{"a", "b"},
		services: []scenarios.Service{
			{Name: "web", Protocol: "tcp", Port: 80, PortCount: 2, Pods: 3},
			{Name: "dns", Protocol: "udp", Port: 5353, PortCount: 1},
		},
	}
}

// Everything is in the run's namespace, carries its labels, and may do what it
// needs and nothing else.
func TestObjects(t *testing.T) {
	objects, err := testSettings().objects(allFiles()...)
	require.NoError(t, err)
	kinds := map[string]int{}
	for _, o := range objects {
		m := o.(metav1.Object)
		kind := o.GetObjectKind().GroupVersionKind().Kind
		kinds[kind]++
		assert.Equal(t, "r", m.GetLabels()[runLabel], kind)
		assert.Equal(t, managedByUs, m.GetLabels()[managedBy], kind)
		if kind == "Namespace" {
			assert.Equal(t, "tablefull-r", m.GetName())
		} else {
			assert.Equal(t, "tablefull-r", m.GetNamespace(), kind)
		}
		switch o := o.(type) {
		case *appsv1.DaemonSet:
			checkPod(t, o.Spec.Template, []corev1.Capability{"NET_ADMIN"})
			assert.True(t, o.Spec.Template.Spec.HostNetwork)
			assert.Contains(t, o.Spec.Template.Spec.Containers[0].Args, "--listen=tcp:127.0.0.1:61001", "on loopback alone: it is the node's network")
		case *batchv1.Job:
			checkPod(t, o.Spec.Template, nil)
			assert.Equal(t, int32(2), *o.Spec.Completions)
			assert.Equal(t, int32(2), *o.Spec.Parallelism)
			assert.Len(t, o.Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, 2)
		case *appsv1.Deployment:
			checkPod(t, o.Spec.Template, nil)
			assert.Equal(t, o.Spec.Selector.MatchLabels[nameLabel], o.Name)
			assert.Equal(t, o.Name == "web", len(o.Spec.Template.Spec.SecurityContext.Sysctls) == 1, "for ports below 1024")
		}
	}
	assert.Equal(t, map[string]int{"Namespace": 1, "Secret": 1, "ServiceAccount": 3, "DaemonSet": 1, "Job": 1, "Deployment": 2, "Service": 2}, kinds)
}

// What pauses kube-proxy is there for a scenario that does, on the nodes that
// traffic enters by, and may do that and nothing else.
func TestPauser(t *testing.T) {
	s := testSettings()
	assert.NotContains(t, s.files(), pauserFile)
	s.pauses = pauses([]scenarios.Action{{ResumeProxy: &scenarios.Simple{}}})
	assert.False(t, s.pauses, "there is nothing to resume")
	s.pauses = pauses([]scenarios.Action{{PauseProxy: &scenarios.Simple{}}})
	assert.Contains(t, s.files(), pauserFile)
	objects, err := s.objects(pauserFile)
	require.NoError(t, err)
	require.Len(t, objects, 2)
	ds := objects[1].(*appsv1.DaemonSet)
	assert.Equal(t, pauserName, ds.Name)
	assert.Equal(t, pauserName, ds.Spec.Template.Labels[componentLabel])
	pod := ds.Spec.Template.Spec
	checkSecurity(t, ds.Spec.Template, []corev1.Capability{"KILL"})
	assert.True(t, pod.HostPID)
	assert.False(t, pod.HostNetwork)
	require.Len(t, pod.Volumes, 1)
	assert.NotNil(t, pod.Volumes[0].EmptyDir, "which outlasts the container")
	assert.Subset(t, pod.Containers[0].Args, []string{"--listen=tcp:127.0.0.1:61001", "--lonely=20s", "--stopped=" + stoppedFile})
	assert.Equal(t, on([]string{"a", "b"}), pod.Affinity.NodeAffinity)
}

func checkPod(t *testing.T, pod corev1.PodTemplateSpec, capabilities []corev1.Capability) {
	t.Helper()
	checkSecurity(t, pod, capabilities)
	c := pod.Spec.Containers[0]
	assert.False(t, pod.Spec.HostPID)
	assert.Contains(t, c.Args, "--lonely=1m")
	if c.ReadinessProbe != nil {
		if probe := c.ReadinessProbe; probe.HTTPGet != nil {
			assert.Equal(t, 61001, probe.HTTPGet.Port.IntValue())
		} else {
			assert.Equal(t, 61001, probe.TCPSocket.Port.IntValue())
		}
	}
}

func checkSecurity(t *testing.T, pod corev1.PodTemplateSpec, capabilities []corev1.Capability) {
	t.Helper()
	assert.False(t, *pod.Spec.AutomountServiceAccountToken)
	require.Len(t, pod.Spec.Containers, 1)
	c := pod.Spec.Containers[0]
	assert.Equal(t, "image:1", c.Image)
	assert.True(t, *c.SecurityContext.ReadOnlyRootFilesystem)
	assert.False(t, *c.SecurityContext.AllowPrivilegeEscalation)
	assert.Nil(t, c.SecurityContext.Privileged)
	assert.Equal(t, []corev1.Capability{"ALL"}, c.SecurityContext.Capabilities.Drop)
	assert.Equal(t, capabilities, c.SecurityContext.Capabilities.Add)
	assert.Equal(t, corev1.SeccompProfileTypeRuntimeDefault, c.SecurityContext.SeccompProfile.Type)
	assert.NotContains(t, strings.Join(c.Args, " "), "10399")
}

func TestPorts(t *testing.T) {
	s := testSettings()
	assert.Equal(t, "80 TCP, 81 TCP", portsOf(s.ports(s.services[0])))
	assert.Equal(t, "5353 UDP", portsOf(s.ports(s.services[1])))
	draws := []int{7, 8}
	taken := []scenarios.Service{{Port: 61007, PortCount: 1}}
	assert.Equal(t, 61008, freePort(taken, func(int) int { d := draws[0]; draws = draws[1:]; return d }), "not a service's own")
}

func portsOf(ports []corev1.ServicePort) string {
	var out []string
	for _, p := range ports {
		if p.Name != "agent" {
			out = append(out, p.TargetPort.String()+" "+string(p.Protocol))
		}
	}
	return strings.Join(out, ", ")
}

// What a cluster cannot do is refused by its name; the rest of the library is
// not.
func TestRefusals(t *testing.T) {
	for name, want := range map[string]string{
		"short-lived": "", "healthy": "", "idle": "", "dns-flood": "", "gateway": "",
		"syn-flood": "flood", "stale-rules": "--kube-proxy", "rollout-termination-race": "lab.proxy", "scale-to-zero-udp": "", "port-reuse-rollout": "source_ports",
	} {
		s, _, err := scenarios.Load(name, nil)
		require.NoError(t, err)
		got := strings.Join(Refusals(s, false), "\n")
		if want == "" {
			assert.Empty(t, got, name)
		} else {
			assert.Contains(t, got, want, name)
		}
	}
}

// So is every setting of the lab's own network, one by one.
func TestRefusedSettings(t *testing.T) {
	for name, set := range map[string]func(s *scenarios.Scenario){
		"lab.kernel":    func(s *scenarios.Scenario) { s.Lab.Kernel = "private" },
		"lab.proxy":     func(s *scenarios.Scenario) { s.Lab.Proxy.Masquerade = true },
		"lab.tunnel":    func(s *scenarios.Scenario) { s.Lab.Tunnel = &scenarios.Tunnel{} },
		"conntrack.max": func(s *scenarios.Scenario) { s.Conntrack.Max = new(int64) },
		"conntrack.timeouts": func(s *scenarios.Scenario) {
			s.Conntrack.Timeouts = map[string]scenarios.Duration{"tcp_timeout_time_wait": 1}
		},
		"services[0].headless":          func(s *scenarios.Scenario) { s.Services[0].Headless = true },
		"services[0].notrack":           func(s *scenarios.Scenario) { s.Services[0].Notrack = true },
		"services[0].port_count":        func(s *scenarios.Scenario) { s.Services[0].PortCount = maxPorts + 1 },
		"services[0].server.behaviour":  func(s *scenarios.Scenario) { s.Services[0].Server.Behaviour = "gone" },
		"traffic[0].short_lived.source": func(s *scenarios.Scenario) { s.Traffic[0].ShortLived.SourcePorts = &scenarios.SourcePorts{Fixed: 1} },
	} {
		s, _, err := scenarios.Load("short-lived", nil)
		require.NoError(t, err)
		set(s)
		refused := Refusals(s, false)
		require.Len(t, refused, 1, name)
		assert.Contains(t, refused[0], name)
	}
}

func TestNotReady(t *testing.T) {
	status := func(c ...corev1.ContainerStatus) corev1.PodStatus { return corev1.PodStatus{ContainerStatuses: c} }
	waiting := func(reason string) corev1.ContainerStatus {
		return corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
	}
	condition := func(kind corev1.PodConditionType, is corev1.ConditionStatus) corev1.PodStatus {
		return corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: kind, Status: is, Message: "0/2 nodes are available"}}}
	}
	for _, c := range []struct {
		status corev1.PodStatus
		why    string
		final  bool
	}{
		{condition(corev1.PodReady, corev1.ConditionTrue), "", false},
		{condition(corev1.PodScheduled, corev1.ConditionFalse), "0/2 nodes are available", false},
		{status(waiting("ContainerCreating")), "it is starting", false},
		{status(waiting("ErrImagePull")), "ErrImagePull", false},
		{status(waiting("ErrImageNeverPull")), "ErrImageNeverPull", true},
		{status(corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}}), "it ended with exit code 1", true},
	} {
		why, final := notReady(corev1.Pod{Status: c.status})
		assert.Equal(t, c.why, strings.TrimSpace(why))
		assert.Equal(t, c.final, final)
	}
}

// Actions are done or refused by their names, each with its reason.
func TestRefusedActions(t *testing.T) {
	for _, c := range []struct {
		action  scenarios.Action
		restart bool
		says    string
	}{
		{action: scenarios.Action{Rollout: &scenarios.Rollout{}}},
		{action: scenarios.Action{Scale: &scenarios.Scale{}}},
		{action: scenarios.Action{DeletePod: &scenarios.DeletePod{}}},
		{action: scenarios.Action{Ballast: &scenarios.Refill{}}},
		{action: scenarios.Action{DrainNode: &scenarios.Simple{}}},
		{action: scenarios.Action{UncordonNode: &scenarios.Simple{}}},
		{action: scenarios.Action{RestartProxy: &scenarios.RestartProxy{}}, restart: true},
		{action: scenarios.Action{RestartProxy: &scenarios.RestartProxy{}}, says: "--kube-proxy"},
		{action: scenarios.Action{RestartProxy: &scenarios.RestartProxy{Clean: true}}, restart: true, says: "clean"},
		{action: scenarios.Action{RestartProxy: &scenarios.RestartProxy{Down: 1}}, restart: true, says: "down"},
		{action: scenarios.Action{PauseProxy: &scenarios.Simple{}}, says: "--kube-proxy"},
		{action: scenarios.Action{PauseProxy: &scenarios.Simple{}}, restart: true},
		{action: scenarios.Action{ResumeProxy: &scenarios.Simple{}}, restart: true},
		{action: scenarios.Action{UpgradeProxy: &scenarios.Proxy{Binary: "v1.2.3", Mode: "nftables"}}, restart: true},
		{action: scenarios.Action{UpgradeProxy: &scenarios.Proxy{Binary: "v1.2.3"}}, says: "--kube-proxy"},
		{action: scenarios.Action{UpgradeProxy: &scenarios.Proxy{Binary: "/a/file"}}, restart: true, says: "another version"},
		{action: scenarios.Action{UpgradeProxy: &scenarios.Proxy{Binary: "v1.2.3", Mode: "ipvs"}}, restart: true, says: "binary alone"},
		{action: scenarios.Action{Nodes: []string{"node1"}, UpgradeProxy: &scenarios.Proxy{Binary: "v1.2.3"}}, restart: true, says: "all nodes"},
		{action: scenarios.Action{Flush: &scenarios.Flush{}}, says: "everybody"},
		{action: scenarios.Action{SetSysctl: &scenarios.SetSysctl{}}, says: "settings"},
		{action: scenarios.Action{ConntrackSettings: &scenarios.ConntrackSettings{Min: new(int64(1))}}, restart: true},
		{action: scenarios.Action{ConntrackSettings: &scenarios.ConntrackSettings{Min: new(int64(1))}}, says: "--kube-proxy"},
		{action: scenarios.Action{ConntrackSettings: &scenarios.ConntrackSettings{Max: new(int64(1))}}, restart: true, says: "max_per_core and min"},
		{action: scenarios.Action{ConntrackSettings: &scenarios.ConntrackSettings{BeLiberal: new(true)}}, restart: true, says: "be_liberal"},
		{action: scenarios.Action{Nodes: []string{"node1"}, ConntrackSettings: &scenarios.ConntrackSettings{Min: new(int64(1))}}, restart: true, says: "all nodes"},
		{action: scenarios.Action{ConntrackSettings: &scenarios.ConntrackSettings{Timeouts: map[string]scenarios.Duration{"udp_timeout": 1}}}, restart: true, says: "timeouts.udp_timeout"},
		{action: scenarios.Action{HoldXtablesLock: &scenarios.HoldXtablesLock{}}, says: "lock"},
		{says: "not known"},
	} {
		why := refusedAction(c.action, c.restart)
		if c.says == "" {
			assert.Empty(t, why)
			continue
		}
		assert.Contains(t, why, c.says)
	}
}

// An action is done to the nodes that traffic enters by, and to no other, whatever
// is named.
func TestChosen(t *testing.T) {
	l := &Lab{settings: settings{nodes: []string{"a", "b"}}}
	assert.Equal(t, []string{"a", "b"}, l.chosen(nil))
	assert.Equal(t, []string{"b"}, l.chosen([]string{"c", "b"}))
	assert.Equal(t, []string{"a", "b"}, l.settings.nodes)
}

// An action is over when no old pod is left and all that there shall be are
// ready.
func TestUnsettled(t *testing.T) {
	pod := func(uid string, ready, going bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: uid, UID: types.UID(uid)}}
		if ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		if going {
			p.DeletionTimestamp = &metav1.Time{}
		}
		return p
	}
	old := []*corev1.Pod{pod("a", true, false)}
	for _, c := range []struct {
		now  []*corev1.Pod
		says string
	}{
		{[]*corev1.Pod{pod("b", true, false)}, ""},
		{[]*corev1.Pod{pod("a", true, false)}, "still there: a"},
		{[]*corev1.Pod{pod("b", true, false), pod("c", true, true)}, "still there: c"},
		{[]*corev1.Pod{pod("b", false, false)}, "not ready: b"},
		{nil, "0 of 1 are there"},
	} {
		assert.Equal(t, c.says, unsettled(c.now, old, 1))
	}
}

// What conditions leave out is what Kubernetes says it is.
func TestEndpointStates(t *testing.T) {
	slice := func(e ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{Endpoints: e}
	}
	got := endpointStates([]*discoveryv1.EndpointSlice{
		slice(discoveryv1.Endpoint{
			Addresses: []string{"10.0.0.2"}, NodeName: new("n"), TargetRef: &corev1.ObjectReference{Name: "p2"},
			Conditions: discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)},
		}),
		slice(discoveryv1.Endpoint{Addresses: []string{"10.0.0.1"}}),
	})
	assert.Equal(t, []runlog.EndpointState{
		{Name: "10.0.0.1", Addr: netip.MustParseAddr("10.0.0.1"), Ready: true, Serving: true},
		{Name: "p2", Addr: netip.MustParseAddr("10.0.0.2"), Node: "n", Serving: true, Terminating: true},
	}, got)
}

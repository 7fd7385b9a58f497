package scenarios

import (
	"fmt"
	"time"
)

// Lifecycle is how pods come and go, in Kubernetes' words.
type Lifecycle struct {
	ReadyAfter Duration `yaml:"ready_after,omitempty" json:"ready_after,omitempty" jsonschema_description:"Time from the start of a pod until it is ready. Default 0s: as soon as it listens."`
	PreStop    Duration `yaml:"pre_stop,omitempty" json:"pre_stop,omitempty" jsonschema_description:"A preStop hook that sleeps this long before SIGTERM; the endpoint is terminating meanwhile. Default 0s."`
	Grace      Duration `yaml:"grace,omitempty" json:"grace,omitempty" jsonschema_description:"terminationGracePeriodSeconds: from the deletion (preStop included) to SIGKILL. Default 30s."`
	OnSIGTERM  string   `yaml:"on_sigterm,omitempty" json:"on_sigterm,omitempty" jsonschema:"enum=drain,enum=close,enum=ignore" jsonschema_description:"drain: no new connections; answers those it has, and ends when they are closed. close: resets all it has and ends at once. ignore: goes on as before until SIGKILL. Default drain."`
}

// Action is something that happens to the cluster. Exactly one kind is set.
type Action struct {
	Name    string   `yaml:"name,omitempty" jsonschema_description:"Name in reports. Default: the kind, with a number where there are several."`
	At      Duration `yaml:"at,omitempty" jsonschema_description:"Run time at which it begins. Default 0s."`
	Every   Duration `yaml:"every,omitempty" jsonschema_description:"Again and again, this long from one beginning to the next; one that is still going on makes the next wait. Default 0s: once."`
	Count   int      `yaml:"count,omitempty" jsonschema_description:"With every: how often in all. Default 0: to the end of the run."`
	Timeout Duration `yaml:"timeout,omitempty" jsonschema_description:"How long it may take. Default 5m."`
	Nodes   []string `yaml:"nodes,omitempty" jsonschema_description:"For what is done to a node or its proxy: which ones. Absent: all."`

	Rollout           *Rollout           `yaml:"rollout,omitempty" jsonschema_description:"Replace all pods of a service, as a Deployment's rolling update."`
	Scale             *Scale             `yaml:"scale,omitempty" jsonschema_description:"Change the number of pods of a service."`
	DeletePod         *DeletePod         `yaml:"delete_pod,omitempty" jsonschema_description:"Delete pods of a service; the Deployment replaces them."`
	RestartProxy      *RestartProxy      `yaml:"restart_proxy,omitempty" jsonschema_description:"End the node's proxy and start it anew."`
	PauseProxy        *Simple            `yaml:"pause_proxy,omitempty" jsonschema_description:"Stop the node's proxy (SIGSTOP): its rules stay as they are and grow stale. On a cluster it goes on at the end of the run at the latest."`
	ResumeProxy       *Simple            `yaml:"resume_proxy,omitempty" jsonschema_description:"Let a paused proxy go on."`
	DrainNode         *Simple            `yaml:"drain_node,omitempty" jsonschema_description:"On a cluster only: cordon the node and evict the run's own pods from it, as kubectl drain does. Pods of others stay. It is uncordoned at the end of the run at the latest."`
	UncordonNode      *Simple            `yaml:"uncordon_node,omitempty" jsonschema_description:"On a cluster only: let pods come to a node again that the run has drained."`
	UpgradeProxy      *Proxy             `yaml:"upgrade_proxy,omitempty" jsonschema_description:"Put another proxy in its place: another binary, or another mode."`
	Ballast           *Refill            `yaml:"ballast,omitempty" jsonschema_description:"Change how much of the table is filled with ballast."`
	Flush             *Flush             `yaml:"flush,omitempty" jsonschema_description:"Delete entries from the node's table, as conntrack -D or -F does."`
	SetSysctl         *SetSysctl         `yaml:"set_sysctl,omitempty" jsonschema_description:"Change settings of the node's network namespace."`
	ConntrackSettings *ConntrackSettings `yaml:"conntrack_settings,omitempty" jsonschema_description:"Change the node's connection tracking as an administrator does with sysctl, while traffic flows: the limit, timeouts, be_liberal. What a kube-proxy writes at its start is in lab.proxy.conntrack; upgrade_proxy with another such part is a change of its ConfigMap. On a cluster this action is that: max_per_core, min and the timeouts tcp_timeout_established and tcp_timeout_close_wait are written into kube-proxy's ConfigMap, rolled out, read back from the nodes, and put back at the end."`
	HoldXtablesLock   *HoldXtablesLock   `yaml:"hold_xtables_lock,omitempty" jsonschema_description:"Hold the lock that iptables-legacy, and a kube-proxy in mode iptables on top of it, take. The nf_tables variant of iptables has no lock; there the action fails."`
}

// Rollout is a rolling update.
type Rollout struct {
	Service        string `yaml:"service" jsonschema:"required" jsonschema_description:"Service whose pods are replaced."`
	MaxSurge       *int   `yaml:"max_surge,omitempty" jsonschema_description:"Pods there may be above the number wanted. Default 1."`
	MaxUnavailable int    `yaml:"max_unavailable,omitempty" jsonschema_description:"Pods that may be missing from the number wanted. Default 0."`
}

// Scale changes a number of pods.
type Scale struct {
	Service string `yaml:"service" jsonschema:"required" jsonschema_description:"Service whose number of pods changes."`
	To      int    `yaml:"to" jsonschema_description:"Pods there shall be; 0 leaves the service without endpoints."`
}

// DeletePod deletes pods.
type DeletePod struct {
	Service string `yaml:"service" jsonschema:"required" jsonschema_description:"Service whose pods are deleted."`
	Count   int    `yaml:"count,omitempty" jsonschema_description:"How many, the oldest first. Default 1."`
	Force   bool   `yaml:"force,omitempty" jsonschema_description:"Without grace: no preStop, no SIGTERM; the pod is killed and its network gone at once, while its endpoint is still programmed. Default false."`
}

// RestartProxy ends a proxy and starts it anew.
type RestartProxy struct {
	Clean bool     `yaml:"clean,omitempty" jsonschema_description:"Take its rules away in between, as kube-proxy --cleanup does. Default false: they stay."`
	Down  Duration `yaml:"down,omitempty" jsonschema_description:"How long it stays down. Default 0s."`
	// Rolling is what a DaemonSet's rolling update does with maxUnavailable: 1.
	Rolling bool `yaml:"rolling,omitempty" jsonschema_description:"One node after another, each when the one before has its proxy again: on a cluster, when its new pod is ready. Default false: all at once."`
}

// Simple is an action that has no settings: write {}.
type Simple struct{}

// Refill changes the ballast.
type Refill struct {
	Headroom int64 `yaml:"headroom" jsonschema:"required" jsonschema_description:"Entries that shall be free afterwards."`
}

// Flush deletes entries.
type Flush struct {
	Protocol string `yaml:"protocol,omitempty" jsonschema:"enum=tcp,enum=udp" jsonschema_description:"Only entries of this protocol. Default: all but ballast."`
}

// SetSysctl changes settings of a node.
type SetSysctl struct {
	Values map[string]string `yaml:"values" jsonschema:"required" jsonschema_description:"Values by name, for example net.netfilter.nf_conntrack_tcp_be_liberal: \"1\". Only settings of a network namespace: net.netfilter.nf_conntrack_ (not max and buckets), net.ipv4.vs., net.ipv4.ip_local_port_range and the like."`
	For    Duration          `yaml:"for,omitempty" jsonschema_description:"Put the old values back after this long. Default 0s: they stay to the end of the run."`
}

// ConntrackSettings changes what connection tracking of a node does.
type ConntrackSettings struct {
	Max      *int64              `yaml:"max,omitempty" jsonschema_description:"nf_conntrack_max from now on. There is one for all namespaces of a kernel, so it needs a private kernel (lab.kernel: private), or conntrack.max in the scenario, which says that the machine's may be written, as root. Journalled, read back, put back at the end."`
	Timeouts map[string]Duration `yaml:"timeouts,omitempty" jsonschema_description:"The node's conntrack timeouts by the kernel's names, for example tcp_timeout_time_wait: 30s. Whole seconds. An entry that is there keeps its time until its next packet."`
	// MaxPerCore and Min are what a kube-proxy makes the limit of.
	MaxPerCore *int64 `yaml:"max_per_core,omitempty" jsonschema_description:"On a cluster only: conntrack.maxPerCore of kube-proxy's ConfigMap, entries for each CPU of a node. In the lab write max, or lab.proxy.conntrack."`
	Min        *int64 `yaml:"min,omitempty" jsonschema_description:"On a cluster only: conntrack.min of kube-proxy's ConfigMap, the least limit it writes."`
	BeLiberal  *bool  `yaml:"be_liberal,omitempty" jsonschema_description:"nf_conntrack_tcp_be_liberal: true takes only resets outside of the window for INVALID."`
}

// HoldXtablesLock holds the lock of iptables.
type HoldXtablesLock struct {
	For Duration `yaml:"for" jsonschema:"required" jsonschema_description:"How long."`
}

// kinds are the names of the actions, as fields of [Action].
var kinds = []string{"rollout", "scale", "delete_pod", "restart_proxy", "pause_proxy", "resume_proxy", "drain_node", "uncordon_node", "upgrade_proxy", "ballast", "flush", "set_sysctl", "conntrack_settings", "hold_xtables_lock"}

// nameActions names those without a name after their kind, with a number from
// the second one of a kind on.
func (s *Scenario) nameActions() {
	taken := map[string]bool{}
	for _, a := range s.Actions {
		taken[a.Name] = true
	}
	for i := range s.Actions {
		a := &s.Actions[i]
		if a.Name != "" || a.Kind() == "" {
			continue
		}
		a.Name = a.Kind()
		for n := 2; taken[a.Name]; n++ {
			a.Name = fmt.Sprintf("%s-%d", a.Kind(), n)
		}
		taken[a.Name] = true
	}
}

func (a *Action) defaults() {
	orElse(&a.Timeout, Duration(5*time.Minute))
	if len(a.Nodes) == 0 {
		a.Nodes = nil
	}
	if r := a.Rollout; r != nil {
		orElse(&r.MaxSurge, new(1))
	}
	if d := a.DeletePod; d != nil {
		orElse(&d.Count, 1)
	}
	if p := a.UpgradeProxy; p != nil {
		p.defaults()
	}
	if s := a.SetSysctl; s != nil && len(s.Values) == 0 {
		s.Values = nil
	}
	if c := a.ConntrackSettings; c != nil && len(c.Timeouts) == 0 {
		c.Timeouts = nil
	}
}

// setKinds lists the kinds that are set; a valid action has exactly one.
func (a *Action) setKinds() []string {
	var set []string
	for i, is := range []bool{
		a.Rollout != nil, a.Scale != nil, a.DeletePod != nil, a.RestartProxy != nil, a.PauseProxy != nil, a.ResumeProxy != nil,
		a.DrainNode != nil, a.UncordonNode != nil, a.UpgradeProxy != nil, a.Ballast != nil, a.Flush != nil, a.SetSysctl != nil, a.ConntrackSettings != nil, a.HoldXtablesLock != nil,
	} {
		if is {
			set = append(set, kinds[i])
		}
	}
	return set
}

// Kind is the name of what the action does, as YAML spells it. Empty where
// nothing is set.
func (a *Action) Kind() string {
	if set := a.setKinds(); len(set) > 0 {
		return set[0]
	}
	return ""
}

// Package env is the contract between the runner and the places a scenario
// runs in: an Environment is probed and brought up as a Lab, which has Hosts,
// which run Jobs. A Job is data, never a closure, so that a process in a
// network namespace and a pod in a cluster satisfy the same contract.
//
// It is a leaf: it imports the scenario types and the run log, nothing else of
// ours.
package env

import (
	"context"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/scenarios"
)

// Role is what a host is for.
type Role string

const (
	Client Role = "client" // sends the traffic
	Node   Role = "node"   // forwards, tracks and NATs: its table is under test
	Pod    Role = "pod"    // answers
	Helper Role = "helper" // does to a node what its own agent may not; there is nothing of it to sample
)

// An Environment is a place that can run scenarios.
type Environment interface {
	// Name is lab or kubernetes.
	Name() string
	// Probe looks, and changes nothing.
	Probe(ctx context.Context) (Capabilities, error)
	// Up builds the topology and starts an agent on each host. When it fails
	// it has taken down what it had built. The Lab lives until Close, not
	// until ctx ends.
	Up(ctx context.Context, t Topology) (Lab, error)
}

// A Lab is a topology that is up.
type Lab interface {
	// Hosts in a stable order: the clients, the nodes, the pods.
	Hosts() []Host
	// Services as clients reach them.
	Services() []runlog.ServiceInfo
	// Entries are where traffic comes from and goes in, in order of the nodes.
	Entries() []Entry
	// Serve makes the services answer: proxies and servers. It returns when
	// all of them are ready. Epochs is run time 0 on each host's clock, for
	// all that these will record; out takes what is recorded of endpoints,
	// pods and actions here, whenever it happens, and hosts that come later.
	Serve(ctx context.Context, epochs map[string]int64, out Keeper) error
	// Audit is how to read what the named node's dataplane is programmed with,
	// less Every; nil where that cannot be done.
	Audit(node string) *AuditJob
	// Act does what an action says and returns when its effect is complete: a
	// rollout when the last old pod has gone. Several may go on at once. What
	// it has changed outside the lab's own hosts it has journalled and puts
	// back in Close.
	Act(ctx context.Context, a scenarios.Action) error
	// Close takes everything down and waits for it. It is idempotent.
	Close(ctx context.Context) error
}

// An Entry is a client host and the node that everything it sends goes through
// first, whose table it is tracked in and whose proxy translates it.
type Entry struct {
	Client Host
	Node   string
	Addresses
	// Other are those of the other family; zero where there is only one.
	Other Addresses
}

// Addresses are those of an entry, of one family.
type Addresses struct {
	// Sources are the addresses the client host may send from as a pod of the
	// cluster would, Outside those it sends from as somebody outside, and
	// Floods those that floods pretend to come from.
	Sources, Outside, Floods netip.Prefix
	// NodeAddr is the node's own address, where its node ports are.
	NodeAddr netip.Addr
}

// Towards are the entry's addresses of the family of addr.
func (e Entry) Towards(addr netip.Addr) Addresses {
	if has := e.Other.Sources.Addr(); has.IsValid() && has.Is4() == addr.Is4() {
		return e.Other
	}
	if has := e.Other.Outside.Addr(); has.IsValid() && has.Is4() == addr.Is4() {
		return e.Other
	}
	return e.Addresses
}

// A Part is one of several jobs among which the attempts of a traffic are
// dealt out: attempt k is of the part with Index k mod Of. The zero value has
// all.
type Part struct {
	Index int `json:"index"`
	Of    int `json:"of"`
}

// Has is how many of n things that are dealt out this part gets.
func (p Part) Has(n int) int {
	if p.Of <= 1 {
		return n
	}
	return max(0, n-p.Index+p.Of-1) / p.Of
}

// A Host runs an agent. Every call may block on the network and honours ctx.
type Host interface {
	Name() string
	Role() Role
	// Clock reads the agent's monotonic clock, in ns.
	Clock(ctx context.Context) (int64, error)
	// Start begins a job and returns when it is ready: listening, its first
	// sample taken, its ballast in place. A job that fails before that is the
	// error of Start.
	Start(ctx context.Context, j Job) error
	// Wait blocks until the job has ended by itself or by Stop, and returns
	// its error. A job that is unknown to the agent is an error.
	Wait(ctx context.Context, id string) error
	// Stop asks the job to end early, in order (an idle traffic closes its
	// connections, ballast is removed), and waits for that.
	Stop(ctx context.Context, id string) error
	// Update changes a running job. A job whose worker is no Updater refuses
	// it; so does one that has ended. It returns once the change is made.
	Update(ctx context.Context, id string, u Update) error
	// Records calls fn for each record from number `from` on, in order, and
	// follows until ctx ends, fn fails, or the agent has shut down (nil).
	// It reconnects by itself where the connection breaks. The agent need not
	// keep what fn took: no other call can count on those records.
	Records(ctx context.Context, from uint64, fn func(runlog.Record) error) error
	// Close asks the agent to end: its records are complete after that.
	Close(ctx context.Context) error
}

// Capability says whether something can be done here. Unknown is an answer:
// the probe itself failed.
type Capability struct {
	Name   string // userns, netns, ctnetlink, nftables, limit_writable, slabinfo, ...
	State  State
	Reason string // for No and Unknown: what is missing, and how to get it
}

// ProxyConfigMap is the capability to change kube-proxy's ConfigMap.
const ProxyConfigMap = "kube_proxy_configmap"

// State is a three-valued probe result.
type State string

const (
	Yes     State = "yes"
	No      State = "no"
	Unknown State = "unknown"
)

// Capabilities is what Probe found, in a stable order.
type Capabilities struct {
	List []Capability
	// Facts of the machine (lab) for the header.
	Kernel      string
	Arch        string
	CPUs        int
	MemoryBytes uint64
	Entries     uint64 // in that namespace's table now; 0 where none was looked at
	Limit       uint64
	Buckets     uint64
	EntryBytes  uint64 // slab object size of nf_conntrack; 0 where unreadable
	MaxFiles    uint64 // hard RLIMIT_NOFILE: sockets one host can hold
	// Private says that the kernel is the run's own: its global settings are
	// nobody else's.
	Private bool
	// Cluster says that the nodes are a cluster's: they were there before the
	// run and stay, and their tables have entries of others.
	Cluster  bool
	Timeouts map[string]float64
}

// Lookup returns the named capability; one that was not probed is Unknown.
func (c Capabilities) Lookup(name string) Capability {
	for _, x := range c.List {
		if x.Name == name {
			return x
		}
	}
	return Capability{Name: name, State: Unknown, Reason: "not probed"}
}

// Topology is what Up builds.
type Topology struct {
	RunID string
	// WorkDir is a directory of this run's own, for sockets and spools. Up
	// creates it and Close removes it.
	WorkDir string
	Lab     scenarios.Lab
	// Timeouts and other per-namespace sysctls for the nodes, by name below
	// net.netfilter, for example nf_conntrack_tcp_timeout_time_wait.
	NodeSysctls map[string]string
	Services    []scenarios.Service
	// Actions are what Act will be asked to do, so that where they change
	// something outside the lab's own hosts that can be noted before.
	Actions []scenarios.Action
	// Duration is how long traffic lasts.
	Duration time.Duration
	// FromOutside says that traffic goes to node ports.
	FromOutside bool
	// Slots is how many hosts to keep for the pods of a service that come and
	// go, by its name: at least as many as there ever are at once.
	Slots map[string]int
	// ReusePorts lets the client host take source ports that are in TIME_WAIT
	// (net.ipv4.tcp_tw_reuse=1 there), for traffic with its own port pool.
	ReusePorts bool
	// FirstNamespace puts the first node into the network namespace that the
	// kernel has from the beginning, the only one in which nf_conntrack_max can be
	// written (through Linux 6.18): only where the kernel is the run's own.
	FirstNamespace bool
}

// A Job is one piece of work for an agent. Exactly one pointer is set.
type Job struct {
	ID string `json:"id"` // unique in the run
	// Epoch is run time 0 on this agent's monotonic clock, ns.
	Epoch int64 `json:"epoch"`

	Load    *LoadJob    `json:"load,omitempty"`
	Serve   *ServeJob   `json:"serve,omitempty"`
	Sample  *SampleJob  `json:"sample,omitempty"`
	Census  *CensusJob  `json:"census,omitempty"`
	Ballast *BallastJob `json:"ballast,omitempty"`
	Autopsy *AutopsyJob `json:"autopsy,omitempty"`
	Proxy   *ProxyJob   `json:"proxy,omitempty"`
	Audit   *AuditJob   `json:"audit,omitempty"`
	Flush   *FlushJob   `json:"flush,omitempty"`
	Sysctl  *SysctlJob  `json:"sysctl,omitempty"`
	Lock    *LockJob    `json:"lock,omitempty"`
	Age     *AgeJob     `json:"age,omitempty"`

	ProxyMetrics *ProxyMetricsJob `json:"proxy_metrics,omitempty"`
	Pause        *PauseJob        `json:"pause,omitempty"`
}

// An Update is what a running job is told. Exactly one field is set, but for
// Down, which goes with a restart.
type Update struct {
	// Services replaces all that a proxy serves.
	Services []ServiceState `json:"services,omitempty"`
	// Proxy is done to a proxy as a process.
	Proxy ProxyOrder `json:"proxy,omitempty"`
	// Upgrade puts another proxy in a proxy's place: another binary or mode.
	// The old one ends without taking its rules away, as kube-proxy does.
	Upgrade *scenarios.Proxy `json:"upgrade,omitempty"`
	// Terminate asks a server to end as a SIGTERM does: what it does then is
	// in its Lifecycle. Its job ends when it has.
	Terminate bool `json:"terminate,omitempty"`
	// Headroom changes a ballast: so many entries shall be free.
	Headroom *uint64 `json:"headroom,omitempty"`
	// Down is how long, in s, a proxy that is restarted stays down.
	Down float64 `json:"down,omitempty"`
}

// ProxyOrder is what can be done to a proxy as a process.
type ProxyOrder string

const (
	// PauseProxy stops it (SIGSTOP): its rules stay as they are.
	PauseProxy ProxyOrder = "pause"
	// ResumeProxy lets it go on; it then hears of all it has missed.
	ResumeProxy ProxyOrder = "resume"
	// RestartProxy ends it and starts it anew; its rules stay meanwhile.
	RestartProxy ProxyOrder = "restart"
	// RestartProxyClean also takes its rules away in between.
	RestartProxyClean ProxyOrder = "restart_clean"
)

// ServiceState is one service and its endpoints, as an API server has them.
type ServiceState struct {
	Name     string     `json:"name"`
	Addr     netip.Addr `json:"addr"`     // its virtual address
	Protocol string     `json:"protocol"` // tcp, udp
	Port     uint16     `json:"port"`     // first one
	Ports    uint16     `json:"ports"`    // how many; pods use the same
	// NodePort is the first of as many ports of the nodes that lead to it; 0
	// for none. Local keeps what comes to them on the node that it came to:
	// externalTrafficPolicy Local. HealthCheck is where nodes say whether they
	// have ready pods for that; 0 for nowhere.
	NodePort    uint16 `json:"node_port,omitempty"`
	Local       bool   `json:"local,omitempty"`
	HealthCheck uint16 `json:"health_check,omitempty"`
	// Endpoints are its pods, with the conditions of their EndpointSlice.
	Endpoints []runlog.EndpointState `json:"endpoints"`
	// Headless has no virtual address to translate; Notrack is a headless
	// service whose connections are not to be tracked.
	Headless bool `json:"headless,omitempty"`
	Notrack  bool `json:"notrack,omitempty"`
}

// Usable are the endpoints that new connections go to.
func (s ServiceState) Usable() []runlog.EndpointState { return runlog.Usable(s.Endpoints) }

// UsableFrom are those that new connections to the node port of a node go to.
func (s ServiceState) UsableFrom(node string) []runlog.EndpointState {
	if s.Local {
		return runlog.UsableOn(node, s.Endpoints)
	}
	return s.Usable()
}

// ProxyJob is a node's service proxy: it makes connections to service
// addresses reach pods. It is ready once the kernel has the first rules. Stop
// ends it and leaves the rules, as the end of a kube-proxy does.
type ProxyJob struct {
	Proxy    scenarios.Proxy `json:"proxy"`
	Node     string          `json:"node"`      // its name
	NodeAddr netip.Addr      `json:"node_addr"` // its address
	IPv6     bool            `json:"ipv6,omitempty"`
	Clients  netip.Prefix    `json:"clients"` // whose address is masqueraded, if any is
	VIPs     netip.Prefix    `json:"vips"`    // where service addresses are from
	Services []ServiceState  `json:"services"`
	// Sysctls are set once there are rules: the settings of connection
	// tracking and of IPVS exist only from then on. Names are paths below
	// /proc/sys.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Untracked are UDP ports: datagrams to them are not tracked.
	Untracked []uint16 `json:"untracked,omitempty"`
	// WorkDir is for a proxy binary's files.
	WorkDir string `json:"work_dir,omitempty"`
}

// KubeProxyRules is the mode of an AuditJob that reads the rules of a kube-proxy
// that somebody else has started, in the mode that these show.
const KubeProxyRules = "kube-proxy"

// AuditJob reads what a node's dataplane is programmed with every Every
// seconds until Stop, and records it where it has changed.
type AuditJob struct {
	Every float64 `json:"every"` // s
	Mode  string  `json:"mode"`  // nftables, iptables, ipvs, KubeProxyRules
	// Services are the addresses to look for, of either family.
	Services []ServiceState `json:"services"`
	// Health are the node's health check ports, and Node is its name. They are asked
	// as often, and what they say is recorded where it has changed.
	Health []HealthPort `json:"health,omitempty"`
	Node   string       `json:"node,omitempty"`
}

// HealthPort is where a node says whether it has ready pods of a service.
type HealthPort struct {
	Service string         `json:"service"`
	Addr    netip.AddrPort `json:"addr"`
}

// LoadJob drives one traffic. It ends by itself Traffic.End plus the
// attempts' timeout after the epoch.
type LoadJob struct {
	Traffic scenarios.Traffic `json:"traffic"` // resolved: defaults applied
	Start   float64           `json:"start"`   // s of run time of the first possible due time
	End     float64           `json:"end"`     // s of run time; no attempt is due at or after it
	Target  netip.AddrPort    `json:"target"`
	// Part is this job's share of the traffic's attempts. All else of the job
	// but its schedule is this part's alone.
	Part Part `json:"part"`
	// Node is the node that its attempts enter by, which its records name;
	// empty where there is only one.
	Node string `json:"node,omitempty"`
	// Ports is how many consecutive destination ports from Target's on are used.
	Ports int `json:"ports"`
	// Targets is how many consecutive addresses from Target's on are used; 0
	// is 1. Only short_lived and idle know it.
	Targets int          `json:"targets,omitempty"`
	Sources netip.Prefix `json:"sources"`
	// Floods is where the source addresses of floods are from; the zero value
	// is all of 198.18.0.0/15 or 2001:2::/48.
	Floods netip.Prefix `json:"floods"`
	// SourceCount addresses of Sources are used, from its first host address on.
	SourceCount int    `json:"source_count"`
	Seed        uint64 `json:"seed"`
	// FailuresPerSecond bounds the Failure records; the rest are a Loss count.
	FailuresPerSecond int `json:"failures_per_second"`
	// LateAfter is how long after its due time, in s, a start counts as late;
	// 0 is 0.01.
	LateAfter float64 `json:"late_after,omitempty"`
	// Gateway and such do not concern the client: it sees a service.
}

// ServeJob is a server on a pod. It runs until Stop.
type ServeJob struct {
	Service  string           `json:"service"`
	Backend  string           `json:"backend"`  // the pod's name
	Protocol string           `json:"protocol"` // tcp, udp, http
	Addr     netip.AddrPort   `json:"addr"`     // to listen on
	Also     netip.Addr       `json:"also"`     // of the other family, to listen on at the same ports; zero for none
	Ports    int              `json:"ports"`    // consecutive ports from Addr's on
	Server   scenarios.Server `json:"server"`
	// Lifecycle says what Terminate does.
	Lifecycle scenarios.Lifecycle `json:"lifecycle"`
	// Upstream makes it a gateway: a reverse proxy to this address.
	Upstream netip.AddrPort     `json:"upstream"`
	Gateway  *scenarios.Gateway `json:"gateway,omitempty"`
}

// SampleJob reads this host's counters every Every seconds until Stop.
type SampleJob struct {
	Every     float64 `json:"every"`     // s
	Conntrack bool    `json:"conntrack"` // the table's counters: nodes only
	Machine   bool    `json:"machine"`   // CPU and slab: one host of a machine is enough
	// Own is without Machine: of all CPU time only Self, what sampling costs.
	Own bool `json:"own,omitempty"`
}

// CensusJob walks the table at most every Every seconds, less often where a
// walk would cost more than MaxCPU of one CPU, until Stop. It walks once more
// at the end.
type CensusJob struct {
	Every   float64 `json:"every"`   // s
	MaxCPU  float64 `json:"max_cpu"` // share of one CPU, for example 0.02
	Sources int     `json:"sources"` // heaviest sources to name
	// Services is how many of the destinations with most entries to name.
	Services int `json:"services,omitempty"`
	// Turnover counts what came and went between the walks.
	Turnover bool `json:"turnover,omitempty"`
	// Brief leaves out the walk at the end, and gives up one that goes on.
	Brief bool `json:"brief,omitempty"`
}

// BallastJob fills the table until Headroom entries are free, keeps the
// filling alive, and removes it at Stop. If the agent dies the entries expire
// by themselves within Timeout seconds.
type BallastJob struct {
	Headroom uint64  `json:"headroom"`
	Timeout  float64 `json:"timeout"` // s
	IPv6     bool    `json:"ipv6"`
}

// FlushJob deletes entries of this node's table and ends: those of Protocol
// (tcp or udp), or all where it is empty. Ballast stays.
type FlushJob struct {
	Protocol string `json:"protocol,omitempty"`
}

// AgeJob waits until the entries of connections to the addresses To, of
// services or, as a node translates them, of pods, have left this node's table,
// and ends: it looks from After seconds on, for Within seconds in all. Its event
// says what came of it.
type AgeJob struct {
	To     []netip.AddrPort `json:"to"`
	After  float64          `json:"after"`
	Within float64          `json:"within"`
}

// AgeID is the ID of the wait for a node's table.
func AgeID(node string) string { return "age/" + node }

// SysctlJob sets settings of this host's network namespace and reads each
// back. It ends at once; with For it first waits so many seconds, or until
// Stop, and puts back what was there.
type SysctlJob struct {
	Values map[string]string `json:"values"` // by name, for example net.netfilter.nf_conntrack_tcp_loose
	For    float64           `json:"for,omitempty"`
}

// LockJob holds a file's lock, as flock(2) does, for For seconds or until
// Stop. It is ready once it has it.
type LockJob struct {
	Path string  `json:"path"`
	For  float64 `json:"for"`
}

// ProxyMetricsJob records what the kube-proxy of this host says of itself: its
// metrics, every Every seconds until Stop.
type ProxyMetricsJob struct {
	At    netip.AddrPort `json:"at"`    // where it serves them
	Every float64        `json:"every"` // s
}

// PauseJob stops (SIGSTOP) the processes of a container on this host's machine,
// and is ready when all their threads stand. They go on (SIGCONT) at Stop, when
// the agent ends, and after For seconds at the latest; the job ends early where
// they have ended. The agent must see the machine's processes.
type PauseJob struct {
	Node      string `json:"node"`      // for the records
	Container string `json:"container"` // the id that the container runtime has given it
	Program   string `json:"program"`   // of its processes only those of this name, as /proc/PID/comm has it
	// For is the dead man's switch, s.
	For float64 `json:"for"`
	// Journal is the file that names what is stopped, written before that.
	Journal string `json:"journal"`
}

// XtablesLock is the file whose lock the iptables programs of a node take (as
// their XTABLES_LOCKFILE says) in place of /run/xtables.lock, which is the
// whole machine's.
func XtablesLock(workDir, node string) string {
	return filepath.Join(workDir, node+".xtables.lock")
}

// AuditID is the ID of the audit of a node's dataplane.
func AuditID(node string) string { return "audit/" + node }

// BallastID is the ID of the ballast job on a node.
func BallastID(node string) string { return "ballast/" + node }

// AutopsyJob looks up one failed tuple in this node's table and ends.
type AutopsyJob struct {
	Failure runlog.Failure `json:"failure"`
	Failed  float64        `json:"failed"` // run time at which the failure was recorded
}

// A Recorder takes an agent's records. Record does not block on the network;
// it fills in N and Host, and T where it is 0. It is safe for concurrent use.
type Recorder interface {
	Record(r runlog.Record)
}

// A Keeper is what a lab tells of what happens while it is up.
type Keeper interface {
	Recorder
	// Join takes a host that has come since Up into the run: its clock is
	// measured, its counters are sampled and its records are followed from now
	// on. Epoch is run time 0 on its clock. Such a host is among the lab's
	// Hosts until it has gone; where its end was meant, its Records end
	// without an error. It fails when the run is over.
	Join(ctx context.Context, h Host) (epoch int64, err error)
}

// A Worker is a running job. Run calls ready once, when the job is ready, and
// returns when the job has ended: by itself, or in order after ctx is done.
// Returning nil after ctx is done is a normal stop.
type Worker interface {
	Run(ctx context.Context, ready func(), out Recorder) error
}

// An Updater is a Worker that can be changed while it runs. Update may be
// called from the moment Run has called ready until Run returns.
type Updater interface {
	Update(ctx context.Context, u Update) error
}

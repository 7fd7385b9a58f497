package runlog

import (
	"net/netip"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Record is one line of a run log. N counts the records of one Host from 1
// without gaps, so a reader that lost its connection asks for N+1 and neither
// loses nor repeats anything.
//
// Exactly one of the pointers is set; Kind names it.
type Record struct {
	N    uint64 `json:"n"`
	Host string `json:"host"`
	// T is when the record was made, in seconds of run time: 0 is the moment
	// traffic begins, set-up is negative. The host's clock has already been
	// mapped to the controller's; see Clock for the error bound.
	T float64 `json:"t"`

	Header  *Header  `json:"header,omitempty"`
	Clock   *Clock   `json:"clock,omitempty"`
	Event   *Event   `json:"event,omitempty"`
	Bin     *Bin     `json:"bin,omitempty"`
	Latency *Latency `json:"latency,omitempty"`
	Failure *Failure `json:"failure,omitempty"`
	Held    *Held    `json:"held,omitempty"`
	Served  *Served  `json:"served,omitempty"`
	Sample  *Sample  `json:"sample,omitempty"`
	Census  *Census  `json:"census,omitempty"`
	Autopsy *Autopsy `json:"autopsy,omitempty"`
	Loss    *Loss    `json:"loss,omitempty"`
	Trailer *Trailer `json:"trailer,omitempty"`

	Endpoints *Endpoints `json:"endpoints,omitempty"`
	Dataplane *Dataplane `json:"dataplane,omitempty"`

	Trial *Trial `json:"trial,omitempty"`

	afterGap bool
}

// AfterGap says, of a record that came from a Reader, that the ones before it
// of the same host are missing.
func (r *Record) AfterGap() bool { return r.afterGap }

// Outcome is how one attempt ended, decided by errno, never by text.
type Outcome string

const (
	OK              Outcome = "ok"
	ConnectTimeout  Outcome = "connect_timeout"  // no SYN/ACK before the attempt's timeout, or ETIMEDOUT from connect
	ResponseTimeout Outcome = "response_timeout" // connected (or sent, for UDP), no complete answer in time
	Refused         Outcome = "refused"          // ECONNREFUSED
	Reset           Outcome = "reset"            // ECONNRESET, EPIPE
	Unreachable     Outcome = "unreachable"      // EHOSTUNREACH, ENETUNREACH
	NotPermitted    Outcome = "not_permitted"    // EPERM: a netfilter drop on the sender's own host
	Closed          Outcome = "closed"           // the peer closed before the whole answer was there
	BadResponse     Outcome = "bad_response"     // an answer that is not ours, or an HTTP status of 400 and up
	Other           Outcome = "other"            // any other errno; Failure.Errno has it
	Interrupted     Outcome = "interrupted"      // still going when the run ended: neither success nor failure
)

// NotStartedReason says why a due attempt was never begun. Such attempts are
// not failures of the system under test; they make a verdict inconclusive.
type NotStartedReason string

const (
	NoPorts  NotStartedReason = "ports"  // EADDRNOTAVAIL, EADDRINUSE: no free source tuple
	NoFiles  NotStartedReason = "files"  // EMFILE, ENFILE
	NoMemory NotStartedReason = "memory" // ENOMEM, ENOBUFS
	Behind   NotStartedReason = "behind" // the generator was too far behind its schedule
	Stopped  NotStartedReason = "stopped"
)

// A Bin counts the attempts of one traffic that were due in
// [Start, Start+Width). Bins are increments: an attempt that ends a second
// after it was due arrives in a later Bin record with the same Start, and
// readers add up. So a log cut at any moment is right up to that moment.
// Started - sum(Outcomes) attempts are still in flight.
type Bin struct {
	Traffic    string                      `json:"traffic"`
	Node       string                      `json:"node,omitempty"` // they entered by; empty where there is only one
	Start      float64                     `json:"start"`          // s of run time, a multiple of Width
	Width      float64                     `json:"width"`          // s, 0.1 unless the header says otherwise
	Due        uint64                      `json:"due,omitempty"`
	Started    uint64                      `json:"started,omitempty"`
	Late       uint64                      `json:"late,omitempty"` // started more than Header.LateAfter after they were due
	NotStarted map[NotStartedReason]uint64 `json:"not_started,omitempty"`
	Outcomes   map[Outcome]uint64          `json:"outcomes,omitempty"`
	// SYNs is how many SYNs (UDP: datagrams; flood: packets) the attempts
	// that failed without any answer had sent, retransmits included: the
	// packets that were lost on the way there or back.
	LostPackets uint64 `json:"lost_packets,omitempty"`
}

// Latency holds the times of the attempts that succeeded and were due in
// [Start, Start+Width), as HdrHistograms in microseconds (V2 compressed
// encoding, base64: any HdrHistogram library reads it). Like Bin it is an
// increment: readers merge.
type Latency struct {
	Traffic string  `json:"traffic"`
	Node    string  `json:"node,omitempty"` // they entered by; empty where there is only one
	Start   float64 `json:"start"`
	Width   float64 `json:"width"`             // s, 1
	FromDue string  `json:"from_due"`          // from when the attempt was due: what a user waits
	Started string  `json:"from_start"`        // from when it was started
	Connect string  `json:"connect,omitempty"` // TCP handshake alone, from the start

	due, started *hdrhistogram.PackedHistogram // see Histograms
	err          error
}

// A Failure is one failed (or not started) attempt. At most a bounded number
// per second is recorded one by one; all of them are in Bins, and a Loss
// record counts those that have no Failure record.
type Failure struct {
	Traffic    string           `json:"traffic"`
	Node       string           `json:"node,omitempty"` // it entered by; empty where there is only one
	Seq        uint64           `json:"seq"`            // of the attempt in its traffic, of those that entered by Node, from 0
	Due        float64          `json:"due"`
	Start      float64          `json:"start"`
	Outcome    Outcome          `json:"outcome,omitempty"`
	NotStarted NotStartedReason `json:"not_started,omitempty"`
	Errno      string           `json:"errno,omitempty"` // symbolic, for example ECONNRESET
	Phase      string           `json:"phase,omitempty"` // connect, request, response, held
	// Quiet is, for phase held, for how long in s nothing had been sent over the
	// connection before what failed: since its last answer, and with TCP
	// keep-alive not longer than its interval.
	Quiet   float64 `json:"quiet,omitempty"`
	Packets uint64  `json:"packets,omitempty"` // SYNs or datagrams sent without an answer
	Tuple   Tuple   `json:"tuple"`
}

// Tuple is a connection as its client sees it.
type Tuple struct {
	Proto string         `json:"proto"` // tcp, udp
	Src   netip.AddrPort `json:"src"`
	Dst   netip.AddrPort `json:"dst"`
}

// Held is the state of an idle traffic: how many connections it holds, and
// how many of them answered their last validation. Held without validation is
// not alive.
type Held struct {
	Traffic   string `json:"traffic"`
	Node      string `json:"node,omitempty"` // they entered by; empty where there is only one
	Open      uint64 `json:"open"`
	Validated uint64 `json:"validated"` // answered a request since the last validation round began
	Lost      uint64 `json:"lost"`      // were open once and failed since, cumulative
	// Closing is of those that are closed at a rate; nil before it begins.
	Closing *Closing `json:"closing,omitempty"`
}

// Closing is the tear-down of held connections so far. One is torn down when
// both sides have sent FIN: the client's, and within the timeout the server's.
type Closing struct {
	Due     uint64  `json:"due"`               // were to be closed
	Closed  uint64  `json:"closed"`            // torn down
	Failed  uint64  `json:"failed"`            // were not there any more, or not torn down in time
	Late    uint64  `json:"late,omitempty"`    // of Due: begun more than the header's LateAfter late
	First   float64 `json:"first,omitempty"`   // s of run time: when the first FIN was sent
	Last    float64 `json:"last,omitempty"`    // and when the last connection was torn down
	Longest float64 `json:"longest,omitempty"` // s a tear-down took at most, from its due time
}

// Served is what one server process did since its last Served record.
type Served struct {
	Service  string `json:"service"`
	Backend  string `json:"backend"`            // pod name
	Accepted uint64 `json:"accepted,omitempty"` // connections, or datagrams received
	Served   uint64 `json:"served,omitempty"`   // answers sent whole
	Draining uint64 `json:"draining,omitempty"` // of Served: after SIGTERM
	Errors   uint64 `json:"errors,omitempty"`
	Open     uint64 `json:"open"` // connections open now
}

// A Sample is one reading of one host's counters. Counters are cumulative, as
// the kernel has them; readers take differences. A nil part was not measured.
type Sample struct {
	Took      float64    `json:"took"` // s the reading lasted; T is its middle
	Conntrack *Conntrack `json:"conntrack,omitempty"`
	// Net is /proc/net/netstat and snmp of this host, as
	// "TcpExt.ListenOverflows". These and Conntrack.Counters are those that
	// have changed since the host's sample before, all of them in the first
	// one and every 10 s.
	Net       map[string]uint64 `json:"net,omitempty"`
	CPU       *CPU              `json:"cpu,omitempty"`        // of the machine; only from hosts with role node
	SlabBytes *uint64           `json:"slab_bytes,omitempty"` // nf_conntrack slab; needs root
}

// Conntrack is one network namespace's table and its per-CPU counters, summed.
type Conntrack struct {
	Entries  uint64            `json:"entries"`
	Limit    uint64            `json:"limit"`
	Counters map[string]uint64 `json:"counters"` // the kernel's names: found invalid insert insert_failed drop early_drop search_restart clashres chainlength icmp_error
}

// CPU is cumulative seconds since boot, over all CPUs, and this process's own.
type CPU struct {
	User    float64 `json:"user"`
	System  float64 `json:"system"`
	SoftIRQ float64 `json:"softirq"`
	Idle    float64 `json:"idle"`
	Steal   float64 `json:"steal"`
	Self    float64 `json:"self"` // the sampling agent itself: what observing cost
}

// A Census is one walk over a host's whole table, counted while it streams.
type Census struct {
	Took    float64       `json:"took"`            // s, wall
	CPU     float64       `json:"cpu"`             // s
	Entries uint64        `json:"entries"`         // seen in the walk, ballast included
	Ballast uint64        `json:"ballast"`         // entries that carry our mark; not in Groups
	Groups  []CensusGroup `json:"groups"`          // largest first, bounded
	Other   uint64        `json:"other,omitempty"` // entries in groups beyond the bound
	Sources []TopSource   `json:"sources,omitempty"`
	Failed  string        `json:"failed,omitempty"` // why the walk stopped early; counts are then a part only
	// WithoutBallast is a cheaper walk: the kernel left ballast out, so
	// Ballast is 0 and Entries does not include it. The rest is whole.
	WithoutBallast bool `json:"without_ballast,omitempty"`
	// States, set where Other is not 0, counts all entries but ballast.
	States []StateCount `json:"states,omitempty"`
	// Services and Turnover are there where the job asks for them.
	Services []TopService `json:"services,omitempty"`
	Turnover *Turnover    `json:"turnover,omitempty"`
}

// StateCount counts the entries of a protocol in a state.
type StateCount struct {
	Proto   string `json:"proto"`
	State   string `json:"state,omitempty"` // TCP only
	Assured bool   `json:"assured,omitempty"`
	Replied bool   `json:"replied,omitempty"`
	Count   uint64 `json:"count"`
}

// TopService is a destination before NAT with many entries (Space-Saving
// sketch): the true count is in [Count-Error, Count].
type TopService struct {
	Proto string         `json:"proto"`
	Addr  netip.AddrPort `json:"addr"`
	Count uint64         `json:"count"`
	Error uint64         `json:"error,omitempty"`
}

// Turnover is how many entries that a walk met the one before it had not (Came),
// and the other way round (Went). What came and went again within Over is in
// neither. OneIn is 1 where each entry was followed; else one in so many was,
// by its hash, and both are estimates with a standard error of
// sqrt(OneIn x count).
type Turnover struct {
	Over  float64 `json:"over"` // s between the middles of the two walks
	Came  uint64  `json:"came"`
	Went  uint64  `json:"went"`
	OneIn uint64  `json:"one_in"`
}

// CensusGroup counts entries that are alike.
type CensusGroup struct {
	Proto   string         `json:"proto"`           // tcp, udp, icmp, or the number
	State   string         `json:"state,omitempty"` // TCP: SYN_SENT ... TIME_WAIT, CLOSE
	Assured bool           `json:"assured,omitempty"`
	Replied bool           `json:"replied,omitempty"` // false is the kernel's UNREPLIED
	Service netip.AddrPort `json:"service"`           // original destination
	Backend netip.AddrPort `json:"backend"`           // reply source; equals Service where nothing was NATed
	Count   uint64         `json:"count"`
}

// TopSource is a heavy hitter (Space-Saving sketch): the true count is in
// [Count-Error, Count].
type TopSource struct {
	Addr  netip.Addr `json:"addr"`
	Count uint64     `json:"count"`
	Error uint64     `json:"error,omitempty"`
}

// An Autopsy is what the node's table said about a failed attempt's tuple,
// milliseconds after it failed.
type Autopsy struct {
	Traffic string  `json:"traffic"`
	Node    string  `json:"node,omitempty"` // the attempt's; it is the one that was looked at
	Seq     uint64  `json:"seq"`
	Tuple   Tuple   `json:"tuple"`
	Lag     float64 `json:"lag"` // s between the failure and the look-up
	Found   bool    `json:"found"`
	// The entry, where one was found.
	State    string         `json:"state,omitempty"`
	Assured  bool           `json:"assured,omitempty"`
	Replied  bool           `json:"replied,omitempty"`
	DNAT     bool           `json:"dnat,omitempty"`
	ReplySrc netip.AddrPort `json:"reply_src"`         // the backend the entry points to
	Timeout  float64        `json:"timeout,omitempty"` // s left
	Error    string         `json:"error,omitempty"`   // the look-up itself failed: says nothing about the entry
}

// Endpoints is a service's endpoints after a change, as the API server has
// them: what every node should come to. The first is written before traffic.
type Endpoints struct {
	Service   string          `json:"service"`
	Endpoints []EndpointState `json:"endpoints"`
}

// EndpointState is one endpoint with the conditions of its EndpointSlice. Name
// is the pod's; a pod on an address used before has a name of its own.
type EndpointState struct {
	Name        string     `json:"name"`
	Addr        netip.Addr `json:"addr"`
	Node        string     `json:"node,omitempty"`
	Ready       bool       `json:"ready,omitempty"`
	Serving     bool       `json:"serving,omitempty"`
	Terminating bool       `json:"terminating,omitempty"`
}

// Usable are the endpoints that new connections go to: the ready ones, and
// where there are none those that are terminating and still serve (KEP-1669).
func Usable(list []EndpointState) []EndpointState {
	var ready, last []EndpointState
	for _, e := range list {
		switch {
		case e.Ready:
			ready = append(ready, e)
		case e.Serving && e.Terminating:
			last = append(last, e)
		}
	}
	if len(ready) == 0 {
		return last
	}
	return ready
}

// UsableOn are the endpoints of one node that new connections go to which must
// stay on it (externalTrafficPolicy Local).
func UsableOn(node string, list []EndpointState) []EndpointState {
	var on []EndpointState
	for _, e := range list {
		if e.Node == node {
			on = append(on, e)
		}
	}
	return Usable(on)
}

// Dataplane is what a node's kernel was found to be programmed with. It is
// recorded at first, whenever it has changed, and every 10 s.
type Dataplane struct {
	Took float64 `json:"took"` // s the reading lasted
	// Since is how long before T, in s, the reading before it was, which still
	// showed what the record before this one does; 0 where there is none.
	Since    float64             `json:"since,omitempty"`
	Mode     string              `json:"mode"` // nftables, iptables, ipvs
	Services []ProgrammedService `json:"services"`
	Failed   string              `json:"failed,omitempty"` // why it could not be read: nothing is known then
}

// ProgrammedService is one service address in a dataplane.
type ProgrammedService struct {
	Service  string              `json:"service"` // name
	Addr     netip.AddrPort      `json:"addr"`
	Backends []ProgrammedBackend `json:"backends"`
}

// ProgrammedBackend is one pod that a service address leads to.
type ProgrammedBackend struct {
	Addr netip.AddrPort `json:"addr"`
	// Weight is that of IPVS, where 0 takes no new connections; elsewhere it
	// is 1.
	Weight   int    `json:"weight"`
	Active   uint64 `json:"active,omitempty"`   // IPVS: connections in ESTABLISHED
	Inactive uint64 `json:"inactive,omitempty"` // IPVS: the others
}

// An Event is something that happened at one moment.
type Event struct {
	// Kind: phase (setup, traffic, drain, done), job, ballast, undo, warning;
	// action (Fields kind, phase: begin, end or fail, number, and nodes where it
	// was done to some only); pod (Name
	// is the pod, Detail one of started, ready, terminating, sigterm, exited,
	// killed, gone; Fields service, addr, and in a cluster node); node (of a
	// cluster; Detail cordoned, uncordoned, ready, not ready, gone, or a condition
	// as MemoryPressure, and no MemoryPressure when that is over; at first what is
	// not as it should be); event (one of Kubernetes' Events about a node or a pod,
	// as the controller heard of it: Name is the object, Detail reason and message;
	// Fields object, type, reason, count, by, node); proxy (of a node: synced, told, which
	// is a kube-proxy that has heard and programs by itself, paused, resumed,
	// ended, cleaned, each with Fields: service to the names of its usable
	// endpoints, parted by spaces; log with a line of a kube-proxy's own, and
	// metrics with its own numbers in Fields; silent where a cluster's does not
	// tell them; healthy and unhealthy, of a lab's, what its health endpoint
	// answered at first and whenever that had changed); on a node also flush (deleted; Fields
	// entries), sysctl (set, restored; Fields: name to value) and lock (held,
	// released).
	Kind   string            `json:"kind"`
	Name   string            `json:"name"`
	Detail string            `json:"detail,omitempty"` // for people
	Fields map[string]string `json:"fields,omitempty"` // for programs
}

// Loss counts what was not recorded, and why. Nothing is lost without one.
type Loss struct {
	What  string `json:"what"` // failures, samples, census, autopsies, records
	Count uint64 `json:"count"`
	Why   string `json:"why"`
}

// Clock is a measured mapping from a host's clock to the controller's.
type Clock struct {
	Of     string  `json:"of"`     // host
	Offset float64 `json:"offset"` // s to subtract from the host's clock
	Bound  float64 `json:"bound"`  // s; the true offset is within +-Bound
}

// Header is the first record: everything needed to read the rest, and to
// repeat the run.
type Header struct {
	Format       int                `json:"format"` // of this file: Format
	Version      string             `json:"version"`
	RunID        string             `json:"run_id"`
	Started      string             `json:"started"` // RFC 3339, wall clock of the controller at T = 0 as planned
	Target       string             `json:"target"`  // lab, kubernetes
	Scenario     string             `json:"scenario"`
	ScenarioYAML string             `json:"scenario_yaml"` // as resolved: defaults and --set applied
	Digest       string             `json:"digest"`        // sha256 of ScenarioYAML
	Seed         uint64             `json:"seed"`
	Kernel       string             `json:"kernel"`
	Private      bool               `json:"private,omitempty"` // the kernel is one of the run's own inside the machine, which does not see the machine
	Arch         string             `json:"arch"`
	CPUs         int                `json:"cpus"`
	MemoryBytes  uint64             `json:"memory_bytes"`
	Limit        uint64             `json:"limit"`
	Buckets      uint64             `json:"buckets"`
	EntryBytes   uint64             `json:"entry_bytes,omitempty"`  // slab object size of nf_conntrack, 0 where unreadable
	Timeouts     map[string]float64 `json:"timeouts"`               // s, by sysctl name less the nf_conntrack_ prefix
	Sysctls      map[string]string  `json:"sysctls,omitempty"`      // what the run found and changed outside the lab, before: nf_conntrack_max
	Capabilities map[string]string  `json:"capabilities,omitempty"` // name -> yes, no: why, unknown: why
	Duration     float64            `json:"duration"`               // s, planned
	Traffic      []TrafficInfo      `json:"traffic"`
	Services     []ServiceInfo      `json:"services"`
	Nodes        []string           `json:"nodes"`
	Thresholds   []string           `json:"thresholds"`
	AbortOn      []string           `json:"abort_on,omitempty"` // those of Thresholds that end the run
	Expect       []string           `json:"expect,omitempty"`
	SampleEvery  float64            `json:"sample_every"`         // s
	LateAfter    float64            `json:"late_after,omitempty"` // s after which a start counts as late; 0 is 0.01
	CensusEvery  float64            `json:"census_every"`         // s, 0 is none
	// Masquerade is the source ports that the nodes' proxies rewrite clients'
	// to: each carries one connection at a time to a pod address and port. Nil:
	// they are not rewritten, or it changes in the run.
	Masquerade *PortRange `json:"masquerade,omitempty"`
	// Search is set in the log of a capacity search, which has Trial records
	// and none of traffic. Each trial is a run with a log of its own.
	Search *Search `json:"search,omitempty"`
}

// PortRange is consecutive ports.
type PortRange struct {
	From uint16 `json:"from"`
	To   uint16 `json:"to"`
}

// Count is how many there are.
func (r *PortRange) Count() uint64 { return uint64(r.To) - min(uint64(r.From), uint64(r.To)) + 1 }

// TrafficInfo is what the analysis needs to know of one traffic.
type TrafficInfo struct {
	Name    string  `json:"name"`
	Shape   string  `json:"shape"`
	To      string  `json:"to"`
	Start   float64 `json:"start"`   // s of run time
	End     float64 `json:"end"`     // s of run time
	Timeout float64 `json:"timeout"` // s per attempt
	// Close is how a short_lived connection ends: fin, rst, half, none.
	Close string `json:"close,omitempty"`
	// EntriesPerAttempt is how many entries one attempt costs the node:
	// 1, 2 through a gateway. 0 where it cannot be said (keep-alive).
	EntriesPerAttempt float64 `json:"entries_per_attempt"`
	// Residence is how long, in s, an entry outlives its attempt in the
	// state it ends in (the kernel's timeout of that state); 0 is unknown.
	Residence     float64 `json:"residence"`
	ResidueState  string  `json:"residue_state,omitempty"` // TIME_WAIT, CLOSE, ESTABLISHED, UDP, ...
	ExpectsAnswer bool    `json:"expects_answer"`          // false: one-way, nobody can tell whether it arrived
	Local         bool    `json:"local,omitempty"`         // the node it enters by sends it to pods of its own only
}

// ServiceInfo is one service as it stood when traffic began.
type ServiceInfo struct {
	Name     string         `json:"name"`
	Addr     netip.AddrPort `json:"addr"`
	Protocol string         `json:"protocol"`
	Gateway  string         `json:"gateway_to,omitempty"`
	NodePort uint16         `json:"node_port,omitempty"`
	Backends []BackendInfo  `json:"backends"`
}

// BackendInfo is one pod behind a service.
type BackendInfo struct {
	Name string         `json:"name"`
	Addr netip.AddrPort `json:"addr"`
	Node string         `json:"node,omitempty"` // it is on
}

// Trailer is the last record. A log without one was cut off.
type Trailer struct {
	Ended string `json:"ended"` // RFC 3339
	// Outcome: completed, interrupted (by a signal), aborted (by a threshold of
	// AbortOn; Error says which and why), failed (Error says why).
	Outcome  string `json:"outcome"`
	Error    string `json:"error,omitempty"`
	Restored bool   `json:"restored"`
	// UndoErrors is what could not be put back, and how to do it by hand.
	UndoErrors []string          `json:"undo_errors,omitempty"`
	Records    map[string]uint64 `json:"records"` // last N of each host, as collected
}

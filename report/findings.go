package report

import (
	"fmt"

	"github.com/tablefull/tablefull/report/runlog"
)

// FormatVersion is the version of summary.json. It changes when a reader of
// the old one would misread the new one.
const FormatVersion = 1

// Verdict is the answer to whether the run held what it should.
type Verdict string

const (
	Pass         Verdict = "pass"
	Fail         Verdict = "fail"
	Inconclusive Verdict = "inconclusive" // the run does not allow an answer; Reasons says why
)

// ExitCode is the process exit code that states the verdict: 0 pass, 3 fail,
// 4 inconclusive.
func ExitCode(f *Findings) int {
	switch f.Verdict {
	case Pass:
		return 0
	case Fail:
		return 3
	default:
		return 4
	}
}

// Findings is what a run shows. It is also the content of summary.json, whose
// keys are never absent: what does not apply or was not measured is null.
type Findings struct {
	Format     int      `json:"format" jsonschema_description:"Version of this document's format."`
	Scenario   string   `json:"scenario" jsonschema_description:"Name of the scenario."`
	Target     string   `json:"target" jsonschema_description:"Where it ran: lab or kubernetes."`
	Verdict    Verdict  `json:"verdict" jsonschema:"enum=pass,enum=fail,enum=inconclusive" jsonschema_description:"pass, fail or inconclusive."`
	Headline   string   `json:"headline" jsonschema_description:"The answer in one sentence."`
	Reasons    []string `json:"reasons" jsonschema_description:"Why the verdict is what it is, heaviest first."`
	Incomplete bool     `json:"incomplete" jsonschema_description:"The run log was cut off or the run did not end in order: the numbers are right up to that moment."`
	// Doubts are not errors: they limit how far the numbers can be trusted.
	Doubts      []string `json:"doubts" jsonschema_description:"What limits how far the numbers can be trusted."`
	NotMeasured []string `json:"not_measured" jsonschema_description:"What was not measured, and why."`

	Knee      Knee        `json:"knee" jsonschema_description:"When it began, on the first node to get there."`
	Predicted *Prediction `json:"predicted" jsonschema_description:"When the table was expected to be full, beside when it was; null without traffic or samples to compute it from."`
	Traffic   []Traffic   `json:"traffic" jsonschema_description:"What each traffic experienced."`
	Causes    []Cause     `json:"causes" jsonschema_description:"Why attempts failed, most first. Every failed attempt is in exactly one; attempts that the generator could not start are listed under generator_ causes."`
	Spikes    []Spike     `json:"spikes" jsonschema_description:"Failures around actions; empty where the scenario has none."`
	// OtherSpikes are occurrences of actions that are not listed, for bounds.
	OtherSpikes uint64            `json:"other_spikes" jsonschema_description:"Occurrences of actions that are not in spikes: the worst 200 are, of the first 20000."`
	Backends    []Backend         `json:"backends" jsonschema_description:"What each pod served."`
	Nodes       []Node            `json:"nodes" jsonschema_description:"What each node's table did."`
	Sizing      *Sizing           `json:"sizing" jsonschema_description:"The limit this traffic needs; null where it cannot be computed."`
	Capacity    *Capacity         `json:"capacity" jsonschema_description:"Result of a capacity search; null where none was made."`
	Thresholds  []ThresholdResult `json:"thresholds" jsonschema_description:"The scenario's thresholds and what was measured."`
	Expected    []ThresholdResult `json:"expected" jsonschema_description:"What the scenario expects to be shown, and what was."`
	Reproduced  *bool             `json:"reproduced" jsonschema_description:"Whether all that was expected was shown; null where nothing was, or where it cannot be said."`
	Generator   Generator         `json:"generator" jsonschema_description:"Whether the generator did what it was asked."`

	Restored   *bool    `json:"restored" jsonschema_description:"Whether everything that was changed has been put back; null where the log does not say."`
	UndoErrors []string `json:"undo_errors" jsonschema_description:"What could not be put back, and how to do it by hand."`

	Environment Environment `json:"environment" jsonschema_description:"Where and with what it ran."`
	Timeline    Timeline    `json:"timeline" jsonschema_description:"The run as series, thinned out for plotting."`

	unsound []string // see Unsound
	ipvs    bool     // some node's dataplane is IPVS
	aborted bool     // ended early, as abort_on asked
	noPod   []noPodTime
	gateway bool // a service of it sends on what it gets
}

// Knee holds the three onsets. A null onset did not happen, or could not be
// seen; NotMeasured says which.
type Knee struct {
	EarlyDrop  *Onset `json:"early_drop" jsonschema_description:"Soft: the kernel began to evict entries that are not ASSURED."`
	Drop       *Onset `json:"drop" jsonschema_description:"Hard: the node began to drop new connections because the table was full."`
	ClientLoss *Onset `json:"client_loss" jsonschema_description:"The first attempt that failed at the client, for whatever cause."`
}

// Onset is a moment and where the table stood then.
type Onset struct {
	AtS          float64  `json:"at_s" jsonschema_description:"Run time in s."`
	Entries      *uint64  `json:"entries" jsonschema_description:"Entries in the table then."`
	Occupancy    *float64 `json:"occupancy" jsonschema_description:"Entries over limit, 0 to 1 and a little above."`
	Limit        *uint64  `json:"limit" jsonschema_description:"nf_conntrack_max then."`
	OfferedPerS  *float64 `json:"offered_per_s" jsonschema_description:"Attempts due per second around that moment, all traffics together."`
	UncertaintyS float64  `json:"uncertainty_s" jsonschema_description:"The true moment is within plus or minus this many s."`
}

// Prediction compares arithmetic with what happened.
type Prediction struct {
	Node                 string   `json:"node" jsonschema_description:"The node that it is of: the first whose table got into trouble, else the fullest."`
	FullAtS              *float64 `json:"full_at_s" jsonschema_description:"Run time in s at which the planned attempts use up the headroom, by arrivals and residence; null where they never do."`
	DropAtS              *float64 `json:"drop_at_s" jsonschema_description:"The same where no entry can be evicted, so that a full table drops at once; null where eviction comes first."`
	GrowthFullAtS        *float64 `json:"growth_full_at_s" jsonschema_description:"Run time in s at which the measured growth of entries uses up the headroom."`
	GrowthPerS           *float64 `json:"growth_per_s" jsonschema_description:"Measured growth of the table in entries per second, from the start of traffic to the onset."`
	MeasuredAtS          *float64 `json:"measured_at_s" jsonschema_description:"Run time in s of the first onset on the node, early_drop or drop."`
	MeasuredUncertaintyS *float64 `json:"measured_uncertainty_s" jsonschema_description:"Of measured_at_s."`
	MeasuredOnset        string   `json:"measured_onset" jsonschema_description:"Which onset that was: early_drop, drop or empty."`
	RelativeError        *float64 `json:"relative_error" jsonschema_description:"(measured - full_at_s) / full_at_s."`
	PeakEntries          *uint64  `json:"peak_entries" jsonschema_description:"Entries the planned attempts need at most during the run, with an endless table."`
	Explanation          string   `json:"explanation" jsonschema_description:"What was computed from what."`
	UnknownTraffic       []string `json:"unknown_traffic" jsonschema_description:"Traffics whose entries cannot be computed, and which are left out."`

	lowered *LimitChange // by which it is full at FullAtS; nil where it is by the arrivals
	several bool         // nodes, so that it is to be said which
}

// Traffic is what one traffic experienced.
type Traffic struct {
	Name       string            `json:"name"`
	Shape      string            `json:"shape"`
	To         string            `json:"to" jsonschema_description:"Service it went to."`
	Attempted  uint64            `json:"attempted" jsonschema_description:"Attempts that were started."`
	Succeeded  *uint64           `json:"succeeded" jsonschema_description:"Attempts that ended as they should; null for one-way traffic, of which nobody knows."`
	Failed     uint64            `json:"failed" jsonschema_description:"Attempts that ended otherwise; interrupted ones are neither."`
	NotStarted uint64            `json:"not_started" jsonschema_description:"Attempts that were due and could not be started by the generator."`
	Due        uint64            `json:"due" jsonschema_description:"Attempts that were due."`
	InFlight   uint64            `json:"in_flight" jsonschema_description:"Attempts that were started and of whose end the log knows nothing."`
	LateShare  *float64          `json:"late_share" jsonschema_description:"Share of started attempts that were started more than 10 ms (in a private kernel 30 ms) after they were due."`
	OneWay     bool              `json:"one_way" jsonschema_description:"No answer is expected."`
	P50Ms      *float64          `json:"p50_ms" jsonschema_description:"Median time of successful attempts from when they were due, ms."`
	P99Ms      *float64          `json:"p99_ms" jsonschema_description:"99th percentile of the same, ms."`
	MaxMs      *float64          `json:"max_ms" jsonschema_description:"Longest of the same, ms."`
	StartP99Ms *float64          `json:"start_p99_ms" jsonschema_description:"99th percentile from when attempts were started, ms: what is missing to p99_ms is the generator's delay."`
	Outcomes   map[string]uint64 `json:"outcomes" jsonschema_description:"Attempts by how they ended."`
	Refusals   map[string]uint64 `json:"not_started_reasons" jsonschema_description:"Attempts that were not started, by reason."`
	HeldPeak   *uint64           `json:"held_peak" jsonschema_description:"Most connections held open at once, of idle traffic."`
	HeldEnd    *uint64           `json:"held_end" jsonschema_description:"Connections held open at the last count, of idle traffic."`
	HeldLost   *uint64           `json:"held_lost" jsonschema_description:"Held connections that were lost, of idle traffic."`
	HeldAlive  *uint64           `json:"held_alive" jsonschema_description:"Of held_end, those that had answered a request in the last round, of idle traffic: held means alive."`
	TearDown   *TearDown         `json:"tear_down" jsonschema_description:"How they were closed again, of idle traffic with a close_rate; null without."`
	HeldCauses []HeldCause       `json:"held_causes" jsonschema_description:"Why, of idle traffic; those without evidence are unknown. Empty where none was lost."`

	local bool       // it is sent on to pods of the node it enters by only
	known *knownHeld // nil where no census tells
}

// HeldCause says why held connections were lost.
type HeldCause struct {
	Cause       string `json:"cause" jsonschema:"enum=entry_expired,enum=unknown"`
	Connections uint64 `json:"connections" jsonschema_description:"Lost connections it explains."`
	Evidence    string `json:"evidence" jsonschema_description:"What proves it, with numbers."`
}

// Cause says why attempts failed.
type Cause struct {
	Cause    string   `json:"cause" jsonschema_description:"Name of the cause; see the list in the documentation."`
	Failures uint64   `json:"failures" jsonschema_description:"Attempts it explains."`
	Share    float64  `json:"share" jsonschema_description:"Of all failed attempts, 0 to 1; of all due attempts for generator_ causes."`
	ShareOf  string   `json:"share_of" jsonschema:"enum=failed,enum=due" jsonschema_description:"What share is a share of."`
	Evidence string   `json:"evidence" jsonschema_description:"What proves it, with numbers."`
	Proof    Evidence `json:"proof" jsonschema_description:"The same for programs."`

	astray *astray // of Failures; nil where it is of no such cause
}

// Evidence is what a cause rests on.
type Evidence struct {
	FromS          *float64          `json:"from_s" jsonschema_description:"Run time in s of the first attempt concerned."`
	ToS            *float64          `json:"to_s" jsonschema_description:"Run time in s of the last."`
	Traffic        map[string]uint64 `json:"traffic" jsonschema_description:"Attempts concerned, by traffic."`
	Nodes          map[string]uint64 `json:"nodes" jsonschema_description:"Attempts concerned, by the node they entered by; empty where there is one node only."`
	Counter        string            `json:"counter" jsonschema_description:"Kernel counter whose increments were matched; empty for none."`
	CounterDelta   *uint64           `json:"counter_delta" jsonschema_description:"What that counter gained during the run, less the part that is certainly another cause's."`
	LostPackets    uint64            `json:"lost_packets" jsonschema_description:"Packets of these attempts that increments explain."`
	Hosts          []string          `json:"hosts" jsonschema_description:"Hosts whose counter it was."`
	Autopsies      uint64            `json:"autopsies" jsonschema_description:"Failed attempts of the same kind that were looked up in the node's table."`
	AutopsiesAgree uint64            `json:"autopsies_agree" jsonschema_description:"Of those, how many were found as this cause predicts."`
	Shared         bool              `json:"shared" jsonschema_description:"Other traffic competed for the same increments, which were split by offered connections."`

	kept uint64 // of those looked up, whose entry was there from before, where rules led no more
}

// Spike is what an action did to the traffic: each time it was done is one.
type Spike struct {
	Action         string            `json:"action" jsonschema_description:"Name of the action."`
	Kind           string            `json:"kind" jsonschema_description:"What it did: rollout, restart_proxy, ..."`
	Number         int               `json:"number" jsonschema_description:"Which time it was done, from 1."`
	BeginS         float64           `json:"begin_s" jsonschema_description:"Run time in s at which the action began."`
	DoneS          *float64          `json:"done_s" jsonschema_description:"Run time in s at which its effect was complete; null where the log does not say."`
	Error          string            `json:"error" jsonschema_description:"Why the action failed; empty where it did not."`
	StartS         *float64          `json:"start_s" jsonschema_description:"Begin of the step of the load series in which the first of the attempts that failed was due, in s of run time, which is before its begin only for attempts that waited for an answer then; null without any."`
	EndS           *float64          `json:"end_s" jsonschema_description:"End of the step in which the last of them was due; null without any."`
	Nodes          []string          `json:"nodes" jsonschema_description:"Nodes it was done to; empty where it is not done to nodes, or was to all."`
	FailedBy       map[string]uint64 `json:"failed_by" jsonschema_description:"Attempts due between start_s and end_s that failed, by the node they entered by; empty where there is one node only."`
	Failures       uint64            `json:"failures" jsonschema_description:"Attempts due between start_s and end_s that failed, less what had failed at the same rate before the action."`
	Before         float64           `json:"failed_per_s_before" jsonschema_description:"Failures per second before the action: of up to 10 s, since they began, or ended, where either is plain in that time."`
	After          float64           `json:"failed_per_s_after" jsonschema_description:"Failures per second from its begin to watched_to_s."`
	PeakErrorRatio float64           `json:"peak_error_ratio" jsonschema_description:"Highest share of attempts that failed, of those due in one step of the load series."`
	P99Ms          *float64          `json:"p99_ms" jsonschema_description:"99th percentile of successful attempts due between the action's begin and 5 s after its end; null without any."`
	MaxMs          *float64          `json:"max_ms"`
	Steps          map[string]uint64 `json:"latency_steps" jsonschema_description:"Successful attempts among those that took about 1, 3 or 5 s: the steps at which TCP sends a SYN again (1s, 3s) and resolvers ask again (5s)."`
	WatchedToS     *float64          `json:"watched_to_s" jsonschema_description:"Run time in s up to which attempts were due that it was looked for in: to the next action, to where it was calm again, or to 10 s after it was done; null where none was due that anybody could count."`
	StoppedS       *float64          `json:"stopped_s" jsonschema_description:"Run time in s from which no attempt failed any more for at least 2 s, although they did before the action; null where they did not, or went on."`
	HeldLost       *uint64           `json:"held_lost" jsonschema_description:"Held connections that were found lost from its begin to the next action's, or to the end; null without idle traffic."`
	Together       []string          `json:"together" jsonschema_description:"Actions that began in the same step, so that failures are of all of them."`
	Overlaps       []string          `json:"overlaps" jsonschema_description:"Actions that had begun before it and were not done when it began: what failed from then on, or failed no longer, can be of these as well."`
	Recovered      bool              `json:"recovered" jsonschema_description:"Whether 2 s without more failures than before followed, before the next action or the end: false also where failures end with what the next action does, and where that or the end came less than 2 s after the last of them (watched_to_s), so that nobody can tell."`
	Ties           []string          `json:"ties" jsonschema_description:"Where the causes are that rules led to what was no usable pod, or to none: which endpoint, since when, and when the node was still seen to; the longest first, at most 3."`
	Events         []string          `json:"events" jsonschema_description:"Kubernetes' Events of the type Warning about nodes and the run's pods, and all about nodes, that came from its begin to end_s: at the same time, which makes none of them a cause; at most 5."`
	Causes         []Cause           `json:"causes" jsonschema_description:"Why these attempts failed, most first, to the step of the load series; evidence is that of the whole run."`

	was, is tallied // failures before it, and from its begin to watched_to_s
	lastly  uint64  // failures from its begin to stopped_s, or to endedS
	// endedS is from when on none failed, for too short a time to be stopped_s and
	// for too long to be chance.
	endedS *float64
	onward onward // in the time of the next action

	due *dueSpan // of those that failed; nil where start_s and end_s are all that is known
	// toEnd says that it had not recovered where the traffic ended, next which
	// action began before it had, and toNext that it went on until then, at least.
	toEnd   bool
	logEnds bool // and not the traffic
	next    string
	toNext  bool
	crowded bool // others were done in the time that latencies are of
	// emptied is how many of the failed were due in each of noPod.
	emptied []float64
	did     string // what it did to a limit, where it was not seen to be done
}

// Backend is what one pod served.
type Backend struct {
	Name                string  `json:"name"`
	Service             string  `json:"service"`
	Accepted            uint64  `json:"accepted" jsonschema_description:"Connections, or datagrams received."`
	Served              uint64  `json:"served" jsonschema_description:"Answers sent whole."`
	ServedWhileDraining uint64  `json:"served_while_draining" jsonschema_description:"Of served: after the pod was told to end."`
	ServedAfterGone     *uint64 `json:"served_after_gone" jsonschema_description:"Of served: after the endpoint was gone; null where no endpoint changes are in the log."`
	// DrainingShare is measured from one Served record to another, so not at
	// all for a pod that was terminating for less than a second or two.
	AcceptedWhileDraining *uint64  `json:"accepted_while_draining" jsonschema_description:"Of accepted: while its endpoint was terminating and others were usable, at least; null where that was too short to tell, or never."`
	DrainingShare         *float64 `json:"draining_share" jsonschema_description:"Of all connections its service accepted from when no node was programmed any more to give it new ones, or where that was not read in all of that time, 0 to 1; null where it was always programmed."`
	Errors                uint64   `json:"errors"`
	Share                 float64  `json:"share" jsonschema_description:"Of all answers of its service, 0 to 1."`

	kept []string // nodes whose IPVS kept it with weight 0 in all of the time of its DrainingShare
}

// LimitChange is a change of a node's limit, as two samples show it.
type LimitChange struct {
	AtS          float64  `json:"at_s" jsonschema_description:"Run time in s."`
	UncertaintyS float64  `json:"uncertainty_s" jsonschema_description:"The true moment is within plus or minus this many s."`
	From         uint64   `json:"from" jsonschema_description:"nf_conntrack_max before."`
	To           uint64   `json:"to" jsonschema_description:"nf_conntrack_max after."`
	Entries      uint64   `json:"entries" jsonschema_description:"Entries in the first sample after it. Those that are more than the limit stay, and nothing new is let in."`
	Actions      []string `json:"actions" jsonschema_description:"Actions that were going on and can have changed it; empty where somebody else did."`
}

// Node is what one node's table did.
type Node struct {
	Name            string             `json:"name"`
	Limit           *uint64            `json:"limit" jsonschema_description:"nf_conntrack_max, at the end where it changed."`
	LimitChanges    []LimitChange      `json:"limit_changes" jsonschema_description:"When it was changed while traffic flowed, at most 100; empty where it was not."`
	PeakEntries     *uint64            `json:"peak_entries"`
	PeakOccupancy   *float64           `json:"peak_occupancy" jsonschema_description:"Highest entries over limit."`
	StartEntries    *uint64            `json:"start_entries" jsonschema_description:"Entries when traffic began, ballast included."`
	EndEntries      *uint64            `json:"end_entries" jsonschema_description:"Entries in the last sample."`
	HeadroomAtStart *int64             `json:"headroom_at_start" jsonschema_description:"Free entries when traffic began."`
	Counters        map[string]uint64  `json:"counters" jsonschema_description:"What each kernel counter gained during the run."`
	TableFullDrops  uint64             `json:"table_full_drops" jsonschema_description:"Of drop: while the table was at its limit, and not an unresolved clash."`
	Ports           *Ports             `json:"ports" jsonschema_description:"Source ports of masquerading; null where clients are not masqueraded, or without a walk."`
	Census          *Census            `json:"census" jsonschema_description:"The last whole walk over the table while traffic was due, or the last of all where there was none then; null without any."`
	PeakByState     map[string]uint64  `json:"peak_by_state" jsonschema_description:"Most entries that a walk found by protocol and state, ballast not counted; null without any."`
	Knee            Knee               `json:"knee"`
	Stale           *Stale             `json:"stale" jsonschema_description:"Backends that were programmed and should not have been; null where that was not measured."`
	Conditions      []Condition        `json:"conditions" jsonschema_description:"What was seen of it besides: of a cluster's node what the API server said, cordoned, not ready and so on; in the lab what its health check ports said, at first and when it changed. At most 100."`
	Proxy           *ProxyProcess      `json:"proxy" jsonschema_description:"The node's kube-proxy; null where it has none, or nothing is known of it."`
	Entered         *Entered           `json:"entered" jsonschema_description:"What befell the attempts that entered by this node; null where there is one node only, or where it is not known."`
	Samples         uint64             `json:"samples"`
	AgedOut         *Aged              `json:"aged_out" jsonschema_description:"The wait for entries of a run before to expire, before the table was filled; null where nothing was waited for."`
	Reclaimed       *Reclaimed         `json:"reclaimed" jsonschema_description:"Entries that left a table over 95 % full uncounted; null where none did, or it cannot be told."`
	LongestGapS     *float64           `json:"longest_gap_s" jsonschema_description:"Longest time between two samples, s."`
	CPU             map[string]float64 `json:"cpu" jsonschema_description:"Share of the machine's CPU time while traffic was due by kind (user, system, softirq, idle, steal, the last not of a private kernel, which cannot see it), and self, the sampling agent's CPU time in s per s; null where not measured."`
	SlabBytesPeak   *uint64            `json:"slab_bytes_peak" jsonschema_description:"Highest memory of the nf_conntrack slab: of the whole machine, with the entries of all its network namespaces, and what is left of earlier ones."`

	needs   *uint64  // entries that its attempts need at once at most; nil where that cannot be computed
	refills []refill // what actions added to its ballast, or took from it
	others  others
}

// Condition is what became of a cluster's node at a moment.
type Condition struct {
	AtS  float64 `json:"at_s" jsonschema_description:"Run time in s at which the controller heard of it; before 0: it was so when the run began."`
	What string  `json:"what" jsonschema_description:"cordoned, uncordoned, ready, not ready, gone, or a condition as MemoryPressure."`
}

// Census is one walk over a table.
type Census struct {
	AtS     float64              `json:"at_s"`
	Entries uint64               `json:"entries"`
	Ballast uint64               `json:"ballast" jsonschema_description:"Entries that are filling of ours, not traffic; as in the last walk that counted them."`
	Groups  []runlog.CensusGroup `json:"groups"`
	Other   uint64               `json:"other" jsonschema_description:"Entries in groups that are not listed."`
	Sources []runlog.TopSource   `json:"sources" jsonschema_description:"Addresses with the most entries: the true count is between count - error and count."`
	Walks   uint64               `json:"walks" jsonschema_description:"Walks during the run."`

	closed bool // clients had closed by then what they held
}

// Ports is what masquerading had and what was used of it. One port carries one
// connection at a time to a pod address and port.
type Ports struct {
	From      int     `json:"from"`
	To        int     `json:"to"`
	Count     uint64  `json:"count" jsonschema_description:"How many connections a node address can have to one pod address and port."`
	Backend   string  `json:"backend" jsonschema_description:"Pod address and port to which most were taken; empty for none."`
	MostTaken uint64  `json:"most_taken" jsonschema_description:"Entries to it in the walk that found most."`
	AtS       float64 `json:"at_s" jsonschema_description:"Run time in s of that walk."`

	first uint64 // taken when the first clash was counted, at most; 0 where none was
}

// Stale is how far a node's dataplane was from the endpoints of the API server.
type Stale struct {
	MaxBackends  uint64         `json:"max_backends" jsonschema_description:"Most backends at once that new connections were sent to and should not have been."`
	MaxS         float64        `json:"max_s" jsonschema_description:"Longest time, in s, for which one of them stayed, at most: up to the first reading that did not show it; what the node's proxy says is not believed here."`
	MaxMissingS  float64        `json:"max_missing_s" jsonschema_description:"Longest time, in s, for which a usable endpoint was not programmed, at most: up to the first reading that showed it; what the node's proxy says is not believed here."`
	MaxDrainingS float64        `json:"max_draining_s" jsonschema_description:"Longest time, in s, for which IPVS kept a backend with weight 0."`
	UnreadS      float64        `json:"unread_s" jsonschema_description:"For how long, in s, the dataplane could not be read, so that nothing is known."`
	Backends     []StaleBackend `json:"backends" jsonschema_description:"Stale ones first, then the longest."`
	Other        uint64         `json:"other" jsonschema_description:"How many more there were."`

	quiet bool // neither endpoints changed nor was anything done to pods or proxies
}

// StaleBackend is one backend that was programmed and should not have been, or
// the other way round.
type StaleBackend struct {
	Service string  `json:"service"`
	Pod     string  `json:"pod"`
	Addr    string  `json:"addr"`
	What    string  `json:"what" jsonschema:"enum=stale,enum=missing,enum=draining" jsonschema_description:"stale: takes new connections and should not. missing: should take some and is not there. draining: kept with weight 0."`
	FromS   float64 `json:"from_s" jsonschema_description:"Run time in s."`
	SeenS   float64 `json:"seen_s" jsonschema_description:"Run time in s of the last reading that still showed it."`
	ToS     float64 `json:"to_s" jsonschema_description:"Run time in s of the first reading in which it was over, or of the log's end."`
	Ended   bool    `json:"ended" jsonschema_description:"Whether it was over when the log ended."`

	by float64 // when it was over at the latest: to_s, or when the proxy had said so before; 0 for to_s
}

// ThresholdResult is one threshold and what was measured.
type ThresholdResult struct {
	Threshold string   `json:"threshold" jsonschema_description:"As the scenario spells it."`
	Result    Verdict  `json:"result" jsonschema:"enum=pass,enum=fail,enum=inconclusive"`
	Measured  *float64 `json:"measured" jsonschema_description:"In the unit of limit; null without data."`
	Limit     *float64 `json:"limit"`
	Unit      string   `json:"unit" jsonschema_description:"Unit of measured and limit: ratio, s, 1/s, or empty for counts."`
	Detail    string   `json:"detail" jsonschema_description:"What was measured, for people."`
}

// Generator is the audit of the load generator by itself.
type Generator struct {
	Due         uint64   `json:"due"`
	Started     uint64   `json:"started"`
	Late        uint64   `json:"late"`
	LateShare   *float64 `json:"late_share"`
	NotStarted  uint64   `json:"not_started"`
	Interrupted uint64   `json:"interrupted" jsonschema_description:"Still going when the run ended."`
	InFlight    uint64   `json:"in_flight" jsonschema_description:"The log does not say how they ended."`
	Saturated   bool     `json:"saturated" jsonschema_description:"The generator is the limit, so nothing can be said about the system."`
	MinIdle     *float64 `json:"min_idle" jsonschema_description:"Lowest share of idle CPU over 3 s, 0 to 1."`

	lateAfter float64 // s; 0 where it is not known
}

// busyMachine is the share of idle CPU below which the machine had nothing to spare.
const busyMachine = 0.05

// LimitText says whether it was the limit: what was late or not started shows
// that it was, and that little was does not show that it was not, where the
// machine had nothing to spare.
func (g Generator) LimitText() string {
	switch {
	case g.Saturated:
		return "yes: nothing can be said about the system"
	case g.Due == 0:
		return "nothing was due"
	case g.MinIdle != nil && *g.MinIdle < busyMachine:
		return "not shown: too few starts were late for that, but a CPU had nothing to spare"
	}
	return "no"
}

// LateOver is how late a late start is: over 10 ms late.
func (g Generator) LateOver() string {
	if g.lateAfter <= 0 {
		return "late"
	}
	return fmt.Sprintf("over %.0f ms late", g.lateAfter*1000)
}

// Environment is where and with what it ran.
type Environment struct {
	Version      string             `json:"version" jsonschema_description:"Of the tool that made the log."`
	RunID        string             `json:"run_id"`
	Started      string             `json:"started"`
	Digest       string             `json:"digest" jsonschema_description:"sha256 of the resolved scenario."`
	Seed         uint64             `json:"seed"`
	Kernel       string             `json:"kernel"`
	Arch         string             `json:"arch"`
	Proxy        string             `json:"proxy" jsonschema_description:"What programmed the nodes' services, as far as the log knows: kube-proxy or the lab's own, its release where the scenario names one, and its mode, by the rules that were read, or as the lab was asked for. Empty where nothing is known."`
	CPUs         int                `json:"cpus"`
	MemoryBytes  uint64             `json:"memory_bytes"`
	Limit        uint64             `json:"limit"`
	Buckets      uint64             `json:"buckets"`
	EntryBytes   *uint64            `json:"entry_bytes" jsonschema_description:"Slab object size; null where it could not be read."`
	Timeouts     map[string]float64 `json:"timeouts"`
	Capabilities map[string]string  `json:"capabilities"`
	DurationS    float64            `json:"duration_s" jsonschema_description:"Planned length of the traffic."`
	SampleEveryS float64            `json:"sample_every_s"`
	ScenarioYAML string             `json:"scenario_yaml" jsonschema_description:"The scenario as resolved."`
}

// Timeline is the run as series, thinned out for plotting without losing a
// peak: counts are summed over a step, gauges keep their highest value (and
// entries their lowest as well). Series that belong to one T have its length;
// a nil pointer in them is a step in which nothing was measured.
type Timeline struct {
	StepS   float64         `json:"step_s" jsonschema_description:"Length of a step of the nodes' series."`
	Load    LoadSeries      `json:"load"`
	Causes  []CauseSeries   `json:"causes" jsonschema_description:"Failed attempts per second by cause, on the steps of load."`
	Latency []LatencySeries `json:"latency" jsonschema_description:"Times of successful attempts, one per traffic that has any."`
	Held    []HeldSeries    `json:"held" jsonschema_description:"Connections held open, one per idle traffic."`
	Nodes   []NodeSeries    `json:"nodes"`
	ByLoad  []LoadPoint     `json:"by_load" summary:"nullable" jsonschema_description:"Entries and loss by offered rate, in order of time; null where the rate does not vary enough to show anything."`
	Events  []Event         `json:"events"`
	// OtherEvents are those beyond the bound of Events.
	OtherEvents uint64 `json:"other_events"`
}

// LoadSeries is attempts per second by when they were due, all traffics
// together.
type LoadSeries struct {
	StepS      float64   `json:"step_s" jsonschema_description:"Length of one step."`
	T          []float64 `json:"t" jsonschema_description:"Start of each step, run time in s."`
	Offered    []float64 `json:"offered" jsonschema_description:"Attempts due per second."`
	OK         []float64 `json:"ok" jsonschema_description:"Of those, succeeded per second."`
	Failed     []float64 `json:"failed" jsonschema_description:"Of those, failed per second."`
	Started    []float64 `json:"started" jsonschema_description:"Of those, started per second."`
	Late       []float64 `json:"late" jsonschema_description:"Of those started, more than 10 ms (in a private kernel 30 ms) late, per second."`
	NotStarted []float64 `json:"not_started" jsonschema_description:"Of those due, that the generator could not start, per second."`
	// EndsKnownToS is where a log that was cut off begins to be silent about
	// attempts. Steps that it does not have all attempts of are left out.
	EndsKnownToS *float64 `json:"ends_known_to_s" jsonschema_description:"Run time from which on it is not known of all attempts how they ended, because the log was cut off or the run goes on; null where it is."`
}

// CauseSeries is one cause's failures over time.
type CauseSeries struct {
	Cause string    `json:"cause"`
	PerS  []float64 `json:"per_s" jsonschema_description:"Failed attempts per second by when they were due."`
}

// LatencySeries is how long one traffic's successful attempts took from when
// they were due.
type LatencySeries struct {
	Traffic string     `json:"traffic"`
	StepS   float64    `json:"step_s" jsonschema_description:"Length of one step."`
	T       []float64  `json:"t" jsonschema_description:"Start of each step, run time in s."`
	P50Ms   []*float64 `json:"p50_ms"`
	P90Ms   []*float64 `json:"p90_ms"`
	P99Ms   []*float64 `json:"p99_ms"`
	MaxMs   []*float64 `json:"max_ms"`
}

// HeldSeries is the connections an idle traffic holds.
type HeldSeries struct {
	Traffic   string    `json:"traffic"`
	T         []float64 `json:"t" jsonschema_description:"Run time in s."`
	Open      []uint64  `json:"open"`
	Validated []uint64  `json:"validated" jsonschema_description:"Of those, answered a request in the last round."`
}

// NodeSeries is a node's table over time.
type NodeSeries struct {
	Name       string              `json:"name"`
	T          []float64           `json:"t" jsonschema_description:"Run time in s."`
	Entries    []uint64            `json:"entries" jsonschema_description:"Highest in the step."`
	EntriesMin []uint64            `json:"entries_min" jsonschema_description:"Lowest in the step."`
	Limit      []uint64            `json:"limit"`
	Counters   map[string][]uint64 `json:"counters" jsonschema_description:"What each kernel counter that moved gained since the step before."`
	CPU        *CPUSeries          `json:"cpu" jsonschema_description:"Who used the CPU; null where not measured."`
	Census     *CensusSeries       `json:"census" jsonschema_description:"The table by state; null without a walk."`
}

// CPUSeries is shares of the machine's CPU time since the step before, 0 to 1.
type CPUSeries struct {
	T       []float64 `json:"t" jsonschema_description:"Run time in s."`
	User    []float64 `json:"user"`
	System  []float64 `json:"system"`
	SoftIRQ []float64 `json:"softirq"`
	Steal   []float64 `json:"steal"`
	Self    []float64 `json:"self" jsonschema_description:"CPU time of the sampling agent in s per s: of one CPU, and part of user and system."`
}

// CensusSeries is the walks over a table.
type CensusSeries struct {
	T      []float64     `json:"t" jsonschema_description:"Run time in s of the walk."`
	States []StateSeries `json:"states" jsonschema_description:"Largest first; the last may be called other."`
}

// StateSeries is the entries of one kind in each walk.
type StateSeries struct {
	Name  string   `json:"name" jsonschema_description:"Protocol and state, for example tcp TIME_WAIT, udp UNREPLIED; ballast for filling of ours."`
	Count []uint64 `json:"count"`
}

// LoadPoint is one step of the run on the axis of its load.
type LoadPoint struct {
	AtS         float64 `json:"at_s"`
	OfferedPerS float64 `json:"offered_per_s"`
	Entries     uint64  `json:"entries" jsonschema_description:"Highest of the first node in the step."`
	Loss        float64 `json:"loss" jsonschema_description:"Share of the attempts due in the step that failed, 0 to 1; without those of one-way traffic, of which nobody knows."`
}

// Event is something that happened at one moment.
type Event struct {
	AtS    float64 `json:"at_s"`
	Host   string  `json:"host"`
	Kind   string  `json:"kind"`
	Name   string  `json:"name"`
	Detail string  `json:"detail"`
}

// Sizing says what limit the traffic needs.
type Sizing struct {
	NeededEntries      *uint64         `json:"needed_entries" jsonschema_description:"Entries in the steady state: arrivals per second times residence, plus held connections; null where unknown."`
	UncollectedEntries *uint64         `json:"uncollected_entries" jsonschema_description:"Entries on top of these, at worst, that have expired and that the kernel's collector, whose pauses are up to 60 s, has not come across."`
	RecommendedLimit   *uint64         `json:"recommended_limit" jsonschema_description:"needed_entries / 0.75, or needed_entries and uncollected_entries where that is more, rounded up."`
	OtherEntries       *uint64         `json:"other_entries" jsonschema_description:"Entries that were in the table when traffic began, or that actions added, such as ballast, which stands for a node's other load; 0 where they are within a hundredth of needed_entries."`
	LimitInAll         *uint64         `json:"limit_in_all" jsonschema_description:"What recommended_limit would be for needed_entries and other_entries together: the limit for a node that holds both. kube_proxy and sysctl set no less."`
	PresentLimit       *uint64         `json:"present_limit" jsonschema_description:"The highest nf_conntrack_max of the nodes; null where unknown. The settings never lower it."`
	Buckets            *uint64         `json:"buckets" jsonschema_description:"Hash buckets that go with the recommended limit."`
	MemoryBytesMin     *uint64         `json:"memory_bytes_min" jsonschema_description:"Memory of a full table of that limit, at the smaller entry size."`
	MemoryBytesMax     *uint64         `json:"memory_bytes_max" jsonschema_description:"The same at the larger entry size."`
	RunNeeded          *uint64         `json:"run_needed" jsonschema_description:"Limit at which this very run, with its length and filling, would have lost nothing to the table; null where hash chains were too long, which no limit mends."`
	RunNeededHow       string          `json:"run_needed_how" jsonschema_description:"What run_needed was computed from."`
	Parts              []SizingPart    `json:"parts" jsonschema_description:"What each traffic needs."`
	Timeouts           []TimeoutEffect `json:"timeouts" jsonschema_description:"What shorter timeouts would change."`
	Residual           *Residual       `json:"residual" jsonschema_description:"How far the entries computed from arrivals and residence were from those measured; null where that cannot be compared."`
	Growth             []Growth        `json:"growth" jsonschema_description:"What more of the same traffic would need."`
	Fits               []Fit           `json:"fits" jsonschema_description:"Which sizes of node hold it with kube-proxy's defaults."`
	Fills              []Fill          `json:"fills" jsonschema_description:"How long the present limit lasts from a cold start and after a failover; empty where the present limit is unknown."`
	KubeProxy          string          `json:"kube_proxy" jsonschema_description:"Part of the kube-proxy configuration that sets the limit, for this traffic and what was in the table when it began; empty where the machine has no memory for it."`
	Sysctl             string          `json:"sysctl" jsonschema_description:"The same as sysctl settings; comments only where the present limit is enough."`
	Notes              []string        `json:"notes" jsonschema_description:"What to know before using the numbers."`
	Meaningless        bool            `json:"meaningless" jsonschema_description:"A flood dominates: no limit is a remedy."`
	there              there
	run                whatHeld
	setting            setting
	secondPerS         float64 // second entries after clashes, at most
}

// SizingPart is one traffic's share of the need.
type SizingPart struct {
	Traffic           string   `json:"traffic"`
	ArrivalsPerS      float64  `json:"arrivals_per_s" jsonschema_description:"Highest mean rate of due attempts over 5 s; where the traffic is shorter, over its length without its first and last 100 ms."`
	EntriesPerAttempt float64  `json:"entries_per_attempt"`
	ResidenceS        float64  `json:"residence_s" jsonschema_description:"How long an entry outlives its attempt; 0 for held connections."`
	State             string   `json:"state" jsonschema_description:"State the entry spends that time in."`
	Held              uint64   `json:"held" jsonschema_description:"Connections held open."`
	MeasuredS         *float64 `json:"measured_residence_s" jsonschema_description:"Residence by Little's law: entries in that state, counted by walks over the table, by arrivals per second; null where the run was too short for a steady state, or where several traffics end in that state."`
	Entries           *uint64  `json:"entries" jsonschema_description:"Entries in the steady state; null where unknown."`
	Counted           bool     `json:"counted" jsonschema_description:"Whether it is part of needed_entries; a flood is not."`
	Given             bool     `json:"given" jsonschema_description:"The numbers were given, not taken from a run."`
	overS             float64  // s that arrivals_per_s is the mean of
	attemptS          float64  // mean time that an attempt itself takes, s
	Note              string   `json:"note"`
}

// TimeoutEffect is what one shorter timeout would change.
type TimeoutEffect struct {
	Sysctl        string  `json:"sysctl"`
	FromS         float64 `json:"from_s"`
	ToS           float64 `json:"to_s"`
	NeededEntries uint64  `json:"needed_entries"`
	Limit         uint64  `json:"limit" jsonschema_description:"Recommended limit with it."`
	Risk          string  `json:"risk"`
}

// Residual is how well the model of arrivals and residence describes what the
// table did, from the first attempt to the first drop or eviction, or to the
// last attempt.
type Residual struct {
	FromS     float64 `json:"from_s"`
	ToS       float64 `json:"to_s"`
	Samples   int     `json:"samples"`
	MeanShare float64 `json:"mean_share" jsonschema_description:"Mean distance of measured from computed entries, as a share of the mean of those computed; where the kernel resolved clashes, from the nearest of what these may have added."`
	AtS       float64 `json:"at_s" jsonschema_description:"When they were farthest apart."`
	Computed  float64 `json:"computed" jsonschema_description:"Entries computed for then, less those that were there before."`
	Measured  float64 `json:"measured" jsonschema_description:"Entries measured then, less those that were there before."`
	second    bool    // second entries of clashes were allowed for
	others    others  // walks over what is not of the run
}

// Growth is what a multiple of the traffic would need.
type Growth struct {
	Factor         float64 `json:"factor"`
	NeededEntries  uint64  `json:"needed_entries"`
	Limit          uint64  `json:"limit"`
	MemoryBytesMax uint64  `json:"memory_bytes_max"`
}

// Fit says whether a node with so many cores holds the traffic with the limit
// that kube-proxy sets by default: "yes" with a quarter free, "tight" with
// less, "no" when it does not.
type Fit struct {
	Cores        int    `json:"cores"`
	Limit        uint64 `json:"limit" jsonschema_description:"With kube-proxy up to 1.35."`
	Holds        string `json:"holds" jsonschema:"enum=yes,enum=tight,enum=no"`
	LimitFrom136 uint64 `json:"limit_from_1_36" jsonschema_description:"With kube-proxy 1.36 and later, which cuts maxPerCore x cores to 1048576."`
	HoldsFrom136 string `json:"holds_from_1_36" jsonschema:"enum=yes,enum=tight,enum=no"`
}

// Fill is how long a limit lasts when the load comes at once.
type Fill struct {
	Case          string   `json:"case" jsonschema_description:"cold start: from an empty table. failover, 2 of 3 nodes left: from the steady state, when the load of the third comes on top."`
	Limit         uint64   `json:"limit"`
	Seconds       *float64 `json:"seconds" jsonschema_description:"Until the limit is reached; null: never."`
	SteadyEntries uint64   `json:"steady_entries" jsonschema_description:"Entries it ends at, if nothing were dropped."`
}

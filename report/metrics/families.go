package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// counters go on over all runs.
type counters struct {
	all []prometheus.Collector

	runs                                           *prometheus.CounterVec
	due, started, late, notStarted, ended          *prometheus.CounterVec
	lostPackets, heldLost                          *prometheus.CounterVec
	accepted, served, servedDraining, serverErrors *prometheus.CounterVec
	conntrack, cpu, observer                       *prometheus.CounterVec
	came, went                                     *prometheus.CounterVec
	actions, actionsFailed, warnings, loss         *prometheus.CounterVec
}

func newCounters() counters {
	var c counters
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tablefull_" + name + "_total", Help: help}, append([]string{"arm"}, labels...))
		c.all = append(c.all, v)
		return v
	}
	c.runs = vec("runs", "Runs that have begun: one, or those of the trials.")
	c.due = vec("attempts_due", "Attempts that were due.", "traffic", "node")
	c.started = vec("attempts_started", "Attempts that the generator started.", "traffic", "node")
	c.late = vec("attempts_late", "Attempts started more than 10 ms (in a private kernel 30 ms) after they were due.", "traffic", "node")
	c.notStarted = vec("attempts_not_started", "Attempts that were due and that the generator could not start.", "traffic", "node", "reason")
	c.ended = vec("attempts_ended", "Attempts by how they ended; of one-way traffic nobody knows more than that they were sent.", "traffic", "node", "outcome")
	c.lostPackets = vec("lost_packets", "SYNs, datagrams or packets, retransmits included, of attempts that nothing answered.", "traffic", "node")
	c.heldLost = vec("held_connections_lost", "Held connections that were open and failed.", "traffic", "node")
	c.accepted = vec("service_accepted", "Connections, or datagrams, that a service's backends took in.", "service")
	c.served = vec("service_served", "Answers that they sent whole.", "service")
	c.servedDraining = vec("service_served_draining", "Of the answers, those after SIGTERM.", "service")
	c.serverErrors = vec("service_errors", "Errors that they met.", "service")
	c.conntrack = vec("conntrack_events", "What each counter of the kernel gained while traffic flowed, under the kernel's name.", "node", "counter")
	c.cpu = vec("node_cpu_seconds", "CPU time of the node's machine while traffic flowed, all CPUs together.", "node", "mode")
	c.observer = vec("observer_cpu_seconds", "Of it, what the sampling agent used itself.", "node")
	c.came = vec("entries_came", "Entries that a walk over the table met and the one before had not; what came and went between them is not counted.", "node")
	c.went = vec("entries_went", "Entries that the walk before had met and this one did not.", "node")
	c.actions = vec("actions", "Times that an action was begun.", "action", "kind")
	c.actionsFailed = vec("actions_failed", "Of them, those that could not be done.", "action", "kind")
	c.warnings = vec("warnings", "Warnings in the run log.", "warning")
	c.loss = vec("records_lost", "What could not be recorded; nothing is lost without being counted here.", "what")
	return c
}

// gauges are of the present run.
type gauges struct {
	all []prometheus.Collector

	entries, limit *prometheus.GaugeVec
	stat           map[string]*prometheus.GaugeVec // by the kernel's name

	info, trial, started, planned, elapsed, phase *prometheus.GaugeVec
	held, validated                               *prometheus.GaugeVec
	slab, census, ballast                         *prometheus.GaugeVec
	acting                                        *prometheus.GaugeVec
	walk, growth, timeToFull                      *prometheus.GaugeVec
	found
	searched
	ofRun []prometheus.Collector // those that end with their run
}

// nodeExporterStats are the counters that node_exporter's conntrack collector
// exports: gauges there, though they only grow.
var nodeExporterStats = map[string]string{
	"found":          "Number of searched entries which were successful.",
	"invalid":        "Number of packets seen which can not be tracked.",
	"ignore":         "Number of packets seen which are already connected to a conntrack entry.",
	"insert":         "Number of entries inserted into the list.",
	"insert_failed":  "Number of entries for which list insertion was attempted but failed.",
	"drop":           "Number of packets dropped due to conntrack failure.",
	"early_drop":     "Number of dropped conntrack entries to make room for new ones, if maximum table size was reached.",
	"search_restart": "Number of conntrack table lookups which had to be restarted due to hashtable resizes.",
}

func newGauges() gauges {
	g := gauges{stat: map[string]*prometheus.GaugeVec{}}
	vec := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, append([]string{"arm"}, labels...))
		g.all = append(g.all, v)
		return v
	}
	g.entries = vec("node_nf_conntrack_entries", "Number of currently allocated flow entries for connection tracking.", "node")
	g.limit = vec("node_nf_conntrack_entries_limit", "Maximum size of connection tracking table.", "node")
	for name, help := range nodeExporterStats {
		g.stat[name] = vec("node_nf_conntrack_stat_"+name, help, "node")
	}
	g.info = vec("tablefull_run_info", "What runs, and with what.", "run_id", "version", "kernel", "arch", "digest")
	g.trial = vec("tablefull_trial", "Number of the trial that runs, of an arm or a search.")
	g.started = vec("tablefull_run_start_time_seconds", "When traffic began, since the epoch.")
	g.planned = vec("tablefull_run_planned_seconds", "How long traffic is planned to flow.")
	g.elapsed = vec("tablefull_run_time_seconds", "Run time of the newest record: 0 is when traffic began.")
	g.phase = vec("tablefull_phase", "1 for the part of the run that goes on: setup, traffic, drain, stopping.", "phase")
	g.held = vec("tablefull_held_connections", "Connections held open.", "traffic", "node")
	g.validated = vec("tablefull_held_connections_validated", "Of them, those that have answered a request in the last round.", "traffic", "node")
	g.slab = vec("tablefull_slab_bytes", "Memory of the kernel's nf_conntrack slab, of the whole machine.", "node")
	g.census = vec("tablefull_census_entries", "Entries of the last walk over the table, ballast left out.", "node", "proto", "state", "assured", "replied")
	g.ballast = vec("tablefull_census_ballast_entries", "Entries of ballast that it found.", "node")
	g.acting = vec("tablefull_action_running", "How many actions of this name go on now.", "action", "kind")
	g.walk = vec("tablefull_walk_cpu_seconds", "CPU time of the newest walk over the table.", "node")
	g.growth = vec("tablefull_growth_per_second", "Entries that the table gained a second in the last minute: median, low and high end of its interval; only of a watch.", "node", "bound")
	g.timeToFull = vec("tablefull_time_to_full_seconds", "When it is full at that growth; absent while it is not shown to grow; only of a watch.", "node", "bound")
	g.found = newFound(vec)
	g.ofRun = slices.Clone(g.all)
	g.searched = newSearched(vec) // goes on over the trials
	return g
}

func (g *gauges) reset() {
	for _, c := range g.ofRun {
		c.(*prometheus.GaugeVec).Reset()
	}
}

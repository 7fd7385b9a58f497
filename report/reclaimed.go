package report

import (
	"fmt"
	"math"
	"slices"
)

// Reclaimed is entries that left a nearly full table before their time, or at
// once, without a counter that says so.
type Reclaimed struct {
	Entries uint64  `json:"entries" jsonschema_description:"How many, at least: the table's falls, which what was added meanwhile hides in part; or what it has less than the attempts that ended well have left there."`
	FromS   float64 `json:"from_s" jsonschema_description:"Run time in s of the last sample before it was seen."`
	ToS     float64 `json:"to_s" jsonschema_description:"Run time in s of the first sample by which all had left."`
	Early   bool    `json:"early" jsonschema_description:"Some left before the node began to drop: headroom over rate does not predict the onset then."`
}

const (
	// pressure is the occupancy from which the kernel's collector takes
	// entries that are not yet over (gc_worker in nf_conntrack_core.c: 95 %).
	pressure = 0.95
	// noticeable is the smallest fall that is no mere coming and going
	// between two samples.
	noticeable = 50
)

// reclaimed looks for falls of a table over 95 % full that evictions do not
// explain. After an allocation has failed in any namespace of the machine, the
// next run of the garbage collector, up to 60 s later, removes entries that
// are not ASSURED, and TCP entries in closing states, from every namespace
// that is over 95 % full, and counts it nowhere (gc_worker, tcp_can_early_drop).
// So a table can lose TIME_WAIT entries because another one was full before.
func (n *node) reclaimed(drop *Onset, end float64) *Reclaimed {
	var r *Reclaimed
	for iv := range n.rows.intervals() {
		if iv.a.t > end || iv.a.limit == 0 || float64(iv.a.entries) < pressure*float64(iv.a.limit) {
			continue
		}
		// An eviction takes an entry for one that comes, so it does not
		// lower the count by itself; those that came on top are unknown.
		if iv.b.entries+iv.early+noticeable > iv.a.entries {
			continue
		}
		if r == nil {
			r = &Reclaimed{FromS: iv.a.t}
		}
		r.Entries += iv.a.entries - iv.b.entries - iv.early
		r.ToS = iv.b.t
		r.Early = r.Early || drop == nil || iv.a.t < drop.AtS
	}
	return r
}

// takes are the states of TCP entries that the collector takes, although they
// are ASSURED, where they are a traffic's residue (tcp_can_early_drop in
// nf_conntrack_proto_tcp.c).
var takes = []string{"TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "FIN_WAIT"}

// shortOf looks for entries that were taken one by one while others came, so
// that the table never fell: each attempt that ended well left its entry, and
// before the node drops, or at the end, there are fewer than that. It is known
// only in a lab, whose node has no traffic but the run's, and where nothing
// else takes entries away. Nil where none is missing or it cannot be told.
func (l *log) shortOf(n *node, k Knee) *Reclaimed {
	if !l.accountable(n) {
		return nil
	}
	// Servers' and probes' own entries end meanwhile.
	until, slack, share := n.last.t, 10.0, 0.005
	for _, o := range []*Onset{k.EarlyDrop, k.Drop} {
		// What is just being started then is not yet in the table.
		if o != nil && o.AtS-o.UncertaintyS < until {
			until, slack, share = o.AtS-o.UncertaintyS, 30, 0.02
		}
	}
	left := l.leftBehind()
	var r *Reclaimed
	followed := false
	for iv := range n.rows.intervals() {
		s := iv.b
		if s.t > until {
			break
		}
		if r == nil && s.limit > 0 && float64(s.entries) >= pressure*float64(s.limit) {
			r = &Reclaimed{FromS: iv.a.t, Early: true}
		}
		due, gained := left(s.t), float64(s.entries)-float64(n.atStart.entries)
		followed = followed || due >= slack && gained >= due/4
		if r == nil {
			continue
		}
		if due-gained < slack+share*due {
			r.Entries, r.FromS = 0, s.t
			continue
		}
		if lost := uint64(due - gained); lost > r.Entries {
			r.Entries, r.ToS = lost, s.t
		}
	}
	if r == nil || r.Entries == 0 || !followed { // it does not track the traffic
		return nil
	}
	return r
}

// leftBehind is how many entries there have to be at a time of those attempts
// that ended well: they were due long enough ago to have one, and not so long
// that it is over.
func (l *log) leftBehind() func(t float64) float64 {
	type part struct {
		ok *counts
		t  *traffic
	}
	var parts []part
	for _, t := range l.order {
		for _, v := range t.lanes {
			parts = append(parts, part{t.seriesOf(v.bins, func(b *bin) uint64 { return b.ok }), t})
		}
	}
	return func(t float64) float64 {
		var sum float64
		for _, p := range parts {
			from := math.Inf(-1)
			if p.t.info.Residence > 0 {
				from = t - p.t.info.Residence + p.ok.width
			}
			sum += p.ok.in(from, t-settledAfter) * p.t.info.EntriesPerAttempt
		}
		return sum
	}
}

// fewPorts is how many connections leave no source port used twice, on one
// client address: half of the kernel's range (ip_local_port_range). An entry
// whose ports come again is replaced.
const fewPorts = 14000

// accountable says whether the entries on the node can be told from the
// attempts: those of closed connections, each with a source port of its own,
// of a node whose settings stay as they are.
func (l *log) accountable(n *node) bool {
	need := l.need(n.name)
	if l.header == nil || l.header.Target != "lab" || len(l.nodeList) != 1 || n.last == nil || n.atStart == nil || n.unsure || len(need.parts) == 0 || len(need.unknown) > 0 || l.retimed || len(n.roomSteps()) > 0 {
		return false
	}
	var all uint64
	for _, t := range l.order {
		if !slices.Contains(takes, t.info.ResidueState) || !t.info.ExpectsAnswer || t.inFlight() > 0 {
			return false
		}
		all += t.total.Due
	}
	return all <= fewPorts*l.clientAddresses() && !slices.ContainsFunc(l.cluster.acts, func(a *act) bool {
		return slices.Contains([]string{"flush", "set_sysctl", "conntrack_settings", "upgrade_proxy"}, a.kind)
	})
}

// clientAddresses is how many addresses the lab's clients have; 1 where the log
// does not say.
func (l *log) clientAddresses() uint64 {
	s := l.scenario()
	if s == nil {
		return 1
	}
	return uint64(max(1, s.Lab.Clients.Addresses)) //nolint:gosec // not negative
}

// unproven is why a table that was not full proves nothing: with the entries
// that left it, it would have been. Empty where it proves what it shows.
func unproven(f *Findings) []string {
	var out []string
	for _, n := range f.Nodes {
		r := n.Reclaimed
		if !r.beforeTime(f) || n.Knee.Drop != nil || n.Knee.EarlyDrop != nil || n.PeakEntries == nil || n.Limit == nil {
			continue
		}
		if *n.PeakEntries+r.Entries > *n.Limit {
			out = append(out, fmt.Sprintf("%s's table would have been full without the %d entries that left it uncounted: that it was not proves nothing. Where another run's table was full before, wait a minute and run it again", n.Name, r.Entries))
		}
	}
	return out
}

// beforeTime says whether entries left before any of the traffic's can have come
// to its end by itself.
func (r *Reclaimed) beforeTime(f *Findings) bool {
	return r != nil && r.Early && r.FromS < shortestResidence(f)
}

// doubt says what a reclaim means for the numbers.
func (r *Reclaimed) doubt(n *Node, f *Findings) string {
	expired := "they expired, or "
	if r.beforeTime(f) {
		expired = ""
	}
	// nf_conntrack_core.c, gc_worker_can_early_drop.
	s := fmt.Sprintf("%s lost at least %d entries between %.1f s and %.1f s that no counter shows: %sthe kernel's garbage collector took them. It takes connections that are closing, or not ASSURED, out of every table over 95 %% full within a minute after any table of the machine was full", n.Name, r.Entries, r.FromS, r.ToS, expired)
	switch {
	case !r.beforeTime(f):
	case n.Knee.Drop != nil || n.Knee.EarlyDrop != nil:
		s += "; without that the table would have been full earlier"
	case n.PeakEntries != nil && n.Limit != nil && *n.PeakEntries+r.Entries > *n.Limit:
		s += "; without that the table would have been full"
	default:
		s += "; without that there would have been more entries"
	}
	return s
}

package report

import (
	"fmt"
	"slices"

	"github.com/tablefull/tablefull/report/runlog"
)

// Reclaimed is entries that left a nearly full table at once, without a
// counter that says so.
type Reclaimed struct {
	Entries uint64  `json:"entries" jsonschema_description:"How many, at least: what was added meanwhile hides as many more."`
	FromS   float64 `json:"from_s" jsonschema_description:"Run time in s of the last sample before the first such fall."`
	ToS     float64 `json:"to_s" jsonschema_description:"Run time in s of the first sample after the last one."`
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
// by the first failure, or by the end, there are fewer than that. It is known
// only in a lab, whose nodes have no traffic but the run's, and where nothing
// else takes entries away. Nil where none is missing or it cannot be told.
func (l *log) shortOf(n *node, k Knee) *Reclaimed {
	if !l.accountable(n) {
		return nil
	}
	until, slack, share := n.last.t, 20.0, 0.02
	for _, o := range []*Onset{k.EarlyDrop, k.Drop, k.ClientLoss} {
		// What is just being started then is not yet in the table.
		if o != nil && o.AtS-o.UncertaintyS < until {
			until, slack, share = o.AtS-o.UncertaintyS, 50, 0.05
		}
	}
	need := l.need(n.name)
	var short float64 // attempts that left nothing
	for _, t := range l.order {
		if k.ClientLoss == nil {
			short += float64(t.total.Due-min(t.total.Due, t.total.Outcomes[runlog.OK])) * t.info.EntriesPerAttempt
		}
	}
	var r *Reclaimed
	for iv := range n.rows.intervals() {
		s := iv.b
		if s.t > until {
			break
		}
		if r == nil && s.limit > 0 && float64(s.entries) >= pressure*float64(s.limit) {
			r = &Reclaimed{FromS: iv.a.t, Early: true}
		}
		if r == nil {
			continue
		}
		due := need.at(s.t-settledAfter) - short
		lost := due - (float64(s.entries) - float64(n.atStart.entries))
		if lost < slack+share*due {
			r.Entries, r.FromS = 0, s.t
			continue
		}
		if uint64(lost) > r.Entries {
			r.Entries, r.ToS = uint64(lost), s.t
		}
	}
	if r == nil || r.Entries == 0 {
		return nil
	}
	return r
}

// accountable says whether the entries on the node can be told from the
// attempts: those of closed connections, each with a source port of its own.
func (l *log) accountable(n *node) bool {
	need := l.need(n.name)
	if l.header == nil || l.header.Target != "lab" || n.last == nil || n.atStart == nil || n.unsure || len(need.parts) == 0 || len(need.unknown) > 0 || l.retimed || len(n.roomSteps()) > 0 {
		return false
	}
	for _, t := range l.order {
		if !slices.Contains(takes, t.info.ResidueState) || !t.info.ExpectsAnswer || t.inFlight() > 0 {
			return false
		}
	}
	return !slices.ContainsFunc(l.cluster.acts, func(a *act) bool { return a.kind == "flush" })
}

// unproven is why a table that was not full proves nothing: with the entries
// that left it, it would have been. Empty where it proves what it shows.
func unproven(f *Findings) []string {
	var out []string
	for _, n := range f.Nodes {
		r := n.Reclaimed
		if r == nil || !r.Early || n.Knee.Drop != nil || n.Knee.EarlyDrop != nil || n.PeakEntries == nil || n.Limit == nil || r.FromS >= shortestResidence(f) {
			continue
		}
		if *n.PeakEntries+r.Entries > *n.Limit {
			out = append(out, fmt.Sprintf("%s's table would have been full without the %d entries that left it uncounted: that it was not proves nothing. Where another run's table was full before, wait a minute and run it again", n.Name, r.Entries))
		}
	}
	return out
}

// doubt says what a reclaim means for the numbers.
func (r *Reclaimed) doubt(node string) string {
	s := fmt.Sprintf("%s lost at least %d entries between %.1f s and %.1f s that no counter shows: they expired, or the kernel's garbage collector took them. It takes closing connections out of every table over 95 %% full within a minute after any table of the machine was full", node, r.Entries, r.FromS, r.ToS)
	if r.Early {
		s += "; without that the table would have been full earlier"
	}
	return s
}

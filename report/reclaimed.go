package report

import "fmt"

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

// doubt says what a reclaim means for the numbers.
func (r *Reclaimed) doubt(node string) string {
	s := fmt.Sprintf("%s lost at least %d entries between %.1f s and %.1f s that no counter shows: they expired, or the kernel's garbage collector took them. It takes closing connections out of every table over 95 %% full within a minute after any table of the machine was full", node, r.Entries, r.FromS, r.ToS)
	if r.Early {
		s += "; without that the table would have been full earlier"
	}
	return s
}

package runner

import (
	"maps"

	"github.com/tablefull/tablefull/report/runlog"
)

// Progress is what a running run looks like from outside. Counts are totals
// since run time 0; rates are for the caller to take from two of them.
type Progress struct {
	Phase    string
	T        float64 // run time, s; negative before traffic
	Duration float64 // s, planned
	Nodes    map[string]NodeProgress
	Due      uint64
	OK       uint64
	Failed   uint64
	// NotStarted is what the generator could not begin.
	NotStarted uint64
}

// NodeProgress is one node's newest sample.
type NodeProgress struct {
	Entries, Limit  uint64
	Drop, EarlyDrop uint64 // since the first sample
	base            map[string]uint64
}

func (p *Progress) add(r runlog.Record) {
	switch {
	case r.Bin != nil:
		p.Due += r.Bin.Due
		for o, n := range r.Bin.Outcomes {
			switch o {
			case runlog.OK:
				p.OK += n
			case runlog.Interrupted:
			default:
				p.Failed += n
			}
		}
		for _, n := range r.Bin.NotStarted {
			p.NotStarted += n
		}
	case r.Sample != nil && r.Sample.Conntrack != nil:
		ct := r.Sample.Conntrack
		if p.Nodes == nil {
			p.Nodes = map[string]NodeProgress{}
		}
		n := p.Nodes[r.Host]
		if n.base == nil {
			n.base = ct.Counters
		}
		n.Entries, n.Limit = ct.Entries, ct.Limit
		n.Drop = ct.Counters["drop"] - n.base["drop"]
		n.EarlyDrop = ct.Counters["early_drop"] - n.base["early_drop"]
		p.Nodes[r.Host] = n
	}
}

func (p *Progress) snapshot() Progress {
	out := *p
	out.Nodes = maps.Clone(p.Nodes)
	return out
}

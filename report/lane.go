package report

import (
	"math"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/tablefull/tablefull/report/runlog"
)

// A lane is the attempts of one traffic that entered by one node: whose table
// they were tracked in first, whose proxy translated them, and where they were
// looked up.
type lane struct {
	t         *traffic
	node      string // empty where the log does not say: all of the traffic
	bins      *bins  // the traffic's own where there is one lane only
	total     runlog.Bin
	fromDue   *hdrhistogram.Histogram
	held      *runlog.Held
	autopsies [classes][]autopsy // in order of due times once decided
	// full is the start of the first attempt known to have met a full table,
	// by the node whose table that was.
	full map[string]float64
	due  *counts // see dueCounts
}

// lane returns the lane of the traffic's attempts that entered by node.
func (l *log) lane(t *traffic, node string) *lane {
	for _, v := range t.lanes {
		if v.node == node {
			return v
		}
	}
	if len(t.lanes) > 0 && (node == "" || t.lanes[0].node == "") {
		l.mistake("some records of traffic %s name the node it entered by, and some do not", t.info.Name)
		return t.lanes[0]
	}
	v := &lane{t: t, node: node, bins: &t.bins}
	if node != "" {
		v.bins = &bins{}
	}
	t.lanes = append(t.lanes, v)
	return v
}

// cells are the bins with number k to count in: the traffic's, and the lane's
// where that has its own.
func (v *lane) cells(k int64) []*bin {
	if v.bins == &v.t.bins {
		return []*bin{v.bins.at(k)}
	}
	return []*bin{v.t.bins.at(k), v.bins.at(k)}
}

// dueCounts is the lane's attempts by due time.
func (v *lane) dueCounts() *counts {
	if v.bins == &v.t.bins {
		return v.t.due()
	}
	if v.due == nil {
		v.due = v.t.seriesOf(v.bins, func(b *bin) uint64 { return b.due })
	}
	return v.due
}

// via says whether the lane's attempts entered by that node. Those of which it
// is not known may have entered by any.
func (v *lane) via(node string) bool { return v.node == "" || v.node == node }

// entries are the nodes that attempts entered by, in the header's order; one
// empty name where the log does not say.
func (l *log) entries() []string {
	var out []string
	for _, n := range l.nodeList {
		for _, t := range l.order {
			if slices.ContainsFunc(t.lanes, func(v *lane) bool { return v.node == n.name }) {
				out = append(out, n.name)
				break
			}
		}
	}
	if out == nil {
		return []string{""}
	}
	return out
}

// parted says whether it is known which node each attempt entered by.
func (l *log) parted() bool { return l.entries()[0] != "" }

// costs is how many entries an attempt of the lane asks of a node's table, at
// least about: of the one it enters by what the traffic's attempts cost, and of
// another one an entry, if the pod it is sent to is there.
func (l *log) costs(v *lane, node string, at float64) float64 {
	if v.via(node) || node == "" {
		return v.t.connections()
	}
	if v.t.info.Local {
		return 0
	}
	return l.podShare(v.t.info.To, node, at)
}

// podShare is the share of the service's usable endpoints that are on the node.
func (l *log) podShare(service, node string, at float64) float64 {
	var on, all float64
	if e := l.cluster.services[service]; e != nil && len(e.t) > 0 {
		for _, x := range runlog.Usable(e.at(max(at, e.t[0]))) {
			if all++; x.Node == node {
				on++
			}
		}
	} else if s := l.service(service); s != nil {
		for _, b := range s.Backends {
			if all++; b.Node == node {
				on++
			}
		}
	}
	if all == 0 {
		return 0
	}
	return on / all
}

// loadOn is how many entries of a node's table a due attempt of the traffic
// asks for, on average over where they enter and what they were sent to when
// traffic began.
func (l *log) loadOn(node string, t *traffic) float64 {
	if !l.parted() {
		return t.info.EntriesPerAttempt
	}
	var sum, all float64
	for _, v := range t.lanes {
		n := v.dueCounts().total
		all += n
		sum += n * l.costs(v, node, 0)
	}
	// Which nodes the connections of a gateway's own go through is not known.
	if all == 0 || t.info.EntriesPerAttempt != 1 {
		return 0
	}
	return sum / all
}

// Entered is what befell the attempts that entered by one node.
type Entered struct {
	Due        uint64            `json:"due" jsonschema_description:"Attempts that were due."`
	Attempted  uint64            `json:"attempted" jsonschema_description:"Attempts that were started."`
	Succeeded  uint64            `json:"succeeded" jsonschema_description:"Attempts that ended as they should; those of one-way traffic, of which nobody knows, were taken by the kernel."`
	Failed     uint64            `json:"failed" jsonschema_description:"Attempts that ended otherwise; interrupted ones are neither."`
	NotStarted uint64            `json:"not_started" jsonschema_description:"Attempts that were due and could not be started by the generator."`
	Outcomes   map[string]uint64 `json:"outcomes" jsonschema_description:"Attempts by how they ended."`
	P50Ms      *float64          `json:"p50_ms" jsonschema_description:"Median time of successful attempts from when they were due, ms."`
	P99Ms      *float64          `json:"p99_ms" jsonschema_description:"99th percentile of the same, ms."`
	MaxMs      *float64          `json:"max_ms" jsonschema_description:"Longest of the same, ms."`
	Causes     []Cause           `json:"causes" jsonschema_description:"Why they failed, most first. Proofs name the hosts whose counters they rest on: a table can be another node's, of a pod they were sent on to."`
}

// entered adds up what entered by the node; nil where that is not known.
func (l *log) entered(node string, a *attribution) *Entered {
	if !l.parted() {
		return nil
	}
	e := &Entered{Outcomes: map[string]uint64{}, Causes: a.causesOf(node)}
	var took *hdrhistogram.Histogram
	for _, t := range l.order {
		for _, v := range t.lanes {
			if v.node != node {
				continue
			}
			e.Due += v.total.Due
			e.Attempted += v.total.Started
			for o, n := range v.total.Outcomes {
				e.Outcomes[string(o)] += n
				switch o {
				case runlog.OK:
					e.Succeeded += n
				case runlog.Interrupted:
				default:
					e.Failed += n
				}
			}
			for _, n := range v.total.NotStarted {
				e.NotStarted += n
			}
			if v.fromDue != nil {
				if took == nil {
					took = hdrhistogram.New(1, v.fromDue.HighestTrackableValue(), int(v.fromDue.SignificantFigures()))
				}
				took.Merge(v.fromDue)
			}
		}
	}
	e.P50Ms, e.P99Ms, e.MaxMs = quantileMs(took, 50), quantileMs(took, 99), quantileMs(took, 100)
	return e
}

// failedBy counts failed attempts that were due in [from, to) by the node they
// entered by; empty where that is not known.
func (l *log) failedBy(from, to float64) map[string]uint64 {
	out := map[string]uint64{}
	for _, t := range l.order {
		for _, v := range t.lanes {
			if v.node == "" {
				continue
			}
			for k, b := range v.bins.all() {
				if at := t.start(k) + t.width/2; at >= from && at < to && b.failed() > 0 {
					out[v.node] += b.failed()
				}
			}
		}
	}
	return out
}

// fullAt is the start of the first attempt known to have met that node's full
// table; NaN for none.
func (v *lane) fullAt(node string) float64 {
	if at, ok := v.full[node]; ok {
		return at
	}
	return math.NaN()
}

// binsVia are the bins of the attempts that entered by the node; all where the
// name is empty. Where it is not known which entered by which, they are taken for
// those of the only node there is.
func (t *traffic) binsVia(node string) *bins {
	if node == "" {
		return &t.bins
	}
	for _, v := range t.lanes {
		if v.via(node) {
			return v.bins
		}
	}
	return &bins{}
}

// tookVia are their latencies, nil for none.
func (t *traffic) tookVia(node string) *hdrhistogram.Histogram {
	for _, v := range t.lanes {
		switch {
		case node == "" || v.node == "":
			return t.fromDue
		case v.node == node:
			return v.fromDue
		}
	}
	return nil
}

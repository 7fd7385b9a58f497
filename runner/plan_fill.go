package runner

import (
	"fmt"
	"math"
	"strings"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// A fill is what a plan's traffic does to the table, by arithmetic alone.
type fill struct {
	room float64 // entries that are free when traffic begins
	// at is when the attempts together ask for more than room, s of run time.
	at      float64
	full    bool
	peak    float64  // most entries that they ask for at once
	unknown []string // traffic whose entries cannot be computed
	// evicts: some entries are not ASSURED, so that the kernel makes room by
	// evicting those before it drops.
	evicts bool
	// actions: the scenario has some, which the arithmetic knows nothing of.
	actions bool
	// node is whose table it is, the one that is asked for the most; empty
	// where there is one only.
	node string
	// alone is when each traffic would fill the table without the others, by
	// its place in the plan.
	alone map[int]float64
}

// fillSteps is in how many steps the run is gone through. Between two of them
// the need is taken for linear.
const fillSteps = 4000

// fill computes when the table is full. The need at a moment is the attempts
// that were due and whose entry has not outlived its residence, as the report
// computes it afterwards from the attempts that were really due.
func (p *Plan) fill() fill {
	f := fill{room: float64(p.Limit()), alone: map[int]float64{}, actions: len(p.Scenario.Actions) > 0}
	if h := p.Scenario.Conntrack.Headroom; h != nil {
		f.room = float64(*h)
	}
	var known []int
	for i, t := range p.Traffic {
		// Which nodes the connections of a gateway's own go through is not known.
		if t.EntriesPerAttempt <= 0 || p.Scenario.Lab.Nodes > 1 && t.EntriesPerAttempt != 1 {
			f.unknown = append(f.unknown, t.Name)
			continue
		}
		known = append(known, i)
		f.evicts = f.evicts || t.ResidueState == "UDP" || t.ResidueState == "SYN_RECV"
	}
	nodes := max(1, p.Scenario.Lab.Nodes)
	for n := range nodes {
		if at, full, peak := p.reaches(f.room, n, known...); n == 0 || peak > f.peak*(1+1e-9) {
			f.at, f.full, f.peak = at, full, peak
			if nodes > 1 {
				f.node = p.Scenario.NodeNames()[n]
			}
		}
	}
	for _, i := range known {
		for n := range nodes {
			if at, full, _ := p.reaches(f.room, n, i); full && (f.alone[i] == 0 || at < f.alone[i]) {
				f.alone[i] = at
			}
		}
	}
	return f
}

// share is how many entries an attempt of traffic i costs node number n, on
// average: one where it enters there, and one where it is sent on to a pod there.
func (p *Plan) share(i, n int) float64 {
	s := p.Scenario
	nodes := s.Lab.Nodes
	if nodes <= 1 {
		return p.Traffic[i].EntriesPerAttempt
	}
	here := 1 / float64(nodes) // attempts take turns
	for _, svc := range s.Services {
		if svc.Name == p.Traffic[i].To && svc.Pods > 0 && !p.Traffic[i].Local {
			pods := env.Part{Index: n, Of: nodes}.Has(svc.Pods)
			return here + (1-here)*float64(pods)/float64(svc.Pods)
		}
	}
	return here
}

// reaches returns when the traffics at these places together need more than
// room on node number n, and the most they ever need there.
func (p *Plan) reaches(room float64, n int, places ...int) (at float64, full bool, peak float64) {
	end := 0.0
	for _, i := range places {
		end = max(end, p.Traffic[i].End)
	}
	last := 0.0
	for k := 1; k <= fillSteps; k++ {
		t := end * float64(k) / fillSteps
		var need float64
		for _, i := range places {
			need += p.needOf(i, t) * p.share(i, n)
		}
		if !full && need > room {
			full, at = true, t-end/fillSteps*(need-room)/(need-last)
		}
		peak, last = max(peak, need), need
	}
	return at, full, peak
}

// needOf is of how many attempts of traffic i the entries are there at t, s of
// run time.
func (p *Plan) needOf(i int, t float64) float64 {
	info := p.Traffic[i]
	due := func(at float64) float64 {
		return dueBy(p.Scenario.Traffic[i], min(at, info.End)-info.Start, info.End-info.Start)
	}
	n := due(t)
	// What is held, or whose residence is not known, stays.
	if p.Scenario.Traffic[i].Idle == nil && info.Residence > 0 {
		n -= due(t - info.Residence)
	}
	return n
}

// dueBy is how many attempts of t are due in the first d s of its length.
func dueBy(t scenarios.Traffic, d, length float64) float64 {
	if d <= 0 {
		return 0
	}
	if t.Idle != nil {
		return min(float64(t.Idle.Count), float64(t.Idle.OpenRate)*d)
	}
	pacing := t.Pacing()
	switch {
	case pacing == nil:
		return 0
	case pacing.Ramp != nil:
		a, b := float64(pacing.Ramp.From), float64(pacing.Ramp.To)
		return a*d + (b-a)*d*d/(2*length)
	case pacing.Sine != nil:
		w := 2 * math.Pi / pacing.Sine.Period.Seconds()
		return float64(pacing.Sine.Mean)*d + float64(pacing.Sine.Amplitude)/w*(1-math.Cos(w*d))
	case len(pacing.Stages) > 0:
		return dueInStages(pacing.Stages, d)
	}
	return float64(pacing.Rate) * d
}

// dueInStages is the integral of the rate over the stages' first d s. After
// the last one its rate stays.
func dueInStages(stages []scenarios.Stage, d float64) float64 {
	var n float64
	last := float64(stages[0].To)
	for _, s := range stages {
		a, b, length := last, float64(s.To), s.For.Seconds()
		if s.From != nil {
			a = float64(*s.From)
		}
		if d <= length {
			return n + a*d + (b-a)*d*d/(2*length)
		}
		n += (a + b) / 2 * length
		d -= length
		last = b
	}
	return n + last*d
}

// text is the line of the dry run about the table.
func (f fill) text() string {
	var s string
	switch {
	case f.full:
		s = fmt.Sprintf("full at %.2fs: from then on more than the %.0f free entries are needed", f.at, f.room)
		if f.evicts {
			s += "; some of it can be evicted (early_drop), so it need not come to a drop"
		}
	case len(f.unknown) > 0 && f.peak == 0:
		return "what it needs cannot be computed, because connections or ports are used again, or a tunnel or a lack of tracking is between"
	default:
		s = fmt.Sprintf("at most %.0f of %.0f free entries are needed at once: never full in this run", math.Ceil(f.peak), f.room)
	}
	if len(f.unknown) > 0 {
		s += "; without " + strings.Join(f.unknown, ", ") + ", whose entries cannot be computed"
	}
	if f.node != "" {
		s = f.node + ", which is asked for the most: " + s
	}
	if f.actions {
		s += "; without what actions do to it"
	}
	return s
}

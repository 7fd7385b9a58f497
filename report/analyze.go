package report

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/tablefull/tablefull/report/runlog"
)

// Analyze reads a whole run log and draws its conclusions. A log that was cut
// off, or is damaged, is analysed as far as it goes, and the findings say so;
// the error is that of the reader only. Memory grows with the length of the
// run, by about 40 bytes per bin and per sample, not with its rate.
func Analyze(r io.Reader) (*Findings, error) {
	a := NewAnalysis(r)
	if err := a.Read(); err != nil {
		return nil, err
	}
	return a.Findings(), nil
}

// An Analysis draws conclusions from a run log as far as it has been read,
// again and again while it grows. One goroutine uses it.
type Analysis struct {
	// OnRecord is given each record that has been read, on the goroutine that
	// reads. It must not keep it. Nil: nobody wants them.
	OnRecord func(*runlog.Record)
	// Thin makes an analysis of a run of days keep less of what is long past and
	// quiet: for those who want to know what thresholds fail and why attempts do,
	// and not what a run looked like, or where it was not looked at.
	Thin bool

	in  *runlog.Reader
	log *log
}

func (a *Analysis) add(r *runlog.Record) {
	a.log.add(r)
	if a.OnRecord != nil {
		a.OnRecord(r)
	}
}

// NewAnalysis returns an Analysis of the log in r, of which it reads nothing yet.
func NewAnalysis(r io.Reader) *Analysis {
	in := runlog.NewReader(r)
	in.OnlyNet(netNames...)
	return &Analysis{in: in, log: newLog()}
}

// Read reads the log to its end. The error is that of the reader only.
func (a *Analysis) Read() error {
	if err := a.in.Each(a.add); err != nil {
		return fmt.Errorf("analyze run log: %w", err)
	}
	return nil
}

// Follow reads the log of a run that may still be going, as runlog's
// Reader.Follow does, until the run has ended or ctx is done. It calls
// caughtUp whenever there is something new, from which Findings can be called.
func (a *Analysis) Follow(ctx context.Context, caughtUp func() error) error {
	if err := a.in.Follow(ctx, a.add, caughtUp); err != nil {
		return fmt.Errorf("follow run log: %w", err)
	}
	return nil
}

// Offset is how many bytes of the log have been read.
func (a *Analysis) Offset() int64 { return a.in.Offset() }

// Findings is what the log shows as far as it has been read: those of Analyze
// of a log that ends there. They share nothing with the Analysis, which can be
// read on.
func (a *Analysis) Findings() *Findings {
	l, r := a.log, a.in
	l.problems, l.nProblems, l.missing = slices.Clone(r.Problems()), r.ProblemCount(), nil
	if l.trailer != nil {
		for h, n := range l.trailer.Records {
			if have := r.Last(h); have < n {
				l.missing = append(l.missing, fmt.Sprintf("%d records at the end of %s's", n-have, h))
			}
		}
		slices.Sort(l.missing)
	}
	if a.Thin {
		l.thin()
	}
	return l.findings()
}

func (l *log) findings() *Findings {
	for _, t := range l.order {
		t.dueCounts = nil // of findings before these
		for _, v := range t.lanes {
			v.due, v.full = nil, nil
		}
	}
	a := newAttribution(l)
	a.attribute()
	f := &Findings{
		Format: FormatVersion, Doubts: []string{}, NotMeasured: []string{}, Spikes: []Spike{}, Traffic: []Traffic{},
		Backends: []Backend{}, Nodes: []Node{}, UndoErrors: []string{},
		Incomplete: len(l.unfinished()) > 0, ipvs: l.cluster.ipvs,
	}
	if h := l.header; h != nil {
		f.Scenario, f.Target, f.Environment = h.Scenario, h.Target, environment(h)
	} else {
		f.Environment = environment(&runlog.Header{})
	}
	f.Environment.Proxy = l.proxyInfo()
	if t := l.trailer; t != nil {
		restored := t.Restored
		f.Restored = &restored
		f.UndoErrors = append(f.UndoErrors, t.UndoErrors...)
	}
	knees := map[*node]Knee{}
	for _, n := range l.nodeList {
		knees[n] = l.onsets(n, a)
		n.narrowLimits(knees[n].Drop)
	}
	f.Causes = a.causes()
	f.Knee = firstOf(l, knees)
	f.Knee.ClientLoss = l.clientLoss("")
	parted := l.parted()
	for _, n := range l.nodeList {
		k := knees[n]
		if parted || len(l.nodeList) == 1 { // else nobody knows whose it was
			k.ClientLoss = l.clientLoss(n.name)
		}
		nf := n.finding(k, a.total[n.name], f.Environment.DurationS)
		if l.private() {
			delete(nf.CPU, "steal")
		}
		if r := l.shortOf(n, k); r != nil && (nf.Reclaimed == nil || !nf.Reclaimed.Early || r.Entries > nf.Reclaimed.Entries) {
			nf.Reclaimed = r
		}
		nf.Stale, nf.Entered = l.staleOf(n.name), l.entered(n.name, a)
		nf.LimitChanges = l.whoChanged(n)
		if nf.Census != nil {
			nf.Census.closed = l.closedBy(nf.Census.AtS)
		}
		nf.Conditions = append([]Condition{}, l.conditions[n.name]...)
		nf.Proxy = l.proxies[n.name].finding()
		nf.Ports = n.portFinding(l.masquerade())
		nf.needs, nf.others = l.needsAtOnce(n), n.others
		f.Nodes = append(f.Nodes, nf)
	}
	for _, t := range l.order {
		tf := t.finding()
		tf.TearDown = l.tearDown(t)
		if tf.HeldLost != nil {
			tf.HeldCauses = l.heldCauses(t, *tf.HeldLost)
			tf.known = l.knows(t, tf.HeldCauses)
		}
		f.Traffic = append(f.Traffic, tf)
	}
	f.Backends = l.backendFindings()
	f.Spikes, f.OtherSpikes = l.spikes(a)
	f.noPod = l.noPodTimes()
	if l.header != nil {
		f.gateway = slices.ContainsFunc(l.header.Services, func(s runlog.ServiceInfo) bool { return s.Gateway != "" })
	}
	for i := range f.Spikes {
		f.Spikes[i].did = limitsBy(f, &f.Spikes[i])
		f.Spikes[i].Ties, f.Spikes[i].Events = tiesOf(f, &f.Spikes[i]), l.eventsOf(&f.Spikes[i])
	}
	first := firstNode(l, knees)
	f.Predicted = l.predict(first, f.Knee)
	f.Sizing = l.sizing(l.busiest(first), f.Nodes)
	f.Capacity = l.capacity()
	f.Thresholds, f.Expected = []ThresholdResult{}, []ThresholdResult{}
	if h := l.header; h != nil {
		f.Thresholds, f.Expected = l.thresholds(h.Thresholds, f, a), l.thresholds(h.Expect, f, a)
	}
	l.notYet(f.Expected)
	f.Reproduced = reproduced(f.Expected)
	generator, reasons := l.audit()
	f.Generator = generator
	f.Timeline = l.timeline(f, a, first)
	f.Doubts = append(f.Doubts, l.allDoubts(f, a)...)
	f.NotMeasured = append(f.NotMeasured, l.notMeasured(f)...)
	l.judge(f, a, reasons)
	if f.Sizing != nil {
		f.Sizing.run = whetherHeld(f)
		f.Sizing.decide(tableTrouble(f))
	}
	f.Headline = headline(f)
	if f.Capacity != nil {
		l.judgeSearch(f)
	}
	return f
}

func environment(h *runlog.Header) Environment {
	e := Environment{
		Version: h.Version, RunID: h.RunID, Started: h.Started, Digest: h.Digest, Seed: h.Seed, Kernel: h.Kernel, Arch: h.Arch,
		CPUs: h.CPUs, MemoryBytes: h.MemoryBytes, Limit: h.Limit, Buckets: h.Buckets, Timeouts: h.Timeouts,
		Capabilities: h.Capabilities, DurationS: h.Duration, SampleEveryS: h.SampleEvery, ScenarioYAML: h.ScenarioYAML,
	}
	if h.EntryBytes > 0 {
		v := h.EntryBytes
		e.EntryBytes = &v
	}
	if e.Timeouts == nil {
		e.Timeouts = map[string]float64{}
	}
	if e.Capabilities == nil {
		e.Capabilities = map[string]string{}
	}
	return e
}

func (t *traffic) finding() Traffic {
	f := Traffic{
		Name: t.info.Name, Shape: t.info.Shape, To: t.info.To, Attempted: t.total.Started, Due: t.total.Due,
		InFlight: t.inFlight(), OneWay: t.oneWay(), local: t.info.Local, Outcomes: map[string]uint64{}, Refusals: map[string]uint64{},
		HeldCauses: []HeldCause{},
	}
	for o, n := range t.total.Outcomes {
		f.Outcomes[string(o)] += n
		if o != runlog.OK && o != runlog.Interrupted {
			f.Failed += n
		}
	}
	if !f.OneWay {
		n := t.total.Outcomes[runlog.OK]
		f.Succeeded = &n
	}
	for r, n := range t.total.NotStarted {
		f.Refusals[string(r)] += n
		f.NotStarted += n
	}
	if f.Attempted > 0 {
		v := float64(t.total.Late) / float64(f.Attempted)
		f.LateShare = &v
	}
	f.P50Ms, f.P99Ms, f.MaxMs = quantileMs(t.fromDue, 50), quantileMs(t.fromDue, 99), quantileMs(t.fromDue, 100)
	f.StartP99Ms = quantileMs(t.started, 99)
	if t.held != nil {
		peak, end, lost, alive := t.peak, t.held.Open, t.held.Lost, t.held.Validated
		f.HeldPeak, f.HeldEnd, f.HeldLost, f.HeldAlive = &peak, &end, &lost, &alive
	}
	return f
}

func quantileMs(h *hdrhistogram.Histogram, q float64) *float64 {
	if h == nil || h.TotalCount() == 0 {
		return nil
	}
	us := h.Max()
	if q < 100 {
		us = h.ValueAtQuantile(q)
	}
	return finite(float64(us) / 1000)
}

func (n *node) finding(k Knee, full uint64, duration float64) Node {
	f := Node{Name: n.name, Counters: maps.Clone(n.counters), TableFullDrops: full, Knee: k, Samples: n.samples, refills: n.refills}
	if n.last != nil {
		limit, peak, start, end := n.last.limit, n.peak, n.atStart.entries, n.last.entries
		room := int64(min(n.atStart.limit, math.MaxInt64)) - int64(min(start, math.MaxInt64))
		f.Limit, f.PeakEntries, f.StartEntries, f.EndEntries, f.HeadroomAtStart = &limit, &peak, &start, &end, &room
		share := n.peakShare
		f.PeakOccupancy = &share
	}
	for iv := range n.rows.intervals() {
		gap := iv.b.t - iv.a.t
		if f.LongestGapS == nil || gap > *f.LongestGapS {
			f.LongestGapS = &gap
		}
	}
	if c := n.census; c != nil {
		f.Census = &Census{AtS: n.censusAt, Entries: c.Entries, Ballast: c.Ballast, Groups: c.Groups, Other: c.Other, Sources: c.Sources, Walks: n.walks}
		if c.WithoutBallast {
			f.Census.Entries, f.Census.Ballast = c.Entries+n.ballast, n.ballast
		}
		if f.Census.Groups == nil {
			f.Census.Groups = []runlog.CensusGroup{}
		}
		if f.Census.Sources == nil {
			f.Census.Sources = []runlog.TopSource{}
		}
	}
	f.PeakByState = maps.Clone(n.byState)
	f.CPU = n.cpuShares()
	f.AgedOut = n.aged
	f.Reclaimed = n.reclaimed(k.Drop, duration)
	if n.slab > 0 {
		v := n.slab
		f.SlabBytesPeak = &v
	}
	return f
}

// cpuShares is who used the CPUs while traffic was due. What is read before
// and after it, the first and the last walk over the table above all, disturbs
// nothing.
func (n *node) cpuShares() map[string]float64 {
	a, b := n.cpuFrom, n.cpuTo
	if a == nil || b == nil || b.t <= a.t || b.total <= a.total {
		return nil
	}
	d := b.total - a.total
	return map[string]float64{
		"user": (b.user - a.user) / d, "system": (b.system - a.system) / d, "softirq": (b.softirq - a.softirq) / d,
		"idle": (b.idle - a.idle) / d, "steal": (b.steal - a.steal) / d, "self": (b.self - a.self) / (b.t - a.t),
	}
}

func (l *log) backendFindings() []Backend {
	out := []Backend{}
	served := map[string]uint64{}
	for _, b := range l.backends {
		served[b.Service] += b.Served
	}
	for _, b := range l.backends {
		c := *b
		if n := served[b.Service]; n > 0 {
			c.Share = float64(b.Served) / float64(n)
		}
		l.drainShare(&c)
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(x, y Backend) int {
		if x.Service != y.Service {
			return compareText(x.Service, y.Service)
		}
		return compareText(x.Name, y.Name)
	})
	return out
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// allDoubts lists what limits how far the numbers can be trusted.
func (l *log) allDoubts(f *Findings, a *attribution) []string {
	out := slices.Clone(a.doubts)
	out = append(out, l.doubts...)
	for _, p := range l.problems[:min(len(l.problems), maxDoubts)] {
		out = append(out, p.Text)
	}
	for _, k := range l.lossOrder {
		if k.What != "failures" && k.What != "autopsies" && l.losses[k] > 0 {
			out = append(out, fmt.Sprintf("lost %s: %d (%s)", k.What, l.losses[k], k.Why))
		}
	}
	if n := l.cluster.dropped; n > 0 {
		out = append(out, fmt.Sprintf("%s came after the first %d and were not looked at", plural(n, "action"), maxActs))
	}
	if l.clockBound > 0.01 {
		out = append(out, fmt.Sprintf("the hosts' clocks are known to within %.0f ms only", l.clockBound*1000))
	}
	for i := range f.Nodes {
		if n := &f.Nodes[i]; n.Reclaimed != nil {
			out = append(out, n.Reclaimed.doubt(n, f))
		}
	}
	for _, n := range l.nodeList {
		if n.backwards > 0 || n.reversed > 0 {
			out = append(out, fmt.Sprintf("on %s %s backwards and %s out of order: what happened there is not in the numbers", n.name, plural(n.backwards, "counter went", "counters went"), plural(n.reversed, "sample came", "samples came")))
		}
		if s := l.staleDoubt(f, n.name); s != "" {
			out = append(out, s)
		}
		if s := n.unasked(f); s != "" {
			out = append(out, s)
		}
		every := 0.1
		if l.header != nil && l.header.SampleEvery > 0 {
			every = l.header.SampleEvery
		}
		if gap := longestGap(n); gap > max(5*every, 0.5) {
			out = append(out, fmt.Sprintf("%s was not sampled for %.1f s at a stretch", n.name, gap))
		}
	}
	if g := f.Generator; g.MinIdle != nil && *g.MinIdle < busyMachine {
		whose, shared := "the machine's CPUs", "client, node and pods of a lab share them with whatever else runs on the machine"
		if f.Target == "kubernetes" {
			whose, shared = "the CPUs of "+l.leastIdle()+"'s machine", "the node and the run's pods on it share them with whatever else runs there"
		}
		out = append(out, fmt.Sprintf("%s were %s idle for 3 s: %s, and who took how much is not told apart, so times and rates may be the machine's and not the system's", whose, percent(*g.MinIdle), shared))
	}
	if g := f.Generator; g.Interrupted > 0 {
		out = append(out, fmt.Sprintf("%s were still going when the run ended and count neither way", plural(g.Interrupted, "attempt")))
	}
	if g := f.Generator; g.InFlight > 0 {
		out = append(out, fmt.Sprintf("the log does not say how %s ended", plural(g.InFlight, "attempt")))
	}
	return out
}

// limits are the lowest and the highest limit while traffic flowed.
func (n *node) limits() (lo, hi uint64) {
	first := true
	for iv := range n.rows.intervals() {
		if first {
			lo, first = iv.b.limit, false
		}
		lo, hi = min(lo, iv.b.limit), max(hi, iv.b.limit)
	}
	return lo, hi
}

func longestGap(n *node) float64 {
	var gap float64
	for iv := range n.rows.intervals() {
		gap = max(gap, iv.b.t-max(iv.a.t, 0))
	}
	return gap
}

// private says that the machine's kernel was not the one that was looked at.
func (l *log) private() bool { return l.header != nil && l.header.Private }

// lookedAt is what of a run is looked up in the node's table.
func lookedAt(f *Findings) string {
	failed, lost, open := false, false, false
	for _, t := range f.Traffic {
		failed = failed || t.Failed > 0
		lost = lost || t.HeldLost != nil && *t.HeldLost > 0
		open = open || t.TearDown != nil && t.TearDown.Failed > 0
	}
	var what []string
	if failed || !lost && !open {
		what = append(what, "failed attempts")
	}
	if lost {
		what = append(what, "lost connections")
	}
	if open {
		what = append(what, "connections that were not torn down")
	}
	return listed(what)
}

// notMeasured lists what nobody looked at.
func (l *log) notMeasured(f *Findings) []string {
	var out []string
	for _, k := range l.lossOrder {
		if (k.What == "failures" || k.What == "autopsies") && l.losses[k] > 0 {
			what, was := k.What, "were"
			if k.What == "autopsies" {
				out = append(out, fmt.Sprintf("%s of %s %s not made: %s", plural(l.losses[k], "look-up"), lookedAt(f), wasWere(l.losses[k]), k.Why))
				continue
			}
			if l.losses[k] == 1 {
				what, was = strings.TrimSuffix(k.What, "s"), "was"
			}
			out = append(out, fmt.Sprintf("%d %s %s counted and not recorded one by one: %s", l.losses[k], what, was, k.Why))
		}
	}
	for _, n := range f.Nodes {
		if n.Samples == 0 {
			out = append(out, n.Name+"'s table was not sampled, so its onsets and the table's part in failures are unknown")
		}
		if why := l.cluster.failures[n.Name]; why != "" && n.Stale == nil {
			out = append(out, n.Name+"'s dataplane: "+why)
		}
		if n.Census == nil {
			why := ""
			if x := l.nodes[n.Name]; x != nil && x.censusBad != "" {
				why = ": " + x.censusBad
			}
			out = append(out, "no census of "+n.Name+"'s table"+why)
		}
	}
	out = append(out, l.afterCut(f)...)
	for _, t := range f.Traffic {
		if t.OneWay {
			out = append(out, oneWayUnknown(t))
		}
	}
	if len(f.Backends) == 0 {
		out = append(out, "what the pods served")
	}
	if l.private() {
		out = append(out, "how busy the machine around the private kernel was: inside, what others take of its CPU is only time that passes, "+
			"and steal is always 0; attempts that started late are what shows it")
	}
	return out
}

// oneWayUnknown is what nobody knows of traffic that waits for no answer.
func oneWayUnknown(t Traffic) string {
	if t.Shape == "flood" {
		return fmt.Sprintf("how many of %s packets arrived and were answered: their senders' addresses are forged, so an answer goes astray, no handshake is completed, and nobody counts them; "+
			"an entry in SYN_RECV is that of a packet that was answered", whose(t.Name))
	}
	return fmt.Sprintf("whether %s packets arrived: nobody waits for an answer to them", whose(t.Name))
}

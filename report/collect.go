package report

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/scenarios"
)

const (
	// maxTime is the latest run time, in s, that is taken for one: 3 years.
	maxTime = 1e8
	// defaultBin is the width of a bin in s where its record gives none.
	defaultBin = 0.1
	// joinWindow is how many failures are remembered to tell which attempt an
	// autopsy belongs to. Autopsies follow within seconds.
	joinWindow = 1 << 16
	// maxEvents bounds Timeline.Events.
	maxEvents = 1000
	// maxDoubts bounds each kind of doubt that a log can cause many of.
	maxDoubts = 20
)

// log is a run log, read and added up.
type log struct {
	header    *runlog.Header
	trailer   *runlog.Trailer
	records   uint64
	lastT     float64
	thinnedTo float64 // s of run time; see thin
	drained   float64 // when the last attempts had ended, s; 0 is unknown
	problems  []runlog.Problem
	nProblems uint64
	missing   []string // hosts whose last records never arrived

	traffics  map[string]*traffic
	order     []*traffic // as in the header, then as they appear
	nodes     map[string]*node
	nodeList  []*node
	hosts     map[string]*host // everything that has network counters
	backends  []*Backend
	windows   []*window
	cluster   cluster
	proxies   map[string]*proxyLog // by node
	drains    map[podKey]*drainPart
	backendOf map[podKey]*Backend

	trials []runlog.Trial // of a capacity search

	events      []Event
	otherEvents uint64
	conditions  map[string][]Condition // of nodes, by name
	kubeEvents  []kubeEvent
	losses      map[runlog.Loss]uint64 // by What and Why, Count is 0 in the key
	lossOrder   []runlog.Loss
	clockBound  float64
	doubts      []string
	wrong       []string // what cannot be right in the log, so that nothing can be concluded from it

	joins    map[attempt]failed
	joinRing []attempt
	joinNext int
	unjoined uint64

	addrs      []netip.Addr // that autopsies found
	addrOf     map[netip.Addr]uint32
	nAutopsies int
	unkept     uint64 // beyond maxAutopsies

	flushes        []flush
	retimed        bool // timeouts were set during the run
	timeoutChanged bool // tcp_timeout_established was set during the run
}

type attempt struct {
	traffic, node string
	seq           uint64
}

// failed is what is remembered of a failed attempt until its autopsy comes.
type failed struct {
	due, start float64
	class      class
}

// traffic is one traffic's records.
type traffic struct {
	info      runlog.TrafficInfo
	known     bool // is in the header
	width     float64
	bins      bins
	total     runlog.Bin
	fromDue   *hdrhistogram.Histogram
	started   *hdrhistogram.Histogram
	held      *runlog.Held
	peak      uint64 // connections held at most
	holding   *grid[heldCell]
	took      *grid[*hdrhistogram.PackedHistogram] // from_due, for plotting
	tookWidth float64                              // s, the widest of the Latency records
	lanes     []*lane                              // by the node they entered by
	senders   []string                             // hosts that tell of its attempts
	losses    []loss                               // of held connections
	dueCounts *counts                              // see due
	unplaced  map[runlog.Outcome]uint64            // failures of bins at impossible times
	errnos    map[string]uint64                    // of Failure records, by outcome and errno

	lostOnes  []lostOne       // held connections whose loss was recorded one by one
	lostIndex map[attempt]int // in lostOnes

	unclosedOnes  map[attempt]float64 // when those were due that were not torn down, and are not looked up yet
	unclosed      map[string]uint64   // what look-ups of those found
	unclosedLooks []unclosedLook      // the same, one by one
}

// bin is what is kept of the attempts of one traffic due in one stretch of time.
type bin struct {
	due, started, late, ok uint64
	// bad is nil while nothing went wrong, which is most of a long run.
	bad *badBin
}

type badBin struct {
	outcomes   map[runlog.Outcome]uint64
	lost       uint64
	firstDue   float64 // of a failed attempt; NaN where no Failure record says
	firstLate  float64 // s it was started after that
	lastDue    float64 // the same of the last
	firstStart [classes]float64
	lastStart  [classes]float64 // where recorded is not 0
	recorded   [classes]uint64  // failures, one by one
	notStarted uint64
	refused    [len(generatorCauses)]uint64 // of notStarted, by cause
}

// ended is of how many attempts it is known how they ended.
func (b *bin) ended() uint64 {
	if b.bad == nil {
		return b.ok
	}
	return b.ok + b.failed() + b.bad.outcomes[runlog.Interrupted]
}

// window collects what one threshold with a time window needs and the totals
// do not give.
type window struct {
	threshold scenarios.Threshold
	latency   map[string]*hdrhistogram.Histogram
}

func newLog() *log {
	return &log{
		traffics: map[string]*traffic{},
		nodes:    map[string]*node{},
		hosts:    map[string]*host{},
		losses:   map[runlog.Loss]uint64{},
		joins:    map[attempt]failed{},
		lastT:    math.Inf(-1),
	}
}

func (l *log) add(r *runlog.Record) {
	l.records++
	if !sane(r.T) {
		l.mistake("a record of %s has the impossible time %g s", r.Host, r.T)
		return
	}
	if r.Header == nil {
		l.lastT = max(l.lastT, r.T)
	}
	if r.AfterGap() || r.Loss != nil && r.Loss.What == "records" {
		l.missed(r.Host)
	}
	switch {
	case r.Header != nil:
		l.addHeader(r.Header)
	case r.Clock != nil:
		if sane(r.Clock.Bound) {
			l.clockBound = max(l.clockBound, r.Clock.Bound)
		}
	case r.Event != nil:
		l.addEvent(r)
	case r.Bin != nil:
		l.addBin(r.Bin)
		l.traffic(r.Bin.Traffic).from(r.Host)
	case r.Latency != nil:
		l.addLatency(r.Latency)
	case r.Failure != nil:
		l.addFailure(r.Failure)
	case r.Held != nil:
		t := l.traffic(r.Held.Traffic)
		l.lane(t, r.Held.Node).held = r.Held
		h := t.heldNow()
		t.lostHeld(r.T, h.Lost)
		t.held, t.peak = &h, max(t.peak, h.Open)
		t.holding.add(r.T, heldCell{r.T, h.Open, h.Validated})
	case r.Served != nil:
		l.addServed(r.Served)
		l.addDrain(r)
	case r.Sample != nil:
		l.addSample(r)
	case r.Census != nil:
		l.addCensus(l.node(r.Host), r.T, r.Census)
	case r.Autopsy != nil:
		l.addAutopsy(r)
	case r.Loss != nil:
		key := runlog.Loss{What: r.Loss.What, Why: r.Loss.Why}
		if _, ok := l.losses[key]; !ok {
			l.lossOrder = append(l.lossOrder, key)
		}
		l.losses[key] += r.Loss.Count
	case r.Trailer != nil:
		l.trailer = r.Trailer
	case r.Endpoints != nil:
		l.addEndpoints(r.T, r.Endpoints)
	case r.Dataplane != nil:
		l.addDataplane(r.Host, r.T, r.Dataplane)
	case r.Trial != nil:
		l.addTrial(r.Trial)
	}
}

// duration is how long the traffic was planned to be in s, 0 where nobody knows.
func (l *log) duration() float64 {
	if l.header == nil {
		return 0
	}
	return l.header.Duration
}

// sane says whether v can be a run time or a length of time in s.
func sane(v float64) bool { return v >= -maxTime && v <= maxTime }

// doubt notes what limits the trust in the numbers.
func (l *log) doubt(format string, args ...any) {
	l.doubts = appendNew(l.doubts, fmt.Sprintf(format, args...))
}

// mistake notes that the log cannot be right, or cannot be read rightly.
func (l *log) mistake(format string, args ...any) {
	l.wrong = appendNew(l.wrong, fmt.Sprintf(format, args...))
}

func appendNew(to []string, s string) []string {
	if len(to) >= maxDoubts || slices.Contains(to, s) {
		return to
	}
	return append(to, s)
}

func (l *log) addHeader(h *runlog.Header) {
	if l.header != nil {
		l.mistake("the log has a second header, which was ignored")
		return
	}
	if h.Format != runlog.Format {
		l.mistake("the log has format %d, and this version knows format %d: it may be misread", h.Format, runlog.Format)
	}
	l.header = h
	for _, info := range h.Traffic {
		if !sane(info.Start) || !sane(info.End) || !sane(info.Timeout) || !sane(info.Residence) || info.EntriesPerAttempt < 0 || info.EntriesPerAttempt > 1e6 {
			l.mistake("traffic %s has impossible times in the header", info.Name)
			info.Start, info.End, info.Timeout, info.Residence, info.EntriesPerAttempt = 0, 0, 0, 0, 0
		}
		t := l.traffic(info.Name)
		t.info, t.known = info, true
	}
	for _, name := range h.Nodes {
		l.node(name)
	}
	for _, spec := range slices.Concat(h.Thresholds, h.Expect) {
		th, err := scenarios.ParseThreshold(spec)
		if err == nil && windowed(th) {
			l.windows = append(l.windows, &window{threshold: th, latency: map[string]*hdrhistogram.Histogram{}})
		}
	}
}

// traffic returns the named traffic, known from the header or not.
func (l *log) traffic(name string) *traffic {
	t := l.traffics[name]
	if t == nil {
		t = &traffic{info: runlog.TrafficInfo{Name: name, ExpectsAnswer: true}, errnos: map[string]uint64{}, unplaced: map[runlog.Outcome]uint64{}}
		t.holding, t.took = newGrid(0.1, keptCells, mergeHeld), newGrid(1, 2*maxSteps, mergeTimes)
		l.traffics[name] = t
		l.order = append(l.order, t)
	}
	return t
}

// from notes that the host tells of the traffic's attempts.
func (t *traffic) from(host string) {
	if n := len(t.senders); (n == 0 || t.senders[n-1] != host) && !slices.Contains(t.senders, host) {
		t.senders = append(t.senders, host)
	}
}

func (l *log) addBin(b *runlog.Bin) {
	t := l.traffic(b.Traffic)
	v := l.lane(t, b.Node)
	t.total.Add(*b)
	v.total.Add(*b)
	if t.width == 0 {
		t.width = defaultBin
		if b.Width >= 0.001 && b.Width <= 3600 {
			t.width = b.Width
		}
	}
	if !sane(b.Start) {
		l.mistake("a bin of traffic %s begins at the impossible time %g s: it counts in the totals only", b.Traffic, b.Start)
		for o, n := range b.Outcomes {
			if o != runlog.OK && o != runlog.Interrupted {
				t.unplaced[o] += n
			}
		}
		return
	}
	if b.Width > 0 && math.Abs(b.Width-t.width) > t.width/100 {
		l.mistake("the bins of traffic %s differ in width", b.Traffic)
	}
	i := int64(math.Round(b.Start / t.width))
	for _, have := range v.cells(i) {
		have.add(b)
	}
}

// add counts an increment.
func (b *bin) add(r *runlog.Bin) {
	b.due += r.Due
	b.started += r.Started
	b.late += r.Late
	for o, n := range r.Outcomes {
		if o == runlog.OK {
			b.ok += n
			continue
		}
		b.detail().outcomes[o] += n
	}
	for r, n := range r.NotStarted {
		b.detail().notStarted += n
		if i := slices.Index(generatorCauses[:], generatorCause(r)); i >= 0 {
			b.detail().refused[i] += n
		}
	}
	if r.LostPackets > 0 {
		b.detail().lost += r.LostPackets
	}
}

func (b *bin) detail() *badBin {
	if b.bad == nil {
		b.bad = &badBin{outcomes: map[runlog.Outcome]uint64{}, firstDue: math.NaN()}
		for i := range b.bad.firstStart {
			b.bad.firstStart[i] = math.NaN()
		}
	}
	return b.bad
}

// failed counts the attempts of the bin that failed; interrupted ones did not.
func (b *bin) failed() uint64 {
	if b.bad == nil {
		return 0
	}
	var n uint64
	for o, c := range b.bad.outcomes {
		if o != runlog.Interrupted {
			n += c
		}
	}
	return n
}

func (t *traffic) start(i int64) float64 { return float64(i) * t.width }

func (l *log) addLatency(b *runlog.Latency) {
	t := l.traffic(b.Traffic)
	took, started, err := b.Histograms()
	if err == nil {
		t.fromDue, err = runlog.AddHistogram(t.fromDue, took)
	}
	if err != nil {
		l.mistake("latencies of traffic %s from %g s on are unreadable and missing: %v", b.Traffic, b.Start, err)
		return
	}
	if started != nil {
		if t.started, err = runlog.AddHistogram(t.started, started); err != nil {
			l.mistake("latencies of traffic %s from %g s on are unreadable and missing: %v", b.Traffic, b.Start, err)
		}
	}
	if took != nil {
		l.addActLatency(b, took)
	}
	if b.Node != "" {
		// It is a part of the sum, so this cannot fail in another way.
		v := l.lane(t, b.Node)
		v.fromDue, _ = runlog.AddHistogram(v.fromDue, took)
	}
	for _, w := range l.windows {
		if covers(w.threshold, b.Traffic, b.Start+b.Width/2) && (w.threshold.Node == "" || l.lane(t, b.Node).via(w.threshold.Node)) {
			// It is a part of the sum, so this cannot fail in another way.
			w.latency[b.Traffic], _ = runlog.AddHistogram(w.latency[b.Traffic], took)
		}
	}
	if sane(b.Start) {
		t.took.add(b.Start, took)
		if b.Width > 0 && b.Width <= 3600 {
			t.tookWidth = max(t.tookWidth, b.Width)
		}
	}
}

func (l *log) addFailure(f *runlog.Failure) {
	if !sane(f.Due) || !sane(f.Start) {
		l.mistake("a failure of traffic %s has an impossible time", f.Traffic)
		return
	}
	t := l.traffic(f.Traffic)
	if f.Outcome == "" || f.Outcome == runlog.OK || f.Outcome == runlog.Interrupted {
		return
	}
	if f.Phase == "held" {
		// The attempt had succeeded and is counted as such; Held counts the
		// connection as lost.
		t.noteLoss(f)
		return
	}
	if f.Phase == "close" {
		t.noteUnclosed(f) // the same; Held.Closing counts it
		return
	}
	if f.Errno != "" {
		t.errnos[string(f.Outcome)+" "+f.Errno]++
	}
	c := t.class(f.Outcome)
	width := t.width
	if width == 0 {
		width = defaultBin // its bin has not been seen yet
	}
	// A due time on the edge of two bins belongs to the later one.
	i := int64(math.Floor(f.Due/width + 1e-9))
	for _, b := range l.lane(t, f.Node).cells(i) {
		d := b.detail()
		if math.IsNaN(d.firstDue) || f.Due < d.firstDue {
			d.firstDue, d.firstLate = f.Due, max(0, f.Start-f.Due)
		}
		if f.Due > d.lastDue {
			d.lastDue = f.Due
		}
		d.firstStart[c] = least(d.firstStart[c], f.Start)
		if d.recorded[c]++; d.recorded[c] == 1 || f.Start > d.lastStart[c] {
			d.lastStart[c] = f.Start
		}
	}

	a := attempt{t.info.Name, f.Node, f.Seq}
	if len(l.joinRing) < joinWindow {
		l.joinRing = append(l.joinRing, a)
	} else {
		delete(l.joins, l.joinRing[l.joinNext])
		l.joinRing[l.joinNext] = a
		l.joinNext = (l.joinNext + 1) % joinWindow
	}
	l.joins[a] = failed{f.Due, f.Start, c}
}

// least is the smaller of both; NaN is none.
func least(a, b float64) float64 {
	if math.IsNaN(a) || b < a {
		return b
	}
	return a
}

func (l *log) addServed(s *runlog.Served) {
	key := podKey{s.Service, s.Backend}
	b := l.backendOf[key]
	if b == nil {
		if l.backendOf == nil {
			l.backendOf = map[podKey]*Backend{}
		}
		b = &Backend{Name: s.Backend, Service: s.Service}
		l.backends, l.backendOf[key] = append(l.backends, b), b
	}
	b.Accepted += s.Accepted
	b.Served += s.Served
	b.ServedWhileDraining += s.Draining
	b.Errors += s.Errors
}

func (l *log) addEvent(r *runlog.Record) {
	e := r.Event
	if e.Kind == "warning" {
		l.doubt("%s: %s", r.Host, cmpOr(e.Detail, e.Name))
	}
	if e.Kind == "action" {
		l.addAct(r.T, e)
	}
	if e.Kind == "pod" && e.Detail == "sigterm" {
		l.cluster.noteTold(e.Name, r.T)
	}
	if _, set := e.Fields["net.netfilter.nf_conntrack_tcp_timeout_established"]; set && e.Kind == "sysctl" {
		l.timeoutChanged = true
	}
	for name := range e.Fields {
		l.retimed = l.retimed || e.Kind == "sysctl" && r.T > 0 && strings.Contains(name, "_timeout_")
	}
	if e.Kind == "ballast" && r.T > 0 {
		l.node(r.Host).addRefill(r.T, e)
	}
	if e.Kind == "table" && e.Name == "aged" {
		l.node(r.Host).aged = agedOf(e)
	}
	if e.Kind == "proxy" && e.Name == "metrics" {
		l.addProxyMetrics(r.Host, r.T, e)
		return // numbers to add up
	}
	if e.Kind == "proxy" && e.Name == "synced" {
		l.addSync(r.Host, r.T, e)
	}
	if p := l.proxies[r.Host]; p != nil && e.Kind == "proxy" {
		switch e.Name {
		case "ended":
			p.ended(r.T)
		case "silent":
			p.silent()
		}
	}
	switch e.Kind {
	case "phase":
		if e.Name == "drain" {
			l.drained = r.T
		}
	case "node":
		l.addCondition(r.T, e)
	case "flush":
		l.addFlush(r)
	case "event":
		l.addKubeEvent(r.T, e)
	}
	if len(l.events) == maxEvents {
		l.otherEvents++
		return
	}
	l.events = append(l.events, Event{AtS: r.T, Host: r.Host, Kind: e.Kind, Name: e.Name, Detail: e.Detail})
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// service returns the service the traffic goes to, nil where the header does
// not have it.
func (l *log) service(name string) *runlog.ServiceInfo {
	if l.header == nil {
		return nil
	}
	for i := range l.header.Services {
		if l.header.Services[i].Name == name {
			return &l.header.Services[i]
		}
	}
	return nil
}

// oneWay says that nobody waits for answers to this traffic.
func (t *traffic) oneWay() bool { return t.known && !t.info.ExpectsAnswer }

// heldNow is what all lanes together held last.
func (t *traffic) heldNow() runlog.Held {
	h := runlog.Held{Traffic: t.info.Name}
	for _, v := range t.lanes {
		if v.held != nil {
			h.Open, h.Validated, h.Lost = h.Open+v.held.Open, h.Validated+v.held.Validated, h.Lost+v.held.Lost
		}
	}
	return h
}

// idle says that the traffic holds its connections.
func (t *traffic) idle() bool { return t.info.Shape == "idle" }

// udp says that the traffic's packets are datagrams, which are never sent again.
func (t *traffic) udp() bool { return t.info.Shape == "udp" }

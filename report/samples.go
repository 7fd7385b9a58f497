package report

import (
	"maps"
	"math"

	"github.com/tablefull/tablefull/report/runlog"
)

// node is one node's samples.
type node struct {
	name      string
	rows      rows
	first     *tableSample
	last      *tableSample
	atStart   *tableSample // the last one before traffic begins
	peak      uint64
	peakShare float64
	fullest   tableSample // that peakShare is of
	// What changed the room while traffic flowed.
	limitRead    tableSample // the last one
	limitChanges []LimitChange
	otherChanges uint64
	refills      []refill
	samples      uint64
	counters     map[string]uint64 // gained since the first sample
	prev         map[string]uint64 // the counters; one that is not in a sample has not changed
	unsure       bool              // samples are missing, and with them what changed in them
	moved        map[string]uint64 // see gain
	backwards    uint64            // counters that went backwards other than by wrapping
	reversed     uint64            // samples older than the one before
	cpuFrom      *cpuSample        // the first of the run
	cpuTo        *cpuSample        // and the last
	cpuRecent    []cpuSample       // of the last idleOver s
	minIdle      float64           // lowest share of idle CPU over idleOver s of the run; NaN for none
	table        *grid[tableCell]
	used         *grid[cpuSample]
	walked       *grid[walkCell]
	plotted      []string // names of the counters that moved, at most maxPlotted
	states       []string // names of the states that walks found, at most maxStates
	slab         uint64
	census       *runlog.Census
	censusAt     float64
	censusBad    string
	byState      map[string]uint64 // most that a walk found
	ballast      uint64            // in the last walk that counted it
	walks        uint64
	lastWalk     *runlog.Census // also one after the traffic
	lastWalkAt   float64
	ports        []portUse // by walk, where clients are masqueraded
	aged         *Aged
	others       others
}

type tableSample struct {
	t, took        float64
	entries, limit uint64
}

// interval is what happened between two samples.
type interval struct {
	a, b    tableSample
	drop    uint64
	early   uint64
	failed  uint64 // insert_failed
	chain   uint64 // chain too long, which is part of insert_failed and not of drop
	invalid uint64
}

type cpuSample struct{ t, idle, total, self, user, system, softirq, steal float64 }

// host is a host's network counters: only intervals in which something
// happened that a cause can rest on.
type host struct {
	name   string
	prev   map[string]uint64
	prevT  float64
	first  float64 // time of the first sample
	unsure bool    // as that of node
	deltas []netDelta
}

type netDelta struct {
	a, b     float64 // s of run time
	listen   uint64  // SYNs and last ACKs dropped by a full listen queue
	resets   uint64  // TCP resets sent
	noPorts  uint64  // datagrams to a port where nobody listens
	lostRecv uint64  // datagrams dropped because the receive buffer was full
}

// netNames are the counters that netDelta is made of.
var netNames = []string{
	"TcpExt.ListenDrops", "TcpExt.ListenOverflows", "TcpExt.TCPReqQFullDrop", "Tcp.OutRsts",
	"Udp.NoPorts", "Udp6NoPorts", "Udp.RcvbufErrors", "Udp6RcvbufErrors",
}

func (l *log) node(name string) *node {
	n := l.nodes[name]
	if n == nil {
		n = &node{
			name: name, counters: map[string]uint64{}, prev: map[string]uint64{}, moved: map[string]uint64{}, minIdle: math.NaN(), table: newGrid(0.1, keptCells, mergeTable),
			used: newGrid(0.1, keptCells, mergeCPU), walked: newGrid(0.1, keptCells, mergeWalks),
		}
		l.nodes[name] = n
		l.nodeList = append(l.nodeList, n)
	}
	return n
}

// missed notes that records of the host are missing, samples maybe among them.
func (l *log) missed(host string) {
	if n := l.nodes[host]; n != nil {
		n.unsure = true
	}
	if h := l.hosts[host]; h != nil {
		h.unsure = true
	}
}

func (l *log) addSample(r *runlog.Record) {
	s := r.Sample
	took := s.Took
	if took < 0 || !sane(took) {
		took = 0
	}
	if s.Conntrack != nil {
		n := l.node(r.Host)
		n.add(r.T, took, s.Conntrack)
	}
	if s.CPU != nil || s.SlabBytes != nil {
		n := l.node(r.Host)
		if s.SlabBytes != nil {
			n.slab = max(n.slab, *s.SlabBytes)
		}
		if c := s.CPU; c != nil {
			n.addCPU(l.duration(), cpuSample{r.T, c.Idle, c.User + c.System + c.SoftIRQ + c.Idle + c.Steal, c.Self, c.User, c.System, c.SoftIRQ, c.Steal})
		}
	}
	h := l.hosts[r.Host]
	if h == nil && len(s.Net) > 0 {
		h = &host{name: r.Host}
		l.hosts[r.Host] = h
	}
	if h != nil {
		h.add(r.T, took, s.Net)
	}
}

// add takes one reading of the table. Nothing is concluded from the first
// one: what its counters already hold happened before.
func (n *node) add(t, took float64, c *runlog.Conntrack) {
	s := tableSample{t, took, c.Entries, c.Limit}
	if n.last != nil && t < n.last.t {
		n.reversed++
		return
	}
	n.samples++
	n.peak = max(n.peak, s.entries)
	if share := float64(s.entries) / float64(max(1, s.limit)); s.limit > 0 && share > n.peakShare {
		n.peakShare, n.fullest = share, s
	}
	n.noteLimit(s)
	if n.first == nil {
		n.first = &s
	}
	if n.atStart == nil || t <= 0 {
		n.atStart = &s
	}
	if n.unsure = n.unsure && len(c.Counters) < len(n.prev); n.unsure {
		// The next whole sample says what happened since the last one before.
		if t > 0 && n.last != nil {
			n.plot(s, nil)
		}
		return
	}
	gained := n.gain(c.Counters, t > 0)
	if t <= 0 || n.last == nil {
		n.rows = rows{}
		n.rows.add(s, gain{})
	} else {
		n.rows.add(s, gain{
			drop: gained["drop"], early: gained["early_drop"], failed: gained["insert_failed"],
			chain: chainTooLong(gained), invalid: gained["invalid"],
		})
		n.plot(s, gained)
	}
	n.last = &s
}

// gain compares the counters with those of the last sample and returns what
// moved. Only what they gain during the run is counted: set-up, which fills
// the table, is not the run.
func (n *node) gain(counters map[string]uint64, run bool) map[string]uint64 {
	clear(n.moved)
	for name, v := range counters {
		was, seen := n.prev[name]
		n.prev[name] = v
		if !seen {
			if n.last == nil {
				n.counters[name] += 0
			}
			continue
		}
		d, ok := counterDelta(was, v)
		if !ok {
			n.backwards++
			continue
		}
		if d > 0 {
			n.moved[name] = d
		}
		// One that was not there at first is counted from then on.
		if _, known := n.counters[name]; run && (d > 0 || !known) {
			n.counters[name] += d
		}
	}
	return n.moved
}

// chainTooLong finds the counter under the names it has: chainlength in
// /proc/net/stat/nf_conntrack, chain_toolong in ctnetlink, chaintoolong in the
// kernel's own structure.
func chainTooLong(c map[string]uint64) uint64 {
	return c["chainlength"] + c["chaintoolong"] + c["chain_toolong"]
}

// counterDelta is the increase from was to is. The kernel's per-CPU counters
// are 32 bits wide; a sum of them that falls by nearly 2^32 wrapped on one
// CPU. Any other fall is no increase that can be known, and not ok.
func counterDelta(was, is uint64) (delta uint64, ok bool) {
	if is >= was {
		return is - was, true
	}
	const wrap = 1 << 32
	if was-is > wrap/2 && was-is < wrap {
		return wrap - (was - is), true
	}
	return 0, false
}

// fullDrops is the part of drop that can be a full table. An unresolved clash
// raises drop and insert_failed; a chain that is too long raises insert_failed
// alone.
func (iv interval) fullDrops(arrivals float64) uint64 {
	if iv.drop <= iv.clashes() || !iv.nearLimit(arrivals) {
		return 0
	}
	return iv.drop - iv.clashes()
}

func (iv interval) clashes() uint64 {
	if iv.failed <= iv.chain {
		return 0
	}
	return min(iv.drop, iv.failed-iv.chain)
}

// nearLimit says whether the table can have been full in the interval: the
// entries at one of its ends were within 1 % of the limit, or within what
// arrived in between.
func (iv interval) nearLimit(arrivals float64) bool {
	limit := float64(min(iv.a.limit, iv.b.limit))
	if limit == 0 {
		limit = float64(max(iv.a.limit, iv.b.limit))
	}
	if limit == 0 {
		return false
	}
	return float64(max(iv.a.entries, iv.b.entries)) >= min(0.99*limit, limit-arrivals)
}

// addCensus keeps the last walk that ended while traffic was due, and any
// other only for want of one: before it there is nothing to see, and after it
// clients have closed what they held. But with long gaps between walks the last
// one can be of the very begin: a later one that found more than twice as much
// says more.
func (l *log) addCensus(n *node, t float64, c *runlog.Census) {
	n.walks++
	if c.Failed != "" {
		n.censusBad = c.Failed
		return
	}
	if !c.WithoutBallast {
		n.ballast = c.Ballast
	}
	if n.lastWalk == nil || t >= n.lastWalkAt {
		n.lastWalk, n.lastWalkAt = c, t
	}
	n.plotWalk(t, c)
	n.noteStates(c)
	l.addOthers(n, t, c)
	l.addPorts(n, t, c)
	during := func(t float64) bool {
		return t > 0 && (l.header == nil || l.header.Duration <= 0 || t <= l.header.Duration)
	}
	if n.census == nil || during(t) || n.censusAt <= 0 || own(c) > 2*own(n.census) {
		n.census, n.censusAt = c, t
	}
}

// own is how many entries a walk found that are no ballast.
func own(c *runlog.Census) uint64 {
	if c.WithoutBallast {
		return c.Entries
	}
	return c.Entries - min(c.Entries, c.Ballast)
}

// noteStates keeps the most entries by state.
func (n *node) noteStates(c *runlog.Census) {
	counts := map[string]uint64{}
	for _, g := range c.Groups {
		counts[stateName(g)] += g.Count
	}
	if n.byState == nil {
		n.byState = map[string]uint64{}
	}
	for name, count := range counts {
		if _, known := n.byState[name]; known || len(n.byState) < maxStates {
			n.byState[name] = max(n.byState[name], count)
		}
	}
}

func (h *host) add(t, took float64, c map[string]uint64) {
	if h.prev == nil && len(c) == 0 {
		return
	}
	if h.unsure = h.unsure && len(c) < len(h.prev); h.unsure {
		return
	}
	if h.prev != nil && t >= h.prevT {
		gained := func(name string) uint64 {
			was, seen := h.prev[name]
			is, now := c[name]
			if !seen || !now {
				return 0
			}
			d, _ := counterDelta(was, is)
			return d
		}
		d := netDelta{
			a: h.prevT, b: t + took/2,
			// Each overflow is a listen drop too, so they are not added up.
			listen:   max(gained("TcpExt.ListenDrops"), gained("TcpExt.ListenOverflows"), gained("TcpExt.TCPReqQFullDrop")),
			resets:   gained("Tcp.OutRsts"),
			noPorts:  gained("Udp.NoPorts") + gained("Udp6NoPorts"),
			lostRecv: gained("Udp.RcvbufErrors") + gained("Udp6RcvbufErrors"),
		}
		if d.listen+d.resets+d.noPorts+d.lostRecv > 0 {
			h.deltas = append(h.deltas, d)
		}
	}
	if t < h.prevT && h.prev != nil {
		return
	}
	if h.prev == nil {
		h.first = t
		h.prev = map[string]uint64{}
	}
	maps.Copy(h.prev, c) // what is not in a sample has not changed
	h.prevT = t - took/2
}

// class groups outcomes that can have the same causes.
type class int

const (
	silent      class = iota // packets were sent and nothing came back
	unanswered               // connected, and no answer came
	refused                  // ECONNREFUSED
	reset                    // reset, or closed before the answer was whole
	unreachable              // an ICMP error
	otherClass               // everything else: a wrong answer, another errno
	classes
)

func (t *traffic) class(o runlog.Outcome) class {
	switch o {
	case runlog.ConnectTimeout:
		return silent
	case runlog.ResponseTimeout:
		if t.udp() {
			return silent
		}
		return unanswered
	case runlog.Refused:
		return refused
	case runlog.Reset, runlog.Closed:
		return reset
	case runlog.Unreachable:
		return unreachable
	}
	return otherClass
}

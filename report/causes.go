package report

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/tablefull/tablefull/report/runlog"
)

// Names of causes; the package documentation says what proves each.
const (
	tableFull       = "table_full"
	chainLong       = "chain_too_long"
	natClash        = "nat_clash"
	snatPorts       = "snat_ports"
	evicted         = "evicted"
	listenOverflow  = "listen_overflow"
	noEndpoint      = "no_endpoint"
	staleBackend    = "stale_backend"
	backendGone     = "backend_gone"
	drainingBackend = "draining_backend"
	untranslated    = "untranslated"
	notProgrammed   = "not_programmed"
	invalidReset    = "invalid_reset"
	backendReset    = "backend_reset"
	backendRefused  = "backend_refused"
	backendSilent   = "backend_silent"
	generatorPorts  = "generator_ports"
	generatorLimit  = "generator_limit"
	generatorLate   = "generator_late"
	unknownCause    = "unknown"
	generatorPrefix = "generator_"
)

// byTable says whether the table itself made the attempts fail.
func byTable(cause string) bool {
	return byRoom(cause) || cause == chainLong || cause == natClash || cause == snatPorts
}

// byRoom says whether it did because it was full.
func byRoom(cause string) bool { return cause == tableFull || cause == evicted }

// A tallyKey is a cause, of attempts that entered by one node; the node is
// empty where that is not known.
type tallyKey struct{ cause, node string }

// tally is what has been put down to one cause.
type tally struct {
	tallyKey
	failures uint64
	traffic  map[string]uint64
	entered  map[string]uint64 // failures, by the node they entered by, where that is known
	outcomes map[runlog.Outcome]uint64
	from, to float64
	packets  float64
	counter  string
	delta    uint64             // sum of deltas
	deltas   map[string]float64 // what the counter gained, by host
	rose     float64            // when the counter began to rise, s of run time
	rested   float64            // and when it rose last
	hosts    map[string]bool
	kinds    map[*lane]map[class]bool
	looked   autopsies // of kinds, between from and to
	kept     uint64    // of looked: an entry of before led them where no rule did any more
	led      uint64    // of looked: readings show a rule that led them there
	unclear  uint64    // look-ups of such attempts that say nothing
	agree    found
	shared   bool
	later    uint64         // of failures: something was lost while they waited, not at their start
	how      string         // said instead of the counter
	steps    map[int]uint64 // failures, by the step of the axis they were due in
	ties     map[behind]bool
}

// attribution finds the cause of every failed attempt. Rules run in the order
// of attribute; each takes attempts that no rule before it could explain.
type attribution struct {
	l       *log
	axis    axis
	items   []*item
	tallies map[tallyKey]*tally
	slack   float64 // s: how far a packet may be from the counter's interval
	retries []float64
	offered map[*lane]*counts // connections offered to the nodes
	full    []supply          // table full drops
	total   map[string]uint64 // table full drops by node
	other   map[string]uint64 // drops that were neither at the limit nor clashes, by node
	clashes []supply
	ports   []supply // clashes while source ports were short
	chains  []supply
	doubts  []string
}

func newAttribution(l *log) *attribution {
	a := &attribution{
		l: l, axis: l.axis(), tallies: map[tallyKey]*tally{}, slack: 0.1 + l.clockBound, offered: map[*lane]*counts{},
		total: map[string]uint64{}, other: map[string]uint64{},
	}
	kernel := ""
	if l.header != nil {
		kernel = l.header.Kernel
		if s := l.header.SampleEvery; s > 0 && s <= 60 {
			a.slack = s + l.clockBound
		}
	}
	a.retries = synRetries(kernel)
	l.decide()
	for _, t := range l.order {
		for _, v := range t.lanes {
			a.offered[v] = t.seriesOf(v.bins, func(b *bin) uint64 { return b.started })
			a.addItems(v)
		}
	}
	a.addSupplies()
	return a
}

func (a *attribution) addItems(v *lane) {
	t, rest := v.t, &[classes][findings]portion{}
	for k, b := range v.bins.all() {
		if b.bad == nil {
			continue
		}
		var unheard uint64
		for o, n := range b.bad.outcomes {
			if t.class(o) == silent {
				unheard += n
			}
		}
		for _, o := range slices.Sorted(maps.Keys(b.bad.outcomes)) {
			n := b.bad.outcomes[o]
			if n == 0 || o == runlog.Interrupted {
				continue
			}
			it := &item{t: t, lane: v, key: k, outcome: o, class: t.class(o), n: n, left: n, late: b.late > 0, lates: b.late, bad: b.bad}
			a.divide(it, rest)
			if it.class == silent {
				it.packets = uint64(math.Round(float64(b.bad.lost) * float64(n) / float64(unheard)))
			}
			a.items = append(a.items, it)
		}
	}
	slices.SortStableFunc(a.items, func(x, y *item) int { return cmp.Compare(x.start(), y.start()) })
}

// connections is how many entries an attempt asks the node for, at least
// about: where reuse makes it unknowable, each attempt is taken for one.
func (t *traffic) connections() float64 {
	if t.info.EntriesPerAttempt > 0 {
		return t.info.EntriesPerAttempt
	}
	return 1
}

// addSupplies sorts each node's drops into those of a full table, clashes and
// others.
func (a *attribution) addSupplies() {
	for _, n := range a.l.nodeList {
		for iv := range n.rows.intervals() {
			if iv.drop == 0 && iv.chain == 0 {
				continue
			}
			from, to := iv.a.t-iv.a.took/2, iv.b.t+iv.b.took/2
			if c := iv.clashes(); c > 0 {
				s := supply{a: from, b: to, host: n.name, left: float64(c)}
				if n.portsTaken(a.l.masquerade(), iv.b) >= portsShort {
					a.ports = append(a.ports, s)
				} else {
					a.clashes = append(a.clashes, s)
				}
			}
			if iv.chain > 0 {
				a.chains = append(a.chains, supply{a: from, b: to, host: n.name, left: float64(iv.chain)})
			}
			full := iv.fullDrops(a.arrivals(n.name, from, to))
			if full > 0 {
				a.total[n.name] += full
				a.full = append(a.full, supply{a: from, b: to, host: n.name, left: float64(full)})
			} else if iv.drop > iv.clashes() {
				a.other[n.name] += iv.drop - iv.clashes()
			}
		}
	}
}

// arrivals is the number of connections offered to the node between two times.
func (a *attribution) arrivals(node string, from, to float64) float64 {
	var n float64
	for _, t := range a.l.order {
		for _, v := range t.lanes {
			if due := a.offered[v].in(from, to); due > 0 {
				n += due * a.l.costs(v, node, from)
			}
		}
	}
	return n
}

// leaveToOneWay takes away from the supplies what one-way traffic has lost,
// by its share of the connections offered in each interval: nobody counts its
// losses. Chance may have favoured it: by three standard deviations in an
// interval, and by two in all.
func (a *attribution) leaveToOneWay(pr proof) proof {
	var mean, variance float64
	for i := range pr.supplies {
		s := &pr.supplies[i]
		var all, oneWay float64
		for _, t := range a.l.order {
			var n float64
			for _, v := range t.lanes {
				n += a.offered[v].in(s.a-a.slack, s.b) * a.l.costs(v, pr.node, s.a)
			}
			all += n
			if t.oneWay() && t.info.EntriesPerAttempt > 0 {
				oneWay += n
			}
		}
		p := 0.0
		if all > 0 {
			p = oneWay / all
		}
		s.all = s.left
		m, v := s.left*(1-p), s.left*p*(1-p)
		pr.shared = pr.shared || p > 0 && s.left > 0
		s.left = min(s.left, m+3*math.Sqrt(v))
		mean += m
		variance += v
	}
	pr.limit = mean + 2*math.Sqrt(variance)
	return pr
}

// divide splits the item's attempts as autopsies found: of itself those that were
// looked up, as far as that is one item's, and the rest like these.
func (a *attribution) divide(it *item, carried *[classes][findings]portion) {
	own, like := a.l.looked(it)
	var total float64
	most := noEntry
	for f, n := range like {
		total += n
		if n > like[most] {
			most = finding(f)
		}
	}
	if total == 0 {
		it.by[notLooked] = it.n
		return
	}
	rest := it.n
	if looked := own.total(); looked <= it.n && it.n == it.classed() {
		rest -= looked
		copy(it.by[:], own[:])
	}
	left := rest
	for f := noEntry; f < notLooked; f++ {
		if f != most {
			n := min(left, carried[it.class][f].of(rest, like[f]/total))
			it.by[f] += n
			left -= n
		}
	}
	it.by[most] += left
}

// attribute runs all rules and returns the causes, most failures first.
func (a *attribution) attribute() {
	// Whose entry is on the node was not dropped by it. An entry that is over
	// says nothing: it can be an earlier connection's.
	dropped := foundAny(noEntry, old, notLooked)
	if a.l.parted() {
		a.lostOnNodes(dropped)
	} else {
		a.lost(a.tableProofs(""), func(it *item) bool { return it.class == silent }, dropped, a.secondLeg)
	}
	a.misled()
	a.untranslated()
	a.listenQueues()
	a.evictions()
	a.withoutEndpoint()
	a.resets()
	a.refusals()
	a.behindTheEndpoints()
	a.silences()
	for _, it := range a.items {
		a.take(it, unknownCause, it.left, ^found(0))
	}
	a.unplaced()
	for _, t := range a.tallies {
		t.look()
	}
	a.doubtDrops()
}

// unplaced counts failures of bins whose time cannot be right: nothing can be
// matched with them.
func (a *attribution) unplaced() {
	for _, tr := range a.l.order {
		for o, n := range tr.unplaced {
			if n > 0 {
				t := a.tally(tallyKey{cause: unknownCause})
				t.failures += n
				t.traffic[tr.info.Name] += n
				t.outcomes[o] += n
			}
		}
	}
}

// look adds up the autopsies of attempts like those of the tally.
func (t *tally) look() {
	for v, classes := range t.kinds {
		for c := range classes {
			for _, x := range v.between(c, t.from, t.to) {
				if x.is == uint8(unclear) {
					t.unclear++
					continue
				}
				t.looked[x.is]++
				if f, leads := leadsTo[t.cause]; leads && x.kept && finding(x.is) == f {
					t.kept++
				} else if leads && x.led && finding(x.is) == f {
					t.led++
				}
			}
		}
	}
}

func (a *attribution) tally(k tallyKey) *tally {
	t := a.tallies[k]
	if t == nil {
		t = newTally(k)
		a.tallies[k] = t
	}
	return t
}

func newTally(k tallyKey) *tally {
	return &tally{
		tallyKey: k, traffic: map[string]uint64{}, entered: map[string]uint64{}, outcomes: map[runlog.Outcome]uint64{}, kinds: map[*lane]map[class]bool{}, hosts: map[string]bool{},
		steps: map[int]uint64{}, deltas: map[string]float64{}, ties: map[behind]bool{}, from: math.Inf(1), to: math.Inf(-1), rose: math.Inf(1),
	}
}

// of is the item's tally of a cause.
func (a *attribution) of(cause string, it *item) *tally {
	return a.tally(tallyKey{cause, it.lane.node})
}

// take puts up to n of the item's attempts down to the cause, of those that can
// have it.
func (a *attribution) take(it *item, cause string, n uint64, possible found) {
	if n = it.use(n, possible); n == 0 {
		return
	}
	t := a.of(cause, it)
	t.failures += n
	t.traffic[it.t.info.Name] += n
	if it.lane.node != "" {
		t.entered[it.lane.node] += n
	}
	t.outcomes[it.outcome] += n
	t.steps[a.axis.index(it.start())] += n
	t.from, t.to = min(t.from, it.start()), max(t.to, it.end())
	if it.class != silent {
		t.later += n
	}
	if t.kinds[it.lane] == nil {
		t.kinds[it.lane] = map[class]bool{}
	}
	t.kinds[it.lane][it.class] = true
}

// waiting is the demand of attempts that failed at some moment of their
// waiting: one event each, between their start and their timeout.
func (it *item) waiting() demand {
	b := it.end() + max(it.t.info.Timeout, 0)
	if it.late {
		b += lateness
	}
	return demand{a: it.start(), b: b, item: it, want: float64(it.allowed), weight: 1}
}

// secondLeg says whether the item's attempts can have failed behind a gateway:
// the client's own connection stands, and the gateway's SYN to its backend was
// dropped while the client waited.
func (a *attribution) secondLeg(it *item) bool {
	s := a.l.service(it.t.info.To)
	if s == nil || s.Gateway == "" {
		return false
	}
	return it.class == unanswered || it.outcome == runlog.BadResponse && it.t.gatewayStatus()
}

// gatewayStatus says whether all bad answers of the traffic that were recorded
// one by one are what a proxy says when it cannot reach its backend.
func (t *traffic) gatewayStatus() bool {
	var proxy, other uint64
	for what, n := range t.errnos {
		switch what {
		case "bad_response HTTP_502", "bad_response HTTP_503", "bad_response HTTP_504":
			proxy += n
		default:
			if len(what) > 13 && what[:13] == "bad_response " {
				other += n
			}
		}
	}
	return proxy > 0 && other == 0
}

// causes returns the findings, most failures first, those of the generator last.
func (a *attribution) causes() []Cause {
	return append(a.list(a.merged()), a.l.notStarted()...)
}

// causesOf are those of the attempts that entered by one node.
func (a *attribution) causesOf(node string) []Cause {
	var own []*tally
	for k, t := range a.tallies {
		if k.node == node {
			own = append(own, t)
		}
	}
	return a.list(own)
}

// list states tallies of different causes.
func (a *attribution) list(tallies []*tally) []Cause {
	var failed uint64
	out := []Cause{}
	for _, t := range tallies {
		failed += t.failures // each failed attempt is in one of them
	}
	for _, t := range tallies {
		c := Cause{Cause: t.cause, Failures: t.failures, ShareOf: "failed", Evidence: a.evidence(t), Proof: t.proof(), astray: a.astray(t, math.MinInt, math.MaxInt)}
		if failed > 0 {
			c.Share = float64(t.failures) / float64(failed)
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(x, y Cause) int {
		return cmp.Or(cmp.Compare(y.Failures, x.Failures), cmp.Compare(x.Cause, y.Cause))
	})
	return out
}

func (t *tally) proof() Evidence {
	e := Evidence{
		FromS: finite(t.from), ToS: finite(t.to), Traffic: t.traffic, Nodes: t.entered, Counter: t.counter,
		LostPackets: uint64(math.Round(t.packets)), Hosts: slices.Sorted(maps.Keys(t.hosts)),
		Autopsies: t.looked.total(), Shared: t.shared, kept: t.kept,
	}
	if e.Hosts == nil {
		e.Hosts = []string{}
	}
	e.AutopsiesAgree = t.looked.of(t.agree)
	if t.counter != "" {
		d := t.delta
		e.CounterDelta = &d
	}
	return e
}

// finite returns v for JSON, nil where it is not a number.
func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

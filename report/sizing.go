package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Sizing constants.
const (
	// target is how full the table may be in the steady state: above it,
	// common alerts fire, and a burst has no room.
	target = 0.75
	// leastLimit is the least that is recommended.
	leastLimit = 4096
	// Where the slab could not be read: an entry is 248 bytes on current
	// kernels, in a slab of 256.
	entryBytes = 256
	// extensionBytes is what the kernel allocates beside each entry as soon as an
	// extension is in use (NF_CT_EXT_PREALLOC, net/netfilter/nf_conntrack_extend.c):
	// accounting, timestamps, labels, helpers, events that somebody listens to,
	// masquerading. Measured on 6.18: with nf_conntrack_acct one object of
	// kmalloc-128 more for each entry.
	extensionBytes = 128
	bucketBytes    = 8
	// kubeProxyPerCore is conntrack.maxPerCore by default.
	kubeProxyPerCore = 32768
	// kubeProxyCap is what kube-proxy 1.36 and later cut maxPerCore x cores to.
	kubeProxyCap = 1048576
	// memoryShare is how much of the machine's memory a full table may take
	// before its limit is no recommendation.
	memoryShare = 0.25
	// maxLimit is the largest nf_conntrack_max that the kernel takes.
	maxLimit = math.MaxInt32
	// collectorGap is the longest pause of the kernel's collector of expired
	// entries, s (GC_SCAN_INTERVAL_MAX in nf_conntrack_core.c), for which they
	// count. Measured without walks, which collect them, too: 10 s of timeout and
	// 100/s made 4950 entries (docs/proofs.md).
	collectorGap = 60
)

// busiest is the node that the traffic asks for the most entries, of several
// the first; the given one where it is not known which attempts enter by which.
func (l *log) busiest(first *node) *node {
	if !l.parted() {
		return first
	}
	best, most := first, -1.0
	for _, n := range l.nodeList {
		sum := l.roughNeed(n)
		if n.atStart != nil && sum > most*(1+slop) {
			best, most = n, sum
		}
	}
	return best
}

// roughNeed is what nodes are compared by: entries, or connections where they
// are held.
func (l *log) roughNeed(n *node) (sum float64) {
	for _, t := range l.order {
		residence := t.info.Residence
		if t.idle() {
			residence = 1
		}
		sum += t.peakRate() * l.loadOn(n.name, t) * residence
	}
	return sum
}

// mostText says how the node that is sized for stands to the others. A share of
// the attempts that is 1 % larger than another is chance.
func (l *log) mostText(n *node) string {
	for _, o := range l.nodeList {
		if o != n && l.roughNeed(o) > 0.99*l.roughNeed(n) {
			return "and no node needs more for this traffic"
		}
	}
	return "which needs the most of all nodes"
}

// sizing computes what limit the traffic needs, by Little's law: entries in
// the steady state are arrivals per second times the seconds each stays.
func (l *log) sizing(n *node, nodes []Node) *Sizing {
	if l.header == nil {
		return nil
	}
	s, whole := newSizing(), true
	for _, t := range l.order {
		if t.due().total == 0 {
			continue
		}
		p := l.sizingPart(t, n)
		s.Parts = append(s.Parts, p)
		flood := t.info.Shape == "flood"
		s.Meaningless = s.Meaningless || flood
		whole = whole && (flood || p.Entries != nil)
	}
	if len(s.Parts) == 0 {
		return nil
	}
	if n != nil && l.parted() {
		s.Notes = append(s.Notes, fmt.Sprintf("the sizes are those of %s, %s: a node has an entry for each attempt that enters by it, and one for each that another node sends on to a pod of its", n.name, l.mostText(n)))
	}
	s.flood()
	if !whole {
		s.Notes = append(s.Notes, s.partialText())
	}
	l.runNeed(s, n)
	if l.parted() {
		l.runNeedOfAll(s)
	}
	l.residences(s, n)
	l.clashes(s, n)
	s.Residual = l.residual(n)
	s.there = l.mostThere(n, nodes)
	if s.compute(0, l.machine(nodes)) {
		if l.leftLimit() {
			s.Notes = append(s.Notes, "in this run kube-proxy wrote no limit, whatever its release: the lab tells it maxPerCore 0 where lab.proxy has no part conntrack")
		}
		l.compare(s, nodes)
	}
	return s
}

// machine is what the log says of the machine that is sized for.
func (l *log) machine(nodes []Node) Machine {
	return Machine{
		EntryBytes: l.header.EntryBytes, MemoryBytes: l.header.MemoryBytes, CPUs: l.header.CPUs,
		Limit: presentLimit(l.header, nodes), Buckets: l.header.Buckets,
	}
}

// compute sets all that follows from the parts and from base entries that are
// there besides, and says whether that is anything.
func (s *Sizing) compute(base uint64, m Machine) bool {
	total := float64(base)
	for _, p := range s.Parts {
		if p.Counted && p.Entries != nil {
			total += float64(*p.Entries)
		}
	}
	if total <= 0 {
		return false
	}
	needed, late := uint64(math.Ceil(total-slop)), s.uncollected()
	limit := recommended(needed, late)
	s.NeededEntries, s.UncollectedEntries, s.RecommendedLimit = &needed, &late, &limit
	others := s.besides()
	_, all := s.inAll()
	s.OtherEntries, s.LimitInAll = &others, &all
	s.memory(limit, m.EntryBytes)
	s.shorten(base)
	s.caveats()
	s.settings(m)
	s.grow(needed, late)
	s.fits(needed, late)
	s.fill(base, m)
	return true
}

func (l *log) sizingPart(t *traffic, n *node) SizingPart {
	load := t.info.EntriesPerAttempt
	if n != nil {
		load = l.loadOn(n.name, t)
	}
	rate, window := t.busiest()
	p := SizingPart{
		Traffic: t.info.Name, ArrivalsPerS: rate, overS: window, EntriesPerAttempt: load,
		ResidenceS: t.info.Residence, State: t.info.ResidueState, Counted: t.info.Shape != "flood",
	}
	switch {
	case t.idle():
		// What was asked for, not what a full table let through.
		p.Held = max(t.peak, uint64(t.due().total))
		if l.parted() {
			p.Held = uint64(math.Ceil(float64(p.Held)*load - slop))
		}
		p.ResidenceS = 0
		e := p.Held
		p.Entries, p.Note = &e, "held connections, of all that were due"
		if l.forgets(t) {
			p.Note += ", as if the node forgot none of them"
		}
	case p.EntriesPerAttempt <= 0:
		p.Note = "entries per attempt cannot be computed, because connections or ports are used again, or a tunnel or a lack of tracking is between"
		p.Counted = false
	case p.ResidenceS <= 0:
		p.Note = "how long an entry stays is unknown"
		p.Counted = false
	default:
		if t.fromDue != nil && t.fromDue.TotalCount() > 0 {
			p.attemptS = t.fromDue.Mean() / 1e6
		}
		e := uint64(math.Ceil(p.ArrivalsPerS*p.EntriesPerAttempt*(p.ResidenceS+p.attemptS) - slop))
		p.Entries = &e
	}
	return p
}

// unsized is the traffic whose need cannot be computed.
func (s *Sizing) unsized() (names []string) {
	for _, p := range s.Parts {
		if p.Entries == nil {
			names = append(names, p.Traffic)
		}
	}
	return names
}

// partialText says what the sizes leave out, where that is some traffic or all.
func (s *Sizing) partialText() string {
	names := s.unsized()
	if !slices.ContainsFunc(s.Parts, func(p SizingPart) bool { return p.Counted && p.Entries != nil }) {
		return fmt.Sprintf("no limit for good is given: the need of %s cannot be computed", listed(names))
	}
	return fmt.Sprintf("the need of %s cannot be computed and is left out: the entries in the steady state, and the limits, are too low by that", listed(names))
}

// flood says what a flood means for sizing: nothing that a limit could cure.
func (s *Sizing) flood() {
	for _, p := range s.Parts {
		if p.Counted || p.Entries == nil {
			continue
		}
		s.Notes = append(s.Notes, fmt.Sprintf("traffic %s is a flood: at %.0f packets/s it alone would need %d entries, and whoever sends twice as much needs twice that. No limit is a remedy; the sizes here are for the other traffic, but for those with shorter timeouts of its own. %s", p.Traffic, p.ArrivalsPerS, *p.Entries, strings.TrimSuffix(againstFlood(p.State), ".")))
	}
}

// againstFlood is what helps against a flood whose entries end in that state. A
// packet that is not tracked is not translated either, so it never comes to the
// pods of a service; SYNPROXY wants SYNs that are not tracked.
func againstFlood(state string) string {
	s := "Limit its rate upstream, or drop it before conntrack (XDP, raw table)"
	if timeouts[state] != "" {
		s += fmt.Sprintf("; a shorter nf_conntrack_%s lets its entries go sooner, which makes them fewer and is no remedy by itself", timeouts[state])
	}
	s += ". NOTRACK on the node is none for packets to a service: they would not be translated."
	if state == "SYN_RECV" {
		s += " SYNPROXY needs SYNs that are not tracked, so it belongs in front of the node."
	}
	return s
}

// uncollected is how many entries there are at worst that have expired, and that
// the kernel's collector has not come across: those of its longest pause.
func (s *Sizing) uncollected() uint64 {
	var sum float64
	for _, p := range s.Parts {
		if p.Counted && p.Entries != nil && p.ResidenceS > 0 {
			sum += p.ArrivalsPerS * p.EntriesPerAttempt * collectorGap
		}
	}
	return uint64(math.Ceil(sum + s.secondLate() - slop))
}

// recommended is the limit at which needed entries fill the table to target, and
// which holds those that have not been collected as well, rounded up to a number
// with three significant bits.
func recommended(needed, uncollected uint64) uint64 {
	x := max(leastLimit, math.Ceil(float64(needed)/target-slop), float64(needed+uncollected))
	step := math.Exp2(math.Floor(math.Log2(x)) - 3)
	return uint64(math.Ceil(x/step) * step)
}

// memory is what a full table takes: from entries without extensions to all of
// them with.
func (s *Sizing) memory(limit, measured uint64) {
	buckets := limit
	lo, how := uint64(entryBytes), "the size of an entry could not be read here: %d bytes are assumed, the slab of current kernels"
	if measured > 0 {
		lo, how = measured, "an entry is %d bytes here (slab of nf_conntrack)"
	}
	hi := lo + extensionBytes
	s.forLimit(fmt.Sprintf(how+", and %d more where an extension is in use, such as accounting, timestamps, labels, events or masquerading", lo, extensionBytes))
	least, most := limit*lo+buckets*bucketBytes, limit*hi+buckets*bucketBytes
	s.Buckets, s.MemoryBytesMin, s.MemoryBytesMax = &buckets, &least, &most
	s.forLimit("as many buckets as entries is what the kernel chooses by itself: each entry is linked twice, so a full table has 2 entries per chain. kube-proxy only sees to a quarter of its limit, which makes 8")
}

// timeouts are the kernel's settings of how long an entry stays in a state.
var timeouts = map[string]string{
	"TIME_WAIT": "tcp_timeout_time_wait", "CLOSE": "tcp_timeout_close", "CLOSE_WAIT": "tcp_timeout_close_wait",
	"ESTABLISHED": "tcp_timeout_established", "FIN_WAIT": "tcp_timeout_fin_wait", "LAST_ACK": "tcp_timeout_last_ack",
	"SYN_SENT": "tcp_timeout_syn_sent", "SYN_RECV": "tcp_timeout_syn_recv", "UDP": "udp_timeout", "UDP_STREAM": "udp_timeout_stream",
}

// shorten computes what halving and quartering each timeout would do.
func (s *Sizing) shorten(base uint64) {
	risks := map[string]string{
		"TIME_WAIT":   "a port that is used again within the old connection's lifetime meets late packets of it more often",
		"CLOSE":       "small: the connection was reset",
		"CLOSE_WAIT":  "an entry that expires before the application closes lets the late FIN out without NAT, and a reused port can be reset",
		"ESTABLISHED": "connections that are idle for longer lose their NAT and are cut",
		"SYN_SENT":    "handshakes over slow paths lose their entry before the answer",
		"SYN_RECV":    "slow handshakes lose their entry",
		"UDP":         "answers that take longer are not translated back and are lost",
	}
	var states []string
	from := map[string]float64{}
	for _, p := range s.Parts {
		if p.Counted && p.ResidenceS > 0 && p.Entries != nil && timeouts[p.State] != "" && !slices.Contains(states, p.State) {
			states = append(states, p.State)
			from[p.State] = p.ResidenceS
		}
	}
	for _, state := range states {
		for _, by := range []float64{2, 4} {
			to := math.Floor(from[state] / by)
			if to < 1 {
				continue
			}
			sum := float64(base)
			for _, p := range s.Parts {
				if !p.Counted || p.Entries == nil {
					continue
				}
				e := float64(*p.Entries)
				if p.State == state && p.ResidenceS > 0 {
					e -= p.ArrivalsPerS * p.EntriesPerAttempt * (p.ResidenceS - min(to, p.ResidenceS))
				}
				sum += e
			}
			n := uint64(math.Ceil(max(0, sum) - slop))
			s.Timeouts = append(s.Timeouts, TimeoutEffect{
				Sysctl: "net.netfilter.nf_conntrack_" + timeouts[state], FromS: from[state], ToS: to,
				NeededEntries: n, Limit: recommended(n, *s.UncollectedEntries), Risk: risks[state],
			})
		}
	}
	s.shortenFloods(risks)
}

// shortenFloods is the same for the timeouts that floods' entries stay for. Those
// entries are among the numbers, at the rate of the run.
func (s *Sizing) shortenFloods(risks map[string]string) {
	for _, p := range s.Parts {
		if p.Counted || p.Entries == nil || timeouts[p.State] == "" || p.ResidenceS <= 0 {
			continue
		}
		for _, by := range []float64{2, 4} {
			to := math.Floor(p.ResidenceS / by)
			if to < 1 {
				continue
			}
			perS := p.ArrivalsPerS * p.EntriesPerAttempt
			n := *s.NeededEntries + uint64(math.Ceil(perS*to-slop))
			late := *s.UncollectedEntries + uint64(math.Ceil(perS*collectorGap-slop))
			s.Timeouts = append(s.Timeouts, TimeoutEffect{
				Sysctl: "net.netfilter.nf_conntrack_" + timeouts[p.State], FromS: p.ResidenceS, ToS: to,
				NeededEntries: n, Limit: recommended(n, late),
				Risk: risks[p.State] + fmt.Sprintf(". With flood %s as it was, which needs %d entries by itself at %g s; twice the flood is twice that", p.Traffic, *p.Entries, p.ResidenceS),
			})
		}
	}
}

// runNeedOfAll is the highest runNeed of all nodes.
func (l *log) runNeedOfAll(s *Sizing) {
	for _, n := range l.nodeList {
		var x Sizing
		if l.runNeed(&x, n); x.RunNeeded != nil && (s.RunNeeded == nil || *x.RunNeeded > *s.RunNeeded) {
			s.RunNeeded, s.RunNeededHow = x.RunNeeded, n.name+": "+x.RunNeededHow
		}
	}
}

// runNeed is the limit at which this very run would have lost nothing.
func (l *log) runNeed(s *Sizing, n *node) {
	if n == nil || n.atStart == nil {
		return
	}
	if chains := chainTooLong(n.counters); chains > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("no limit alone would have held this run: %s refused %s because a hash chain was too long (chainlength), which more buckets mend", n.name, plural(chains, "entry", "entries")))
		return
	}
	v, how := l.computedNeed(n)
	if how == "" || v < n.peak {
		v, how = n.countedNeed(v)
	}
	s.RunNeeded, s.RunNeededHow = &v, how
}

// computedNeed is what the attempts that were due need besides what was there
// already, and how that was computed; empty where it cannot be.
func (l *log) computedNeed(n *node) (entries uint64, how string) {
	need := l.need(n.name)
	if len(need.parts) == 0 || len(need.unknown) > 0 {
		return 0, ""
	}
	_, _, peak := need.reaches(func(float64) float64 { return math.Inf(1) }, nil)
	entries = n.atStart.entries + uint64(math.Ceil(peak-slop)) + uint64(n.mostRefilled())
	how = fmt.Sprintf("%d entries when traffic began%s, and %.0f more that the attempts due in this run need at once at most", n.atStart.entries, n.ballastText(), math.Ceil(peak-slop))
	if more := n.mostRefilled(); more > 0 {
		how += fmt.Sprintf(", and %.0f of ballast that actions added", more)
	}
	if need.expires {
		how += ", and those on top that have expired and not been collected"
	} else if more := n.beyond(need, l.clockBound); more > 0 {
		entries += more
		how += fmt.Sprintf(", and %d of others that had come by when it was full", more)
	}
	return entries, how
}

// beyond is how many entries there were, right before the node first dropped or
// evicted, besides those at its start, ballast and those of the attempts due by then:
// others', such as the connections of a kube-proxy that was restarted. It is the least
// of the last three samples, and what attempts add while a table is read is no other's.
func (n *node) beyond(need *need, clocks float64) uint64 {
	const reading = 0.01 // s, besides what is known
	var last []tableSample
	for iv := range n.rows.intervals() {
		if last = append(last, iv.a); len(last) > 3 {
			last = last[1:]
		}
		if iv.drop+iv.early == 0 {
			continue
		}
		least := math.Inf(1)
		for _, s := range last {
			expected := float64(n.atStart.entries) + n.refilled(s.t) + need.at(s.t+s.took+clocks+reading)
			least = min(least, float64(s.entries)-expected)
		}
		return uint64(max(0, math.Floor(least+slop)))
	}
	return 0
}

// countedNeed is what was there at most, and what found no room. It is what
// counts where more was there than was computed, which is 0 for nothing: after
// a clash, for example, the kernel keeps a second entry for a second.
func (n *node) countedNeed(computed uint64) (entries uint64, how string) {
	var dropped uint64
	for iv := range n.rows.intervals() {
		dropped += iv.drop + iv.early
	}
	how = fmt.Sprintf("the highest count of %d", n.peak)
	if computed > 0 {
		how += fmt.Sprintf(", which is more than the %d that the attempts due in this run need by themselves", computed)
	}
	if dropped > 0 {
		how += fmt.Sprintf(", and %d entries that were dropped or evicted: an upper bound, because some of those would have expired, or were asked for again", dropped)
	}
	return n.peak + dropped, how
}

// ballastText says that what was in the table stands for something.
func (n *node) ballastText() string {
	if 2*n.ballast > n.atStart.entries {
		return ", ballast for the most part, which stands for other load"
	}
	return ""
}

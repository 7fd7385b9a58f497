package report

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"sort"

	"github.com/tablefull/tablefull/report/runlog"
)

const (
	// maxAutopsies bounds how many look-ups are kept: 20 a second for a day.
	maxAutopsies = 1 << 21
	// fewAutopsies is how many like it an attempt's finding is taken from at
	// least, where there are so many.
	fewAutopsies = 5
	// mostAutopsies is how many of the nearest are asked where few are near.
	mostAutopsies = 64
	// answerTime is how long after it was sent, in s, a SYN or a datagram can
	// be on its way: a pod that is there for longer would have answered.
	answerTime = 0.5
)

// finding is what an autopsy found.
type finding int

const (
	noEntry   finding = iota // no entry
	unreplied                // an entry to a pod that has not answered
	open                     // an entry over which both sides have talked, still open
	old                      // an entry that is closing or over, as TIME_WAIT: it may be an earlier connection's
	noDNAT                   // an entry that no service rule rewrote
	staleDNAT                // an entry to an address that was no pod of the service
	drainDNAT                // an entry to a pod that was terminating and not to be used any more
	goneDNAT                 // an entry to a pod that was usable, and ended before the attempt failed
	notLooked                // no autopsy was made
	findings
	unclear = findings // an autopsy that says nothing
)

// found is a set of findings.
type found uint

func foundAny(of ...finding) found {
	var s found
	for _, f := range of {
		s |= 1 << f
	}
	return s
}

func (s found) has(f finding) bool { return s&(1<<f) != 0 }

// autopsies counts look-ups of failed attempts by what they found.
type autopsies [notLooked]uint64

func (a *autopsies) total() uint64 { return a.of(^found(0)) }

// of counts those that found one of s.
func (a *autopsies) of(s found) uint64 {
	var n uint64
	for f, c := range a {
		if s.has(finding(f)) {
			n += c
		}
	}
	return n
}

// An autopsy is one look-up of a failed attempt. What the address was can be
// said only when all changes of endpoints are known: they come from another
// host, and so may stand later in the log.
type autopsy struct {
	due          float64 // s of run time
	sent, failed float32 // s after due
	looked       float32 // s after due
	addr         uint32  // index in log.addrs of what the entry leads to
	seen         uint8   // finding, if the address was usable all the time
	is           uint8   // finding, set by decide
	kept         bool    // the rules led there no more when it was sent, so that its entry is from before
	led          bool    // readings show that the rules still led there when it was sent
}

func (l *log) addAutopsy(r *runlog.Record) {
	a := r.Autopsy
	if a.Error != "" {
		return // it says nothing about the entry
	}
	a = l.direct(a)
	f, ok := l.joins[attempt{a.Traffic, a.Node, a.Seq}]
	switch {
	case !ok && l.traffic(a.Traffic).idle():
		if t := l.traffic(a.Traffic); !t.lookAtUnclosed(a) {
			t.lookAtLoss(a)
		}
		return
	case !ok:
		l.unjoined++
		return
	case l.nAutopsies == maxAutopsies:
		l.unkept++
		return
	}
	l.nAutopsies++
	t := l.traffic(a.Traffic)
	at := r.T - max(0, min(a.Lag, 60))
	x := autopsy{due: f.due, sent: float32(max(0, f.start-f.due)), failed: float32(max(0, at-f.due)), looked: float32(max(0, r.T-f.due)), seen: uint8(seen(a))}
	if a.Found && (a.DNAT || translated(a)) {
		x.addr = l.addrIndex(a.ReplySrc.Addr())
	}
	v := l.lane(t, a.Node)
	v.autopsies[f.class] = append(v.autopsies[f.class], x)
}

// direct marks as translated what needs no translation: clients of a headless
// service send to its pods.
func (l *log) direct(a *runlog.Autopsy) *runlog.Autopsy {
	s := l.service(l.traffic(a.Traffic).info.To)
	if !a.Found || s == nil || !a.Tuple.Dst.IsValid() || a.Tuple.Dst.Addr() == s.Addr.Addr() || !l.isBackend(s.Name, a.Tuple.Dst.Addr()) {
		return a
	}
	x := *a
	x.DNAT = true
	return &x
}

func (l *log) addrIndex(a netip.Addr) uint32 {
	i, ok := l.addrOf[a]
	if !ok {
		if l.addrOf == nil {
			l.addrOf = map[netip.Addr]uint32{}
		}
		i = uint32(len(l.addrs)) //nolint:gosec // at most maxAutopsies
		l.addrs, l.addrOf[a] = append(l.addrs, a), i
	}
	return i
}

// seen is what was found, wherever the entry leads.
func seen(a *runlog.Autopsy) finding {
	switch {
	case !a.Found:
		return noEntry
	case !a.DNAT && !translated(a):
		return noDNAT
	case !a.Replied:
		return unreplied
	}
	switch a.State {
	case "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE":
		return old
	}
	return open
}

// translated says whether the entry leads elsewhere than to the address that
// was asked for: IPVS does not set the kernel's mark for a translation.
func translated(a *runlog.Autopsy) bool {
	return a.ReplySrc.IsValid() && a.Tuple.Dst.IsValid() && a.ReplySrc.Addr() != a.Tuple.Dst.Addr()
}

// decide settles what each look-up found, in order of due times.
func (l *log) decide() {
	for _, t := range l.order {
		for _, v := range t.lanes {
			for c, list := range v.autopsies {
				l.decideAll(v, class(c), list)
			}
		}
	}
}

func (l *log) decideAll(v *lane, c class, list []autopsy) {
	slices.SortStableFunc(list, func(x, y autopsy) int { return cmp.Compare(x.due, y.due) })
	for i := range list {
		list[i].is = uint8(l.finding(v, c, &list[i], list[i].due)) //nolint:gosec // a few
		if l.ambiguous(v, &list[i]) {
			list[i].is = uint8(unclear)
		}
		if f := finding(list[i].is); f == staleDNAT || f == drainDNAT {
			x, at := &list[i], list[i].due+float64(list[i].sent)
			x.kept = l.unruled(v.node, v.t.info.To, l.addrs[x.addr], at)
			x.led = l.ruled(v.node, v.t.info.To, l.addrs[x.addr], at)
		}
	}
}

// finding is what the look-up would say of an attempt like it that was due at
// that time: what matters is what the address was when it was sent there.
func (l *log) finding(v *lane, c class, a *autopsy, due float64) finding {
	t := v.t
	f := finding(a.seen)
	if f == noEntry || f == noDNAT {
		return f
	}
	addr, sent, failed := l.addrs[a.addr], due+float64(a.sent), due+float64(a.failed)
	s := l.cluster.services[t.info.To]
	switch l.roleOf(t.info.To, v.stays(), addr, sent) {
	case usable:
		until := failed
		if c == silent {
			until = min(failed, sent+answerTime)
		}
		if s != nil && s.ended(addr, sent, until) {
			return goneDNAT
		}
		return f
	case draining:
		return drainDNAT
	case noPod:
	}
	return staleDNAT
}

// ambiguous says whether the entry need not be the one that the attempt's packet
// met: it leads to an address that became usable only after it was sent, so that
// a later packet may have made it; or, of datagrams, to one that the node's rules did
// not lead to all the time; or there is none, and a proxy may
// have deleted it, as it does with those of UDP when endpoints change.
func (l *log) ambiguous(v *lane, a *autopsy) bool {
	t := v.t
	s := l.cluster.services[t.info.To]
	if s == nil {
		return false
	}
	sent, looked := a.due+float64(a.sent), a.due+float64(a.looked)
	switch finding(a.is) {
	case staleDNAT, drainDNAT:
		return s.everUsable(l.addrs[a.addr], sent, looked)
	case unreplied, open, old:
		node := v.node
		if node == "" && len(l.nodeList) == 1 {
			node = l.nodeList[0].name
		}
		led, _, known := l.shown(node, t.info.To, sent, sent)
		return t.udp() && known && !slices.Contains(led, l.addrs[a.addr])
	case noEntry:
		i := s.after(sent)
		return t.udp() && i < len(s.t) && s.t[i] <= looked
	}
	return false
}

// looked is what autopsies of the item's own bin, class and lane found, and what
// those say of others like them that were not looked up: those due nearest, in the
// same bin, or within 0.3, 1 or 2 s where there are not enough, or the nearest at
// all. Another attempt's says nothing of one at whose time its address was something
// else.
func (l *log) looked(it *item) (own autopsies, like [notLooked]float64) {
	list := it.lane.autopsies[it.class]
	lo, hi := it.start()-1e-9, it.end()-1e-9 // a due time on the edge belongs to the later bin
	mid := (lo + hi) / 2
	first := func(at float64) int {
		return sort.Search(len(list), func(i int) bool { return list[i].due >= at })
	}
	count := func(i, j int) (n int) {
		own, like = autopsies{}, [notLooked]float64{}
		for k := max(0, i); k < min(j, len(list)); k++ {
			x := &list[k]
			switch {
			case x.is == uint8(unclear):
				continue
			case x.due >= lo && x.due < hi:
				own[x.is]++
				l.inItsBin(it, x, &like)
			case uint8(l.finding(it.lane, it.class, x, mid)) == x.is:
				like[x.is]++
			default:
				continue
			}
			n++
		}
		return n
	}
	for _, within := range []float64{0, 0.3, 1, 2} {
		if count(first(lo-within), first(hi+within)) >= fewAutopsies {
			return own, like
		}
	}
	count(first(mid)-mostAutopsies/2, first(mid)+mostAutopsies/2)
	return own, like
}

// askedAt is at how many moments of a bin it is asked what a look-up would have found.
const askedAt = 16

// inItsBin adds what the look-up would have said of the others that failed in its
// bin: the address can have been something else for a part of it.
func (l *log) inItsBin(it *item, x *autopsy, like *[notLooked]float64) {
	from, to := it.start(), it.end()
	if it.recorded() {
		from, to = it.bad.firstDue, it.bad.lastDue
	}
	at := func(t float64) finding { return l.finding(it.lane, it.class, x, t) }
	if is := finding(x.is); at(from) == is && at(to) == is {
		like[is]++
		return
	}
	for k := range askedAt {
		like[at(from+(to-from)*(float64(k)+0.5)/askedAt)] += 1.0 / askedAt
	}
}

// between are the class's look-ups of attempts due from a to b, which are edges
// of bins: a due time on an edge belongs to the later bin.
func (v *lane) between(c class, a, b float64) []autopsy {
	list := v.autopsies[c]
	first := func(at float64) int {
		return sort.Search(len(list), func(i int) bool { return list[i].due >= at-1e-9 })
	}
	i := first(a)
	return list[i:max(i, first(b))]
}

// isBackend says whether addr is a pod of the service. Without the header it
// cannot say no. A service with several ports lists each pod once, so the
// address alone is compared.
func (l *log) isBackend(service string, addr netip.Addr) bool {
	s := l.service(service)
	if s == nil || !addr.IsValid() {
		return true
	}
	for _, b := range s.Backends {
		if b.Addr.Addr() == addr {
			return true
		}
	}
	return false
}

// ended says whether the pod that was usable at a had ended by b: its endpoint
// was gone, or served no more.
func (s *endpointLog) ended(addr netip.Addr, a, b float64) bool {
	for i := s.after(a); i < len(s.t) && s.t[i] <= b; i++ {
		if !slices.ContainsFunc(s.states[i], func(e runlog.EndpointState) bool { return e.Addr == addr && e.Serving }) {
			return true
		}
	}
	return false
}

// everUsable says whether the address became usable after a, and no later than b.
func (s *endpointLog) everUsable(addr netip.Addr, a, b float64) bool {
	for i := s.after(a); i < len(s.t) && s.t[i] <= b; i++ {
		if slices.ContainsFunc(runlog.Usable(s.states[i]), func(e runlog.EndpointState) bool { return e.Addr == addr }) {
			return true
		}
	}
	return false
}

// after is the index of the first change after t.
func (s *endpointLog) after(t float64) int {
	return sort.SearchFloat64s(s.t, math.Nextafter(t, math.Inf(1)))
}

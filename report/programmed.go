package report

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
)

// shown are the backends of a service that take new connections which a node's
// rules led to at all readings from the last one before a to the first one after b; any
// says whether one of these showed any backend. It is not known where one failed,
// or where there are none, clocks considered.
func (l *log) shown(node, service string, a, b float64) (all []netip.Addr, any, known bool) {
	planes := l.cluster.planes[node]
	a, b = a-l.clockBound, b+l.clockBound
	i, found := slices.BinarySearchFunc(planes, a, func(p plane, t float64) int { return cmp.Compare(p.t, t) })
	if !found {
		i--
	}
	if i < 0 {
		return nil, false, false
	}
	for first := i; i < len(planes) && !planes[i].failed; i++ {
		now, ok := planes[i].leadsTo(service)
		switch {
		case !ok:
			return nil, false, false
		case i == first:
			all = now
		default:
			all = slices.DeleteFunc(all, func(x netip.Addr) bool { return !slices.Contains(now, x) })
		}
		any = any || len(now) > 0
		if until := planes[i].seen; until >= b || i+1 < len(planes) && planes[i+1].before >= b {
			return all, any, true
		}
	}
	return nil, false, false
}

// leadsTo are the backends of a service that take new connections.
func (p *plane) leadsTo(service string) (out []netip.Addr, known bool) {
	for _, s := range p.services {
		if s.Service != service {
			continue
		}
		for _, x := range s.Backends {
			if x.Weight > 0 {
				out = append(out, x.Addr.Addr())
			}
		}
		return out, true
	}
	return nil, false
}

// A behind is a node whose rules were not what the endpoints were.
type behind struct {
	node, service string
	addr          netip.Addr // of the endpoint that it led to, or did not lead to
	told          bool       // it had been told to end, which the endpoints did not say yet
}

// refusal says whether attempts of the item failed as those do that a node sends
// to an address where nothing listens any more, or that it rejects: at once.
func (it *item) refusal() bool { return it.class == refused || it.class == unreachable }

// recorded says whether each failure of the item's bin and class was recorded.
func (it *item) recorded() bool { return it.bad.recorded[it.class] == it.classed() }

// classed is how many failures of the item's bin and class there were.
func (it *item) classed() (n uint64) {
	for o, c := range it.bad.outcomes {
		if it.t.class(o) == it.class {
			n += c
		}
	}
	return n
}

// sent is when the item's attempts were sent, and how many of those that can be
// true of possible that is known of: all where each failure of its bin was
// recorded; else those that were not late, of which all can be among the failed.
func (it *item) sent(possible found) (from, to float64, n uint64) {
	n = it.allow(possible)
	if it.recorded() {
		return it.bad.firstStart[it.class], it.bad.lastStart[it.class], n
	}
	return it.start(), it.end(), n - min(n, it.lates)
}

// behindTheEndpoints explains attempts that were refused where nobody else can
// have refused them: all the time in which they were sent, the node that they
// entered by had rules that led to an address which was no usable pod, or to
// none although there were usable ones. A pod that had been told to end is no
// usable one, whatever its endpoint still said. Such an attempt leaves no entry: a
// refused one's is removed by the kernel, and one that the node itself rejects
// or finds no way for never has one. What usable pods have refused is explained
// before, by their own counters.
//
// Where there is a rule to no pod at all, the node may also answer with silence: the
// kernel sends so many refusals a second and no more (icmp_ratelimit), and a rule
// may drop. Nor can a SYN that was lost on its way have been answered then. What the
// full table dropped is explained before, by its counter.
func (a *attribution) behindTheEndpoints() {
	for _, it := range a.items {
		s := a.l.service(it.t.info.To)
		if s == nil || it.left == 0 || a.behindGateway(it) || it.lane.stays() != "" {
			continue
		}
		switch {
		case it.refusal():
			a.refusedBehind(it, s)
		case it.class == silent && !it.t.udp():
			a.silentUnruled(it, s)
		}
	}
}

func (a *attribution) refusedBehind(it *item, s *runlog.ServiceInfo) {
	can := foundAny(noEntry, notLooked)
	from, to, n := it.sent(can)
	if n == 0 {
		return
	}
	if cause, who := a.l.lag(it, s, from, to); cause != "" {
		a.tie(it, cause, n, can, who)
	}
}

// silentUnruled explains attempts whose every SYN met no rule to any pod: one
// that a rule was there for would have been answered, or have left an entry.
func (a *attribution) silentUnruled(it *item, s *runlog.ServiceInfo) {
	can := foundAny(noEntry)
	from, to, n := it.sent(can)
	if n == 0 {
		return
	}
	var who behind
	for _, after := range a.retries[:tries(it.t.info.Timeout, a.retries)] {
		cause, w := a.l.lag(it, s, from+after, to+after)
		if cause != notProgrammed {
			return
		}
		if after == 0 {
			who = w
		}
	}
	a.tie(it, notProgrammed, n, can, who)
}

// tie puts n of the item's attempts down to rules that were behind.
func (a *attribution) tie(it *item, cause string, n uint64, can found, who behind) {
	a.take(it, cause, n, can)
	t := a.of(cause, it)
	t.ties[who] = true
	t.agree |= foundAny(noEntry)
}

// lag is the cause of a refusal that the readings of the rules prove, and what
// was behind, of attempts that were sent from one time to another; empty where
// they prove none. An address counts only where it was not usable at both.
func (l *log) lag(it *item, s *runlog.ServiceInfo, from, to float64) (string, behind) {
	node := it.lane.node
	if node == "" && len(l.nodeList) == 1 {
		node = l.nodeList[0].name
	}
	e := l.cluster.services[s.Name]
	led, any, known := l.shown(node, s.Name, from, to)
	if !known || e == nil || len(e.t) == 0 || from < e.t[0]+l.clockBound {
		return "", behind{}
	}
	if it.class == refused && !l.counted(s.Name, led, from, to) {
		return "", behind{} // a usable pod may have
	}
	for _, addr := range led {
		switch was := l.roleOf(s.Name, "", addr, from); {
		case was == usable && l.toldToEnd(s.Name, addr, from):
			return drainingBackend, behind{node, s.Name, addr, true}
		case was == usable || l.roleOf(s.Name, "", addr, to) == usable || e.everUsable(addr, from, to):
		case was == draining:
			return drainingBackend, behind{node, s.Name, addr, false}
		default:
			return staleBackend, behind{node, s.Name, addr, false}
		}
	}
	if !any {
		for _, x := range runlog.Usable(e.at(from)) {
			if l.roleOf(s.Name, "", x.Addr, to) == usable {
				return notProgrammed, behind{node, s.Name, x.Addr, false}
			}
		}
	}
	return "", behind{}
}

// counted says whether all those of the addresses that are usable pods had
// their counters read before and after, so that what they refused is known.
func (l *log) counted(service string, addrs []netip.Addr, from, to float64) bool {
	for _, addr := range addrs {
		if l.roleOf(service, "", addr, from) != usable || l.roleOf(service, "", addr, to) != usable || l.toldToEnd(service, addr, from) {
			continue
		}
		name, _, _ := strings.Cut(l.cluster.services[service].nameOf(addr, from), ".") // of the host, which may have had pods before
		if h := l.hosts[name]; h == nil || h.first > from || h.prevT < to {
			return false
		}
	}
	return true
}

// tie is like: endpoint 10.0.1.7 (web-1) no longer usable at 12.31 s, node2
// still programmed it at 13.90 s.
func (b *StaleBackend) tie(node string) string {
	since, still, until := "no longer usable", "still programmed it", "without it"
	if b.What == "missing" {
		since, still, until = "usable", "had not programmed it", "with it"
	}
	name := b.Addr
	if b.Pod != b.Addr {
		name += " (" + b.Pod + ")"
	}
	switch {
	case b.by > 0 && b.by < b.ToS && b.SeenS <= b.FromS:
		return fmt.Sprintf("endpoint %s %s at %.2f s, %s's proxy said at %.2f s that it was %s", name, since, b.FromS, node, b.by, until)
	case b.SeenS <= b.FromS:
		return fmt.Sprintf("endpoint %s %s at %.2f s, %s first read %s at %.2f s", name, since, b.FromS, node, until, b.ToS)
	}
	return fmt.Sprintf("endpoint %s %s at %.2f s, %s %s at %.2f s", name, since, b.FromS, node, still, b.SeenS)
}

// maxTies is how many differences a spike names.
const maxTies = 3

// tiesOf are the differences between rules and endpoints that the spike's
// failures rest on: those of the nodes that they entered by, while they failed,
// of the kind that their causes are about; the longest first.
func tiesOf(f *Findings, s *Spike) []string {
	if s.StartS == nil || s.EndS == nil {
		return []string{}
	}
	kinds := map[string]bool{}
	for _, c := range s.Causes {
		switch c.Cause {
		case staleBackend, drainingBackend:
			kinds["stale"] = true
		case notProgrammed:
			kinds["missing"] = true
		}
	}
	type tied struct {
		node string
		b    *StaleBackend
	}
	var list []tied
	for i := range f.Nodes {
		n := &f.Nodes[i]
		if n.Stale == nil || len(s.FailedBy) > 0 && s.FailedBy[n.Name] == 0 {
			continue
		}
		for k := range n.Stale.Backends {
			if b := &n.Stale.Backends[k]; kinds[b.What] && b.FromS < *s.EndS && b.ToS > *s.StartS {
				list = append(list, tied{n.Name, b})
			}
		}
	}
	slices.SortStableFunc(list, func(x, y tied) int { return cmp.Compare(y.b.ToS-y.b.FromS, x.b.ToS-x.b.FromS) })
	out := []string{}
	for _, x := range list[:min(maxTies, len(list))] {
		out = append(out, x.b.tie(x.node))
	}
	return out
}

// tied is what the tally's attempts were refused by, as readings show.
func (a *attribution) tied(t *tally) string {
	if len(t.ties) == 0 {
		return ""
	}
	names := map[string]bool{}
	for b := range t.ties {
		name := fmt.Sprintf("%s of %s on %s", b.addr, b.service, b.node)
		if b.told && !t.ties[behind{b.node, b.service, b.addr, false}] {
			name += " (told to end by then, though the endpoints did not say so yet)"
		}
		names[name] = true
	}
	var list []string
	for n := range names {
		list = append(list, n)
	}
	slices.Sort(list)
	more := ""
	if n := len(list) - maxTies; n > 0 {
		list, more = list[:maxTies], fmt.Sprintf(" and %d more", n)
	}
	what := "readings before and after show rules that led to what was no usable pod: "
	if t.cause == notProgrammed {
		what = "readings before and after show no rule to any pod, although there were usable ones: "
	}
	return what + strings.Join(list, ", ") + more
}

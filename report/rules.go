package report

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
)

// misled explains attempts whose entry leads to an address that was no usable
// pod of their service when they were sent: none at all, or one that was
// terminating and not to be used any more; or to one that was usable, and ended while they
// were on their way.
func (a *attribution) misled() {
	for _, x := range []struct {
		cause string
		f     finding
	}{{staleBackend, staleDNAT}, {drainingBackend, drainDNAT}, {backendGone, goneDNAT}} {
		for _, it := range a.items {
			if n := it.allow(foundAny(x.f)); n > 0 {
				a.take(it, x.cause, n, foundAny(x.f))
				a.of(x.cause, it).agree = foundAny(x.f)
				it.misled = true
			}
		}
	}
}

// untranslated explains attempts whose entry leads to the service's own address,
// although the service had pods to send them to: no rule rewrote their first
// packet, and all later ones follow its entry, to nobody or to a rule that
// rejects them.
func (a *attribution) untranslated() {
	for _, it := range a.items {
		s := a.l.service(it.t.info.To)
		if s == nil || !a.hadEndpoint(it, s) {
			continue
		}
		if n := it.allow(foundAny(noDNAT)); n > 0 && (it.class == silent || it.class == refused || it.class == unreachable) {
			a.take(it, untranslated, n, foundAny(noDNAT))
			a.of(untranslated, it).agree = foundAny(noDNAT)
		}
	}
}

// podsOf are the hosts of all pods that the service ever had, with their
// addresses. A host that is used again keeps its name; its next pod has that
// name and a number.
func (l *log) podsOf(s *runlog.ServiceInfo) map[string]netip.Addr {
	out := map[string]netip.Addr{}
	for _, b := range s.Backends {
		out[b.Name] = b.Addr.Addr()
	}
	if e := l.cluster.services[s.Name]; e != nil {
		for _, states := range e.states {
			for _, x := range states {
				if host, _, again := strings.Cut(x.Name, "."); !again {
					out[host] = x.Addr
				}
			}
		}
	}
	return out
}

// deltasOf collects one counter of the pods of a service.
func (a *attribution) deltasOf(s *runlog.ServiceInfo, of func(netDelta) uint64) []supply {
	var out []supply
	pods := a.l.podsOf(s)
	for _, name := range slices.Sorted(maps.Keys(pods)) {
		h := a.l.hosts[name]
		if h == nil {
			continue
		}
		for _, d := range h.deltas {
			if n := of(d); n > 0 {
				out = append(out, supply{a: d.a, b: d.b, host: h.name, left: float64(n)})
			}
		}
	}
	return out
}

// ending parts the supplies of pods that were terminating and not to be used
// any more, from when on they were, from the others.
func (a *attribution) ending(s *runlog.ServiceInfo, supplies []supply) (ending, others []supply) {
	log := a.l.cluster.services[s.Name]
	if log == nil {
		return nil, supplies
	}
	pods := a.l.podsOf(s)
	for _, x := range supplies {
		was := len(ending)
		times := []float64{x.a}
		for i := log.after(x.a); i < len(log.t) && log.t[i] <= x.b; i++ {
			times = append(times, log.t[i])
		}
		for _, t := range times {
			if a.l.roleOf(s.Name, "", pods[x.host], t) == draining {
				x.a = t
				ending = append(ending, x)
				break
			}
		}
		if len(ending) == was {
			others = append(others, x)
		}
	}
	return ending, others
}

// services returns the services that items go to, in the header's order. Of one
// with addresses of both families it is the first: both have the same pods,
// whose counters do not tell them apart and explain each failure once.
func (a *attribution) services() []*runlog.ServiceInfo {
	var out []*runlog.ServiceInfo
	if a.l.header == nil {
		return nil
	}
	for i := range a.l.header.Services {
		if s := &a.l.header.Services[i]; s.Name == serviceOf(s.Name) {
			out = append(out, s)
		}
	}
	return out
}

// serviceOf is the service that an address is of: web of web/ipv6.
func serviceOf(address string) string {
	service, _, _ := strings.Cut(address, "/")
	return service
}

// listenQueues explains attempts whose SYN, or the last ACK of whose
// handshake, a pod dropped because its listen queue was full. It passed the
// node, so that no autopsy of it finds nothing.
func (a *attribution) listenQueues() {
	passed := foundAny(unreplied, open, old, noDNAT, notLooked)
	for _, s := range a.services() {
		supplies := a.deltasOf(s, func(d netDelta) uint64 { return d.listen })
		to := func(it *item, c class) bool { return serviceOf(it.t.info.To) == s.Name && it.class == c && !it.t.udp() }
		overflow := proof{cause: listenOverflow, counter: "ListenDrops", supplies: supplies, limit: math.Inf(1)}
		// A SYN that got no answer was certainly dropped; a connection that got
		// none may also have stood in the queue. So SYNs come first.
		left := a.lost([]proof{overflow}, func(it *item) bool { return to(it, silent) }, passed, func(*item) bool { return false })
		a.waited(listenOverflow, "ListenDrops", left, func(it *item) bool { return to(it, unanswered) }, passed)
	}
}

// waited explains eligible attempts by one event each at any moment of their
// waiting.
func (a *attribution) waited(cause, counter string, supplies []supply, eligible func(*item) bool, possible found) {
	var demands []demand
	for _, it := range a.items {
		if eligible(it) && it.allow(possible) > 0 {
			demands = append(demands, it.waiting())
		}
	}
	a.settle([]proof{{cause: cause, counter: counter, supplies: supplies, limit: math.Inf(1)}}, demands, func(*item) found { return possible })
}

// evictions explains attempts whose entry is gone, and which waited while the
// kernel evicted entries. It needs autopsies: early_drop alone does not say
// whose entries those were.
func (a *attribution) evictions() {
	for _, node := range a.l.entries() {
		supplies := a.gainsOf(node, func(iv interval) uint64 { return iv.early })
		a.waited(evicted, "early_drop", supplies, func(it *item) bool {
			return it.lane.via(node) && (it.class == silent || it.class == unanswered)
		}, foundAny(noEntry))
	}
}

// gainsOf collects what a counter of a node's table gained; those of all nodes
// where the name is empty.
func (a *attribution) gainsOf(node string, of func(interval) uint64) []supply {
	var out []supply
	for _, n := range a.l.nodeList {
		if node != "" && n.name != node {
			continue
		}
		for iv := range n.rows.intervals() {
			if gained := of(iv); gained > 0 {
				out = append(out, supply{a: iv.a.t - iv.a.took/2, b: iv.b.t + iv.b.took/2, host: n.name, left: float64(gained)})
			}
		}
	}
	return out
}

// withoutEndpoint explains attempts to a service that had no usable endpoint
// while they were due. One that nothing answered may as well have gone to a pod
// that is gone: where autopsies found such entries, that none was found proves
// nothing.
func (a *attribution) withoutEndpoint() {
	for _, it := range a.items {
		s := a.l.service(it.t.info.To)
		if s == nil || a.hadEndpoint(it, s) {
			continue
		}
		can := ^found(0)
		switch it.class {
		case silent:
			if can = foundAny(noEntry, noDNAT, notLooked); it.misled {
				can = foundAny(noDNAT)
			}
			if it.lane.stays() != "" {
				can |= foundAny(unreplied) // an entry to a pod of another node
			}
		case refused, unreachable:
		default:
			continue
		}
		if n := it.allow(can); n > 0 {
			a.take(it, noEndpoint, n, can)
			how := fmt.Sprintf("service %s had no usable endpoint", s.Name)
			if on := it.lane.stays(); on != "" {
				how += " on the node they entered by, which they must not leave,"
			}
			how += " when they were due"
			agree := foundAny(noEntry, noDNAT)
			if it.lane.stays() != "" && a.l.cluster.ipvs {
				how += " (in mode ipvs the node then sends them to pods of other nodes, whose answers do not come from the address that was asked)"
				agree |= foundAny(unreplied)
			}
			t := a.of(noEndpoint, it)
			t.how, t.agree = how, agree
		}
	}
}

// hadEndpoint says whether the service had an endpoint that the item's attempts
// could be sent to when they were: where each is recorded, from when the first was
// until the last was, clocks considered; else at any time of their bin, in part of which there
// may have been none.
func (a *attribution) hadEndpoint(it *item, s *runlog.ServiceInfo) bool {
	from, to := it.start(), it.end()
	if it.recorded() {
		from, to = it.bad.firstStart[it.class]-a.l.clockBound, it.bad.lastStart[it.class]+a.l.clockBound
	}
	return a.l.hasEndpoint(s, it.lane.stays(), from, to)
}

// resets explains connections that were reset or closed early. A packet that
// conntrack calls invalid is not rewritten, and whoever gets it answers with a
// reset; but single invalid packets are common, so that `invalid` must have
// risen at least half as much as connections were reset.
func (a *attribution) resets() {
	for _, node := range a.l.entries() {
		if a.sampled(node) {
			a.resetsVia(node)
		}
	}
}

// sampled says whether the node's table was read while traffic flowed; any
// node's where the name is empty.
func (a *attribution) sampled(name string) bool {
	return slices.ContainsFunc(a.l.nodeList, func(n *node) bool { return (name == "" || n.name == name) && n.rows.measured() })
}

// resetsVia explains those of attempts that entered by the node.
func (a *attribution) resetsVia(node string) {
	supplies := a.gainsOf(node, func(iv interval) uint64 { return iv.invalid })
	isReset := func(it *item) bool { return it.class == reset && it.lane.via(node) }
	if a.explainsHalf(supplies, isReset) {
		a.waited(invalidReset, "invalid", supplies, isReset, ^found(0))
	}
	for _, it := range a.items {
		if !isReset(it) || it.left == 0 {
			continue
		}
		// Without a pod's answer there is nothing that could have closed it.
		if s := a.l.service(it.t.info.To); s != nil && a.l.hasEndpoint(s, it.lane.stays(), it.start(), it.end()) {
			a.take(it, backendReset, it.left, ^found(0))
			t := a.of(backendReset, it)
			t.agree = foundAny(open, old)
			t.how = "the peer ended the connections, and the node's invalid counter did not rise with them"
			if sent := a.podsSent(s, func(d netDelta) uint64 { return d.resets }); sent > 0 {
				t.how += fmt.Sprintf("; the pods sent %s", plural(sent, "TCP reset"))
			}
		}
	}
}

// explainsHalf says whether there are at least half as many events as eligible
// attempts at the times of these.
func (a *attribution) explainsHalf(supplies []supply, eligible func(*item) bool) bool {
	var demands []demand
	var want, got float64
	for _, it := range a.items {
		if eligible(it) && it.allow(^found(0)) > 0 {
			demands = append(demands, it.waiting())
			want += float64(it.allowed)
		}
	}
	match(slices.Clone(supplies), demands, a.slack)
	for _, d := range demands {
		got += d.got
	}
	return want > 0 && got >= want/2
}

func (a *attribution) podsSent(s *runlog.ServiceInfo, of func(netDelta) uint64) uint64 {
	var n uint64
	for _, x := range a.deltasOf(s, of) {
		n += uint64(x.left)
	}
	return n
}

// refusals explains refused attempts to a service that has pods: one of them
// said so. (An entry whose only reply is a reset is removed by the kernel at
// once, so autopsies find nothing and prove nothing.)
func (a *attribution) refusals() {
	for _, s := range a.services() {
		for _, udp := range []bool{false, true} {
			counter, of := "OutRsts", func(d netDelta) uint64 { return d.resets }
			if udp {
				counter, of = "NoPorts", func(d netDelta) uint64 { return d.noPorts }
			}
			eligible := func(it *item) bool {
				return serviceOf(it.t.info.To) == s.Name && it.class == refused && it.t.udp() == udp
			}
			ending, others := a.ending(s, a.deltasOf(s, of))
			left := a.refusedAtOnce(drainingBackend, counter, ending, eligible)
			a.waited(backendRefused, counter, append(others, left...), eligible, ^found(0))
		}
	}
}

// refusedAtOnce explains eligible attempts by one event each at the moment they
// were due: a refusal does not wait. It returns what is left of the supplies.
func (a *attribution) refusedAtOnce(cause, counter string, supplies []supply, eligible func(*item) bool) []supply {
	if len(supplies) == 0 {
		return nil
	}
	var demands []demand
	for _, it := range a.items {
		if eligible(it) && it.allow(^found(0)) > 0 {
			d := it.waiting()
			d.b -= max(it.t.info.Timeout, 0)
			demands = append(demands, d)
		}
	}
	return a.settle([]proof{{cause: cause, counter: counter, supplies: supplies, limit: math.Inf(1)}}, demands, func(*item) found { return ^found(0) })
}

// silences explains attempts that reached a pod and got no answer in time:
// the node still has their entry, with packets of both sides; or the pods say
// that they took more in than they answered.
func (a *attribution) silences() {
	// The client closes what it gives up, so that the entry can be closing or
	// over by the time of the look-up; it is this attempt's all the same, which
	// had connected.
	stood := foundAny(open, old)
	for _, it := range a.items {
		if it.class == unanswered && !a.behindGateway(it) && it.allow(stood) > 0 {
			a.take(it, backendSilent, it.allowed, stood)
			t := a.of(backendSilent, it)
			t.agree, t.how = stood, "the connections stood from end to end, and no answer came in time"
		}
	}
	for _, s := range a.services() {
		var accepted, served uint64
		for _, b := range a.l.backends {
			if b.Service == s.Name {
				accepted += b.Accepted
				served += b.Served
			}
		}
		if accepted <= served || s.Gateway != "" {
			continue // a gateway's silence is its backends', or the way's to them
		}
		left := accepted - served - min(accepted-served, a.silentAt(s.Name))
		for _, it := range a.items {
			if serviceOf(it.t.info.To) != s.Name || it.class != unanswered && !(it.class == silent && it.t.udp()) || left == 0 {
				continue
			}
			can := foundAny(unreplied, open, old, notLooked)
			if n := min(it.allow(can), left); n > 0 {
				a.take(it, backendSilent, n, can)
				left -= n
				t := a.of(backendSilent, it)
				t.agree |= can
				t.how = fmt.Sprintf("the pods of %s took in %d and answered %d", s.Name, accepted, served)
			}
		}
	}
}

func (a *attribution) behindGateway(it *item) bool {
	s := a.l.service(it.t.info.To)
	return s != nil && s.Gateway != ""
}

// silentAt is how many attempts to the service have been found unanswered.
func (a *attribution) silentAt(service string) uint64 {
	var n uint64
	if t := a.cause(backendSilent); t != nil {
		for name, c := range t.traffic {
			if tr := a.l.traffics[name]; tr != nil && serviceOf(tr.info.To) == service {
				n += c
			}
		}
	}
	return n
}

// doubtDrops notes drops that no failure accounts for, and contradictions.
func (a *attribution) doubtDrops() {
	for _, name := range slices.Sorted(maps.Keys(a.other)) {
		a.doubts = append(a.doubts, fmt.Sprintf("drop rose by %d on %s while the table was below its limit and nothing clashed: that is not a full table, and what it is the counters do not say", a.other[name], name))
	}
	if t := a.cause(tableFull); t != nil && !a.l.parted() {
		x := t.looked
		if n := x.total() - x.of(foundAny(noEntry, old)); n > 0 {
			a.doubts = append(a.doubts, fmt.Sprintf("%d of %d autopsies of attempts without any answer found an entry on the node while its table was dropping: that share of the failures was not put down to the table", n, x.total()))
		}
	}
	if a.l.unkept > 0 {
		a.doubts = append(a.doubts, fmt.Sprintf("%s came after the first %d and were not used", plural(a.l.unkept, "autopsy", "autopsies"), maxAutopsies))
	}
	if a.l.unjoined > 0 {
		a.doubts = append(a.doubts, fmt.Sprintf("%s belong to no recorded failure and were not used", plural(a.l.unjoined, "autopsy", "autopsies")))
	}
}

// generatorCauses are the causes of attempts that could not be started.
var generatorCauses = [...]string{generatorPorts, generatorLimit, generatorLate}

// generatorCause is the cause that the reason belongs to, empty for none:
// that it was stopped is nobody's fault.
func generatorCause(r runlog.NotStartedReason) string {
	switch r {
	case runlog.NoPorts:
		return generatorPorts
	case runlog.NoFiles, runlog.NoMemory:
		return generatorLimit
	case runlog.Behind:
		return generatorLate
	}
	return ""
}

// notStarted lists what the generator could not start.
func (l *log) notStarted() []Cause {
	var due uint64
	sums := map[string]uint64{}
	by := map[string]map[string]uint64{}
	reasons := map[string]map[runlog.NotStartedReason]uint64{}
	for _, t := range l.order {
		due += t.total.Due
		for r, n := range t.total.NotStarted {
			cause := generatorCause(r)
			if n == 0 || cause == "" {
				continue
			}
			if by[cause] == nil {
				by[cause] = map[string]uint64{}
				reasons[cause] = map[runlog.NotStartedReason]uint64{}
			}
			sums[cause] += n
			by[cause][t.info.Name] += n
			reasons[cause][r] += n
		}
	}
	out := []Cause{}
	for _, cause := range generatorCauses {
		n := sums[cause]
		if n == 0 {
			continue
		}
		c := Cause{Cause: cause, Failures: n, ShareOf: "due", Proof: Evidence{Traffic: by[cause], Nodes: map[string]uint64{}, Hosts: []string{}}}
		if due > 0 {
			c.Share = float64(n) / float64(due)
		}
		switch cause {
		case generatorPorts:
			c.Evidence = fmt.Sprintf("%s could not be started: no free source port (EADDRNOTAVAIL or EADDRINUSE); more lab.clients.addresses or service ports give more", plural(n, "due attempt"))
		case generatorLimit:
			c.Evidence = fmt.Sprintf("%s could not be started: %d for want of file descriptors, %d for want of memory", plural(n, "due attempt"), reasons[cause][runlog.NoFiles], reasons[cause][runlog.NoMemory])
		case generatorLate:
			c.Evidence = fmt.Sprintf("%s could not be started: the generator was too far behind its schedule", plural(n, "due attempt"))
		}
		out = append(out, c)
	}
	return out
}

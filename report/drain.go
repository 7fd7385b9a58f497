package report

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
)

// servedEvery is how often a server says what it has done, in s. It says
// nothing where there is nothing to say.
const servedEvery = 1.0

// drainPart is what a pod took in while it was terminating and others were
// usable, as far as whole Served records tell.
type drainPart struct {
	last   float64 // of its last Served record
	seen   bool
	pieces []drainPiece // in order
	// Where the records that are partly of another time end and begin; 0 for none.
	begun, ended float64
	gone         uint64 // served after its endpoint was removed
	known        bool   // whether its endpoint was ever seen
}

// drainPiece is one Served record of a pod that was terminating all the time.
type drainPiece struct {
	from, to float64
	accepted uint64
}

// drainTime is when a pod was terminating and not to be used any more, s; it
// ends at +Inf where the log does not say.
type drainTime struct {
	from, to float64
	addr     netip.Addr
}

type podKey struct{ service, pod string }

// addDrain notes what a Served record says of a pod that is terminating, or
// whose endpoint is gone, and of the others meanwhile.
func (l *log) addDrain(r *runlog.Record) {
	s := r.Served
	svc := l.cluster.services[s.Service]
	if svc == nil {
		return
	}
	key := podKey{s.Service, s.Backend}
	p := l.drains[key]
	if p == nil {
		p = &drainPart{}
		if l.drains == nil {
			l.drains = map[podKey]*drainPart{}
		}
		l.drains[key] = p
	}
	// Before a first record, and one after silence, there was nothing to say.
	a, b := r.T-servedEvery, r.T
	if p.seen && b-p.last < 2*servedEvery {
		a = p.last
	}
	p.last, p.seen = r.T, true
	if b <= a {
		return
	}
	for sec := int64(math.Floor(a)); float64(sec) < b; sec++ {
		part := (min(b, float64(sec+1)) - max(a, float64(sec))) / (b - a)
		svc.accepted[sec] += part * float64(s.Accepted)
	}
	listed, drains := svc.drains(s.Backend, a)
	_, still := svc.drains(s.Backend, b)
	switch {
	case drains && still:
		p.known = true
		p.pieces = append(p.pieces, drainPiece{a, b, s.Accepted})
	case listed:
		p.known = true
		switch {
		case still:
			p.begun = b
		case drains:
			p.ended = a
		}
	case p.known:
		p.gone += s.Served
	}
}

// drains says whether the pod was among the endpoints, and whether it was
// terminating and not to be used any more: the last ones are used while they
// serve.
func (s *endpointLog) drains(pod string, t float64) (listed, drains bool) {
	list := s.at(t)
	for _, e := range list {
		if e.Name == pod {
			listed, drains = true, e.Terminating
		}
	}
	for _, e := range s.inUse(list) {
		drains = drains && e.Name != pod
	}
	return listed, drains
}

// noteDraining follows which pods are terminating and not to be used any more.
func (s *endpointLog) noteDraining(t float64, list []runlog.EndpointState) {
	if s.draining == nil {
		s.draining, s.drained = map[string]*drainTime{}, map[string]*drainTime{}
	}
	now := map[string]netip.Addr{}
	for _, e := range list {
		if e.Terminating {
			now[e.Name] = e.Addr
		}
	}
	for _, e := range s.inUse(list) {
		delete(now, e.Name)
	}
	for pod, addr := range now {
		if s.draining[pod] == nil {
			d := &drainTime{from: t, to: math.Inf(1), addr: addr}
			s.draining[pod], s.drained[pod] = d, d
		}
	}
	for pod, d := range s.draining {
		if _, still := now[pod]; !still {
			d.to = t
			delete(s.draining, pod)
		}
	}
}

// drainShare fills in what a pod took in while it was terminating, and its share
// of what its service took in from when no node was programmed to give it
// anything new. What it took in before is the delay of the proxy; what after, of
// entries that go on leading to it.
func (l *log) drainShare(b *Backend) {
	p := l.drains[podKey{b.Service, b.Name}]
	if p == nil {
		return
	}
	if p.known {
		gone := p.gone
		b.ServedAfterGone = &gone
	}
	svc := l.cluster.services[b.Service]
	if svc == nil {
		return
	}
	var accepted uint64
	for _, d := range p.pieces {
		accepted += d.accepted
	}
	if len(p.pieces) > 0 {
		b.AcceptedWhileDraining = &accepted
	}
	when := svc.drained[b.Name]
	if when == nil {
		return
	}
	from, ok := l.cluster.undirectedFrom(b.Service, when)
	if !ok {
		return
	}
	took, from, to := p.between(max(from, p.begun), min(when.to, l.lastT))
	if to-from < servedEvery {
		return
	}
	if all := svc.acceptedBetween(from, to); all > 0 {
		share := min(1, float64(took)/all)
		b.DrainingShare = &share
		b.kept = l.cluster.keptAtZero(b.Service, when.addr, from, to)
	}
}

// keptAtZero are the nodes, by name, whose readings of that time all have the
// address with weight 0. IPVS gives such a one no connection of its own choice: what
// reaches it all the same found an entry of its address and port, which is of an
// earlier connection with the same source port (ip_vs_in_hook, ip_vs_core.c).
func (c *cluster) keptAtZero(service string, addr netip.Addr, from, to float64) []string {
	var out []string
	for node, planes := range c.planes {
		some, all := false, true
		for i, p := range planes {
			if p.t > to || i+1 < len(planes) && planes[i+1].t <= from {
				continue
			}
			some, all = true, all && !p.failed && p.keeps(service, addr)
		}
		if some && all {
			out = append(out, node)
		}
	}
	slices.Sort(out)
	return out
}

// keeps says whether the reading has the address with weight 0.
func (p plane) keeps(service string, addr netip.Addr) bool {
	return slices.ContainsFunc(p.services, func(s runlog.ProgrammedService) bool {
		return s.Service == service && slices.ContainsFunc(s.Backends, func(b runlog.ProgrammedBackend) bool {
			return b.Addr.Addr() == addr && b.Weight == 0
		})
	})
}

// reuse says why a pod that was given nothing new took something in; empty where
// that is not known, or it took in next to nothing.
func (b *Backend) reuse() string {
	if len(b.kept) == 0 || b.DrainingShare == nil || *b.DrainingShare < 0.01 {
		return ""
	}
	return fmt.Sprintf(", because IPVS used old entries again: %s had it with weight 0, and so gave it only connections whose source port an earlier one had had", strings.Join(b.kept, " and "))
}

// between is what the pod took in between two moments of its draining, or rather
// between those nearest to them, and inside, that its records allow.
func (p *drainPart) between(from, to float64) (took uint64, first, last float64) {
	// What a server has not said in a second, it will not say where it is killed.
	to -= servedEvery
	if p.ended > 0 {
		to = p.ended
	}
	for _, d := range p.pieces {
		switch {
		case d.to <= from:
		case d.from < from:
			from = d.to // partly of the time before: how much cannot be told
		default:
			took += d.accepted
			to = max(to, d.to)
		}
	}
	return took, from, to
}

// acceptedBetween is what all pods of the service took in, as if each second's
// had come evenly.
func (s *endpointLog) acceptedBetween(from, to float64) float64 {
	var all float64
	for sec := int64(math.Floor(from)); float64(sec) < to; sec++ {
		part := min(to, float64(sec+1)) - max(from, float64(sec))
		all += part * s.accepted[sec]
	}
	return all
}

// undirectedFrom is the first moment of a pod's draining from which readings show
// that no node was programmed to give it new connections; ok is false where there
// was none. Without any readings the endpoints are all there is to go by.
func (c *cluster) undirectedFrom(service string, when *drainTime) (from float64, ok bool) {
	from = when.from
	for _, planes := range c.planes {
		i := sort.Search(len(planes), func(i int) bool { return planes[i].t > when.from })
		i = max(0, i-1) // the reading that holds then
		for i < len(planes) && (planes[i].failed || planes[i].directs(service, when.addr)) {
			i++
		}
		if i == len(planes) || planes[i].t >= when.to {
			return 0, false
		}
		from = max(from, planes[i].t)
	}
	return from, true
}

// directs says whether the reading shows new connections going to the address:
// those of IPVS that are drained have weight 0.
func (p plane) directs(service string, addr netip.Addr) bool {
	return slices.ContainsFunc(p.services, func(s runlog.ProgrammedService) bool {
		return s.Service == service && slices.ContainsFunc(s.Backends, func(b runlog.ProgrammedBackend) bool {
			return b.Addr.Addr() == addr && b.Weight > 0
		})
	})
}

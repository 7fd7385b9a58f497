package report

import (
	"math"

	"github.com/tablefull/tablefull/report/runlog"
)

// servedEvery is how often a server says what it has done, in s. It says
// nothing where there is nothing to say.
const servedEvery = 1.0

// drainPart is what a pod took in while it was terminating and others were
// usable, as far as whole Served records tell.
type drainPart struct {
	last     float64 // of its last Served record
	seen     bool
	from, to float64
	accepted float64
	gone     uint64 // served after its endpoint was removed
	known    bool   // whether its endpoint was ever seen
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
		p = &drainPart{from: math.Inf(1)}
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
		p.from, p.to = min(p.from, a), b
		p.accepted += float64(s.Accepted)
	case listed:
		p.known = true
	case p.known:
		p.gone += s.Served
	}
}

// drains says whether the pod was among the endpoints, and whether it was
// terminating and not to be used any more: the last ones are used while they
// serve (KEP-1669).
func (s *endpointLog) drains(pod string, t float64) (listed, drains bool) {
	list := s.at(t)
	for _, e := range list {
		if e.Name == pod {
			listed, drains = true, e.Terminating
		}
	}
	for _, e := range runlog.Usable(list) {
		drains = drains && e.Name != pod
	}
	return listed, drains
}

// drainShare fills in what a pod took in while it was terminating.
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
	if p.to <= p.from || svc == nil {
		return
	}
	n := uint64(p.accepted)
	b.AcceptedWhileDraining = &n
	var all float64
	for sec := int64(math.Floor(p.from)); float64(sec) < p.to; sec++ {
		part := min(p.to, float64(sec+1)) - max(p.from, float64(sec))
		all += part * svc.accepted[sec]
	}
	if all > 0 {
		share := min(1, p.accepted/all)
		b.DrainingShare = &share
	}
}

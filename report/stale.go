package report

import (
	"fmt"
	"net/netip"
	"slices"
)

// maxStale is how many stale backends are listed one by one; all count.
const maxStale = 20

// staleOf compares what a node was programmed with with what the API server
// had: nil where one of them is not in the log. Until a reading shows a change,
// the one before holds; so a length of time is known to one interval between
// readings.
func (l *log) staleOf(node string) *Stale {
	planes := l.cluster.planes[node]
	if len(planes) == 0 || len(l.cluster.services) == 0 {
		return nil
	}
	w := &staleWatch{l: l, out: &Stale{Backends: []StaleBackend{}}, open: map[staleKey]*StaleBackend{}}
	for i, p := range planes {
		w.compare(p)
		// Endpoints may change while the dataplane does not.
		until := max(l.lastT, p.t)
		if i+1 < len(planes) {
			until = planes[i+1].t
		}
		for _, t := range l.changesBetween(p.t, until) {
			w.compare(plane{t, p.services})
		}
	}
	w.finish(l.lastT)
	return w.out
}

// changesBetween are the times at which any endpoints changed, after a and
// before b, in order.
func (l *log) changesBetween(a, b float64) []float64 {
	var out []float64
	for _, s := range l.cluster.services {
		i, _ := slices.BinarySearch(s.t, a)
		for ; i < len(s.t) && s.t[i] < b; i++ {
			if s.t[i] > a {
				out = append(out, s.t[i])
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

type staleKey struct {
	service string
	addr    netip.Addr
	what    string
}

// staleWatch follows differences over time.
type staleWatch struct {
	l    *log
	out  *Stale
	open map[staleKey]*StaleBackend
}

// compare notes what differs at a moment and what does no longer.
func (w *staleWatch) compare(p plane) {
	now := map[staleKey]bool{}
	var stale uint64
	for _, s := range p.services {
		want := w.l.cluster.services[s.Service]
		if want == nil || p.t < want.t[0] {
			continue
		}
		programmed := map[netip.Addr]bool{}
		for _, b := range s.Backends {
			a := b.Addr.Addr()
			switch {
			case b.Weight == 0:
				now[staleKey{s.Service, a, "draining"}] = true
				continue
			case w.l.roleOf(s.Service, a, p.t) != usable:
				now[staleKey{s.Service, a, "stale"}] = true
				stale++
			}
			programmed[a] = true
		}
		for _, e := range usableOf(want.at(p.t)) {
			if !programmed[e.Addr] {
				now[staleKey{s.Service, e.Addr, "missing"}] = true
			}
		}
	}
	w.out.MaxBackends = max(w.out.MaxBackends, stale)
	for k := range now {
		if w.open[k] == nil {
			w.open[k] = &StaleBackend{
				Service: k.service, Addr: k.addr.String(), What: k.what, FromS: p.t,
				Pod: w.l.cluster.services[k.service].nameOf(k.addr, p.t),
			}
		}
	}
	for k, b := range w.open {
		if !now[k] {
			w.close(b, p.t, true)
			delete(w.open, k)
		}
	}
}

func (w *staleWatch) close(b *StaleBackend, t float64, ended bool) {
	b.ToS, b.Ended = t, ended
	switch b.What {
	case "stale":
		w.out.MaxS = max(w.out.MaxS, t-b.FromS)
	case "missing":
		w.out.MaxMissingS = max(w.out.MaxMissingS, t-b.FromS)
	case "draining":
		w.out.MaxDrainingS = max(w.out.MaxDrainingS, t-b.FromS)
	}
	w.out.Backends = append(w.out.Backends, *b)
}

// finish closes what is still open and puts the longest first.
func (w *staleWatch) finish(t float64) {
	for _, b := range w.open {
		w.close(b, max(t, b.FromS), false)
	}
	slices.SortFunc(w.out.Backends, func(a, b StaleBackend) int {
		switch x, y := a.ToS-a.FromS, b.ToS-b.FromS; {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return compareText(a.What+a.Service+a.Addr+fmt.Sprint(a.FromS), b.What+b.Service+b.Addr+fmt.Sprint(b.FromS))
	})
	if n := len(w.out.Backends); n > maxStale {
		w.out.Other = uint64(n - maxStale)
		w.out.Backends = w.out.Backends[:maxStale]
	}
}

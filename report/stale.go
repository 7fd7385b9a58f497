package report

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
)

// maxStale is how many stale backends are listed one by one; all count.
const maxStale = 20

// staleOf compares what a node was programmed with with what the API server
// had: nil where one of them is not in the log. Until a reading shows a change,
// the one before holds; so a length of time can be too long by one interval
// between readings, and is never too short by more than what no reading saw.
func (l *log) staleOf(node string) *Stale {
	planes := l.cluster.planes[node]
	if len(planes) == 0 || len(l.cluster.services) == 0 {
		return nil
	}
	w := &staleWatch{l: l, node: node, out: &Stale{Backends: []StaleBackend{}}, open: map[staleKey]*StaleBackend{}}
	read := false
	// What comes after the last attempt, such as a cluster that is put back, is logged
	// for as long as it takes, and not read.
	end := l.lastT
	if l.drained > 0 {
		end = min(end, l.drained)
	}
	for i, p := range planes {
		next := max(l.lastT, p.t)
		if i+1 < len(planes) {
			next = planes[i+1].t
		}
		until := min(next, p.seen+heldReading)
		if p.failed {
			until = p.t
		} else {
			read = true
			w.seen = p.before
			w.compare(p.t, p.services)
			w.seen = p.t
			// Endpoints may change while the dataplane does not.
			for _, t := range l.changesBetween(p.t, until) {
				w.seen = t // it holds until another is read
				w.compare(t, p.services)
			}
		}
		if until < next {
			w.seen = p.seen
			w.leave(until)
			w.out.UnreadS += max(0, min(next, end)-until)
		}
	}
	if !read {
		return nil
	}
	w.seen = max(planes[len(planes)-1].seen, l.lastT)
	w.leave(l.lastT)
	if w.out.MaxMissingS > 0 && !programs(planes) && l.succeeded() {
		// Whatever carried those attempts, no reading has seen it: to call its
		// backends missing, or none of them stale, would be a guess.
		l.cluster.failures[node] = "no reading showed a single backend, although attempts reached some: it is programmed in a way that is not read"
		return nil
	}
	w.sort()
	w.out.quiet = l.leftPods()
	return w.out
}

// leftPods says whether nothing happened that a dataplane could have been behind with:
// no change of endpoints, and no action to pods or proxies.
func (l *log) leftPods() bool {
	table := []string{"ballast", "flush", "set_sysctl"}
	if l.header != nil && l.header.Target == "lab" { // on a cluster that starts kube-proxies anew
		table = append(table, "conntrack_settings")
	}
	return len(l.changesBetween(0, math.Inf(1))) == 0 && !slices.ContainsFunc(l.cluster.acts, func(a *act) bool { return !slices.Contains(table, a.kind) })
}

// programs says whether any reading shows a backend.
func programs(planes []plane) bool {
	return slices.ContainsFunc(planes, func(p plane) bool {
		return slices.ContainsFunc(p.services, func(s runlog.ProgrammedService) bool { return len(s.Backends) > 0 })
	})
}

// succeeded says whether any attempt did.
func (l *log) succeeded() bool {
	return slices.ContainsFunc(l.order, func(t *traffic) bool { return t.total.Outcomes[runlog.OK] > 0 })
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
	node string
	out  *Stale
	open map[staleKey]*StaleBackend
	seen float64 // of the last reading that showed what was before
}

// compare notes what differs at a moment and what does no longer.
func (w *staleWatch) compare(t float64, programmed []runlog.ProgrammedService) {
	now := map[staleKey]bool{}
	used := map[staleKey]bool{} // whatever port leads there
	for _, s := range programmed {
		want := w.l.cluster.services[s.Service]
		if want == nil || t < want.t[0] {
			continue
		}
		for _, b := range s.Backends {
			a := b.Addr.Addr()
			switch {
			case b.Weight == 0:
				now[staleKey{s.Service, a, "draining"}] = true
				continue
			case w.l.roleOf(s.Service, "", a, t) != usable:
				now[staleKey{s.Service, a, "stale"}] = true
			}
			used[staleKey{service: s.Service, addr: a}] = true
		}
	}
	for _, s := range programmed {
		want := w.l.cluster.services[s.Service]
		if want == nil || t < want.t[0] {
			continue
		}
		for _, e := range runlog.Usable(want.at(t)) {
			if !used[staleKey{service: s.Service, addr: e.Addr}] {
				now[staleKey{s.Service, e.Addr, "missing"}] = true
			}
		}
	}
	w.note(t, now)
}

// note opens what differs now and closes what does no longer.
func (w *staleWatch) note(t float64, now map[staleKey]bool) {
	var stale uint64
	for k := range now {
		if k.what == "stale" {
			stale++
		}
		if w.open[k] == nil {
			w.open[k] = &StaleBackend{
				Service: k.service, Addr: k.addr.String(), What: k.what, FromS: t,
				Pod: w.l.cluster.services[k.service].nameOf(k.addr, t),
			}
		}
	}
	w.out.MaxBackends = max(w.out.MaxBackends, stale)
	for k, b := range w.open {
		if !now[k] {
			w.close(b, t, true)
			delete(w.open, k)
		}
	}
}

func (w *staleWatch) close(b *StaleBackend, t float64, ended bool) {
	b.ToS, b.Ended, b.SeenS = t, ended, min(t, max(b.FromS, w.seen))
	if b.by = t; ended {
		b.by = w.l.overBy(w.node, b)
	}
	switch b.What {
	case "stale":
		w.out.MaxS = max(w.out.MaxS, t-b.FromS)
	case "missing":
		w.out.MaxMissingS = max(w.out.MaxMissingS, t-b.FromS)
	case "draining":
		w.out.MaxDrainingS = max(w.out.MaxDrainingS, t-b.FromS)
	}
	w.out.Backends = append(w.out.Backends, *b)
	if len(w.out.Backends) >= 50*maxStale {
		w.sort() // a soak's are many
	}
}

// overBy is when the difference was over at the latest: in the first reading that
// shows it no more, or before, where the proxy says that it had programmed so by then.
func (l *log) overBy(node string, b *StaleBackend) float64 {
	syncs := l.cluster.syncs[node]
	first := sort.Search(len(syncs), func(i int) bool { return syncs[i].t >= b.SeenS })
	for _, s := range syncs[first:] {
		if s.t >= b.ToS {
			break
		}
		// Only what names pods as endpoints do says anything.
		names, known := strings.Fields(s.pods[b.Service]), map[string]bool{}
		for _, e := range l.cluster.services[b.Service].at(s.t) {
			known[e.Name] = true
		}
		if !slices.ContainsFunc(names, func(n string) bool { return !known[n] }) && slices.Contains(names, b.Pod) == (b.What == "missing") {
			return s.t
		}
	}
	return b.ToS
}

// span is for how long it was so, in s, at least and at most.
func (b *StaleBackend) span() (least, most float64) {
	return max(0, b.SeenS-b.FromS), max(0, b.over()-b.FromS)
}

func (b *StaleBackend) over() float64 {
	if b.by > 0 {
		return b.by
	}
	return b.ToS
}

// Longest is for how long one of the backends took new connections and should not
// have, as exactly as readings and the proxy tell.
func (s *Stale) Longest() string { return within(s.longest()) }

func (s *Stale) longest() (least, most float64) { return s.longestOf("stale", s.MaxS) }

// LongestMissing is for how long a usable endpoint was not programmed, as exactly.
func (s *Stale) LongestMissing() string { return within(s.longestOf("missing", s.MaxMissingS)) }

// longestOf is the longest of the listed backends of a kind, and at most what
// readings alone say where not all are listed.
func (s *Stale) longestOf(what string, read float64) (least, most float64) {
	for i := range s.Backends {
		if b := &s.Backends[i]; b.What == what {
			x, y := b.span()
			least, most = max(least, x), max(most, y)
		}
	}
	if most == 0 || s.Other > 0 {
		most = read
	}
	return least, most
}

// within is a length of time that is known between bounds.
func within(least, most float64) string {
	switch x, y := stretch(least), stretch(most); {
	case x == y:
		return y
	case least < 0.0005:
		return "at most " + y
	default:
		return x + " to " + y
	}
}

// leave closes what is still open at a moment after which nothing is known.
func (w *staleWatch) leave(t float64) {
	for k, b := range w.open {
		w.close(b, max(t, b.FromS), false)
		delete(w.open, k)
	}
}

// sort puts stale ones first, then the longest, and keeps those that are listed.
func (w *staleWatch) sort() {
	slices.SortFunc(w.out.Backends, func(a, b StaleBackend) int {
		return cmp.Or(
			boolOrder(a.What != "stale", b.What != "stale"), cmp.Compare(b.ToS-b.FromS, a.ToS-a.FromS), cmp.Compare(a.FromS, b.FromS),
			cmp.Compare(a.Service, b.Service), cmp.Compare(a.Addr, b.Addr), cmp.Compare(a.What, b.What),
		)
	})
	if n := len(w.out.Backends); n > maxStale {
		w.out.Other += uint64(n - maxStale)
		w.out.Backends = w.out.Backends[:maxStale]
	}
}

// staleDoubt says that a node's dataplane was not read all the time.
func (l *log) staleDoubt(f *Findings, node string) string {
	for i := range f.Nodes {
		if n := &f.Nodes[i]; n.Name == node && n.Stale != nil && n.Stale.UnreadS > 0.05 {
			return fmt.Sprintf("%s's dataplane was not read for %s: what it was programmed with then is unknown (%s)", node, seconds(n.Stale.UnreadS), cmpOr(l.cluster.failures[node], "there is no reading"))
		}
	}
	return ""
}

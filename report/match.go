package report

import (
	"cmp"
	"container/heap"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
)

// slop absorbs the rounding of sums of fractions of packets.
const slop = 1e-6

// A supply is a number of packets that a counter says were lost in [a, b].
type supply struct {
	a, b float64
	host string
	left float64
	all  float64 // what left was, where a part was taken away for others; 0 where none was
	kind int     // index of the cause it is evidence of, see settle
}

// kinds is how many causes can be matched at once.
const kinds = 4

// A demand is a number of packets that attempts of one item lost in [a, b].
type demand struct {
	a, b   float64
	item   *item
	round  int // 0 for the attempts' first packets, 1 for the first retransmission, ...
	want   float64
	got    float64
	by     [kinds]float64 // got, by the kind of supply
	weight float64        // offered connections of its traffic in the interval
}

// An item is the attempts of one traffic that entered by one node, were due in
// one bin and failed in one way.
type item struct {
	t       *traffic
	lane    *lane
	key     int64
	outcome runlog.Outcome
	class   class
	n       uint64 // attempts
	left    uint64 // without a cause so far
	// by is left, divided by what autopsies found: an extrapolation from
	// those attempts that were looked up.
	by      [findings]uint64
	allowed uint64  // of left: what the current rule may take, which is
	mask    found   // attempts that have, or may have, one of these findings
	packets uint64  // lost by all n
	late    bool    // some were started late
	lates   uint64  // how many
	bad     *badBin // of its bin
	misled  bool    // autopsies of its like found entries that lead astray
}

// allow sets how many of the item's attempts a rule may take that can be true
// only of attempts of which an autopsy would find one of possible.
func (it *item) allow(possible found) uint64 {
	it.allowed, it.mask = 0, possible
	for f, n := range it.by {
		if possible.has(finding(f)) {
			it.allowed += n
		}
	}
	return it.allowed
}

// use takes n of the allowed attempts away.
func (it *item) use(n uint64, possible found) uint64 {
	n = min(n, it.left)
	rest := n
	for f := range it.by {
		if possible.has(finding(f)) {
			d := min(rest, it.by[f])
			it.by[f] -= d
			rest -= d
		}
	}
	it.left -= n - rest
	return n - rest
}

func (it *item) start() float64 { return it.t.start(it.key) }
func (it *item) end() float64   { return it.t.start(it.key) + it.t.width }

// lateness is how much later than due a late attempt's packets are looked for, s.
const lateness = 1.0

// A group is the demands of one moment, of one or several traffics. They share
// what they get by weight.
type group struct {
	lo, hi  float64 // when its packets can have been counted
	demands []demand
	want    float64 // not yet given
	by      [kinds]float64
}

func (g *group) take(s *supply) {
	n := min(s.left, g.want)
	s.left -= n
	g.want -= n
	g.by[s.kind] += n
}

// groups is a heap: the group that must be served first is on top.
type groups []*group

func (h groups) Len() int           { return len(h) }
func (h groups) Less(i, j int) bool { return h[i].hi < h[j].hi }
func (h groups) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *groups) Push(x any)        { *h = append(*h, x.(*group)) }
func (h *groups) Pop() any {
	old := *h
	g := old[len(old)-1]
	*h = old[:len(old)-1]
	return g
}

// match gives the demands as much as the supplies allow: each supply, in order
// of time, goes to those demands that can use it and can wait least for
// another (Glover's matching in a convex bipartite graph). Both are changed.
// It returns the hosts that gave, by kind, and whether demands had to share
// less than they wanted.
func match(supplies []supply, demands []demand, slack float64) (hosts [kinds]map[string]bool, short bool) {
	hosts = [kinds]map[string]bool{{}, {}, {}, {}}
	slices.SortStableFunc(supplies, func(x, y supply) int { return cmp.Or(cmp.Compare(x.b, y.b), cmp.Compare(x.a, y.a)) })
	slices.SortStableFunc(demands, func(x, y demand) int { return cmp.Or(cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b)) })
	all := groupUp(demands, slack)
	var waiting groups
	var missed []*group
	next := 0
	for i := range supplies {
		s := &supplies[i]
		for ; next < len(all) && all[next].lo <= s.b; next++ {
			heap.Push(&waiting, all[next])
		}
		for len(waiting) > 0 && s.left > slop {
			g := waiting[0]
			if g.hi < s.a {
				// Another host's interval can still reach back to it.
				missed = append(missed, heap.Pop(&waiting).(*group))
				continue
			}
			if g.take(s); g.want <= slop {
				heap.Pop(&waiting)
			}
			hosts[s.kind][s.host] = true
		}
	}
	for _, g := range missed {
		for i := range supplies {
			if s := &supplies[i]; s.left > slop && g.want > slop && s.a <= g.hi && s.b >= g.lo {
				g.take(s)
				hosts[s.kind][s.host] = true
			}
		}
	}
	for _, g := range all {
		short = g.share() || short
	}
	return hosts, short
}

func groupUp(demands []demand, slack float64) []*group {
	var all []*group
	for i := 0; i < len(demands); {
		j := i + 1
		for j < len(demands) && demands[j].a == demands[i].a && demands[j].b == demands[i].b {
			j++
		}
		g := &group{lo: demands[i].a - slack, hi: demands[i].b + slack, demands: demands[i:j]}
		for _, d := range g.demands {
			g.want += d.want
		}
		all = append(all, g)
		i = j
	}
	return all
}

// share hands out what the group got, and says whether several had to do with
// less than they wanted.
func (g *group) share() (short bool) {
	var got float64
	for _, n := range g.by {
		got += n
	}
	if got <= slop {
		return false
	}
	share(g.demands, got)
	for i := range g.demands {
		for k, n := range g.by {
			g.demands[i].by[k] = g.demands[i].got * n / got
		}
	}
	return len(g.demands) > 1 && g.want > slop
}

// share hands got out among the demands: by weight, and never more than wanted.
func share(group []demand, got float64) {
	// Each round satisfies at least one demand, or gives everything away.
	for range group {
		if got <= slop {
			return
		}
		var weight float64
		for _, d := range group {
			if d.want-d.got > slop {
				weight += max(d.weight, 1e-9)
			}
		}
		if weight == 0 {
			return
		}
		var given float64
		for i := range group {
			d := &group[i]
			if d.want-d.got <= slop {
				continue
			}
			n := min(d.want-d.got, got*max(d.weight, 1e-9)/weight)
			d.got += n
			given += n
		}
		got -= given
	}
}

// demandsOf makes the demands of an item that lost packets without any answer.
// An attempt sends its first packet when it starts, and TCP's retransmissions
// follow at the kernel's intervals. A datagram is never sent again: several
// lost packets per attempt were sent together.
func (it *item) demandsOf(retries []float64, weight float64) []demand {
	a, b := it.start(), it.end()
	if it.late {
		b += lateness
	}
	n, packets := float64(it.allowed), float64(it.packets)*float64(it.allowed)/float64(it.n)
	if it.t.udp() || it.t.info.Shape == "flood" {
		return []demand{{a: a, b: b, item: it, want: max(n, packets), weight: weight}}
	}
	if packets <= 0 {
		packets = n * float64(tries(it.t.info.Timeout, retries))
	}
	packets = max(packets, n)
	var out []demand
	for r := 0; packets > slop; r++ {
		want := min(n, packets)
		if r == len(retries)-1 {
			want = packets
		}
		out = append(out, demand{a: a + retries[r], b: b + retries[r], item: it, round: r, want: want, weight: weight})
		if packets -= want; r == len(retries)-1 {
			break
		}
	}
	return out
}

// explained is how many of the item's allowed attempts the demands explain:
// all packets of an attempt must be, because one that arrived would have saved it.
func explained(demands []demand) float64 {
	if len(demands) == 0 {
		return 0
	}
	n := float64(demands[0].item.allowed)
	if len(demands) == 1 {
		return n * demands[0].got / demands[0].want
	}
	whole := n
	for _, d := range demands {
		// Only d.want of the n attempts got that far; the others need nothing
		// of this round.
		whole = min(whole, n-(d.want-d.got))
	}
	return max(0, whole)
}

// synRetries are the times in s after the first at which Linux sends a SYN
// again, the first included. Since 6.5 the first four intervals are linear
// (net.ipv4.tcp_syn_linear_timeouts).
func synRetries(kernel string) []float64 {
	if atLeast(kernel, 6, 5) {
		return []float64{0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67}
	}
	return []float64{0, 1, 3, 7, 15, 31, 63}
}

// atLeast compares a release such as 6.18.44-amd64. One that cannot be read is
// taken for a current one.
func atLeast(release string, major, minor int) bool {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return true
	}
	x, errX := strconv.Atoi(parts[0])
	y, errY := strconv.Atoi(strings.TrimRight(parts[1], "-+abcdefghijklmnopqrstuvwxyz"))
	if errX != nil || errY != nil {
		return true
	}
	return x > major || x == major && y >= minor
}

// tries is how many SYNs an attempt sends within its timeout in s.
func tries(timeout float64, retries []float64) int {
	n := 0
	for _, at := range retries {
		if at < timeout || at == 0 {
			n++
		}
	}
	return n
}

// A portion deals out a share of whole numbers so that the sum is right:
// rounding errors are carried on.
type portion struct{ carry float64 }

func (p *portion) of(n uint64, share float64) uint64 {
	x := float64(n)*share + p.carry
	// x is close to a whole number where share is exact.
	whole := math.Floor(x + slop)
	if whole < 0 {
		whole = 0
	}
	if whole > float64(n) {
		whole = float64(n)
	}
	p.carry = x - whole
	if p.carry > 1 || p.carry < -1 {
		p.carry = 0
	}
	return uint64(whole)
}

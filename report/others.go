package report

import (
	"math"
	"net/netip"
	"slices"

	"github.com/tablefull/tablefull/report/runlog"
)

// others is how many entries of a node's table are neither ballast nor of
// connections to the run's services, by the walks over it: in the last one
// before traffic, or the first one of all, and from then on. On a node that
// others use, too, they come and go.
type others struct {
	walks              uint64
	start, least, most uint64
}

// grew and shrank are by how many entries at most.
func (o others) grew() uint64   { return o.most - o.start }
func (o others) shrank() uint64 { return o.start - o.least }

// lateWalk is how long after the run, in s, a walk still says what was there at
// its end, where no other does: entries of connections that have ended stay.
const lateWalk = 10

func (l *log) addOthers(n *node, t float64, c *runlog.Census) {
	if l.header == nil {
		return
	}
	if after := t - c.Took - l.header.Duration; l.header.Duration > 0 && after > 0 && (after > lateWalk || n.others.walks != 1) {
		return // it began after the run
	}
	ours := c.Ballast
	for _, g := range c.Groups {
		if l.isOurs(g.Service) || l.isOurs(g.Backend) {
			ours += g.Count
		}
	}
	v := c.Entries - min(c.Entries, ours)
	if o := &n.others; o.walks == 0 || t <= 0 {
		*o = others{walks: 1, start: v, least: v, most: v}
	} else {
		o.walks++
		o.least, o.most = min(o.least, v), max(o.most, v)
	}
}

// isOurs says whether it is the address of a service of the run, or of a pod
// behind one.
func (l *log) isOurs(addr netip.AddrPort) bool {
	return slices.ContainsFunc(l.header.Services, func(s runlog.ServiceInfo) bool { return isOf(s, addr) })
}

// isOf says whether it is the address of that service, or of a pod behind it.
func isOf(s runlog.ServiceInfo, addr netip.AddrPort) bool {
	return s.Addr == addr || slices.ContainsFunc(s.Backends, func(b runlog.BackendInfo) bool { return b.Addr == addr })
}

// needsAtOnce is how many entries the attempts that were due need of the node
// at once at most; nil where that cannot be computed.
func (l *log) needsAtOnce(n *node) *uint64 {
	need := l.need(n.name)
	if n.atStart == nil || len(need.parts) == 0 || len(need.unknown) > 0 {
		return nil
	}
	_, _, peak := need.reaches(func(float64) float64 { return math.Inf(1) }, nil)
	v := uint64(math.Ceil(peak - slop))
	return &v
}

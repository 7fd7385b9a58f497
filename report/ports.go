package report

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/tablefull/tablefull/report/runlog"
)

// A masqueraded connection needs a source port that no other connection to the
// same pod address and port has. The kernel tries up to 248 of them (fewer
// where there are fewer) and gives up with a taken one, whose packet is then
// dropped when its entry is confirmed: insert_failed and drop. (nf_nat_core.c,
// nf_nat_l4proto_unique_tuple: 128 + 64 + 32 + 16 + 8 tries in windows of
// consecutive ports; nf_conntrack_core.c, __nf_conntrack_confirm.)
//
// portsShort is from which share of taken ports on a clash is put down to their
// want. With a share p taken the search fails with p to the power of 248: below
// 1e-11 at 0.9, 8 % at 0.99. So a clash below it is none of a search that failed.
const portsShort = 0.9

// portUse is what one walk found: the most connections to one pod address and
// port, each of which has one of the ports.
type portUse struct {
	t       float64
	backend netip.AddrPort
	taken   uint64
	entries uint64 // of the whole table, in the sample before
}

// destination is whom connections share source ports towards.
type destination struct {
	proto string
	addr  netip.AddrPort
}

// addPorts keeps the fullest destination of a walk, where clients are masqueraded.
func (l *log) addPorts(n *node, t float64, c *runlog.Census) {
	if l.masquerade() == nil || c.Failed != "" {
		return
	}
	sums := map[destination]uint64{}
	for _, g := range c.Groups {
		if g.Backend != g.Service && g.Backend.IsValid() && !l.podsConnect(g.Service) {
			sums[destination{g.Proto, g.Backend}] += g.Count
		}
	}
	most := portUse{t: t}
	if n.last != nil {
		most.entries = n.last.entries
	}
	for d, count := range sums {
		if count > most.taken || count == most.taken && cmp.Compare(d.addr.String(), most.backend.String()) < 0 {
			most.backend, most.taken = d.addr, count
		}
	}
	n.ports = append(n.ports, most)
}

// podsConnect says whether pods, whose address is not rewritten, connect to the
// service too.
func (l *log) podsConnect(addr netip.AddrPort) bool {
	for i := range l.header.Services {
		for j := range l.header.Services {
			s := &l.header.Services[j]
			if l.header.Services[i].Gateway == s.Name && s.Addr.Addr() == addr.Addr() {
				return true
			}
		}
	}
	return false
}

// masquerade is the source ports of masquerading, nil where clients are not
// masqueraded.
func (l *log) masquerade() *runlog.PortRange {
	if l.header == nil {
		return nil
	}
	return l.header.Masquerade
}

// portsTaken is the share of the source ports that were taken towards the
// fullest destination at the sample; 0 where no walk says. Between two walks the
// ports grew as the table did.
func (n *node) portsTaken(ports *runlog.PortRange, at tableSample) float64 {
	if ports == nil || len(n.ports) == 0 {
		return 0
	}
	i, _ := slices.BinarySearchFunc(n.ports, at.t, func(u portUse, t float64) int { return cmp.Compare(u.t, t) })
	taken := 0.0
	switch {
	case i == 0:
		taken = float64(n.ports[0].taken)
	case i == len(n.ports):
		taken = float64(n.ports[i-1].taken)
	default:
		a, b := n.ports[i-1], n.ports[i]
		part := (at.t - a.t) / (b.t - a.t)
		if b.entries > a.entries {
			part = min(1, max(0, (float64(at.entries)-float64(a.entries))/float64(b.entries-a.entries)))
		}
		taken = float64(a.taken) + (float64(b.taken)-float64(a.taken))*part
	}
	return taken / float64(ports.Count())
}

// portFinding is the most source ports that were taken towards one destination.
func (n *node) portFinding(ports *runlog.PortRange) *Ports {
	if ports == nil || len(n.ports) == 0 {
		return nil
	}
	most := n.ports[0]
	for _, u := range n.ports {
		if u.taken > most.taken {
			most = u
		}
	}
	f := &Ports{From: int(ports.From), To: int(ports.To), Count: ports.Count(), MostTaken: most.taken, AtS: most.t}
	if most.taken > 0 {
		f.Backend = most.backend.String()
	}
	for iv := range n.rows.intervals() {
		if iv.clashes() > 0 && n.portsTaken(ports, iv.b) >= portsShort {
			f.first = n.portsTakenAtMost(ports, iv.b)
			break
		}
	}
	return f
}

// portsTakenAtMost is how many source ports can have been taken towards the
// fullest destination at the sample: what the walk before found, and one for each
// entry that has come since. Whose these were, only the next walk tells.
func (n *node) portsTakenAtMost(ports *runlog.PortRange, at tableSample) uint64 {
	i, _ := slices.BinarySearchFunc(n.ports, at.t, func(u portUse, t float64) int { return cmp.Compare(u.t, t) })
	if i == 0 {
		return ports.Count()
	}
	before := n.ports[i-1]
	return min(ports.Count(), before.taken+at.entries-min(at.entries, before.entries))
}

// portsText is like: masquerading has 1000 source ports (1024-2023) for the
// connections to each pod address and port, and up to 1000 to 10.244.0.2:8080 had one.
func portsText(p *Ports) string {
	return fmt.Sprintf("masquerading has %s (%d-%d) for the connections to each pod address and port, and up to %d to %s had one",
		plural(p.Count, "source port"), p.From, p.To, p.MostTaken, p.Backend)
}

// portsOn is portsText of those nodes.
func (a *attribution) portsOn(hosts map[string]bool) (parts []string) {
	for _, n := range a.l.nodeList {
		if p := n.portFinding(a.l.masquerade()); hosts[n.name] && p != nil {
			parts = append(parts, portsText(p))
		}
	}
	return parts
}

// early says how many ports can have been taken when the kernel first found none,
// where that was before all were: it does not try each of them.
func (p *Ports) early() string {
	if p.first == 0 || p.first >= p.Count {
		return ""
	}
	return fmt.Sprintf("at most %d of %d source ports taken", p.first, p.Count)
}

// portsHeadline says what ran out.
func portsHeadline(n *Node, failed uint64) string {
	p, first := n.Ports, ""
	if s := p.early(); s != "" {
		first = ", the first of them with " + s + ": the kernel tries at most 248"
	}
	return fmt.Sprintf("%s ran out of source ports, not of table entries: masquerading has %d of them per pod address and port, and %s found none%s. The walk over the table at %s met %d connections to %s with one each. The table was at most %s full",
		n.Name, p.Count, plural(failed, "attempt"), first, seconds(p.AtS), p.MostTaken, p.Backend, fullness(n))
}

func portsAdvice(n *Node) advice {
	p := n.Ports
	a := advice{
		Do: "Not the limit: give masquerading more source ports, or the service more pods, or do not masquerade.",
		Why: []string{
			fmt.Sprintf("Each pod address and port has its own set of %d source ports (%d-%d) on a node: that is how many connections the node can hold to it. %s had %d.", p.Count, p.From, p.To, p.Backend, p.MostTaken),
			"With twice the pods, or clients that enter by twice the nodes, it is twice as many. More addresses of a node are no help by themselves: masquerading takes that of the outgoing interface, and a pool needs a rule (SNAT) of its own. Connections that are closed sooner, or kept alive and used again, need fewer.",
			"kube-proxy masquerades what comes from outside the pod network (detectLocalMode, clusterCIDR), or all with masqueradeAll; what comes by a node port it does not with externalTrafficPolicy: Local.",
		},
	}
	if p.From != 1024 || p.To != 65535 {
		a.Why = append(a.Why, "That range is a setting of this run. The kernel's own is 1024-65535, and kube-proxy has no option for it.")
	}
	return a
}

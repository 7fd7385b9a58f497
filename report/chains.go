package report

import "fmt"

// Linux since 5.15 refuses a new entry where one of its two hash chains has
// more than chainLimit entries, plus a random number below 30 (nf_conntrack_core.c:
// MIN_CHAINLEN, MAX_CHAINLEN).
const chainLimit = 50

// bucketShare is the share of the limit that kube-proxy sees to: its full table
// has chains of 8 on average, far from the limit.
const bucketShare = 4

// chain is the average length of a hash chain at the node's fullest: each entry
// is in two. 0 is unknown. Entries of other network namespaces come on top.
func chain(f *Findings, n *Node) float64 {
	if n.PeakEntries == nil || f.Environment.Buckets == 0 {
		return 0
	}
	return 2 * float64(*n.PeakEntries) / float64(f.Environment.Buckets)
}

// chainsText says what the entries and the buckets make of each other.
func chainsText(entries, buckets uint64) string {
	return fmt.Sprintf("at most %d entries in %d hash buckets, and each is in two: chains of %.0f on average, where the kernel takes no new entry into one of more than %d to %d",
		entries, buckets, 2*float64(entries)/float64(buckets), chainLimit, chainLimit+29)
}

// chainsOn is chainsText of those nodes.
func (a *attribution) chainsOn(hosts map[string]bool) (parts []string) {
	for _, n := range a.l.nodeList {
		if h := a.l.header; hosts[n.name] && h != nil && h.Buckets > 0 {
			parts = append(parts, chainsText(n.peak, h.Buckets))
		}
	}
	return parts
}

// chainsHeadline says what was too small.
func chainsHeadline(f *Findings, n *Node, failed uint64) string {
	s := fmt.Sprintf("%s has too few hash buckets, not too small a table: it refused new connections while at most %s full", n.Name, fullness(n))
	if f.Environment.Buckets > 0 && n.PeakEntries != nil {
		s += fmt.Sprintf(", because %d entries in %d buckets make chains of %.0f, and the kernel stops at 50 to 79", *n.PeakEntries, f.Environment.Buckets, chain(f, n))
	}
	return s + fmt.Sprintf("; %s failed because of it", plural(failed, "attempt"))
}

func chainsAdvice(f *Findings, n *Node) advice {
	a := advice{Do: "Not the limit: give the hash table more buckets (nf_conntrack_buckets)."}
	if n.Limit == nil || f.Environment.Buckets == 0 {
		return a
	}
	want := *n.Limit / bucketShare
	if want <= f.Environment.Buckets { // so others' entries, in other namespaces, are in the chains too
		return a
	}
	a.Do = fmt.Sprintf("Not the limit: set nf_conntrack_buckets to at least %s (now %s), a quarter of the limit.", grouped(want), grouped(f.Environment.Buckets))
	a.Why = []string{
		"A full table then has chains of 8 on average. Each bucket takes 8 bytes.",
		"kube-proxy does this by itself where it sets the limit and may write /sys/module/nf_conntrack/parameters/hashsize. A limit raised by sysctl alone leaves the buckets as they are.",
	}
	a.Set = fmt.Sprintf("net.netfilter.nf_conntrack_buckets = %d\n", want)
	return a
}

// fullness is the node's highest occupancy for people.
func fullness(n *Node) string {
	if n.PeakOccupancy == nil {
		return "an unknown part"
	}
	return percent(*n.PeakOccupancy)
}

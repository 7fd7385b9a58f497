package report

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// unruled says whether the readings of a node's rules, clocks considered, show
// that these led no new connection of the service to the address at that time. A
// reading holds until another is recorded, which is as soon as it differs.
func (l *log) unruled(node, service string, addr netip.Addr, at float64) bool {
	if node == "" && len(l.nodeList) == 1 {
		node = l.nodeList[0].name
	}
	planes := l.cluster.planes[node]
	a, b := at-l.clockBound, at+l.clockBound
	i, found := slices.BinarySearchFunc(planes, a, func(p plane, t float64) int { return cmp.Compare(p.t, t) })
	if !found {
		i--
	}
	if i < 0 {
		return false
	}
	for ; i < len(planes); i++ {
		led, known := planes[i].leadsTo(service)
		if planes[i].failed || !known || slices.Contains(led, addr) {
			return false
		}
		until := planes[i].seen + heldReading
		if i+1 < len(planes) {
			until = min(until, planes[i+1].before)
		}
		if until >= b {
			return true
		}
	}
	return false
}

// ruled says whether the rules of a node led to an address of a service at a time,
// at the readings before and after it.
func (l *log) ruled(node, service string, addr netip.Addr, at float64) bool {
	if node == "" && len(l.nodeList) == 1 {
		node = l.nodeList[0].name
	}
	led, _, known := l.shown(node, service, at, at)
	return known && slices.Contains(led, addr)
}

// keptText says how many of n looked up attempts an entry of before led where
// the node's rules led nobody any more, and that rules still led the others there, as
// far as readings show it; empty for none. IPVS has entries of its own, while that of
// conntrack is made by each attempt.
func keptText(n, kept, led uint64, ipvs bool) string {
	one, many := "its entry was there from before", "their entries were there from before"
	if ipvs {
		one, many = "an entry of IPVS was there from before", "entries of IPVS were there from before"
	}
	switch {
	case kept == 0:
		return ""
	case kept == n && n == 1:
		return ", although its node's rules led there no more: " + one
	case kept == n:
		return ", although their node's rules led there no more: " + many
	}
	text := fmt.Sprintf("; %d of them were sent when their node's rules led there no more: %s", kept, many)
	if kept == 1 {
		text = "; 1 of them was sent when its node's rules led there no more: " + one
	}
	others, were := fmt.Sprintf("the other %d", n-kept), "were"
	if n-kept == 1 {
		others, were = "the other one", "was"
	}
	between := "when no reading tells where rules led"
	switch led = min(led, n-kept); {
	case led == 0:
		return fmt.Sprintf("%s; %s %s sent %s", text, others, were, between)
	case led == n-kept:
		return fmt.Sprintf("%s; %s %s sent while rules still led there", text, others, were)
	}
	return fmt.Sprintf("%s; of %s, %d %s sent while rules still led there, and %d %s", text, others, led, wasWere(led), n-kept-led, between)
}

// outlived says whether most of the attempts that were led astray were so by
// entries from before, where rules led there no more. It is not known where none
// was looked up.
func (c *Cause) outlived() (most, known bool) {
	if c.astray != nil {
		return 2*c.astray.before > c.astray.all, c.astray.all > 0
	}
	return 2*c.Proof.kept > c.Proof.AutopsiesAgree, c.Proof.AutopsiesAgree > 0
}

// astray is how many attempts were led to what was no usable pod, and how many of
// them by entries from before, as far as those tell that were looked up.
type astray struct{ all, before float64 }

// astray counts a cause's attempts in these steps of the axis. Of many that fail at
// once few are looked up, and of few all: so each look-up stands for its step.
func (a *attribution) astray(t *tally, from, to int) *astray {
	f, leads := leadsTo[t.cause]
	if !leads || len(t.steps) == 0 {
		return nil
	}
	seen := map[int]astray{} // look-ups
	for v, classes := range t.kinds {
		for c := range classes {
			for _, x := range v.between(c, t.from, t.to) {
				k := a.axis.index(x.due)
				if k < from || k > to || finding(x.is) != f {
					continue
				}
				n := seen[k]
				n.all++
				if x.kept {
					n.before++
				}
				seen[k] = n
			}
		}
	}
	out := &astray{}
	for _, k := range slices.Sorted(maps.Keys(seen)) {
		out.all += float64(t.steps[k])
		out.before += float64(t.steps[k]) * seen[k].before / seen[k].all
	}
	return out
}

// outlivedRules is that of the main cause; guess where it is not known.
func outlivedRules(f *Findings, guess bool) bool {
	if most, known := f.Causes[0].outlived(); known {
		return most
	}
	return guess
}

// keptAdvice says so where rules that were right again did not help all: entries
// that were made before outlive them.
func keptAdvice(f *Findings) []string {
	if len(f.Causes) == 0 || f.Causes[0].Proof.kept == 0 {
		return nil
	}
	n := f.Causes[0].Proof.kept
	return []string{fmt.Sprintf("New rules do not end it for whoever has an old entry: %s looked up %s sent when the rules led there no more. %s", plural(n, "attempt"), wasWere(n), f.lingering())}
}

func wasWere(n uint64) string {
	if n == 1 {
		return "was"
	}
	return "were"
}

// datagrams says whether that traffic sends datagrams.
func (f *Findings) datagrams(traffic string) bool {
	return slices.ContainsFunc(f.Traffic, func(t Traffic) bool { return t.Name == traffic && t.Shape == "udp" })
}

// sendsDatagrams says whether any traffic does.
func (f *Findings) sendsDatagrams() bool {
	return slices.ContainsFunc(f.Traffic, func(t Traffic) bool { return t.Shape == "udp" })
}

func (f *Findings) protocol() string {
	if f.sendsDatagrams() {
		return "udp"
	}
	return "tcp"
}

// oldEntries says for how long the entries of a pod that has gone stay, and what
// removes them. Linux does not renew an entry in SYN_SENT for another SYN since 6.2
// ("do not renew entry stuck in tcp SYN_SENT state", in stable kernels, too).
func (f *Findings) oldEntries() string {
	remove := "conntrack -D -p %s --orig-dst SERVICE --reply-src POD, with the address that clients send to and that of the pod that has gone, removes it."
	if f.sendsDatagrams() {
		return fmt.Sprintf("Each datagram renews such an entry for %s, or %s once there were answers, so that it never expires while a client goes on sending from the same port. "+remove,
			f.timeout("udp_timeout"), f.timeout("udp_timeout_stream"), "udp")
	}
	return fmt.Sprintf("The entry of a SYN that got no answer stays for %s; older kernels count that from the last SYN that met it. "+remove, f.timeout("tcp_timeout_syn_sent"), "tcp")
}

// timeout is one of the node's, with its name.
func (f *Findings) timeout(name string) string {
	if s := f.Environment.Timeouts[name]; s > 0 {
		return fmt.Sprintf("%g s (nf_conntrack_%s)", s, name)
	}
	return "nf_conntrack_" + name
}

// lingering is what ends such entries in time.
func (f *Findings) lingering() string {
	switch {
	case f.ipvs:
		return "IPVS goes on sending whoever uses a source port again to the pod that this port was sent to before, also when that has been removed, unless net.ipv4.vs.expire_nodest_conn=1, which kube-proxy sets, or conn_reuse_mode=1. Or let clients use other source ports."
	case f.sendsDatagrams():
		return f.oldEntries() + " kube-proxy does that while the service has another serving pod. Or let clients open a new socket after a timeout."
	}
	return f.oldEntries() + " Or let clients connect anew from another source port."
}

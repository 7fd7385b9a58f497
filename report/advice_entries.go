package report

import (
	"fmt"
	"slices"
	"strings"
)

// entryAdvice is for incidents of entries that live for another time than
// their connections; false where there is none.
func entryAdvice(f *Findings) (advice, bool) {
	if n := headNode(f); n != nil && tableTrouble(f) && leaked(n) != "" {
		a := advice{
			Do: "Close in the application what the other side has closed: no limit mends that its own sockets pile up without end.",
			Why: []string{
				prose("In the table such a leak levels off, unlike the sockets of the application: each entry expires after nf_conntrack_tcp_timeout_close_wait." + levelText(f)),
				"A shorter timeout needs fewer entries, as many times fewer as it is shorter (see Sizing), and mends no leak. With kube-proxy it belongs in its configuration (conntrack.tcpCloseWaitTimeout): one set by sysctl alone is overwritten when kube-proxy starts.",
			},
		}
		if !strings.Contains(f.Headline, leaked(n)) {
			a.Why = slices.Insert(a.Why, 0, prose(fmt.Sprintf("The table of %s is full%s.", n.Name, leaked(n))))
		}
		return a, true
	}
	if n := headNode(f); n != nil && lowered(n, firstOnset(n.Knee)) != nil {
		return loweredAdvice(f, n, lowered(n, firstOnset(n.Knee))), true
	}
	if tableTrouble(f) {
		return advice{}, false
	}
	for i := range f.Traffic {
		t := &f.Traffic[i]
		if len(t.HeldCauses) > 0 && t.HeldCauses[0].Cause == entryExpired {
			return advice{
				Do: "Not the limit: let no connection be quiet for as long as the node's nf_conntrack_tcp_timeout_established, with TCP keep-alive or traffic of its own; or make that timeout longer.",
				Why: []string{
					"With kube-proxy that timeout belongs in its configuration (conntrack.tcpEstablishedTimeout, 24 h by default): one set by sysctl alone is overwritten when kube-proxy starts.",
				},
			}, true
		}
	}
	if len(f.Causes) > 0 && f.Causes[0].Cause == untranslated {
		return advice{
			Do: untranslatedDo,
			Why: []string{
				"An entry that was made before the rules keeps its connection from being translated for as long as it lives. Connecting anew, from another source port, helps once the rules are there.",
				fmt.Sprintf("So does deleting such entries: conntrack -D -p %s --orig-dst SERVICE --reply-src SERVICE, with the service's address twice, deletes those to it that nothing has translated.", f.protocol()),
			},
		}, true
	}
	return advice{}, false
}

// levelText says at how many entries a leak levels off, with the timeout of the
// run and with kube-proxy's; empty where that is not known.
func levelText(f *Findings) string {
	if f.Sizing == nil {
		return ""
	}
	var entries uint64
	var perS, timeout float64
	for _, p := range f.Sizing.Parts {
		if p.State == "CLOSE_WAIT" && p.Counted && p.Entries != nil && p.ResidenceS > 0 {
			entries += *p.Entries
			perS += p.ArrivalsPerS * p.EntriesPerAttempt
			timeout = p.ResidenceS // one setting of the node, for all
		}
	}
	if entries == 0 {
		return ""
	}
	s := fmt.Sprintf(" With the %g s of this run that is at %d entries", timeout, entries)
	if timeout != kubeProxyCloseWait {
		s += fmt.Sprintf("; with kube-proxy's default of %g s, at %.0f", kubeProxyCloseWait, perS*kubeProxyCloseWait)
	}
	return s + "."
}

// loweredAdvice is for a table that was full because its limit was taken away.
func loweredAdvice(f *Findings, n *Node, c *LimitChange) advice {
	a := advice{
		Do:  fmt.Sprintf("Let nothing lower nf_conntrack_max: %s had room with %s, and has none with %s.", n.Name, grouped(c.From), grouped(c.To)),
		Why: []string{fmt.Sprintf("It was lowered %s%s while there were %s entries, which stay until they expire; hardly anything new is let in before that.", c.when(), c.by(), grouped(c.Entries))},
	}
	for _, s := range f.Spikes {
		if slices.Contains(c.Actions, s.Action) && s.Kind != "conntrack_settings" {
			a.Why = append(a.Why, prose(s.Action)+" started the proxy anew. A kube-proxy writes the limit of its own configuration at each start, in releases up to 1.36 also where that lowers the present one: put a limit there that is above what the node holds, with a margin (conntrack.maxPerCore and min), or let it leave the limit alone (maxPerCore: 0).")
			a.Set = "conntrack:\n" + kubeProxyLimit(c.From)
			return a
		}
	}
	return a
}

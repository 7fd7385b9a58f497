package report

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/tablefull/tablefull/scenarios"
)

// unmetAdvice is for a run whose table held and whose attempts all succeeded, and
// in which something else was lost, or not as it was asked for; false where there
// is no such thing.
func unmetAdvice(f *Findings) (advice, bool) {
	for i := range f.Traffic {
		t := &f.Traffic[i]
		switch {
		case t.TearDown != nil && t.TearDown.Failed > 0:
			return t.TearDown.advise(t.Name), true
		case t.HeldLost != nil && *t.HeldLost > 0: // of which entryAdvice had nothing to say
			return advice{
				Do: fmt.Sprintf("This run does not show what to change: %s lost %s although the table held.", t.Name, plural(*t.HeldLost, "held connection")),
				Why: []string{
					fmt.Sprintf("Of those: %s.", heldCausesText(t)),
					"A capture at a client and at its pod, of a connection that is lost, shows who ended it: tcpdump 'tcp[tcpflags] & (tcp-rst|tcp-fin) != 0'.",
				},
			}, true
		}
	}
	var list []advice
	for _, r := range f.Thresholds {
		if r.Result == Fail {
			failed := thresholdLine(r) + " failed"
			if len(list) == 0 {
				failed = "The table held, and " + failed
			}
			list = append(list, thresholdAdvice(f, r, failed))
		}
	}
	switch {
	case len(list) > 0:
		a := list[0]
		for _, other := range list[1:] {
			a.Why = append(a.Why, "Besides: "+other.Do)
		}
		return a, true
	case f.Verdict == Fail:
		return advice{Do: "This run does not show what to change: the table held. What failed is said above, and what it would take to find out why is a run that measures it."}, true
	}
	return advice{}, false
}

// advise says what to change where connections were not torn down. A FIN takes its
// entry out of ESTABLISHED as it comes to the node, whatever becomes of it then; one
// that is sent again makes LAST_ACK of FIN_WAIT as well as that of the other side does.
func (d *TearDown) advise(traffic string) advice {
	capture := "A capture of FINs on both sides of the node shows where they, or their answers, were lost: tcpdump 'tcp[tcpflags] & tcp-fin != 0'."
	a := advice{Do: "This run does not show what to change: " + d.failedText(traffic) + ", and the table held.", Why: []string{capture}}
	top := ""
	for _, state := range slices.Sorted(maps.Keys(d.LookedUp)) {
		if top == "" || d.LookedUp[state] > d.LookedUp[top] {
			top = state
		}
	}
	switch {
	case d.flushed != "":
		a.Do = "Not the limit: let nothing delete the entries of connections that are in use. " + d.flushed + "."
		a.Why = []string{"What has no entry is translated no more, and a FIN makes no new one. conntrack -F and conntrack -D delete them, and whatever calls those."}
	case top == "ESTABLISHED":
		a.Do = fmt.Sprintf("Not the limit: %s, and the entries of %s that were looked up were in ESTABLISHED: no FIN of theirs came to the node. Look between the clients and the node.", d.failedText(traffic), d.allOrMost(top))
	case top != "" && top != "no entry":
		a.Do = fmt.Sprintf("Not the limit: %s, and their FINs came to the node, which had %s of those that were looked up in %s. Look behind its conntrack for what does not let a FIN or its answer through: its filter rules and policers, its queues, the pods.", d.failedText(traffic), d.allOrMost(top), top)
	}
	return a
}

// allOrMost is how many of those that were looked up had their entry in a state.
func (d *TearDown) allOrMost(state string) string {
	for other, n := range d.LookedUp {
		if other != state && n > 0 {
			return "most"
		}
	}
	return "all"
}

// thresholdAdvice is what moves a threshold that failed although the table held
// and no attempt failed, or which measurement would tell. Failed says so.
func thresholdAdvice(f *Findings, r ThresholdResult, failed string) advice {
	t, err := scenarios.ParseThreshold(r.Threshold)
	if err != nil || r.Measured == nil {
		return advice{Do: "This run does not show what to change. " + failed + "."}
	}
	if t.Op == scenarios.Greater || t.Op == scenarios.GreaterEqual || t.Op == scenarios.Equal && *r.Measured < t.Value {
		return advice{
			Do:  failed + ": there was less of it than is asked for. Nothing on the node is to be changed for that: more load, a longer run or less room make more of it.",
			Why: []string{"What is to be reproduced belongs under expect: there a run that does not show it is not called a failure."},
		}
	}
	switch t.Metric {
	case "occupancy":
		return occupancyAdvice(f, t, r, failed)
	case "entries", "syn_sent_entries", "syn_recv_entries", "established_entries", "fin_wait_entries", "close_wait_entries", "last_ack_entries", "time_wait_entries", "close_entries":
		return advice{
			Do:  failed + ". Fewer entries are made by fewer connections, as with keep-alive, or by shorter timeouts: the limit changes nothing about that.",
			Why: []string{"Under Sizing stands what each timeout does."},
		}
	case "p50", "p90", "p95", "p99", "p999", "max":
		return advice{
			Do:  failed + ". The limit has no part in that, and what took the time this run does not show.",
			Why: []string{"The same run to pod addresses (services[].headless: true) leaves the proxy and its rules out, and shows whether they are it. A step of 1 s or 3 s is a SYN that was sent again; what of it is the generator's is start_p99_ms beside p99_ms; the nodes' CPU time stands under Nodes."},
		}
	case "late", "not_started":
		return advice{
			Do:  failed + ". That is the generator's, and not the node's: give it more CPU, addresses or source ports, or ask for less.",
			Why: []string{"Why attempts were not started stands under Traffic."},
		}
	case "stale", "stale_backends", "draining_share":
		return advice{
			Do:  failed + ", although no attempt failed of it. Shorten the time for which nodes are behind (of kube-proxy: minSyncPeriod, and whatever keeps its rules from being written), or let pods serve on for longer than that, in a preStop sleep.",
			Why: []string{"Which pods, and from when to when, stands under Nodes."},
		}
	case "invalid":
		return advice{
			Do:  failed + ", although no attempt failed of it. What those packets were the counter does not say.",
			Why: []string{"net.netfilter.nf_conntrack_log_invalid=6 makes the kernel log each of TCP."},
		}
	case "insert_failed", "clashres":
		return advice{
			Do:  failed + ", although no attempt failed of it: packets of the same addresses and ports came at once. One socket per query, or source ports that masquerading chooses fully at random, make fewer of them.",
			Why: []string{"The limit has no part in it."},
		}
	case "drop", "early_drop":
		return advice{
			Do:  failed + ", although no attempt failed of it. What was dropped while the table was not full the counter does not say.",
			Why: []string{"nftables or iptables rules that count, and the kernel's log, say more: a full table writes \"table full, dropping packet\" there."},
		}
	}
	return advice{
		Do:  "This run does not show what to change. " + failed + ".",
		Why: []string{"A second run with one thing changed, beside this one as arms of a comparison, shows what moves it."},
	}
}

// occupancyAdvice is the limit of which as many entries are the share that was
// asked for.
func occupancyAdvice(f *Findings, t scenarios.Threshold, r ThresholdResult, failed string) advice {
	a := advice{Do: failed + ". Make room, or raise nf_conntrack_max.", Why: []string{overwritten}}
	if n := headNode(f); n != nil && len(n.LimitChanges) == 0 && n.Limit != nil && t.Value > 0 {
		limit := math.Floor(*r.Measured*float64(*n.Limit)/t.Value) + 1
		a.Do = fmt.Sprintf("%s. With as many entries it takes an nf_conntrack_max of at least %s (now %s), or fewer entries.", failed, grouped(uint64(limit)), grouped(*n.Limit))
	}
	return a
}

// unknownAdvice is for attempts that failed for a cause that is unknown, most of them
// or too many to pass.
func unknownAdvice(f *Findings) advice {
	var unknown *Cause
	for i := range f.Causes {
		if f.Causes[i].Cause == unknownCause {
			unknown = &f.Causes[i]
		}
	}
	_, _, all := mainCause(f)
	held, most := "the table held, and ", "most attempts failed"
	if tableTrouble(f) {
		held = ""
	}
	if 2*unknown.Failures <= all {
		most = fmt.Sprintf("%d of the %d attempts that failed did so", unknown.Failures, all)
	}
	return advice{
		Do: fmt.Sprintf("This run does not show what to change: %swhy %s is unknown.", held, most),
		Why: []string{
			prose(fmt.Sprintf("Of %s: %s.", plural(unknown.Failures, "attempt"), unknown.Evidence)),
			"A capture at a pod and on its node, of attempts that fail, shows how far their packets come: if they reach the pod, it is the pod; if not, rules, routes or policies on the way.",
		},
	}
}

// leftOpen says whether a run is inconclusive for what failed in it, and not for how
// it was made, which another one could do better.
func leftOpen(f *Findings) bool {
	return len(f.unsound) == 0 && slices.ContainsFunc(f.Causes, func(c Cause) bool { return c.Cause == unknownCause && c.Failures > 0 }) &&
		!slices.ContainsFunc(f.Thresholds, func(r ThresholdResult) bool { return r.Result == Inconclusive })
}

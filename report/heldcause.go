package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
)

// entryExpired is why a held connection was lost: its entry had expired, and
// what was sent over it next was tracked as something new.
const entryExpired = "entry_expired"

// lostOne is a held connection's loss.
type lostOne struct {
	at    float64 // s of run time
	quiet float64 // s for which nothing had been sent over it
	seen  finding // of its autopsy, or notLooked
}

// noteLoss notes a loss that was recorded one by one.
func (t *traffic) noteLoss(f *runlog.Failure) {
	if len(t.lostOnes) == maxLosses {
		return
	}
	if t.lostIndex == nil {
		t.lostIndex = map[attempt]int{}
	}
	t.lostIndex[attempt{f.Traffic, f.Node, f.Seq}] = len(t.lostOnes)
	t.lostOnes = append(t.lostOnes, lostOne{at: f.Start, quiet: f.Quiet, seen: notLooked})
}

// lookAtLoss notes what the look-up of a lost connection found.
func (t *traffic) lookAtLoss(a *runlog.Autopsy) {
	if i, ok := t.lostIndex[attempt{a.Traffic, a.Node, a.Seq}]; ok {
		t.lostOnes[i].seen = seen(a)
	}
}

// heldCauses says why connections of the traffic were lost.
//
// An entry is forgotten once nothing has been sent over its connection for
// nf_conntrack_tcp_timeout_established: of one that had been quiet for longer,
// the entry had expired, whatever became of it. That this is why it was lost shows
// in what the look-up found. A reset that ends a connection which the node
// knows leaves its entry in CLOSE for some seconds. A reset that is the only answer
// to a packet that made an entry takes that entry away at once. So no entry,
// milliseconds after the loss, and a quiet time above the timeout, are both
// needed. Losses that were not looked up are like those that were.
func (l *log) heldCauses(t *traffic, lost uint64) []HeldCause {
	out := []HeldCause{}
	if lost == 0 {
		return out
	}
	timeout := l.establishedTimeout()
	quiet, looked, agree, from, to := uint64(0), uint64(0), uint64(0), 0.0, 0.0
	for _, x := range t.lostOnes {
		if timeout <= 0 || x.quiet <= timeout {
			continue
		}
		quiet++
		if from == 0 || x.quiet < from {
			from = x.quiet
		}
		to = max(to, x.quiet)
		if x.seen != notLooked {
			looked++
		}
		if x.seen == noEntry {
			agree++
		}
	}
	expired := uint64(0)
	if looked > 0 {
		expired = min(lost, quiet*agree/looked)
	}
	if expired > 0 {
		text := fmt.Sprintf("they had been quiet for %s to %s, longer than nf_conntrack_tcp_timeout_established of %g s, so their entries had expired; %d of %d that were looked up when they failed had none",
			seconds(from), seconds(to), timeout, agree, looked)
		if s := l.service(t.info.To); s != nil {
			if n := l.podResets(s); n > 0 {
				text += fmt.Sprintf("; the pods of %s sent %s", s.Name, plural(n, "TCP reset"))
			}
		}
		out = append(out, HeldCause{Cause: entryExpired, Connections: expired, Evidence: text})
	}
	if rest := lost - expired; rest > 0 {
		out = append(out, HeldCause{Cause: unknownCause, Connections: rest, Evidence: l.unexplainedText(t, lost, timeout)})
	}
	slices.SortStableFunc(out, func(x, y HeldCause) int {
		return boolOrder(x.Connections < y.Connections, y.Connections < x.Connections)
	})
	return out
}

// forgets says whether the node forgot connections of the traffic that were held.
func (l *log) forgets(t *traffic) bool {
	lost := l.heldCauses(t, t.heldNow().Lost)
	return len(lost) > 0 && lost[0].Cause == entryExpired
}

// unexplainedText says why nothing is said of the losses that are left.
func (l *log) unexplainedText(t *traffic, lost uint64, timeout float64) string {
	if timeout <= 0 {
		return "the node's nf_conntrack_tcp_timeout_established is not known, or was changed during the run"
	}
	brief, old, unseen := 0, 0, 0
	for _, x := range t.lostOnes {
		switch {
		case x.quiet <= timeout:
			brief++
		case x.seen == notLooked:
			unseen++
		case x.seen != noEntry:
			old++
		}
	}
	var parts []string
	if brief > 0 {
		parts = append(parts, fmt.Sprintf("%d had been quiet for less than nf_conntrack_tcp_timeout_established of %g s", brief, timeout))
	}
	if old > 0 {
		parts = append(parts, fmt.Sprintf("%d had an entry when they failed", old))
	}
	if unseen > 0 {
		parts = append(parts, fmt.Sprintf("%d were not looked up", unseen))
	}
	if n := uint64(len(t.lostOnes)); lost > n {
		parts = append(parts, fmt.Sprintf("%d were counted and not recorded one by one", lost-n))
	}
	if s := l.lostAtFlush(t); s != "" {
		parts = append(parts, s)
	}
	if len(parts) == 0 {
		return "nothing is known of them"
	}
	return strings.Join(parts, ", ")
}

// establishedTimeout is the node's, in s; 0 where it is not known for the
// whole run.
func (l *log) establishedTimeout() float64 {
	const name = "tcp_timeout_established"
	if l.header == nil || l.timeoutChanged {
		return 0
	}
	return l.header.Timeouts[name]
}

// podResets is how many TCP resets the service's pods sent.
func (l *log) podResets(s *runlog.ServiceInfo) uint64 {
	var n uint64
	for name := range l.podsOf(s) {
		if h := l.hosts[name]; h != nil {
			for _, d := range h.deltas {
				n += d.resets
			}
		}
	}
	return n
}

// unexplainedLosses is how many held connections were lost for an unknown
// cause.
func unexplainedLosses(t *Traffic) uint64 {
	for _, c := range t.HeldCauses {
		if c.Cause == unknownCause {
			return c.Connections
		}
	}
	return 0
}

// heldCausesText is like: 144 because of entry_expired (why), 2 for an unknown
// cause (why).
func heldCausesText(t *Traffic) string {
	var parts []string
	for _, c := range t.HeldCauses {
		because := "because of " + c.Cause
		if c.Cause == unknownCause {
			because = "for an unknown cause"
		}
		parts = append(parts, fmt.Sprintf("%d %s (%s)", c.Connections, because, c.Evidence))
	}
	return strings.Join(parts, ", ")
}

// lostBecause is the main cause of held connections' loss, for the first
// sentence; empty where it is unknown.
func lostBecause(t *Traffic) string {
	if len(t.HeldCauses) == 0 || t.HeldCauses[0].Cause != entryExpired {
		return ""
	}
	share := fmt.Sprintf("%d", t.HeldCauses[0].Connections)
	if t.HeldLost != nil && *t.HeldLost == t.HeldCauses[0].Connections {
		share = "all"
	}
	return fmt.Sprintf(", %s of them because of entry_expired: nothing was sent over them for so long that the node forgot them, and what was sent next was translated anew, to any pod, and reset by those that did not know it", share)
}

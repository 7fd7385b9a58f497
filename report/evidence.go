package report

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
)

// evidence says in words what a tally rests on.
func (a *attribution) evidence(t *tally) string {
	var parts []string
	switch t.cause {
	case unknownCause:
		parts = append(parts, "no counter and no autopsy explains them: "+outcomeList(t.outcomes))
	case tableFull:
		parts = append(parts, a.counterText(t)+a.occupancyText())
		if n := t.failures - t.later; n > 0 {
			parts = append(parts, lostText(n, t))
		}
		if t.later > 0 {
			parts = append(parts, fmt.Sprintf("%s behind a gateway waited while more was dropped than clients lost: the gateway's own connections", plural(t.later, "attempt")))
		}
	case chainLong:
		parts = append(parts, a.counterText(t), lostText(t.failures, t))
		parts = append(parts, a.chainsOn(t.hosts)...)
	case snatPorts:
		parts = append(parts, a.counterText(t)+" (and drop with it)", lostText(t.failures, t))
		parts = append(parts, a.portsOn(t.hosts)...)
	case natClash, listenOverflow:
		parts = append(parts, a.counterText(t), lostText(t.failures, t))
	case evicted:
		parts = append(parts, a.counterText(t), fmt.Sprintf("%s at least waited meanwhile and no drop explains them", plural(t.failures, "attempt")))
	case drainingBackend:
		if t.counter != "" {
			parts = append(parts, a.counterText(t))
		}
		parts = append(parts, outcomeList(t.outcomes))
	case invalidReset, backendRefused:
		parts = append(parts, a.counterText(t), outcomeList(t.outcomes))
	default:
		if t.how != "" {
			parts = append(parts, t.how)
		}
		parts = append(parts, outcomeList(t.outcomes))
	}
	if tied := a.tied(t); tied != "" {
		parts = append(parts, tied)
	}
	if f, leads := leadsTo[t.cause]; leads {
		if n := t.looked.of(foundAny(f)); n > 0 {
			parts = append(parts, leadText(t.cause, n)+keptText(n, t.kept, t.led, a.l.cluster.ipvs)+t.unclearText(t.kept > 0))
		}
	} else if looked := autopsyText(t); looked != "" {
		parts = append(parts, looked)
	} else if t.cause == tableFull {
		parts = append(parts, "no autopsies were made")
	}
	if len(t.entered) > 0 {
		parts = append(parts, enteredBy(t.entered, t.failures))
	}
	if t.shared {
		parts = append(parts, "other traffic competed for the same increments: they were split by offered connections")
	}
	return strings.Join(parts, "; ")
}

// enteredBy is like: all entered by node2, or: node1 12, node2 500.
func enteredBy(by map[string]uint64, all uint64) string {
	var parts []string
	for _, node := range slices.Sorted(maps.Keys(by)) {
		if by[node] == all {
			return "all entered by " + node
		}
		parts = append(parts, fmt.Sprintf("%d by %s", by[node], node))
	}
	return "entered " + strings.Join(parts, ", ")
}

// enteredText is what befell the attempts that entered by a node.
func enteredText(e *Entered) string {
	s := plural(e.Attempted, "attempt") + " entered by it"
	if e.Failed == 0 {
		return s + ", none failed"
	}
	var parts []string
	for _, c := range e.Causes {
		parts = append(parts, fmt.Sprintf("%d %s", c.Failures, c.Cause))
	}
	return s + fmt.Sprintf(", %d (%s) failed: %s", e.Failed, percent(float64(e.Failed)/float64(max(1, e.Attempted))), strings.Join(parts, ", "))
}

// counterText is like: drop +2593 on node1 between 4.2 s and 10.0 s.
func (a *attribution) counterText(t *tally) string {
	s := fmt.Sprintf("%s +%d", t.counter, t.delta)
	if len(t.hosts) > 0 {
		s += " on " + strings.Join(a.l.podsThen(t), ", ")
	}
	return s + fmt.Sprintf(" between %.1f s and %.1f s", t.rose, t.rested)
}

// podsThen are the hosts whose counter rose for the tally, under the name of the
// pod that each had then: one that is used again keeps its own.
func (l *log) podsThen(t *tally) []string {
	names := slices.Sorted(maps.Keys(t.hosts))
	if l.header == nil {
		return names
	}
	for i, host := range names {
		for k := range l.header.Services {
			s := &l.header.Services[k]
			e, addr := l.cluster.services[s.Name], l.podsOf(s)[host]
			if e == nil || !addr.IsValid() {
				continue
			}
			first, last := e.nameOf(addr, t.rose), e.nameOf(addr, t.rested)
			if pod, _, _ := strings.Cut(first, "."); first == last && pod == host {
				names[i] = first
			}
		}
	}
	return names
}

// occupancyText is the table's highest filling on the nodes that dropped.
func (a *attribution) occupancyText() string {
	var parts []string
	for _, n := range a.l.nodeList {
		if a.total[n.name] > 0 && n.last != nil {
			parts = append(parts, fmt.Sprintf("entries %d of %d", n.fullest.entries, n.fullest.limit))
			if k := len(n.limitChanges); k > 0 && n.limitChanges[k-1].To < n.limitChanges[k-1].From {
				parts[len(parts)-1] += fmt.Sprintf(", to which the limit was lowered from %d %s", n.limitChanges[k-1].From, n.limitChanges[k-1].when())
			}
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return ", " + strings.Join(parts, ", ")
}

func lostText(n uint64, t *tally) string {
	what := "packet"
	if t.outcomes[runlog.ConnectTimeout] == n {
		what = "SYN"
	} else if t.outcomes[runlog.ResponseTimeout] == n && t.cause != listenOverflow {
		what = "datagram"
	}
	packets := uint64(math.Round(t.packets)) - min(uint64(math.Round(t.packets)), t.later)
	switch {
	case packets == n && t.exactly():
		if n == 1 {
			return "1 attempt lost exactly one " + what
		}
		return fmt.Sprintf("%d attempts lost exactly one %s each", n, what)
	case packets < t.delta:
		return fmt.Sprintf("%d of those put down to %s", packets, plural(n, "attempt"))
	}
	return fmt.Sprintf("%s lost %s", plural(n, "attempt"), plural(packets, what))
}

// exactly says whether each attempt is known to have lost as many packets as are
// put down to it: the counter gained no more, nobody else competed for it, and no
// look-up found what would say otherwise.
func (t *tally) exactly() bool {
	return !t.shared && uint64(math.Round(t.packets)) == t.delta && t.looked.of(t.agree) == t.looked.total()
}

// leadsTo is what autopsies find of attempts that were led astray.
var leadsTo = map[string]finding{staleBackend: staleDNAT, drainingBackend: drainDNAT, backendGone: goneDNAT, untranslated: noDNAT}

// leadText says where the entries of such attempts led.
func leadText(cause string, n uint64) string {
	they, were, their := "they", "were", "their"
	if n == 1 {
		they, were, their = "it", "was", "its"
	}
	to := map[string]string{
		staleBackend:    fmt.Sprintf("an address that was no usable pod of the service when %s %s sent", they, were),
		drainingBackend: fmt.Sprintf("a pod that was terminating when %s %s sent, and not to be used any more", they, were),
		backendGone:     fmt.Sprintf("a pod that the endpoints called usable when %s %s sent, and that ended before %s failed", they, were, they),
		untranslated:    fmt.Sprintf("the service's own address: no rule had translated %s first packet, and later ones follow its entry, whatever the rules are by then", their),
	}[cause]
	return fmt.Sprintf("of those looked up, %s had an entry to %s", plural(n, "attempt"), to)
}

// unclearText is how many more were looked up whose entry had been replaced, or
// deleted, since they were sent.
func (t *tally) unclearText(apart bool) string {
	if t.unclear == 0 {
		return ""
	}
	s := ", and "
	if apart {
		s = "; "
	}
	return s + fmt.Sprintf("%d more were looked up too late to tell: their entry had been made anew or deleted since", t.unclear)
}

func autopsyText(t *tally) string {
	x, total := t.looked, t.looked.total()
	if t.cause == unknownCause {
		// Others that failed in the same way meanwhile, and have a cause by these.
		for _, f := range []finding{staleDNAT, drainDNAT, goneDNAT} {
			total -= x[f]
			x[f] = 0
		}
	}
	names := [...]struct {
		f    finding
		text string
	}{
		{noEntry, "found no entry"},
		{unreplied, "found an entry to a pod that had not answered"},
		{open, "found an open entry with packets of both sides"},
		{old, "found an entry of a connection that was closing or over"},
		{noDNAT, "found an entry that no service rule had rewritten"},
		{staleDNAT, "found an entry to an address that was no usable pod of the service"},
		{drainDNAT, "found an entry to a pod that was terminating"},
		{goneDNAT, "found an entry to a pod that ended while the attempt waited"},
	}
	var parts []string
	for _, n := range names {
		if x[n.f] > 0 {
			parts = append(parts, fmt.Sprintf("%d of %d autopsies %s", x[n.f], total, n.text))
		}
	}
	return strings.Join(parts, ", ")
}

// outcomeList is like: 12 connect_timeout, 3 reset.
func outcomeList(of map[runlog.Outcome]uint64) string {
	var parts []string
	for _, o := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%d %s", of[o], o))
	}
	return strings.Join(parts, ", ")
}

// whose is the name as the owner of what follows: web's, strangers'.
func whose(name string) string {
	if strings.HasSuffix(name, "s") {
		return name + "'"
	}
	return name + "'s"
}

// plural is n and the noun, whose plural is the last form, or ends in s.
func plural(n uint64, forms ...string) string {
	switch {
	case n == 1:
		return "1 " + forms[0]
	case len(forms) > 1:
		return fmt.Sprintf("%d %s", n, forms[1])
	default:
		return fmt.Sprintf("%d %ss", n, forms[0])
	}
}

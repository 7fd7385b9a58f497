package report

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// headline is the answer in one sentence. A run that allows no answer says so
// first, whatever else was seen.
func headline(f *Findings) string {
	if f.Verdict == Inconclusive && len(f.Reasons) > 0 {
		return "Inconclusive: " + strings.TrimSuffix(f.Reasons[0], ".") + "." + limitSeen(f)
	}
	n := headNode(f)
	if n == nil {
		return "No node's table was sampled."
	}
	early, drop := n.Knee.EarlyDrop, n.Knee.Drop
	others := othersText(f)
	if s := worstSpike(f); s != nil && early == nil && drop == nil {
		return spikeHeadline(f, s)
	}
	switch {
	case drop != nil && early != nil && early.AtS <= drop.AtS:
		return fmt.Sprintf("%s evicts entries (early_drop) at %s, and drops new connections from %s on: its table is full%s.", n.Name, place(early, n), seconds(drop.AtS), loweredText(n, early)+cmpOr(filledBy(f, n, early), filledWith(f, n))+cost(f)+costly(f)+others)
	case drop != nil:
		return fmt.Sprintf("%s drops new connections at %s: its table is full%s.", n.Name, place(drop, n), loweredText(n, drop)+cmpOr(filledBy(f, n, drop), filledWith(f, n))+makesRoom(n)+cost(f)+costly(f)+others)
	case early != nil:
		return fmt.Sprintf("%s evicts entries (early_drop) at %s, and drops nothing: its table is full, and some of its entries can be evicted%s.", n.Name, place(early, n), filledBy(f, n, early)+cost(f)+others)
	}
	s := fmt.Sprintf("%s's table held: at most %s", n.Name, filling(n))
	if slices.ContainsFunc(f.Traffic, func(t Traffic) bool { return t.TearDown != nil && t.TearDown.flushed != "" }) {
		s = fmt.Sprintf("%s's table was never full: at most %s", n.Name, filling(n)) // and it was emptied
	}
	top, ofTop, failed := mainCause(f)
	switch {
	case top == chainLong:
		s = chainsHeadline(f, blamed(f, chainLong), ofTop)
	case top == snatPorts && blamed(f, snatPorts).Ports != nil:
		s = portsHeadline(blamed(f, snatPorts), ofTop)
	case failed == 0 && allWatched(f):
		s += ", and no attempt failed, whatever was done to it (" + actionCount(f) + ")"
	case failed == 0:
		s += ", and no attempt failed" + resolved(f)
	case byTable(top):
		s += fmt.Sprintf(", but %s failed, mostly because of %s", plural(failed, "attempt"), top)
	case top == unknownCause:
		s += fmt.Sprintf("; %s failed, mostly for a cause that is unknown", plural(failed, "attempt"))
	default:
		s += fmt.Sprintf("; %s failed, mostly because of %s", plural(failed, "attempt"), top)
	}
	for _, t := range f.Traffic {
		if t.TearDown != nil && t.TearDown.Failed > 0 {
			s += "; " + t.TearDown.failedText(t.Name)
		}
		if t.HeldLost != nil && *t.HeldLost > 0 {
			s += fmt.Sprintf("; %s lost %s%s", t.Name, plural(*t.HeldLost, "held connection"), lostBecause(&t))
		}
	}
	if f.Verdict == Fail && len(f.Reasons) > 0 && !byTable(top) {
		s += "; " + firstReason(f)
	}
	return s + "."
}

// firstReason is why a run failed, less what the sentence has said of tear-downs.
func firstReason(f *Findings) string {
	for _, t := range f.Traffic {
		if r := t.TearDown.toldBy(f); r != nil && f.Reasons[0] == "threshold failed: "+thresholdLine(*r) {
			return "threshold failed: " + r.Threshold
		}
	}
	return f.Reasons[0]
}

// resolved says how many packets met an entry that another one of the same
// connection had just made, where that cost nothing.
func resolved(f *Findings) string {
	var clashes, lost uint64
	for _, n := range f.Nodes {
		clashes += n.Counters["clashres"]
		lost += n.Counters["insert_failed"]
	}
	if clashes == 0 || lost > 0 {
		return ""
	}
	return fmt.Sprintf(", although entries clashed: the kernel resolved it %s (clashres)", times(clashes))
}

// othersText says what the other tables did where the first one filled; empty
// where there is one node.
func othersText(f *Findings) string {
	var full, held []string
	for i := range f.Nodes {
		n := &f.Nodes[i]
		if n.PeakEntries == nil || n == headNode(f) {
			continue
		}
		if firstOnset(n.Knee) != nil {
			full = append(full, n.Name)
		} else {
			held = append(held, n.Name)
		}
	}
	s := ""
	if len(full) > 0 {
		s += "; later the table of " + strings.Join(full, ", ")
	}
	if len(held) > 0 {
		verb := "the table of " + held[0] + " held"
		if len(held) > 1 {
			verb = "the tables of " + strings.Join(held, ", ") + " held"
		}
		s += "; " + verb
	}
	return s
}

// makesRoom says how many entries made room for new ones, where the table
// dropped first: attempts came through at others' expense then. One eviction
// among hundreds of drops is not what the table does, and stays in its counters.
func makesRoom(n *Node) string {
	count := n.Counters["early_drop"]
	if n.Knee.EarlyDrop == nil || count == 0 || 10*count < n.Counters["drop"] {
		return ""
	}
	return ", and it evicts others to make room (early_drop +" + strconv.FormatUint(count, 10) + ")"
}

// filledBy says which action took most of the room that was there when traffic
// began, before the onset; empty where none did, and the traffic filled it.
func filledBy(f *Findings, n *Node, o *Onset) string {
	if n.HeadroomAtStart == nil || lowered(n, o) != nil {
		return ""
	}
	took := map[string]float64{}
	for _, r := range n.refills {
		for i := range f.Spikes {
			s := &f.Spikes[i]
			if s.Kind == "ballast" && r.t <= o.AtS && s.BeginS <= r.t && (s.DoneS == nil || r.t <= *s.DoneS+0.5) && (len(s.Nodes) == 0 || slices.Contains(s.Nodes, n.Name)) {
				took[fmt.Sprintf("%s (%s) at %s", s.Action, s.Kind, seconds(s.BeginS))] += r.by
				break
			}
		}
	}
	for name, by := range took {
		if 2*by > float64(*n.HeadroomAtStart) {
			return fmt.Sprintf(", mostly by %s, which added %.0f entries where %d were free", name, by, *n.HeadroomAtStart)
		}
	}
	return ""
}

// leaked says so where most of the traffic's entries are in CLOSE_WAIT, which
// is nobody's load but somebody's mistake. Ballast is the most of a table that
// we filled, and is named: the traffic had only what was free.
func leaked(n *Node) string {
	c := n.Census
	if c == nil || c.Entries <= c.Ballast {
		return ""
	}
	var waiting uint64
	for _, g := range c.Groups {
		if g.State == "CLOSE_WAIT" {
			waiting += g.Count
		}
	}
	if 2*waiting <= c.Entries-c.Ballast {
		return ""
	}
	what := fmt.Sprintf("connections that one side has closed and the other has not (CLOSE_WAIT: %d of the traffic's %d entries at %s)", waiting, c.Entries-c.Ballast, seconds(c.AtS))
	mostly := "mostly "
	if waiting == c.Entries-c.Ballast {
		mostly = ""
	}
	if c.Ballast == 0 || n.HeadroomAtStart == nil {
		return ", " + mostly + "of " + what
	}
	return fmt.Sprintf(": %d entries were free when traffic began, which filled %swith %s; another %d are ballast, which stands for what a busy node holds", *n.HeadroomAtStart, mostly, what, c.Ballast)
}

// filledWith says what filled the table, where that is no load that comes and goes.
func filledWith(f *Findings, n *Node) string {
	return cmpOr(leaked(n), heldOpen(f, n))
}

// cost says what a full table's node cost the attempts, of those whose end is
// known; empty where nobody waited for an answer.
func cost(f *Findings) string {
	var failed, ended uint64
	for _, t := range f.Traffic {
		if t.Succeeded != nil {
			failed += t.Failed
			ended += t.Failed + *t.Succeeded
		}
	}
	switch {
	case ended == 0:
		return ""
	case failed == 0:
		return "; no attempt failed"
	}
	return fmt.Sprintf("; %d of %s failed", failed, plural(ended, "attempt"))
}

// costly says so where an attempt takes more than one entry, as behind a gateway
// or in a tunnel: the table is full earlier than the rate of attempts suggests.
func costly(f *Findings) string {
	if f.Sizing == nil {
		return ""
	}
	for _, p := range f.Sizing.Parts {
		if p.Counted && p.EntriesPerAttempt >= 1.5 {
			return fmt.Sprintf("; each attempt of %s takes about %.3g entries", p.Traffic, p.EntriesPerAttempt)
		}
	}
	return ""
}

// mainCause is the cause that most attempts failed of, those that were never
// started aside, how many those were, and how many failed in all.
func mainCause(f *Findings) (cause string, failures, all uint64) {
	for _, c := range f.Causes {
		if strings.HasPrefix(c.Cause, generatorPrefix) {
			continue
		}
		all += c.Failures
		if cause == "" {
			cause, failures = c.Cause, c.Failures
		}
	}
	return cause, failures, all
}

// blamed is the node whose counter the cause rests on; where that cannot be
// said, the head node. Nil where no node was sampled.
func blamed(f *Findings, cause string) *Node {
	for _, c := range f.Causes {
		for i := range f.Nodes {
			if c.Cause == cause && slices.Contains(c.Proof.Hosts, f.Nodes[i].Name) && f.Nodes[i].PeakEntries != nil {
				return &f.Nodes[i]
			}
		}
	}
	return headNode(f)
}

// headNode is the node that the headline is about: the first whose table got
// into trouble, else the first by which attempts were lost, else the fullest.
func headNode(f *Findings) *Node {
	var best *Node
	for i := range f.Nodes {
		n := &f.Nodes[i]
		if n.PeakEntries == nil {
			continue
		}
		if best == nil || before(n, best) {
			best = n
		}
	}
	return best
}

func before(x, y *Node) bool {
	a, b := firstOnset(x.Knee), firstOnset(y.Knee)
	switch {
	case a != nil && b != nil:
		return a.AtS < b.AtS
	case a != nil || b != nil:
		return a != nil
	}
	a, b = x.Knee.ClientLoss, y.Knee.ClientLoss
	switch {
	case a != nil && b != nil && a.AtS != b.AtS:
		return a.AtS < b.AtS
	case (a != nil) != (b != nil):
		return a != nil
	}
	return x.PeakOccupancy != nil && y.PeakOccupancy != nil && *x.PeakOccupancy > *y.PeakOccupancy
}

func firstOnset(k Knee) *Onset {
	if k.EarlyDrop == nil || k.Drop != nil && k.Drop.AtS < k.EarlyDrop.AtS { // of a tie, eviction came first: the kernel tries it first
		return k.Drop
	}
	return k.EarlyDrop
}

// place is like: 262144 of 262144 entries (100 %), 4.3 s into the run at 700/s.
func place(o *Onset, n *Node) string {
	s := "an unknown filling"
	if limit := cmp.Or(o.Limit, n.Limit); o.Entries != nil && limit != nil {
		s = fmt.Sprintf("%d of %d entries", *o.Entries, *limit)
		if o.Occupancy != nil {
			s += fmt.Sprintf(" (%s)", percent(*o.Occupancy))
		}
	}
	s += fmt.Sprintf(", %s into the run", seconds(o.AtS))
	if o.OfferedPerS != nil {
		s += fmt.Sprintf(" at %s", perSecond(*o.OfferedPerS))
		if n.Entered != nil {
			s += " that enter by it"
		}
	}
	return s
}

func filling(n *Node) string {
	s := fmt.Sprintf("%d entries", *n.PeakEntries)
	if len(n.LimitChanges) > 0 {
		if n.PeakOccupancy != nil {
			s += fmt.Sprintf(", and at most %s of the limit, which was changed", percent(*n.PeakOccupancy))
		}
		return s
	}
	if n.Limit != nil && *n.Limit > 0 {
		s = fmt.Sprintf("%d of %d entries", *n.PeakEntries, *n.Limit)
	}
	if n.PeakOccupancy != nil && *n.PeakOccupancy > 0 {
		s += fmt.Sprintf(" (%s)", percent(*n.PeakOccupancy))
	}
	return s
}

// seconds is a time for people: as exact as it needs to be.
func seconds(v float64) string {
	if v >= 100 || v <= -100 {
		return fmt.Sprintf("%.0f s", v)
	}
	return fmt.Sprintf("%.1f s", v)
}

func perSecond(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f/s", v)
	}
	return fmt.Sprintf("%.3g/s", v)
}

package report

import "fmt"

// there is what was in the sized node's table besides this traffic: what a node
// holds anyway, or the ballast that stands for it. Its need counts like that of
// the traffic. A hundredth of what the traffic needs is within what sizing
// leaves free, and may be a probe of the lab's own.
type there struct {
	entries uint64 // when traffic began, and what actions added
	ballast bool   // most of them are ours
	added   bool   // by actions, some of them
	chained bool   // a node's hash chains were too long
	on      string // the node, where that is not the one that is sized for
	highest uint64 // limit that the nodes had while the run changed it; 0 where it did not
}

// mostThere is what was in the fullest of the nodes that the traffic asks for as much
// as the one that is sized for: one limit is for all of them.
func (l *log) mostThere(n *node, nodes []Node) there {
	most := thereOn(n, nodes)
	if n == nil || !l.parted() {
		return most
	}
	for _, o := range l.nodeList {
		if x := thereOn(o, nodes); o != n && l.roughNeed(o) > 0.99*l.roughNeed(n) && x.entries > most.entries {
			most, most.on = x, o.name
		}
	}
	return most
}

func thereOn(n *node, nodes []Node) there {
	var t there
	for i := range nodes {
		t.chained = t.chained || chainTooLong(nodes[i].Counters) > 0
		for _, c := range nodes[i].LimitChanges {
			t.highest = max(t.highest, c.From, c.To)
		}
	}
	if n != nil && n.atStart != nil {
		t.entries = n.atStart.entries + uint64(n.mostRefilled())
		t.added = n.mostRefilled() > 0
		t.ballast = 2*(float64(n.ballast)+n.mostRefilled()) > float64(t.entries)
	}
	return t
}

// besides is how many entries need room besides those of this traffic.
func (s *Sizing) besides() uint64 {
	if s.NeededEntries == nil || s.there.entries <= *s.NeededEntries/100 {
		return 0
	}
	return s.there.entries
}

// inAll is what the node needs for this traffic and for what was there, and the
// limit for that, with the margins of the recommended one.
func (s *Sizing) inAll() (entries, limit uint64) {
	if s.NeededEntries == nil || s.RecommendedLimit == nil {
		return 0, 0
	}
	if s.besides() == 0 || s.UncollectedEntries == nil {
		return *s.NeededEntries, *s.RecommendedLimit
	}
	entries = *s.NeededEntries + s.besides()
	return entries, recommended(entries, *s.UncollectedEntries)
}

// memoryMax is the memory of a full table of that limit, with extensions.
func (s *Sizing) memoryMax(limit uint64) uint64 {
	return uint64(float64(*s.MemoryBytesMax) / float64(*s.RecommendedLimit) * float64(limit))
}

func (s *Sizing) memoryMin(limit uint64) uint64 {
	return uint64(float64(*s.MemoryBytesMin) / float64(*s.RecommendedLimit) * float64(limit))
}

// thereText is like: the 259144 entries that were there when traffic began, most
// of them ballast that stands for other load.
func (s *Sizing) thereText() string {
	t := fmt.Sprintf("the %s that were there when traffic began", plural(s.besides(), "entry", "entries"))
	if s.there.added {
		t += " or that actions added"
	}
	if s.there.on != "" {
		t += " on " + s.there.on
	}
	if s.there.ballast {
		t += ", most of them ballast that stands for other load"
	}
	return t
}

// inAllText is what the node needs for this traffic and for what was there;
// empty where nothing was.
func (s *Sizing) inAllText() string {
	if s == nil || s.besides() == 0 || s.MemoryBytesMin == nil || s.MemoryBytesMax == nil {
		return ""
	}
	entries, limit := s.inAll()
	text := fmt.Sprintf("%d entries in the steady state with %s%s; recommended limit %d, %s to %s when full", entries, s.thereText(), s.lateText(), limit, byteSize(s.memoryMin(limit)), byteSize(s.memoryMax(limit)))
	if s.PresentLimit != nil && *s.PresentLimit >= limit {
		text += fmt.Sprintf(" (the present limit of %d is no lower: leave it)", *s.PresentLimit)
	}
	return text
}

// aloneText is for titles of tables that leave out what was there; a load that
// was given in numbers has it among them.
func (s *Sizing) aloneText() string {
	for _, p := range s.Parts {
		if p.Given {
			return ""
		}
	}
	return ", on an otherwise empty node"
}

// whatHeld says what run_needed means for the run.
type whatHeld int

const (
	wouldHave whatHeld = iota // the table was short of room, and with that limit would not have been
	heldToo                   // nothing was lost, and with that limit nothing would have been
	noLimit                   // a limit is not what it lacked
)

// whetherHeld is about a run as a whole: where a flood came, or what was lost was
// lost for another cause than room, no limit would have held it.
func whetherHeld(f *Findings) whatHeld {
	lost := failures(f) > 0 || f.Verdict == Fail
	for _, t := range f.Traffic {
		lost = lost || t.HeldLost != nil && *t.HeldLost > 0
	}
	switch {
	case tableTrouble(f) && !f.Sizing.Meaningless:
		return wouldHave
	case tableTrouble(f) || lost:
		return noLimit
	}
	return heldToo
}

// runText is what the run itself needed; empty where a limit is not what it
// lacked.
func (s *Sizing) runText() string {
	switch {
	case s.RunNeeded == nil || s.run == noLimit:
		return ""
	case s.run == heldToo:
		return fmt.Sprintf("a limit of %d would have held it as well: %s", *s.RunNeeded, s.RunNeededHow)
	}
	return fmt.Sprintf("a limit of %d would have held it: %s", *s.RunNeeded, s.RunNeededHow)
}

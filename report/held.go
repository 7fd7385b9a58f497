package report

import (
	"fmt"
	"slices"
)

// heldText is what became of the connections that a traffic held, as its clients
// know it; empty for one that holds none.
func (t *Traffic) heldText() string {
	if t.HeldPeak == nil || t.HeldLost == nil || t.HeldEnd == nil {
		return ""
	}
	s := fmt.Sprintf("at most %d at once, %d lost, %d still held at the end", *t.HeldPeak, *t.HeldLost, *t.HeldEnd)
	if t.Forgotten() != "" {
		s += ", " + t.Forgotten()
	}
	return s
}

// Forgotten says of how many connections that are still held the node has no entry
// any more, which clients notice when they next send over them; empty for none.
func (t *Traffic) Forgotten() string {
	if t.known == nil || t.HeldEnd == nil || t.known.Count >= *t.HeldEnd {
		return ""
	}
	return fmt.Sprintf("as far as clients know: at %s the node had an entry of %d, and had forgotten the others, which shows when something is sent over them", seconds(t.known.at), t.known.Count)
}

// knownHeld is how many held connections a node had entries of in its last census.
type knownHeld struct {
	at    float64
	Count uint64
}

// knows counts the entries of a traffic's held connections where some were lost
// because the node had forgotten them; nil where a census does not tell: with other
// traffic to that service, with several nodes, or after clients have closed them.
func (l *log) knows(t *traffic, lost []HeldCause) *knownHeld {
	if len(l.nodeList) != 1 || len(lost) == 0 || lost[0].Cause != entryExpired {
		return nil
	}
	n, s := l.nodeList[0], l.service(t.info.To)
	if n.census == nil || s == nil || l.closedBy(n.censusAt) || n.censusAt <= 0 || n.census.Other > 0 {
		return nil
	}
	for _, o := range l.order {
		if o != t && o.info.To == t.info.To {
			return nil
		}
	}
	known := knownHeld{at: n.censusAt}
	for _, g := range n.census.Groups {
		if g.State == "ESTABLISHED" && (isOf(*s, g.Service) || isOf(*s, g.Backend)) {
			known.Count += g.Count
		}
	}
	return &known
}

// closedBy says whether a traffic had ended by then, at whose end clients close what
// they hold.
func (l *log) closedBy(at float64) bool {
	return slices.ContainsFunc(l.order, func(t *traffic) bool {
		return t.idle() && t.info.End > 0 && at > t.info.End && t.heldNow().Open > 0
	})
}

// When is the moment of a census, and what it comes after.
func (c *Census) When() string {
	if c.closed {
		return seconds(c.AtS) + ", after clients had closed what they held"
	}
	return seconds(c.AtS)
}

// heldOpen says so where most of what filled the table are connections that are
// held open: there is nothing to expire, at whatever rate they came.
func heldOpen(f *Findings, n *Node) string {
	o := firstOnset(n.Knee)
	if len(f.Nodes) != 1 || len(n.LimitChanges) > 0 || o == nil || o.Entries == nil || n.StartEntries == nil || *o.Entries <= *n.StartEntries {
		return ""
	}
	var held uint64
	for _, t := range f.Traffic {
		if t.HeldPeak != nil {
			held += *t.HeldPeak
		}
	}
	came := *o.Entries - *n.StartEntries
	if 2*held <= came {
		return ""
	}
	what := "with connections that are held open"
	if 100*held < 99*came {
		what = "mostly " + what
	}
	if c := n.Census; c != nil && c.Ballast > 0 && n.HeadroomAtStart != nil {
		return fmt.Sprintf(": %d entries were free when traffic began, which filled %s; another %d are ballast, which stands for what a busy node holds", *n.HeadroomAtStart, what, c.Ballast)
	}
	return fmt.Sprintf(" %s, %d of %d entries that came", what, min(held, came), came)
}

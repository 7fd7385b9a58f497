package report

import (
	"fmt"

	"github.com/tablefull/tablefull/report/search"
	"github.com/tablefull/tablefull/scenarios"
)

// room is what the trials of a search had to fill.
type room struct {
	free    uint64  // entries when traffic began; 0 for unknown
	limit   uint64  // 0 for unknown
	ballast bool    // the rest was filled by us
	staysS  float64 // how long the one entry of an attempt outlives it; 0 for unknown
}

// roomOfTrials is what the scenario asked for, as trials that had other room say
// nothing; without a filling, what the first trial that counts had.
func (l *log) roomOfTrials(c *Capacity) room {
	r := room{limit: l.header.Limit}
	for _, t := range c.Trials {
		if t.Kind != string(search.Control) && !t.Inconclusive && t.FreeAtStart != nil && *t.FreeAtStart > 0 {
			r.free = uint64(*t.FreeAtStart)
			break
		}
	}
	s := l.scenario()
	if s == nil || r.free == 0 {
		return r
	}
	if s.Conntrack.Max != nil {
		r.limit = uint64(max(0, *s.Conntrack.Max)) //nolint:gosec // not negative
	}
	if h := s.Conntrack.Headroom; h != nil && *h > 0 {
		r.free, r.ballast = uint64(*h), l.header.Target == "lab"
	}
	if c.Measure == "establishment_rate" && len(s.Traffic) == 1 && l.header.Target == "lab" && s.Lab.Nodes <= 1 {
		r.staysS = l.stays(s, &s.Traffic[0])
	}
	return r
}

// stays is how long the one entry of an attempt outlives it in s; 0 where an
// attempt has another number of them.
func (l *log) stays(s *scenarios.Scenario, t *scenarios.Traffic) float64 {
	timeout := ""
	switch short, udp := t.ShortLived, t.UDP; {
	case !s.Tracked(t.To) || s.Lab.Tunnel != nil:
	case short != nil && short.SourcePorts == nil && short.Close == "fin":
		timeout = "tcp_timeout_time_wait"
	case short != nil && short.SourcePorts == nil && short.Close == "rst":
		timeout = "tcp_timeout_close"
	case udp != nil && udp.SourcePorts == nil && udp.Socket != "long_lived":
		timeout = "udp_timeout"
	}
	if v, set := s.Conntrack.Timeouts[timeout]; set {
		return v.Seconds()
	}
	return l.header.Timeouts[timeout]
}

// beganText says of how many free entries a bound is; empty where the table is
// not what bounds it.
func (c *Capacity) beganText() string {
	g := c.Goals[0]
	if c.room.free == 0 || g.Upper == nil || c.lostOf(g, *g.Upper) != tableFull {
		return ""
	}
	s := fmt.Sprintf(" Those trials began with %d", c.room.free)
	if c.room.limit > 0 {
		s += fmt.Sprintf(" of %d", c.room.limit)
	}
	s += " entries free"
	if c.Measure == "concurrent_connections" && g.Lower != nil && *g.Lower >= float64(c.room.free) {
		s += ", and all of them could be used"
	}
	if c.room.ballast {
		s += "; the others are ballast, which stands for what a busy node holds"
	}
	return s + "."
}

// lastsText says which rate the free entries carry for good, at worst and at best
// (see collectorGap); empty where that is not known, or not what bounds it.
func (c *Capacity) lastsText() string {
	if c.room.staysS <= c.TrialS || c.beganText() == "" {
		return ""
	}
	free := float64(c.room.free)
	return fmt.Sprintf(" An entry stays for %g s after its attempt, and counts for up to %d s more until it is collected, so the rate that lasts is %s to %s.",
		c.room.staysS, collectorGap, perSecond(free/(c.room.staysS+collectorGap)), perSecond(free/c.room.staysS))
}

// each says what the trials have in common.
func (c *Capacity) each() string {
	s := "Each trial is a run of its own"
	if c.room.free > 0 {
		s += fmt.Sprintf(", and begins with the same %s", plural(c.room.free, "free entry", "free entries"))
	}
	for _, t := range c.Trials {
		if t.Kind == string(search.Control) && t.FreeAtStart != nil && *t.FreeAtStart > 0 && uint64(*t.FreeAtStart) > c.room.free+c.room.free/100 {
			return s + fmt.Sprintf("; one of the control arm with %d.", *t.FreeAtStart)
		}
	}
	return s + "."
}

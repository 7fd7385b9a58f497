package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
)

// maxLimitChanges bounds how many changes of a node's limit are told one by
// one; a soak could have any number.
const maxLimitChanges = 100

// changesLimit are the actions that can change a node's limit: conntrack_settings
// writes it, and a kube-proxy does at its start.
var changesLimit = []string{"conntrack_settings", "restart_proxy", "upgrade_proxy"}

// refill is a change of the ballast while traffic flowed.
type refill struct {
	t  float64
	by float64 // entries, negative where it became less
}

// noteLimit notes that the limit is another one than in the sample before.
func (n *node) noteLimit(s tableSample) {
	before := n.limitRead
	n.limitRead = s
	if before.limit == 0 || s.t <= 0 || before.limit == s.limit {
		return
	}
	if len(n.limitChanges) == maxLimitChanges {
		n.otherChanges++
		return
	}
	from := max(0, before.t)
	n.limitChanges = append(n.limitChanges, LimitChange{AtS: (from + s.t) / 2, UncertaintyS: (s.t-from)/2 + (before.took+s.took)/2, From: before.limit, To: s.limit, Entries: s.entries})
}

// narrowLimits says more exactly when the limit was lowered where a first loss
// for a full table cannot be explained by the limit before: the new one was in
// force by then.
func (n *node) narrowLimits(drop *Onset) {
	if drop == nil || drop.Entries == nil {
		return
	}
	for i := range n.limitChanges {
		c := &n.limitChanges[i]
		from, to, by := c.AtS-c.UncertaintyS, c.AtS+c.UncertaintyS, drop.AtS+drop.UncertaintyS
		if c.To < c.From && float64(*drop.Entries) < 0.99*float64(c.From) && by > from && by < to {
			c.AtS, c.UncertaintyS = (from+by)/2, (by-from)/2
		}
	}
}

// when is like: between 11.80 s and 11.85 s.
func (c *LimitChange) when() string {
	return fmt.Sprintf("between %.2f s and %.2f s", c.AtS-c.UncertaintyS, c.AtS+c.UncertaintyS)
}

// addRefill notes what an action did to the ballast.
func (n *node) addRefill(t float64, e *runlog.Event) {
	inserted, _ := strconv.ParseFloat(e.Fields["inserted"], 64)
	deleted, _ := strconv.ParseFloat(e.Fields["deleted"], 64)
	if e.Name == "changed" && sane(inserted) && sane(deleted) {
		n.refills = append(n.refills, refill{t, inserted - deleted})
	}
}

// refilled is how much ballast was added from the start of traffic to t.
func (n *node) refilled(t float64) (sum float64) {
	for _, r := range n.refills {
		if r.t <= t {
			sum += r.by
		}
	}
	return sum
}

// mostRefilled is the most ballast that was there beyond that of the start.
func (n *node) mostRefilled() (most float64) {
	for _, r := range n.refills {
		most = max(most, n.refilled(r.t))
	}
	return most
}

// limitAt is the limit at a time.
func (n *node) limitAt(t float64) uint64 {
	limit := n.atStart.limit
	for _, c := range n.limitChanges {
		if c.AtS <= t {
			limit = c.To
		}
	}
	return limit
}

// roomAt is what the traffic may have of the table at a time: the limit, less
// what was there at its start, and less ballast that came since.
func (n *node) roomAt(t float64) float64 {
	return float64(n.limitAt(t)) - float64(n.atStart.entries) - n.refilled(t)
}

// roomSteps are the times at which that changes.
func (n *node) roomSteps() []float64 {
	var ts []float64
	for _, c := range n.limitChanges {
		ts = append(ts, c.AtS)
	}
	for _, r := range n.refills {
		ts = append(ts, r.t)
	}
	slices.Sort(ts)
	return ts
}

// whoChanged names the actions that can have changed each limit.
func (l *log) whoChanged(n *node) []LimitChange {
	out := make([]LimitChange, 0, len(n.limitChanges))
	for _, c := range n.limitChanges {
		c.Actions = []string{}
		from, to := c.AtS-c.UncertaintyS-l.clockBound, c.AtS+c.UncertaintyS+l.clockBound
		for _, a := range l.cluster.acts {
			on := len(a.nodes) == 0 || slices.Contains(a.nodes, n.name)
			if on && slices.Contains(changesLimit, a.kind) && a.begin <= to && !(a.end < from) { // NaN while it goes on
				c.Actions = append(c.Actions, a.name)
			}
		}
		out = append(out, c)
	}
	return out
}

// limitsBy is what an action did to nodes' limits, like: lowered node1's limit from
// 262144 to 131072. It can have done so and yet not be done: a kube-proxy writes the
// limit before it programs anything. Empty where none changed.
func limitsBy(f *Findings, s *Spike) string {
	var parts []string
	for i := range f.Nodes {
		for _, c := range f.Nodes[i].LimitChanges {
			// Of an action that is done again and again, it is that time's.
			const clocks = 0.1 // s
			then := c.AtS+c.UncertaintyS >= s.BeginS-clocks && (s.DoneS == nil || c.AtS-c.UncertaintyS <= *s.DoneS+clocks)
			if !then || !slices.Contains(c.Actions, s.Action) {
				continue
			}
			verb := "raised"
			if c.To < c.From {
				verb = "lowered"
			}
			parts = append(parts, fmt.Sprintf("%s %s's limit from %d to %d", verb, f.Nodes[i].Name, c.From, c.To))
		}
	}
	return listed(parts)
}

// unasked says so where the limit changed and no action of the run did that.
func (n *node) unasked(f *Findings) string {
	for i := range f.Nodes {
		if f.Nodes[i].Name != n.name {
			continue
		}
		for _, c := range f.Nodes[i].LimitChanges {
			if len(c.Actions) == 0 {
				lo, hi := n.limits()
				return fmt.Sprintf("%s's limit was not always the same, and no action changed it at %s: between %d and %d while traffic flowed", n.name, seconds(c.AtS), lo, hi)
			}
		}
	}
	if n.otherChanges > 0 {
		return fmt.Sprintf("%s's limit changed %s after the first %d, which are not told one by one", n.name, times(n.otherChanges), maxLimitChanges)
	}
	return ""
}

func times(n uint64) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// limitText is like: 131072 when traffic began; 262144 from 1.1 s on (administrator).
func limitText(n *Node) string {
	if len(n.LimitChanges) == 0 {
		return ""
	}
	s := fmt.Sprintf("%d when traffic began", n.LimitChanges[0].From)
	for _, c := range n.LimitChanges {
		from := seconds(c.AtS) + " on"
		if c.UncertaintyS >= 0.02 { // else an action could seem to begin after what it did, or a loss before
			from = "a moment " + c.when() + " on"
		}
		s += fmt.Sprintf("; %d from %s%s", c.To, from, c.by())
		if c.Entries > c.To {
			s += fmt.Sprintf(", when there were %d entries, %d more than that", c.Entries, c.Entries-c.To)
		}
	}
	return s
}

// by is like: " (administrator)".
func (c *LimitChange) by() string {
	if len(c.Actions) == 0 {
		return ""
	}
	return " (" + strings.Join(c.Actions, ", ") + ")"
}

// lowered is the change that took the room away in which the onset's
// connection would have had its entry; nil where there is none: the last one
// before the onset, if it was to less than there was.
func lowered(n *Node, o *Onset) *LimitChange {
	var last *LimitChange
	for i := range n.LimitChanges {
		if c := &n.LimitChanges[i]; o != nil && c.AtS-c.UncertaintyS <= o.AtS+o.UncertaintyS {
			last = c
		}
	}
	if last == nil || last.To >= last.From || last.Entries <= last.To {
		return nil
	}
	return last
}

// limitSeen says so where a limit was seen to be lowered to less than there was,
// which no doubt about the generator touches.
func limitSeen(f *Findings) string {
	n := headNode(f)
	if n == nil {
		return ""
	}
	c := lowered(n, firstOnset(n.Knee))
	if c == nil {
		return ""
	}
	return fmt.Sprintf(" But %s's limit was seen to be lowered from %d to %d%s, to less than it held, and it dropped new connections.", n.Name, c.From, c.To, c.by())
}

// loweredText is the same for a headline.
func loweredText(n *Node, o *Onset) string {
	c := lowered(n, o)
	if c == nil {
		return ""
	}
	return fmt.Sprintf(" since its limit was lowered from %d to %d%s, to less than it held", c.From, c.To, c.by())
}

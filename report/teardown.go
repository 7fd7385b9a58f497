package report

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/scenarios"
)

// unclosedLook is the look-up of a connection that was not torn down.
type unclosedLook struct {
	due   float64
	found bool // it had an entry
}

// A TearDown is what became of held connections that were closed at a rate,
// as both ends and as the nodes' tables saw it.
type TearDown struct {
	Due       uint64            `json:"due" jsonschema_description:"Connections that were due to be closed."`
	Closed    uint64            `json:"closed" jsonschema_description:"Of those, torn down: the client sent FIN, and saw the server's within the timeout. What is left in FIN-WAIT-2 is not (RFC 3511 5.4)."`
	Failed    uint64            `json:"failed" jsonschema_description:"Of those, not torn down: lost before their turn, reset, or still open at the timeout."`
	LateShare *float64          `json:"late_share" jsonschema_description:"Share of due whose FIN was sent more than 10 ms (in a private kernel 30 ms) late; null where none was due."`
	RatePerS  *float64          `json:"rate_per_s" jsonschema_description:"Connections torn down per second, from the first FIN to the end of the last tear-down; null with less than two."`
	LongestMs *float64          `json:"longest_ms" jsonschema_description:"What a tear-down took at most from when it was due, ms; null without any."`
	LookedUp  map[string]uint64 `json:"looked_up" jsonschema_description:"Tear-downs that failed whose entry was looked up right after, by the state it was in, or no entry."`
	WalkedAtS *float64          `json:"walked_at_s" jsonschema_description:"Run time in s of the walk over the table, the last one, that entries is from; null where there was none after the last tear-down."`
	Entries   map[string]uint64 `json:"entries" jsonschema_description:"The service's entries on all nodes in that walk, by TCP state: a FIN leaves TIME_WAIT, which counts against the limit for nf_conntrack_tcp_timeout_time_wait more. Null where there was no such walk, or where other traffic goes to the service, too."`

	flushed   string // the flush that they failed of; empty where that is not shown
	flushedBy *act   // that did it; nil where nobody of the run did
	looks     int    // look-ups that show it
}

// tearDown is the finding about one traffic, nil where it closes nothing at a
// rate.
func (l *log) tearDown(t *traffic) *TearDown {
	var c runlog.Closing
	for _, v := range t.lanes {
		if v.held == nil || v.held.Closing == nil {
			continue
		}
		x := v.held.Closing
		if x.First > 0 && (c.First == 0 || x.First < c.First) {
			c.First = x.First
		}
		c.Due, c.Closed, c.Failed, c.Late = c.Due+x.Due, c.Closed+x.Closed, c.Failed+x.Failed, c.Late+x.Late
		c.Last, c.Longest = max(c.Last, x.Last), max(c.Longest, x.Longest)
	}
	if c.Due == 0 {
		return nil
	}
	late := float64(c.Late) / float64(c.Due)
	d := &TearDown{Due: c.Due, Closed: c.Closed, Failed: c.Failed, LateShare: &late, LookedUp: t.unclosed}
	if d.LookedUp == nil {
		d.LookedUp = map[string]uint64{}
	}
	if c.Closed > 1 && c.Last > c.First {
		d.RatePerS = finite(float64(c.Closed-1) / (c.Last - c.First))
	}
	if c.Closed > 0 {
		d.LongestMs = finite(c.Longest * 1000)
	}
	d.WalkedAtS, d.Entries = l.entriesAfter(t, c.Last)
	if d.Failed > 0 {
		if x, looks := l.flushed(t); x != nil {
			d.flushed, d.flushedBy, d.looks = l.flushText(*x), l.flusher(*x), looks
		}
	}
	return d
}

// entriesAfter are the entries of the traffic's service by state, in walks over
// all tables that ended after t; nil where they are not known.
func (l *log) entriesAfter(t *traffic, last float64) (at *float64, entries map[string]uint64) {
	s := l.service(t.info.To)
	shared := slices.ContainsFunc(l.order, func(o *traffic) bool { return o != t && o.info.To == t.info.To })
	if s == nil || shared || len(l.nodeList) == 0 {
		return nil, nil
	}
	entries = map[string]uint64{}
	from := math.Inf(1)
	for _, n := range l.nodeList {
		w := n.lastWalk
		if w == nil || w.Other > 0 || n.lastWalkAt-w.Took < last { // of groups beyond the bound nobody knows
			return nil, nil
		}
		from = min(from, n.lastWalkAt)
		for _, g := range w.Groups {
			if g.Proto == "tcp" && (g.Service == s.Addr || l.isBackend(s.Name, g.Service.Addr())) {
				entries[g.State] += g.Count
			}
		}
	}
	return finite(from), entries
}

// lookAtUnclosed notes what the look-up of a connection found that was not torn
// down; false where it was for another reason.
func (t *traffic) lookAtUnclosed(a *runlog.Autopsy) bool {
	key := attempt{a.Traffic, a.Node, a.Seq}
	due, is := t.unclosedOnes[key]
	if !is {
		return false
	}
	delete(t.unclosedOnes, key)
	t.unclosedLooks = append(t.unclosedLooks, unclosedLook{due, a.Found})
	if t.unclosed == nil {
		t.unclosed = map[string]uint64{}
	}
	state := "no entry"
	if a.Found {
		state = cmpOr(a.State, "an entry")
	}
	t.unclosed[state]++
	return true
}

func (t *traffic) noteUnclosed(f *runlog.Failure) {
	if t.unclosedOnes == nil {
		t.unclosedOnes = map[attempt]float64{}
	}
	if len(t.unclosedOnes)+len(t.unclosedLooks) < maxLosses {
		t.unclosedOnes[attempt{f.Traffic, f.Node, f.Seq}] = f.Due
	}
}

// text is like: 3000 of 3000 closed, 1000/s, each within 3 ms; entries after it
// at 7.3 s: 3000 TIME_WAIT.
func (d *TearDown) text() string {
	s := fmt.Sprintf("%d of %d, by FIN from the client and then the server", d.Closed, d.Due)
	if d.RatePerS != nil {
		s += ", " + perSecond(*d.RatePerS)
	}
	if d.LongestMs != nil {
		s += ", each within " + ms(d.LongestMs) + " ms"
	}
	if d.Failed > 0 {
		s += fmt.Sprintf("; %d failed", d.Failed)
		if len(d.LookedUp) > 0 {
			s += " (looked up: " + countsText(d.LookedUp) + ")"
		}
		if d.flushed != "" {
			s += fmt.Sprintf(": %s, and %d of %d that were due after that and looked up when they had failed had no entry any more", d.flushed, d.looks, d.looks)
		}
	}
	if d.WalkedAtS != nil {
		s += fmt.Sprintf("; entries at %s: %s", seconds(*d.WalkedAtS), cmpOr(countsText(d.Entries), "none"))
	}
	return s
}

// toldBy is the threshold that failed of it, whose result tells all of it; nil for
// none.
func (d *TearDown) toldBy(f *Findings) *ThresholdResult {
	for i := range f.Thresholds {
		if r := &f.Thresholds[i]; d != nil && d.Failed > 0 && r.Result == Fail && r.Detail == d.text() {
			return r
		}
	}
	return nil
}

// failedText is like: 400 of subscribers' 500 connections were not torn down: ...
func (d *TearDown) failedText(traffic string) string {
	s := fmt.Sprintf("%d of %s %s not torn down", d.Failed, whose(traffic), plural(d.Due, "connection was", "connections were"))
	if d.flushed != "" {
		s += ": " + d.flushed
	}
	return s
}

func countsText(counts map[string]uint64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[name], name))
	}
	return strings.Join(parts, ", ")
}

// lost are the connections that were not torn down, of a traffic whose count
// should have been: those that did not end in time, or whose entries are left
// in ESTABLISHED, whichever are more. Why says why that is not known.
func (d *TearDown) lost(tr *Traffic, count uint64, tracked bool) (lost uint64, why string) {
	switch {
	case d == nil:
		return 0, fmt.Sprintf("no data: none of %s connections was due to be closed", whose(tr.Name))
	case tr.Succeeded == nil || *tr.Succeeded != count:
		return 0, fmt.Sprintf("not all of %s connections could be opened, so not all could be torn down", whose(tr.Name))
	case d.Due != count:
		return 0, fmt.Sprintf("%d of %s connections were due to be closed, and %d were asked for", d.Due, whose(tr.Name), count)
	case tracked && d.Entries == nil:
		return 0, fmt.Sprintf("no data: the table was not walked after the last of %s connections was torn down", whose(tr.Name))
	}
	return max(d.Due-min(d.Due, d.Closed), d.Entries["ESTABLISHED"]), ""
}

// unclosedMetric is how many connections were not torn down.
func unclosedMetric(traffic string, f *Findings) (v float64, detail string) {
	v, detail = math.NaN(), "no traffic closes connections at a rate"
	for _, t := range f.Traffic {
		if t.TearDown == nil || traffic != "" && t.Name != traffic {
			continue
		}
		if math.IsNaN(v) {
			v, detail = 0, ""
		}
		v += float64(max(t.TearDown.Failed, t.TearDown.Entries["ESTABLISHED"]))
		if detail != "" {
			detail += "; "
		}
		detail += t.TearDown.text()
	}
	return v, detail
}

// closing is the scenario's traffic of that name if it closes connections at a
// rate, otherwise nil.
func closing(s *scenarios.Scenario, name string) *scenarios.Traffic {
	for i := range s.Traffic {
		if t := &s.Traffic[i]; t.Name == name && t.Closing() > 0 {
			return t
		}
	}
	return nil
}

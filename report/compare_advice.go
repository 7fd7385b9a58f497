package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// advise says what to change where a table was full in some arm: in the system as
// the first arm has it, and then what each arm's own run shows of how much room
// there was, and how much its load needs for good. It is empty where a gate
// decides, which is about the difference, and where nothing is concluded.
func (c *Comparison) advise(e *Experiment) []string {
	if c.Verdict == Inconclusive || len(e.Gate) > 0 {
		return nil
	}
	full := false
	for i := range c.Arms {
		if f := c.Arms[i].typical(); f != nil && f.Capacity == nil {
			n := headNode(f)
			full = full || n != nil && firstOnset(n.Knee) != nil
		}
	}
	if !full {
		return nil
	}
	var out []string
	if f := c.Arms[0].typical(); f != nil && tableTrouble(f) {
		out = append(out, fmt.Sprintf("%s: %s", c.Baseline, advise(f).Do))
	}
	if s := c.held(); s != "" {
		out = append(out, s)
	}
	for i := range c.Arms {
		if f := c.Arms[i].typical(); f != nil && f.Capacity == nil {
			if s := roomText(f); s != "" {
				out = append(out, c.Arms[i].Name+" "+s+".")
			}
		}
	}
	return out
}

// held names the arms whose tables were not full in any run, although the first
// arm's was, with what differs in them.
func (c *Comparison) held() string {
	if f := c.Arms[0].typical(); f == nil || !tableTrouble(f) {
		return ""
	}
	var list []string
	for i := 1; i < len(c.Arms); i++ {
		a := &c.Arms[i]
		f := a.typical()
		if f == nil || f.Capacity != nil || a.Verdict == Fail || a.Verdict == Inconclusive || slices.ContainsFunc(a.trials, func(t Trial) bool { return tableTrouble(t.Findings) }) {
			continue
		}
		s := a.Name + ", for as long as it ran"
		if room := roomText(f); strings.HasPrefix(room, hasRoom) || strings.HasPrefix(room, addsNone) {
			s = a.Name + ", for good"
		}
		if by := cmpOr(a.Description, strings.Join(a.Set, "; ")); by != "" {
			s += fmt.Sprintf(" (%s)", by)
		}
		if _, _, failed := mainCause(f); failed > 0 {
			s += fmt.Sprintf(", though %s failed", plural(failed, "attempt"))
		}
		list = append(list, s)
	}
	if len(list) == 0 {
		return ""
	}
	return "Not full: " + strings.Join(list, "; ") + "."
}

const (
	hasRoom  = "was not full, and has room for good"
	addsNone = "was not full, and cannot be by this load"
)

// roomText is how what the load needs for good stands to the room that there was,
// beside whether the table filled: a run ends, and what it did not need by then it may
// need later. Empty where that is not known.
func roomText(f *Findings) string {
	n, s := headNode(f), f.Sizing
	if n == nil || n.HeadroomAtStart == nil || s != nil && s.Meaningless {
		return ""
	}
	free, full := uint64(max(0, *n.HeadroomAtStart)), firstOnset(n.Knee) != nil
	// What was counted comes before what was planned, of which an action can have
	// taken the tracking away.
	if each := entriesPerAttempt(f); !full && math.Abs(each) < 0.05 {
		return unknownNeed(f, full)
	}
	had := fmt.Sprintf("%d were free when traffic began", free)
	if s == nil || s.NeededEntries == nil || s.UncollectedEntries == nil || s.unsized() != nil {
		return unknownNeed(f, full)
	}
	need, late := *s.NeededEntries, *s.UncollectedEntries
	expires := fmt.Sprintf("an entry that has expired counts until the kernel's collector comes by, at the latest after %d s, and by then there can be %d more", collectorGap, late)
	switch {
	case full && need <= free && need+late > free:
		return fmt.Sprintf("was full although its load needs only %d entries in the steady state, and %s: %s", need, had, expires)
	case full && need <= free:
		return fmt.Sprintf("was full although its load needs only %d entries in the steady state, and %s: see its own report", need, had)
	case full:
		return fmt.Sprintf("was full because its load needs %d entries in the steady state, and %s", need, had)
	case need > free:
		return fmt.Sprintf("was not full in the time of this run, and would be later: its load needs %d entries in the steady state, and %s", need, had)
	case need+late > free:
		return fmt.Sprintf("was not full: its load needs %d entries in the steady state, and %s; but %s", need, had, expires)
	}
	return fmt.Sprintf(hasRoom+": its load needs %d entries in the steady state, and %s", need, had)
}

// unknownNeed is the same where what the load needs cannot be computed.
func unknownNeed(f *Findings, full bool) string {
	each := entriesPerAttempt(f)
	switch {
	case !full && math.Abs(each) < 0.05:
		return addsNone + ": an attempt adds no entry"
	case !full:
		return "was not full in the time of this run; what its load needs for good cannot be computed"
	case math.IsNaN(each):
		return "was full; what its load needs for good cannot be computed"
	}
	return fmt.Sprintf("was full, and an attempt added about %s entries; what its load needs for good cannot be computed", amount(each, "entries"))
}

// reproduced says whether the arm passed because all that is expected of it was
// shown in each of its trials.
func (a *ArmFindings) reproduced() bool {
	return a.Verdict == Pass && !slices.ContainsFunc(a.trials, func(t Trial) bool { return t.Findings.Reproduced == nil || !*t.Findings.Reproduced })
}

// Badge is the arm's verdict as it stands beside its name.
func (a ArmFindings) Badge() string {
	of := ""
	if a.reproduced() {
		of = "reproduced"
	}
	return badge(a.Verdict, of)
}

// Badge is the verdict as it stands above the comparison.
func (c *Comparison) Badge() string {
	of, gated := "", slices.ContainsFunc(c.Metrics, func(r MetricRow) bool { return r.Gate })
	if !gated && len(c.Arms) > 0 && !slices.ContainsFunc(c.Arms, func(a ArmFindings) bool { return !a.reproduced() }) {
		of = "reproduced"
	}
	return badge(c.Verdict, of)
}

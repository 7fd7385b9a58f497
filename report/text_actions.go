package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxSpikeLines is how many occurrences of actions a text lists.
const maxSpikeLines = 12

// actions writes what the actions did to the traffic, and how far dataplanes
// and pods were behind.
func (t *text) actions(f *Findings) {
	lines := actionLines(f)
	if len(lines) == 0 {
		return
	}
	t.line("")
	t.line("actions")
	for _, s := range lines {
		t.para("  - ", plain(s))
	}
}

// actionLines are the actions, and how far dataplanes and pods were behind, a
// line each: the worst ones of many.
func actionLines(f *Findings) []string {
	var out []string
	order := make([]int, len(f.Spikes))
	for i := range order {
		order[i] = i
	}
	if len(order) > maxSpikeLines {
		slices.SortStableFunc(order, func(x, y int) int {
			a, b := &f.Spikes[x], &f.Spikes[y]
			return cmp.Or(cmp.Compare(b.Failures, a.Failures), boolOrder(a.Error == "", b.Error == ""))
		})
		order = order[:maxSpikeLines]
		slices.Sort(order)
	}
	for _, i := range order {
		out = append(out, spikeText(&f.Spikes[i])+unclosedBy(f, &f.Spikes[i]))
	}
	if n := uint64(len(f.Spikes)-len(order)) + f.OtherSpikes; n > 0 {
		out = append(out, fmt.Sprintf("and %s that cost no more than these", plural(n, "action")))
	}
	for i := range f.Nodes {
		for _, s := range []string{staleText(&f.Nodes[i]), conditionText(&f.Nodes[i]), proxyText(&f.Nodes[i])} {
			if s != "" {
				out = append(out, s)
			}
		}
	}
	return append(out, drainLines(f)...)
}

// drainLines are the pods that took most in while they were terminating.
func drainLines(f *Findings) []string {
	var pods []*Backend
	for i := range f.Backends {
		if b := &f.Backends[i]; b.AcceptedWhileDraining != nil && *b.AcceptedWhileDraining > 0 {
			pods = append(pods, b)
		}
	}
	slices.SortStableFunc(pods, func(x, y *Backend) int { return cmp.Compare(*y.AcceptedWhileDraining, *x.AcceptedWhileDraining) })
	var out []string
	for _, b := range pods[:min(5, len(pods))] {
		s := fmt.Sprintf("%s took in at least %d while it was terminating and others were usable", b.Name, *b.AcceptedWhileDraining)
		if b.DrainingShare != nil {
			s += fmt.Sprintf("; %s of all that %s took in from when the proxy gave it nothing new%s", percent(*b.DrainingShare), b.Service, b.reuse())
		}
		out = append(out, s)
	}
	if n := len(pods) - len(out); n > 0 {
		out = append(out, fmt.Sprintf("and %s took in less while terminating", plural(uint64(n), "other pod")))
	}
	return out
}

// spikeName is like: roll no. 2 (rollout).
func spikeName(s *Spike) string {
	name := s.Action
	if s.Number > 1 {
		name += fmt.Sprintf(" no. %d", s.Number)
	}
	if s.Kind != s.Action {
		name += fmt.Sprintf(" (%s)", s.Kind)
	}
	if len(s.Nodes) > 0 {
		name += " on " + strings.Join(s.Nodes, ", ")
	}
	return name
}

// spikeText is like: roll (rollout) at 2.0 s, done at 3.9 s: 120 attempts
// failed ...
func spikeText(s *Spike) string {
	b := &strings.Builder{}
	fmt.Fprintf(b, "%s at %s", spikeName(s), seconds(s.BeginS))
	if len(s.Together) > 0 {
		fmt.Fprintf(b, " (together with %s: what failed can be of either)", strings.Join(s.Together, ", "))
	}
	switch {
	case s.Error != "":
		b.WriteString(", " + s.FailedText())
	case s.DoneS != nil:
		fmt.Fprintf(b, ", done at %s", seconds(*s.DoneS))
	case s.did != "":
		b.WriteString(", which " + s.did + ", not seen to end")
	default:
		b.WriteString(", not seen to end")
	}
	b.WriteString(": " + costText(s))
	if len(s.Ties) > 0 {
		b.WriteString("; " + s.Ties[0]) // the longest
	}
	if len(s.Events) > 0 {
		b.WriteString("; meanwhile, as Kubernetes says, at " + strings.Join(s.Events, "; at "))
	}
	if s.HeldLost != nil && *s.HeldLost > 0 {
		fmt.Fprintf(b, "; %s found lost until the next action or the end", plural(*s.HeldLost, "held connection was", "held connections were"))
	}
	if s.P99Ms != nil {
		fmt.Fprintf(b, "; p99 %s ms around it", ms(s.P99Ms))
		if s.crowded {
			b.WriteString(", and around others of that time")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(s.Steps)) {
		if s.Steps[k] > 0 {
			fmt.Fprintf(b, "; %s took about %s", plural(s.Steps[k], "attempt"), k)
		}
	}
	return b.String()
}

// FailedText is why an action is not called done, and what it did all the same.
func (s Spike) FailedText() string {
	switch {
	case s.Error == "":
		return ""
	case s.did != "":
		return fmt.Sprintf("which %s, and was not done: %s", s.did, s.Error)
	}
	return "did not work: " + s.Error
}

// dueFrom is like: due from 2.1 s to 2.7 s.
func dueFrom(from, to float64) string {
	if seconds(from) == seconds(to) {
		return "due at " + seconds(from)
	}
	return fmt.Sprintf("due from %s to %s", seconds(from), seconds(to))
}

// costText says what failed around an action.
func costText(s *Spike) string {
	switch {
	case s.WatchedToS == nil && s.StartS == nil:
		return "no attempt was due then that anybody can count"
	case s.StartS == nil && s.Before > 0:
		return steadyText(s)
	case s.StartS == nil:
		return fmt.Sprintf("no attempt failed of those due to %s", seconds(*s.WatchedToS))
	}
	b := &strings.Builder{}
	from, to, _ := s.lasted()
	fmt.Fprintf(b, "%s %s failed, at most %s of those due at one time", plural(s.Failures, "attempt that was", "attempts that were"), dueFrom(from, to), percent(s.PeakErrorRatio))
	if len(s.FailedBy) > 0 {
		var all uint64
		for _, n := range s.FailedBy {
			all += n
		}
		b.WriteString(", " + enteredBy(s.FailedBy, all))
	}
	if s.Before > 0 {
		fmt.Fprintf(b, " (less the %s that failed before it, too)", perSecond(s.Before))
	}
	b.WriteString(s.afterwards())
	var causes []string
	for _, c := range s.Causes {
		causes = append(causes, fmt.Sprintf("%s %s", c.Cause, percent(c.Share)))
	}
	if len(causes) > 0 {
		fmt.Fprintf(b, "; %s", strings.Join(causes, ", "))
	}
	b.WriteString(s.overlapText("what failed"))
	return b.String()
}

// afterwards says how long failures went on, where they were not seen to be over.
func (s *Spike) afterwards() string {
	switch {
	case s.Recovered:
		return ""
	case s.toNext && s.onward.n > 0:
		return fmt.Sprintf("; it was not over when %s began: %d more failed of those due from then to %s", s.next, s.onward.n, seconds(s.onward.to))
	case s.toNext:
		return fmt.Sprintf("; it went on until %s began", s.next)
	case s.toEnd:
		return "; it went on until the traffic ended"
	case s.tooEarly() != "":
		return fmt.Sprintf("; whether it recovered cannot be told: %s", s.tooEarly())
	case s.next != "":
		return fmt.Sprintf("; it was not seen to recover before %s began", s.next)
	}
	return "; it was not seen to recover"
}

// steadyText says what became of failures that were there before an action, and
// of which it made no more.
func steadyText(s *Spike) string {
	before, after := perSecond(s.Before), perSecond(s.After)
	fell := s.overlapText("that they fell")
	switch {
	case s.StoppedS != nil:
		more := ""
		if s.lastly > 0 {
			more = fmt.Sprintf("then %d more, ", s.lastly)
		}
		return fmt.Sprintf("before it %s of those due failed, %sand none of those due from %s to %s", before, more, seconds(*s.StoppedS), seconds(*s.WatchedToS)) + s.overlapText("that they ended")
	case s.endedS != nil:
		return fmt.Sprintf("attempts went on failing until %s after it began: %d more did, and none of those due from %s to %s", stretch(*s.endedS-s.BeginS), s.lastly, seconds(*s.endedS), seconds(*s.WatchedToS)) + s.overlapText("that they ended")
	case s.was.more(s.is) && s.is.n == 0:
		return fmt.Sprintf("before it %s of those due failed, and none of those due to %s", before, seconds(*s.WatchedToS)) + fell
	case s.was.more(s.is):
		return fmt.Sprintf("failures fell: before it %s of those due failed, and %s of those due to %s", before, after, seconds(*s.WatchedToS)) + fell
	}
	if s.is.n == 0 && s.was.n > 0 {
		return fmt.Sprintf("no attempt failed of those due to %s, and %.0f before it: too few to tell whether they ended then", seconds(*s.WatchedToS), s.was.n)
	}
	what := "attempts went on failing as before it"
	if s.was.apart(s.is) {
		what = "attempts failed before it, too"
	}
	text := fmt.Sprintf("%s: %s of those due to %s, %s before", what, after, seconds(*s.WatchedToS), before)
	if after != before {
		text += fmt.Sprintf("; %.0f and %.0f failed, which chance can make of one rate", s.is.n, s.was.n)
	}
	return text
}

// overlapText says so where something in the action's time need not be its doing:
// others were not done when it began.
func (s *Spike) overlapText(what string) string {
	switch len(s.Overlaps) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("; %s was not done when it began: %s can be of either", s.Overlaps[0], what)
	}
	return fmt.Sprintf("; %s were not done when it began: %s can be of any of them", listed(s.Overlaps), what)
}

// staleText says how far a node's dataplane was from the endpoints.
func staleText(n *Node) string {
	s := n.Stale
	if s == nil {
		return ""
	}
	missing := ""
	if s.MaxMissingS > 0 {
		missing = "; a usable endpoint was missing for " + s.LongestMissing()
	}
	if s.MaxBackends == 0 && missing == "" && s.quiet {
		return ""
	}
	if s.MaxBackends == 0 {
		return n.Name + "'s dataplane: no stale backend was seen" + missing
	}
	text := fmt.Sprintf("%s's dataplane: %s, the longest for %s", n.Name, s.InAll("stale backend"), s.Longest())
	var names []string
	named := 0
	for i, b := range s.Backends {
		if b.What != "stale" || len(names) == 5 {
			continue
		}
		named = i + 1
		open := ""
		if !b.Ended {
			open = ", not seen to end"
		}
		names = append(names, fmt.Sprintf("%s (%s, %s to %s%s)", b.Pod, b.Addr, seconds(b.FromS), seconds(b.over()), open))
	}
	if more := distinct(s.Backends) - distinct(s.Backends[:named]); more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return text + ": " + strings.Join(names, "; ") + missing
}

// worstSpike is the action around which most attempts failed; nil where none
// did.
func worstSpike(f *Findings) *Spike {
	var worst *Spike
	for i := range f.Spikes {
		if s := &f.Spikes[i]; s.Failures > 0 && (worst == nil || s.Failures > worst.Failures) {
			worst = s
		}
	}
	return worst
}

// spikeHeadline is the answer where an action cost attempts and the table held.
func spikeHeadline(f *Findings, s *Spike) string {
	from, to, exact := s.lasted()
	when := fmt.Sprintf("from %s after %s began", stretch(from-s.BeginS), spikeName(s))
	if *s.StartS <= s.BeginS {
		when = fmt.Sprintf("when %s began", spikeName(s))
	}
	what := plural(s.Failures, "attempt") + " failed"
	if _, _, all := mainCause(f); all > s.Failures {
		what = fmt.Sprintf("%d of the %d attempts that failed did so", s.Failures, all)
	}
	text := what + " " + when
	switch {
	case !exact:
		text += ", for about " + stretch(to-from)
	case to > from:
		text += ", for " + stretch(to-from)
	}
	if s.toEnd {
		text += " until the traffic ended"
	}
	if len(s.Causes) > 0 && s.Causes[0].Cause != unknownCause {
		text += fmt.Sprintf(", %s of them because of %s%s", percent(s.Causes[0].Share), s.Causes[0].Cause, mechanism(f, s))
	}
	if slices.ContainsFunc(f.Causes, func(c Cause) bool { return byTable(c.Cause) && c.Failures > 0 }) {
		return text + "."
	}
	return text + ". The table held."
}

// mechanism says in a few words how the spike's main cause came about.
func mechanism(f *Findings, s *Spike) string {
	switch s.Causes[0].Cause {
	case drainingBackend:
		return ": they were sent to pods that were terminating"
	case backendGone:
		return ": the pods they had been sent to ended before they could answer"
	case noEndpoint:
		for node := range s.FailedBy {
			if len(s.FailedBy) == 1 {
				return ": there was no usable endpoint that " + node + " could send them to" + healthAt(f, node)
			}
		}
		return ": their service had no usable endpoint"
	case untranslated:
		return ": their first packet met no rule for the service, and what they sent later followed its entry, to no pod"
	case notProgrammed:
		return ": there were usable endpoints, and the node that they entered by had rules to none"
	case staleBackend:
	default:
		return ""
	}
	var worst *Node // the one that most entered by, of these the one that was behind the longest
	for i := range f.Nodes {
		n := &f.Nodes[i]
		if n.Stale != nil && (worst == nil || cmp.Or(cmp.Compare(s.FailedBy[n.Name], s.FailedBy[worst.Name]), cmp.Compare(n.Stale.MaxS, worst.Stale.MaxS)) > 0) {
			worst = n
		}
	}
	switch {
	case worst == nil || worst.Stale.UnreadS > 0:
		return ": they were sent to addresses that were no usable pods any more"
	}
	from, to, _ := s.lasted()
	if to <= from { // one attempt's
		from, to = *s.StartS, *s.EndS
	}
	if n := f.withoutPod(s); n != nil {
		return fmt.Sprintf(": %s had no usable pod for %s of that time, and they were led to pods that were gone, so that nobody refused them", n.service, stretch(min(n.to, to)-max(n.from, from)))
	}
	kept := worst.Stale.during(from, to)
	outlived, known := s.Causes[0].outlived()
	if !known {
		outlived = kept.most < (to-from)/2
	}
	switch {
	case !outlived && kept.most > 0:
		return fmt.Sprintf(": %s kept %s", worst.Name, kept.text())
	case worst.Stale.Other > 0 || !outlived:
		return ": they were sent to addresses that were no usable pods any more"
	}
	rules := fmt.Sprintf("the rules of %s led there no more", worst.Name)
	if kept.most > 0 {
		rules = fmt.Sprintf("the rules of %s did for %s of that time", worst.Name, within(kept.least, kept.most))
	}
	if f.ipvs {
		return fmt.Sprintf(": clients used source ports again, and IPVS kept sending those to pods that were gone; %s%s", rules, drainedInto(f))
	}
	return fmt.Sprintf(": entries from before still led them to pods that were gone; %s%s", rules, drainedInto(f))
}

// drainedInto says which pod most went on to take in what old entries led to
// it while it was terminating; empty where none took in a tenth.
func drainedInto(f *Findings) string {
	var most *Backend
	for i := range f.Backends {
		if b := &f.Backends[i]; b.DrainingShare != nil && *b.DrainingShare >= 0.1 && (most == nil || *b.DrainingShare > *most.DrainingShare) {
			most = b
		}
	}
	if most == nil {
		return ""
	}
	return fmt.Sprintf("; while %s was terminating it still took in %s of what %s did", most.Name, percent(*most.DrainingShare), most.Service)
}

// stretch is a length of time for people.
func stretch(v float64) string {
	if v < 1 {
		return fmt.Sprintf("%.0f ms", v*1000)
	}
	return seconds(v)
}

// allWatched says whether there were actions, all of which worked, and the
// attempts around each of them were counted.
func allWatched(f *Findings) bool {
	bad := func(s Spike) bool { return s.Error != "" || s.DoneS == nil || s.WatchedToS == nil }
	return len(f.Spikes) > 0 && f.OtherSpikes == 0 && !slices.ContainsFunc(f.Spikes, bad)
}

// actionCount is like: 3 x rollout, 1 x restart_proxy.
func actionCount(f *Findings) string {
	counts := map[string]uint64{}
	for i := range f.Spikes {
		counts[f.Spikes[i].Kind]++
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d x %s", counts[k], k))
	}
	return strings.Join(parts, ", ")
}

// expected writes what the scenario expects, and whether it was shown.
func (t *text) expected(f *Findings) {
	if len(f.Expected) == 0 {
		return
	}
	t.line("")
	t.line("%s", strings.ToLower(expectedTitle(f)))
	for _, r := range f.Expected {
		t.para(fmt.Sprintf("  %-12s ", shownWord(r.Result)), plain(listedLine(f, r)))
	}
}

func expectedTitle(f *Findings) string {
	switch {
	case f.Reproduced == nil:
		return "Expected: cannot say whether it was reproduced"
	case *f.Reproduced:
		return "Expected: reproduced"
	default:
		return "Expected: not reproduced here"
	}
}

func shownWord(v Verdict) string {
	return map[Verdict]string{Pass: "shown", Fail: "not shown", Inconclusive: "no answer"}[v]
}

package report

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode"
)

const columns = 80

// text writes a report for a terminal of 80 columns.
type text struct {
	b     strings.Builder
	color bool
}

func renderText(f *Findings, w io.Writer, color bool) error {
	t := &text{color: color}
	t.para("", t.paint("1", plain(f.Headline)))
	if s := staged(f); s != "" {
		t.para("", plain(s))
	}
	t.line("")
	t.verdict(f)
	t.change(f)
	if f.Capacity != nil {
		t.capacity(f.Capacity)
		t.expected(f)
		t.thresholds(f)
		t.ending(f)
		return t.write(w)
	}
	for i := range f.Nodes {
		t.node(&f.Nodes[i])
		if p := f.Predicted; p != nil && p.Node == f.Nodes[i].Name {
			t.para("  predicted: ", plain(predictionText(p)))
		}
	}
	t.traffic(f)
	t.causes(f)
	t.actions(f)
	t.expected(f)
	t.thresholds(f)
	t.sizing(f.Sizing)
	t.ending(f)
	return t.write(w)
}

// ending is what limits how far the rest can be trusted, and what was left.
func (t *text) ending(f *Findings) {
	t.list("doubts", f.Doubts)
	t.list("not measured", f.NotMeasured)
	if f.Restored != nil && !*f.Restored {
		t.list("NOT PUT BACK", f.UndoErrors)
	}
	if s := madeText(f); s != "" {
		t.line("")
		t.para("made ", plain(s))
	}
}

func (t *text) write(w io.Writer) error {
	if _, err := io.WriteString(w, t.b.String()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// plain takes control characters out of what came from a log: a terminal
// obeys them.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' {
			return '?'
		}
		return r
	}, s)
}

func (t *text) paint(code, s string) string {
	if !t.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (t *text) line(format string, args ...any) {
	fmt.Fprintf(&t.b, format+"\n", args...)
}

// para writes s in lines that fit, all but the first indented by the width of
// the prefix. Words that are too long stay whole, so that they can be copied.
func (t *text) para(prefix, s string) {
	indent := strings.Repeat(" ", printed(prefix))
	line, width := prefix, len(indent)
	empty := true
	for _, word := range strings.Fields(s) {
		n := printed(word)
		if !empty && width+1+n > columns {
			t.line("%s", line)
			line, width, empty = indent, len(indent), true
		}
		if !empty {
			line += " "
			width++
		}
		line += word
		width += n
		empty = false
	}
	t.line("%s", line)
}

// printed is how many columns a word takes; colours take none.
func printed(s string) int {
	n, escape := 0, false
	for _, r := range s {
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		default:
			n++
		}
	}
	return n
}

func (t *text) verdict(f *Findings) {
	code := map[Verdict]string{Pass: "1;32", Fail: "1;31", Inconclusive: "1;33"}[f.Verdict]
	what := ""
	if f.Scenario != "" {
		what = " of " + plain(f.Scenario)
	}
	if f.Incomplete {
		what += " (incomplete)"
	}
	t.line("verdict%s: %s", what, t.paint(code, string(f.Verdict)))
	for _, r := range shownReasons(f) {
		t.para("  - ", plain(r))
	}
}

// change writes what to change, as the first screen of the HTML does. Settings to
// paste are below, under sizing, where they are not for something else.
func (t *text) change(f *Findings) {
	a, is := adviceOf(f)
	if !is {
		return
	}
	t.line("")
	t.line("what to change")
	t.para("  ", plain(a.Do))
	for _, why := range a.Why {
		t.para("  - ", plain(why))
	}
	if a.Set == "" || f.Sizing != nil && a.Set == f.Sizing.Sysctl {
		return
	}
	for line := range strings.Lines(a.Set) {
		t.line("    %s", plain(strings.TrimSuffix(line, "\n")))
	}
}

func (t *text) node(n *Node) {
	t.line("")
	if n.PeakEntries == nil {
		t.line("%s: not sampled", plain(n.Name))
		return
	}
	room := ""
	if n.HeadroomAtStart != nil {
		room = fmt.Sprintf(", %d free when traffic began", *n.HeadroomAtStart)
	}
	t.para("", fmt.Sprintf("%s: at most %s%s", plain(n.Name), filling(n), room))
	if s := limitText(n); s != "" {
		t.para("  limit: ", plain(s))
	}
	t.line("  %-12s %10s %9s %9s %7s %10s", "onset", "at", "+-", "entries", "full", "offered")
	t.onset("early_drop", n.Knee.EarlyDrop)
	t.onset("drop", n.Knee.Drop)
	t.onset("client loss", n.Knee.ClientLoss)
	var parts []string
	for _, c := range []string{"drop", "early_drop", "insert_failed", "invalid", "clashres", "chainlength", "search_restart"} {
		if v, ok := n.Counters[c]; ok && (v > 0 || c == "drop" || c == "early_drop") {
			part := fmt.Sprintf("%s +%d", c, v)
			if c == "drop" && v > 0 && n.TableFullDrops == 0 {
				part += " (none with the table full)"
			}
			parts = append(parts, part)
		}
	}
	if len(parts) > 0 {
		t.para("  counters: ", strings.Join(parts, ", "))
	}
	if n.Entered != nil {
		t.para("  entered: ", plain(enteredText(n.Entered)))
	}
	t.census(n.Census)
}

func (t *text) onset(name string, o *Onset) {
	if o == nil {
		t.line("  %-12s %10s", name, "none")
		return
	}
	entries, full, offered := "?", "?", "?"
	if o.Entries != nil {
		entries = fmt.Sprint(*o.Entries)
	}
	if o.Occupancy != nil {
		full = percent(*o.Occupancy)
	}
	if o.OfferedPerS != nil {
		offered = perSecond(*o.OfferedPerS)
	}
	t.line("  %-12s %8.3f s %7.3f s %9s %7s %10s", name, o.AtS, o.UncertaintyS, entries, full, offered)
}

func (t *text) census(c *Census) {
	if c == nil {
		return
	}
	// Groups differ in service and pod too, which is too much for a line.
	counts := map[string]uint64{}
	var kinds []string
	for _, g := range c.Groups {
		kind := plain(strings.TrimSpace(g.Proto + " " + g.State))
		if counts[kind] == 0 {
			kinds = append(kinds, kind)
		}
		counts[kind] += g.Count
	}
	slices.SortStableFunc(kinds, func(x, y string) int { return cmp.Compare(counts[y], counts[x]) })
	var parts []string
	for _, kind := range kinds[:min(len(kinds), 4)] {
		parts = append(parts, fmt.Sprintf("%d %s", counts[kind], kind))
	}
	if c.Ballast > 0 {
		parts = append(parts, fmt.Sprintf("%d filling of ours", c.Ballast))
	}
	t.para("  census: ", fmt.Sprintf("at %s: %s", c.When(), cmpOr(strings.Join(parts, ", "), "no entry")))
}

// Of is which node it is of, where there are several.
func (p *Prediction) Of() string {
	if p.several {
		return " for " + p.Node
	}
	return ""
}

// predictionText is like: full at 4.286 s, measured 4.290 s (+0.1 %); why.
func predictionText(p *Prediction) string {
	s := "never full in this run"
	if p.FullAtS != nil {
		s = fmt.Sprintf("full at %.3f s", *p.FullAtS)
		if p.lowered != nil {
			s = "full when the limit was lowered, " + p.lowered.when()
		}
	} else if p.PeakEntries == nil {
		s = "cannot be computed"
	}
	switch {
	case p.MeasuredAtS != nil && p.RelativeError != nil:
		// Adding 0 makes a rounded -0 positive.
		off := math.Round(*p.RelativeError*1000)/10 + 0
		s += fmt.Sprintf(", measured %.3f s +- %.3f s (%+.1f %%)", *p.MeasuredAtS, *p.MeasuredUncertaintyS, off)
	case p.MeasuredAtS != nil && p.lowered != nil:
		s += fmt.Sprintf("; measured %.3f s +- %.3f s", *p.MeasuredAtS, *p.MeasuredUncertaintyS)
	case p.MeasuredAtS != nil:
		s += fmt.Sprintf(", but it was at %.3f s", *p.MeasuredAtS)
	case p.FullAtS != nil:
		s += ", but it was not"
	}
	return s + "; " + p.Explanation
}

func (t *text) traffic(f *Findings) {
	if len(f.Traffic) == 0 {
		return
	}
	t.line("")
	t.line("%-16s %9s %9s %8s %8s %6s %6s %6s", "traffic", "attempts", "ok", "failed", "unstart.", "late", "p50", "p99 ms")
	for _, x := range f.Traffic {
		ok, late := "?", "?"
		if x.Succeeded != nil {
			ok = fmt.Sprint(*x.Succeeded)
		}
		if x.LateShare != nil {
			late = strings.ReplaceAll(strings.ReplaceAll(percent(*x.LateShare), " ", ""), "under", "<")
		}
		t.line("%-16s %9d %9s %8d %8d %6s %6s %6s", plain(shorten(x.Name, 16)), x.Attempted, ok, x.Failed, x.NotStarted, late, ms(x.P50Ms), ms(x.P99Ms))
		if x.HeldPeak != nil {
			t.para("  held: ", plain(x.heldText()))
			if len(x.HeldCauses) > 0 && !told(f, heldCausesText(&x)) {
				t.para("  lost: ", plain(heldCausesText(&x)))
			}
			if x.TearDown != nil && !told(f, x.TearDown.text()) {
				t.para("  torn down: ", plain(x.TearDown.text()))
			}
		}
	}
}

func ms(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v >= 100:
		return fmt.Sprintf("%.0f", math.Round(*v))
	default:
		return fmt.Sprintf("%.2g", *v)
	}
}

func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "~"
}

func (t *text) causes(f *Findings) {
	if len(f.Causes) == 0 {
		return
	}
	t.line("")
	t.line("why attempts failed")
	for _, c := range f.Causes {
		of := ""
		if c.ShareOf == "due" {
			of = " of due"
		}
		t.line("  %-18s %8d  %s%s", plain(c.Cause), c.Failures, percent(c.Share), of)
		t.para("      ", plain(c.Evidence))
	}
}

func (t *text) thresholds(f *Findings) {
	if len(f.Thresholds) == 0 {
		return
	}
	t.line("")
	t.line("thresholds")
	for _, r := range f.Thresholds {
		code := map[Verdict]string{Pass: "32", Fail: "31", Inconclusive: "33"}[r.Result]
		pad := strings.Repeat(" ", max(0, 13-len(r.Result)))
		t.para("  "+t.paint(code, string(r.Result))+pad, plain(listedLine(f, r)))
	}
}

// lateText says how many entries wait for the kernel's collector; empty for none.
func (s *Sizing) lateText() string {
	if s.UncollectedEntries == nil || *s.UncollectedEntries == 0 {
		return ""
	}
	return fmt.Sprintf(", and up to %d more that have expired and are not collected yet", *s.UncollectedEntries)
}

func (t *text) sizing(s *Sizing) {
	if s == nil {
		return
	}
	t.line("")
	t.line("sizing")
	if run := s.runText(); run != "" {
		t.para("  this run: ", run)
	}
	if s.NeededEntries != nil {
		t.para("  for good: ", fmt.Sprintf("%d entries in the steady state%s, on a node that tracks nothing else; recommended limit %d with as many buckets, %s", *s.NeededEntries, s.lateText(), *s.RecommendedLimit, memoryText(s)))
	}
	for _, p := range s.Parts {
		t.para("    ", plain(partText(p)))
	}
	if s.Residual != nil {
		t.para("  model:    ", residualText(s.Residual))
	}
	for _, e := range s.Timeouts {
		t.para("    ", fmt.Sprintf("%s %g s -> %g s: %d entries, limit %d. Risk: %s", strings.TrimPrefix(e.Sysctl, "net.netfilter."), e.FromS, e.ToS, e.NeededEntries, e.Limit, e.Risk))
	}
	if all := s.inAllText(); all != "" {
		t.para("  in all:   ", all)
	}
	if margin := s.marginText(); margin != "" {
		t.para("  margin:   ", margin)
	}
	for _, n := range s.Notes {
		t.para("  - ", plain(n))
	}
	if s.KubeProxy != "" {
		t.line("  kube-proxy:")
		for line := range strings.Lines(s.KubeProxy) {
			t.line("    %s", strings.TrimSuffix(line, "\n"))
		}
	}
	if s.Sysctl != "" {
		t.line("  sysctl:")
		for line := range strings.Lines(s.Sysctl) {
			t.line("    %s", strings.TrimSuffix(line, "\n"))
		}
	}
}

// memoryText is what the recommended limit costs, and whether there is more
// already.
func memoryText(s *Sizing) string {
	lo, hi := byteSize(*s.MemoryBytesMin), byteSize(*s.MemoryBytesMax)
	text := lo + " when full"
	if lo != hi {
		text = lo + " to " + hi + " when full"
	}
	if s.PresentLimit != nil && *s.PresentLimit >= *s.RecommendedLimit && s.besides() == 0 {
		text += fmt.Sprintf(" (the present limit of %d is no lower: leave it)", *s.PresentLimit)
	}
	return text
}

func byteSize(n uint64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%.0f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%.0f KiB", float64(n)/(1<<10))
	}
}

func (t *text) list(title string, of []string) {
	if len(of) == 0 {
		return
	}
	t.line("")
	t.line("%s", title)
	for _, s := range of {
		t.para("  - ", plain(s))
	}
}

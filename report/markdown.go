package report

import (
	"fmt"
	"io"
	"strings"
)

// renderMarkdown writes a CI job summary, or what goes into an issue. A picture
// that is named is shown, and told to those who do not see it.
func renderMarkdown(f *Findings, w io.Writer, picture string) error {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	incomplete := ""
	if f.Incomplete {
		incomplete = " (incomplete)"
	}
	p("## tablefull: %s: **%s**%s\n", md(cmpOr(f.Scenario, "unknown scenario")), f.Badge(), incomplete)
	p("**%s**\n", md(f.Headline))
	if s := staged(f); s != "" {
		p("%s\n", md(s))
	}
	mdList(p, "", shownReasons(f))
	mdAdvice(p, f)
	mdPicture(p, f, picture)
	mdCapacity(p, f.Capacity)
	if len(f.Thresholds) > 0 {
		p("### Thresholds\n")
		p("| | threshold | measured |\n|---|---|---|")
		for _, r := range f.Thresholds {
			p("| **%s** | %s | %s |", r.Result, md(r.Threshold), md(r.Detail))
		}
		p("")
	}
	mdExpected(p, f)
	if f.Capacity == nil {
		mdRun(p, f)
	}
	mdList(p, "### Doubts", f.Doubts)
	mdList(p, "### Not measured", f.NotMeasured)
	mdList(p, "### Not put back", f.UndoErrors)
	if line := madeText(f); line != "" {
		p("<sub>%s</sub>", md(line))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write markdown: %w", err)
	}
	return nil
}

// mdAdvice is what to change, as on the first screen of the HTML.
func mdAdvice(p func(string, ...any), f *Findings) {
	a, is := adviceOf(f)
	if !is || f.Verdict == Inconclusive && limitSeen(f) == "" && !leftOpen(f) {
		return // the reasons say it
	}
	p("**What to change:** %s\n", md(strings.Join(append([]string{a.Do}, a.Why...), " ")))
}

func mdPicture(p func(string, ...any), f *Findings, picture string) {
	what := "Entries against the limit, and attempts per second, over run time. "
	if f.Capacity != nil {
		what = "Loads tried, and what was lost, over the time of the search. "
	}
	if picture != "" {
		p("![%s](%s)\n", md(what+f.Headline), picture)
	}
}

// mdRun is what one run did.
func mdRun(p func(string, ...any), f *Findings) {
	mdList(p, "### Actions", actionLines(f))
	mdTables(p, f)
	if f.Predicted != nil {
		p("%s: %s.\n", md("Predicted"+f.Predicted.Of()), md(predictionText(f.Predicted)))
	}
	mdTraffic(p, f)
	if len(f.Causes) > 0 {
		p("### Why attempts failed\n")
		p("| cause | attempts | share | evidence |\n|---|---:|---:|---|")
		for _, c := range f.Causes {
			p("| %s | %d | %s of %s | %s |", md(c.Cause), c.Failures, percent(c.Share), c.ShareOf, md(c.Evidence))
		}
		p("")
	}
	mdSizing(p, f.Sizing)
}

func mdExpected(p func(string, ...any), f *Findings) {
	if len(f.Expected) == 0 {
		return
	}
	p("### %s\n", expectedTitle(f))
	p("| | expected | measured |\n|---|---|---|")
	for _, r := range f.Expected {
		p("| **%s** | %s | %s |", shownWord(r.Result), md(r.Threshold), md(r.Detail))
	}
	p("")
}

// md escapes what came from a log, so that it is text in a table cell too.
func md(s string) string {
	s = strings.Join(strings.Fields(plain(s)), " ")
	return strings.NewReplacer(
		"\\", "\\\\", "`", "\\`", "*", "\\*", "_", "\\_", "[", "\\[", "]", "\\]", "|", "\\|", "#", "\\#",
		"&", "&amp;", "<", "&lt;", ">", "&gt;", "!", "\\!", "~", "\\~",
	).Replace(s)
}

func mdList(p func(string, ...any), title string, of []string) {
	if len(of) == 0 {
		return
	}
	if title != "" {
		p("%s\n", title)
	}
	for _, s := range of {
		p("- %s", md(s))
	}
	p("")
}

func mdTables(p func(string, ...any), f *Findings) {
	p("### Table\n")
	if len(f.Nodes) == 0 {
		p("No node's table was sampled.\n")
		return
	}
	p("| node | onset | at | +- | entries | full | offered |\n|---|---|---:|---:|---:|---:|---:|")
	for i := range f.Nodes {
		n := &f.Nodes[i]
		if n.PeakEntries == nil {
			p("| %s | not sampled | | | | | |", md(n.Name))
			continue
		}
		mdOnset(p, n.Name, "early_drop", n.Knee.EarlyDrop)
		mdOnset(p, n.Name, "drop", n.Knee.Drop)
		mdOnset(p, n.Name, "client loss", n.Knee.ClientLoss)
	}
	p("")
	for i := range f.Nodes {
		if n := &f.Nodes[i]; n.PeakEntries != nil {
			p("%s: at most %s.\n", md(n.Name), filling(n))
			if s := limitText(n); s != "" {
				p("Its limit: %s.\n", md(s))
			}
			if n.Entered != nil {
				p("%s: %s.\n", md(n.Name), md(enteredText(n.Entered)))
			}
		}
	}
}

func mdOnset(p func(string, ...any), node, name string, o *Onset) {
	if o == nil {
		p("| %s | %s | none | | | | |", md(node), md(name))
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
	p("| %s | %s | %.3f s | %.3f s | %s | %s | %s |", md(node), md(name), o.AtS, o.UncertaintyS, entries, full, offered)
}

func mdTraffic(p func(string, ...any), f *Findings) {
	if len(f.Traffic) == 0 {
		return
	}
	p("### Traffic\n")
	p("| traffic | shape | attempted | succeeded | failed | not started | late | p50 ms | p99 ms | max ms |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
	for _, t := range f.Traffic {
		ok, late := "?", "?"
		if t.Succeeded != nil {
			ok = fmt.Sprint(*t.Succeeded)
		}
		if t.LateShare != nil {
			late = percent(*t.LateShare)
		}
		p("| %s | %s | %d | %s | %d | %d | %s | %s | %s | %s |", md(t.Name), md(t.Shape), t.Attempted, ok, t.Failed, t.NotStarted, late, ms(t.P50Ms), ms(t.P99Ms), ms(t.MaxMs))
	}
	p("")
	for i := range f.Traffic {
		if s := f.Traffic[i].heldText(); s != "" {
			p("Connections held by %s: %s.\n", md(f.Traffic[i].Name), md(s))
		}
	}
}

func mdSizing(p func(string, ...any), s *Sizing) {
	if s == nil {
		return
	}
	p("### Sizing\n")
	if run := s.runText(); run != "" {
		p("This run: %s.\n", md(run))
	}
	if s.NeededEntries != nil {
		p("In the steady state it is **%d** entries%s, on a node that tracks nothing else; recommended limit **%d** with as many buckets, %s.\n", *s.NeededEntries, s.lateText(), *s.RecommendedLimit, memoryText(s))
	}
	if all := s.inAllText(); all != "" {
		p("In all: %s.\n", md(all))
	}
	if margin := s.marginText(); margin != "" {
		p("The margin of that limit: %s.\n", md(margin))
	}
	for _, x := range s.Parts {
		p("- %s", md(partText(x)))
	}
	if s.Residual != nil {
		p("- model: %s", md(residualText(s.Residual)))
	}
	p("")
	if len(s.Timeouts) > 0 {
		p("| timeout | from | to | entries | limit | risk |\n|---|---:|---:|---:|---:|---|")
		for _, e := range s.Timeouts {
			p("| %s | %g s | %g s | %d | %d | %s |", md(e.Sysctl), e.FromS, e.ToS, e.NeededEntries, e.Limit, md(e.Risk))
		}
		p("")
	}
	mdList(p, "", s.Notes)
	// GitHub folds it: it is for pasting, not for reading.
	if s.KubeProxy != "" {
		p("<details><summary>kube-proxy configuration</summary>\n\n%s\n</details>\n", fence("yaml", s.KubeProxy))
	}
	if s.Sysctl != "" {
		p("<details><summary>sysctl settings</summary>\n\n%s\n</details>\n", fence("", s.Sysctl))
	}
}

// fence makes a code block that ends where it should, whatever is in it.
func fence(language, s string) string {
	mark := "```"
	for strings.Contains(s, mark) {
		mark += "`"
	}
	return mark + language + "\n" + strings.TrimSuffix(s, "\n") + "\n" + mark + "\n"
}

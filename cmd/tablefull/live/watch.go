package live

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/report/watch"
	"github.com/tablefull/tablefull/runner"
)

// Watched is what the frame of a watch shows.
type Watched struct {
	What   string // is watched: a machine, a namespace, a cluster
	Since  string // when it began
	Tables []watch.Table
	Leave  string // what ends it, and what that does
	// Note is what is not seen any more, or not at all, and why.
	Note string
}

// watchFrame is that of a watch.
type watchFrame struct {
	Watched
	canvas
}

// WatchFrame draws s on a screen of width x height, as [Frame] does. Of several
// tables the fullest is shown in full, and others where there is room.
func WatchFrame(s Watched, width, height int, st Style) []string {
	f := &watchFrame{Watched: s, canvas: newCanvas(width, st)}
	f.put(1, line{{"tablefull watch", bold}, {" " + clean(f.What), ""}})
	f.gap()
	for i := range f.Tables {
		f.names = min(max(f.names, len(f.Tables[i].Node)), 24)
	}
	if len(f.Tables) == 0 {
		f.put(2, text("reading the table for the first time ..."))
	}
	for i := range f.Tables {
		f.brief(&f.Tables[i])
	}
	if f.Note != "" {
		f.put(6, line{{clean(f.Note), alarm}})
	}
	for i, t := range f.byFilling() {
		// What the others' walks found is shown where there is room for it.
		if i > 0 && height-len(f.rows) < roomForWalk {
			break
		}
		f.counters(t)
		f.walk(t, height)
		f.gap()
		f.put(25, line{{clean(t.CostLine()), dim}})
	}
	f.put(65, line{{f.Leave, dim}})
	return f.lines(height)
}

// roomForWalk is how many lines what a walk found needs, less its longer lists.
const roomForWalk = 16

// byFilling are the tables, the fullest first.
func (f *watchFrame) byFilling() []*watch.Table {
	out := make([]*watch.Table, len(f.Tables))
	for i := range f.Tables {
		out[i] = &f.Tables[i]
	}
	share := func(t *watch.Table) float64 { return float64(t.Entries) / float64(max(t.Limit, 1)) }
	slices.SortStableFunc(out, func(a, b *watch.Table) int { return cmp.Compare(share(b), share(a)) })
	return out
}

// indent is before what is said of the table whose name stands above.
func (f *watchFrame) indent() span {
	if f.narrow {
		return span{}
	}
	return span{pad("", f.names) + " ", ""}
}

func (f *watchFrame) brief(t *watch.Table) {
	f.table(shorten(clean(t.Node), f.names), t.Entries, t.Limit)
	recent := make([]runner.Second, len(t.Recent))
	for i, s := range t.Recent {
		recent[i] = runner.Second(s)
	}
	f.spark(recent)
	code := ""
	switch {
	case t.Full.When == watch.Now:
		code = alarm
	case t.Full.When == watch.Growing && *t.Full.Earliest < 3600:
		code = yellow
	}
	for i, l := range wrap(clean(t.Outlook()), f.width-len(f.indent().text)) {
		f.put(5+30*i, line{f.indent(), {l, code}})
	}
	for i, l := range wrap(ascii(t.Turned()), f.width-len(f.indent().text)) {
		f.put(9+30*i, line{f.indent(), {l, ""}})
	}
	if t.Buckets > 0 {
		// Each entry is in two chains, one for each direction.
		f.put(45, line{f.indent(), {fmt.Sprintf("%s buckets: %.2f of its entries in a chain, on average", watch.Count(t.Buckets), 2*float64(t.Entries)/float64(t.Buckets)), dim}})
	}
	if t.Failed != "" {
		f.put(7, line{f.indent(), {"the newest walk over the table failed: " + clean(t.Failed), red}})
	}
}

// shorten cuts a name in its middle: those of a cluster's nodes often begin and
// end with what tells them apart.
func shorten(s string, width int) string {
	if len(s) <= width {
		return s
	}
	return s[:width-width/2-1] + "~" + s[len(s)-width/2:]
}

// ascii is clean for what has a plus-minus sign.
func ascii(s string) string { return clean(strings.ReplaceAll(s, "\u00b1", "+-")) }

// wrap breaks s at spaces into lines of at most width columns.
func wrap(s string, width int) []string {
	var out []string
	for len(s) > width && width > 0 {
		i := strings.LastIndexByte(s[:width+1], ' ')
		if i <= 0 {
			break // render cuts it
		}
		out, s = append(out, s[:i]), s[i+1:]
	}
	return append(out, s)
}

func (f *watchFrame) counters(t *watch.Table) {
	f.gap()
	f.put(55, line{{"kernel counters that moved since " + f.Since + f.of(t), dim}})
	wrong, others := t.Moved()
	if len(wrong) == 0 {
		f.put(10, line{{"none that says that something went wrong", ""}})
	}
	for i, l := range wrap(strings.Join(wrong, ", "), f.width) {
		if l != "" {
			f.put(10+i, line{{l, alarm}})
		}
	}
	if len(others) > 0 {
		f.put(58, line{{strings.Join(others, ", "), dim}})
	}
}

// of says whose figures follow, where there are several tables.
func (f *watchFrame) of(t *watch.Table) string {
	if len(f.Tables) < 2 {
		return ""
	}
	return ", " + clean(t.Node)
}

// walk is what the newest walk over the table found.
func (f *watchFrame) walk(t *watch.Table, height int) {
	c := t.Census
	if c == nil {
		return
	}
	// Half of what is left of the screen for states, half for who has them: less
	// two headings, what is below the lists, and the gaps.
	left := max(height-len(f.rows)-10, 0)
	n := min(max(left/2, 3), 12)
	f.gap()
	ago := watch.Duration(c.Age) + " ago"
	if f.narrow {
		f.put(12, line{{"states, " + ago, dim}})
	} else {
		f.put(12, line{{fmt.Sprintf("%-8s %-12s%12s%9s%11s%11s%14s", "states", "", "entries", "", "assured", "unreplied", ago), dim}})
	}
	if len(c.States) == 0 {
		f.put(13, text("the walk met none"))
	}
	for i, s := range c.States[:min(n, len(c.States))] {
		l := line{{fmt.Sprintf("%-8s %-12s", clean(s.Proto), clean(s.State)), bold}}
		l = l.add(fmt.Sprintf("%12s%9s", watch.Count(s.Entries), share(s.Entries, c.Entries)))
		if !f.narrow {
			l = l.add(fmt.Sprintf("%11s%11s", watch.Count(s.Assured), watch.Count(s.Unreplied)))
		}
		f.put(13+2*i, l)
	}
	if more := c.States[min(n, len(c.States)):]; len(more) > 0 {
		rest := uint64(0)
		for _, s := range more {
			rest += s.Entries
		}
		f.put(38, line{{fmt.Sprintf("%-21s%12s%9s", fmt.Sprintf("%d other states", len(more)), watch.Count(rest), share(rest, c.Entries)), dim}})
	}
	if c.Ballast > 0 {
		f.put(40, line{{fmt.Sprintf("%-21s%12s", "ballast of tablefull", watch.Count(c.Ballast)), dim}})
	}
	f.heaviest(c, n)
}

// heaviest are two lists, beside each other where there is room.
func (f *watchFrame) heaviest(c *watch.Census, n int) {
	sources, services, otherSource, otherService := c.Heaviest(n)
	left := f.list("heaviest sources", sources, otherSource)
	right := f.list("heaviest services (before NAT)", services, otherService)
	column := (f.width - 2) / 2
	beside := !f.narrow
	for _, l := range append(append([]line{}, left...), right...) {
		beside = beside && len(l[0].text)+len(l[1].text) <= column
	}
	f.gap()
	if !beside {
		for i, l := range append(left, right...) {
			f.put(14+2*i, l)
		}
		return
	}
	for i := range max(len(left), len(right)) {
		var l line
		if i < len(left) {
			l = append(l, left[i]...)
		}
		if i < len(right) {
			width := 0
			for _, s := range l {
				width += len(s.text)
			}
			l = append(l.add(strings.Repeat(" ", column+2-width)), right[i]...)
		}
		f.put(14+2*i, l)
	}
}

// list is a heading and a line for each, in two spans.
func (f *watchFrame) list(heading string, of []watch.Heavy, other string) []line {
	name, number := 0, 0
	for _, h := range of {
		name, number = max(name, len(h.Name)), max(number, len(h.Count))
	}
	out := []line{{{heading, dim}, {"", ""}}}
	for _, h := range of {
		share := fmt.Sprintf("%.1f %%", 100*h.Share)
		if strings.Contains(h.Count, " to ") {
			share = ">=" + share
		}
		out = append(out, line{{pad(clean(h.Name), name), bold}, {fmt.Sprintf("  %*s %8s", number, h.Count, share), ""}})
	}
	switch {
	case len(of) == 0 && other == "":
		out = append(out, line{{"none", dim}, {"", ""}})
	case other != "":
		out = append(out, line{{other, dim}, {"", ""}})
	}
	return out
}

package live

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/report/watch"
	"github.com/tablefull/tablefull/runner"
)

// State is all that a frame shows.
type State struct {
	Scenario string
	Search   []string // what a search has found so far, where this is one of its trials
	Traffics []string // in the scenario's order
	runner.Progress
	// Causes is why attempts failed, as far as the log has been analysed up to
	// CausesAt, s of run time; nil before that.
	Causes   map[string]uint64
	CausesAt float64
	// Stopping: it was interrupted, and what is done is the way out.
	Stopping bool
}

// row is a line of the frame. Where there are fewer lines than rows, those
// with the highest rank are left out first, the lower ones before the upper.
type row struct {
	line
	rank int
}

// canvas collects rows.
type canvas struct {
	Style
	width  int
	narrow bool
	names  int // width of the column that names tables
	rows   []row
}

func newCanvas(width int, st Style) canvas {
	return canvas{Style: st, width: max(width, 1), narrow: width < 72, names: nameWidth}
}

func (f *canvas) put(rank int, l line) { f.rows = append(f.rows, row{l, rank}) }
func (f *canvas) gap()                 { f.put(90, nil) }

// lines are those rows that there is room for.
func (f *canvas) lines(height int) []string {
	for len(f.rows) > max(height, 1) {
		worst := 0
		for i, r := range f.rows {
			if r.rank >= f.rows[worst].rank {
				worst = i
			}
		}
		f.rows = slices.Delete(f.rows, worst, worst+1)
	}
	out := make([]string, len(f.rows))
	for i, r := range f.rows {
		out[i] = r.render(f.width, f.Color)
	}
	return out
}

// frame is that of a run.
type frame struct {
	State
	canvas
}

// Frame draws s on a screen of width x height: at most height lines of at most
// width columns, without line ends.
func Frame(s State, width, height int, st Style) []string {
	f := &frame{State: s, canvas: newCanvas(width, st)}
	f.title()
	f.time()
	f.nodes()
	f.traffic()
	f.failures()
	f.causes()
	f.counters()
	f.steps()
	f.events(height)
	f.help()
	return f.lines(height)
}

var phases = [][2]string{{"setup", "setting up"}, {"traffic", "traffic"}, {"drain", "draining"}, {"undo", "putting back"}}

func (f *frame) phaseName() string {
	if f.Stopping && f.Phase != "undo" {
		return "stopping"
	}
	for _, p := range phases {
		if p[0] == f.Phase {
			return p[1]
		}
	}
	return clean(f.Phase)
}

func (f *frame) title() {
	switch {
	case f.Stopping:
		f.put(1, line{{"stopping, putting things back", alarm}, {"  " + clean(f.Scenario), ""}})
	case f.narrow:
		f.put(1, line{{f.phaseName(), cyan}, {" " + clean(f.Scenario), ""}})
	default:
		f.put(1, line{{"tablefull", bold}, {" " + clean(f.Scenario), ""}, {": " + f.phaseName(), cyan}})
	}
	for _, text := range f.Search {
		f.put(2, line{{clean(text), ""}})
	}
	var l line
	for i, p := range phases {
		if i > 0 {
			l = l.in(dim, " > ")
		}
		if p[0] == f.Phase {
			l = l.in(bold, "["+p[1]+"]")
		} else {
			l = l.in(dim, " "+p[1]+" ")
		}
	}
	f.put(60, l)
}

// time is how much of the traffic's time has gone.
func (f *frame) time() {
	share, say := 0.0, ""
	switch {
	case f.Phase == "traffic" && f.T < f.Duration:
		share = max(f.T, 0) / f.Duration
		say = fmt.Sprintf("%s of %s, %s left", seconds(max(f.T, 0)), seconds(f.Duration), seconds(f.Duration-max(f.T, 0)))
	case f.Phase == "traffic":
		share, say = 1, fmt.Sprintf("waiting for the last attempts for %s", seconds(f.T-f.Duration))
	case f.Phase == "setup" || f.Phase == "":
		say = fmt.Sprintf("for %s; then %s of traffic", seconds(f.InPhase), seconds(f.Duration))
	default:
		share = 1
		if f.Stopping {
			share = min(1, max(f.T-f.InPhase, 0)/max(f.Duration, 0.1))
		}
		say = f.phaseName() + " for " + seconds(f.InPhase)
	}
	if f.narrow {
		f.put(3, text(say))
		f.put(25, line{{f.bar(share, f.width), cyan}})
		return
	}
	f.put(2, line{{f.bar(share, f.width-len(say)-3), cyan}, {"  " + say, ""}})
}

func (f *frame) nodes() {
	f.gap()
	for _, name := range slices.Sorted(maps.Keys(f.Nodes)) {
		n := f.Nodes[name]
		f.table(clean(name), n.Entries, n.Limit)
		f.spark(n.Recent)
	}
}

// table is how full a table is.
func (f *canvas) table(name string, entries, limit uint64) {
	free := "no limit known"
	share := 0.0
	if limit > 0 {
		free = watch.Count(max(limit, entries)-entries) + " free"
		share = float64(entries) / float64(limit)
	}
	code := green
	switch {
	case limit > 0 && entries >= limit:
		code, free = alarm, "FULL"
	case share >= 0.95:
		code = yellow
	}
	if f.narrow {
		f.put(4, line{{name + " ", bold}, {filled(entries, limit) + " " + free, code}})
		f.put(30, text(watch.Count(entries)+" of "+watch.Count(limit)))
		return
	}
	say := fmt.Sprintf("%s of %s entries, %s, %s", watch.Count(entries), watch.Count(limit), filled(entries, limit), free)
	f.put(4, line{{pad(name, f.names) + " ", bold}, {f.bar(share, f.width-f.names-len(say)-4), code}, {"  " + say, ""}})
}

const nameWidth = 9

// spark is the entries of the last minute, on a scale of its own.
func (f *canvas) spark(recent []runner.Second) {
	if len(recent) == 0 {
		return
	}
	room := min(60, f.width-f.names-1)
	if f.narrow {
		room = min(60, f.width)
	}
	last := recent[len(recent)-1].At
	values := make([]float64, 0, room)
	lo, hi := recent[0].Entries, uint64(0)
	seen := map[int]uint64{}
	first := last
	for _, s := range recent {
		if s.At > last-room {
			if len(seen) == 0 {
				first, lo = s.At, s.Entries
			}
			seen[s.At] = s.Entries
			lo, hi = min(lo, s.Entries), max(hi, s.Entries)
		}
	}
	for at := first; at <= last; at++ {
		v := math.NaN()
		if e, ok := seen[at]; ok {
			v = float64(e)
		}
		values = append(values, v)
	}
	drawn := f.Style.spark(values, float64(lo), float64(hi))
	say := fmt.Sprintf("the last %d s, from %s to %s entries", len(values), watch.Count(lo), watch.Count(hi))
	if f.narrow {
		f.put(50, line{{drawn, cyan}})
		return
	}
	if room := f.width - nameWidth - 1; len(values)+2+len(say) > room {
		f.put(40, line{{pad("", f.names) + " ", ""}, {drawn, cyan}})
		f.put(45, line{{pad("", f.names) + " " + say, dim}})
		return
	}
	f.put(40, line{{pad("", f.names) + " ", ""}, {drawn, cyan}, {"  " + say, dim}})
}

func pad(s string, n int) string {
	if k := len([]rune(s)); k < n {
		return s + strings.Repeat(" ", n-k)
	}
	return s
}

// failures is how attempts failed, and what the generator did not start.
func (f *frame) failures() {
	failed, not := map[string]uint64{}, map[string]uint64{}
	for _, t := range f.Traffic {
		for o, n := range t.Outcomes {
			failed[string(o)] += n
		}
		for why, n := range t.NotStartedFor {
			not[string(why)] += n
		}
	}
	f.list(20, span{"failures  ", red}, f.gains(failed, ""), "")
	f.list(20, span{"unstarted ", yellow}, f.gains(not, ""), "")
}

// list puts what a name stands before, on as many lines as it takes, and at the
// end of the last what may be left out. Nothing is put where there is nothing.
func (f *canvas) list(rank int, name span, parts []string, after string) {
	if len(parts) == 0 {
		return
	}
	indent := span{strings.Repeat(" ", len(name.text)), ""}
	room := f.width - len(name.text)
	for _, l := range wrap(strings.Join(parts, ", "), room) {
		f.put(rank, line{name, {l, ""}})
		name = indent
	}
	last := &f.rows[len(f.rows)-1]
	switch width := len(last.line[1].text) + 1 + len(after); {
	case after == "":
	case width <= room:
		last.line = append(last.line, span{" " + after, dim})
	default:
		f.put(51, line{indent, {after, dim}})
	}
}

// causes is why they failed. The analysis is a little behind, and attempts
// whose evidence is yet to come are unknown until it has.
func (f *frame) causes() {
	f.list(21, span{"causes    ", red}, f.gains(f.Causes, ""), "as of "+seconds(f.CausesAt))
}

// gains lists what is not zero, the largest first.
func (f *frame) gains(m map[string]uint64, sign string) []string {
	names := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(a, b))
	})
	var out []string
	for _, name := range names {
		if m[name] > 0 {
			out = append(out, clean(name)+" "+sign+watch.Count(m[name]))
		}
	}
	return out
}

// counters are those that moved since traffic began. They are facts: what
// they caused is for the report to find out.
func (f *frame) counters() {
	sampled := slices.ContainsFunc(slices.Collect(maps.Values(f.Nodes)), func(n runner.NodeProgress) bool { return n.Peak > 0 })
	if !sampled {
		return // since traffic began
	}
	f.gap()
	f.put(55, line{{"kernel counters that moved since traffic began", dim}})
	for _, name := range slices.Sorted(maps.Keys(f.Nodes)) {
		if f.Nodes[name].Peak == 0 {
			continue // no sample since
		}
		var parts []string
		rest := maps.Clone(f.Nodes[name].Moved)
		for _, c := range watch.Telling {
			if n := rest[c]; n > 0 {
				parts = append(parts, c+" +"+watch.Count(n))
			}
			delete(rest, c)
		}
		code := alarm
		if len(parts) == 0 {
			parts, code = []string{"drop +0"}, ""
		}
		quiet := strings.Join(f.gains(rest, "+"), ", ")
		if quiet != "" {
			quiet = ", " + quiet
		}
		l := line{{strings.Join(parts, ", "), code}, {quiet, dim}}
		if !f.narrow {
			l = append(line{{pad(clean(name), nameWidth) + " ", bold}}, l...)
		}
		f.put(10, l)
	}
	for _, host := range slices.Sorted(maps.Keys(f.Hosts)) {
		f.put(35, line{{pad(clean(host), nameWidth) + " ", bold}, {strings.Join(f.gains(f.Hosts[host], "+"), ", "), yellow}})
	}
}

// steps is what is being done to the machine, the newest last.
func (f *frame) steps() {
	if len(f.Steps) == 0 {
		return
	}
	f.gap()
	f.put(55, line{{map[bool]string{true: "putting back", false: "doing"}[f.Phase == "undo"], dim}})
	// The newest matter most: they have the lowest rank.
	for i, s := range f.Steps {
		age := len(f.Steps) - 1 - i
		l := line{{"... ", yellow}, {clean(s.Name), ""}, {" " + seconds(s.Took), dim}}
		if s.Done {
			l = line{{"ok  ", green}, {clean(s.Name), ""}, {" " + seconds(s.Took), dim}}
		}
		if s.Err != "" {
			l = line{{"FAILED ", alarm}, {clean(s.Name) + ": " + clean(s.Err), red}}
			age = 0
		}
		rank := 5 + age
		if age >= newestSteps {
			rank = 62 + age // the oldest go first
		}
		f.put(rank, l)
	}
}

// newestSteps are those that other rows make room for.
const newestSteps = 6

// events are the newest ones, as many as there is room for.
func (f *frame) events(height int) {
	room := height - len(f.rows) - 3 // a gap, the heading, the help
	if len(f.Events) == 0 {
		return
	}
	f.gap()
	f.put(56, line{{"newest events", dim}})
	for i := len(f.Events) - 1; i >= 0 && len(f.Events)-i <= max(room, 2); i-- {
		e := f.Events[i]
		code := ""
		if e.Kind == "warning" {
			code = yellow
		}
		s := clean(e.Kind) + " " + clean(e.Name)
		if e.Detail != "" {
			s += ": " + clean(e.Detail)
		}
		f.put(57+len(f.Events)-i, line{{fmt.Sprintf("%8.1f s  ", e.T), dim}, {s, code}})
	}
}

func (f *frame) help() {
	f.gap()
	switch {
	case f.Stopping:
		f.put(15, line{{"Ctrl-C again: leave at once; `tablefull restore` puts back the rest", dim}})
	case f.Phase == "undo":
		f.put(65, line{{"the report follows", dim}})
	default:
		f.put(65, line{{"Ctrl-C: stop, put everything back, and report", dim}})
	}
}

package report

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode"
)

// A bench writes the Go benchmark format, which benchstat compares:
// https://golang.org/design/14313-benchmark-format
type bench struct{ b strings.Builder }

// config is a line that says under which conditions the run was made. benchstat
// compares only what has the same ones, so that nothing is in it that differs
// from run to run, and the verdict is not.
func (b *bench) config(key, value string) {
	if value = strings.TrimSpace(strings.Join(strings.Fields(plain(value)), " ")); value != "" {
		fmt.Fprintf(&b.b, "%s: %s\n", key, value)
	}
}

// A benchLine collects the values of one result. What was not measured is left
// out, and a line without a value is not written.
type benchLine struct {
	name   string
	times  uint64 // attempts behind the values, at least 1
	values []string
}

func benchOf(name string, times uint64) *benchLine { return &benchLine{name: name, times: times} }

func (l *benchLine) value(v float64, unit string) *benchLine {
	if !math.IsNaN(v) && !math.IsInf(v, 0) {
		l.values = append(l.values, decimal(v)+" "+benchWord(unit))
	}
	return l
}

func (l *benchLine) known(v *float64, scale float64, unit string) *benchLine {
	if v == nil {
		return l
	}
	return l.value(*v*scale, unit)
}

func (l *benchLine) count(v *uint64, unit string) *benchLine {
	if v != nil {
		l.values = append(l.values, fmt.Sprintf("%d %s", *v, benchWord(unit)))
	}
	return l
}

func (b *bench) add(l *benchLine) {
	if len(l.values) > 0 {
		// A count of times beyond an int is no count, but has to be readable.
		fmt.Fprintf(&b.b, "Benchmark%s %d %s\n", l.name, max(1, min(l.times, math.MaxInt32)), strings.Join(l.values, " "))
	}
}

// benchWord is a name without spaces and slashes, which part the format.
func benchWord(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, s)
	return cmpOr(s, "unnamed")
}

// benchName is a part of a benchmark's name. What follows it in the name keeps
// node-1 from being read as a run on 1 CPU.
func benchName(s string) string { return strings.ReplaceAll(benchWord(s), "/", "_") }

// renderGoBench writes one line per onset, traffic, node and cause.
func renderGoBench(f *Findings, w io.Writer) error {
	b := &bench{}
	e := f.Environment
	b.config("scenario", f.Scenario)
	b.config("target", f.Target)
	b.config("arch", e.Arch)
	b.config("kernel", e.Kernel)
	b.config("version", e.Version)
	if e.CPUs > 0 {
		b.config("cpus", fmt.Sprint(e.CPUs))
	}
	if e.Limit > 0 {
		b.config("limit", fmt.Sprint(e.Limit))
	}
	for _, o := range onsets(f) {
		name := "Knee"
		if o.node != "" {
			name += "/node=" + benchName(o.node)
		}
		b.add(benchOf(name+"/onset="+o.name, 1).value(o.AtS, "at-sec").count(o.Entries, "entries").
			known(o.Occupancy, 1, "occupancy").known(o.OfferedPerS, 1, "conn/s"))
	}
	for i := range f.Nodes {
		b.node(&f.Nodes[i])
	}
	for i := range f.Traffic {
		b.traffic(&f.Traffic[i])
	}
	for _, c := range f.Causes {
		b.add(benchOf("Cause/name="+benchName(c.Cause)+"/attempts", 1).count(&c.Failures, "attempts").value(c.Share, "share-of-"+benchWord(c.ShareOf)))
	}
	if s := f.Sizing; s != nil && !s.Meaningless {
		b.add(benchOf("Sizing", 1).count(s.NeededEntries, "entries").count(s.RecommendedLimit, "limit").count(s.LimitInAll, "limit-in-all").count(s.RunNeeded, "run-limit"))
	}
	if c := f.Capacity; c != nil {
		unit := map[bool]string{true: "conn/s", false: "conn"}[c.Unit == perSecondUnit]
		line := benchOf("Capacity", 1)
		if c.Lower != nil {
			line = line.value(*c.Lower, "lower-"+unit)
		}
		if c.Upper != nil {
			line = line.value(*c.Upper, "upper-"+unit)
		}
		if c.Lower != nil || c.Upper != nil {
			b.add(line)
		}
	}
	if _, err := io.WriteString(w, b.b.String()); err != nil {
		return fmt.Errorf("write benchmark format: %w", err)
	}
	return nil
}

func (b *bench) node(n *Node) {
	name := "/node=" + benchName(n.Name)
	b.add(benchOf("Table"+name+"/peak", 1).count(n.PeakEntries, "entries").known(n.PeakOccupancy, 1, "occupancy"))
	counters := benchOf("Table"+name+"/counters", 1)
	for _, c := range telling(n.Counters) {
		v := n.Counters[c]
		counters.count(&v, c)
	}
	b.add(counters)
}

func (b *bench) traffic(t *Traffic) {
	name := "Traffic/name=" + benchName(t.Name)
	counts := benchOf(name+"/attempts", t.Attempted).count(&t.Due, "due").count(&t.Attempted, "attempted").
		count(t.Succeeded, "succeeded").count(&t.Failed, "failed").count(&t.NotStarted, "not-started")
	if t.Succeeded != nil && *t.Succeeded+t.Failed > 0 {
		counts.value(float64(t.Failed)/(float64(*t.Succeeded)+float64(t.Failed)), "errors-ratio")
	}
	b.add(counts)
	var ok uint64
	if t.Succeeded != nil {
		ok = *t.Succeeded
	}
	b.add(benchOf(name+"/latency", ok).known(t.P50Ms, 1e6, "p50-ns").known(t.P99Ms, 1e6, "p99-ns").known(t.MaxMs, 1e6, "max-ns"))
}

// A namedOnset is an onset that happened, of a node or, where no node's is known,
// of the run.
type namedOnset struct {
	node, name string
	*Onset
}

func onsets(f *Findings) []namedOnset {
	var out []namedOnset
	lost := false
	add := func(node, name string, o *Onset) {
		if o != nil {
			out = append(out, namedOnset{node, name, o})
		}
	}
	for _, n := range f.Nodes {
		add(n.Name, "early_drop", n.Knee.EarlyDrop)
		add(n.Name, "drop", n.Knee.Drop)
		add(n.Name, "client_loss", n.Knee.ClientLoss)
		lost = lost || n.Knee.ClientLoss != nil
	}
	if !lost {
		add("", "client_loss", f.Knee.ClientLoss)
	}
	return out
}

// telling are the counters that moved, and those whose 0 says something: kernels
// list others that they have long ceased to count.
func telling(counters map[string]uint64) []string {
	var out []string
	for _, c := range slices.Sorted(maps.Keys(counters)) {
		if counters[c] > 0 || slices.Contains([]string{"drop", "early_drop", "insert_failed", "invalid", "clashres", "chainlength"}, c) {
			out = append(out, c)
		}
	}
	return out
}

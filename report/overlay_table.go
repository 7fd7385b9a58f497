package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A pair is one figure of both runs.
type pair struct {
	Name string
	A, B string
	Diff string // B - A; empty where there is nothing to subtract
}

// keyFigures are what the two runs showed, side by side.
func keyFigures(a, b *Findings) []pair {
	out := []pair{
		{Name: "verdict", A: verdictOf(a), B: verdictOf(b)},
		{Name: "length of the traffic, s", A: number(a.Environment.DurationS), B: number(b.Environment.DurationS), Diff: difference(&a.Environment.DurationS, &b.Environment.DurationS, number)},
	}
	for _, o := range []struct {
		name string
		of   func(Knee) *Onset
	}{
		{"early_drop", func(k Knee) *Onset { return k.EarlyDrop }},
		{"drop", func(k Knee) *Onset { return k.Drop }},
		{"client loss", func(k Knee) *Onset { return k.ClientLoss }},
	} {
		out = append(out, onsetPairs(o.name, o.of(a.Knee), o.of(b.Knee))...)
	}
	na, nb := headNode(a), headNode(b)
	out = append(out,
		countPair("limit", nodeCount(na, func(n *Node) *uint64 { return n.Limit }), nodeCount(nb, func(n *Node) *uint64 { return n.Limit })),
		countPair("entries when traffic began", nodeCount(na, func(n *Node) *uint64 { return n.StartEntries }), nodeCount(nb, func(n *Node) *uint64 { return n.StartEntries })),
		countPair("entries, highest", nodeCount(na, func(n *Node) *uint64 { return n.PeakEntries }), nodeCount(nb, func(n *Node) *uint64 { return n.PeakEntries })),
		countPair("attempts due", total(a, func(t Traffic) uint64 { return t.Due }), total(b, func(t Traffic) uint64 { return t.Due })),
		countPair("attempts failed", total(a, func(t Traffic) uint64 { return t.Failed }), total(b, func(t Traffic) uint64 { return t.Failed })),
		countPair("attempts not started", total(a, func(t Traffic) uint64 { return t.NotStarted }), total(b, func(t Traffic) uint64 { return t.NotStarted })),
	)
	out = append(out, causePairs(a, b)...)
	for _, name := range trafficNames(a, b) {
		ta, tb := trafficNamed(a, name), trafficNamed(b, name)
		p50 := func(t *Traffic) *float64 { return t.P50Ms }
		p99 := func(t *Traffic) *float64 { return t.P99Ms }
		out = append(out,
			pair{name + ": p50, ms", msOf(ta, p50), msOf(tb, p50), difference(value(ta, p50), value(tb, p50), threeDigits)},
			pair{name + ": p99, ms", msOf(ta, p99), msOf(tb, p99), difference(value(ta, p99), value(tb, p99), threeDigits)})
	}
	return out
}

func verdictOf(f *Findings) string {
	if f.Incomplete && f.Verdict != Live {
		return string(f.Verdict) + ", incomplete"
	}
	return string(f.Verdict)
}

func onsetPairs(name string, a, b *Onset) []pair {
	if a == nil && b == nil {
		return []pair{{Name: name, A: "none", B: "none"}}
	}
	at := func(o *Onset) *float64 { return &o.AtS }
	full := func(o *Onset) *float64 { return o.Occupancy }
	rate := func(o *Onset) *float64 { return o.OfferedPerS }
	entries := func(o *Onset) *uint64 { return o.Entries }
	return []pair{
		{name + " at", ofOnset(a, at, moment), ofOnset(b, at, moment), later(a, b)},
		{name + ": entries", ofOnset(a, entries, grouped[uint64]), ofOnset(b, entries, grouped[uint64]), countDifference(value(a, entries), value(b, entries))},
		{name + ": share of the limit", ofOnset(a, full, percent), ofOnset(b, full, percent), difference(value(a, full), value(b, full), points)},
		{name + ": offered", ofOnset(a, rate, groupedRate), ofOnset(b, rate, groupedRate), difference(value(a, rate), value(b, rate), groupedRate)},
	}
}

// later is how much later b was than a, where that can be told.
func later(a, b *Onset) string {
	if a == nil || b == nil {
		return ""
	}
	if sure := a.UncertaintyS + b.UncertaintyS; math.Abs(b.AtS-a.AtS) <= sure {
		return "none beyond ± " + moment(sure)
	}
	return difference(&a.AtS, &b.AtS, moment)
}

// ofOnset writes one figure of an onset: none where it did not happen, ? where
// it is not known.
func ofOnset[T any](o *Onset, get func(*Onset) *T, text func(T) string) string {
	if o == nil {
		return "none"
	}
	v := get(o)
	if v == nil {
		return "?"
	}
	return text(*v)
}

// value is get of from, nil where there is no from.
func value[F, T any](from *F, get func(*F) *T) *T {
	if from == nil {
		return nil
	}
	return get(from)
}

func nodeCount(n *Node, get func(*Node) *uint64) *uint64 { return value(n, get) }

func total(f *Findings, get func(Traffic) uint64) *uint64 {
	if len(f.Traffic) == 0 {
		return nil
	}
	var n uint64
	for _, t := range f.Traffic {
		n += get(t)
	}
	return &n
}

func countPair(name string, a, b *uint64) pair {
	return pair{name, orUnknown(a), orUnknown(b), countDifference(a, b)}
}

func countDifference(a, b *uint64) string {
	if a == nil || b == nil || *a > math.MaxInt64 || *b > math.MaxInt64 {
		return ""
	}
	d := int64(*b) - int64(*a)
	if d > 0 {
		return "+" + grouped(d)
	}
	return strings.Replace(grouped(d), "-", "−", 1)
}

// difference is B - A.
func difference(a, b *float64, text func(float64) string) string {
	if a == nil || b == nil {
		return ""
	}
	switch d := *b - *a; {
	case d > 0:
		return "+" + text(d)
	case d < 0:
		return "−" + text(-d)
	}
	return "0"
}

// points is a difference of shares.
func points(v float64) string { return number(math.Round(v*1e4)/100) + " points" }

func threeDigits(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }

func msOf(t *Traffic, get func(*Traffic) *float64) string {
	v := value(t, get)
	if v == nil {
		return "–"
	}
	return threeDigits(*v)
}

// causePairs are the failures by cause: those of either run.
func causePairs(a, b *Findings) []pair {
	var names []string
	count := func(f *Findings, name string) *uint64 {
		var n uint64
		for _, c := range f.Causes {
			if c.Cause == name {
				n = c.Failures
			}
		}
		return &n
	}
	for _, f := range []*Findings{a, b} {
		for _, c := range f.Causes {
			if !slices.Contains(names, c.Cause) {
				names = append(names, c.Cause)
			}
		}
	}
	var out []pair
	for _, name := range names {
		out = append(out, countPair("because of "+name, count(a, name), count(b, name)))
	}
	return out
}

func trafficNames(a, b *Findings) []string {
	var out []string
	for _, f := range []*Findings{a, b} {
		for _, t := range f.Traffic {
			if !slices.Contains(out, t.Name) {
				out = append(out, t.Name)
			}
		}
	}
	return out
}

func trafficNamed(f *Findings, name string) *Traffic {
	for i := range f.Traffic {
		if f.Traffic[i].Name == name {
			return &f.Traffic[i]
		}
	}
	return nil
}

// madeOf is what differs in how the runs were made. Runs that differ there
// differ for that reason, too.
func madeOf(a, b *Findings) []pair {
	x, y := a.Environment, b.Environment
	var out []pair
	for _, p := range []pair{
		{Name: "scenario", A: a.Scenario, B: b.Scenario},
		{Name: "scenario as resolved", A: short(x.Digest), B: short(y.Digest)},
		{Name: "seed", A: strconv.FormatUint(x.Seed, 10), B: strconv.FormatUint(y.Seed, 10)},
		{Name: "target", A: a.Target, B: b.Target},
		{Name: "tablefull", A: x.Version, B: y.Version},
		{Name: "kernel", A: x.Kernel, B: y.Kernel},
		{Name: "architecture", A: x.Arch, B: y.Arch},
		{Name: "CPUs", A: strconv.Itoa(x.CPUs), B: strconv.Itoa(y.CPUs)},
		{Name: "memory", A: byteSize(x.MemoryBytes), B: byteSize(y.MemoryBytes)},
		{Name: "nf_conntrack_max", A: grouped(x.Limit), B: grouped(y.Limit)},
		{Name: "buckets", A: grouped(x.Buckets), B: grouped(y.Buckets)},
		{Name: "sampled every, s", A: number(x.SampleEveryS), B: number(y.SampleEveryS)},
	} {
		if p.A != p.B {
			out = append(out, p)
		}
	}
	return append(out, timeoutPairs(x.Timeouts, y.Timeouts)...)
}

func timeoutPairs(a, b map[string]float64) []pair {
	var names []string
	for _, m := range []map[string]float64{a, b} {
		for name := range m {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	text := func(m map[string]float64, name string) string {
		if v, ok := m[name]; ok {
			return number(v) + " s"
		}
		return "?"
	}
	var out []pair
	for _, name := range names {
		if p := (pair{Name: name, A: text(a, name), B: text(b, name)}); p.A != p.B {
			out = append(out, p)
		}
	}
	return out
}

// short is as much of a digest as tells two apart.
func short(digest string) string {
	if len(digest) > 20 {
		return fmt.Sprintf("%.20s…", digest)
	}
	return digest
}

package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tablefull/tablefull/report/search"
)

// A metric is one number of a run that arms can be compared by.
type metric struct {
	name, group, unit, about string
	less                     bool // less is better
	neutral                  bool // neither is better
	gate                     bool // decides where nobody says what does
	// Worse by up to the larger of abs (in unit) and rel (of the baseline's
	// median) does not matter.
	abs, rel float64
	// of is NaN where the run says nothing, +Inf for never.
	of func(*Findings) float64
}

// The practical margins. Those of time are what this kind of measurement
// resolves: the audit of a dataplane reads every 0.2 s, the load series has
// steps of 0.1 s and more, and latencies of a machine that does all by itself
// wander by a tenth.
func runMetrics() []metric {
	return []metric{
		{name: "errors", unit: "%", about: "failed attempts, of those that ended", less: true, gate: true, abs: 0.1, rel: 0.05, of: errorShare},
		{name: "failures_per_action", unit: "attempts", about: "failed attempts for each time an action was done", less: true, gate: true, abs: 2, rel: 0.1, of: failuresPerAction},
		{name: "spike", unit: "s", about: "longest time for which attempts failed around an action", less: true, gate: true, abs: 0.3, rel: 0.1, of: longestSpike},
		{name: "stale", unit: "s", about: "longest time for which a node sent new connections to a pod that was not usable any more, at most", less: true, gate: true, abs: 0.4, rel: 0.1, of: longestStale},
		{name: "drop_at", unit: "s", about: "when the node began to drop because its table was full; never is not within the run", gate: true, abs: 0.2, rel: 0.02, of: dropAt},
		{name: "failures", unit: "attempts", about: "failed attempts", less: true, abs: 2, rel: 0.05, of: failedAttempts},
		{name: "entries_at_drop", unit: "entries", about: "entries in the table then", neutral: true, abs: 50, rel: 0.01, of: entriesAtDrop},
		{name: "peak_entries", unit: "entries", about: "most entries at once, less those that were there before the traffic", less: true, abs: 50, rel: 0.02, of: peakEntries},
		{name: "entries_per_attempt", unit: "entries", about: "entries that one attempt adds, while none has expired and nothing is dropped", less: true, abs: 0.05, rel: 0.02, of: entriesPerAttempt},
		{name: "programming", unit: "s", about: "kube-proxy's network programming latency, mean", less: true, abs: 0.1, rel: 0.1, of: proxyValue(func(p *ProxyProcess) *float64 { return p.ProgrammingMeanS })},
		{name: "sync", unit: "s", about: "time of one programming of rules by kube-proxy, mean", less: true, abs: 0.02, rel: 0.1, of: proxyValue(func(p *ProxyProcess) *float64 { return p.SyncMeanS })},
		{name: "proxy_cpu", unit: "s", about: "CPU time of kube-proxy", less: true, abs: 0.1, rel: 0.1, of: proxyValue(func(p *ProxyProcess) *float64 { return p.CPUS })},
		{name: "proxy_memory", unit: "MiB", about: "most memory of kube-proxy", less: true, abs: 5, rel: 0.1, of: proxyValue(func(p *ProxyProcess) *float64 { return p.RSSMiB })},
		{name: "capacity", unit: "", about: "lower bound of the capacity that was searched for, in the unit of what was turned", gate: true, rel: 0.03, of: capacity},
	}
}

// latencyMetric is the p99 of one traffic.
func latencyMetric(traffic string, only bool) metric {
	name := "p99 " + traffic
	if only {
		name = "p99"
	}
	return metric{
		name: name, group: "p99", unit: "ms", about: "99th percentile of the attempts that succeeded, from when they were due: " + traffic,
		less: true, gate: true, abs: 1, rel: 0.1, of: func(f *Findings) float64 {
			if t := trafficNamed(f, traffic); t != nil && t.P99Ms != nil {
				return *t.P99Ms
			}
			return math.NaN()
		},
	}
}

// MetricNames lists what gates and margins can be named by.
func MetricNames() []string {
	out := []string{"p99"}
	for _, m := range runMetrics() {
		out = append(out, m.name)
	}
	slices.Sort(out)
	return out
}

// ParseMargin reads METRIC=VALUE, with VALUE a share of the baseline's median
// (10%) or a number in the metric's unit.
func ParseMargin(s string) (name string, abs, rel float64, err error) {
	name, text, ok := strings.Cut(s, "=")
	if !ok {
		return "", 0, 0, fmt.Errorf("%q is not a margin: write for example p99=10%%, or errors=0.5", s)
	}
	if !slices.Contains(MetricNames(), name) {
		return "", 0, 0, fmt.Errorf("unknown metric %q: known are %s", name, strings.Join(MetricNames(), ", "))
	}
	number, share := strings.CutSuffix(strings.TrimSpace(text), "%")
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || v < 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return "", 0, 0, fmt.Errorf("%q is not a margin of %s: write a share, such as 10%%, or a number in its unit, 0 and up", text, name)
	}
	if share {
		return name, 0, v / 100, nil
	}
	return name, v, 0, nil
}

func errorShare(f *Findings) float64 {
	var failed, ended float64
	for _, t := range f.Traffic {
		if t.Succeeded != nil {
			failed += float64(t.Failed)
			ended += float64(t.Failed) + float64(*t.Succeeded)
		}
	}
	if ended == 0 {
		return math.NaN()
	}
	return 100 * failed / ended
}

func failedAttempts(f *Findings) float64 {
	n, answered := 0.0, false
	for _, t := range f.Traffic {
		if t.Succeeded != nil {
			n, answered = n+float64(t.Failed), true
		}
	}
	if !answered {
		return math.NaN()
	}
	return n
}

// countedSpikes are the occurrences of actions around which attempts were
// counted; actions that began in the same step as another share their failures.
func countedSpikes(f *Findings) []Spike {
	return slices.DeleteFunc(slices.Clone(f.Spikes), func(s Spike) bool { return s.WatchedToS == nil })
}

func failuresPerAction(f *Findings) float64 {
	list := countedSpikes(f)
	if len(list) == 0 || f.OtherSpikes > 0 {
		return math.NaN()
	}
	var n float64
	for _, s := range list {
		n += float64(s.Failures)
	}
	return n / float64(len(list))
}

func longestSpike(f *Findings) float64 {
	list := countedSpikes(f)
	if len(list) == 0 {
		return math.NaN()
	}
	longest := 0.0
	for _, s := range list {
		if s.StartS != nil && s.EndS != nil {
			longest = max(longest, *s.EndS-*s.StartS)
		}
	}
	return longest
}

func longestStale(f *Findings) float64 {
	v, _ := staleMetric("stale", f, "")
	if unread(f, "") {
		return math.NaN()
	}
	return v
}

func dropAt(f *Findings) float64 {
	switch {
	case headNode(f) == nil:
		return math.NaN()
	case f.Knee.Drop == nil:
		return math.Inf(1)
	}
	return f.Knee.Drop.AtS
}

func entriesAtDrop(f *Findings) float64 {
	switch {
	case headNode(f) == nil:
		return math.NaN()
	case f.Knee.Drop == nil:
		return math.Inf(1)
	case f.Knee.Drop.Entries == nil:
		return math.NaN()
	}
	return float64(*f.Knee.Drop.Entries)
}

func peakEntries(f *Findings) float64 {
	most := math.NaN()
	for _, n := range f.Nodes {
		if n.PeakEntries != nil && n.StartEntries != nil {
			v := float64(*n.PeakEntries) - float64(*n.StartEntries)
			if math.IsNaN(most) || v > most {
				most = v
			}
		}
	}
	return most
}

// settledAfter is how long after its due time, in s, an attempt's entries are
// taken to be there.
const settledAfter = 0.2

// entriesPerAttempt is the growth of all nodes' tables over the attempts that
// were due meanwhile, while nothing was refused, evicted or had expired.
func entriesPerAttempt(f *Findings) float64 {
	until := f.Environment.DurationS
	for _, n := range f.Nodes {
		for _, o := range []*Onset{n.Knee.Drop, n.Knee.EarlyDrop} {
			if o != nil {
				until = min(until, o.AtS-o.UncertaintyS)
			}
		}
		if n.Reclaimed != nil {
			until = min(until, n.Reclaimed.FromS)
		}
	}
	if f.Knee.ClientLoss != nil { // what fails leaves no entry, or another one
		until = min(until, f.Knee.ClientLoss.AtS-f.Knee.ClientLoss.UncertaintyS)
	}
	until = min(until, shortestResidence(f))
	from := min(0.5, until/4)
	due, ends := dueBetween(f, from, until-settledAfter)
	if len(ends) < 2 || due[len(due)-1] < 100 || ends[len(ends)-1]-ends[0] < 0.5 {
		return math.NaN()
	}
	// The median slope, as one stall of the machine, whose entries come late,
	// moves the difference of two moments.
	step := 1 + len(ends)/100
	var slopes, seen, had []float64
	for i := 0; i < len(ends); i += step {
		entries, ok := entriesAt(f, ends[i])
		if !ok {
			return math.NaN()
		}
		for k := range seen {
			if due[i] > seen[k] {
				slopes = append(slopes, (entries-had[k])/(due[i]-seen[k]))
			}
		}
		seen, had = append(seen, due[i]), append(had, entries)
	}
	if len(slopes) == 0 {
		return math.NaN()
	}
	slices.Sort(slopes)
	n := len(slopes)
	return (slopes[(n-1)/2] + slopes[n/2]) / 2
}

// shortestResidence is for how long after the begin no entry of the traffic can
// have come to its end, s; +Inf where nothing is known of that.
func shortestResidence(f *Findings) float64 {
	least := math.Inf(1)
	if s := f.Sizing; s != nil {
		for _, p := range s.Parts {
			if p.ResidenceS > 0 {
				least = min(least, p.ResidenceS)
			}
		}
	}
	return least
}

// dueBetween is how many attempts were started, since the first of them, that were
// due up to the ends of whole steps of the load series between from and until.
// Entries come a little after their attempts are due, at each of them alike.
func dueBetween(f *Findings, from, until float64) (due, ends []float64) {
	l, sum := f.Timeline.Load, 0.0
	for i, t := range l.T {
		if t < from || t+l.StepS > until || i >= len(l.Started) {
			continue
		}
		if len(ends) == 0 {
			due, ends = append(due, 0), append(ends, t)
		}
		sum += l.Started[i] * l.StepS
		due, ends = append(due, sum), append(ends, t+l.StepS)
	}
	return due, ends
}

// entriesAt is the entries of all nodes at that moment: between the two steps
// around it, of which each holds its highest.
func entriesAt(f *Findings, at float64) (sum float64, ok bool) {
	for _, n := range f.Nodes {
		i := slices.IndexFunc(f.Timeline.Nodes, func(s NodeSeries) bool { return s.Name == n.Name })
		if i < 0 {
			return 0, false
		}
		s := f.Timeline.Nodes[i]
		l := line{t: s.T, v: floats(s.Entries)}
		v := l.on(values{at})[0]
		if math.IsNaN(v) {
			return 0, false
		}
		sum += v
	}
	return sum, len(f.Nodes) > 0
}

func proxyValue(get func(*ProxyProcess) *float64) func(*Findings) float64 {
	return func(f *Findings) float64 {
		most := math.NaN()
		for _, n := range f.Nodes {
			if n.Proxy == nil {
				continue
			}
			if v := get(n.Proxy); v != nil && (math.IsNaN(most) || *v > most) {
				most = *v
			}
		}
		return most
	}
}

func capacity(f *Findings) float64 {
	if c := f.Capacity; c != nil && len(c.Goals) > 0 && c.Goals[0].End == string(search.BelowMin) {
		return 0 // not even the least load holds
	}
	if f.Capacity == nil || f.Capacity.Lower == nil {
		return math.NaN()
	}
	return *f.Capacity.Lower
}

package report

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
)

// An exposition is an OpenMetrics 1.0 text of the run's final findings, to be
// pushed by a CI job or read by a collector. It has no time stamps: both take
// the moment at which they get it, and tablefull_run_start_time_seconds says
// when it was measured. Counters count from 0 within the run. What was not
// measured has no sample.
type exposition struct {
	b    strings.Builder
	base []string // labels of every sample
}

// A family is one metric with its samples.
type family struct {
	x          *exposition
	name, kind string
	seen       map[string]bool
	head       string
}

// family declares a metric; it is written with its first sample. The unit is
// empty or the end of the name.
func (x *exposition) family(name, kind, unit, help string) *family {
	head := fmt.Sprintf("# TYPE %s %s\n", name, kind)
	if unit != "" {
		head += fmt.Sprintf("# UNIT %s %s\n", name, unit)
	}
	return &family{x: x, name: name, kind: kind, head: head + fmt.Sprintf("# HELP %s %s\n", name, help), seen: map[string]bool{}}
}

// sample writes one; labels are names and values in turn.
func (m *family) sample(suffix, value string, labels ...string) {
	m.x.b.WriteString(m.head)
	m.head = ""
	var parts []string
	all := append(append([]string{}, m.x.base...), labels...)
	for i := 0; i+1 < len(all); i += 2 {
		parts = append(parts, all[i]+`="`+labelValue(all[i+1])+`"`)
	}
	id := m.name + suffix + "{" + strings.Join(parts, ",") + "}"
	if m.seen[id] {
		// Two names of a log that differ only in what cannot be printed.
		m.sample(suffix, value, append(labels, "again", strconv.Itoa(len(m.seen)))...)
		return
	}
	m.seen[id] = true
	fmt.Fprintf(&m.x.b, "%s %s\n", id, value)
}

func (m *family) float(v *float64, labels ...string) {
	if v != nil && !math.IsNaN(*v) && !math.IsInf(*v, 0) {
		m.sample("", metricValue(*v), labels...)
	}
}

func (m *family) count(v *uint64, labels ...string) {
	if v == nil {
		return
	}
	suffix := ""
	if m.kind == "counter" {
		suffix = "_total"
	}
	m.sample(suffix, strconv.FormatUint(*v, 10), labels...)
}

// states writes a state set: 1 for the one that holds.
func (m *family) states(is Verdict, labels ...string) {
	for _, v := range []Verdict{Pass, Fail, Inconclusive} {
		value := "0"
		if v == is {
			value = "1"
		}
		m.sample("", value, append(append([]string{}, labels...), m.name, string(v))...)
	}
}

func metricValue(v float64) string { return strconv.FormatFloat(v, 'g', 12, 64) }

func labelValue(s string) string {
	return strings.NewReplacer("\\", `\\`, "\n", `\n`, `"`, `\"`).Replace(plain(strings.ToValidUTF8(s, "?")))
}

// renderOpenMetrics writes the verdict, the knees, what the kernel counted, how
// traffic fared and what it needs.
func renderOpenMetrics(f *Findings, w io.Writer) error {
	x := &exposition{base: []string{"scenario", f.Scenario, "target", f.Target}}
	x.run(f)
	x.knees(onsets(f))
	x.tables(f.Nodes)
	x.attempts(f.Traffic)
	causes := x.family("tablefull_cause_attempts", "counter", "", "Attempts by why they failed, or, with of=due, why the generator did not start them in time.")
	for _, c := range f.Causes {
		causes.count(&c.Failures, "cause", c.Cause, "of", c.ShareOf)
	}
	x.actions(f)
	if s := f.Sizing; s != nil && !s.Meaningless {
		x.family("tablefull_needed_entries", "gauge", "entries", "Entries this traffic needs in the steady state.").count(s.NeededEntries)
		x.family("tablefull_recommended_limit_entries", "gauge", "entries", "nf_conntrack_max that goes with it.").count(s.RecommendedLimit)
		x.family("tablefull_limit_in_all_entries", "gauge", "entries", "The same for this traffic and what else was in the table.").count(s.LimitInAll)
	}
	if c := f.Capacity; c != nil {
		m := x.family("tablefull_capacity", "gauge", "", "Result of the capacity search, in the unit of what was searched: the true capacity is between the bounds.")
		for _, g := range c.Goals {
			loss := metricValue(g.LossRatio)
			m.float(g.Lower, "measure", c.Measure, "unit", cmpOr(c.Unit, "connections"), "loss_ratio", loss, "bound", "lower")
			m.float(g.Upper, "measure", c.Measure, "unit", cmpOr(c.Unit, "connections"), "loss_ratio", loss, "bound", "upper")
		}
	}
	x.b.WriteString("# EOF\n")
	if _, err := io.WriteString(w, x.b.String()); err != nil {
		return fmt.Errorf("write openmetrics: %w", err)
	}
	return nil
}

func (x *exposition) run(f *Findings) {
	e := f.Environment
	x.family("tablefull_run", "info", "", "What ran, and with what.").
		sample("_info", "1", "run_id", e.RunID, "version", e.Version, "kernel", e.Kernel, "arch", e.Arch, "digest", e.Digest)
	if t, err := time.Parse(time.RFC3339Nano, e.Started); err == nil {
		at := float64(t.UnixMilli()) / 1000
		x.family("tablefull_run_start_time_seconds", "gauge", "seconds", "When the run began, since the epoch.").float(&at)
	}
	x.family("tablefull_verdict", "stateset", "", "The run's verdict.").states(f.Verdict)
	x.family("tablefull_run_complete", "gauge", "", "1 where the run ended in order, 0 where its log was cut off.").sample("", oneOrZero(!f.Incomplete))
	if f.Restored != nil {
		x.family("tablefull_restored", "gauge", "", "1 where everything that was changed has been put back.").sample("", oneOrZero(*f.Restored))
	}
	m := x.family("tablefull_threshold", "stateset", "", "Result of each threshold.")
	for _, t := range f.Thresholds {
		m.states(t.Result, "threshold", t.Threshold)
	}
}

// actions writes what each kind of action cost, what was expected, and how far
// dataplanes were behind.
func (x *exposition) actions(f *Findings) {
	expected := x.family("tablefull_expected", "stateset", "", "Whether what the scenario expects was shown: pass is yes.")
	for _, t := range f.Expected {
		expected.states(t.Result, "expected", t.Threshold)
	}
	sums, times := map[[2]string]uint64{}, map[[2]string]uint64{}
	for i := range f.Spikes {
		s := &f.Spikes[i]
		key := [2]string{s.Action, s.Kind}
		sums[key] += s.Failures
		times[key]++
	}
	keys := slices.SortedFunc(maps.Keys(times), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	done := x.family("tablefull_actions", "counter", "", "Times that an action was done, of those listed.")
	for _, k := range keys {
		n := times[k]
		done.count(&n, "action", k[0], "kind", k[1])
	}
	cost := x.family("tablefull_action_failed_attempts", "counter", "", "Attempts that failed at the time of an action, less those that failed anyway. Actions that began together share them: do not add up.")
	for _, k := range keys {
		n := sums[k]
		cost.count(&n, "action", k[0], "kind", k[1])
	}
	most := x.family("tablefull_stale_backends", "gauge", "", "Most backends at once that a node's dataplane led to and should not have.")
	for i := range f.Nodes {
		if s := f.Nodes[i].Stale; s != nil {
			most.count(&s.MaxBackends, "node", f.Nodes[i].Name)
		}
	}
	long := x.family("tablefull_stale_seconds", "gauge", "seconds", "Longest time for which one of them stayed.")
	for i := range f.Nodes {
		if s := f.Nodes[i].Stale; s != nil {
			long.float(&s.MaxS, "node", f.Nodes[i].Name)
		}
	}
}

func oneOrZero(v bool) string {
	if v {
		return "1"
	}
	return "0"
}

func (x *exposition) knees(all []namedOnset) {
	each := func(m *family, put func(m *family, o *Onset, labels ...string)) {
		for _, o := range all {
			put(m, o.Onset, "node", o.node, "onset", o.name)
		}
	}
	each(x.family("tablefull_onset_time_seconds", "gauge", "seconds", "Run time of an onset: early_drop, drop or client_loss; no sample where it did not happen or could not be seen."),
		func(m *family, o *Onset, labels ...string) { m.float(&o.AtS, labels...) })
	each(x.family("tablefull_onset_uncertainty_seconds", "gauge", "seconds", "The true moment is within plus or minus this."),
		func(m *family, o *Onset, labels ...string) { m.float(&o.UncertaintyS, labels...) })
	each(x.family("tablefull_onset_entries", "gauge", "entries", "Entries in the table at the onset."),
		func(m *family, o *Onset, labels ...string) { m.count(o.Entries, labels...) })
	each(x.family("tablefull_onset_occupancy_ratio", "gauge", "ratio", "Entries over limit at the onset."),
		func(m *family, o *Onset, labels ...string) { m.float(o.Occupancy, labels...) })
	each(x.family("tablefull_onset_offered_attempts_per_second", "gauge", "", "Attempts due per second around the onset."),
		func(m *family, o *Onset, labels ...string) { m.float(o.OfferedPerS, labels...) })
}

func (x *exposition) tables(nodes []Node) {
	limit := x.family("tablefull_limit_entries", "gauge", "entries", "nf_conntrack_max.")
	for i := range nodes {
		limit.count(nodes[i].Limit, "node", nodes[i].Name)
	}
	peak := x.family("tablefull_peak_entries", "gauge", "entries", "Most entries in the table.")
	for i := range nodes {
		peak.count(nodes[i].PeakEntries, "node", nodes[i].Name)
	}
	full := x.family("tablefull_peak_occupancy_ratio", "gauge", "ratio", "Highest entries over limit.")
	for i := range nodes {
		full.float(nodes[i].PeakOccupancy, "node", nodes[i].Name)
	}
	counters := x.family("tablefull_conntrack_events", "counter", "", "What each kernel counter gained during the run.")
	for i := range nodes {
		for _, c := range telling(nodes[i].Counters) {
			v := nodes[i].Counters[c]
			counters.count(&v, "node", nodes[i].Name, "counter", c)
		}
	}
}

func (x *exposition) attempts(traffic []Traffic) {
	due := x.family("tablefull_attempts_due", "counter", "", "Attempts that were due.")
	for _, t := range traffic {
		due.count(&t.Due, "traffic", t.Name)
	}
	missed := x.family("tablefull_attempts_not_started", "counter", "", "Attempts that were due and that the generator could not start.")
	for _, t := range traffic {
		missed.count(&t.NotStarted, "traffic", t.Name)
	}
	ended := x.family("tablefull_attempts_ended", "counter", "", "Attempts by how they ended; of one-way traffic nobody knows more than that they were sent.")
	for _, t := range traffic {
		for _, o := range slices.Sorted(maps.Keys(t.Outcomes)) {
			v := t.Outcomes[o]
			if t.OneWay && o == string(runlog.OK) {
				o = "sent"
			}
			ended.count(&v, "traffic", t.Name, "outcome", o)
		}
	}
	late := x.family("tablefull_late_ratio", "gauge", "ratio", "Share of started attempts that were started more than 10 ms (in a private kernel 30 ms) after they were due.")
	for _, t := range traffic {
		late.float(t.LateShare, "traffic", t.Name)
	}
	took := x.family("tablefull_attempt_duration_seconds", "summary", "seconds", "How long successful attempts took, from when they were due.")
	for _, t := range traffic {
		took.float(inSeconds(t.P50Ms), "traffic", t.Name, "quantile", "0.5")
		took.float(inSeconds(t.P99Ms), "traffic", t.Name, "quantile", "0.99")
	}
	longest := x.family("tablefull_attempt_duration_max_seconds", "gauge", "seconds", "Longest of them.")
	for _, t := range traffic {
		longest.float(inSeconds(t.MaxMs), "traffic", t.Name)
	}
}

func inSeconds(ms *float64) *float64 {
	if ms == nil {
		return nil
	}
	v := *ms / 1000
	return &v
}

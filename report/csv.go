package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// csvColumns are the columns of the time series: one row per value, because
// nodes, traffics and walks over the table have their own moments. A value that
// was not measured has no row.
//
//   - time_s: run time; where step_s is given, the start of the step
//   - step_s: the stretch of time that the value is of; empty for a sample
//   - host: node it was measured on; empty for the generators all together
//   - series: what it is, with the unit at the end (entries and counts have none)
//   - name: which cause, traffic, counter or state; empty where there is one only
//   - value
var csvColumns = []string{"time_s", "step_s", "host", "series", "name", "value"}

// A csvTable writes rows, and remembers the first error.
type csvTable struct {
	w   *csv.Writer
	err error
}

func (c *csvTable) row(fields ...string) {
	if c.err == nil {
		c.err = c.w.Write(fields)
	}
}

// csvText is a string from a log on one line, which no spreadsheet takes for a
// formula.
func csvText(s string) string {
	s = strings.Join(strings.Fields(plain(s)), " ")
	// Some spreadsheets take the wide forms for formulas, too.
	if strings.IndexAny(s, "=+-@＝＋－＠") == 0 {
		return "'" + s
	}
	return s
}

// decimal writes 12 digits, which is more than anything here is measured to
// and takes off the noise of sums.
func decimal(v float64) string {
	if short, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 12, 64), 64); err == nil {
		v = short
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

// floats writes a series; step 0 stands for samples.
func (c *csvTable) floats(t []float64, step float64, host, series, name string, v []float64) {
	for i := range min(len(t), len(v)) {
		c.row(decimal(t[i]), csvStep(step), csvText(host), series, csvText(name), decimal(v[i]))
	}
}

func (c *csvTable) measured(t []float64, step float64, host, series, name string, v []*float64) {
	for i := range min(len(t), len(v)) {
		if v[i] != nil {
			c.row(decimal(t[i]), csvStep(step), csvText(host), series, csvText(name), decimal(*v[i]))
		}
	}
}

func (c *csvTable) counts(t []float64, host, series, name string, v []uint64) {
	for i := range min(len(t), len(v)) {
		c.row(decimal(t[i]), "", csvText(host), series, csvText(name), strconv.FormatUint(v[i], 10))
	}
}

func csvStep(step float64) string {
	if step <= 0 {
		return ""
	}
	return decimal(step)
}

// renderCSV writes the timeline in long form.
func renderCSV(f *Findings, w io.Writer) error {
	c := &csvTable{w: csv.NewWriter(w)}
	c.w.UseCRLF = true // as RFC 4180 has it
	c.row(csvColumns...)
	c.load(f)
	for _, l := range f.Timeline.Latency {
		c.measured(l.T, l.StepS, "", "latency_p50_ms", l.Traffic, l.P50Ms)
		c.measured(l.T, l.StepS, "", "latency_p90_ms", l.Traffic, l.P90Ms)
		c.measured(l.T, l.StepS, "", "latency_p99_ms", l.Traffic, l.P99Ms)
		c.measured(l.T, l.StepS, "", "latency_max_ms", l.Traffic, l.MaxMs)
	}
	for _, h := range f.Timeline.Held {
		c.counts(h.T, "", "held_open", h.Traffic, h.Open)
		c.counts(h.T, "", "held_validated", h.Traffic, h.Validated)
	}
	for _, n := range f.Timeline.Nodes {
		c.node(n)
	}
	for i := range f.Spikes {
		s := &f.Spikes[i]
		c.row(decimal(s.BeginS), "", "", "action_failed_attempts", csvText(spikeName(s)), strconv.FormatUint(s.Failures, 10))
	}
	c.w.Flush()
	if c.err == nil {
		c.err = c.w.Error()
	}
	if c.err != nil {
		return fmt.Errorf("write csv: %w", c.err)
	}
	return nil
}

func (c *csvTable) load(f *Findings) {
	l := f.Timeline.Load
	for _, s := range []struct {
		name string
		v    []float64
	}{{"offered_per_s", l.Offered}, {"succeeded_per_s", l.OK}, {"failed_per_s", l.Failed}, {"started_per_s", l.Started}, {"late_per_s", l.Late}, {"not_started_per_s", l.NotStarted}} {
		if s.name == "succeeded_per_s" && !anyAnswers(f) {
			continue
		}
		c.floats(l.T, l.StepS, "", s.name, "", s.v)
	}
	for _, x := range f.Timeline.Causes {
		c.floats(l.T, l.StepS, "", "failed_by_cause_per_s", x.Cause, x.PerS)
	}
}

// anyAnswers tells whether it can be known of any traffic that it succeeded.
func anyAnswers(f *Findings) bool {
	return slices.ContainsFunc(f.Traffic, func(t Traffic) bool { return !t.OneWay })
}

func (c *csvTable) node(n NodeSeries) {
	c.counts(n.T, n.Name, "entries", "", n.Entries)
	c.counts(n.T, n.Name, "entries_min", "", n.EntriesMin)
	c.counts(n.T, n.Name, "limit", "", n.Limit)
	for _, name := range slices.Sorted(maps.Keys(n.Counters)) {
		c.counts(n.T, n.Name, "counter_increment", name, n.Counters[name])
	}
	if p := n.CPU; p != nil {
		c.floats(p.T, 0, n.Name, "cpu_ratio", "user", p.User)
		c.floats(p.T, 0, n.Name, "cpu_ratio", "system", p.System)
		c.floats(p.T, 0, n.Name, "cpu_ratio", "softirq", p.SoftIRQ)
		c.floats(p.T, 0, n.Name, "cpu_ratio", "steal", p.Steal)
		c.floats(p.T, 0, n.Name, "agent_cpu_s_per_s", "", p.Self)
	}
	if n.Census != nil {
		for _, s := range n.Census.States {
			c.counts(n.Census.T, n.Name, "census_entries", s.Name, s.Count)
		}
	}
}

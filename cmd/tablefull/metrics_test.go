package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/metrics"
	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/watch"
)

const measured = `
name: measured
duration: 3s
conntrack: {headroom: 600}
services: [{name: web, pods: 2}]
traffic:
  - {name: clients, to: web, timeout: 500ms, short_lived: {rate: 300/s}}
  - {name: held, to: web, idle: {count: 50, open_rate: 100/s, validate_every: 500ms}}
actions: [{name: roll, at: 1s, rollout: {service: web}}]
expect: [drop > 50]
`

const measuredSearch = `
name: measured-search
duration: 1s
conntrack: {headroom: 100}
services: [{name: web}]
traffic: [{name: clients, to: web, timeout: 300ms, short_lived: {rate: 200/s}}]
search: {knob: "traffic[0].short_lived.rate", min: 200/s, max: 400/s, trial: 1s, duration_sum: 1s, width: 30%, goals: ["0%"], budget: 15s}
`

type families map[string]*dto.MetricFamily

// samples are a family's samples that have these labels, added up.
func (f families) sum(name string, with ...string) float64 {
	total := 0.0
	if f[name] == nil {
		return total
	}
	for _, m := range f[name].Metric {
		has := map[string]string{}
		for _, l := range m.Label {
			has[l.GetName()] = l.GetValue()
		}
		fits := true
		for i := 0; i < len(with); i += 2 {
			fits = fits && has[with[i]] == with[i+1]
		}
		if fits {
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return total
}

func parseMetrics(t *testing.T, in io.Reader) families {
	t.Helper()
	p := expfmt.NewTextParser(model.UTF8Validation)
	f, err := p.TextToMetricFamilies(in)
	require.NoError(t, err)
	return f
}

// scraped runs a scenario with --metrics and scrapes it as Prometheus does, as
// long as it goes on. It returns every family that was seen, each as of when it
// had most samples, and how the counter of due attempts grew.
func scraped(t *testing.T, scenario string) (dir string, seen families, due []float64) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "out")
	errOut, in := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- run(t.Context(), []string{"run", "-", "--out", dir, "--metrics", ":0"}, Streams{In: strings.NewReader(scenario), Out: io.Discard, Err: in})
		in.Close()
	}()
	lines := bufio.NewReader(errOut)
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	require.Regexp(t, `^tablefull: metrics: http://127\.0\.0\.1:[0-9]+/metrics\n$`, line)
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	url := strings.TrimSpace(strings.TrimPrefix(line, "tablefull: metrics: "))
	defer http.DefaultClient.CloseIdleConnections()
	seen = families{}
	for {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			break // it has ended
		}
		now := parseMetrics(t, res.Body)
		require.NoError(t, res.Body.Close())
		for name, f := range now {
			if seen[name] == nil || len(f.Metric) >= len(seen[name].Metric) {
				seen[name] = f
			}
		}
		due = append(due, now.sum("tablefull_attempts_due_total"))
		time.Sleep(100 * time.Millisecond)
	}
	require.Contains(t, []int{exitPass, exitFail, exitInconclusive}, <-code)
	return dir, seen, due
}

// exportedAfter is what the exporter makes of a log that is whole.
func exportedAfter(t *testing.T, dir string) families {
	t.Helper()
	m := &metricsServer{exporter: metrics.New("measured", "lab")}
	m.follow(dir, "", 0)()
	return gathered(t, m.exporter)
}

// What is exported is what the report says, and it can be seen while the run
// goes on; and every query of the dashboard asks for something that is there.
func TestMetrics(t *testing.T) {
	needLab(t)
	dir, live, due := scraped(t, measured)
	f, err := analyzeDir(dir)
	require.NoError(t, err)
	assert.True(t, slices.IsSorted(due), "a counter never falls: %v", due)
	between := slices.ContainsFunc(due, func(v float64) bool { return v > 0 && v < due[len(due)-1] })
	assert.True(t, between, "it was seen growing: %v", due)
	assert.Positive(t, live.sum("node_nf_conntrack_entries"), "the table was seen, too")

	end := exportedAfter(t, dir)
	assertExported(t, end, f)
	assertLastRead(t, end, dir)
	assert.NotEmpty(t, f.Spikes)
	assert.Equal(t, 1.0, end.sum("tablefull_actions_total", "action", "roll", "kind", "rollout"))
	assert.Zero(t, end.sum("tablefull_action_running"), "it has ended")

	searchDir, searched, _ := scraped(t, measuredSearch)
	f, err = analyzeDir(searchDir)
	require.NoError(t, err)
	require.NotNil(t, f.Capacity)
	assert.NotZero(t, searched.sum("tablefull_trial"), "the trials are followed as they come")
	assert.NotZero(t, searched.sum("tablefull_attempts_due_total", "traffic", "clients"))
	after := exportedAfter(t, searchDir)
	assert.Equal(t, float64(len(f.Capacity.Trials)), after.sum("tablefull_search_trials"))
	assert.Equal(t, 1.0, after.sum("tablefull_verdict", "tablefull_verdict", string(f.Verdict)))
	if c := f.Capacity.Upper; assert.NotNil(t, c, "not even the lowest load has room") {
		assert.Equal(t, *c, after.sum("tablefull_capacity", "bound", "upper"))
	}

	all := families{}
	for _, more := range []families{watched(t), rare(t), after, end, searched, live} {
		maps.Copy(all, more)
	}
	lintNames(t, all)
	assertDashboard(t, all)
}

// rare is what the runs here need not show: what is exported of its records.
func rare(t *testing.T) families {
	t.Helper()
	e := metrics.New("rare", "lab")
	e.Begin("", 0)
	for _, r := range []runlog.Record{
		{Bin: &runlog.Bin{Traffic: "clients", NotStarted: map[runlog.NotStartedReason]uint64{runlog.Behind: 1}}},
		{Event: &runlog.Event{Kind: "warning", Name: "lab"}},
		{Loss: &runlog.Loss{What: "autopsies", Count: 1}},
		{Held: &runlog.Held{Traffic: "held", Lost: 1}},
	} {
		e.Add(&r)
	}
	return gathered(t, e)
}

// watched is what a watch exports, and no run does.
func watched(t *testing.T) families {
	t.Helper()
	e := metrics.New("", "watch")
	e.Begin("", 0)
	e.Add(&runlog.Record{Host: "node", Census: &runlog.Census{Turnover: &runlog.Turnover{Came: 3, Went: 2, Over: 1}}})
	in := 60.0
	e.Watched(&watch.Table{Node: "node", Growth: &watch.Growth{PerS: 1}, Full: watch.Full{In: &in}})
	return gathered(t, e)
}

func gathered(t *testing.T, e *metrics.Exporter) families {
	t.Helper()
	list, err := e.Gatherer().Gather()
	require.NoError(t, err)
	out := families{}
	for _, f := range list {
		out[f.GetName()] = f
	}
	return out
}

// assertExported compares what the records add up to with the findings.
func assertExported(t *testing.T, got families, f *report.Findings) {
	t.Helper()
	for _, tr := range f.Traffic {
		assert.Equal(t, float64(tr.Due), got.sum("tablefull_attempts_due_total", "traffic", tr.Name))
		assert.Equal(t, float64(tr.NotStarted), got.sum("tablefull_attempts_not_started_total", "traffic", tr.Name))
		for outcome, n := range tr.Outcomes {
			assert.Equal(t, float64(n), got.sum("tablefull_attempts_ended_total", "traffic", tr.Name, "outcome", outcome), "%s %s", tr.Name, outcome)
		}
		if tr.P50Ms != nil {
			assert.Equal(t, float64(tr.Outcomes["ok"]), got.sum("tablefull_attempt_latency_seconds", "traffic", tr.Name))
		}
		if tr.HeldLost != nil {
			assert.Equal(t, float64(*tr.HeldLost), got.sum("tablefull_held_connections_lost_total", "traffic", tr.Name))
		}
	}
	for _, n := range f.Nodes {
		require.NotNil(t, n.Limit)
		assert.Equal(t, float64(*n.Limit), got.sum("node_nf_conntrack_entries_limit", "node", n.Name))
		for _, c := range []string{"drop", "early_drop", "insert_failed"} {
			assert.Equal(t, float64(n.Counters[c]), got.sum("tablefull_conntrack_events_total", "node", n.Name, "counter", c), c)
		}
		assert.GreaterOrEqual(t, got.sum("node_nf_conntrack_stat_drop", "node", n.Name), float64(n.Counters["drop"]))
	}
	assert.NotEmpty(t, f.Causes, "the scenario loses attempts")
	for _, c := range f.Causes {
		assert.Equal(t, float64(c.Failures), got.sum("tablefull_run_cause_attempts", "cause", c.Cause), c.Cause)
	}
	served := uint64(0)
	for _, b := range f.Backends {
		served += b.Served
	}
	assert.Equal(t, float64(served), got.sum("tablefull_service_served_total", "service", "web"))
	assert.Equal(t, 1.0, got.sum("tablefull_verdict"))
	assert.Equal(t, 1.0, got.sum("tablefull_verdict", "tablefull_verdict", string(f.Verdict)))
	assert.Equal(t, 1.0, got.sum("tablefull_restored"))
}

// assertLastRead compares the gauges of the table with the last sample and the
// last walk of the log that have them.
func assertLastRead(t *testing.T, got families, dir string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "run.jsonl"))
	require.NoError(t, err)
	var entries, ballast, walked uint64
	for line := range bytes.Lines(b) {
		var r runlog.Record
		require.NoError(t, json.Unmarshal(line, &r))
		if r.Sample != nil && r.Sample.Conntrack != nil {
			entries = r.Sample.Conntrack.Entries
		}
		if c := r.Census; c != nil {
			walked = 0
			for _, g := range c.Groups {
				walked += g.Count
			}
			if !c.WithoutBallast {
				ballast = c.Ballast
			}
		}
	}
	assert.NotZero(t, ballast)
	assert.NotZero(t, walked)
	assert.Equal(t, float64(entries), got.sum("node_nf_conntrack_entries"))
	assert.Equal(t, float64(ballast), got.sum("tablefull_census_ballast_entries"))
	assert.Equal(t, float64(walked), got.sum("tablefull_census_entries"))
}

// lintNames holds our own names to what the field expects of them.
func lintNames(t *testing.T, all families) {
	t.Helper()
	list := make([]*dto.MetricFamily, 0, len(all))
	for name, f := range all {
		if strings.HasPrefix(name, "tablefull_") {
			list = append(list, f)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(list).Lint()
	require.NoError(t, err)
	assert.Empty(t, problems)
}

// A dashboard is what of Grafana's JSON has queries in it.
type dashboard struct {
	Panels []struct {
		Title   string
		Targets []struct{ Expr, LegendFormat string }
	}
	Annotations struct {
		List []struct{ Name, Expr, TitleFormat string }
	}
	Templating struct {
		List []struct{ Name, Type, Query string }
	}
}

var (
	legendLabel   = regexp.MustCompile(`\{\{(\w+)\}\}`)
	variable      = regexp.MustCompile(`\$(\w+)`)
	labelValuesOf = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
)

func assertDashboard(t *testing.T, all families) {
	t.Helper()
	raw, err := os.ReadFile("../../docs/grafana-dashboard.json")
	require.NoError(t, err)
	var d dashboard
	require.NoError(t, json.Unmarshal(raw, &d))
	known := map[string]bool{"__rate_interval": true}
	for _, v := range d.Templating.List {
		known[v.Name] = true
	}
	asked := 0
	ask := func(where, expr string, wanted ...string) {
		asked++
		for _, v := range variable.FindAllStringSubmatch(expr, -1) {
			assert.True(t, known[v[1]], "%s: variable %s", where, v[0])
		}
		expr = strings.ReplaceAll(expr, "$__rate_interval", "1m")
		expr = variable.ReplaceAllString(expr, ".*")
		assertQuery(t, all, where, expr, wanted)
	}
	for _, p := range d.Panels {
		require.NotEmpty(t, p.Targets, p.Title)
		for _, q := range p.Targets {
			var wanted []string
			for _, l := range legendLabel.FindAllStringSubmatch(q.LegendFormat, -1) {
				wanted = append(wanted, l[1])
			}
			ask(p.Title, q.Expr, wanted...)
		}
	}
	for _, a := range d.Annotations.List {
		var wanted []string
		for _, l := range legendLabel.FindAllStringSubmatch(a.TitleFormat, -1) {
			wanted = append(wanted, l[1])
		}
		ask(a.Name, a.Expr, wanted...)
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			m := labelValuesOf.FindStringSubmatch(v.Query)
			require.NotNil(t, m, v.Query)
			ask("variable "+v.Name, m[1], m[2])
		}
	}
	assert.Greater(t, asked, 20)
}

// assertQuery holds a query to what is exported: the metrics, their labels, at
// least one sample for each of its selectors, and the labels that are wanted of
// its result.
func assertQuery(t *testing.T, all families, where, expr string, wanted []string) {
	t.Helper()
	e, err := parser.ParseExpr(expr)
	if !assert.NoError(t, err, "%s: %s", where, expr) {
		return
	}
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			has := labelsExported(all, n.Name)
			if !assert.NotNil(t, has, "%s asks for %s, which is not exported", where, n.Name) {
				return nil
			}
			for _, m := range n.LabelMatchers {
				if m.Name == labels.MetricName {
					continue
				}
				values, ok := has[m.Name]
				assert.True(t, ok, "%s: %s has no label %s", where, n.Name, m.Name)
				assert.True(t, slices.ContainsFunc(slices.Collect(maps.Keys(values)), m.Matches), "%s: no %s has %s", where, n.Name, m)
			}
		case *parser.AggregateExpr:
			for _, l := range n.Grouping {
				assertLabel(t, all, where, n.Expr, l)
			}
		}
		return nil
	})
	for _, l := range wanted {
		assertLabel(t, all, where, e, l)
	}
}

// assertLabel holds the result of e to having a label l.
func assertLabel(t *testing.T, all families, where string, e parser.Expr, l string) {
	t.Helper()
	switch e := e.(type) {
	case *parser.AggregateExpr:
		assert.Contains(t, e.Grouping, l, "%s: %s sums over label %s", where, e, l)
	case *parser.VectorSelector:
		assert.Contains(t, labelsExported(all, e.Name), l, "%s: %s", where, e.Name)
	case *parser.MatrixSelector:
		assertLabel(t, all, where, e.VectorSelector, l)
	case *parser.ParenExpr:
		assertLabel(t, all, where, e.Expr, l)
	case *parser.Call:
		assertLabel(t, all, where, e.Args[len(e.Args)-1], l)
	case *parser.BinaryExpr:
		assertLabel(t, all, where, e.LHS, l)
	default:
		assert.Fail(t, "a kind of expression that this test does not know", "%s: %T", where, e)
	}
}

// labelsExported are the labels of a metric with their values, nil where it is
// not exported.
func labelsExported(all families, name string) map[string]map[string]bool {
	f, bucket := all[name], false
	if f == nil {
		base := strings.TrimSuffix(name, "_bucket")
		if f = all[base]; f == nil || f.GetType() != dto.MetricType_HISTOGRAM || base == name {
			return nil
		}
		bucket = true
	}
	out := map[string]map[string]bool{}
	for _, m := range f.Metric {
		for _, l := range m.Label {
			if out[l.GetName()] == nil {
				out[l.GetName()] = map[string]bool{}
			}
			out[l.GetName()][l.GetValue()] = true
		}
	}
	if bucket {
		out["le"] = map[string]bool{"+Inf": true}
	}
	return out
}

// The checks of the dashboard find what is wrong with one.
func TestDashboardChecks(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "x_total", Help: "X."}, []string{"node"})
	reg.MustRegister(c)
	c.WithLabelValues("n1").Inc()
	list, err := reg.Gather()
	require.NoError(t, err)
	all := families{"x_total": list[0]}
	for expr, good := range map[string]bool{
		`sum by (node) (rate(x_total{node=~"n.*"}[1m]))`: true,
		`y_total`:                 false,
		`x_total{host="n1"}`:      false,
		`x_total{node="other"}`:   false,
		`sum by (host) (x_total)`: false,
		`sum(x_total)`:            false, // the legend wants node
		`rate(x_total[1m]`:        false,
	} {
		fake := &testing.T{}
		assertQuery(fake, all, "panel", expr, []string{"node"})
		assert.Equal(t, good, !fake.Failed(), expr)
	}
}

func TestMetricsMistakes(t *testing.T) {
	for _, c := range []struct {
		listen string
		say    string
	}{{"9464", "must be a port behind a colon"}, {":", "must be a port"}, {"192.0.2.1:0", "listen for --metrics"}} {
		var errOut strings.Builder
		code := run(t.Context(), []string{"run", "short-lived", "--metrics", c.listen}, Streams{In: strings.NewReader(""), Out: io.Discard, Err: &errOut})
		assert.Equal(t, exitUsage, code, c.listen)
		assert.Contains(t, errOut.String(), c.say)
	}
	address, err := metricsAddress(":9464")
	require.NoError(t, err)
	assert.Equal(t, "127.0.0.1:9464", address, "nobody else's, unless an address is given")
	address, err = metricsAddress("[::]:9464")
	require.NoError(t, err)
	assert.Equal(t, "[::]:9464", address)
}

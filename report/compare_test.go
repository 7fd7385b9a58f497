package report

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"

	"github.com/tablefull/tablefull/report/runlog"
)

// made is the findings of a run, as far as comparisons look at them.
type made struct {
	failed  uint64
	p99     float64
	drop    float64 // when it began; 0 for never
	spikes  []uint64
	verdict Verdict
	unsound string
	aborted bool
	kernel  string
}

func (m made) findings() *Findings {
	const due = 10000
	ok, peak, start, limit := due-m.failed, uint64(5100), uint64(100), uint64(6000)
	f := &Findings{
		Scenario: "s", Verdict: cmpOr2(m.verdict, Pass), Headline: "It ran.", Reasons: []string{"because"},
		Traffic:     []Traffic{{Name: "clients", Attempted: due, Due: due, Succeeded: &ok, Failed: m.failed, P99Ms: &m.p99}},
		Nodes:       []Node{{Name: "node1", PeakEntries: &peak, StartEntries: &start, Limit: &limit, PeakOccupancy: finite(0.5)}},
		Environment: Environment{Kernel: cmpOr(m.kernel, "6.18"), CPUs: 2, Arch: "x", DurationS: 10},
	}
	if m.drop > 0 {
		f.Knee.Drop = &Onset{AtS: m.drop, Entries: &limit}
		f.Nodes[0].Knee = f.Knee
	}
	for i, n := range m.spikes {
		to, end := 10.0, 5.5
		f.Spikes = append(f.Spikes, Spike{Action: "a", Kind: "rollout", Number: i + 1, Failures: n, WatchedToS: &to, StartS: finite(5), EndS: &end})
	}
	f.aborted = m.aborted
	if math.IsNaN(m.p99) {
		f.Traffic[0].P99Ms = nil
	}
	if m.unsound != "" {
		f.Verdict, f.unsound = Inconclusive, []string{m.unsound}
	}
	return f
}

func cmpOr2(a, b Verdict) Verdict {
	if a != "" {
		return a
	}
	return b
}

// experimentWith has the given runs, by arm; its arms are named a, b, c.
func experimentWith(gate []string, arms ...[]made) (*Experiment, []Trial) {
	e := &Experiment{Scenario: "s", Gate: gate, Margins: map[string]string{}, Seed: 5}
	var trials []Trial
	for i, runs := range arms {
		name := string(rune('a' + i))
		e.Arms = append(e.Arms, ExperimentArm{Name: name})
		e.Trials = max(e.Trials, len(runs))
		for k, m := range runs {
			r := ExperimentRun{Arm: name, Trial: k + 1, Dir: fmt.Sprintf("%s/%d", name, k+1)}
			trials = append(trials, Trial{r, m.findings()})
		}
	}
	return e, trials
}

func around(n int, p99 float64, failed uint64) []made {
	var out []made
	for i := range n {
		out = append(out, made{p99: p99 + float64(i)/10, failed: failed + uint64(i)})
	}
	return out
}

func row(t *testing.T, c *Comparison, name string) *MetricRow {
	t.Helper()
	for i := range c.Metrics {
		if c.Metrics[i].Metric == name {
			return &c.Metrics[i]
		}
	}
	require.FailNow(t, "no metric", name)
	return nil
}

func TestGateVerdicts(t *testing.T) {
	gate := []string{"p99", "errors"}
	for _, x := range []struct {
		name  string
		a, b  []made
		want  Verdict
		say   string
		twist func(*Experiment)
	}{
		{name: "nothing differs", a: around(8, 10, 0), b: around(8, 10, 0), want: Pass, say: "Nothing is shown to be worse than a in any of 2 metrics that decide."},
		{name: "worse", a: around(8, 10, 0), b: around(8, 15, 0), want: Fail, say: "b: p99 is worse"},
		{name: "better", a: around(8, 15, 0), b: around(8, 10, 0), want: Pass},
		{name: "shown, and within the margin", a: around(8, 100, 0), b: around(8, 101, 0), want: Pass},
		{name: "no margin", a: around(8, 100, 0), b: around(8, 101, 0), want: Fail, twist: func(e *Experiment) { e.Margins["p99"] = "0" }},
		{name: "too few trials", a: around(4, 10, 0), b: around(4, 50, 0), want: Inconclusive, say: "too few trials"},
		{name: "one trial each", a: around(1, 10, 0), b: around(1, 50, 0), want: Inconclusive, say: "there is but one trial"},
		{name: "no data", a: around(8, 10, 0), b: nil, want: Inconclusive, say: "no data: b was not run"},
		{name: "a saturated generator", a: around(8, 10, 0), b: append(around(7, 50, 0), made{p99: 50, unsound: "the generator could not keep up"}), want: Inconclusive, say: "b, trial 8 says nothing: the generator could not keep up"},
		{name: "interrupted", a: around(8, 10, 0), b: around(8, 10, 0), want: Inconclusive, say: "interrupted", twist: func(e *Experiment) { e.Problem = "interrupted after 16 of 20 runs" }},
		{name: "a trial is missing", a: around(8, 10, 0), b: around(7, 10, 0), want: Inconclusive, say: "only 7 of the 8 planned trials of b count"},
		{name: "other kernels", a: around(8, 10, 0), b: []made{
			{kernel: "6.1", p99: 10},
			{kernel: "6.1", p99: 10},
			{kernel: "6.1", p99: 10},
			{kernel: "6.1", p99: 10},
			{kernel: "6.1", p99: 10},
			{kernel: "6.1", p99: 10},
			{kernel: "6.1", p99: 10},
			{kernel: "6.1", p99: 10},
		}, want: Inconclusive, say: "a ran under kernel 6.18"},
		{name: "errors from none", a: around(8, 10, 0), b: around(8, 10, 500), want: Fail, say: "b: errors is worse"},
		{name: "a metric nobody has", a: around(8, 10, 0), b: around(8, 10, 0), want: Inconclusive, say: "no run has a value of stale", twist: func(e *Experiment) { e.Gate = []string{"p99", "stale"} }},
		{name: "no value in some", a: around(8, 10, 0), b: append(around(5, 10, 0), made{p99: math.NaN()}, made{p99: math.NaN()}, made{p99: math.NaN()}), want: Inconclusive, say: "p99 has no value in 0 trials of a and 3 of b"},
		{name: "ended early", a: around(8, 10, 0), b: append(around(7, 10, 0), made{p99: 10, aborted: true}), want: Inconclusive, say: "b, trial 8 was ended early"},
	} {
		t.Run(x.name, func(t *testing.T) {
			e, trials := experimentWith(gate, x.a, x.b)
			if x.twist != nil {
				x.twist(e)
			}
			c := Compare(e, trials)
			assert.Equal(t, x.want, c.Verdict, "%v", c.Reasons)
			assert.Contains(t, c.Headline+strings.Join(c.Reasons, "\n"), x.say)
			assert.Equal(t, map[Verdict]int{Pass: 0, Fail: 3, Inconclusive: 4}[c.Verdict], c.ExitCode())
			for _, f := range ComparisonFormats() {
				require.NoError(t, c.Render(f.Name, &bytes.Buffer{}), f.Name)
			}
		})
	}
	c := Compare(&Experiment{Gate: gate}, nil)
	assert.Equal(t, Inconclusive, c.Verdict, "nothing at all")

	// What is lost more is said with its reason; a latency that is worse has none.
	for p99, want := range map[float64]bool{10: true, 50: false} {
		failed := map[bool]uint64{true: 500}[want]
		e, trials := experimentWith(gate, around(8, 10, 0), around(8, p99, failed))
		for i := range trials {
			if trials[i].Arm == "b" && failed > 0 {
				trials[i].Findings.Causes = []Cause{{Cause: "stale_backend", Failures: 495}, {Cause: "unknown", Failures: 5}, {Cause: generatorLate, Failures: 3}}
			}
		}
		c := Compare(e, trials)
		require.Equal(t, Fail, c.Verdict)
		said := strings.Join(c.Reasons, "\n")
		assert.Equal(t, want, strings.Contains(said, "why: b's failed attempts, 4000 in 8 trials: stale_backend 99.0 %, unknown 1.0 %; a's failed attempts, 0 in 8 trials"), said)
		assert.Equal(t, want, strings.Contains(said, ", which stands for the others: It ran."), said)
	}
}

// Where no metric decides, the arms' own thresholds and expectations do.
func TestArmsVerdicts(t *testing.T) {
	asked := func(v Verdict) *Findings {
		f := made{p99: 5, verdict: v}.findings()
		f.Thresholds = []ThresholdResult{{Threshold: "errors < 1%", Result: v}}
		return f
	}
	compare := func(findings ...*Findings) *Comparison {
		e, trials := experimentWith(nil, around(1, 5, 0), around(1, 9, 800))
		for i, f := range findings {
			if f != nil {
				trials[i].Findings = f
			}
		}
		return Compare(e, trials)
	}
	c := compare()
	assert.Equal(t, Pass, c.Verdict, "nobody asked for anything: they are only shown beside each other")
	assert.Empty(t, c.Test)
	assert.Contains(t, c.Headline, "One trial of each of 2 arms: attempts fail in ")
	assert.Equal(t, Pass, compare(asked(Pass)).Verdict)
	assert.Equal(t, Fail, compare(asked(Pass), asked(Fail)).Verdict)
	assert.Equal(t, Inconclusive, compare(asked(Inconclusive), asked(Fail)).Verdict)
	assert.Equal(t, Inconclusive, compare(nil, made{unsound: "no data"}.findings()).Verdict)
}

// Where no test can decide, the headline still says which arm did what.
func TestHeadlineOfOneTrialEach(t *testing.T) {
	for _, x := range []struct {
		arms []made
		want string
	}{
		{[]made{{drop: 4, failed: 9}, {}, {drop: 1.35, failed: 20}}, "One trial of each of 3 arms: a (from 4 s) and c (from 1.35 s) drop new connections, b not within 10 s."},
		{[]made{{failed: 9}, {}, {}}, "One trial of each of 3 arms: attempts fail in a (9), none in b and c."},
		{[]made{{}, {}}, "One trial of each of 2 arms, which shows what happened, and not whether it would again."},
	} {
		var arms [][]made
		for _, m := range x.arms {
			arms = append(arms, []made{m})
		}
		e, trials := experimentWith(nil, arms...)
		assert.Equal(t, x.want, Compare(e, trials).Headline)
	}
}

// That a table never drops is better than any moment at which it does.
func TestNeverIsAValue(t *testing.T) {
	var never, early []made
	for i := range 8 {
		never, early = append(never, made{}), append(early, made{drop: 4 + float64(i)/100})
	}
	e, trials := experimentWith([]string{"drop_at"}, early, never)
	c := Compare(e, trials)
	assert.Equal(t, Pass, c.Verdict)
	r := row(t, c, "drop_at")
	assert.Equal(t, Better, r.Arms[1].Against.Result)
	assert.Equal(t, "never", r.Arms[1].Text)
	assert.Nil(t, r.Arms[1].Median)
	e, trials = experimentWith([]string{"drop_at"}, never, early)
	assert.Equal(t, Fail, Compare(e, trials).Verdict)
	e, trials = experimentWith([]string{"drop_at"}, never, never)
	c = Compare(e, trials)
	assert.Equal(t, Pass, c.Verdict)
	assert.Equal(t, "~", row(t, c, "drop_at").Arms[1].Against.Mark)
}

// Arms that search are compared by what they found, and one of which a search
// decided nothing decides nothing.
func TestCapacityIsCompared(t *testing.T) {
	searches := func(a, b searchLog) *Comparison {
		e, trials := experimentWith([]string{"capacity"}, around(6, 10, 0), around(6, 10, 0))
		for i := range trials {
			log := map[string]searchLog{"a": a, "b": b}[trials[i].Arm]
			log.limit += float64(3 * trials[i].Trial)
			trials[i].Findings = log.findings(t)
		}
		return Compare(e, trials)
	}
	assert.Equal(t, Pass, searches(searchLog{limit: 3000}, searchLog{limit: 3000}).Verdict)
	assert.Equal(t, Pass, searches(searchLog{limit: 3000}, searchLog{limit: 3600}).Verdict)
	c := searches(searchLog{limit: 3000}, searchLog{limit: 2400})
	assert.Equal(t, Fail, c.Verdict, "%v", c.Reasons)
	assert.Contains(t, c.Headline, "b: capacity is worse: 2,")
	silent := searches(searchLog{limit: 3000}, searchLog{limit: 9000, silentAbove: 3100})
	assert.Equal(t, Inconclusive, silent.Verdict)
	assert.Contains(t, strings.Join(silent.Reasons, " "), "the generator could not keep up")
}

// The smallest p is the one of the test itself.
func TestLeastP(t *testing.T) {
	for _, n := range []int{2, 3, 4, 6, 9} {
		for _, m := range []int{2, 4, 7} {
			var a, b []float64
			for i := range n {
				a = append(a, float64(i))
			}
			for i := range m {
				b = append(b, float64(100+i))
			}
			assert.InDelta(t, chance(a, b), leastP(n, m), 1e-9, "%d and %d", n, m)
		}
	}
	assert.Equal(t, 4, trialsFor(1), "method.md: n >= 4 per side at alpha 0.05")
	assert.Equal(t, 1.0, leastP(0, 5))
}

func TestHolm(t *testing.T) {
	got := holm([]float64{0.01, 0.04, 0.03, 0.005})
	for i, want := range []float64{0.03, 0.06, 0.06, 0.02} {
		assert.InDelta(t, want, got[i], 1e-12)
	}
	assert.Empty(t, holm(nil))
}

// Two arms that are the same fail at most as often as alpha allows, whatever is
// measured; one that is worse by a known amount is found.
func TestGateFalseAlarmsAndPower(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	arm := func(worse float64) []made {
		var out []made
		for range 8 {
			out = append(out, made{
				p99:    10 * math.Exp(0.2*random.NormFloat64()) * (1 + worse),
				failed: uint64(math.Max(0, 100+15*random.NormFloat64()+worse*100)),
				spikes: []uint64{uint64(random.IntN(20)) + uint64(worse*30)},
				drop:   5 + 0.5*random.NormFloat64() - worse,
			})
		}
		return out
	}
	fails := func(worse float64, gates int) (n int) {
		for range gates {
			e, trials := experimentWith(DefaultGate(), arm(0), arm(worse))
			if Compare(e, trials).Verdict == Fail {
				n++
			}
		}
		return n
	}
	same := fails(0, 400)
	assert.LessOrEqual(t, same, 400*5/100, "false alarms")
	worse := fails(1, 60)
	assert.GreaterOrEqual(t, worse, 57, "what was found of 60")
	t.Logf("false alarms %d of 400, found %d of 60", same, worse)
}

func TestMargins(t *testing.T) {
	name, abs, rel, err := ParseMargin("p99=10%")
	require.NoError(t, err)
	assert.Equal(t, "p99", name)
	assert.Zero(t, abs)
	assert.InDelta(t, 0.1, rel, 1e-9)
	_, abs, _, err = ParseMargin("errors=0.5")
	require.NoError(t, err)
	assert.InDelta(t, 0.5, abs, 1e-9)
	for _, bad := range []string{"", "p99", "p99=", "p99=-1", "p99=NaN", "p98=1", "p99=1ms"} {
		_, _, _, err := ParseMargin(bad)
		assert.Error(t, err, bad)
	}
}

func TestEntriesPerAttempt(t *testing.T) {
	start := uint64(1000)
	f := &Findings{Environment: Environment{DurationS: 10}, Nodes: []Node{{Name: "n", StartEntries: &start}}}
	load, node := &f.Timeline.Load, NodeSeries{Name: "n"}
	load.StepS = 0.1
	for i := range 100 {
		at := float64(i) * 0.1
		load.T, load.Started = append(load.T, at), append(load.Started, 500)
		// Two entries each, half a step late, and none any more from 6 s on.
		entries := 1000 + 2*500*math.Max(0, math.Min(at, 6)-0.05)
		node.T, node.Entries = append(node.T, at), append(node.Entries, uint64(entries))
	}
	f.Timeline.Nodes = []NodeSeries{node}
	f.Nodes[0].Knee.Drop = &Onset{AtS: 6, UncertaintyS: 0.1}
	assert.InDelta(t, 2, entriesPerAttempt(f), 0.01)
	at := slices.Index(f.Timeline.Nodes[0].T, 5.7) // a stall just before the end
	require.Positive(t, at)
	f.Timeline.Nodes[0].Entries[at] -= 400
	assert.InDelta(t, 2, entriesPerAttempt(f), 0.01, "entries that come late are none less")
	f.Timeline.Nodes[0].Entries[at] += 400
	f.Nodes[0].Knee.Drop = nil
	assert.Less(t, entriesPerAttempt(f), 1.5, "without the onset it would be too low")
	f.Sizing = &Sizing{Parts: []SizingPart{{ResidenceS: 5}}}
	assert.InDelta(t, 2, entriesPerAttempt(f), 0.01, "up to when the first ones expire")
}

// Markdown, text and JUnit are held to golden files; JSON to its schema.
func TestComparisonRenderings(t *testing.T) {
	var a, b, third []made
	for i := range 8 {
		a = append(a, made{p99: 10 + float64(i)/10, failed: 200, drop: 4.2 + float64(i)/100, spikes: []uint64{3}})
		b = append(b, made{p99: 14 + float64(i)/10, failed: 190, drop: 8.2 + float64(i)/100, spikes: []uint64{9}})
		third = append(third, made{p99: 10 + float64(i)/9, failed: 0, spikes: []uint64{3}})
	}
	e, trials := experimentWith([]string{"p99", "failures_per_action"}, a, b, third)
	e.Arms[1].Set, e.Arms[2].Description = []string{"conntrack.headroom=6000"}, "<b>rest|"
	c := Compare(e, trials)
	for _, format := range []string{"text", "markdown", "junit", "gobench"} {
		var out bytes.Buffer
		require.NoError(t, c.Render(format, &out))
		golden(t, "comparison."+format, out.Bytes())
	}
	var junit junitSuites
	var out bytes.Buffer
	require.NoError(t, c.Render("junit", &out))
	require.NoError(t, xml.Unmarshal(out.Bytes(), &junit))
	assert.Equal(t, 1+2*len(c.Metrics), junit.Tests, "one for each metric and arm, and the verdict")
	assert.Equal(t, 2*(len(c.Metrics)-2), junit.Skipped, "those that do not decide")
	cases := map[string]int{}
	for _, x := range junit.Suites[0].Cases {
		cases[x.Name]++
	}
	for _, m := range c.Metrics {
		assert.Equal(t, 1, cases[m.Metric+": b against a"], m.Metric)
	}

	schema, err := ComparisonSchema()
	require.NoError(t, err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	require.NoError(t, err)
	compiler := jsonschema.NewCompiler()
	require.NoError(t, compiler.AddResource("c.json", doc))
	s, err := compiler.Compile("c.json")
	require.NoError(t, err)
	out.Reset()
	require.NoError(t, c.Render("json", &out))
	v, err := jsonschema.UnmarshalJSON(&out)
	require.NoError(t, err)
	require.NoError(t, s.Validate(v))
	require.Error(t, s.Validate(map[string]any{}))

	out.Reset()
	require.NoError(t, c.Render("html", &out))
	assert.NotContains(t, out.String(), "<b>rest", "what comes from a scenario is text")
	assert.Contains(t, out.String(), "b: p99 is worse")
	require.Error(t, c.Render("no such", &out))
}

// benchstat's own numbers are ours: what its packages read from the lines that a
// comparison writes for it is what was measured, and comes to the same medians and
// the same p, before it is corrected for several metrics.
func TestComparisonIsBenchstats(t *testing.T) {
	e, trials := experimentWith(nil, around(8, 10, 0), around(8, 10.43, 0))
	c := Compare(e, trials)
	var lines bytes.Buffer
	require.NoError(t, c.Render("gobench", &lines))
	values := map[string][]float64{} // by name and unit
	for r := benchfmt.NewReader(&lines, "bench.txt"); r.Scan(); {
		line, ok := r.Result().(*benchfmt.Result)
		require.True(t, ok, "%v", r.Result())
		for _, v := range line.Values {
			values[string(line.Name)+" "+v.Unit] = append(values[string(line.Name)+" "+v.Unit], v.Value)
		}
	}
	read := func(arm string) *benchmath.Sample {
		v := values["Run/metric=p99/arm="+arm+" ms"]
		require.Len(t, v, 8, "%v", values)
		return benchmath.NewSample(v, &benchmath.DefaultThresholds)
	}
	r := row(t, c, "p99")
	base, other := read(r.Arms[0].Arm), read(r.Arms[1].Arm)
	require.NotNil(t, r.Arms[1].Against.P)
	assert.InDelta(t, benchmath.AssumeNothing.Compare(base, other).P, *r.Arms[1].Against.P, 1e-12)
	for i, s := range []*benchmath.Sample{base, other} {
		want := benchmath.AssumeNothing.Summary(s, 0.95)
		assert.InDelta(t, want.Center, *r.Arms[i].Median, 1e-9)
	}
}

// A kube-proxy's own numbers, over a restart of it.
func TestProxyProcess(t *testing.T) {
	l := newLog()
	for _, f := range []map[string]string{
		{"syncs": "3", "sync_s": "0.3", "programmings": "0", "programming_s": "0"},
		{"syncs": "5", "sync_s": "0.7", "programmings": "2", "programming_s": "1"},
		{"cpu_s": "0.5", "rss_bytes": "1048576"},
		{"syncs": "1", "sync_s": "0.1", "programmings": "1", "programming_s": "0.2"},
		{"cpu_s": "0.25", "rss_bytes": "52428800"},
		{"syncs": "nonsense"},
	} {
		l.addProxyMetrics("node1", 0, &runlog.Event{Fields: f})
	}
	p := l.proxies["node1"].finding()
	require.NotNil(t, p)
	assert.EqualValues(t, 3, p.Syncs)
	assert.InDelta(t, 0.5/3, *p.SyncMeanS, 1e-9)
	assert.InDelta(t, 0.4, *p.ProgrammingMeanS, 1e-9)
	assert.InDelta(t, 0.75, *p.CPUS, 1e-9)
	assert.InDelta(t, 50, *p.RSSMiB, 1e-9)
	assert.Nil(t, l.proxies["node2"].finding())
}

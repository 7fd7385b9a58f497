package report

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/search"
	"github.com/tablefull/tablefull/scenarios"
)

// searchLog is the log of a search on a table that holds limit connections,
// whose control arm loses controlLoss. It ends after most trials.
type searchLog struct {
	limit, controlLoss float64
	silentAbove        float64 // trials above it say nothing; 0 for none
	noControl          string
	thresholds, expect []string
	most               int
	trailer            *runlog.Trailer
	yaml, measure      string // the scenario; concurrent_connections where empty
	timeouts           map[string]float64
}

func (s searchLog) write(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := runlog.NewWriter(&b)
	n := uint64(0)
	add := func(r runlog.Record) {
		n++
		r.N, r.Host = n, "controller"
		require.NoError(t, w.Write(r))
	}
	c := search.Config{
		Goals: []search.Goal{{ExceedRatio: 0.5, DurationSum: 3, Width: 0.01}, {LossRatio: 0.01, ExceedRatio: 0.5, DurationSum: 3, Width: 0.01}},
		Min:   500, Max: 8000, Step: 1, First: 3000, Trial: 1, Retries: 2, Budget: 500, Control: s.noControl == "",
	}
	add(runlog.Record{Header: &runlog.Header{
		Format: runlog.Format, Version: "v0", RunID: "x", Started: "2026-01-02T03:04:05Z", Target: "lab", Scenario: "capacity", CPUs: 2, Kernel: "6.18",
		Limit: 262144, Thresholds: s.thresholds, Expect: s.expect, Timeouts: s.timeouts, ScenarioYAML: s.yaml,
		Search: &runlog.Search{Config: c, Measure: cmp.Or(s.measure, "concurrent_connections"), Knob: "traffic[0].idle.count", Predicted: 3000, NoControl: s.noControl},
	}})
	var done []search.Trial
	for s.most == 0 || len(done) < s.most {
		r, more := search.Next(c, done)
		if !more {
			break
		}
		peak, free := uint64(262144), int64(s.limit)
		x := runlog.Trial{
			Trial:  search.Trial{Kind: r.Kind, Load: r.Load, Duration: 1, Elapsed: float64(4 * (len(done) + 1))},
			Number: len(done) + 1, Dir: fmt.Sprintf("trials/%03d", len(done)+1), Traffic: "subscribers", Due: uint64(r.Load), Peak: &peak, Free: &free,
		}
		if over := r.Load - s.limit; over > 0 && r.Kind != search.Control {
			x.Lost, x.Causes = uint64(over), map[string]uint64{"table_full": uint64(over), "unknown": 1}
			x.Loss = over / r.Load
		}
		if r.Kind == search.Control {
			x.Loss = s.controlLoss
		}
		if s.silentAbove > 0 && r.Load > s.silentAbove {
			x.Inconclusive, x.Why = true, []string{"the generator could not keep up: 9 % of subscribers' attempts were started more than 10 ms late, and a run with over 5 % late starts is not used to judge the system"}
		}
		done = append(done, x.Trial)
		add(runlog.Record{T: x.Elapsed, Trial: &x})
	}
	if s.trailer == nil && s.most == 0 {
		s.trailer = &runlog.Trailer{Outcome: "completed", Restored: true}
	}
	if s.trailer != nil {
		add(runlog.Record{Trailer: s.trailer})
	}
	require.NoError(t, w.Flush())
	return b.Bytes()
}

func (s searchLog) findings(t *testing.T) *Findings {
	t.Helper()
	f, err := Analyze(bytes.NewReader(s.write(t)))
	require.NoError(t, err)
	return f
}

func TestCapacityIsFound(t *testing.T) {
	f := searchLog{limit: 3000}.findings(t)
	require.NotNil(t, f.Capacity)
	c := f.Capacity
	require.NotNil(t, c.Lower)
	require.NotNil(t, c.Upper)
	assert.InDelta(t, 3000, *c.Lower, 0)
	assert.InDelta(t, 3000, *c.Upper, 30)
	require.NotNil(t, c.Throughput)
	assert.InDelta(t, 3000, *c.Throughput, 0)
	assert.Equal(t, "held", c.Control.Result)
	require.Len(t, c.Goals, 2)
	assert.InDelta(t, 3030, *c.Goals[1].Lower, 31, "1 % more than the table holds may be offered where 1 % may be lost")
	assert.Equal(t, Pass, f.Verdict, "%v", f.Reasons)
	assert.Contains(t, f.Headline, "Concurrent connection capacity: 3000 holds (nothing lost) and")
	assert.Empty(t, f.NotMeasured)
	assert.Equal(t, "warmup", c.Trials[0].Kind)
	for _, tr := range c.Trials {
		if tr.LossRatio > 0 {
			assert.Equal(t, "table_full "+fmt.Sprint(tr.Lost), tr.Causes[0], "the most first")
		}
	}
}

// What a search concludes, and the exit code.
func TestVerdictOfASearch(t *testing.T) {
	for _, c := range []struct {
		name   string
		log    searchLog
		want   Verdict
		reason string
	}{
		{"found", searchLog{limit: 3000}, Pass, "3000 holds ("},
		{"the whole range holds", searchLog{limit: 9000}, Pass, "even 8000, the highest load of the range, holds"},
		{"not even the minimum", searchLog{limit: 100}, Fail, "not even 500"},
		{"the control arm fails, too", searchLog{limit: 3000, controlLoss: 0.01}, Inconclusive, "does not hold 3"},
		{"the minimum fails, and the control arm", searchLog{limit: 100, controlLoss: 0.01}, Inconclusive, "does not hold 500 either"},
		{"there is no control arm", searchLog{limit: 3000, noControl: "no room"}, Inconclusive, "no control arm shows that the table was the limit, and not the generator or the machine: no room"},
		{"the generator is the limit", searchLog{limit: 9000, silentAbove: 3100}, Inconclusive, "above that nothing can be measured: the generator could not keep up"},
		{"nothing was tried", searchLog{limit: 3000, most: -1, trailer: &runlog.Trailer{Outcome: "completed"}}, Inconclusive, "no data: no trial was made"},
		{"cut off", searchLog{limit: 3000, most: 4}, Inconclusive, "the run log ends in the middle"},
		{"interrupted", searchLog{limit: 3000, most: 4, trailer: &runlog.Trailer{Outcome: "interrupted"}}, Inconclusive, "interrupted"},
		{"enough", searchLog{limit: 3000, thresholds: []string{"capacity >= 3000"}}, Pass, "3000 holds"},
		{"too little", searchLog{limit: 2999, thresholds: []string{"capacity >= 3000"}}, Fail, "threshold failed: capacity >= 3000"},
		{"as expected", searchLog{limit: 3000, expect: []string{"capacity >= 2970", "capacity_upper <= 3030"}}, Pass, "as expected"},
		{"beyond the range", searchLog{limit: 9000, expect: []string{"capacity_upper <= 9030"}}, Inconclusive, "cannot say whether it was reproduced: capacity_upper <= 9030"},
		{"not as expected", searchLog{limit: 9000, expect: []string{"capacity_upper <= 3030"}}, Inconclusive, "not reproduced here: capacity_upper <= 3030"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := c.log.findings(t)
			assert.Equal(t, c.want, f.Verdict, "%v", f.Reasons)
			assert.Contains(t, strings.Join(f.Reasons, "\n"), c.reason)
			if c.want == Inconclusive {
				assert.Contains(t, f.Headline, "Inconclusive: ")
			}
		})
	}
}

// A search in every form that findings are written in.
func TestCapacityRenderings(t *testing.T) {
	for name, log := range map[string]searchLog{
		"capacity": {limit: 3000, thresholds: []string{"capacity >= 3000"}}, "capacity-silent": {limit: 9000, silentAbove: 3100}, "capacity-empty": {most: -1},
	} {
		f := log.findings(t)
		for _, format := range Formats() {
			t.Run(name+"/"+format, func(t *testing.T) {
				var b bytes.Buffer
				require.NoError(t, Render(format, f, &b))
				require.NotZero(t, b.Len())
				if name == "capacity" && (format == "text" || format == "markdown" || format == "junit") {
					golden(t, name+"."+map[string]string{"text": "txt", "markdown": "md", "junit": "xml"}[format], b.Bytes())
				}
			})
		}
		page := renderedHTML(t, f)
		data := plotData(t, page)
		for _, c := range data.Charts {
			assert.Equal(t, 1, strings.Count(page, fmt.Sprintf(`data-chart="%s"`, c.ID)))
			for _, s := range c.Series {
				assert.Len(t, s.V, len(c.X))
			}
		}
		assert.NotContains(t, page, "%!")
		assert.NotContains(t, page, "0x", "a pointer was printed")
		var b bytes.Buffer
		require.NoError(t, Render("json", f, &b))
		text, err := SummarySchema()
		require.NoError(t, err)
		var root, doc map[string]any
		require.NoError(t, json.Unmarshal(text, &root))
		require.NoError(t, json.Unmarshal(b.Bytes(), &doc))
		assert.Empty(t, violations(root, root, doc, ""))
	}
	var b bytes.Buffer
	require.NoError(t, Render("gobench", searchLog{limit: 3000}.findings(t), &b))
	assert.Regexp(t, `BenchmarkCapacity 1 3000 lower-conn 30\d\d upper-conn`, b.String())
	b.Reset()
	require.NoError(t, Render("openmetrics", searchLog{limit: 3000}.findings(t), &b))
	assert.Contains(t, b.String(), `tablefull_capacity{scenario="capacity",target="lab",measure="concurrent_connections",unit="connections",loss_ratio="0",bound="lower"} 3000`)
}

// What a run shows as a trial, and when it shows nothing.
func TestTrialOfASearch(t *testing.T) {
	held := func() *Findings {
		return &Findings{
			Traffic: []Traffic{
				{Name: "held", Shape: "idle", Due: 100, Succeeded: ref(uint64(98)), HeldAlive: ref(uint64(95))},
				{Name: "asked", Shape: "udp", Due: 1000, Succeeded: ref(uint64(999))},
				{Name: "flood", Shape: "flood", Due: 1000, OneWay: true},
			},
			Causes: []Cause{{Cause: "table_full", Failures: 3}},
			Nodes:  []Node{{Name: "node1", HeadroomAtStart: ref(int64(50)), StartEntries: ref(uint64(950)), Limit: ref(uint64(1000)), PeakEntries: ref(uint64(990)), PeakOccupancy: ref(0.99)}},
		}
	}
	sc := func() *scenarios.Scenario {
		return &scenarios.Scenario{Conntrack: scenarios.Conntrack{Headroom: ref(int64(50))}, Traffic: []scenarios.Traffic{{Name: "held", Idle: &scenarios.Idle{Count: 100}}}}
	}
	got := SearchTrialOf(held(), sc())
	assert.Empty(t, got.Why)
	assert.Equal(t, "held", got.Traffic, "the one that fared worst")
	assert.Equal(t, uint64(100), got.Due)
	assert.Equal(t, uint64(5), got.Lost, "held and not alive is lost, too")
	assert.InDelta(t, 0.05, got.Loss, 1e-12)
	assert.Equal(t, map[string]uint64{"table_full": 3}, got.Causes)
	assert.Equal(t, int64(50), *got.Free)

	for name, wrong := range map[string]func(*Findings, *scenarios.Scenario){
		"asked for":        func(_ *Findings, s *scenarios.Scenario) { s.Traffic[0].Idle.Count = 101 },
		"alive is not":     func(f *Findings, _ *scenarios.Scenario) { f.Traffic[0].HeldAlive = nil },
		"53 free entries":  func(f *Findings, _ *scenarios.Scenario) { f.Nodes[0].HeadroomAtStart = ref(int64(53)) },
		"was not empty":    func(_ *Findings, s *scenarios.Scenario) { s.Conntrack.Headroom = nil },
		"is not known":     func(f *Findings, _ *scenarios.Scenario) { f.Nodes[0].HeadroomAtStart = nil },
		"lost at least 60": func(f *Findings, _ *scenarios.Scenario) { f.Nodes[0].Reclaimed = &Reclaimed{Entries: 60, Early: true} },
		"still had 95 entries of the trial before, after 152 s": func(f *Findings, _ *scenarios.Scenario) {
			f.Nodes[0].AgedOut = &Aged{Left: 95, WaitedS: 152}
		},
		"could not":          func(f *Findings, _ *scenarios.Scenario) { f.unsound = []string{"the generator could not keep up"} },
		"no attempt was due": func(f *Findings, _ *scenarios.Scenario) { f.Traffic = nil },
	} {
		f, s := held(), sc()
		wrong(f, s)
		assert.Contains(t, strings.Join(SearchTrialOf(f, s).Why, "\n"), name)
	}
}

// A node with entries of others, as it was before the first trial, is what a
// trial has to find; so is, on a node that traffic does not enter by, anything.
func TestTrialOnACluster(t *testing.T) {
	f := &Findings{
		Traffic: []Traffic{{Name: "asked", Shape: "udp", Due: 1000, Succeeded: ref(uint64(1000))}},
		Nodes: []Node{
			{Name: "a", HeadroomAtStart: ref(int64(700)), StartEntries: ref(uint64(300)), Limit: ref(uint64(1000)), AgedOut: &Aged{WaitedS: 122}},
			{Name: "b", HeadroomAtStart: ref(int64(950)), StartEntries: ref(uint64(50)), Limit: ref(uint64(1000))},
		},
	}
	assert.Empty(t, SearchTrialOf(f, &scenarios.Scenario{}).Why)
	s := &scenarios.Scenario{Conntrack: scenarios.Conntrack{Headroom: ref(int64(700))}}
	f.Nodes[1].HeadroomAtStart = ref(int64(100))
	assert.Contains(t, strings.Join(SearchTrialOf(f, s).Why, "\n"), "b, which traffic does not enter by, had only 100 free entries")
	f.Nodes[1].HeadroomAtStart = ref(int64(950))
	f.Nodes[0].TableFullDrops = 3
	assert.Empty(t, SearchTrialOf(f, &scenarios.Scenario{}).Why, "of a search over the whole table that is what it looks for")
	assert.Empty(t, SearchTrialOf(f, s).Why)
	f.Nodes[0].HeadroomAtStart = ref(int64(650))
	assert.Contains(t, strings.Join(SearchTrialOf(f, s).Why, "\n"), "a's table had 650 free entries")
}

// The wait is read from its event, and nonsense is none.
func TestAgedOf(t *testing.T) {
	fields := map[string]string{"left": "321", "waited_s": "60.2"}
	assert.Equal(t, &Aged{Left: 321, WaitedS: 60.2}, agedOf(&runlog.Event{Fields: fields}))
	for name, bad := range map[string]string{"left": "-1", "waited_s": "NaN"} {
		f := maps.Clone(fields)
		f[name] = bad
		assert.Nil(t, agedOf(&runlog.Event{Fields: f}), name)
	}
}

// What makes a run inconclusive by itself is what makes it no trial.
func TestUnsoundRunsAreNoTrials(t *testing.T) {
	runs := goldenRuns(t)
	sc := &scenarios.Scenario{}
	for name, sound := range map[string]bool{"hard": true, "healthy": true, "ports": false, "cut": false} {
		f := runs[name].analyze()
		assert.Equal(t, sound, len(f.unsound) == 0, "%s: %v", name, f.unsound)
		if !sound {
			assert.Subset(t, SearchTrialOf(f, sc).Why, f.unsound)
		}
	}
}

// Numbers that cannot be are not taken.
func TestImpossibleTrials(t *testing.T) {
	log := searchLog{limit: 3000}.write(t)
	bad := bytes.Replace(log, []byte(`"loss_ratio":0,"inconclusive":false`), []byte(`"loss_ratio":7,"inconclusive":false`), 1)
	require.NotEqual(t, string(log), string(bad))
	f, err := Analyze(bytes.NewReader(bad))
	require.NoError(t, err)
	assert.Equal(t, Inconclusive, f.Verdict)
	assert.Contains(t, strings.Join(f.Reasons, "\n"), "impossible numbers")
	bad = bytes.Replace(log, []byte(`"min":500`), []byte(`"min":-500`), 1)
	require.NotEqual(t, string(log), string(bad))
	f, err = Analyze(bytes.NewReader(bad))
	require.NoError(t, err)
	assert.Equal(t, Inconclusive, f.Verdict)
	for _, format := range Formats() {
		require.NoError(t, Render(format, f, &bytes.Buffer{}), format)
	}
}

// Of how many free entries a bound is stands with it, what filled the rest, and
// what rate they carry for good. No table begins empty.
func TestBoundsSayOfWhichRoom(t *testing.T) {
	log := searchLog{limit: 3000, yaml: "name: capacity\nconntrack: {headroom: 3000}\nservices: [{name: web}]\ntraffic: [{to: web, idle: {count: 3000, open_rate: 1000/s}}]\n"}
	f := log.findings(t)
	assert.Contains(t, f.Headline, "because of table_full. Those trials began with 3000 of 262144 entries free, and all of them could be used; the others are ballast")
	assert.NotContains(t, f.Headline, "lasts")
	page := renderedHTML(t, f)
	assert.Contains(t, page, "begins with the same 3,000 free entries.")
	assert.NotContains(t, page, "begins empty")
	assert.Contains(t, f.Capacity.about(), "trials of 1 s after all connections were opened; by arithmetic the table holds 3000")

	log.yaml = "name: capacity\nconntrack: {headroom: 3000}\nservices: [{name: web}]\ntraffic: [{to: web, short_lived: {rate: 1500/s, close: fin}}]\n"
	log.measure, log.timeouts = "establishment_rate", map[string]float64{"tcp_timeout_time_wait": 120}
	f = log.findings(t)
	assert.Contains(t, f.Headline, "Those trials began with 3000 of 262144 entries free; the others are ballast, which stands for what a busy node holds. An entry stays for 120 s after its attempt, and counts for up to 60 s more until it is collected, so the rate that lasts is 16.7/s to 25/s.")
	log.yaml = strings.Replace(log.yaml, "conntrack: {", "conntrack: {timeouts: {tcp_timeout_time_wait: 60s}, ", 1)
	assert.Contains(t, log.findings(t).Headline, "the rate that lasts is 25/s to 50/s")

	log.yaml = ""
	f = log.findings(t)
	assert.Contains(t, f.Headline, "Those trials began with 3000 of 262144 entries free.", "what filled it is not known")
	f.Capacity.Unit, *f.Capacity.Predicted = perSecondUnit, 1499.918
	assert.Contains(t, f.Capacity.about(), "holds about 1500/s")
	assert.NotContains(t, joined(f.Capacity.doubts()), "empty table")
}

// What was let in at the expense of entries that were there is said: in
// production they are somebody's.
func TestSearchSaysWhatWasEvicted(t *testing.T) {
	f := &Findings{
		Traffic: []Traffic{{Name: "queries", Shape: "udp", Due: 3029, Succeeded: ref(uint64(3006))}},
		Nodes:   []Node{{Name: "node1", Counters: map[string]uint64{"early_drop": 6}}, {Name: "node2", Counters: map[string]uint64{}}},
		Causes:  []Cause{{Cause: tableFull, Failures: 23}},
	}
	got := SearchTrialOf(f, &scenarios.Scenario{})
	assert.EqualValues(t, 6, got.Evicted)
	upper := 1514.6
	got.Kind, got.Load, got.Free = search.Measure, upper, ref(int64(3000))
	c := Capacity{Unit: perSecondUnit, TrialS: 2, Goals: []CapacityGoal{{End: string(search.Bounded), Upper: &upper}}, Trials: []CapacityTrial{capacityTrial(&got)}}
	assert.Equal(t, "bad: table_full 23; early_drop 6", c.trialRows()[0][7])
	why := strings.Join(c.advise().Why, "\n")
	assert.Contains(t, why, "23 of 3,029 failed at 1,514.6/s.\n6 more were let in there by evicting entries (early_drop), which a load that needs its entries loses.")
}

package report

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A table that drops before it is seen to evict says both: most of the
// attempts came through at the expense of others' entries.
func TestHeadlineSaysWhatMadeRoom(t *testing.T) {
	drops := Node{Name: "node1", Limit: new(uint64), PeakEntries: new(uint64), Counters: map[string]uint64{"drop": 6133, "early_drop": 35866}, Knee: Knee{Drop: &Onset{AtS: 5}, EarlyDrop: &Onset{AtS: 5.05}}}
	f := &Findings{Verdict: Fail, Nodes: []Node{drops}}
	assert.Contains(t, headline(f), "its table is full, and it evicts others to make room (early_drop +35866).")
	f.Nodes[0].Counters = map[string]uint64{"drop": 448, "early_drop": 1}
	assert.NotContains(t, headline(f), "early_drop", "it does not make room")
	f.Nodes[0].Knee.EarlyDrop, f.Nodes[0].Counters = nil, map[string]uint64{"drop": 6133, "early_drop": 0}
	assert.NotContains(t, headline(f), "early_drop")
}

// Each cause that says by itself what is to be changed is answered by that.
func TestRemedyOfEachCause(t *testing.T) {
	for _, cause := range []string{noEndpoint, drainingBackend, backendGone, listenOverflow, invalidReset} {
		f := &Findings{Verdict: Fail, Causes: []Cause{{Cause: cause, Failures: 9}}, Traffic: []Traffic{{Name: "clients", Failed: 9}}}
		a := advise(f)
		assert.NotContains(t, a.Do, "for another cause", cause)
		assert.Contains(t, a.Do, "Not the limit: ", cause)
		assert.NotEmpty(t, a.Why, cause)
	}
	f := &Findings{Traffic: []Traffic{{Failed: 9, To: "web", local: true}}, noPod: []noPodTime{{service: "web"}}}
	why := strings.Join(noEndpointAdvice(f).Why, " ")
	for _, of := range []string{"DaemonSet", "externalTrafficPolicy Cluster", "minReplicas", "a PodDisruptionBudget (minAvailable) limits evictions, as when nodes are drained, and no scaling"} {
		assert.Contains(t, why, of)
	}
}

// Drops that are not the table's have no onset, and are not hidden either.
func TestDropsOfAnotherCause(t *testing.T) {
	f := &Findings{Nodes: []Node{{Name: "node1", PeakEntries: new(uint64), Counters: map[string]uint64{"drop": 1200}}}}
	g := figures(f)[1]
	assert.Equal(t, "none", g.Value)
	assert.Equal(t, "dropped by a full table", g.What)
	assert.Equal(t, []string{"drop +1,200, the table not full"}, g.Lines)
	f.Nodes[0].Counters["drop"] = 0
	assert.Empty(t, figures(f)[1].Lines)
}

// A trial that says nothing does not hide one that does at the same load.
func TestTrialsThatCountAreOnTop(t *testing.T) {
	c := Capacity{Trials: []CapacityTrial{{Kind: "search", Load: 1500}, {Kind: "search", Load: 1500, Inconclusive: true}}}
	charts := c.charts()
	require.NotEmpty(t, charts)
	s := charts[0].Series
	require.Len(t, s, 2)
	assert.Equal(t, "trials", s[1].Name, "the last is drawn over the others")
}

// What bounds a capacity is said with it, as far as the trials agree on it.
func TestSearchSaysWhatBoundsIt(t *testing.T) {
	bad := func(load float64, causes ...string) CapacityTrial {
		return CapacityTrial{Kind: "search", Load: load, LossRatio: 0.01, Causes: causes}
	}
	upper := 1515.0
	for name, tt := range map[string]struct {
		trials []CapacityTrial
		want   string
	}{
		"agree":    {[]CapacityTrial{bad(1515, "table_full 30", "unknown 1"), bad(1515, "table_full 28"), bad(3000, "listen_overflow 9")}, "table_full"},
		"differ":   {[]CapacityTrial{bad(1515, "table_full 30"), bad(1515, "listen_overflow 28")}, ""},
		"unknown":  {[]CapacityTrial{bad(1515, "unknown 30", "table_full 1")}, ""},
		"no cause": {[]CapacityTrial{bad(1515)}, ""},
		// Trials that held, or say nothing, have no say.
		"one held":     {[]CapacityTrial{{Kind: "search", Load: 1515}, bad(1515, "table_full 30")}, "table_full"},
		"one was late": {[]CapacityTrial{{Kind: "search", Load: 1515, LossRatio: 0.2, Causes: []string{"generator_late 300"}, Inconclusive: true}, bad(1515, "table_full 30")}, "table_full"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Capacity{Trials: tt.trials, Unit: perSecondUnit}
			assert.Equal(t, tt.want, c.lostOf(CapacityGoal{}, upper))
		})
	}
	f := searchLog{limit: 3000}.findings(t)
	assert.Contains(t, f.Headline, "3000 holds (nothing lost) and 3029 does not, because of table_full.")
	f.Capacity.Measure, f.Capacity.Name, f.Capacity.TrialS = "establishment_rate", measureNames["establishment_rate"], 2
	assert.Contains(t, f.Capacity.headline(f), "Maximum connection establishment rate for 2 s: ", "a table that is full after 2 s carries no such rate for good")
}

// Tables of a search have their thousands apart like all else.
func TestSearchTablesAreGrouped(t *testing.T) {
	page := renderedHTML(t, searchLog{limit: 3000}.findings(t))
	assert.Contains(t, page, `<td class="n">3,000</td>`)
	assert.NotRegexp(t, `<td class="n">[0-9]{4,}`, page)
	assert.Contains(t, page, "holds: 3,000")
}

// A port is a name and not an amount.
func TestPortsAreNotGrouped(t *testing.T) {
	p := Ports{From: 1024, To: 65535, Count: 64512, MostTaken: 64512, Backend: "10.244.0.2:8080"}
	assert.Contains(t, prose(portsText(&p)), "64,512 source ports (1024-65535)")
}

// A search says what to change for more, from what bounded it.
func TestSearchSaysWhatToChange(t *testing.T) {
	for name, tt := range map[string]struct {
		log  searchLog
		want string
	}{
		"table": {searchLog{limit: 3000}, "give the table more room"},
		"held":  {searchLog{limit: 9000}, "Nothing: the highest load"},
	} {
		f := tt.log.findings(t)
		assert.Contains(t, f.Capacity.advise().Do, tt.want, name)
		assert.Contains(t, renderedHTML(t, f), tt.want, name)
	}
	c := Capacity{Goals: []CapacityGoal{{End: "below_min"}}, Min: 100, Trials: []CapacityTrial{{Kind: "search", Load: 100, LossRatio: 0.5, Causes: []string{"listen_overflow 50"}}}}
	assert.Contains(t, c.advise().Do, "because of listen_overflow")
}

// Whoever reads the Markdown in a pull request is told what to change, too.
func TestMarkdownSaysWhatToChange(t *testing.T) {
	var b strings.Builder
	require.NoError(t, renderMarkdown(goldenRuns(t)["hard"].analyze(), &b, ""))
	assert.Contains(t, b.String(), "**What to change:** Set nf\\_conntrack\\_max to at least 458,752 (now 262,144), or make room.")
	b.Reset()
	require.NoError(t, renderMarkdown(searchLog{limit: 3000}.findings(t), &b, ""))
	assert.Contains(t, b.String(), "**What to change:** For more, give the table more room")
	b.Reset()
	require.NoError(t, renderMarkdown(&Findings{Verdict: Inconclusive}, &b, ""))
	assert.NotContains(t, b.String(), "What to change")
}

// The trial that warms up counts for nothing anyway, and is not made again.
func TestWarmUpIsNoTrialMadeAgain(t *testing.T) {
	predicted := 1499.918
	c := Capacity{Unit: perSecondUnit, Predicted: &predicted, Trials: []CapacityTrial{{Kind: "warmup", Inconclusive: true}, {Kind: "search"}, {Kind: "search"}}}
	assert.NotContains(t, strings.Join(c.doubts(), "\n"), "said nothing")
	c.Trials[1].Inconclusive = true
	assert.Contains(t, c.doubts()[0], "1 of 3 trials said nothing")
	assert.Contains(t, c.about(), "by arithmetic the table holds about 1500/s")
	for v, want := range map[float64]float64{261934: 261934, 12.3456: 12.35, 0.123456: 0.1235} {
		assert.InDelta(t, want, fourDigits(v), 1e-9)
	}
}

// What takes fewer entries is said of what the run had.
func TestAdviceOfEntriesPerAttempt(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.header.Traffic[0].EntriesPerAttempt = 2
	s.fill("web", 700, 0, 10)
	why := func() string { return strings.Join(advise(s.analyze()).Why, "\n") }
	assert.Contains(t, why(), "Fewer entries per attempt help as well.")
	s.header.Services = append(s.header.Services, s.header.Services[0])
	s.header.Services[1].Name, s.header.Services[1].Gateway = "gw", "web"
	assert.Contains(t, why(), "keep-alive before and behind the gateway.")
}

// What failed around an action is said as people say it.
func TestOneAttemptIsNotSeveral(t *testing.T) {
	at, to := 6.0, 20.0
	s := Spike{Action: "roll", Kind: "rollout", StartS: &at, WatchedToS: &to, Failures: 1, Recovered: true}
	assert.Contains(t, costText(&s), "1 attempt that was due at 6.0 s failed")
	end := 6.4
	s.Failures, s.EndS = 2, &end
	assert.Contains(t, costText(&s), "2 attempts that were due from 6.0 s to 6.4 s failed")
}

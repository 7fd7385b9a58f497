package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ownScripts is how many script elements the page has: the data, uPlot and
// report.js.
const ownScripts = 3

func renderedHTML(t *testing.T, f *Findings) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, Render("html", f, &b))
	return b.String()
}

func TestHTMLNeedsNothingElse(t *testing.T) {
	s := newSim(t, 1000, 100, finTraffic("web", 0, 2))
	s.fill("web", 200, 0, 2)
	page := renderedHTML(t, s.analyze())
	for _, no := range []string{"<link", "@import", "url(", "src=", "<base", "<iframe", "<img", "fetch(", "XMLHttpRequest", "style=\""} {
		assert.NotContains(t, page, no)
	}
	// uPlot names its home in a comment, report.js the namespace of SVG.
	for _, address := range regexp.MustCompile(`https?://[^\s"')]+`).FindAllString(page, -1) {
		assert.Contains(t, []string{"https://github.com/leeoniya/uPlot", "http://www.w3.org/2000/svg"}, address)
	}
	assert.Contains(t, page, "default-src &#39;none&#39;")
	assert.NotContains(t, page, "NaN,")
	assert.Contains(t, page, "Copyright (c) 2022 Leon Sorokin", "uPlot's licence goes with it")
	assert.Less(t, len(page), 1<<20)
}

// Every inline script and style is named by its hash in the policy, so that
// the browser runs them and nothing else.
func TestHTMLPolicyNamesItsScripts(t *testing.T) {
	s := newSim(t, 1000, 100, finTraffic("web", 0, 2))
	s.fill("web", 200, 0, 2)
	var b bytes.Buffer
	require.NoError(t, Page{Script: "tablefull.extra = 1 < 2 && '</p>';", Connect: "'self'"}.Render(s.analyze(), &b))
	page := b.String()
	policy := strings.ReplaceAll(strings.ReplaceAll(regexp.MustCompile(`Content-Security-Policy" content="([^"]*)"`).FindStringSubmatch(page)[1], "&#39;", "'"), "&#43;", "+")
	found := regexp.MustCompile(`(?s)<(script|style)>(.*?)</(?:script|style)>`).FindAllStringSubmatch(page, -1)
	require.Len(t, found, 5)
	for _, m := range found {
		assert.Contains(t, policy, sourceHash(m[2]), "%.60s", m[2])
	}
	assert.Contains(t, policy, "connect-src 'self'")
	assert.NotContains(t, policy, "unsafe")
}

// plotData is what the page's script gets.
func plotData(t *testing.T, page string) (out struct {
	From, To float64
	Charts   []struct {
		ID     string
		X      []*float64
		Floor  float64
		Ceil   float64
		Limit  float64
		Marks  []chartMark
		Series []struct {
			Name string
			V    []*float64
		}
	}
},
) {
	t.Helper()
	m := regexp.MustCompile(`(?s)<script type="application/json" id="data">(.*?)</script>`).FindStringSubmatch(page)
	require.NotNil(t, m)
	require.NoError(t, json.Unmarshal([]byte(m[1]), &out))
	return out
}

// Whatever is in a log, the page is whole: each plot has a place, its series
// have its length, and its data can be read.
func TestHTMLOfEveryRun(t *testing.T) {
	empty, err := Analyze(strings.NewReader(""))
	require.NoError(t, err)
	runs := map[string]*Findings{"empty": empty, "nothing": {}, "hostile": hostile(t), "crowd": crowd(t)}
	for name, s := range goldenRuns(t) {
		runs[name] = s.analyze()
	}
	for name, f := range runs {
		t.Run(name, func(t *testing.T) {
			page := renderedHTML(t, f)
			data := plotData(t, page)
			assert.Less(t, data.From, data.To)
			ids := map[string]bool{}
			for _, c := range data.Charts {
				assert.False(t, ids[c.ID], c.ID)
				ids[c.ID] = true
				assert.Equal(t, 1, strings.Count(page, fmt.Sprintf(`data-chart="%s"`, c.ID)), c.ID)
				assert.NotEmpty(t, c.Series, c.ID)
				last := math.Inf(-1)
				for _, x := range c.X {
					require.NotNil(t, x, c.ID)
					assert.GreaterOrEqual(t, *x, last, c.ID)
					last = *x
				}
				for _, s := range c.Series {
					assert.Len(t, s.V, len(c.X), "%s %s", c.ID, s.Name)
				}
			}
			assert.Equal(t, len(data.Charts), strings.Count(page, `<div class="plot js" data-chart="`))
			assert.Equal(t, ownScripts, strings.Count(page, "<script"))
			assert.NotContains(t, page, "%!")
			assert.NotContains(t, page, "0x", "a pointer was printed")
			for _, id := range []string{"answer", "time", "tables", "limits", "environment"} {
				assert.Equal(t, 1, strings.Count(page, fmt.Sprintf(`<section id="%s"`, id)))
			}
		})
	}
}

// crowd is findings with more of everything than a page can hold, and with
// what no simulated run has.
func crowd(t *testing.T) *Findings {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 2))
	s.fill("web", 2000, 0, 2)
	f := s.analyze()
	long := strings.Repeat("very-long-name-", 20)
	base := f.Timeline.Nodes[0]
	for i := range 8 {
		n := base
		n.Name = fmt.Sprintf("node%d-%s", i+2, long)
		f.Timeline.Nodes = append(f.Timeline.Nodes, n)
		f.Nodes = append(f.Nodes, Node{Name: n.Name})
	}
	for i := range 20 {
		f.Spikes = append(f.Spikes, Spike{Action: fmt.Sprintf("restart %d %s", i, long), Kind: "restart_pods", Number: i, BeginS: float64(i) / 10, DoneS: ref(float64(i)/10 + 0.05), StartS: ref(float64(i) / 10), Steps: map[string]uint64{"1s": 5}, Error: long})
		f.Timeline.Causes = append(f.Timeline.Causes, CauseSeries{Cause: fmt.Sprintf("cause-%d", i), PerS: make([]float64, len(f.Timeline.Load.T))})
		f.Timeline.ByLoad = append(f.Timeline.ByLoad, LoadPoint{AtS: float64(i), OfferedPerS: float64(100 * (i % 7)), Entries: uint64(i), Loss: 0.5})
		f.Timeline.Latency = append(f.Timeline.Latency, LatencySeries{Traffic: fmt.Sprint(i), StepS: 1, T: []float64{0, 1, 2}, P50Ms: []*float64{nil, ref(0.2), nil}, P90Ms: []*float64{nil, ref(950.0), nil}, P99Ms: []*float64{nil, ref(3000.0), nil}, MaxMs: []*float64{nil, ref(5001.0), nil}})
	}
	f.Expected, f.Reproduced = []ThresholdResult{{Threshold: long, Result: Pass, Detail: "1234567"}}, ref(true)
	f.Nodes[0].Stale = &Stale{MaxBackends: 3, MaxS: 4, MaxMissingS: 1, MaxDrainingS: 2, Other: 1, Backends: []StaleBackend{{Service: "web", Pod: long, Addr: "10.0.0.1:80", What: "stale", FromS: 1, ToS: 5}}}
	f.Backends = []Backend{{Name: long, Service: long, AcceptedWhileDraining: ref(uint64(5)), DrainingShare: ref(0.5)}}
	return f
}

func ref[T any](v T) *T { return &v }

func TestHTMLTableBehindAPlotIsBounded(t *testing.T) {
	c := chart{Title: "x", Unit: "y", Kind: "time", Series: []chartSeries{{Name: "a"}}}
	for i := range 1001 {
		v := 1.0
		if i == 777 {
			v = 5000
		}
		c.X, c.Series[0].V = append(c.X, float64(i)), append(c.Series[0].V, v)
	}
	table := tableOf(c)
	assert.LessOrEqual(t, len(table.Rows), tableRows)
	assert.Contains(t, fmt.Sprint(table.Rows), "5,000", "a peak of one point is kept")
}

func TestHTMLAxisShowsWhereItHappens(t *testing.T) {
	full := goldenRuns(t)["hard"].analyze() // 259144 of 262144 at the start
	data := plotData(t, renderedHTML(t, full))
	c := data.Charts[0]
	require.Equal(t, "entries-1", c.ID)
	assert.InDelta(t, 258500, c.Floor, 1)
	assert.Greater(t, c.Ceil, 262144.0)
	assert.InDelta(t, 262144, c.Limit, 0)
	require.Len(t, c.Marks, 2)
	assert.Equal(t, "drop", c.Marks[0].Name)
	assert.InDelta(t, full.Knee.Drop.AtS, c.Marks[0].At, 0)

	s := newSim(t, 262144, 262144, finTraffic("web", 0, 2))
	s.fill("web", 100, 0, 2)
	assert.Zero(t, plotData(t, renderedHTML(t, s.analyze())).Charts[0].Floor)
}

func TestFigures(t *testing.T) {
	f := goldenRuns(t)["hard"].analyze()
	got := figures(f)
	assert.Equal(t, "none", got[0].Value)
	assert.Equal(t, "100 % full", got[1].Value)
	assert.Equal(t, []string{"262,144 entries", "at 4.286 s ± 0.002 s", "700/s offered"}, got[1].Lines)
	assert.Equal(t, "3,000", got[3].Value)

	f.Nodes[0].Counters = nil
	f.Knee = Knee{}
	assert.Equal(t, "not measured", figures(f)[1].Value, "a counter that was not read is not a counter that did not move")
	f.Traffic = nil
	assert.Equal(t, "not measured", figures(f)[2].Value)
	for _, g := range figures(&Findings{}) {
		assert.Equal(t, "not measured", g.Value, g.Name)
	}
}

func TestAdvice(t *testing.T) {
	table := Knee{Drop: &Onset{}}
	size := func(needed, limit, present, run uint64) *Sizing {
		return &Sizing{NeededEntries: &needed, RecommendedLimit: &limit, PresentLimit: &present, RunNeeded: &run, RunNeededHow: "x"}
	}
	tests := map[string]struct {
		f    Findings
		want string
	}{
		"inconclusive":  {Findings{Verdict: Inconclusive, Sizing: size(1, 2, 1, 1)}, "Nothing, on the strength"},
		"flood":         {Findings{Verdict: Fail, Knee: table, Sizing: &Sizing{Meaningless: true}}, "No limit is a remedy"},
		"flood held":    {Findings{Verdict: Pass, Sizing: &Sizing{Meaningless: true}}, "Nothing: the table held"},
		"too low":       {Findings{Verdict: Fail, Knee: table, Sizing: size(84001, 114688, 65536, 70000)}, "Set nf_conntrack_max to at least 114,688 (now 65,536)."},
		"crowded":       {Findings{Verdict: Fail, Knee: table, Sizing: size(84001, 114688, 262144, 266143)}, "set nf_conntrack_max to at least 266,143"},
		"enough":        {Findings{Verdict: Pass, Sizing: size(84001, 114688, 262144, 6999)}, "leave nf_conntrack_max at 262,144"},
		"another cause": {Findings{Verdict: Fail, Traffic: []Traffic{{Failed: 5}}, Sizing: size(1, 4096, 262144, 1)}, "Not the limit"},
		"late proxy":    {behindFor(0.6, 1.6), "Shorten the time for which they are behind"},
		"old entries":   {behindFor(0.05, 7), "entries outlived the pods"},
		"not read":      {Findings{Verdict: Fail, Traffic: []Traffic{{Failed: 5}}, Causes: []Cause{{Cause: staleBackend}}}, "for another cause"},
		"table's cause": {Findings{Verdict: Fail, Traffic: []Traffic{{Failed: 5}}, Causes: []Cause{{Cause: tableFull}}}, "by how much cannot be computed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { assert.Contains(t, advise(&tt.f).Do, tt.want) })
	}
}

// behindFor is a run whose attempts failed for a while, in s, because of backends
// that were out of date.
func behindFor(behind, failing float64) Findings {
	return Findings{
		Verdict: Fail, Traffic: []Traffic{{Failed: 5}}, Causes: []Cause{{Cause: staleBackend}},
		Nodes: []Node{{Stale: &Stale{MaxS: behind}}}, Spikes: []Spike{{StartS: ref(1.0), EndS: ref(1 + failing)}},
	}
}

func TestAdviceForACrowdedTable(t *testing.T) {
	f := goldenRuns(t)["hard"].analyze()
	a := advise(f)
	assert.Equal(t, "Set nf_conntrack_max to at least 458,752 (now 262,144), or make room.", a.Do)
	assert.Equal(t, []string{
		"3,000 were free when traffic began.",
		"This traffic needs 84,001 entries in the steady state, 343,145 with the 259,144 entries that were there when traffic began, and up to 42,000 more that have expired and are not collected yet.",
		"Its margin: 343,145 entries fill 74.8 % of 458,752: at most 75 %, so that a burst finds room; rounded up from 457,527.",
		"A limit of 266,144 would have held just this run.",
		overwritten,
		"Memory: 116 MiB to 172 MiB when full.",
	}, a.Why)
	assert.Equal(t, f.Sizing.Sysctl, a.Set)
	assert.Contains(t, a.Set, "net.netfilter.nf_conntrack_max = 458752\n")
	assert.Contains(t, f.Sizing.KubeProxy, "min: 458752\n", "what is pasted is what is advised")
	page := renderedHTML(t, f)
	assert.Contains(t, page, "They are for this traffic and the 259,144 entries that were there when traffic began.")
	assert.Contains(t, page, "In all it is 343,145 entries in the steady state with")
	assert.False(t, strings.Contains(page, "leave it"), "a limit that was full is not to be left")
	assert.Contains(t, page, "How long the present limit lasts, on an otherwise empty node")
	assert.Contains(t, joined(f.Sizing.Notes), "node1's limit of 262144 is too small for the 84001 entries this traffic needs in the steady state, and the 259144 that were there")
	s := newSim(t, 262144, 262144, finTraffic("web", 0, 10))
	s.fill("web", 700, 0, 10)
	assert.Empty(t, settingsNote(s.analyze()), "nothing else was there")
}

func TestProse(t *testing.T) {
	for in, want := range map[string]string{
		"drops at 262144 of 262144 entries (100 %), 4.3 s":                 "drops at 262,144 of 262,144 entries (100 %), 4.3 s",
		"drop +3999 on node1 (3999 of 6999 ended)":                         "drop +3,999 on node1 (3,999 of 6,999 ended)",
		"at 15200/s; 98119.":                                               "at 15,200/s; 98,119.",
		"on 10.0.0.1:30080, pod-12345, 2026-11-21, client2000, 2026.11.21": "on 10.0.0.1:30080, pod-12345, 2026-11-21, client2000, 2026.11.21",
		"ends at 86399.5 s":                                                "ends at 86,399.5 s",
		"":                                                                 "",
	} {
		assert.Equal(t, want, prose(in))
	}
	assert.Equal(t, "1,234,567", grouped(uint64(1234567)))
	assert.Equal(t, "-1,000", grouped(int64(-1000)))
	assert.Equal(t, "999", grouped(uint64(999)))
	assert.Equal(t, "0.1235", number(0.123456))
	assert.Equal(t, "1,235", number(1234.56))
	assert.Equal(t, "?", number(math.NaN()))
}

func TestOneWayTrafficHasNoSuccess(t *testing.T) {
	s := newSim(t, 1000, 100, floodTraffic("flood", 0, 2))
	for _, due := range dues(0, 2, 500) {
		s.sent("flood", due)
	}
	page := renderedHTML(t, s.analyze())
	for _, c := range plotData(t, page).Charts {
		if c.ID == "load" {
			require.Len(t, c.Series, 1)
			assert.Equal(t, "offered", c.Series[0].Name)
		}
	}
	assert.Contains(t, page, "Nobody waits for answers to flood")
	// Pods do answer: an entry in SYN_RECV is there because one did.
	assert.NotContains(t, strings.ToLower(page), "nobody answers")
	assert.Contains(t, page, "no handshake is completed")
}

func TestWhose(t *testing.T) {
	assert.Equal(t, "strangers' packets, web's packets", whose("strangers")+" packets, "+whose("web")+" packets")
}

func TestValuesWithoutMeasurement(t *testing.T) {
	b, err := json.Marshal(values{1, math.NaN(), 262144, 0.123456789, math.Inf(1), 1e300})
	require.NoError(t, err)
	assert.JSONEq(t, `[1,null,262144,0.1234568,null,1e300]`, string(b))
}

// What is of the whole machine is not taken for a node's or ours.
func TestMachineWideNumbersSayWhoseTheyAre(t *testing.T) {
	f := goldenRuns(t)["hard"].analyze()
	slab := uint64(125 << 20)
	f.Nodes[0].SlabBytesPeak = &slab
	page := renderedHTML(t, f)
	assert.Contains(t, page, "nf_conntrack slab, of the whole machine")
	assert.Contains(t, page, "the sampling agent, of one CPU and part of these,")
	s := goldenRuns(t)["hard"]
	s.cpuIdle = 0.01
	assert.Contains(t, strings.Join(s.analyze().Doubts, "\n"), "with whatever else runs on the machine, and who took how much is not told apart")
}

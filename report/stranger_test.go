package report

import (
	"bytes"
	"fmt"
	"html"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/search"
	"github.com/tablefull/tablefull/scenarios"
)

// flushedAt is a flush of the node's table, as an action.
func flushedAt(at float64, entries string) []runlog.Record {
	phase := func(t float64, phase string) runlog.Record {
		return runlog.Record{Host: "controller", T: t, Event: &runlog.Event{Kind: "action", Name: "wipe", Fields: map[string]string{"kind": "flush", "number": "1", "phase": phase}}}
	}
	return []runlog.Record{
		phase(at-0.001, "begin"),
		{Host: simNode, T: at, Event: &runlog.Event{Kind: "flush", Name: "deleted", Fields: map[string]string{"entries": entries}}},
		phase(at+0.001, "end"),
	}
}

// Connections that are not torn down because the table was flushed fail of the
// flush, where their look-ups show it, and of nothing that is known where they do not.
func TestTearDownsThatAFlushTook(t *testing.T) {
	s := newSim(t, 262144, 262144)
	tuple := runlog.Tuple{Proto: "tcp", Src: netip.MustParseAddrPort("10.1.0.1:4000"), Dst: s.header.Services[0].Addr}
	run := func(due float64, looked *runlog.Autopsy, flush ...runlog.Record) *Findings {
		looked.Traffic, looked.Seq, looked.Tuple = "held", 7, tuple
		more := append(flush,
			runlog.Record{Host: "client", T: 4.5, Failure: &runlog.Failure{Traffic: "held", Seq: 7, Due: due, Start: due, Outcome: runlog.ResponseTimeout, Phase: "close", Tuple: tuple}},
			runlog.Record{Host: simNode, T: 4.51, Autopsy: looked},
		)
		return tornDown(t, runlog.Closing{Due: 100, Closed: 60, Failed: 40, First: 3, Last: 3.6}, nil, more...)
	}
	gone, there := func() *runlog.Autopsy { return &runlog.Autopsy{} }, func() *runlog.Autopsy { return &runlog.Autopsy{Found: true, State: "LAST_ACK"} }
	f := run(3.7, gone(), flushedAt(3.65, "100")...)
	assert.Contains(t, f.Headline, "40 of held's 100 connections were not torn down: wipe (flush) deleted 100 entries from node1's table at 3.6 s")
	assert.Contains(t, strings.Join(f.Reasons, "\n"), "wipe (flush) deleted 100 entries from node1's table at 3.6 s, and 1 of 1 that were due after that and looked up when they had failed had no entry any more")
	assert.Contains(t, f.Headline, "node1's table was never full", "which is not to say that it held: it was emptied")
	assert.Contains(t, strings.Join(actionLines(f), "\n"), "; 40 of held's 100 connections were not torn down: wipe (flush) deleted")
	assert.Contains(t, strings.Join(strings.Fields(render(t, "text", f)), " "), "census: at 5.2 s: no entry")
	assert.Contains(t, advise(f).Do, "Not the limit: let nothing delete the entries of connections that are in use. wipe (flush) deleted")
	for name, f := range map[string]*Findings{
		"no flush":                    run(3.7, gone()),
		"it deleted nothing":          run(3.7, gone(), flushedAt(3.65, "0")...),
		"it came after it was closed": run(3.7, gone(), flushedAt(3.8, "100")...),
		"an entry was there":          run(3.7, there(), flushedAt(3.65, "100")...),
	} {
		assert.NotContains(t, f.Headline+strings.Join(f.Reasons, "\n")+advise(f).Do, "deleted", name)
		assert.NotContains(t, advise(f).Do, "Nothing", name)
	}
	assert.Contains(t, advise(run(3.7, there())).Do, "their FINs came to the node, which had all of those that were looked up in LAST_ACK")
	assert.Contains(t, advise(run(3.7, gone())).Do, "This run does not show what to change")
	mixed := run(3.7, there())
	mixed.Traffic[0].TearDown.LookedUp = map[string]uint64{"LAST_ACK": 2, "FIN_WAIT": 1}
	assert.Contains(t, advise(mixed).Do, "which had most of those that were looked up in LAST_ACK")
	f = run(3.7, there(), runlog.Record{Host: "controller", Loss: &runlog.Loss{What: "autopsies", Count: 39, Why: "there were more"}})
	assert.Contains(t, f.NotMeasured, "39 look-ups of connections that were not torn down were not made: there were more", "no attempt failed")
}

// Under a failed verdict there is something to change, or it is said that the run
// does not show what.
func TestAFailureIsNeverAdvisedNothing(t *testing.T) {
	zero, one := 0.0, 1.0
	for _, m := range scenarios.Metrics() {
		for _, spec := range []string{m.Name + " < 1", m.Name + " > 0", m.Name + " == 0"} {
			if m.Kind == scenarios.Time {
				spec += "s"
			}
			measured := &one
			if strings.Contains(spec, ">") {
				measured = &zero
			}
			f := made{verdict: Fail}.findings()
			limit, need, present := uint64(4096), uint64(50), uint64(6000)
			f.Sizing = &Sizing{NeededEntries: &need, RecommendedLimit: &limit, PresentLimit: &present}
			f.Thresholds = []ThresholdResult{{Threshold: spec, Result: Fail, Measured: measured, Detail: "so much"}}
			a := advise(f)
			assert.NotContains(t, a.Do, "Nothing:", spec)
			assert.Contains(t, a.Do, spec+" (so much) failed", "what failed")
			assert.NotEmpty(t, a.Why, spec)
		}
	}
	f := made{verdict: Fail}.findings()
	f.Thresholds = []ThresholdResult{{Threshold: "occupancy < 80%", Result: Fail, Measured: finite(0.9), Detail: "highest of 9 samples: 90 %"}, {Threshold: "p99 < 1ms", Result: Fail, Measured: &one}}
	a := advise(f)
	assert.Contains(t, a.Do, "it takes an nf_conntrack_max of at least 6,751 (now 6,000)", "0.9 x 6000 are 80 % of 6750, and less than 80 % of one more")
	assert.Contains(t, a.Why[len(a.Why)-1], "Besides: p99 < 1ms failed")
	lost := uint64(3)
	f.Traffic[0].HeldLost, f.Traffic[0].HeldCauses = &lost, []HeldCause{{Cause: unknownCause, Connections: 3, Evidence: "nothing is known of them"}}
	assert.Contains(t, advise(f).Do, "clients lost 3 held connections although the table held")
	f.Traffic[0].HeldLost, f.Thresholds = nil, nil
	assert.Contains(t, advise(f).Do, "This run does not show what to change")
	f.Capacity = &Capacity{Goals: []CapacityGoal{{End: string(search.AtMax)}}}
	a, is := adviceOf(f)
	assert.True(t, is)
	assert.Contains(t, a.Do, "This search does not show what to change")
}

// Causes that name no remedy by themselves say what would show one.
func TestEachCauseHasAnAdvice(t *testing.T) {
	for _, cause := range scenarios.Causes() {
		if cause == staleBackend || cause == snatPorts { // whose advice stands on more than the cause
			continue
		}
		f := made{verdict: Fail, failed: 9}.findings()
		f.Causes = []Cause{{Cause: cause, Failures: 9, Evidence: "so it is"}}
		a := advise(f)
		assert.NotContains(t, a.Do, "Nothing", cause)
		assert.NotContains(t, a.Do, "for another cause", cause)
	}
}

// Backends that were stale in turn are not one, and what is said of each is not
// said of all.
func TestStaleBackendsInTurn(t *testing.T) {
	of := func(pod string, from, seen, to float64) StaleBackend {
		return StaleBackend{Service: "web", Pod: pod, Addr: pod, What: "stale", FromS: from, SeenS: seen, ToS: to, Ended: true}
	}
	s := &Stale{MaxBackends: 1, MaxS: 0.28, Backends: []StaleBackend{of("a", 1.80, 1.80, 1.99), of("b", 2.10, 2.19, 2.38), of("c", 2.40, 2.40, 2.59)}}
	k := s.during(1.8, 2.5)
	assert.Equal(t, "3 stale backends one after another, the longest for 90 ms to 280 ms, in all for 90 ms to 570 ms of that time", k.text())
	assert.Equal(t, "3 stale backends, one at a time", s.InAll("stale backend"))
	assert.Equal(t, "1 stale backend, for at most 190 ms of that time", s.during(1.8, 2).text())
	s.Backends[1].Pod, s.Backends[1].Addr = "a", "a"
	assert.EqualValues(t, 2, s.during(1.8, 2.5).backends, "one of them twice")
	s.Backends[2].FromS, s.MaxBackends = 2.2, 2
	assert.Equal(t, "up to 2 stale backends, for 290 ms to 590 ms of that time", s.during(1.8, 2.5).text())
	s.Backends = append(s.Backends, of("d", 2.45, 2.45, 2.49))
	assert.Contains(t, s.during(1.8, 2.55).text(), "3 stale backends, up to 2 at once, the longest for ")
	assert.Equal(t, "3 stale backends, at most 2 at once", s.InAll("stale backend"))
	s.Other = 4
	assert.Equal(t, "at least 3 stale backends, at most 2 at once", s.InAll("stale backend"))
}

// A column or a row is there for what arms differ by.
func TestComparisonShowsWhatDiffers(t *testing.T) {
	e, trials := experimentWith(nil, []made{{failed: 400, drop: 8, p99: 3}}, []made{{p99: 5, spikes: []uint64{0}}})
	c := Compare(e, trials)
	var text, md, page bytes.Buffer
	require.NoError(t, c.Render("text", &text))
	require.NoError(t, c.Render("markdown", &md))
	require.NoError(t, c.Render("html", &page))
	head := strings.Join(strings.Fields(text.String()), " ")
	assert.Contains(t, head, "drops failed errors p99")
	for name, out := range map[string]string{"text": head, "markdown": md.String(), "html": page.String()} {
		assert.NotContains(t, out, "failures_per_action", "%s: 0 in one arm, and no action in the other", name)
		assert.NotContains(t, out, "| peak", name)
		assert.Contains(t, strings.NewReplacer("\\", "", "<wbr>", "", ",", "").Replace(out), "The same in all arms: peak_entries 5000", name)
	}
	assert.NotEmpty(t, c.Metrics[0].Arms, "programs are told all of it")
	same := Compare(e, []Trial{trials[0], {trials[1].ExperimentRun, trials[0].Findings}})
	assert.NotEmpty(t, same.columnsShown(5), "arms that do not differ are shown not to")
	for _, r := range c.Metrics {
		if r.Metric == "errors" {
			assert.True(t, r.tellsApart())
		}
	}
}

// What is said of each attempt is held against the counter and the look-ups.
func TestEachIsSaidOfEachOnly(t *testing.T) {
	of := func(delta uint64, shared bool, otherwise uint64) string {
		x := newTally(tallyKey{cause: tableFull})
		x.packets, x.delta, x.shared, x.agree = 2866, delta, shared, foundAny(noEntry)
		x.outcomes[runlog.ConnectTimeout] = 2866
		x.looked[noEntry], x.looked[open] = 87, otherwise
		return lostText(2866, x)
	}
	assert.Equal(t, "2866 attempts lost exactly one SYN each", of(2866, false, 0))
	assert.Equal(t, "2866 of those put down to 2866 attempts", of(2952, false, 0))
	assert.Equal(t, "2866 attempts lost 2866 SYNs", of(2866, false, 1))
	assert.Equal(t, "2866 attempts lost 2866 SYNs", of(2866, true, 0))
}

// The margin that is told is the one that was taken.
func TestMarginOfTheRecommendedLimit(t *testing.T) {
	for _, x := range []struct {
		needed, late uint64
		want         string
	}{
		{500, 0, "500 entries fill 12.2 % of 4096, which is the least that is recommended"},
		{84001, 0, "84001 entries fill 73.2 % of 114688: at most 75 %, so that a burst finds room; rounded up from 112002"},
		{84001, 42000, "84001 entries fill 64.1 % of 131072, and 96.1 % with the 42000 that have expired and are not collected yet, which must find room as well; rounded up from 126001"},
		{6144, 0, "6144 entries fill 75.0 % of 8192: at most 75 %, so that a burst finds room"},
	} {
		assert.Equal(t, x.want, roomLeft(x.needed, x.late, recommended(x.needed, x.late)))
	}
	f := goldenRuns(t)["hard"].analyze()
	require.NotEmpty(t, f.Sizing.marginText())
	why := strings.Join(advise(f).Why, "\n")
	assert.Contains(t, why, "Its margin: 343,145 entries fill 74.8 % of 458,752: at most 75 %, so that a burst finds room; rounded up from 457,527.")
	assert.Contains(t, renderedHTML(t, f), "The margin of that limit: 343,145 entries fill 74.8")
}

// A search whose range ends before what is asked for shows neither that it holds
// nor that it does not.
func TestSearchCannotShowWhatIsBeyondItsRange(t *testing.T) {
	for _, spec := range []string{"capacity >= 9000", "capacity_upper <= 9030"} {
		f := searchLog{limit: 9000, expect: []string{spec}}.findings(t)
		assert.Equal(t, Inconclusive, f.Expected[0].Result, spec)
		assert.Contains(t, f.Expected[0].Detail, "this search cannot show it: its range ends at 8000, which holds", spec)
		assert.Nil(t, f.Reproduced, spec)
		assert.Contains(t, f.Headline, "cannot show it", spec)
	}
	f := searchLog{limit: 9000, thresholds: []string{"capacity >= 9000"}}.findings(t)
	assert.Equal(t, Inconclusive, f.Verdict, "nobody knows")
	f = searchLog{limit: 9000, expect: []string{"capacity >= 7000", "capacity_upper <= 3030"}}.findings(t)
	assert.Equal(t, []Verdict{Pass, Fail}, []Verdict{f.Expected[0].Result, f.Expected[1].Result}, "within it, it does")
	f = made{}.findings()
	_, detail := runMetric(scenarios.Threshold{Metric: "capacity"}, f)
	assert.Contains(t, detail, "this run made no search")
}

// A node that lost its last pod is no service that had none, and what its health
// check port said is what a load balancer went by.
func TestAdviceWithoutEndpoint(t *testing.T) {
	at, end := 4.0, 8.0
	of := func(local bool, conditions ...Condition) *Findings {
		f := made{verdict: Fail, failed: 199}.findings()
		f.Traffic[0].local, f.Traffic[0].To = local, "web"
		c := Cause{Cause: noEndpoint, Failures: 199, Proof: Evidence{Traffic: map[string]uint64{"clients": 199}}}
		f.Causes, f.Nodes[0].Conditions = []Cause{c}, conditions
		f.Nodes[0].Knee.ClientLoss, f.Nodes[0].Entered = &Onset{AtS: at}, &Entered{Attempted: 399, Failed: 199, Causes: []Cause{c}}
		f.Spikes = []Spike{{Action: "shrink", Kind: "scale", BeginS: 2, StartS: &at, EndS: &end, Failures: 199, FailedBy: map[string]uint64{"node1": 199}, Causes: []Cause{{Cause: noEndpoint, Share: 1}}}}
		return f
	}
	why := func(f *Findings) string { return strings.Join(advise(f).Why, "\n") }
	const noneAtAll = "A service that had none at all"
	f := of(true, Condition{AtS: -0.4, What: "web's health check port says 200"}, Condition{AtS: 2.2, What: "web's health check port says 503"}, Condition{AtS: 6, What: "other's health check port says 200"})
	assert.NotContains(t, why(f), noneAtAll)
	assert.Contains(t, why(f), "The health check node port of node1 said 503 from 2.2 s on, and the first attempt failed at 4.0 s: a load balancer that asks it, and sends nothing there any more within 1.8 s, would have sent none of these.")
	assert.Contains(t, headline(f), "no usable endpoint that node1 could send them to; its health check port had said so (503) for 1.8 s by then")
	f = of(true, Condition{AtS: -0.4, What: "web's health check port says 200"}, Condition{AtS: 5, What: "web's health check port says 503"})
	assert.Contains(t, why(f), "did not say 503 when the first attempt failed, at 4.0 s: a load balancer that asks it would have sent these, too.")
	assert.Contains(t, headline(f), "its health check port said nothing of that when it began (200)")
	f = of(true)
	assert.NotContains(t, why(f)+headline(f), "ealth check node port of")
	f = of(false)
	f.noPod = []noPodTime{{"web", 4, 8}}
	assert.Contains(t, why(f), noneAtAll)
	assert.NotContains(t, why(f), "externalTrafficPolicy Local")
	assert.Contains(t, why(of(false)), noneAtAll)
}

// Whoever reads the text on a terminal is told what the first screen of the HTML
// says.
func TestTextSaysWhatToChange(t *testing.T) {
	words := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	tags := regexp.MustCompile(`<[^>]*>`)
	runs := map[string]*Findings{"search": searchLog{limit: 3000}.findings(t)}
	for name, s := range goldenRuns(t) {
		runs[name] = s.analyze()
	}
	for name, f := range runs {
		text, page := words(render(t, "text", f)), words(html.UnescapeString(tags.ReplaceAllString(strings.ReplaceAll(renderedHTML(t, f), "<wbr>", ""), " ")))
		a, is := adviceOf(f)
		assert.Equal(t, is, strings.Contains(text, "what to change"), name)
		if !is {
			continue
		}
		for _, s := range append([]string{a.Do}, a.Why...) {
			assert.Contains(t, text, words(s), name)
			assert.Contains(t, page, words(s), name)
		}
		for line := range strings.Lines(a.Set) {
			assert.Contains(t, text, words(line), name)
		}
	}
}

// In which mode the services were programmed is what the rules say, and by which
// kube-proxy what the scenario does.
func TestWhatProgrammedTheServices(t *testing.T) {
	const scenario = "name: s\nduration: 4s\n%sservices: [{name: web, pods: 2}]\ntraffic: [{name: clients, to: web, duration: 4s, short_lived: {rate: 10/s}}]\n%s"
	run := func(target, lab, more string, modes ...string) string {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 4))
		s.header.Target, s.header.ScenarioYAML = target, fmt.Sprintf(scenario, lab, more)
		_, err := scenarios.Parse("s", []byte(s.header.ScenarioYAML))
		require.NoError(t, err)
		for i, mode := range modes {
			s.records = append(s.records, runlog.Record{Host: simNode, T: float64(i) - 0.4, Dataplane: &runlog.Dataplane{Mode: mode, Services: []runlog.ProgrammedService{programmed(1, 2)}}})
		}
		s.act("up", "upgrade_proxy", 1, 1, 1.5, "")
		f := s.analyze()
		assert.Contains(t, render(t, "markdown", f)+"services by ", f.Environment.Proxy)
		if f.Environment.Proxy != "" {
			assert.Contains(t, strings.Join(strings.Fields(render(t, "text", f)), " "), "; services by "+f.Environment.Proxy)
			assert.Contains(t, renderedHTML(t, f), f.Environment.Proxy)
		}
		return f.Environment.Proxy
	}
	const upgrade = "actions: [{name: up, at: 1s, upgrade_proxy: {binary: v1.36.3, mode: iptables}}]\n"
	assert.Equal(t, "the built-in proxy, mode nftables", run("lab", "", ""))
	assert.Equal(t, "kube-proxy v1.35.4, mode iptables, from 1.5 s on kube-proxy v1.36.3", run("lab", "lab: {proxy: {binary: v1.35.4, mode: iptables}}\n", upgrade, "iptables"))
	assert.Equal(t, "kube-proxy, mode nftables", run("kubernetes", "", "", "nftables"))
	assert.Equal(t, "kube-proxy, mode iptables, then nftables", run("kubernetes", "", "", "iptables", "nftables"))
	assert.Empty(t, run("kubernetes", "", ""), "nobody knows")
}

// One limit is for all nodes: it has room for what the fullest holds, where others
// ask for as much.
func TestAdviceIsForTheFullestNode(t *testing.T) {
	s := newNodesSim(t, 3, 200_000, 190_000, 500, 190_000)
	f := s.run(900, nil)
	require.NotNil(t, f.Knee.Drop)
	require.NotNil(t, f.Sizing.NeededEntries)
	assert.EqualValues(t, 199_500, f.Sizing.besides())
	assert.Contains(t, f.Sizing.inAllText(), "with the 199500 entries that were there when traffic began on node2")
	entries, limit := f.Sizing.inAll()
	assert.Equal(t, *f.Sizing.NeededEntries+199_500, entries)
	assert.Greater(t, limit, entries)
	s = newNodesSim(t, 3, 200_000, 190_000, 500, 190_000)
	s.onePod, s.header.Services[0].Backends = true, s.header.Services[0].Backends[:1] // that of node1, which then needs more than node2
	f = s.run(900, nil)
	assert.EqualValues(t, 10_000, f.Sizing.besides())
}

// An arm whose attempts were seen to add nothing is not full later either, whatever
// was planned.
func TestArmThatAddsNothingIsNeverFull(t *testing.T) {
	f := made{}.findings()
	room, need, late := int64(800), uint64(12_001), uint64(6000)
	f.Nodes[0].HeadroomAtStart, f.Sizing = &room, &Sizing{NeededEntries: &need, UncollectedEntries: &late, Parts: []SizingPart{{Traffic: "clients", Entries: &need, Counted: true}}}
	assert.Contains(t, roomText(f), "and would be later")
	for i := range 41 {
		at, n := float64(i)/10, uint64(100)
		if i < 30 {
			f.Timeline.Load.T, f.Timeline.Load.Started = append(f.Timeline.Load.T, at), append(f.Timeline.Load.Started, 1000)
		}
		if i == 0 {
			f.Timeline.Load.StepS, f.Timeline.Nodes = 0.1, []NodeSeries{{Name: "node1"}}
		}
		x := &f.Timeline.Nodes[0]
		x.T, x.Entries = append(x.T, at), append(x.Entries, n)
	}
	assert.Contains(t, roomText(f), "cannot be by this load: an attempt adds no entry")
}

// What cannot be removed before another run is no reason to make one.
func TestAdviceWhereCausesAreUnknown(t *testing.T) {
	f := made{verdict: Inconclusive, failed: 60}.findings()
	f.Causes = []Cause{{Cause: staleBackend, Failures: 43}, {Cause: unknownCause, Failures: 17, Evidence: "17 refused"}}
	assert.Contains(t, advise(f).Do, "This run does not show what to change: the table held, and why 17 of the 60 attempts that failed did so is unknown.")
	f.Causes[0].Cause = tableFull
	assert.NotContains(t, advise(f).Do, "the table held")
	f.unsound = []string{"the generator could not keep up"}
	assert.Contains(t, advise(f).Do, "Nothing, on the strength of this run")
}

// IPVS is spoken of where it can be.
func TestAdviceIsForTheModeOfTheRun(t *testing.T) {
	f := &Findings{}
	assert.Contains(t, drainingAdvice(f).Why[0], "With IPVS")
	f.Environment.Proxy = "kube-proxy, mode nftables"
	assert.NotContains(t, drainingAdvice(f).Why[0], "IPVS")
	f.ipvs = true
	assert.Contains(t, drainingAdvice(f).Why[0], "With IPVS")
}

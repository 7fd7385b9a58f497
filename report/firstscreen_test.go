package report

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// What was expected, where all was shown, does not stand before what to change.
func TestFirstScreenHasRoomForTheAdvice(t *testing.T) {
	shown := []ThresholdResult{{Threshold: "stale > 5s", Result: Pass}, {Threshold: "failures < 10", Result: Pass}}
	f := &Findings{Verdict: Pass, Expected: shown, Reproduced: ref(true), Reasons: []string{"reproduced: all that the scenario expects was shown", asExpected + "stale > 5s (6 s)", asExpected + "failures < 10 (0)", "9 attempts failed"}}
	why, listed := reasonsApart(f)
	assert.Equal(t, []string{"reproduced: all that the scenario expects was shown", "9 attempts failed"}, why)
	assert.Equal(t, []string{"stale > 5s (6 s)", "failures < 10 (0)"}, listed)
	assert.Contains(t, renderedHTML(t, f), "was shown: 2 of 2</summary>")
	f.Reproduced = ref(false)
	why, listed = reasonsApart(f)
	assert.Len(t, why, 4, "what is missing is beside what is not")
	assert.Empty(t, listed)
}

// Of several nodes the first screen shows the one by which attempts were lost,
// and names that one's entries.
func TestFirstScreenShowsTheNodeThatLost(t *testing.T) {
	entries := func(n uint64) *uint64 { return &n }
	loss := &Onset{AtS: 4, Entries: entries(413), Occupancy: ref(0.001)}
	f := &Findings{
		Nodes: []Node{
			{Name: "node1", PeakEntries: entries(900), PeakOccupancy: ref(0.9)},
			{Name: "node3", PeakEntries: entries(500), PeakOccupancy: ref(0.5), Knee: Knee{ClientLoss: loss}},
		},
		Knee:    Knee{ClientLoss: &Onset{AtS: 4, Entries: entries(880), Occupancy: ref(0.8)}},
		Traffic: []Traffic{{Name: "clients", Due: 10}},
	}
	assert.Equal(t, "node3", headNode(f).Name)
	assert.Contains(t, figures(f)[2].Lines, "413 entries")
	f.Nodes[0].Knee.Drop = &Onset{AtS: 9}
	assert.Equal(t, "node1", headNode(f).Name, "a full table comes first")
}

// Held connections that were lost are no failed attempts, and not none either.
func TestLostConnectionsAreNotHidden(t *testing.T) {
	lost := uint64(1480)
	f := &Findings{Traffic: []Traffic{{Name: "pool", Due: 2000, HeldLost: &lost, HeldCauses: []HeldCause{{Cause: entryExpired, Connections: 1480}}}}}
	assert.Equal(t, []string{"but 1,480 held connections lost"}, figures(f)[2].Lines)
	assert.Contains(t, lostBecause(&f.Traffic[0]), ", all of them because of entry_expired")
	f.Traffic[0].HeldCauses[0].Connections = 3
	assert.Contains(t, lostBecause(&f.Traffic[0]), ", 3 of them because of entry_expired")
}

// A headline says what kind of action it was, and of how many failures it speaks.
func TestHeadlineOfAnAction(t *testing.T) {
	s := Spike{Action: "to-zero", Kind: "scale", Number: 1, BeginS: 2, StartS: ref(2.0), EndS: ref(6.0), Failures: 799, Causes: []Cause{{Cause: drainingBackend, Share: 1}}}
	f := &Findings{Spikes: []Spike{s}, Causes: []Cause{{Cause: drainingBackend, Failures: 807}}}
	assert.Contains(t, spikeHeadline(f, &s), "799 of the 807 attempts that failed did so when to-zero (scale) began, for about 4.0 s, 100 % of them because of draining_backend")
	f.Causes[0].Failures = 799
	assert.Contains(t, spikeHeadline(f, &s), "799 attempts failed when to-zero (scale) began")
}

// A proxy that hung is told from one that is slow, by what ended it.
func TestAdviceForAProxyThatHung(t *testing.T) {
	f := behindFor(6, 6)
	f.Nodes[0].Name = "node2"
	f.Nodes[0].Stale.Backends = []StaleBackend{{What: "stale", FromS: 2, ToS: 8.1, Ended: true}}
	heal := Spike{Action: "heal", Kind: "restart_proxy", BeginS: 8, DoneS: ref(8.2), StoppedS: ref(8.1)}
	slow := advise(&f).Do
	assert.Contains(t, slow, "Shorten the time")
	f.Spikes = append(f.Spikes, heal)
	a := advise(&f)
	assert.Contains(t, a.Do, "the proxy of node2 stopped following the endpoints")
	assert.Contains(t, a.Why[0], "until heal (restart_proxy)")
	assert.Contains(t, a.Why[0], "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds runs ahead of kubeproxy_sync_proxy_rules_last_timestamp_seconds")
	assert.Contains(t, a.Why[0], "One that is stopped answers neither /metrics nor /healthz")
	f.Nodes[0].Stale.Backends[0].ToS = 5 // it had caught up before
	assert.Equal(t, slow, advise(&f).Do)
	f.Nodes[0].Stale.Backends[0].ToS, f.Spikes[1].StoppedS = 8.1, nil // attempts went on failing
	assert.Equal(t, slow, advise(&f).Do)
	f.Spikes[1].Before, f.Spikes[1].After, f.Spikes[1].WatchedToS = 200, 0.75, ref(12.0)
	assert.Equal(t, a.Do, advise(&f).Do, "but for a few that used an old source port again")
	f.Spikes[1].After = 20
	assert.NotEqual(t, a.Do, advise(&f).Do)
	f.Spikes[1].After, f.Spikes[1].WatchedToS = 0, ref(9.0)
	assert.NotEqual(t, a.Do, advise(&f).Do, "nobody knows yet")
}

// A full table is somebody's trouble only by what it costs.
func TestHeadlineSaysWhatItCost(t *testing.T) {
	ok := uint64(2333)
	full := Node{Name: "node1", Limit: new(uint64), PeakEntries: new(uint64), Knee: Knee{EarlyDrop: &Onset{AtS: 5}, Drop: &Onset{AtS: 5}}}
	f := &Findings{Nodes: []Node{full}, Traffic: []Traffic{{Name: "clients", Succeeded: &ok, Failed: 66}, {Name: "strangers", Attempted: 149999}}}
	assert.Contains(t, headline(f), "its table is full; 66 of 2399 attempts failed.")
	f.Traffic[0].Failed = 0
	assert.Contains(t, headline(f), "its table is full; no attempt failed.")
	f.Traffic = f.Traffic[1:]
	assert.Contains(t, headline(f), "its table is full.", "nobody waited for an answer")
}

// Of pods that nothing ended there is nothing to say but what they served.
func TestPodsTable(t *testing.T) {
	for name, s := range goldenRuns(t) {
		f := s.analyze()
		if len(f.Backends) > 0 {
			assert.Equal(t, len(f.Spikes) > 0, strings.Contains(renderedHTML(t, f), "accepted while draining"), name)
		}
	}
}

// Where an attempt takes more than one entry, the rate alone misleads.
func TestHeadlineSaysWhatAnAttemptTakes(t *testing.T) {
	full := Node{Name: "node1", Limit: new(uint64), PeakEntries: new(uint64), Knee: Knee{Drop: &Onset{AtS: 5}}}
	f := &Findings{Nodes: []Node{full}, Sizing: &Sizing{Parts: []SizingPart{{Traffic: "requests", Counted: true, EntriesPerAttempt: 2}}}}
	assert.Contains(t, headline(f), "its table is full; each attempt of requests takes about 2 entries.")
	f.Sizing.Parts[0].EntriesPerAttempt = 1.01
	assert.NotContains(t, headline(f), "takes")
}

// When a limit was seen to change lies between two samples, which may be
// before what changed it.
func TestLimitChangesSayHowExactTheyAre(t *testing.T) {
	n := &Node{LimitChanges: []LimitChange{{AtS: 0.93, UncertaintyS: 0.12, From: 131072, To: 262144, Actions: []string{"administrator"}}}}
	assert.Contains(t, limitText(n), "262144 from a moment between 0.81 s and 1.05 s on (administrator)")
	n.LimitChanges[0].UncertaintyS = 0.01
	assert.Contains(t, limitText(n), "262144 from 0.9 s on")
}

// Clashes that cost nothing are what a run of pairs is about.
func TestHeadlineOfResolvedClashes(t *testing.T) {
	f := &Findings{Nodes: []Node{{Name: "node1", PeakEntries: new(uint64), Counters: map[string]uint64{"clashres": 241}}}}
	assert.Contains(t, headline(f), "and no attempt failed, although entries clashed: the kernel resolved it 241 times (clashres).")
	f.Nodes[0].Counters["insert_failed"] = 1
	assert.NotContains(t, headline(f), "clash")
}

// The link to the sizing promises settings only where it has any.
func TestLinkToSettings(t *testing.T) {
	page := renderedHTML(t, &Findings{Verdict: Pass, Sizing: &Sizing{}})
	assert.Contains(t, page, "Sizing: what this load needs</a>")
	assert.NotContains(t, page, "settings to paste")
	assert.Contains(t, renderedHTML(t, &Findings{Verdict: Pass, Sizing: &Sizing{Sysctl: "a = 1"}}), "Sizing: what this load needs, and settings to paste</a>")
}

// A run without an answer is not said to be without a reason to doubt it.
func TestInconclusiveIsDoubted(t *testing.T) {
	page := renderedHTML(t, &Findings{Verdict: Inconclusive, Reasons: []string{"the generator could not keep up"}})
	assert.Contains(t, page, "No other doubts")
	assert.NotContains(t, page, "The log gives no reason to doubt")
	assert.Contains(t, renderedHTML(t, &Findings{Verdict: Pass}), "The log gives no reason to doubt")
}

// Old entries fill a pod that is being taken out before they lead to nobody.
func TestHeadlineOfAPodThatWentOnTakingIn(t *testing.T) {
	s := Spike{Action: "take-out", Kind: "delete_pod", Number: 1, BeginS: 6, StartS: ref(18.0), EndS: ref(21.0), Failures: 60, Causes: []Cause{{Cause: staleBackend, Share: 1}}}
	f := &Findings{Spikes: []Spike{s}, Nodes: []Node{{Name: "node1", Stale: &Stale{MaxS: 0.4, Backends: []StaleBackend{{What: "stale", FromS: 17.8, SeenS: 18.1, ToS: 18.2}}}}}, Backends: []Backend{{Name: "web-1", Service: "web", DrainingShare: ref(0.499)}}}
	assert.Contains(t, spikeHeadline(f, &s), ": entries from before still led them to pods that were gone; the rules of node1 did for 100 ms to 200 ms of that time; while web-1 was terminating it still took in 49.9 % of what web did.")
	f.ipvs = true
	assert.Contains(t, spikeHeadline(f, &s), ": clients used source ports again, and IPVS kept sending those to pods that were gone; the rules of node1 did for 100 ms to 200 ms of that time; while")
	f.Nodes[0].Stale.Backends[0] = StaleBackend{What: "stale", FromS: 6, SeenS: 6.1, ToS: 6.2}
	assert.Contains(t, spikeHeadline(f, &s), "the rules of node1 led there no more; while", "what was over before is not of these attempts")
	f.Backends[0].DrainingShare = ref(0.02)
	assert.NotContains(t, spikeHeadline(f, &s), "terminating")
}

// Where nothing but held connections was lost, the plots of the table and of the
// attempts are flat: the one that shows it comes before the attempts.
func TestHeldConnectionsOnTheFirstScreen(t *testing.T) {
	lost, one := uint64(151), []float64{0}
	f := &Findings{Traffic: []Traffic{{Name: "pool", Due: 200, HeldLost: &lost}}}
	f.Timeline.Load = LoadSeries{StepS: 1, T: one, Offered: one, OK: one, Failed: one, Started: one, Late: one, NotStarted: one}
	f.Timeline.Held = []HeldSeries{{Traffic: "pool", T: one, Open: []uint64{200}, Validated: []uint64{200}}}
	ids := func(of []chart) (out []string) {
		for _, ch := range of {
			out = append(out, ch.ID)
		}
		return out
	}
	c := newCharts(f)
	assert.Equal(t, []string{"held-1", "load"}, ids(c.first))
	assert.NotContains(t, ids(c.over), "held-1")
	f.Traffic[0].Failed = 3
	c = newCharts(f)
	assert.Equal(t, []string{"load"}, ids(c.first))
	assert.Contains(t, ids(c.over), "held-1")
}

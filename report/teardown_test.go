package report

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/scenarios"
)

// tornDown is a run in which 100 held connections were closed at a rate, with
// what the client says of it and a walk over the table after it.
func tornDown(t *testing.T, c runlog.Closing, groups []runlog.CensusGroup, more ...runlog.Record) *Findings {
	t.Helper()
	s := newSim(t, 262144, 262144, runlog.TrafficInfo{Name: "held", Shape: "idle", To: "web", End: 5, Timeout: 1, EntriesPerAttempt: 1, ExpectsAnswer: true})
	for _, due := range dues(0, 1, 100) {
		s.enter(due)
		s.ok("held", due)
	}
	s.records = append(s.records,
		runlog.Record{Host: "client", T: 2, Held: &runlog.Held{Traffic: "held", Open: 100, Validated: 100}},
		runlog.Record{Host: "client", T: 5, Held: &runlog.Held{Traffic: "held", Closing: &c}},
		runlog.Record{Host: "node1", T: 5.2, Census: &runlog.Census{Took: 0.01, Entries: 100, Groups: groups}},
	)
	s.records = append(s.records, more...)
	return s.analyze()
}

func inState(s *sim, state string, n uint64) runlog.CensusGroup {
	return runlog.CensusGroup{Proto: "tcp", State: state, Service: s.header.Services[0].Addr, Backend: netip.MustParseAddrPort("10.2.0.1:8080"), Count: n}
}

// Torn down is what both ends and the table agree on.
func TestTearDown(t *testing.T) {
	s := newSim(t, 262144, 262144)
	whole := runlog.Closing{Due: 100, Closed: 100, First: 3, Last: 3.99, Longest: 0.004}
	sc := &scenarios.Scenario{
		Conntrack: scenarios.Conntrack{}, Services: []scenarios.Service{{Name: "web"}},
		Traffic: []scenarios.Traffic{{Name: "held", To: "web", Idle: &scenarios.Idle{Count: 100, OpenRate: 100, CloseRate: 100}}},
	}
	trial := func(f *Findings) runlog.Trial {
		got := SearchTrialOf(f, sc)
		got.Why = nil
		return got
	}

	f := tornDown(t, whole, []runlog.CensusGroup{inState(s, "TIME_WAIT", 100)})
	d := f.Traffic[0].TearDown
	require.NotNil(t, d)
	assert.InDelta(t, 100, *d.RatePerS, 1e-9, "99 after the first one, in 0.99 s")
	assert.InDelta(t, 4, *d.LongestMs, 1e-9)
	assert.Equal(t, map[string]uint64{"TIME_WAIT": 100}, d.Entries)
	got := trial(f)
	assert.Equal(t, "held", got.Traffic)
	assert.Equal(t, []uint64{100, 0}, []uint64{got.Due, got.Lost})
	c := Capacity{Measure: scenarios.TeardownRate, Unit: perSecondUnit, Min: 50, Max: 100, TrialS: 1.5, Trials: []CapacityTrial{capacityTrial(&got)}}
	c.Trials[0].Kind = "search"
	assert.Equal(t, "holds, closed at 100/s, each within 4 ms", c.trialRows()[0][7])
	assert.Contains(t, c.about(), "each trial lasts until all connections are closed and counts as 1.5 s")
	due, lost := c.dueAndLost()
	assert.Equal(t, []string{"to close", "unclosed"}, []string{due, lost}, "and not the openings")
	var b bytes.Buffer
	require.NoError(t, Render("text", f, &b))
	assert.Contains(t, strings.Join(strings.Fields(b.String()), " "), "torn down: 100 of 100, by FIN from the client and then the server, 100/s")

	// One that does not see the server's FIN is not torn down, and what its
	// look-up found is told.
	at := netip.MustParseAddrPort("10.1.0.1:4000")
	tuple := runlog.Tuple{Proto: "tcp", Src: at, Dst: s.header.Services[0].Addr}
	f = tornDown(t, runlog.Closing{Due: 100, Closed: 99, Failed: 1, First: 3, Last: 3.99}, []runlog.CensusGroup{inState(s, "TIME_WAIT", 99), inState(s, "FIN_WAIT", 1)},
		runlog.Record{Host: "client", T: 4.5, Failure: &runlog.Failure{Traffic: "held", Seq: 7, Due: 3.5, Start: 3.5, Outcome: runlog.ResponseTimeout, Phase: "close", Tuple: tuple}},
		runlog.Record{Host: "node1", T: 4.51, Autopsy: &runlog.Autopsy{Traffic: "held", Seq: 7, Tuple: tuple, Found: true, State: "FIN_WAIT"}},
	)
	assert.Equal(t, map[string]uint64{"FIN_WAIT": 1}, f.Traffic[0].TearDown.LookedUp)
	assert.Equal(t, uint64(100), *f.Traffic[0].Succeeded, "its attempt was to open it, and did")
	assert.Zero(t, *f.Traffic[0].HeldLost)
	assert.Equal(t, uint64(1), trial(f).Lost)
	assert.Contains(t, f.Headline, "1 of held's 100 connections were not torn down")
	v, _ := unclosedMetric("", f)
	assert.InDelta(t, 1, v, 0)

	// What the client took for closed, and the table still has in ESTABLISHED.
	f = tornDown(t, whole, []runlog.CensusGroup{inState(s, "TIME_WAIT", 97), inState(s, "ESTABLISHED", 3)})
	assert.Equal(t, uint64(3), trial(f).Lost)
	v, _ = unclosedMetric("held", f)
	assert.InDelta(t, 3, v, 0)

	// Where nobody knows, a trial says nothing.
	for name, f := range map[string]*Findings{
		"was not walked after":     tornDown(t, runlog.Closing{Due: 100, Closed: 100, First: 3, Last: 5.195}, nil),
		"80 of held's connections": tornDown(t, runlog.Closing{Due: 80, Closed: 80, First: 3, Last: 3.8}, []runlog.CensusGroup{}),
		"could not keep up":        tornDown(t, runlog.Closing{Due: 100, Closed: 100, Late: 6, First: 3, Last: 3.99}, []runlog.CensusGroup{}),
		"due to be closed":         tornDown(t, runlog.Closing{}, []runlog.CensusGroup{}),
	} {
		assert.Contains(t, strings.Join(SearchTrialOf(f, sc).Why, "\n"), name)
	}
	sc.Traffic[0].Idle.Count = 101
	assert.Contains(t, strings.Join(SearchTrialOf(f, sc).Why, "\n"), "not all of held's connections could be opened")
	v, _ = unclosedMetric("", &Findings{Traffic: []Traffic{{Name: "held"}}})
	assert.NotEqual(t, v, v, "no data")
}

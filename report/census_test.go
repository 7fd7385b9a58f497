package report

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// walked is a census of these counts by state, after ballast.
func walked(t float64, ballast uint64, counts map[string]uint64) runlog.Record {
	c := &runlog.Census{Took: 0.1, CPU: 0.1, Entries: ballast, Ballast: ballast}
	for _, state := range []string{"CLOSE_WAIT", "TIME_WAIT"} {
		if n := counts[state]; n > 0 {
			c.Entries += n
			// Two groups, as of two pods.
			c.Groups = append(c.Groups, runlog.CensusGroup{Proto: "tcp", State: state, Count: n - 1}, runlog.CensusGroup{Proto: "tcp", State: state, Count: 1})
		}
	}
	return runlog.Record{Host: simNode, T: t, Census: c}
}

func TestMostEntriesInAState(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.fill("web", 700, 0, 10)
	s.header.Thresholds = []string{"close_wait_entries == 2000", "close_wait_entries < 2000", "time_wait_entries <= 500", "last_ack_entries == 0"}
	for _, r := range s.analyze().Thresholds {
		assert.Equal(t, Inconclusive, r.Result, "no census is no data: %s", r.Threshold)
	}
	s.records = append(s.records, walked(2, 259144, map[string]uint64{"CLOSE_WAIT": 700, "TIME_WAIT": 500}), walked(5, 259144, map[string]uint64{"CLOSE_WAIT": 2000}), walked(9, 259144, map[string]uint64{"CLOSE_WAIT": 1900, "TIME_WAIT": 40}))
	f := s.analyze()
	for i, want := range []Verdict{Pass, Fail, Pass, Pass} {
		assert.Equal(t, want, f.Thresholds[i].Result, "%s: %s", f.Thresholds[i].Threshold, f.Thresholds[i].Detail)
	}
	assert.Equal(t, map[string]uint64{"tcp CLOSE_WAIT": 2000, "tcp TIME_WAIT": 500}, f.Nodes[0].PeakByState)
	assert.Contains(t, headline(f), "its table is full: 3000 entries were free when traffic began, which filled mostly with connections that one side has closed and the other has not (CLOSE_WAIT: 1900 of the traffic's 1940 entries at 9.0 s); another 259144 are ballast")
	all := *f.Nodes[0].Census
	all.Entries = all.Ballast + 1900
	assert.Contains(t, leaked(&Node{Census: &all, HeadroomAtStart: f.Nodes[0].HeadroomAtStart}), "which filled with connections", "all of them are no more than most")
	assert.Contains(t, advise(f).Do, "no limit mends that its own sockets pile up without end")
	assert.NotContains(t, joined(advise(f).Why), "that is at", "what ends in TIME_WAIT is no leak")
	s.header.Traffic[0].Residence, s.header.Traffic[0].ResidueState = 60, "CLOSE_WAIT"
	why := joined(advise(s.analyze()).Why)
	assert.Contains(t, why, "In the table such a leak levels off, unlike the sockets of the application: each entry expires after nf_conntrack_tcp_timeout_close_wait. With the 60 s of this run that is at 42,001 entries; with kube-proxy's default of 3,600 s, at 2,520,000.")
	assert.Contains(t, why, "conntrack.tcpCloseWaitTimeout")

	s.records = append(s.records, walked(9.5, 259144, map[string]uint64{"CLOSE_WAIT": 500, "TIME_WAIT": 500}))
	assert.NotContains(t, headline(s.analyze()), "CLOSE_WAIT", "half is not most")
}

// With long gaps between walks the last one while traffic is due can be of the
// very begin.
func TestCensusThatSaysMost(t *testing.T) {
	at := func(walks ...runlog.Record) float64 {
		s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
		s.records = append(s.records, walks...)
		f := s.analyze()
		require.NotNil(t, f.Nodes[0].Census)
		return f.Nodes[0].Census.AtS
	}
	few, many := map[string]uint64{"TIME_WAIT": 88}, map[string]uint64{"TIME_WAIT": 3000}
	empty := walked(-0.6, 259144, nil)
	later := walked(10.2, 0, many)
	later.Census.WithoutBallast = true
	assert.InDelta(t, 10.2, at(empty, walked(0.1, 259144, few), later, walked(11.4, 259144, many)), 0.01)
	assert.InDelta(t, 9, at(empty, walked(9, 259144, many), walked(11.4, 259144, map[string]uint64{"TIME_WAIT": 3100})), 0.01, "what clients have closed since is another picture")
	assert.InDelta(t, 9, at(empty, walked(9, 259144, few), walked(11.4, 259144, few)), 0.01)
}

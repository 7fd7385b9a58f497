package report

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// pairs are 100 attempts a second with one entry each; more says what comes besides.
func pairs(t *testing.T, more func(s *sim, i int, due float64)) *Findings {
	t.Helper()
	s := newSim(t, 262144, 262144, runlog.TrafficInfo{Name: "dns", Shape: "udp", To: "web", End: 5, Timeout: 1, EntriesPerAttempt: 1, Residence: 30, ResidueState: "UDP", ExpectsAnswer: true})
	for i, due := range dues(0, 5, 100) {
		s.enter(due)
		s.ok("dns", due)
		more(s, i, due)
	}
	f := s.analyze()
	require.NotNil(t, f.Sizing.Residual)
	return f
}

// A packet that clashes can leave a second entry, for the answer alone: half of 50
// clashes a second do here, and no walk collects them.
func TestClashesLeaveSecondEntries(t *testing.T) {
	clash := func(s *sim, i int, due float64) {
		if i%2 == 0 {
			s.bump(due, simNode, "clashres", 1)
		}
		if i%4 == 0 {
			s.enter(due)
		}
	}
	f := pairs(t, clash)
	assert.Less(t, f.Sizing.Residual.MeanShare, 0.01)
	assert.Contains(t, residualText(f.Sizing.Residual), "from what arrivals and residence and second entries after clashes (clashres) can make")
	assert.InDelta(t, 100*60+50*61, float64(*f.Sizing.UncollectedEntries), 2, "at most one for each clash, for a second, and until they are collected")
	assert.InDelta(t, 3001, float64(*f.Sizing.NeededEntries), 1)
	assert.Contains(t, joined(f.Sizing.Notes), "3050 of them are second entries of connections whose packets clashed")
	assert.Contains(t, joined(f.Sizing.Notes), "limit of 262144 is enough for")

	f = pairs(t, func(s *sim, i int, due float64) {
		if i%4 == 0 {
			s.enter(due) // and nothing says why
		}
	})
	assert.InDelta(t, 0.25, f.Sizing.Residual.MeanShare, 0.03)
	assert.Contains(t, residualText(f.Sizing.Residual), "The sizes rest on arrivals and residence: trust them to no better than that")
	assert.NotContains(t, joined(f.Sizing.Notes), "second entries")

	f = pairs(t, func(s *sim, i int, due float64) {
		clash(s, i, due)
		if i%2 == 0 {
			s.enter(due) // more than there were clashes
		}
	})
	assert.InDelta(t, 0.25/1.5, f.Sizing.Residual.MeanShare, 0.03, "clashes explain as many as there were")
}

// Connections of the node's own programs are in the table and in no size.
func TestResidualOfOthers(t *testing.T) {
	own := netip.MustParseAddrPort("127.0.0.1:10249")
	run := func(to netip.AddrPort) string {
		f := pairs(t, func(s *sim, i int, due float64) {
			if i%4 == 0 {
				s.enter(due)
			}
			if i == 0 || i == 499 {
				n := uint64(i / 4)
				s.records = append(s.records, runlog.Record{Host: simNode, T: due - 0.001, Census: &runlog.Census{Entries: n, Groups: []runlog.CensusGroup{{Proto: "tcp", State: "TIME_WAIT", Service: to, Backend: to, Count: n}}}})
			}
		})
		return residualText(f.Sizing.Residual)
	}
	assert.Contains(t, run(own), "are connections to no service of the run, such as a kube-proxy's own: a census found up to 124 entries of them more than before it")
	assert.NotContains(t, run(own), "trust them", "which the sizes have nothing to do with")
	assert.Contains(t, run(netip.MustParseAddrPort("10.96.0.10:8080")), "trust them to no better", "they are of the run")
}

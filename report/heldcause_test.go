package report

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// lose records that held connections were lost after being quiet for so long,
// and what the look-ups of the first of them found.
func (s *sim) lose(n int, at, quiet float64, looked int, found bool) {
	for i := range n {
		seq := s.seqs["lost"]
		s.seqs["lost"]++
		t := at + float64(i)/1000
		s.records = append(s.records, runlog.Record{Host: "client", T: t, Failure: &runlog.Failure{
			Traffic: "idle", Seq: seq, Due: t, Start: t, Outcome: runlog.Reset, Errno: "ECONNRESET", Phase: "held", Quiet: quiet,
		}})
		if i < looked {
			a := &runlog.Autopsy{Traffic: "idle", Seq: seq, Lag: 0.001, Found: found}
			if found {
				a.State, a.Replied, a.DNAT, a.ReplySrc = "CLOSE", true, true, podAddr(1)
			}
			s.records = append(s.records, runlog.Record{Host: simNode, T: t + 0.001, Autopsy: a})
		}
	}
}

func TestWhyHeldConnectionsWereLost(t *testing.T) {
	for name, c := range map[string]struct {
		lose    func(s *sim)
		expired uint64
		says    string
	}{
		"forgotten":         {func(s *sim) { s.lose(60, 6, 5, 20, false) }, 60, "20 of 20 that were looked up when they failed had none"},
		"reset by the pod":  {func(s *sim) { s.lose(60, 6, 5, 20, true) }, 0, "20 had an entry when they failed"},
		"some of each":      {func(s *sim) { s.lose(30, 6, 5, 20, false); s.lose(30, 7, 5, 20, true) }, 30, ""},
		"in use until then": {func(s *sim) { s.lose(60, 6, 2.9, 20, false) }, 0, "60 had been quiet for less than"},
		"not looked up":     {func(s *sim) { s.lose(60, 6, 5, 0, false) }, 0, "60 were not looked up"},
		"the timeout was other": {func(s *sim) {
			s.lose(60, 6, 5, 20, false)
			s.records = append(s.records, runlog.Record{Host: simNode, T: 1, Event: &runlog.Event{
				Kind: "sysctl", Name: "set", Fields: map[string]string{"net.netfilter.nf_conntrack_tcp_timeout_established": "100"},
			}})
		}, 0, "is not known, or was changed"},
	} {
		t.Run(name, func(t *testing.T) {
			info := runlog.TrafficInfo{Name: "idle", Shape: "idle", To: "web", End: 10, Timeout: 1, EntriesPerAttempt: 1, ExpectsAnswer: true}
			s := newSim(t, 262144, 100000, info)
			s.header.Timeouts["tcp_timeout_established"] = 3
			s.header.Expect = []string{"entry_expired > 50", "idle: entry_expired >= 0"}
			for _, due := range dues(0, 1, 100) {
				s.enter(due)
				s.ok("idle", due)
			}
			s.records = append(s.records, runlog.Record{Host: "client", T: 2, Held: &runlog.Held{Traffic: "idle", Open: 100, Validated: 100}})
			c.lose(s)
			s.records = append(s.records, runlog.Record{Host: "client", T: 9, Held: &runlog.Held{Traffic: "idle", Open: 40, Validated: 40, Lost: 60}})
			f := s.analyze()
			require.NotNil(t, f.Traffic[0].HeldLost)
			got := map[string]uint64{}
			for _, x := range f.Traffic[0].HeldCauses {
				got[x.Cause] = x.Connections
			}
			assert.Equal(t, c.expired, got["entry_expired"])
			assert.Equal(t, 60-c.expired, got["unknown"], "each lost connection is in one of them")
			assert.Contains(t, heldCausesText(&f.Traffic[0]), c.says)
			assert.Equal(t, c.expired > 50, f.Expected[0].Result == Pass, f.Expected[0].Detail)
			assert.Equal(t, Pass, f.Expected[1].Result)
			assert.Equal(t, c.expired > 30, strings.Contains(headline(f), "the node forgot them"), headline(f))
			assert.Empty(t, f.Causes, "no attempt failed")
			f.Verdict = Pass
			assert.Equal(t, c.expired >= 30, strings.Contains(advise(f).Do, "keep-alive"), advise(f).Do)
		})
	}
}

// Of traffic that is over within a second, the rate is that of its second, and
// what it was taken over is said: 200 attempts do not make 182/s for 5 s.
func TestRateOfShortTraffic(t *testing.T) {
	s := newSim(t, 262144, 100000, runlog.TrafficInfo{Name: "pool", Shape: "idle", To: "web", End: 10, Timeout: 1, EntriesPerAttempt: 1, ExpectsAnswer: true})
	for _, due := range dues(0.053, 1.053, 200) {
		s.enter(due)
		s.ok("pool", due)
	}
	f := s.analyze()
	assert.InDelta(t, 200, f.Sizing.Parts[0].ArrivalsPerS, 0.01)
	assert.Contains(t, partText(f.Sizing.Parts[0]), "pool: 200 held = 200 entries")
	assert.Contains(t, f.Predicted.Explanation, "pool 200/s x 1, held")
}

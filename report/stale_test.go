package report

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// For how long rules were out of date is known between two readings, or more
// exactly where the proxy says when it had programmed something else.
func TestHowLongRulesWereOutOfDate(t *testing.T) {
	run := func(pods string) *Findings {
		s, _ := hangRun(t)
		if pods != "" {
			s.records = append(s.records, runlog.Record{Host: simNode, T: 8.88, Event: &runlog.Event{Kind: "proxy", Name: "synced", Fields: map[string]string{"web": pods}}})
		}
		return s.analyze()
	}
	f := run("")
	stale := f.Nodes[0].Stale
	assert.Equal(t, "5.8 s to 6.0 s", stale.Longest())
	assert.InDelta(t, 6.04, stale.MaxS, 0.001)
	assert.Contains(t, advise(f).Why[0], "Out of date were at most 2 backends at once, the longest for 5.8 s to 6.0 s, until heal (restart_proxy)")
	assert.Contains(t, renderedHTML(t, f), "the longest for 5.8 s to 6.0 s, as far as readings and the proxy")

	f = run("web-3 web-4")
	assert.Equal(t, "5.8 s to 5.9 s", f.Nodes[0].Stale.Longest())
	assert.InDelta(t, 6.04, f.Nodes[0].Stale.MaxS, 0.001, "what thresholds look at is still up to the reading")
	assert.Contains(t, f.Headline, "for 5.8 s to 5.9 s of that time")
	_, detail := staleMetric("stale", f, "")
	assert.Equal(t, "at most 6.0 s on node1, up to a reading without it; by what its proxy says 5.8 s to 5.9 s", detail, "which of two measures it is, and the other, which stands elsewhere")
	_, detail = staleMetric("stale", run(""), "")
	assert.Equal(t, "at most 6.0 s on node1", detail)
	said := staleText(&f.Nodes[0])
	assert.Contains(t, said, "at most 2 stale backends at once, the longest for 5.8 s to 5.9 s: web-1 (10.244.0.2, 3.0 s to 8.9 s);")
	assert.True(t, strings.HasSuffix(said, "; a usable endpoint was missing for 5.8 s to 5.9 s"), "not the reading's bound beside the proxy's: "+said)
	assert.Contains(t, renderedHTML(t, f), "A usable endpoint was missing for 5.8 s to 5.9 s.")
	for _, pods := range []string{"web-1 web-2", "web-1", "pod-a pod-b"} {
		want := "5.8 s to 6.0 s"
		assert.Equal(t, want, run(pods).Nodes[0].Stale.Longest(), "%s: web-2 or both are still there, or these are other names", pods)
	}
}

func TestTimeBetweenBounds(t *testing.T) {
	assert.Equal(t, "6.0 s", within(5.98, 6.02))
	assert.Equal(t, "71 ms to 316 ms", within(0.0714, 0.316))
	assert.Equal(t, "at most 262 ms", within(0, 0.262))
	assert.Equal(t, "0 ms", within(0, 0))
}

// Failures that last longer than the rules were out of date are nevertheless theirs,
// where look-ups show that they were sent meanwhile.
func TestOutOfDateForAPartOfTheTime(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.read(-0.3, programmed(1, 2))
	s.act("roll", "rollout", 1, 3, 4.2, "")
	s.endpoints(3.0, "2 RS", "3 RS")
	s.read(3.2, programmed(2, 3))
	s.endpoints(4.0, "3 RS", "4 RS")
	s.read(4.2, programmed(3, 4))
	for _, due := range dues(0, 10, 100) {
		switch {
		case due >= 3.02 && due < 3.18:
			s.lookedUp("web", due, 0.9, runlog.ConnectTimeout, 1, "SYN_SENT", false)
		case due >= 4.02 && due < 4.18:
			s.lookedUp("web", due, 0.9, runlog.ConnectTimeout, 2, "SYN_SENT", false)
		default:
			s.enter(due)
			s.ok("web", due)
		}
	}
	f := s.analyze()
	require.Equal(t, map[string]uint64{"stale_backend": 32}, causesOf(f))
	assert.True(t, strings.Contains(f.Headline, ": node1 kept 2 stale backends one after another, the longest for at most 200 ms, in all for at most 350 ms of that time"), f.Headline)
	assert.Contains(t, advise(f).Do, "nodes sent to pods that were gone")
}

// Where the proxy says when a difference was over, that is the moment that is said,
// as it is of how long it lasted.
func TestTieSaysOneMoment(t *testing.T) {
	b := StaleBackend{Addr: "10.0.0.1", Pod: "web-1", What: "stale", FromS: 2, SeenS: 2, ToS: 2.07}
	assert.Equal(t, "endpoint 10.0.0.1 (web-1) no longer usable at 2.00 s, node1 first read without it at 2.07 s", b.tie("node1"))
	b.by = 2.05
	assert.Equal(t, "endpoint 10.0.0.1 (web-1) no longer usable at 2.00 s, node1's proxy said at 2.05 s that it was without it", b.tie("node1"))
	b.What = "missing"
	assert.Equal(t, "endpoint 10.0.0.1 (web-1) usable at 2.00 s, node1's proxy said at 2.05 s that it was with it", b.tie("node1"))
}

package report

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

func heldSim(t *testing.T, headroom uint64) *sim {
	t.Helper()
	s := newSim(t, 262144, headroom, runlog.TrafficInfo{Name: "idle", Shape: "idle", To: "web", End: 10, Timeout: 1, EntriesPerAttempt: 1, ExpectsAnswer: true})
	s.header.Timeouts["tcp_timeout_established"] = 3
	return s
}

func (s *sim) holds(t float64, open, lost uint64) {
	s.records = append(s.records, runlog.Record{Host: "client", T: t, Held: &runlog.Held{Traffic: "idle", Open: open, Validated: open, Lost: lost}})
}

func rendered(t *testing.T, format string, f *Findings) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, Render(format, f, &b))
	return strings.Join(strings.Fields(b.String()), " ")
}

// What fills a table for good is said first, and a census of after its closing does
// not pass for what there was.
func TestHeldConnectionsFillATable(t *testing.T) {
	s := heldSim(t, 3000)
	require.NotZero(t, s.fill("idle", 1000, 0, 4))
	s.holds(5, 3000, 0)
	s.records = append(s.records, walked(10.7, 259144, map[string]uint64{"TIME_WAIT": 3000}))
	f := s.analyze()
	assert.Contains(t, headline(f), "its table is full: 3000 entries were free when traffic began, which filled with connections that are held open; another 259144 are ballast")
	assert.Contains(t, rendered(t, "text", f), "census: at 10.7 s, after clients had closed what they held: 3000 tcp TIME_WAIT")
	assert.Contains(t, rendered(t, "html", f), "Census at 10.7 s, after clients had closed what they held")
	for _, format := range []string{"text", "markdown"} {
		assert.Contains(t, rendered(t, format, f), "at most 3000 at once, 0 lost, 3000 still held at the end", format)
	}
	for i := range s.records {
		if h := s.records[i].Held; h != nil {
			h.Open = 1400
		}
	}
	assert.NotContains(t, headline(s.analyze()), "held open", "less than half is not what fills it")
	s.records = append(s.records, walked(9, 259144, map[string]uint64{"TIME_WAIT": 3000}))
	assert.NotContains(t, rendered(t, "text", s.analyze()), "after clients had closed")
	s.header.Traffic[0].End = 8
	assert.Contains(t, rendered(t, "text", s.analyze()), "at 9.0 s, after clients had closed", "of a traffic that ends before the run does")
}

// lostSim holds 100 connections, of which 60 are lost; whether look-ups found an
// entry.
func lostSim(t *testing.T, found bool) *sim {
	s := heldSim(t, 100000)
	for _, due := range dues(0, 1, 100) {
		s.enter(due)
		s.ok("idle", due)
	}
	s.lose(60, 6, 5, 20, found)
	s.holds(9, 40, 60)
	return s
}

// An entry that conntrack has forgotten is none that is held, whatever clients know.
func TestForgottenIsNotHeld(t *testing.T) {
	run := func(state string, at float64, found bool) string {
		s := lostSim(t, found)
		s.records = append(s.records, runlog.Record{Host: simNode, T: at, Census: &runlog.Census{Entries: 29, Groups: []runlog.CensusGroup{{Proto: "tcp", State: state, Service: s.header.Services[0].Addr, Count: 29}}}})
		f := s.analyze()
		if strings.Contains(f.Traffic[0].heldText(), "clients know") {
			assert.Contains(t, partText(f.Sizing.Parts[0]), "as if the node forgot none of them")
			for _, format := range []string{"text", "markdown", "html"} {
				assert.Contains(t, rendered(t, format, f), "had an entry of 29", format)
			}
		}
		return f.Traffic[0].heldText()
	}
	assert.Equal(t, "at most 40 at once, 60 lost, 40 still held at the end, as far as clients know: at 9.5 s the node had an entry of 29, and had forgotten the others, which shows when something is sent over them", run("ESTABLISHED", 9.5, false))
	assert.NotContains(t, run("ESTABLISHED", 9.5, true), "clients know", "they were reset, and not forgotten")
	assert.NotContains(t, run("TIME_WAIT", 10.5, false), "clients know", "clients had closed them by then")
}

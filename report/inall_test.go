package report

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tablefull/tablefull/report/runlog"
)

// A limit that would have held a run is said of runs that a limit would have
// held.
func TestWhatALimitWouldHaveHeld(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.fill("web", 700, 0, 10)
	assert.Contains(t, s.analyze().Sizing.runText(), "would have held it: ")

	s = newSim(t, 262144, 100000, finTraffic("web", 0, 10))
	s.fill("web", 700, 0, 10)
	assert.Contains(t, s.analyze().Sizing.runText(), "would have held it as well: ")

	s = newSim(t, 262144, 100000, finTraffic("web", 0, 10))
	for i, due := range dues(0, 10, 100) {
		s.enter(due)
		if i%2 == 0 {
			s.fail("web", due, runlog.Refused, 0)
			continue
		}
		s.ok("web", due)
	}
	f := s.analyze()
	assert.NotNil(t, f.Sizing.RunNeeded)
	assert.Empty(t, f.Sizing.runText(), "the table is not the cause")
	assert.False(t, strings.Contains(renderedHTML(t, f), "would have held"))
}

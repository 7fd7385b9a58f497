package report

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tablefull/tablefull/report/runlog"
)

// A pod that terminates for a few milliseconds of a bin is what those follow that
// were sent in these, and not a share of all that failed in the bin.
func TestTerminatingForAMoment(t *testing.T) {
	traffic := runlog.TrafficInfo{Name: "dns", Shape: "udp", To: "web", End: 10, Timeout: 0.9, ExpectsAnswer: true}
	for _, c := range []struct {
		name     string
		gone     float64 // when its endpoint was
		draining uint64
	}{
		{"one was looked up", 3.0052, 1},
		{"half of the bin", 3.05, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSim(t, 262144, 200000, traffic)
			s.endpoints(-0.4, "1 RS")
			s.act("to-zero", "scale", 1, 3, 3.01, "")
			s.endpoints(3.0017, "1 T")
			s.endpoints(c.gone)
			var failed uint64
			for i, due := range dues(0, 10, 200) {
				switch {
				case due < 3.0045 || due > 7:
					s.ok("dns", due)
					continue
				case i < 605 || i%20 == 15:
					s.lookedUp("dns", due, 0.9, runlog.ResponseTimeout, 1, "", true)
				default:
					s.fail("dns", due, runlog.ResponseTimeout, 1)
				}
				failed++
			}
			got := causesOf(s.analyze())
			assert.InDelta(t, c.draining, got[drainingBackend], 1)
			if c.draining == 1 {
				assert.EqualValues(t, 1, got[drainingBackend])
			}
			assert.Equal(t, failed, got[drainingBackend]+got[staleBackend])
		})
	}
}

// A datagram's entry that leads to a pod which no rule led to yet, when it was sent,
// was made by a later one.
func TestEntryThatALaterDatagramMade(t *testing.T) {
	traffic := runlog.TrafficInfo{Name: "dns", Shape: "udp", To: "web", End: 10, Timeout: 0.9, ExpectsAnswer: true}
	s := newSim(t, 262144, 200000, traffic)
	s.endpoints(-0.4, "1 RS")
	s.plane(-0.3, programmed(1))
	s.act("to-zero", "scale", 1, 3, 3.01, "")
	s.endpoints(3)
	s.plane(3.1, programmed())
	s.endpoints(6.003, "2 RS")
	s.plane(6.07, programmed(2))
	var failed uint64
	for i, due := range dues(0, 10, 100) {
		switch {
		case due < 3 || due > 6.045:
			s.ok("dns", due)
			continue
		case due < 5.9 && i%10 == 0:
			s.lookedUp("dns", due, 0.9, runlog.ResponseTimeout, 1, "", true)
		case i == 602:
			s.lookedUp("dns", due, 0.9, runlog.ResponseTimeout, 2, "", true)
		default:
			s.fail("dns", due, runlog.ResponseTimeout, 1)
		}
		failed++
	}
	assert.Equal(t, map[string]uint64{staleBackend: failed}, causesOf(s.analyze()))
}

// Look-ups that explain others say nothing of those that have no cause.
func TestLookUpsOfTheUnexplained(t *testing.T) {
	x := newTally(tallyKey{cause: unknownCause})
	x.looked[noEntry], x.looked[staleDNAT], x.looked[goneDNAT] = 20, 14, 7
	assert.Equal(t, "20 of 20 autopsies found no entry", autopsyText(x))
	x.looked[noEntry] = 0
	assert.Empty(t, autopsyText(x))
	assert.EqualValues(t, 14, x.looked[staleDNAT])
}

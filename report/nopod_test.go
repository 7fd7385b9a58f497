package report

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// Where a service had no pod at all, no entry that is deleted helps: there is
// nobody to lead to.
func TestOldEntriesOfAServiceWithoutPods(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.endpoints(-0.4, "1 RS")
	s.plane(-0.3, programmed(1))
	s.act("to-zero", "scale", 1, 3, 3.01, "")
	s.endpoints(3)
	s.plane(3.1, programmed())
	s.act("back", "scale", 1, 7, 7.01, "")
	s.endpoints(7, "3 RS")
	s.plane(7.1, programmed(3))
	var failed uint64
	for i, due := range dues(0, 10, 100) {
		switch pod := 1; {
		case due < 3 || due >= 7:
			s.enter(due)
			s.ok("web", due)
		case i%10 == 0:
			failed++
			if due > 6.15 {
				pod = 3 // the proxy has deleted the old entry, and a later packet made one
			}
			s.lookedUp("web", due, 0.9, runlog.ResponseTimeout, pod, "ESTABLISHED", true)
		default:
			failed++
			s.fail("web", due, runlog.ResponseTimeout, 1)
		}
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"stale_backend": failed}, causesOf(f))
	require.Len(t, f.noPod, 1)
	assert.Equal(t, noPodTime{"web", 3, 7}, f.noPod[0])
	assert.Contains(t, f.Headline, ": web had no usable pod for 4.0 s of that time")
	a := advise(f)
	assert.Contains(t, a.Do, "web had no usable pod. Keep one usable")
	assert.Contains(t, a.Why[0], "none for 4.0 s, from 3.0 s to 7.0 s")
	assert.Contains(t, f.Causes[0].Evidence, "of those looked up, 32 attempts had an entry to an address that was no usable pod of the service when they were sent; 31 of them")
	assert.Contains(t, f.Causes[0].Evidence, "from before; the other one was sent when no reading tells where rules led; 8 more were looked up too late to tell")
	for i := range f.Spikes {
		if s := &f.Spikes[i]; len(s.emptied) > 0 {
			s.emptied[0] = float64(s.Failures)/2 - 1 // most were due when the service had a pod
		}
	}
	assert.Contains(t, advise(f).Do, "entries outlived the pods")
}

// One pod is not enough while another takes its place: that is so of most attempts
// that failed, also where one of an old entry makes the time of failures longer.
func TestWithoutAPodForMostOfTheFailures(t *testing.T) {
	run := func(back float64) *Findings {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
		s.endpoints(-0.4, "1 RS")
		s.plane(-0.3, programmed(1))
		s.act("delete", "delete_pod", 1, 3, 3.01, "")
		s.endpoints(3)
		s.endpoints(back, "2 RS")
		s.plane(4.1, programmed(2))
		for _, due := range dues(0, 10, 100) {
			if due >= 3 && due < 4 || due > 4.895 && due < 4.905 {
				s.lookedUp("web", due, 0.001, runlog.Refused, 1, "SYN_SENT", false)
				continue
			}
			s.enter(due)
			s.ok("web", due)
		}
		return s.analyze()
	}
	f := run(3.8)
	require.NotNil(t, worstSpike(f))
	assert.Contains(t, advise(f).Do, "web had no usable pod. Keep one usable", "80 of 101, in 0.8 s of 1.9 s")
	assert.Contains(t, advise(run(3.3)).Do, "nodes sent to pods that were gone", "30 of 101")
}

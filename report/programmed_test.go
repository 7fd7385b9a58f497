package report

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// read is a reading of the rules, 0.2 s after the one before it.
func (s *sim) read(t float64, services ...runlog.ProgrammedService) {
	s.plane(t, services...)
	s.records[len(s.records)-1].Dataplane.Since = 0.2
}

// lagging is a run in which web-1's endpoint goes at 3 s, and every second
// attempt is refused from then on until 4.1 s, when the node's rules are first
// read without it.
func lagging(t *testing.T, rules func(s *sim), more func(s *sim)) *Findings {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.endpoints(3.0, "2 RS")
	s.act("one", "delete_pod", 1, 2.95, 3.5, "")
	rules(s)
	s.without(0.001, runlog.Refused, func(i int, due float64) bool { return due >= 3 && due < 4.1 && i%2 == 0 })
	if more != nil {
		more(s)
	}
	return s.analyze()
}

// without sends 100 attempts/s for 10 s, of which those that are lost end so after
// that time, s, and a look-up finds no entry.
func (s *sim) without(after float64, outcome runlog.Outcome, lost func(i int, due float64) bool) {
	for i, due := range dues(0, 10, 100) {
		if lost(i, due) {
			s.lookedUp("web", due, after, outcome, 0, "", false)
			continue
		}
		s.enter(due)
		s.ok("web", due)
	}
}

func TestRefusedWhereRulesAreBehind(t *testing.T) {
	late := func(s *sim) {
		s.read(-0.3, programmed(1, 2))
		s.read(4.1, programmed(2))
	}
	t.Run("still programmed", func(t *testing.T) {
		f := lagging(t, late, nil)
		// 3.9 s is the last reading that shows it: what was sent after that is not
		// proved.
		assert.Equal(t, map[string]uint64{"stale_backend": 45, "unknown": 10}, causesOf(f))
		assert.Contains(t, f.Causes[0].Evidence, "readings before and after show rules that led to what was no usable pod: 10.244.0.2 of web on node1")
		require.Len(t, f.Spikes, 1)
		assert.Equal(t, []string{"endpoint 10.244.0.2 (web-1) no longer usable at 3.00 s, node1 still programmed it at 3.90 s"}, f.Spikes[0].Ties)
	})
	t.Run("rules in time", func(t *testing.T) {
		f := lagging(t, func(s *sim) {
			s.read(-0.3, programmed(1, 2))
			s.read(3.0, programmed(2))
			s.read(4.1, programmed(2))
		}, nil)
		assert.Equal(t, map[string]uint64{"unknown": 55}, causesOf(f))
	})
	t.Run("not read meanwhile", func(t *testing.T) {
		f := lagging(t, func(s *sim) {
			s.read(-0.3, programmed(1, 2))
			s.planeFailed(3.5)
			s.read(4.1, programmed(2))
		}, nil)
		assert.Greater(t, causesOf(f)["unknown"], uint64(27), "nothing is known from 3.5 s on")
	})
	t.Run("refused by a usable pod", func(t *testing.T) {
		f := lagging(t, late, func(s *sim) {
			for _, due := range dues(3, 4.1, 50) {
				s.bump(due+0.0005, "web-2", "Tcp.OutRsts", 1)
			}
		})
		assert.Equal(t, map[string]uint64{"backend_refused": 55}, causesOf(f))
	})
	t.Run("usable pod of which nothing is known", func(t *testing.T) {
		f := lagging(t, late, func(s *sim) { s.hosts = []string{"web-1"} })
		assert.Equal(t, map[string]uint64{"unknown": 55}, causesOf(f))
	})
}

// refusing is 100 attempts/s, of which every second one is refused from 3.2 s to 3.7 s.
func refusing(s *sim) {
	for i, due := range dues(0, 10, 100) {
		if due >= 3.2 && due < 3.7 && i%2 == 0 {
			s.lookedUp("web", due, 0.001, runlog.Refused, 0, "", false)
			continue
		}
		s.enter(due)
		s.ok("web", due)
	}
}

func TestRefusedByPodsThatTerminateAndAreNotCounted(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.hosts = []string{"web-2"}
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.endpoints(3.0, "1 ST", "2 RS")
	s.endpoints(8.0, "2 RS")
	s.read(-0.3, programmed(1, 2))
	s.read(4.2, programmed(2))
	refusing(s)
	assert.Equal(t, map[string]uint64{"draining_backend": 25}, causesOf(s.analyze()))
}

// The host of a pod that is used again keeps its name: what its counter says is of
// the pod that it had then.
func TestCounterOfAHostsSecondPod(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.hosts = []string{"web-1", "web-2"}
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.endpoints(2.0, "2 RS")
	s.endpoints(3.0, "1.2 RS", "2 RS")
	s.endpoints(5.0, "1.2 ST", "2 RS")
	s.endpoints(8.0, "2 RS")
	for i, due := range dues(0, 10, 100) {
		if due >= 5.5 && due < 6 && i%4 == 0 {
			s.bump(due+0.0005, "web-1", "Tcp.OutRsts", 1)
			s.lookedUp("web", due, 0.001, runlog.Refused, 0, "", false)
			continue
		}
		s.enter(due)
		s.ok("web", due)
	}
	f := s.analyze()
	require.Equal(t, "draining_backend", f.Causes[0].Cause)
	assert.Contains(t, f.Causes[0].Evidence, " on web-1.2 between ")
	assert.Equal(t, []string{"web-1"}, f.Causes[0].Proof.Hosts)
}

// A pod is told to end before its endpoint says so, and can refuse from then on.
func TestRefusedByAPodThatWasToldToEnd(t *testing.T) {
	for told, want := range map[float64]map[string]uint64{3.1: {"draining_backend": 25}, 3.45: {"draining_backend": 10, "unknown": 15}, 9: {"unknown": 25}} {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
		s.hosts = []string{"web-2"}
		s.endpoints(-0.4, "1 RS", "2 RS")
		s.endpoints(3.8, "2 RS")
		s.records = append(s.records, runlog.Record{Host: "web-1", T: told, Event: &runlog.Event{Kind: "pod", Name: "web-1", Detail: "sigterm"}})
		s.read(-0.3, programmed(1, 2))
		s.read(4.2, programmed(2))
		refusing(s)
		f := s.analyze()
		assert.Equal(t, want, causesOf(f), "told at %g s", told)
		if told < 3.2 {
			assert.Contains(t, f.Causes[0].Evidence, "10.244.0.2 of web on node1 (told to end by then, though the endpoints did not say so yet)")
		}
	}
}

func TestRefusedBeforeThereAreRules(t *testing.T) {
	run := func(first ...int) *Findings {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
		s.endpoints(-0.4)
		s.endpoints(3.02, "1 RS")
		s.read(-0.3, programmed(first...))
		s.read(4.2, programmed(1))
		for _, due := range dues(0, 10, 100) {
			if due < 3.8 {
				s.lookedUp("web", due, 0.001, runlog.Refused, 0, "", false)
				continue
			}
			s.enter(due)
			s.ok("web", due)
		}
		return s.analyze()
	}
	f := run()
	assert.Equal(t, map[string]uint64{"no_endpoint": 300, "not_programmed": 70, "unknown": 10}, causesOf(f), "in the bin of the change it was neither all the time")
	assert.Contains(t, f.Causes[1].Evidence, "readings before and after show no rule to any pod, although there were usable ones: 10.244.0.2 of web on node1")
	require.Len(t, f.Nodes[0].Stale.Backends, 1)
	assert.Equal(t, "endpoint 10.244.0.2 (web-1) usable at 3.02 s, node1 had not programmed it at 4.00 s", f.Nodes[0].Stale.Backends[0].tie("node1"))
	assert.Equal(t, map[string]uint64{"no_endpoint": 300, "unknown": 80}, causesOf(run(1)), "there was a rule")
}

// A node refuses so many times a second and no more, and is silent after that. What
// a SYN met that was sent once more is asked as well.
func TestSilenceBeforeThereAreRules(t *testing.T) {
	run := func(timeout float64, more func(s *sim)) *Findings {
		x := finTraffic("web", 0, 10)
		x.Timeout = timeout
		s := newSim(t, 262144, 200000, x)
		s.endpoints(-0.4, "1 RS")
		s.endpoints(1.0)
		s.endpoints(3.02, "1 RS")
		s.read(-0.3, programmed(1))
		s.read(1.2, programmed())
		s.read(4.2, programmed(1))
		s.without(timeout, runlog.ConnectTimeout, func(_ int, due float64) bool { return due >= 3.1 && due < 3.8 })
		if more != nil {
			more(s)
		}
		return s.analyze()
	}
	f := run(0.9, nil)
	assert.Equal(t, map[string]uint64{"not_programmed": 70}, causesOf(f))
	assert.Contains(t, f.Causes[0].Evidence, "readings before and after show no rule to any pod, although there were usable ones: 10.244.0.2 of web on node1; 70 of 70 autopsies found no entry")
	assert.Equal(t, map[string]uint64{"unknown": 70}, causesOf(run(1.9, nil)), "the second SYN of each met rules, and would have been answered")
	assert.Equal(t, map[string]uint64{"unknown": 70}, causesOf(run(0.9, func(s *sim) { s.planeFailed(3.05) })), "nothing is known")
	f = run(0.9, func(s *sim) {
		s.bump(3.0, simNode, "entries", int64(s.limit)-s.entries)
		s.bump(3.9, simNode, "entries", s.entries-int64(s.limit))
		for _, due := range dues(3.1, 3.8, 50) {
			s.bump(due+0.0005, simNode, "drop", 1)
		}
	})
	assert.Equal(t, uint64(35), causesOf(f)["table_full"], "%v", causesOf(f))
}

func TestConditionsOfNodes(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 5))
	for _, x := range []struct {
		t    float64
		what string
	}{{-1, "MemoryPressure"}, {2.25, "cordoned"}, {3.5, "not ready"}} {
		s.records = append(s.records, runlog.Record{Host: "controller", T: x.t, Event: &runlog.Event{Kind: "node", Name: simNode, Detail: x.what}})
	}
	s.fill("web", 100, 0, 5)
	f := s.analyze()
	assert.Equal(t, []Condition{{-1, "MemoryPressure"}, {2.25, "cordoned"}, {3.5, "not ready"}}, f.Nodes[0].Conditions)
	assert.Equal(t, "node1: MemoryPressure from the beginning, cordoned at 2.25 s, not ready at 3.50 s", conditionText(&f.Nodes[0]))
}

// What the cause of refusals predicts is that there is no entry; an unknown one
// predicts nothing.
func TestAutopsiesAgreeWithRefusals(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.endpoints(-0.4)
	s.endpoints(3.02, "1 RS")
	s.read(-0.3, programmed())
	s.read(4.2, programmed(1))
	for _, due := range dues(0, 10, 100) {
		if due < 3.8 {
			s.lookedUp("web", due, 0.001, runlog.Refused, 0, "", false)
			continue
		}
		s.enter(due)
		s.ok("web", due)
	}
	f := s.analyze()
	page := renderedHTML(t, f)
	for _, c := range f.Causes {
		switch c.Cause {
		case unknownCause:
			assert.Zero(t, c.Proof.AutopsiesAgree)
			assert.NotContains(t, page, "0 of "+grouped(c.Proof.Autopsies)+"</td>")
		default:
			assert.Equal(t, c.Proof.Autopsies, c.Proof.AutopsiesAgree, c.Cause)
		}
	}
	assert.Len(t, f.Causes, 3)
}

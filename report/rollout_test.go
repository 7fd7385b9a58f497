package report

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

func TestStaleRules(t *testing.T) {
	s, failed := hangRun(t)
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"stale_backend": failed}, causesOf(f))
	stale := f.Nodes[0].Stale
	require.NotNil(t, stale)
	assert.InDelta(t, 6.04, stale.MaxS, 0.001)
	assert.EqualValues(t, 2, stale.MaxBackends)
	assert.Equal(t, []string{"web-1", "web-2"}, []string{stale.Backends[0].Pod, stale.Backends[1].Pod})
	require.Len(t, f.Spikes, 3)
	assert.Nil(t, f.Spikes[0].StartS)
	assert.Equal(t, failed, f.Spikes[1].Failures)
	assert.InDelta(t, 3.0, *f.Spikes[1].StartS, 1e-9)
	assert.InDelta(t, 9.0, *f.Spikes[1].EndS, 1e-9)
	assert.Nil(t, f.Spikes[2].StartS)
	require.NotNil(t, f.Spikes[2].StoppedS)
	assert.InDelta(t, 9.0, *f.Spikes[2].StoppedS, 1e-9)
	require.NotNil(t, f.Reproduced)
	assert.True(t, *f.Reproduced)
	assert.Contains(t, f.Headline, "node1 kept up to 2 stale backends, for 5.8 s to 6.0 s of that time")
	out := strings.Join(strings.Fields(render(t, "text", f)), " ")
	assert.Contains(t, out, "it went on until heal began")
	assert.Contains(t, out, "before it 200/s of those due failed, and none of those due from 9.0 s")
}

// What an address was is known only when all changes of endpoints have been
// read, which another host wrote.
func TestEndpointsThatStandLaterInTheLog(t *testing.T) {
	s, _ := hangRun(t)
	log := s.log()
	want, err := Analyze(bytes.NewReader(log))
	require.NoError(t, err)
	var first, controller, trailer []byte
	for line := range bytes.Lines(log) {
		switch {
		case bytes.Contains(line, []byte(`"trailer"`)):
			trailer = line
		case bytes.Contains(line, []byte(`"host":"controller"`)) && !bytes.Contains(line, []byte(`"header"`)):
			controller = append(controller, line...)
		default:
			first = append(first, line...)
		}
	}
	got, err := Analyze(bytes.NewReader(append(append(first, controller...), trailer...)))
	require.NoError(t, err)
	assert.Equal(t, want.Causes, got.Causes)
	assert.Equal(t, want.Nodes[0].Stale, got.Nodes[0].Stale)
}

func TestRolloutsThatLoseNothing(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 9))
	s.header.Duration = 9
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.plane(-0.3, programmed(1, 2))
	for i := range 3 {
		at := 1.5 + 2*float64(i)
		s.act("roll", "rollout", i+1, at, at+1, "")
		s.endpoints(at+0.1, "1 ST", "2 RS", "3 RS")
		s.plane(at+0.15, programmed(2, 3))
		s.endpoints(at+0.9, "1 RS", "2 RS")
		s.plane(at+0.95, programmed(1, 2))
	}
	s.fill("web", 200, 0, 9)
	f := s.analyze()
	assert.Equal(t, Pass, f.Verdict)
	assert.Contains(t, f.Headline, "no attempt failed, whatever was done to it (3 x rollout)")
	for _, x := range f.Spikes {
		assert.Zero(t, x.Failures)
		assert.Nil(t, x.StartS)
		require.NotNil(t, x.WatchedToS)
	}
	assert.InDelta(t, 3.5, *f.Spikes[0].WatchedToS, 1e-9, "to the next action")
	assert.InDelta(t, 0.05, f.Nodes[0].Stale.MaxS, 0.001)
}

func TestSentToPodsThatTerminate(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.endpoints(3.0, "1 ST", "2 RS", "3 RS")
	s.endpoints(6.0, "2 RS", "3 RS")
	s.act("roll", "rollout", 1, 2.95, 6.1, "")
	var refused, silent uint64
	for i, due := range dues(0, 10, 100) {
		switch {
		case due >= 3 && due < 5 && i%4 == 0:
			// Its server listens no more, and its kernel says so.
			s.bump(due+0.0005, "web-1", "Tcp.OutRsts", 1)
			s.lookedUp("web", due, 0.001, runlog.Refused, 0, "", false)
			refused++
		case due >= 5 && due < 5.9 && i%4 == 0:
			s.lookedUp("web", due, 0.9, runlog.ConnectTimeout, 1, "SYN_SENT", false)
			silent++
		default:
			s.enter(due)
			s.ok("web", due)
		}
	}
	// Resets of a pod that is well explain what was refused before.
	s.bump(1.5, "web-2", "Tcp.OutRsts", 1)
	s.lookedUp("web", 1.5, 0.001, runlog.Refused, 0, "", false)
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"draining_backend": refused + silent, "backend_refused": 1}, causesOf(f))
	assert.Contains(t, f.Headline, "they were sent to pods that were terminating")
}

// Attempts that were under way when their pod was killed were due before.
func TestPodEndsUnderAttempts(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.act("kill", "delete_pod", 1, 3.0, 3.02, "")
	s.endpoints(3.01, "2 RS")
	var gone, late uint64
	for i, due := range dues(0, 10, 100) {
		switch {
		case due > 2.595 && due < 3.005 && i%2 == 0: // its answers take 0.4 s
			s.lookedUp("web", due, 0.9, runlog.ResponseTimeout, 1, "ESTABLISHED", true)
			gone++
		case due > 2.195 && due < 2.3 && i%2 == 0: // SYNs that were lost long before
			s.lookedUp("web", due, 0.9, runlog.ConnectTimeout, 1, "SYN_SENT", false)
			late++
		default:
			s.enter(due)
			s.ok("web", due)
		}
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"backend_gone": gone, "unknown": late}, causesOf(f))
	require.Len(t, f.Spikes, 1)
	assert.Zero(t, f.Spikes[0].Before, "what was in flight did not fail anyway")
	assert.Equal(t, gone, f.Spikes[0].Failures, "what had no answer to its SYN was lost before")
	assert.True(t, f.Spikes[0].Recovered)
	assert.Contains(t, f.Headline, "when kill (delete_pod) began")
}

func TestNoEndpointForAWhile(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.endpoints(3.0)
	s.endpoints(5.0, "1.2 RS")
	s.act("none", "scale", 1, 2.99, 3.1, "")
	s.act("back", "scale", 1, 4.99, 5.1, "")
	var failed uint64
	for i, due := range dues(0, 10, 100) {
		switch {
		case due >= 3 && due < 5 && i%5 == 0:
			s.lookedUp("web", due, 0.001, runlog.Refused, 0, "", false)
			failed++
		case due >= 3 && due < 5:
			s.fail("web", due, runlog.Refused, 0)
			failed++
		default:
			s.enter(due)
			s.ok("web", due)
		}
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"no_endpoint": failed}, causesOf(f))
	assert.Contains(t, f.Headline, "their service had no usable endpoint")
	for _, c := range f.Causes {
		assert.NotZero(t, c.Failures)
	}
}

// Attempts whose first packet met no rule: each is followed to its end by its
// entry, whether that is silence or a rule that rejects.
func TestBegunBeforeTheRules(t *testing.T) {
	for _, o := range []runlog.Outcome{runlog.ConnectTimeout, runlog.Refused} {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
		s.endpoints(-0.4, "1 RS", "2 RS")
		s.act("late", "restart_proxy", 1, 3, 5, "")
		var failed uint64
		for i, due := range dues(0, 10, 100) {
			switch {
			case due < 3 || due >= 5:
				s.enter(due)
				s.ok("web", due)
				continue
			case i%5 == 0:
				s.lookedUp("web", due, 0.9, o, 1, "SYN_SENT", false)
				a := s.records[len(s.records)-1].Autopsy
				a.DNAT, a.ReplySrc = false, a.Tuple.Dst
			default:
				s.fail("web", due, o, 1)
			}
			failed++
		}
		f := s.analyze()
		assert.Equal(t, map[string]uint64{"untranslated": failed}, causesOf(f), o)
		assert.Contains(t, f.Headline, "untranslated: their first packet met no rule for the service")
		f.Verdict = Fail
		assert.Contains(t, advise(f).Do, "before the node's proxy has programmed the service")

		s.endpoints(2.99) // now they had nowhere to go anyway
		assert.Equal(t, map[string]uint64{"no_endpoint": failed}, causesOf(s.analyze()), o)
	}
}

// A socket that goes on sending keeps its entry, whatever the rules say.
func TestOldEntriesOfUDP(t *testing.T) {
	traffic := runlog.TrafficInfo{Name: "dns", Shape: "udp", To: "web", End: 10, Timeout: 0.9, ExpectsAnswer: true}
	s := newSim(t, 262144, 200000, traffic)
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.plane(-0.3, programmed(1, 2))
	s.act("delete", "delete_pod", 1, 3.0, 3.01, "")
	s.endpoints(3.001, "1 ST", "2 RS", "3 RS")
	s.endpoints(3.004, "2 RS", "3 RS")
	s.plane(3.03, programmed(2, 3))
	var failed uint64
	for i, due := range dues(0, 10, 200) {
		switch {
		case due < 3.0045 || i%2 == 0:
			s.ok("dns", due)
		case failed%8 == 0:
			failed++
			s.lookedUp("dns", due, 0.9, runlog.ResponseTimeout, 1, "", true)
		default:
			failed++
			s.fail("dns", due, runlog.ResponseTimeout, 1)
		}
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"stale_backend": failed}, causesOf(f), "none of them is put down to the 3 ms of its termination")
	assert.Equal(t, failed, f.Spikes[0].Failures)
	assert.False(t, f.Spikes[0].Recovered)
	assert.Contains(t, f.Headline, ": entries from before still led them to pods that were gone; the rules of node1 did for at most 25 ms of that time")
}

// A later pod of the same address is as good as any, once it is ready.
func TestAddressUsedAgain(t *testing.T) {
	l := newLog()
	log := &endpointLog{}
	l.cluster.services = map[string]*endpointLog{"web": log}
	put := func(at float64, pods ...string) {
		r := &runlog.Endpoints{Service: "web"}
		for _, p := range pods {
			r.Endpoints = append(r.Endpoints, endpoint(p))
		}
		l.addEndpoints(at, r)
	}
	put(0, "1 RS", "2 RS")
	put(1, "1 ST", "2 RS")
	put(2, "2 RS")
	put(3, "1.2", "2 RS") // not ready yet
	put(4, "1.2 RS", "2 RS")
	put(5, "1.2 ST", "2 ST") // the last ones are used while they serve
	put(6, "1.2 T", "2 ST")
	var got []role
	for at := range 7 {
		got = append(got, l.roleOf("web", "", podAddr(1).Addr(), float64(at)))
	}
	assert.Equal(t, []role{usable, draining, noPod, noPod, usable, usable, draining}, got)
	assert.Equal(t, "web-1.2", log.nameOf(podAddr(1).Addr(), 4))
	assert.Equal(t, "web-1", log.nameOf(podAddr(1).Addr(), 2.5))
}

// With externalTrafficPolicy Local another node's pod is none, except to a node
// without any: in mode ipvs that sends to the others'.
func TestPodsOfOtherNodes(t *testing.T) {
	l := newLog()
	l.cluster.services = map[string]*endpointLog{"web": {}}
	r := &runlog.Endpoints{Service: "web", Endpoints: []runlog.EndpointState{endpoint("1 RS"), endpoint("2 RS"), endpoint("3 T")}}
	for i, node := range []string{"node1", "node2", "node3"} {
		r.Endpoints[i].Node = node
	}
	l.addEndpoints(0, r)
	roles := func(node string) (out []role) {
		for pod := 1; pod <= 3; pod++ {
			out = append(out, l.roleOf("web", node, podAddr(pod).Addr(), 1))
		}
		return out
	}
	assert.Equal(t, []role{usable, noPod, draining}, roles("node1"))
	assert.Equal(t, []role{usable, usable, draining}, roles("node3"))
}

func TestDataplaneThatCannotBeRead(t *testing.T) {
	run := func(spec string) *Findings {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 30))
		s.header.Duration, s.header.Thresholds = 30, []string{spec}
		s.endpoints(-0.4, "1 RS", "2 RS")
		s.plane(-0.3, programmed(1, 2))
		s.endpoints(3, "2 RS", "3 RS")
		s.planeFailed(4) // stale for 1 s, and who knows for how long
		s.plane(9, programmed(2, 3))
		s.repeat(19, 31, programmed(2, 3))
		s.fill("web", 50, 0, 30)
		return s.analyze()
	}
	f := run("stale < 3s")
	stale := f.Nodes[0].Stale
	require.NotNil(t, stale)
	assert.InDelta(t, 1, stale.MaxS, 1e-9)
	assert.InDelta(t, 5, stale.UnreadS, 1e-9)
	assert.False(t, stale.Backends[0].Ended)
	assert.Equal(t, Inconclusive, f.Thresholds[0].Result, f.Thresholds[0].Detail)
	assert.Contains(t, strings.Join(f.Doubts, "\n"), "node1's dataplane was not read for 5.0 s")
	assert.Equal(t, Fail, run("stale < 500ms").Thresholds[0].Result)

	ended := newSim(t, 262144, 200000, finTraffic("web", 0, 30))
	ended.endpoints(-0.4, "1 RS")
	ended.plane(-0.3, programmed(1)) // and no more, though it is read again every 10 s
	ended.endpoints(20, "2 RS")
	ended.fill("web", 50, 0, 30)
	stale = ended.analyze().Nodes[0].Stale
	assert.InDelta(t, 30.9-14.7, stale.UnreadS, 0.2)
	assert.Zero(t, stale.MaxS)

	// A cluster is put back after the last attempt, for as long as it takes: what is
	// not read then is of no attempt.
	long := newSim(t, 262144, 200000, finTraffic("web", 0, 30))
	long.endpoints(-0.4, "1 RS")
	long.plane(-0.3, programmed(1))
	long.repeat(9.7, 20, programmed(1))
	long.fill("web", 50, 0, 30)
	long.records = append(long.records,
		runlog.Record{Host: "controller", T: 31, Event: &runlog.Event{Kind: "phase", Name: "drain"}},
		runlog.Record{Host: "controller", T: 60, Event: &runlog.Event{Kind: "pod", Name: "deleted"}})
	assert.Zero(t, long.analyze().Nodes[0].Stale.UnreadS)
	long.records = slices.DeleteFunc(long.records, func(r runlog.Record) bool { return r.Dataplane != nil && r.T > 9 })
	assert.InDelta(t, 31-14.7, long.analyze().Nodes[0].Stale.UnreadS, 1e-9)

	never := newSim(t, 262144, 200000, finTraffic("web", 0, 5))
	never.endpoints(-0.4, "1 RS")
	never.planeFailed(-0.3)
	never.fill("web", 50, 0, 5)
	f = never.analyze()
	assert.Nil(t, f.Nodes[0].Stale)
	assert.Contains(t, strings.Join(f.NotMeasured, "\n"), "no such table")
}

// Readings that show no backend at all, while attempts reach some, are of a
// reader that does not understand what is programmed: they are no finding.
func TestDataplaneThatIsNotUnderstood(t *testing.T) {
	run := func(outcome func(*sim)) *Findings {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 5))
		s.header.Duration, s.header.Thresholds = 5, []string{"stale < 1s"}
		s.endpoints(-0.4, "1 RS", "2 RS")
		s.repeat(-0.3, 6, programmed())
		outcome(s)
		return s.analyze()
	}
	f := run(func(s *sim) { s.fill("web", 50, 0, 5) })
	assert.Nil(t, f.Nodes[0].Stale)
	assert.Contains(t, strings.Join(f.NotMeasured, "\n"), "node1's dataplane: no reading showed a single backend")
	assert.Equal(t, Inconclusive, f.Thresholds[0].Result, "that nothing is stale passes on no such reading")

	f = run(func(*sim) {})
	require.NotNil(t, f.Nodes[0].Stale, "where nobody came through, nothing may well have been programmed")
	assert.Greater(t, f.Nodes[0].Stale.MaxMissingS, 4.0)
}

func TestServiceOfSeveralPortsAndWeightZero(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 8))
	s.endpoints(-0.4, "1 RS", "2 RS")
	second := programmed(1, 2)
	second.Addr = netip.MustParseAddrPort("10.96.0.10:8081")
	s.plane(-0.3, programmed(1, 2), second)
	s.endpoints(3, "2 RS")
	quiet := programmed(1, 2)
	quiet.Backends[0].Weight = 0
	other := quiet
	other.Addr = second.Addr
	s.plane(4, quiet, other)
	s.plane(7, programmed(2), second)
	s.fill("web", 50, 0, 8)
	stale := s.analyze().Nodes[0].Stale
	assert.EqualValues(t, 1, stale.MaxBackends, "one pod, however many ports lead there")
	assert.InDelta(t, 3, stale.MaxDrainingS, 1e-9)
	assert.Zero(t, stale.MaxMissingS)
	assert.InDelta(t, 1.9, stale.MaxS, 0.2, "from 3 to 4 s, and what one port still has from 7 s on")
}

// Two pods take in 100/s each. From 4.2 s one of them terminates, and a third
// is there; the node gives the old one a quarter of what comes until 7.2 s.
func TestDrainingShare(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 12))
	s.header.Duration, s.header.Expect = 12, []string{"draining_share > 20%", "draining_share < 30%"}
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.endpoints(4.2, "1 ST", "2 RS", "3 RS")
	s.endpoints(7.2, "2 RS", "3 RS")
	rate := func(pod int, t float64) float64 {
		switch {
		case t < 4.2:
			return []float64{100, 100, 0}[pod-1]
		case t < 7.2:
			return []float64{50, 75, 75}[pod-1]
		}
		return []float64{0, 100, 100}[pod-1]
	}
	for pod := 1; pod <= 3; pod++ {
		offset := 0.13 * float64(pod)
		for k := range 12 {
			var n float64
			for ms := range 1000 {
				n += rate(pod, float64(k-1)+offset+float64(ms)/1000) / 1000
			}
			if n > 0.5 {
				s.served(float64(k)+offset, fmt.Sprintf("web-%d", pod), uint64(n+0.5))
			}
		}
	}
	s.fill("web", 200, 0, 12)
	f := s.analyze()
	b := f.Backends[0]
	require.Equal(t, "web-1", b.Name)
	require.NotNil(t, b.DrainingShare)
	assert.InDelta(t, 0.25, *b.DrainingShare, 0.02)
	assert.InDelta(t, 150, float64(*b.AcceptedWhileDraining), 50.1, "less what no whole record tells")
	assert.True(t, *f.Reproduced, f.Expected)
	assert.Nil(t, f.Backends[1].DrainingShare)
	// The last pods are used while they serve: that is no fault.
	last := newSim(t, 262144, 200000, finTraffic("web", 0, 6))
	last.endpoints(-0.4, "1 RS")
	last.endpoints(2, "1 ST")
	for k := range 5 {
		last.served(float64(k)+0.5, "web-1", 50)
	}
	last.fill("web", 50, 0, 6)
	assert.Nil(t, last.analyze().Backends[0].DrainingShare)
}

// Where a node sends on to pods of its own only, its last one is used while it
// terminates and serves, whatever others there are elsewhere (KEP-1669).
func TestLastPodOfANodeDrains(t *testing.T) {
	for _, local := range []bool{true, false} {
		traffic := finTraffic("web", 0, 6)
		traffic.Local = local
		s := newSim(t, 262144, 200000, traffic)
		for _, at := range []struct {
			t    float64
			pods []string
		}{{-0.4, []string{"1 RS", "2 RS"}}, {2, []string{"1 ST", "2 RS"}}} {
			s.endpoints(at.t, at.pods...)
			list := s.records[len(s.records)-1].Endpoints.Endpoints
			list[0].Node, list[1].Node = "node1", "node2"
		}
		for k := range 6 {
			s.served(float64(k)+0.5, "web-1", 25)
			s.served(float64(k)+0.5, "web-2", 25)
		}
		s.fill("web", 50, 0, 6)
		f := s.analyze()
		assert.Equal(t, !local, f.Backends[0].AcceptedWhileDraining != nil, "local: %v", local)
		assert.Equal(t, !local, f.Backends[0].DrainingShare != nil, "local: %v", local)
		assert.Equal(t, !local, strings.Contains(strings.Join(drainLines(f), " "), "others were usable"), "local: %v", local)
	}
}

// One of two pods terminates from 3 to 12 s, and takes in half of what comes for
// as long as the proxy is programmed to give it new connections. What it takes in
// then is the proxy's delay; only what follows is IPVS's own.
func TestDrainingShareBeginsWithTheRules(t *testing.T) {
	for _, c := range []struct {
		name     string
		weightAt float64 // when the rules change
		until    float64 // it takes in half of all
		accepted float64
		share    *float64
		want     []string
	}{
		{"delay", 6.05, 6.05, 300, ref(0.0), []string{"draining_share < 1%"}},
		{"port reuse", 3.25, 12, 900, ref(0.5), []string{"draining_share > 40%", "draining_share < 60%"}},
		{"delay and port reuse", 6.05, 12, 900, ref(0.5), []string{"draining_share > 40%", "draining_share < 60%"}},
		{"hang", 99, 12, 900, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSim(t, 262144, 200000, finTraffic("web", 0, 12))
			s.header.Duration, s.header.Expect = 12, c.want
			s.endpoints(-0.4, "1 RS", "2 RS")
			s.endpoints(3, "1 ST", "2 RS")
			drained := programmed(1, 2)
			drained.Backends[0].Weight = 0
			for at := -0.3; at < 12; at += 0.5 {
				if at < c.weightAt {
					s.plane(at, programmed(1, 2))
				} else {
					s.plane(at, drained)
				}
			}
			for k := range 13 {
				at := float64(k)
				half := max(0, min(1, c.until-(at-1)))
				if n := uint64(100 * half); n > 0 {
					s.served(at, "web-1", n)
				}
				s.served(at, "web-2", 200-uint64(100*half))
			}
			s.fill("web", 200, 0, 12)
			f := s.analyze()
			b := f.Backends[0]
			require.Equal(t, "web-1", b.Name)
			assert.Equal(t, c.share != nil && *c.share > 0, strings.Contains(b.reuse(), "because IPVS used old entries again: node1 had it with weight 0"), b.reuse())
			assert.InDelta(t, c.accepted, float64(*b.AcceptedWhileDraining), 110)
			if c.share == nil {
				assert.Nil(t, b.DrainingShare)
				assert.Equal(t, uint64(1), f.Nodes[0].Stale.MaxBackends, "that is what it is instead")
				return
			}
			require.NotNil(t, b.DrainingShare)
			assert.InDelta(t, *c.share, *b.DrainingShare, 0.02)
			assert.True(t, *f.Reproduced, f.Expected)
		})
	}
}

// By the time of a look-up the entry need not be the one that the datagram met:
// the proxy has deleted it, or the socket has made another.
func TestEntriesThatChangedBeforeTheLookUp(t *testing.T) {
	traffic := runlog.TrafficInfo{Name: "dns", Shape: "udp", To: "web", End: 9, Timeout: 0.9, ExpectsAnswer: true}
	s := newSim(t, 262144, 200000, traffic)
	s.endpoints(-0.4, "1 RS")
	s.act("to-zero", "scale", 1, 1.99, 2.0, "")
	s.endpoints(1.995)
	s.act("back", "scale", 1, 6, 6.01, "")
	s.endpoints(6.0, "3 RS")
	var failed uint64
	for i, due := range dues(0, 9, 200) {
		switch {
		case due < 2 || due >= 6:
			s.ok("dns", due)
			continue
		case i%10 > 0:
			s.fail("dns", due, runlog.ResponseTimeout, 1)
		case due+0.9 < 6:
			s.lookedUp("dns", due, 0.9, runlog.ResponseTimeout, 1, "", true)
		case due < 5.2:
			s.lookedUp("dns", due, 0.9, runlog.ResponseTimeout, 0, "", false)
		default:
			s.lookedUp("dns", due, 0.9, runlog.ResponseTimeout, 3, "", true)
		}
		failed++
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"stale_backend": failed}, causesOf(f))
	assert.InDelta(t, 6.0, *f.Spikes[1].StoppedS, 1e-9)
}

// Where nobody was looked up, nobody is said to have been led astray.
func TestLateAttemptsGoWhereTheyAreSent(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 6))
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.endpoints(3.0, "2 RS", "3 RS")
	for _, due := range dues(2.5, 2.9, 50) {
		s.fail("web", due, runlog.ConnectTimeout, 1)
		r := s.records[len(s.records)-1].Failure
		r.Start = 3.2 // the generator was late, so that the pod was gone
		s.records = append(s.records, runlog.Record{Host: simNode, T: 4.2, Autopsy: &runlog.Autopsy{
			Traffic: "web", Seq: r.Seq, Found: true, DNAT: true, State: "SYN_SENT", ReplySrc: podAddr(1),
		}})
	}
	s.fill("web", 50, 3, 6)
	assert.Equal(t, map[string]uint64{"stale_backend": 20}, causesOf(s.analyze()))
}

// What was due before a pod was gone was not led to it for want of it, and what
// was refused long before a pod reset its clients was not refused by it.
func TestFailuresNearByAreOthers(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 6))
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.endpoints(3.0, "2 RS", "3 RS")
	var before, after uint64
	for i, due := range dues(0, 6, 100) {
		switch {
		case due > 2.2 && due < 2.5 && i%2 == 0:
			s.fail("web", due, runlog.ConnectTimeout, 1)
			before++
		case due >= 3 && due < 4 && i%2 == 0:
			s.lookedUp("web", due, 0.9, runlog.ConnectTimeout, 1, "SYN_SENT", false)
			after++
		default:
			s.enter(due)
			s.ok("web", due)
		}
	}
	assert.Equal(t, map[string]uint64{"stale_backend": after, "unknown": before}, causesOf(s.analyze()))

	s = newSim(t, 262144, 200000, finTraffic("web", 0, 6))
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.endpoints(3.0, "1 ST", "2 RS")
	s.fail("web", 2.55, runlog.Refused, 0)
	s.bump(3.15, "web-1", "Tcp.OutRsts", 1)
	s.fill("web", 50, 0, 6)
	assert.NotContains(t, causesOf(s.analyze()), "draining_backend")
}

// That a SYN without an answer left no entry does not say that it found no
// endpoint, where others of its time were led to a pod that is gone.
func TestSilenceWithoutEndpoints(t *testing.T) {
	run := func(stale bool) map[string]uint64 {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 6))
		s.endpoints(-0.4, "1 RS")
		s.endpoints(3.0)
		for i, due := range dues(0, 6, 100) {
			switch {
			case due < 3:
				s.enter(due)
				s.ok("web", due)
			case stale && i%2 == 0:
				s.lookedUp("web", due, 0.9, runlog.ConnectTimeout, 1, "SYN_SENT", false)
			default:
				s.lookedUp("web", due, 0.9, runlog.ConnectTimeout, 0, "", false)
			}
		}
		return causesOf(s.analyze())
	}
	assert.Equal(t, map[string]uint64{"no_endpoint": 300}, run(false))
	assert.Equal(t, map[string]uint64{"stale_backend": 150, "unknown": 150}, run(true))
}

// In the step in which the last endpoint went, each failure that is recorded says
// when it was sent; where one is not, it may have been before. A look-up belongs
// to one step only.
func TestStepInWhichTheLastEndpointWent(t *testing.T) {
	run := func(unrecorded float64) *Findings {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 6))
		s.endpoints(-0.4, "1 RS")
		s.endpoints(3.005)
		for i := range 600 {
			due := float64(i) / 100
			if due <= 3.005 {
				s.enter(due)
				s.ok("web", due)
				continue
			}
			s.lookedUp("web", due, 0.9, runlog.ConnectTimeout, 0, "", false)
		}
		s.records = slices.DeleteFunc(s.records, func(r runlog.Record) bool { return r.Failure != nil && r.Failure.Due == unrecorded })
		return s.analyze()
	}
	f := run(0)
	assert.Equal(t, map[string]uint64{"no_endpoint": 299}, causesOf(f))
	assert.Equal(t, []uint64{299, 299}, []uint64{f.Causes[0].Proof.Autopsies, f.Causes[0].Proof.AutopsiesAgree}, "that there is no entry is as it should be")
	f = run(3.05)
	require.Equal(t, map[string]uint64{"no_endpoint": 290, "unknown": 9}, causesOf(f))
	assert.Equal(t, uint64(290), f.Causes[0].Proof.Autopsies)
	assert.Equal(t, uint64(8), f.Causes[1].Proof.Autopsies, "that due at 3.1 s is of the next step")
}

// One slow moment is no proof of every action whose time it falls in.
func TestLatenciesOfActionsThatOverlap(t *testing.T) {
	for between, want := range map[float64]bool{1.5: true, 7: false} {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 20))
		s.endpoints(-0.4, "1 RS", "2 RS")
		for i := range 2 {
			at := 3 + between*float64(i)
			s.act("roll", "rollout", i+1, at, at+0.5, "")
		}
		s.fill("web", 100, 0, 20)
		f := s.analyze()
		require.Len(t, f.Spikes, 2)
		for i := range f.Spikes {
			require.NotNil(t, f.Spikes[i].P99Ms)
			assert.Equal(t, want, strings.Contains(spikeText(&f.Spikes[i]), " ms around it, and around others of that time"))
		}
		assert.Equal(t, want, strings.Contains(renderedHTML(t, f), "p99 and longest are also those around others"))
	}
	nan := math.NaN()
	acts := []*act{{begin: 0, end: 10}, {begin: 1, end: 2}, {begin: 14, end: 14}, {begin: 30, end: nan}, {begin: 99, end: 99}}
	assert.Equal(t, []bool{true, true, true, true, true}, overlapping(acts))
	assert.Equal(t, []bool{false, false}, overlapping([]*act{{begin: 0, end: 1}, {begin: 6.1, end: 7}}))
}

// What ended with the next action went on until that began, also where it did not
// begin on the edge of a step.
func TestWentOnUntilTheNextAction(t *testing.T) {
	for last, want := range map[float64]string{7.0: "it went on until heal began", 6.5: "whether it recovered cannot be told: heal began 510 ms after the last of them"} {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 12))
		s.endpoints(-0.4, "1 RS", "2 RS")
		s.act("roll", "rollout", 1, 2.004, 2.1, "")
		s.act("heal", "restart_proxy", 1, 7.004, 7.1, "")
		for _, due := range dues(0, 12, 100) {
			if due >= 2.5 && due < last {
				s.fail("web", due, runlog.ConnectTimeout, 1)
				continue
			}
			s.enter(due)
			s.ok("web", due)
		}
		f := s.analyze()
		require.Len(t, f.Spikes, 2)
		assert.Contains(t, spikeText(&f.Spikes[0]), want, "failures to %g s", last)
	}
}

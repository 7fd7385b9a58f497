package report

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// These runs have endpoints, dataplanes and actions, and a truth that the test
// knows.

func podAddr(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 0, byte(n + 1)}), 8080) //nolint:gosec // a few pods
}

// endpoint is like "1 RS", "1 ST", "2": a pod's number and its conditions; a
// second life is 1.2.
func endpoint(s string) runlog.EndpointState {
	name, conditions, _ := strings.Cut(s, " ")
	host, _, _ := strings.Cut(name, ".")
	n, _ := strconv.Atoi(host)
	return runlog.EndpointState{
		Name: "web-" + name, Addr: podAddr(n).Addr(), Ready: strings.Contains(conditions, "R"),
		Serving: strings.Contains(conditions, "S"), Terminating: strings.Contains(conditions, "T"),
	}
}

func (s *sim) endpoints(t float64, pods ...string) {
	e := &runlog.Endpoints{Service: "web", Endpoints: []runlog.EndpointState{}}
	for _, p := range pods {
		e.Endpoints = append(e.Endpoints, endpoint(p))
	}
	s.records = append(s.records, runlog.Record{Host: "controller", T: t, Endpoints: e})
}

func programmed(pods ...int) runlog.ProgrammedService {
	p := runlog.ProgrammedService{Service: "web", Addr: netip.MustParseAddrPort("10.96.0.10:8080")}
	for _, n := range pods {
		p.Backends = append(p.Backends, runlog.ProgrammedBackend{Addr: podAddr(n), Weight: 1})
	}
	return p
}

func (s *sim) plane(t float64, services ...runlog.ProgrammedService) {
	s.records = append(s.records, runlog.Record{Host: simNode, T: t, Dataplane: &runlog.Dataplane{Mode: "nftables", Services: services}})
}

func (s *sim) planeFailed(t float64) {
	s.records = append(s.records, runlog.Record{Host: simNode, T: t, Dataplane: &runlog.Dataplane{Mode: "nftables", Failed: "no such table"}})
}

func (s *sim) act(name, kind string, number int, begin, end float64, failed string) {
	event := func(t float64, phase, detail string) {
		s.records = append(s.records, runlog.Record{Host: "controller", T: t, Event: &runlog.Event{Kind: "action", Name: name, Detail: detail, Fields: map[string]string{
			"kind": kind, "phase": phase, "number": strconv.Itoa(number),
		}}})
	}
	event(begin, "begin", kind)
	phase := "end"
	if failed != "" {
		phase = "fail"
	}
	event(end, phase, failed)
}

func (s *sim) served(t float64, pod string, n uint64) {
	s.records = append(s.records, runlog.Record{Host: pod, T: t, Served: &runlog.Served{Service: "web", Backend: pod, Accepted: n, Served: n}})
}

// lookedUp records a failed attempt and that its entry, found when it had
// waited, leads to the pod.
func (s *sim) lookedUp(name string, due, waited float64, o runlog.Outcome, pod int, state string, replied bool) {
	seq := s.fail(name, due, o, 1)
	s.records[len(s.records)-1].T = due + waited
	a := &runlog.Autopsy{Traffic: name, Seq: seq, Lag: 0.002, Found: pod > 0, State: state, Replied: replied}
	if pod > 0 {
		a.DNAT, a.ReplySrc = true, podAddr(pod)
	}
	s.records = append(s.records, runlog.Record{Host: simNode, T: due + waited + 0.002, Autopsy: a})
}

// repeat records an unchanged dataplane every 10 s, as an audit does.
func (s *sim) repeat(from, to float64, services ...runlog.ProgrammedService) {
	for t := from; t < to; t += 10 {
		s.plane(t, services...)
	}
}

// staleRun is a proxy that hangs from 2 s to 9 s while a rollout at 3.02 s
// replaces both pods.
func staleRun(t *testing.T) (*sim, uint64) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 13))
	s.header.Duration = 13
	s.header.Expect = []string{"stale > 5s", "stale_backends == 2", "stale_backend > 500", "failures == 0 during 10s..13s"}
	s.endpoints(-0.4, "1 RS", "2 RS")
	s.plane(-0.3, programmed(1, 2))
	s.act("hang", "pause_proxy", 1, 2, 2.001, "")
	s.act("roll", "rollout", 1, 3.0, 3.03, "")
	s.endpoints(3.01, "1 ST", "2 ST", "3 RS", "4 RS")
	s.endpoints(3.02, "3 RS", "4 RS")
	s.act("heal", "restart_proxy", 1, 9, 9.01, "")
	s.plane(9.05, programmed(3, 4))
	var failed uint64
	for i, due := range dues(0, 13, 200) {
		switch {
		case due < 3.02 || due >= 9.0:
			s.enter(due)
			s.ok("web", due)
		case i%10 == 0:
			failed++
			s.lookedUp("web", due, 0.9, runlog.ConnectTimeout, 1+i%20/10, "SYN_SENT", false)
		default:
			failed++
			s.fail("web", due, runlog.ConnectTimeout, 1)
		}
	}
	return s, failed
}

func TestStaleRules(t *testing.T) {
	s, failed := staleRun(t)
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
	assert.Contains(t, f.Headline, "node1 kept up to 2 stale backends, for 6.0 s of that time")
	out := strings.Join(strings.Fields(render(t, "text", f)), " ")
	assert.Contains(t, out, "it went on until heal began")
	assert.Contains(t, out, "before it 199/s failed, and none of those due from 9.0 s")
}

// What an address was is known only when all changes of endpoints have been
// read, which another host wrote.
func TestEndpointsThatStandLaterInTheLog(t *testing.T) {
	s, _ := staleRun(t)
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
	assert.Equal(t, gone+late, f.Spikes[0].Failures)
	assert.True(t, f.Spikes[0].Recovered)
	assert.Contains(t, f.Headline, "when kill began")
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
	assert.Contains(t, f.Headline, "old entries led them to pods that were gone, although no rule did for longer than 29 ms")
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
		got = append(got, l.roleOf("web", podAddr(1).Addr(), float64(at)))
	}
	assert.Equal(t, []role{usable, draining, noPod, noPod, usable, usable, draining}, got)
	assert.Equal(t, "web-1.2", log.nameOf(podAddr(1).Addr(), 4))
	assert.Equal(t, "web-1", log.nameOf(podAddr(1).Addr(), 2.5))
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

	never := newSim(t, 262144, 200000, finTraffic("web", 0, 5))
	never.endpoints(-0.4, "1 RS")
	never.planeFailed(-0.3)
	never.fill("web", 50, 0, 5)
	f = never.analyze()
	assert.Nil(t, f.Nodes[0].Stale)
	assert.Contains(t, strings.Join(f.NotMeasured, "\n"), "no such table")
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

func TestActionsThatBeginTogether(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.act("one", "rollout", 1, 3.001, 3.1, "")
	s.act("two", "flush", 1, 3.002, 3.003, "no such host")
	for i, due := range dues(0, 10, 100) {
		if s.enter(due); due > 3.005 && due < 3.5 && i%2 == 0 {
			s.fail("web", due, runlog.Refused, 0)
			continue
		}
		s.ok("web", due)
	}
	f := s.analyze()
	require.Len(t, f.Spikes, 2)
	for i, other := range []string{"two", "one"} {
		assert.Equal(t, []string{other}, f.Spikes[i].Together)
		assert.EqualValues(t, 24, f.Spikes[i].Failures)
	}
	assert.Equal(t, "no such host", f.Spikes[1].Error)
	assert.Contains(t, strings.Join(strings.Fields(render(t, "text", f)), " "), "two (flush) at 3.0 s (together with one: what failed can be of either), did not work: no such host")
}

// What fails all the time is no action's doing, and what begins long after one
// is not either.
func TestFailuresThatAreNoActions(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 40))
	s.header.Duration = 40
	s.act("roll", "rollout", 1, 10, 10.5, "")
	for i, due := range dues(0, 40, 100) {
		if s.enter(due); i%10 == 0 || due > 30 && i%2 == 0 {
			s.fail("web", due, runlog.Refused, 0)
			continue
		}
		s.ok("web", due)
	}
	f := s.analyze()
	assert.Nil(t, f.Spikes[0].StartS)
	assert.Zero(t, f.Spikes[0].Failures)
	assert.InDelta(t, 10, f.Spikes[0].Before, 0.2)
	assert.Nil(t, f.Spikes[0].StoppedS)
	assert.InDelta(t, 20.5, *f.Spikes[0].WatchedToS, 0.11)
}

func TestOneWayTrafficShowsNoRecovery(t *testing.T) {
	s := newSim(t, 262144, 200000, floodTraffic("flood", 0, 10))
	s.act("roll", "rollout", 1, 3, 3.5, "")
	for _, due := range dues(0, 10, 100) {
		s.enter(due)
		s.sent("flood", due)
	}
	f := s.analyze()
	assert.Nil(t, f.Spikes[0].WatchedToS)
	assert.NotContains(t, f.Headline, "whatever was done")
	assert.Contains(t, strings.Join(strings.Fields(render(t, "text", f)), " "), "no attempt was due then that anybody can count")
}

// Where the log is cut off, attempts that are under way have not recovered.
func TestCutOffDuringAnAction(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.trailer = nil
	s.act("roll", "rollout", 1, 3, 3.1, "")
	for _, due := range dues(0, 6, 100) {
		switch s.enter(due); {
		case due < 3.05:
			s.ok("web", due)
		case due < 3.5:
			s.fail("web", due, runlog.Refused, 0)
		default:
			s.sent("web", due) // and nothing is known of them
		}
	}
	f := s.analyze()
	assert.False(t, f.Spikes[0].Recovered)
	assert.InDelta(t, 3.5, *f.Spikes[0].WatchedToS, 1e-9)
}

// A soak's actions are many; those that cost something are shown.
func TestSoakOfActions(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 600))
	s.header.Duration = 600
	for i := range 300 {
		at := 1 + 2*float64(i)
		s.act("roll", "rollout", i+1, at, at+0.5, "")
	}
	for _, due := range dues(0, 600, 10) {
		if due > 401.05 && due < 401.6 {
			s.fail("web", due, runlog.Refused, 0)
			continue
		}
		s.ok("web", due)
	}
	f := s.analyze()
	assert.Len(t, f.Spikes, maxSpikes)
	assert.EqualValues(t, 300-maxSpikes, f.OtherSpikes)
	worst := worstSpike(f)
	require.NotNil(t, worst)
	assert.Equal(t, 201, worst.Number)
	assert.LessOrEqual(t, len(actionLines(f)), maxSpikeLines+2)
	assert.Contains(t, strings.Join(actionLines(f), "\n"), "roll no. 201 (rollout)")

	l := newLog()
	for i := range maxActs + 5 {
		e := &runlog.Event{Name: "a", Fields: map[string]string{"phase": "begin", "number": strconv.Itoa(i)}}
		l.addAct(float64(i), e)
	}
	assert.Len(t, l.cluster.acts, maxActs)
	assert.LessOrEqual(t, len(l.cluster.going), maxGoing)
	assert.InDelta(t, maxActs, l.cluster.until, 0, "failures after it are not the last one's")
	assert.Contains(t, strings.Join(l.findings().Doubts, "\n"), "5 actions came after the first 20000")
}

func TestHeldConnectionsLost(t *testing.T) {
	idle := runlog.TrafficInfo{Name: "pools", Shape: "idle", To: "web", End: 10, Timeout: 0.9, EntriesPerAttempt: 1, ExpectsAnswer: true}
	s := newSim(t, 262144, 200000, idle)
	s.header.Expect = []string{"held_lost == 30", "pools: held_lost > 10"}
	s.act("kill", "delete_pod", 1, 3, 3.1, "")
	for _, due := range dues(0, 1, 100) {
		s.enter(due)
		s.ok("pools", due)
	}
	for k, lost := range []uint64{0, 0, 0, 5, 20, 30, 30, 30} {
		s.records = append(s.records, runlog.Record{Host: "client", T: float64(k) + 0.5, Held: &runlog.Held{Traffic: "pools", Open: 100 - lost, Lost: lost}})
	}
	seq := uint64(5)
	s.records = append(s.records,
		runlog.Record{Host: "client", T: 3.4, Failure: &runlog.Failure{Traffic: "pools", Seq: seq, Due: 3.3, Start: 3.3, Outcome: runlog.Reset, Phase: "held"}},
		runlog.Record{Host: simNode, T: 3.41, Autopsy: &runlog.Autopsy{Traffic: "pools", Seq: seq}})
	f := s.analyze()
	require.NotNil(t, f.Spikes[0].HeldLost)
	assert.EqualValues(t, 30, *f.Spikes[0].HeldLost)
	require.NotNil(t, f.Reproduced)
	assert.True(t, *f.Reproduced, f.Expected)
	assert.Contains(t, f.Headline, "pools lost 30 held connections")
	assert.NotContains(t, strings.Join(f.Doubts, "\n"), "autops")
}

// The headline of a run without an answer says what is missing.
func TestHeadlineOfWhatWasNotReproduced(t *testing.T) {
	s, _ := staleRun(t)
	s.header.Expect = []string{"stale > 5s", "table_full > 10"}
	f := s.analyze()
	assert.Equal(t, Inconclusive, f.Verdict)
	assert.Contains(t, f.Headline, "Inconclusive: not reproduced here: table_full > 10")
	require.NotNil(t, f.Reproduced)
	assert.False(t, *f.Reproduced)
	assert.Contains(t, render(t, "junit", f), `name="expect: table_full &gt; 10"`)
	assert.Contains(t, render(t, "markdown", f), "not shown")
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

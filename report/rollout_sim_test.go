package report

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/tablefull/tablefull/report/runlog"
)

// These make runs with endpoints, dataplanes and actions, whose truth is known.

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

// hangRun is a proxy that hangs from 2 s to 9 s while a rollout at 3.02 s
// replaces both pods.
func hangRun(t *testing.T) (*sim, uint64) {
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
	s.read(9.05, programmed(3, 4))
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

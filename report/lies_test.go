package report

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// Negative controls: attempts fail, and not because of the table.

func TestListenOverflow(t *testing.T) {
	for name, looked := range map[string]bool{"with autopsies": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, 262144, 100000, finTraffic("web", 0, 10))
			var lost uint64
			for i, due := range dues(0, 10, 500) {
				s.enter(due)
				if due < 2 || i%2 == 0 {
					s.ok("web", due)
					continue
				}
				lost++
				s.bump(due, "web-1", "TcpExt.ListenOverflows", 1)
				s.bump(due, "web-1", "TcpExt.ListenDrops", 1)
				if seq := s.fail("web", due, runlog.ConnectTimeout, 1); looked {
					s.autopsy("web", seq, due, true, "SYN_SENT", false)
				}
			}
			f := s.analyze()
			assert.Equal(t, map[string]uint64{"listen_overflow": lost}, causesOf(f))
			assert.Equal(t, Pass, f.Verdict, "no threshold, and nothing failed because of the table")
			assert.Contains(t, f.Headline, "table held")
		})
	}
}

// Connections that got into the queue that nobody empties are not those whose
// SYN was dropped.
func TestStalledListener(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 4))
	var queued, dropped uint64
	for i, due := range dues(0, 4, 200) {
		s.enter(due)
		if i < 34 {
			queued++
			seq := s.fail("web", due, runlog.ResponseTimeout, 0)
			s.autopsy("web", seq, due, true, "FIN_WAIT", true)
			continue
		}
		dropped++
		s.bump(due, "web-1", "TcpExt.ListenDrops", 1)
		seq := s.fail("web", due, runlog.ConnectTimeout, 1)
		s.autopsy("web", seq, due, true, "SYN_SENT", false)
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"listen_overflow": dropped, "backend_silent": queued}, causesOf(f))
}

// The same while the table is full and drops a flood: the counters alone could
// explain it, but autopsies found the entries.
func TestListenOverflowBesideAFullTable(t *testing.T) {
	s := newSim(t, 262144, 100, finTraffic("web", 0, 6), finTraffic("other", 0, 6))
	s.header.Traffic[1].To = "api"
	s.header.Services = append(s.header.Services, runlog.ServiceInfo{Name: "api", Backends: []runlog.BackendInfo{{Name: "api-1", Addr: netip.MustParseAddrPort("10.244.0.9:80")}}})
	var full, overflow uint64
	each(func(name string, due float64) {
		if name == "other" {
			if s.enter(due) {
				s.ok(name, due)
				return
			}
			full++
			seq := s.fail(name, due, runlog.ConnectTimeout, 1)
			s.autopsy(name, seq, due, false, "", false)
			return
		}
		// Held in the table since before: its SYN passes.
		overflow++
		s.bump(due, "web-2", "TcpExt.ListenDrops", 1)
		seq := s.fail(name, due, runlog.ConnectTimeout, 1)
		s.autopsy(name, seq, due, true, "SYN_SENT", false)
	}, map[string][]float64{"other": dues(0, 6, 401), "web": dues(1, 6, 200)})
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"table_full": full, "listen_overflow": overflow}, causesOf(f))
	for _, c := range f.Causes {
		if c.Cause == "table_full" {
			assert.Equal(t, map[string]uint64{"other": full}, c.Proof.Traffic)
		}
	}
}

func TestContradictingAutopsies(t *testing.T) {
	s := newSim(t, 262144, 100, finTraffic("web", 0, 5))
	s.header.Services[0].Backends[0].Name = "gone" // no pod counts anything
	var lost uint64
	for i, due := range dues(0, 5, 400) {
		if s.enter(due) {
			s.ok("web", due)
			continue
		}
		lost++
		seq := s.fail("web", due, runlog.ConnectTimeout, 1)
		s.autopsy("web", seq, due, i%4 == 0, "SYN_SENT", false) // a quarter passed the node
	}
	f := s.analyze()
	got := causesOf(f)
	assert.InDelta(t, 0.75*float64(lost), float64(got["table_full"]), 0.01*float64(lost))
	assert.Equal(t, lost-got["table_full"], got["unknown"])
	assert.Contains(t, strings.Join(f.Doubts, "\n"), "found an entry on the node")
}

func TestPodsThatReset(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
	var lost uint64
	for i, due := range dues(0, 5, 300) {
		s.enter(due)
		s.bump(due+0.001, "web-1", "Tcp.OutRsts", 1)
		if i == 77 {
			s.bump(due, simNode, "invalid", 1) // a single one proves nothing
		}
		lost++
		o := runlog.Reset
		if i%3 == 0 {
			o = runlog.Closed
		}
		seq := s.fail("web", due, o, 0)
		if i%10 == 0 {
			s.autopsy("web", seq, due, true, "CLOSE", true)
		}
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"backend_reset": lost}, causesOf(f))
	assert.Nil(t, f.Knee.Drop)
	assert.NotNil(t, f.Knee.ClientLoss)
}

func TestInvalidReset(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
	var lost uint64
	for i, due := range dues(0, 5, 300) {
		s.enter(due)
		if i%10 != 0 {
			s.ok("web", due)
			continue
		}
		lost++
		s.bump(due+0.2, simNode, "invalid", 2)
		s.fail("web", due, runlog.Reset, 0)
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"invalid_reset": lost}, causesOf(f))
}

func TestGonePod(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
	var lost uint64
	for i, due := range dues(0, 5, 300) {
		s.enter(due)
		if i%2 == 0 {
			s.ok("web", due)
			continue
		}
		lost++
		seq := s.fail("web", due, runlog.ConnectTimeout, 1)
		s.autopsy("web", seq, due, true, "SYN_SENT", false)
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"unknown": lost}, causesOf(f))
	assert.NotContains(t, f.Headline, "table is full")
}

func TestStaleBackend(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
	for _, due := range dues(0, 5, 100) {
		seq := s.fail("web", due, runlog.ConnectTimeout, 1)
		s.autopsy("web", seq, due, true, "SYN_SENT", false)
	}
	for i := range s.records {
		if a := s.records[i].Autopsy; a != nil {
			a.ReplySrc = netip.MustParseAddrPort("10.244.7.7:8080")
		}
	}
	assert.Equal(t, map[string]uint64{"stale_backend": 500}, causesOf(s.analyze()))
}

func TestNoEndpoint(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
	s.header.Services[0].Backends = nil
	for i, due := range dues(0, 5, 100) {
		s.fail("web", due, []runlog.Outcome{runlog.Refused, runlog.Unreachable, runlog.ConnectTimeout}[i%3], 1)
	}
	assert.Equal(t, map[string]uint64{"no_endpoint": 500}, causesOf(s.analyze()))
}

func TestRefused(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
	for i, due := range dues(0, 5, 100) {
		s.fail("web", due, runlog.Refused, 0)
		if i < 400 {
			s.bump(due+0.0002, "web-1", "Tcp.OutRsts", 1)
		}
	}
	got := causesOf(s.analyze())
	assert.Equal(t, uint64(500), got["backend_refused"]+got["unknown"])
	assert.InDelta(t, 400, float64(got["backend_refused"]), 0, "each needs a reset that a pod sent")
}

func TestSilentPod(t *testing.T) {
	t.Run("by autopsies", func(t *testing.T) {
		s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
		for _, due := range dues(0, 5, 100) {
			s.enter(due)
			seq := s.fail("web", due, runlog.ResponseTimeout, 0)
			s.autopsy("web", seq, due, true, "ESTABLISHED", true)
		}
		assert.Equal(t, map[string]uint64{"backend_silent": 500}, causesOf(s.analyze()))
	})
	t.Run("by what the pods say", func(t *testing.T) {
		s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
		for _, due := range dues(0, 5, 100) {
			s.fail("web", due, runlog.ResponseTimeout, 0)
		}
		s.records = append(s.records, runlog.Record{Host: "web-1", T: 6, Served: &runlog.Served{Service: "web", Backend: "web-1", Accepted: 450, Served: 0}})
		assert.Equal(t, map[string]uint64{"backend_silent": 450, "unknown": 50}, causesOf(s.analyze()))
	})
	t.Run("without evidence", func(t *testing.T) {
		s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
		for _, due := range dues(0, 5, 100) {
			s.fail("web", due, runlog.ResponseTimeout, 0)
		}
		assert.Equal(t, map[string]uint64{"unknown": 500}, causesOf(s.analyze()))
	})
}

func TestPortsUsedUp(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	var refused uint64
	for i, due := range dues(0, 10, 3000) {
		if i < 28000 {
			s.enter(due)
			s.ok("web", due)
			continue
		}
		refused++
		s.notStarted("web", due, runlog.NoPorts)
	}
	s.header.Thresholds = []string{"errors < 0.1%"}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"generator_ports": refused}, causesOf(f))
	assert.Equal(t, Inconclusive, f.Verdict)
	assert.Contains(t, f.Reasons[0], "generator could not start")
	assert.Contains(t, f.Headline, "Inconclusive: the generator")
	assert.Zero(t, f.Traffic[0].Failed)
}

// The generator is the limit even where the table is full and a threshold has
// failed: that is said first.
func TestGeneratorTooSlow(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.fill("web", 700, 0, 10)
	for _, b := range s.bins["web"] {
		b.Late = b.Started / 10
	}
	for _, due := range dues(8, 10, 5000) {
		s.notStarted("web", due, runlog.Behind)
	}
	s.header.Thresholds = []string{"errors < 0.1%"}
	f := s.analyze()
	assert.Equal(t, Inconclusive, f.Verdict)
	assert.Contains(t, f.Reasons[0], "the generator could not keep up")
	assert.Equal(t, uint64(10000), causesOf(f)["generator_late"])
	assert.Equal(t, 4, ExitCode(f))
}

func TestClash(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
	var lost uint64
	for i, due := range dues(0, 5, 300) {
		s.enter(due)
		if i%50 != 49 {
			s.ok("web", due)
			continue
		}
		lost++
		s.bump(due, simNode, "drop", 1)
		s.bump(due, simNode, "insert_failed", 1)
		seq := s.fail("web", due, runlog.ConnectTimeout, 1)
		s.autopsy("web", seq, due, false, "", false)
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"nat_clash": lost}, causesOf(f))
	assert.Nil(t, f.Knee.Drop, "a clash is no full table")
	assert.Zero(t, f.Nodes[0].TableFullDrops)
}

// In a full table, clashes and chains are told from drops by insert_failed.
func TestClashAndChainInAFullTable(t *testing.T) {
	s := newSim(t, 262144, 500, finTraffic("web", 0, 5))
	full, clash, chain := uint64(0), uint64(0), uint64(0)
	for i, due := range dues(0, 5, 300) {
		switch {
		case i%40 == 13:
			clash++
			s.bump(due, simNode, "drop", 1)
			s.bump(due, simNode, "insert_failed", 1)
			s.fail("web", due, runlog.ConnectTimeout, 1)
		case i%40 == 27:
			chain++
			s.bump(due, simNode, "chainlength", 1)
			s.bump(due, simNode, "insert_failed", 1)
			s.fail("web", due, runlog.ConnectTimeout, 1)
		case s.enter(due):
			s.ok("web", due)
		default:
			full++
			s.fail("web", due, runlog.ConnectTimeout, 1)
		}
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"table_full": full, "nat_clash": clash, "chain_too_long": chain}, causesOf(f))
}

func TestDropBelowTheLimit(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
	for _, due := range dues(0, 5, 100) {
		s.bump(due, simNode, "drop", 1)
		s.fail("web", due, runlog.ConnectTimeout, 1)
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"unknown": 500}, causesOf(f))
	assert.Nil(t, f.Knee.Drop)
	assert.Contains(t, strings.Join(f.Doubts, "\n"), "below its limit")
}

// held is a walk that finds so many connections to the first pod.
func (s *sim) held(t float64, n uint64) {
	s.records = append(s.records, runlog.Record{Host: simNode, T: t, Census: &runlog.Census{Took: 0.01, Entries: n + 7, Groups: []runlog.CensusGroup{
		{Proto: "tcp", State: "ESTABLISHED", Service: s.header.Services[0].Addr, Backend: s.header.Services[0].Backends[0].Addr, Count: n},
		{Proto: "tcp", State: "TIME_WAIT", Service: s.header.Services[0].Addr, Backend: s.header.Services[0].Backends[1].Addr, Count: 7},
	}}})
}

// clashing makes connections at 200/s, each of which takes one of 1000 source
// ports while there are any, and clashes afterwards.
func clashing(t *testing.T) *sim {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 8))
	for i, due := range dues(0, 8, 200) {
		if i%200 == 0 {
			s.held(due, min(uint64(i), 1000))
		}
		if i < 1000 {
			s.enter(due)
			s.ok("web", due)
			continue
		}
		s.bump(due, simNode, "drop", 1)
		s.bump(due, simNode, "insert_failed", 1)
		s.fail("web", due, runlog.ConnectTimeout, 1)
	}
	return s
}

// Clashes are for want of source ports where masquerading has few of them and a
// walk found them taken, and nowhere else.
func TestSourcePortsRunOut(t *testing.T) {
	s := clashing(t)
	s.header.Masquerade = &runlog.PortRange{From: 1024, To: 2023}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"snat_ports": 600}, causesOf(f))
	require.NotNil(t, f.Nodes[0].Ports)
	assert.Equal(t, Ports{From: 1024, To: 2023, Count: 1000, Backend: "10.244.0.2:8080", MostTaken: 1000, AtS: 5, first: 1000}, *f.Nodes[0].Ports)
	assert.Equal(t, "node1 ran out of source ports, not of table entries: masquerading has 1000 of them per pod address and port, and 600 attempts found none. The walk over the table at 5.0 s met 1000 connections to 10.244.0.2:8080 with one each. The table was at most 62.2 % full.", f.Headline)
	assert.Contains(t, f.Causes[0].Evidence, "masquerading has 1000 source ports (1024-2023)")
	assert.Contains(t, advise(f).Do, "source ports")

	for name, change := range map[string]func(*sim){
		"no masquerading":       func(*sim) {},
		"as many as the kernel": func(s *sim) { s.header.Masquerade = &runlog.PortRange{From: 1024, To: 65535} },
		"a gateway's pods share": func(s *sim) {
			s.header.Masquerade = &runlog.PortRange{From: 1024, To: 2023}
			s.header.Services = append(s.header.Services, runlog.ServiceInfo{Name: "gw", Gateway: "web"})
		},
	} {
		s := clashing(t)
		change(s)
		f := s.analyze()
		assert.Equal(t, map[string]uint64{"nat_clash": 600}, causesOf(f), name)
		assert.NotContains(t, f.Headline, "source ports", name)
		assert.NotContains(t, advise(f).Do, "nf_conntrack_max", "a higher limit is no remedy: %s", name)
	}
}

// Chains that are too long are for want of buckets, and no limit is a remedy.
func TestTooFewBuckets(t *testing.T) {
	s := newSim(t, 1<<20, 1<<20-29000, finTraffic("web", 0, 5))
	s.header.Buckets = 1024
	for i, due := range dues(0, 5, 100) {
		if i%3 > 0 {
			s.enter(due)
			s.ok("web", due)
			continue
		}
		s.bump(due, simNode, "chainlength", 1)
		s.bump(due, simNode, "insert_failed", 1)
		s.fail("web", due, runlog.ConnectTimeout, 1)
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"chain_too_long": 167}, causesOf(f))
	assert.Equal(t, "node1 has too few hash buckets, not too small a table: it refused new connections while at most 2.8 % full, because 29333 entries in 1024 buckets make chains of 57, and the kernel stops at 50 to 79; 167 attempts failed because of it.", f.Headline)
	assert.Contains(t, f.Causes[0].Evidence, "at most 29333 entries in 1024 hash buckets")
	a := advise(f)
	assert.Contains(t, a.Do, "nf_conntrack_buckets to at least 262")
	assert.Equal(t, "net.netfilter.nf_conntrack_buckets = 262144\n", a.Set)
	assert.Nil(t, f.Knee.Drop)
	assert.Nil(t, f.Sizing.RunNeeded, "a table that was never full did not hold it: no limit would have")
	assert.Contains(t, strings.Join(f.Sizing.Notes, "\n"), "node1 refused 167 entries because a hash chain was too long")
	assert.False(t, strings.Contains(renderedHTML(t, f), "<p>This run: a limit"))

	// What is pasted is what is advised, also where the machine has another limit outside the run.
	s.header.Sysctls = map[string]string{"nf_conntrack_max": "65536"}
	f = s.analyze()
	assert.Contains(t, f.Sizing.Sysctl, "# nf_conntrack_max is 1048576: enough for")
	assert.Contains(t, f.Sizing.Sysctl, a.Set)
	assert.Contains(t, f.Sizing.KubeProxy, "min: 1048576\n")
	assert.False(t, strings.Contains(renderedHTML(t, f), "65,536"))
}

// What the pods of a service of both families have counted explains attempts to
// either address, each once.
func TestRefusedByBothFamilies(t *testing.T) {
	six := finTraffic("six", 0, 5)
	six.To = "web/ipv6"
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 5), six)
	other := s.header.Services[0]
	other.Name, other.Addr, other.Backends = "web/ipv6", netip.MustParseAddrPort("[fd00:96::10]:8080"), []runlog.BackendInfo{
		{Name: "web-1", Addr: netip.MustParseAddrPort("[fd00:244::2]:8080")}, {Name: "web-2", Addr: netip.MustParseAddrPort("[fd00:244::3]:8080")},
	}
	s.header.Services = append(s.header.Services, other)
	for i, due := range dues(0, 5, 100) {
		s.fail([]string{"web", "six"}[i%2], due, runlog.Refused, 0)
		if i < 300 {
			s.bump(due+0.0002, "web-1", "Tcp.OutRsts", 1)
		}
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"backend_refused": 300, "unknown": 200}, causesOf(f))
	for _, c := range f.Causes {
		if c.Cause == "backend_refused" {
			assert.Contains(t, c.Evidence, "OutRsts +300 on web-1")
		}
	}
}

// The kernel tries some of the ports and not all: attempts fail while some are
// free, and the headline does not say that all were taken by then.
func TestSourcePortsRunOutBeforeAllAreTaken(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 8))
	taken := uint64(0)
	for i, due := range dues(0, 8, 200) {
		if i%200 == 0 {
			s.held(due, taken)
		}
		if taken < 1000 && (i < 940 || i%2 == 0) {
			taken++
			s.enter(due)
			s.ok("web", due)
			continue
		}
		s.bump(due, simNode, "drop", 1)
		s.bump(due, simNode, "insert_failed", 1)
		s.fail("web", due, runlog.ConnectTimeout, 1)
	}
	s.header.Masquerade = &runlog.PortRange{From: 1024, To: 2023}
	f := s.analyze()
	assert.Contains(t, f.Headline, "600 attempts found none, the first of them with at most 957 of 1000 source ports taken: the kernel tries at most 248. The walk over the table at 6.0 s met 1000 connections to 10.244.0.2:8080 with one each.")
	assert.Contains(t, figures(f)[2].Lines, "at most 957 of 1,000 source ports taken")
	assert.Contains(t, strings.Join(advise(f).Why, " "), "That range is a setting of this run")
}

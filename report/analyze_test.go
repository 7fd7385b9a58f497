package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

func TestFullTableByTimeWait(t *testing.T) {
	for _, c := range []struct {
		headroom uint64
		rate     float64
	}{{3000, 700}, {5000, 1900}, {800, 333}, {1, 50}} {
		t.Run(fmt.Sprintf("%d_at_%g", c.headroom, c.rate), func(t *testing.T) {
			s := newSim(t, 262144, c.headroom, finTraffic("web", 0, 10))
			failed := s.fill("web", c.rate, 0, 10)
			f := s.analyze()

			truth := float64(c.headroom) / c.rate
			require.NotNil(t, f.Knee.Drop)
			assert.InDelta(t, truth, f.Knee.Drop.AtS, max(0.02*truth, 0.1))
			assert.InDelta(t, truth, f.Knee.Drop.AtS, f.Knee.Drop.UncertaintyS, "the truth is within the uncertainty given")
			assert.Equal(t, uint64(262144), *f.Knee.Drop.Entries)
			assert.InDelta(t, c.rate, *f.Knee.Drop.OfferedPerS, c.rate/100)
			assert.Nil(t, f.Knee.EarlyDrop)
			require.NotNil(t, f.Knee.ClientLoss)
			assert.InDelta(t, truth, f.Knee.ClientLoss.AtS, f.Knee.ClientLoss.UncertaintyS)
			require.NotNil(t, f.Predicted.FullAtS)
			assert.InDelta(t, truth, *f.Predicted.FullAtS, 1/c.rate, "bins do not say when in them an attempt was due")
			assert.Equal(t, *f.Predicted.FullAtS, *f.Predicted.DropAtS)
			assert.Equal(t, "drop", f.Predicted.MeasuredOnset)

			assert.Equal(t, map[string]uint64{"table_full": failed}, causesOf(f))
			assert.Equal(t, failed, f.Nodes[0].Counters["drop"])
			assert.Equal(t, failed, f.Nodes[0].TableFullDrops)
			assert.Equal(t, int64(c.headroom), *f.Nodes[0].HeadroomAtStart)
			assert.Equal(t, Fail, f.Verdict)
			assert.Contains(t, f.Headline, "its table is full")
			assert.Contains(t, f.Causes[0].Evidence, "lost exactly one SYN")
			assert.Equal(t, f.Causes[0].Proof.Autopsies, f.Causes[0].Proof.AutopsiesAgree)
			// What would have held it: everything that was due.
			assert.Equal(t, 262144-c.headroom+f.Traffic[0].Due, *f.Sizing.RunNeeded)
			assert.Empty(t, f.Doubts)
			assert.False(t, f.Incomplete)
		})
	}
}

func TestSamplesMissingAtTheOnset(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.skip = func(_ string, at float64) bool { return at > 3 && at < 6 }
	failed := s.fill("web", 700, 0, 10)
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"table_full": failed}, causesOf(f))
	require.NotNil(t, f.Knee.Drop)
	assert.InDelta(t, 3000.0/700, f.Knee.Drop.AtS, 0.1, "the client's evidence narrows the gap down")
	assert.Contains(t, strings.Join(f.Doubts, "\n"), "not sampled for 3.")
}

func TestCountersWrap(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.initial["drop"], s.wrap = 1<<32-100, true
	failed := s.fill("web", 700, 0, 10)
	f := s.analyze()
	assert.Equal(t, failed, f.Nodes[0].Counters["drop"])
	assert.Equal(t, map[string]uint64{"table_full": failed}, causesOf(f))
}

func TestFirstSampleIsABaseline(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
	s.initial["drop"], s.initial["early_drop"] = 12345, 678
	require.Zero(t, s.fill("web", 100, 0, 5))
	f := s.analyze()
	assert.Nil(t, f.Knee.Drop)
	assert.Nil(t, f.Knee.EarlyDrop)
	assert.Zero(t, f.Nodes[0].Counters["drop"])
	assert.Equal(t, Pass, f.Verdict)
}

// A sampler that came late finds counters that others have raised.
func TestFirstSampleInTheRunIsABaselineToo(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
	s.initial["drop"], s.initial["early_drop"] = 12345, 678
	s.skip = func(_ string, at float64) bool { return at < 1 }
	require.Zero(t, s.fill("web", 100, 0, 5))
	f := s.analyze()
	assert.Nil(t, f.Knee.EarlyDrop)
	assert.Zero(t, f.Nodes[0].Counters["drop"])
	assert.Zero(t, f.Nodes[0].Counters["early_drop"])
}

// A SYN that is sent again within the attempt's timeout is dropped each time.
func TestRetransmittedSYNs(t *testing.T) {
	for kernel, syns := range map[string][]float64{"6.18.44": {0, 1, 2, 3}, "5.15.0-91-generic": {0, 1, 3}} {
		t.Run(kernel, func(t *testing.T) {
			info := finTraffic("web", 0, 10)
			info.Timeout = 3.5
			s := newSim(t, 262144, 3000, info)
			s.header.Kernel = kernel
			s.end = 20
			var failed uint64
			for _, due := range dues(0, 10, 700) {
				if s.enter(due) {
					s.ok("web", due)
					continue
				}
				failed++
				for _, at := range syns[1:] {
					s.bump(due+at, simNode, "drop", 1)
				}
				s.fail("web", due, runlog.ConnectTimeout, uint64(len(syns)))
			}
			f := s.analyze()
			assert.Equal(t, map[string]uint64{"table_full": failed}, causesOf(f))
			assert.Equal(t, failed*uint64(len(syns)), f.Causes[0].Proof.LostPackets)
			assert.Contains(t, f.Causes[0].Evidence, fmt.Sprintf("%d attempts lost %d SYNs", failed, failed*uint64(len(syns))))
		})
	}
}

func TestEvictionThenDrop(t *testing.T) {
	info := finTraffic("dns", 0, 10)
	info.Shape, info.To, info.Close, info.Residence, info.ResidueState = "udp", "web", "", 30, "UDP"
	s := newSim(t, 262144, 4000, info)
	var evictedN, dropped uint64
	for i, due := range dues(0, 10, 1000) {
		switch {
		case s.entries < int64(s.limit):
			s.enter(due)
			s.ok("dns", due)
		case i%12 == 0: // none of 8 buckets has a victim
			s.bump(due, simNode, "drop", 1)
			dropped++
			seq := s.fail("dns", due, runlog.ResponseTimeout, 1)
			s.autopsy("dns", seq, due, false, "", false)
		default:
			s.bump(due, simNode, "early_drop", 1)
			evictedN++
			s.ok("dns", due)
		}
	}
	f := s.analyze()
	require.NotNil(t, f.Knee.EarlyDrop)
	assert.InDelta(t, 4, f.Knee.EarlyDrop.AtS, 0.1)
	require.NotNil(t, f.Knee.Drop)
	assert.GreaterOrEqual(t, f.Knee.Drop.AtS, f.Knee.EarlyDrop.AtS-f.Knee.EarlyDrop.UncertaintyS)
	assert.Equal(t, map[string]uint64{"table_full": dropped}, causesOf(f))
	assert.Equal(t, evictedN, f.Nodes[0].Counters["early_drop"])
	assert.Nil(t, f.Predicted.DropAtS, "evictable entries make the full table soft")
	assert.InDelta(t, 4, *f.Predicted.FullAtS, 1e-6)
	assert.Contains(t, f.Causes[0].Evidence, "lost exactly one datagram each")
}

// Which attempts were evicted, of many that were dropped at the same time, is
// not known: the plot does not put them all at the end.
func TestEvictedAmongDropped(t *testing.T) {
	info := finTraffic("dns", 0, 10)
	info.Shape, info.To, info.Close, info.Residence, info.ResidueState = "udp", "web", "", 30, "UDP"
	s := newSim(t, 262144, 4000, info)
	var early uint64
	for i, due := range dues(0, 10, 1000) {
		switch {
		case s.entries < int64(s.limit):
			s.enter(due)
			s.ok("dns", due)
		case i%12 == 0, due > 4.5 && due < 5.5 && i%100 == 1: // most are dropped, ten are evicted
			if i%12 == 0 {
				s.bump(due, simNode, "drop", 1)
			} else {
				early++
			}
			seq := s.fail("dns", due, runlog.ResponseTimeout, 1)
			s.autopsy("dns", seq, due, false, "", false)
		default:
			s.bump(due, simNode, "early_drop", 1)
			s.ok("dns", due)
		}
	}
	f := s.analyze()
	found := causesOf(f)["evicted"]
	require.NotZero(t, found)
	assert.LessOrEqual(t, found, early)
	var before, sum, both float64
	for _, c := range f.Timeline.Causes {
		for i, v := range c.PerS {
			both += v * f.Timeline.Load.StepS
			if c.Cause == "evicted" {
				sum += v * f.Timeline.Load.StepS
				if f.Timeline.Load.T[i] < 7 {
					before += v * f.Timeline.Load.StepS
				}
			}
		}
	}
	var failed float64
	for _, v := range f.Timeline.Load.Failed {
		failed += v * f.Timeline.Load.StepS
	}
	assert.InDelta(t, float64(found), sum, 0.01)
	assert.InDelta(t, failed, both, 0.05)
	assert.InDelta(t, sum/2, before, sum/10, "half of the failures were due in the first half")
	assert.Contains(t, renderedHTML(t, f), "they are spread evenly")
}

func TestEvicted(t *testing.T) {
	s := newSim(t, 262144, 10, finTraffic("web", 0, 5), floodTraffic("flood", 0, 5))
	s.header.Traffic[0].Close = "rst"
	var lost uint64
	each(func(name string, due float64) {
		if name == "flood" {
			s.sent(name, due)
			if !(s.entries < int64(s.limit) && s.enter(due)) {
				s.bump(due, simNode, "early_drop", 1)
			}
			return
		}
		if due > 2 && int(due*100)%7 == 0 { // its entry is taken away during the handshake
			lost++
			seq := s.fail(name, due, runlog.ConnectTimeout, 1)
			s.autopsy(name, seq, due, false, "", false)
			return
		}
		s.ok(name, due)
	}, map[string][]float64{"flood": dues(0, 5, 3000), "web": dues(0, 5, 100)})
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"evicted": lost}, causesOf(f))
	assert.Equal(t, Fail, f.Verdict)
	assert.NotNil(t, f.Knee.EarlyDrop)
	assert.Nil(t, f.Knee.Drop)
	assert.True(t, f.Sizing.Meaningless)

	// What is said of limits does not contradict itself, and the remedies are some.
	page := renderedHTML(t, f)
	assert.Contains(t, page, "No limit is a remedy")
	for _, paste := range []string{f.Sizing.KubeProxy, f.Sizing.Sysctl} {
		assert.Contains(t, paste, "# no remedy for the flood, whatever the limit: for the rest\n")
	}
	assert.False(t, strings.Contains(page, "would have held"))
	why := joined(advise(f).Why)
	assert.Contains(t, why, "a shorter nf_conntrack_tcp_timeout_syn_recv lets its entries go sooner, which makes them fewer and is no remedy by itself")
	assert.Contains(t, why, "NOTRACK on the node is none for packets to a service")
	assert.Contains(t, why, "SYNPROXY needs SYNs that are not tracked, so it belongs in front of the node")
	z := f.Sizing
	last := z.Timeouts[len(z.Timeouts)-2]
	assert.Equal(t, "net.netfilter.nf_conntrack_tcp_timeout_syn_recv", last.Sysctl)
	assert.Equal(t, 30.0, last.ToS)
	assert.InDelta(t, float64(*z.NeededEntries+3000*30), float64(last.NeededEntries), 1)
	assert.GreaterOrEqual(t, last.Limit, last.NeededEntries+3000*60, "those that have expired and are not collected yet")
	assert.Contains(t, last.Risk, "flood flood as it was, which needs 180000 entries by itself at 60 s")
}

// A flood's packets are dropped too, and nobody counts its failures.
func TestFloodBesideClients(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 8), floodTraffic("flood", 0, 8))
	var lost, drops uint64
	i := 0
	each(func(name string, due float64) {
		if s.entries < int64(s.limit) {
			s.enter(due)
			if name == "web" {
				s.ok(name, due)
			} else {
				s.sent(name, due)
			}
			return
		}
		i++
		dropped := i%4 == 0 // of both alike
		s.bump(due, simNode, map[bool]string{true: "drop", false: "early_drop"}[dropped], 1)
		if dropped {
			drops++
		}
		switch {
		case name == "flood":
			s.sent(name, due)
		case dropped:
			lost++
			seq := s.fail(name, due, runlog.ConnectTimeout, 1)
			s.autopsy(name, seq, due, false, "", false)
		default:
			s.ok(name, due)
		}
	}, map[string][]float64{"flood": dues(0, 8, 3001), "web": dues(0, 8, 313)})
	require.Greater(t, lost, uint64(100))
	f := s.analyze()
	got := causesOf(f)
	assert.InDelta(t, float64(lost), float64(got["table_full"]), float64(lost)*0.02)
	assert.Equal(t, drops, f.Nodes[0].TableFullDrops)
	assert.True(t, f.Causes[0].Proof.Shared)
	assert.Contains(t, f.Causes[0].Evidence, "competed")
	assert.NotContains(t, f.Causes[0].Evidence, fmt.Sprint(drops)+" attempts")
}

// While a flood fills the table, clients fail for another reason: more of them
// than their share of the drops could explain.
func TestFloodDoesNotExcuseOthers(t *testing.T) {
	s := newSim(t, 262144, 100, finTraffic("web", 0, 5), floodTraffic("flood", 0, 5))
	var lost uint64
	each(func(name string, due float64) {
		if name == "flood" {
			s.sent(name, due)
			s.enter(due)
			return
		}
		lost++
		s.fail(name, due, runlog.ConnectTimeout, 1)
	}, map[string][]float64{"flood": dues(0, 5, 1000), "web": dues(0, 5, 1000)})
	f := s.analyze()
	got := causesOf(f)
	// Half of the drops can be theirs, as far as counters go, and no more.
	assert.LessOrEqual(t, float64(got["table_full"]), 0.53*float64(lost))
	assert.Greater(t, got["unknown"], lost/3)
}

func TestFullTableWithoutAttempts(t *testing.T) {
	s := newSim(t, 262144, 1000, finTraffic("web", 0, 5))
	require.Zero(t, s.fill("web", 1000, 0, 1)) // exactly full, then nothing is attempted
	f := s.analyze()
	assert.Equal(t, Pass, f.Verdict)
	assert.Nil(t, f.Knee.Drop)
	assert.InDelta(t, 1.0, *f.Nodes[0].PeakOccupancy, 1e-9)
	assert.Equal(t, 0, ExitCode(f))
}

func TestGatewaySecondLeg(t *testing.T) {
	info := finTraffic("web", 0, 5)
	info.Shape, info.EntriesPerAttempt, info.To = "http", 2, "gw"
	s := newSim(t, 262144, 2000, info)
	s.header.Services = append(s.header.Services, runlog.ServiceInfo{Name: "gw", Gateway: "web", Backends: []runlog.BackendInfo{{Name: "gw-1", Addr: netip.MustParseAddrPort("10.244.0.4:80")}}})
	var firstLeg, second uint64
	for i, due := range dues(0, 5, 400) {
		free := int64(s.limit) - s.entries
		switch {
		case free >= 2:
			s.enter(due)
			s.enter(due + 0.001)
			s.ok("web", due)
		case i%2 == 0: // the client's own SYN
			s.bump(due, simNode, "drop", 1)
			s.fail("web", due, runlog.ConnectTimeout, 0) // http does not say how many SYNs
			firstLeg++
		default: // the client's connection is reused; the gateway's SYN is dropped
			s.bump(due+0.3, simNode, "drop", 1)
			s.bump(due+1.3, simNode, "drop", 1) // its retransmission: nobody's failure
			s.fail("web", due, runlog.BadResponse, 0)
			s.records[len(s.records)-1].Failure.Errno = "HTTP_502"
			second++
		}
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"table_full": firstLeg + second}, causesOf(f))
	assert.Contains(t, f.Causes[0].Evidence, "behind a gateway")
}

// A few second legs among many first ones: the surplus of drops that explains
// them must not be used up by attempts that have drops of their own.
func TestRareSecondLeg(t *testing.T) {
	info := finTraffic("web", 0, 8)
	info.Shape, info.EntriesPerAttempt, info.To = "http", 2, "gw"
	s := newSim(t, 262144, 600, info)
	s.header.Services = append(s.header.Services, runlog.ServiceInfo{Name: "gw", Gateway: "web", Backends: []runlog.BackendInfo{{Name: "gw-1", Addr: netip.MustParseAddrPort("10.244.0.4:80")}}})
	s.records = append(s.records, runlog.Record{Host: "gw-1", T: 7, Served: &runlog.Served{Service: "gw", Backend: "gw-1", Accepted: 303, Served: 300}})
	var failed uint64
	for i, due := range dues(0, 8, 300) {
		switch {
		case int64(s.limit)-s.entries >= 2:
			s.enter(due)
			s.enter(due + 0.001)
			s.ok("web", due)
		case i == 301 || i == 700 || i == 1100:
			for _, at := range []float64{0.001, 1.02, 2.04} {
				s.bump(due+at, simNode, "drop", 1)
			}
			seq := s.fail("web", due, runlog.ResponseTimeout, 0)
			s.autopsy("web", seq, due, true, "ESTABLISHED", true)
			failed++
		default:
			s.bump(due, simNode, "drop", 1)
			s.fail("web", due, runlog.ConnectTimeout, 1)
			failed++
		}
	}
	f := s.analyze()
	assert.Equal(t, map[string]uint64{"table_full": failed}, causesOf(f))
	assert.Contains(t, f.Causes[0].Evidence, "3 attempts behind a gateway")
}

func TestTruncated(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.fill("web", 700, 0, 10)
	whole := s.log()
	for _, part := range []float64{0.001, 0.3, 0.62, 0.99} {
		f, err := Analyze(bytes.NewReader(whole[:int(part*float64(len(whole)))]))
		require.NoError(t, err)
		assert.True(t, f.Incomplete)
		assert.Equal(t, Inconclusive, f.Verdict)
		assert.Nil(t, f.Restored)
		for _, format := range Formats() {
			if format == "png" && part != 0.62 {
				continue // is drawn from what svg is, by far slower
			}
			require.NoError(t, Render(format, f, &bytes.Buffer{}))
		}
	}
}

func TestEmptyAndHeaderless(t *testing.T) {
	f, err := Analyze(strings.NewReader(""))
	require.NoError(t, err)
	assert.Equal(t, Inconclusive, f.Verdict)
	assert.Contains(t, f.Headline, "empty")

	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.fill("web", 700, 0, 10)
	log := s.log()
	f, err = Analyze(bytes.NewReader(log[bytes.IndexByte(log, '\n')+1:]))
	require.NoError(t, err)
	assert.Equal(t, Inconclusive, f.Verdict)
	assert.Contains(t, f.Reasons[0], "no header")
}

func TestNoSamplesNeverPass(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
	s.noSample = true
	s.fill("web", 100, 0, 5)
	f := s.analyze()
	assert.Equal(t, Inconclusive, f.Verdict)
	assert.Contains(t, f.Reasons[0], "no node's table was sampled")
}

func TestOnlyAFloodThatIsDropped(t *testing.T) {
	s := newSim(t, 262144, 1000, floodTraffic("flood", 0, 3))
	for _, due := range dues(0, 3, 1000) {
		s.sent("flood", due)
		s.enter(due)
	}
	f := s.analyze()
	assert.Equal(t, Fail, f.Verdict)
	assert.Empty(t, f.Causes)
	assert.Nil(t, f.Traffic[0].Succeeded)
	assert.Contains(t, f.Reasons[0], "one-way")
}

func TestThresholds(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	failed := s.fill("web", 700, 0, 10)
	s.header.Thresholds = []string{
		"errors < 50%", "errors < 60%", "web: errors < 0.1% during 0s..4s", "failures <= 4000", "errors == 0% during 5s..10s",
		"p99 < 50ms", "web: p99 < 900us", "p50 < 520us during 0s..1s", "max < 1ms during 3s..4s", "p99 < 1s during 8s..9s",
		"occupancy < 80%", "occupancy < 99.6% during 0s..2s", "entries <= 262144", "drop == 0", "drop == 0 during 0s..4s", "early_drop == 0",
		"late < 1%", "not_started == 0%", "nonsense > 1",
	}
	want := []Verdict{
		Fail, Pass, Pass, Pass, Fail,
		Pass, Fail, Pass, Pass, Inconclusive,
		Fail, Pass, Pass, Fail, Pass, Pass,
		Pass, Pass, Inconclusive,
	}
	f := s.analyze()
	require.Equal(t, uint64(4000), failed)
	for i, r := range f.Thresholds {
		assert.Equal(t, want[i], r.Result, "%s: %s", r.Threshold, r.Detail)
		if r.Result == Inconclusive {
			assert.Nil(t, r.Measured)
		}
	}
	assert.Equal(t, Fail, f.Verdict)

	s.header.Thresholds = []string{"errors < 60%", "p99 < 1s during 8s..9s"}
	assert.Equal(t, Inconclusive, s.analyze().Verdict, "no data is no pass")
	s.header.Thresholds = []string{"errors < 60%"}
	assert.Equal(t, Pass, s.analyze().Verdict, "the threshold decides where there is one")
}

// No limit below what was counted is said to have held the run, however few
// entries its attempts need by themselves.
func TestSizingIsNotBelowTheCount(t *testing.T) {
	s := newSim(t, 131072, 131072, finTraffic("web", 0, 5))
	s.fill("web", 100, 0, 5)
	for range 36 { // the second entries of clashes, or anybody else's
		s.enter(2)
	}
	z := s.analyze().Sizing
	assert.Equal(t, uint64(500+36), *z.RunNeeded)
	assert.Contains(t, z.RunNeededHow, "more than the 500 that")
}

func TestSizing(t *testing.T) {
	s := newSim(t, 131072, 131072-62144, finTraffic("web", 0, 20))
	s.fill("web", 1000, 0, 20)
	idle := runlog.TrafficInfo{Name: "idle", Shape: "idle", To: "web", End: 20, Timeout: 1, EntriesPerAttempt: 1, Residence: 432000, ResidueState: "ESTABLISHED", ExpectsAnswer: true}
	s.header.Traffic = append(s.header.Traffic, idle)
	for _, due := range dues(0, 10, 50) {
		s.enter(due)
		s.ok("idle", due)
	}
	f := s.analyze()
	z := f.Sizing
	require.NotNil(t, z.NeededEntries)
	assert.InDelta(t, 1000*120+500, float64(*z.NeededEntries), 5)
	assert.InDelta(t, 1000*60, float64(*z.UncollectedEntries), 5, "those of the collector's longest pause")
	assert.GreaterOrEqual(t, float64(*z.RecommendedLimit), float64(*z.NeededEntries)/0.75)
	assert.GreaterOrEqual(t, *z.RecommendedLimit, *z.NeededEntries+*z.UncollectedEntries)
	assert.LessOrEqual(t, float64(*z.RecommendedLimit), float64(*z.NeededEntries+*z.UncollectedEntries)*1.13)
	assert.Equal(t, *z.RecommendedLimit*(256+8), *z.MemoryBytesMin)
	assert.Equal(t, *z.RecommendedLimit*(256+128+8), *z.MemoryBytesMax, "with extensions")
	all, limit := z.inAll()
	assert.Equal(t, *z.NeededEntries+62144, all, "what was there stays")
	assert.Equal(t, uint64(62144), *z.OtherEntries)
	assert.Equal(t, limit, *z.LimitInAll)
	assert.GreaterOrEqual(t, float64(limit), float64(all)/0.75)
	assert.Contains(t, z.KubeProxy, fmt.Sprintf("min: %d", limit))
	assert.Contains(t, z.Sysctl, fmt.Sprintf("nf_conntrack_max = %d\n", limit))
	require.Len(t, z.Timeouts, 2)
	assert.Equal(t, 60.0, z.Timeouts[0].ToS)
	assert.InDelta(t, 1000*60+500, float64(z.Timeouts[0].NeededEntries), 5)
	assert.False(t, z.Meaningless)
	assert.Equal(t, uint64(262144-200000+20000+500), *z.RunNeeded)

	s.header.EntryBytes = 0
	z = s.analyze().Sizing
	assert.Equal(t, *z.RecommendedLimit*(256+8), *z.MemoryBytesMin)
	assert.Equal(t, *z.RecommendedLimit*(384+8), *z.MemoryBytesMax)
}

// Entries that expire within the run make room again.
func TestPredictionWithExpiry(t *testing.T) {
	info := finTraffic("web", 0, 30)
	info.Residence, info.ResidueState = 5, "CLOSE"
	s := newSim(t, 262144, 600, info)
	for _, due := range dues(0, 30, 100) {
		require.True(t, s.enter(due))
		s.entries--
		s.bump(due+5, simNode, "entries", -1)
		s.ok("web", due)
	}
	f := s.analyze()
	assert.Nil(t, f.Predicted.FullAtS)
	assert.InDelta(t, 262144-600+500, float64(*f.Predicted.PeakEntries), 11)
}

func TestHeldConnections(t *testing.T) {
	info := runlog.TrafficInfo{Name: "idle", Shape: "idle", To: "web", End: 5, Timeout: 1, EntriesPerAttempt: 1, ExpectsAnswer: true}
	s := newSim(t, 262144, 100000, info)
	for _, due := range dues(0, 1, 100) {
		s.enter(due)
		s.ok("idle", due)
	}
	s.records = append(
		s.records,
		runlog.Record{Host: "client", T: 2, Held: &runlog.Held{Traffic: "idle", Open: 100, Validated: 100}},
		runlog.Record{Host: "client", T: 3, Failure: &runlog.Failure{Traffic: "idle", Seq: 3, Due: 0.03, Start: 0.03, Outcome: runlog.Reset, Phase: "held"}},
		runlog.Record{Host: "client", T: 4, Held: &runlog.Held{Traffic: "idle", Open: 99, Validated: 99, Lost: 1}},
	)
	f := s.analyze()
	assert.Equal(t, uint64(100), *f.Traffic[0].HeldPeak)
	assert.Equal(t, uint64(1), *f.Traffic[0].HeldLost)
	assert.Empty(t, f.Causes, "the attempt itself had succeeded")
	assert.Nil(t, f.Knee.ClientLoss)
	assert.Contains(t, strings.Join(f.Reasons, "\n"), "1 held connection")

	s.fail("idle", 0.08, runlog.Refused, 0)
	assert.InDelta(t, 0.08, s.analyze().Knee.ClientLoss.AtS, 1e-9, "the attempt that failed, not the one whose connection was lost")
}

func TestLossesAndDoubts(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
	s.cpuIdle = 0.01
	s.fill("web", 100, 0, 5)
	s.records = append(
		s.records,
		runlog.Record{Host: "node1", T: 1, Loss: &runlog.Loss{What: "samples", Count: 3, Why: "too slow"}},
		runlog.Record{Host: "client", T: 1, Loss: &runlog.Loss{What: "failures", Count: 9, Why: "bounded"}},
		runlog.Record{Host: "controller", T: 1, Event: &runlog.Event{Kind: "warning", Name: "w", Detail: "something odd"}},
		runlog.Record{Host: "controller", T: -1, Clock: &runlog.Clock{Of: "node1", Bound: 0.05}},
	)
	s.trailer.Records = map[string]uint64{"web-1": 1e6}
	f := s.analyze()
	doubts := strings.Join(f.Doubts, "\n")
	for _, want := range []string{"lost samples: 3 (too slow)", "something odd", "clocks", "idle"} {
		assert.Contains(t, doubts, want)
	}
	assert.Contains(t, strings.Join(f.NotMeasured, "\n"), "9 failures")
	assert.Equal(t, Inconclusive, f.Verdict, "records are missing")
	assert.Contains(t, strings.Join(f.Reasons, "\n"), "web-1")
}

func TestInterrupted(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.fill("web", 700, 0, 6)
	s.trailer.Outcome, s.trailer.Error, s.trailer.Restored = "interrupted", "interrupt", false
	s.trailer.UndoErrors = []string{"remove namespace x by hand"}
	f := s.analyze()
	assert.Equal(t, Inconclusive, f.Verdict)
	assert.True(t, f.Incomplete)
	assert.False(t, *f.Restored)
	assert.Len(t, f.UndoErrors, 1)
	assert.NotNil(t, f.Knee.Drop, "what was seen is still shown")
}

// A run that a threshold has ended is whole, and failed.
func TestAborted(t *testing.T) {
	aborted := func(outcome string) *Findings {
		s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
		s.header.Thresholds, s.header.AbortOn = []string{"drop <= 0"}, []string{"drop <= 0"}
		s.fill("web", 700, 0, 5)
		s.notStarted("web", 5.1, runlog.Stopped)
		for range 300 {
			s.sent("web", 4.9)
			s.bin("web", 4.9).Outcomes[runlog.Interrupted]++
		}
		s.trailer.Outcome, s.trailer.Error = outcome, "drop <= 0 does not hold any more"
		return s.analyze()
	}
	f := aborted("aborted")
	assert.Equal(t, Fail, f.Verdict, "%v", f.Reasons)
	assert.False(t, f.Incomplete)
	assert.Contains(t, f.Reasons[0], "as abort_on asks: drop <= 0 does not hold any more")
	assert.Equal(t, Inconclusive, aborted("interrupted").Verdict)
}

// What ends a run early does not stand in place of what it was to show.
func TestAbortOnIsNoThresholdForExpectations(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.fill("web", 100, 0, 10)
	s.header.Thresholds, s.header.AbortOn = []string{"drop <= 0"}, []string{"drop <= 0"}
	s.header.Expect = []string{"table_full > 100"}
	f := s.analyze()
	assert.Equal(t, Inconclusive, f.Verdict, "%v", f.Reasons)
	s.header.Expect = []string{"drop == 0"}
	f = s.analyze()
	assert.Equal(t, Pass, f.Verdict, "%v", f.Reasons)
	assert.Contains(t, f.Reasons[0], "reproduced")
}

// Clients of a headless service send to its pods: their entries are not
// translated, and need not be.
func TestHeadlessIsNotUntranslated(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	for i, due := range dues(0, 10, 100) {
		if due < 3 || due >= 5 {
			s.enter(due)
			s.ok("web", due)
			continue
		}
		seq := s.fail("web", due, runlog.ConnectTimeout, 1)
		if i%5 == 0 {
			s.autopsy("web", seq, due, true, "SYN_SENT", false)
			a := s.records[len(s.records)-1].Autopsy
			a.DNAT, a.Tuple.Dst, a.ReplySrc = false, netip.MustParseAddrPort("10.244.0.2:8080"), netip.MustParseAddrPort("10.244.0.2:8080")
		}
		s.bump(due, "web-1", "TcpExt.ListenDrops", 1)
	}
	assert.Equal(t, map[string]uint64{"listen_overflow": 200}, causesOf(s.analyze()))
}

func TestTwoNodes(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.header.Nodes = []string{"node0", simNode}
	failed := s.fill("web", 700, 0, 10)
	for i := range 100 {
		s.records = append(s.records, runlog.Record{Host: "node0", T: float64(i)*0.1 - 0.4, Sample: &runlog.Sample{Conntrack: &runlog.Conntrack{Entries: 5, Limit: 1000, Counters: map[string]uint64{"drop": 0, "early_drop": 0, "insert_failed": 0}}}})
	}
	f := s.analyze()
	assert.Equal(t, f.Nodes[1].Knee.Drop, f.Knee.Drop)
	assert.Nil(t, f.Nodes[0].Knee.Drop)
	assert.Nil(t, f.Nodes[1].Knee.ClientLoss, "nobody knows through which node it went")
	assert.Equal(t, map[string]uint64{"table_full": failed}, causesOf(f))
	assert.Contains(t, f.Headline, "node1 drops")
}

func TestCounterDelta(t *testing.T) {
	for _, c := range []struct {
		was, is, delta uint64
		ok             bool
	}{
		{5, 5, 0, true},
		{5, 9, 4, true},
		{1<<32 - 1, 4, 5, true},
		{3<<32 - 1, 2<<32 + 4, 5, true}, // one of several CPUs wrapped
		{100, 5, 0, false},              // began again
		{math.MaxUint64, 0, 0, false},
	} {
		d, ok := counterDelta(c.was, c.is)
		assert.Equal(t, c.delta, d, "%d to %d", c.was, c.is)
		assert.Equal(t, c.ok, ok, "%d to %d", c.was, c.is)
	}
}

// What changed in a sample that got lost is in no other one until the next
// whole sample: the drop did not happen where it turns up, but in between.
func TestLostSampleMovesNothing(t *testing.T) {
	s := nearlyFull(t)
	s.end = 12
	s.fill("web", 400, 0, 2.53) // a dozen too many, in one sample
	log := s.log()
	before, err := Analyze(bytes.NewReader(log))
	require.NoError(t, err)
	at := before.Knee.Drop.AtS
	var kept []byte
	lost := 0
	for line := range bytes.Lines(log) {
		var r runlog.Record
		require.NoError(t, json.Unmarshal(line, &r))
		if r.Host == simNode && r.Sample != nil && math.Abs(r.T-at) < 0.15 {
			lost++
			continue
		}
		kept = append(kept, line...)
	}
	require.Positive(t, lost)
	f, err := Analyze(bytes.NewReader(kept))
	require.NoError(t, err)
	assert.Equal(t, before.Nodes[0].Counters, f.Nodes[0].Counters)
	require.NotNil(t, f.Knee.Drop)
	assert.LessOrEqual(t, f.Knee.Drop.AtS-f.Knee.Drop.UncertaintyS, at)
	assert.GreaterOrEqual(t, f.Knee.Drop.AtS+f.Knee.Drop.UncertaintyS, at)
	assert.Equal(t, before.Nodes[0].PeakEntries, f.Nodes[0].PeakEntries)
}

// A private kernel does not see the machine that it runs on, and that is said.
func TestBusyMachineIsNotSeenFromAPrivateKernel(t *testing.T) {
	for _, private := range []bool{false, true} {
		s := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
		s.header.Private = private
		s.fill("web", 100, 0, 5)
		f := s.analyze()
		_, told := f.Nodes[0].CPU["steal"]
		assert.Contains(t, f.Nodes[0].CPU, "idle")
		assert.Equal(t, !private, told)
		assert.Equal(t, private, strings.Contains(strings.Join(f.NotMeasured, "\n"), "how busy the machine around the private kernel was"))
	}
}

// The first attempt that is lost is not lost before the table drops its SYN, however
// late it was started.
func TestClientLossIsNotBeforeTheDrop(t *testing.T) {
	for _, late := range []float64{0, 0.002, 0.008, 0.02} {
		s := newSim(t, 262144, 100, finTraffic("web", 0, 5))
		require.NotZero(t, s.fill("web", 50, 0, 5))
		for _, r := range s.records {
			if r.Failure != nil {
				r.Failure.Start = r.Failure.Due + late
			}
		}
		k := s.analyze().Knee
		require.NotNil(t, k.Drop)
		assert.InDelta(t, 2+late, k.Drop.AtS, 1e-6)
		assert.InDelta(t, k.Drop.AtS, k.ClientLoss.AtS, 1e-9, "%g s late", late)
	}
}

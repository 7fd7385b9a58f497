package report

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/tablefull/tablefull/report/runlog"
)

func waiting(rate float64) SizingPart {
	return SizingPart{Traffic: "connections", ArrivalsPerS: rate, EntriesPerAttempt: 1, ResidenceS: 120, State: "TIME_WAIT"}
}

// All numbers by hand: 700/s x 120 s, 300/s x 30 s and 5000 held.
func TestSize(t *testing.T) {
	s := Size([]SizingPart{
		waiting(700),
		{Traffic: "udp", ArrivalsPerS: 300, EntriesPerAttempt: 1, ResidenceS: 30, State: "UDP"},
		{Traffic: "held", EntriesPerAttempt: 1, State: "ESTABLISHED", Held: 5000},
	}, 1000, Machine{Limit: 131072})
	require.NotNil(t, s.NeededEntries)
	assert.Equal(t, uint64(84000+9000+5000+1000), *s.NeededEntries)
	assert.Equal(t, uint64(60000), *s.UncollectedEntries, "700/s and 300/s for 60 s; what is held does not expire")
	assert.Equal(t, uint64(163840), *s.RecommendedLimit, "159000, rounded up: more than 99000/0.75")
	assert.Equal(t, uint64(327680), s.Growth[1].Limit)
	assert.Equal(t, []float64{1.5, 2, 5}, []float64{s.Growth[0].Factor, s.Growth[1].Factor, s.Growth[2].Factor})
	assert.Equal(t, uint64(198000), s.Growth[1].NeededEntries)
	require.NotEmpty(t, s.Timeouts)
	assert.Equal(t, uint64(99000-42000), s.Timeouts[0].NeededEntries, "TIME_WAIT for 60 s")

	require.Len(t, s.Fills, 5)
	assert.Nil(t, s.Fills[0].Seconds)
	assert.Equal(t, uint64(99000), s.Fills[0].SteadyEntries)
	// The other half of the load: 5000 at once, then 1000/s into what is left.
	assert.Equal(t, "failover, 1 of 2 nodes left", s.Fills[1].Case)
	require.NotNil(t, s.Fills[1].Seconds)
	assert.InDelta(t, (131072.0-99000-5000)/1000, *s.Fills[1].Seconds, 1e-9)
	// A third more: 2500 at once, 500/s for 30 s, then 350/s.
	require.NotNil(t, s.Fills[2].Seconds)
	assert.InDelta(t, 30+(131072.0-99000-2500-15000)/350, *s.Fills[2].Seconds, 1e-9)
	assert.Nil(t, s.Fills[4].Seconds)
}

func TestSizeFits(t *testing.T) {
	fit := func(rate float64, cores int) Fit {
		for _, f := range Size([]SizingPart{waiting(rate)}, 0, Machine{}).Fits {
			if f.Cores == cores {
				return f
			}
		}
		require.Fail(t, "no such size")
		return Fit{}
	}
	assert.Equal(t, Fit{2, 131072, "yes", 131072, "yes"}, fit(700, 2))
	assert.Equal(t, Fit{2, 131072, "tight", 131072, "tight"}, fit(1000, 2))
	assert.Equal(t, Fit{8, 262144, "yes", 262144, "yes"}, fit(1200, 8))
	// The cap of 1.36.
	assert.Equal(t, Fit{64, 2097152, "yes", 1048576, "no"}, fit(10000, 64))
	assert.Empty(t, Size([]SizingPart{waiting(600)}, 0, Machine{}).Fills, "no present limit, no time until it")
}

func TestSizeNeverLowers(t *testing.T) {
	s := Size([]SizingPart{waiting(728)}, 0, Machine{Limit: 131072}) // 180 s of them
	require.Equal(t, uint64(131072), *s.RecommendedLimit)
	assert.NotContains(t, s.Sysctl, "LOWER", "it is the same")
	s = Size([]SizingPart{waiting(600)}, 0, Machine{Limit: 131072})
	assert.Contains(t, s.Sysctl, "LOWER")
	assert.NotContains(t, s.Sysctl, "nf_conntrack_max =")
}

func TestRenderSize(t *testing.T) {
	s := Size([]SizingPart{waiting(700)}, 0, Machine{Limit: 131072, CPUs: 4})
	for _, format := range SizeFormats() {
		var b bytes.Buffer
		require.NoError(t, RenderSize(format, s, nil, &b))
		assert.Contains(t, b.String(), "84000")
		if format == "json" {
			var back Sizing
			require.NoError(t, json.Unmarshal(b.Bytes(), &back))
			want := *s
			want.setting = setting{} // is for rendering the report of a run
			assert.Equal(t, want, back)
		}
	}
	require.Error(t, RenderSize("xml", s, nil, &bytes.Buffer{}))
}

// The model agrees with a table that does what it says, and not with one that
// has twice as much.
func TestResidual(t *testing.T) {
	for _, c := range []struct {
		per    int64
		lo, hi float64
	}{{1, 0, 0.01}, {2, 0.95, 1.05}} {
		s := newSim(t, 262144, 262144, finTraffic("web", 0, 10))
		for _, due := range dues(0, 10, 200) {
			require.True(t, s.enter(due))
			s.entries += c.per - 1
			s.bump(due, simNode, "entries", c.per-1)
			s.ok("web", due)
		}
		r := s.analyze().Sizing.Residual
		require.NotNil(t, r)
		assert.GreaterOrEqual(t, r.MeanShare, c.lo)
		assert.LessOrEqual(t, r.MeanShare, c.hi)
		assert.InDelta(t, 10, r.ToS, 0.2)
	}
}

// Nothing is compared after the first drop.
func TestResidualUntilTheDrop(t *testing.T) {
	s := newSim(t, 262144, 1000, finTraffic("web", 0, 10))
	s.fill("web", 200, 0, 10)
	r := s.analyze().Sizing.Residual
	require.NotNil(t, r)
	assert.InDelta(t, 5, r.ToS, 0.2)
	assert.Less(t, r.MeanShare, 0.01)
}

func TestMeasuredResidence(t *testing.T) {
	for state, groups := range map[string][]runlog.CensusGroup{
		"TIME_WAIT": {{Proto: "tcp", State: "TIME_WAIT", Count: 2}},
		"UDP":       {{Proto: "udp", Replied: true, Count: 1}, {Proto: "udp", Count: 1}},
	} {
		t.Run(state, func(t *testing.T) {
			info := finTraffic("web", 0, 20)
			info.Residence, info.ResidueState = 5, state
			s := newSim(t, 262144, 262144, info)
			for _, due := range dues(0, 20, 100) {
				require.True(t, s.enter(due))
				s.entries--
				s.bump(due+6, simNode, "entries", -1)
				s.ok("web", due)
			}
			for at := 1.0; at < 20; at++ {
				n, walk := uint64(100*min(at, 6)), []runlog.CensusGroup{{Proto: "udp", Replied: true, Assured: true, Count: 7}}
				for _, g := range groups {
					g.Count *= n / 2
					walk = append(walk, g)
				}
				s.records = append(s.records, runlog.Record{Host: simNode, T: at, Census: &runlog.Census{Entries: n + 7, Groups: walk}})
			}
			p := s.analyze().Sizing.Parts[0]
			require.NotNil(t, p.MeasuredS)
			assert.InDelta(t, 6, *p.MeasuredS, 0.2, "the entries stay a second longer than their timeout says")

			info.Residence = 120
			s.header.Traffic = []runlog.TrafficInfo{info}
			assert.Nil(t, s.analyze().Sizing.Parts[0].MeasuredS, "the run is shorter than that")
		})
	}
}

// What is pasted gives at least the limit that was recommended, on any number of
// cores and with each version's formula, and lowers none, nor what a large
// node has by default.
func TestKubeProxyGivesTheLimit(t *testing.T) {
	// getConntrackMax of kube-proxy: pkg/proxy/conntrack up to 1.35, and from 1.36.
	limitOf := func(maxPerCore, least, cores uint64, from136 bool) uint64 {
		switch scaled := maxPerCore * cores; {
		case maxPerCore == 0:
			return 0
		case from136 && scaled > 1048576:
			return 1048576
		case scaled > least:
			return scaled
		}
		return least
	}
	for _, rate := range []float64{10, 700, 1200, 10000, 40000} {
		for _, present := range []uint64{0, 131072, 2097152} {
			s := Size([]SizingPart{waiting(rate)}, 0, Machine{Limit: present})
			var pasted struct {
				Conntrack struct{ MaxPerCore, Min uint64 }
			}
			dec := yaml.NewDecoder(strings.NewReader(strings.ReplaceAll(s.KubeProxy, "maxPerCore", "maxpercore")))
			dec.KnownFields(true)
			require.NoError(t, dec.Decode(&pasted), s.KubeProxy)
			for _, cores := range []uint64{1, 2, 32, 33, 128} {
				for _, from136 := range []bool{false, true} {
					got := limitOf(pasted.Conntrack.MaxPerCore, pasted.Conntrack.Min, cores, from136)
					want := max(*s.RecommendedLimit, present)
					if want <= 1048576 {
						want = max(want, limitOf(32768, 0, cores, from136))
					}
					assert.Equal(t, want, got, "%g/s, %d cores, from 1.36: %v", rate, cores, from136)
				}
			}
		}
	}
}

func TestVerificationJudges(t *testing.T) {
	held, lost := VerificationTrial{Free: 1000, Expected: true, Holds: true}, VerificationTrial{Free: 900, Dropped: 100}
	for name, c := range map[string]struct {
		trials []VerificationTrial
		want   Verdict
	}{
		"as computed":   {[]VerificationTrial{held, lost}, Pass},
		"needs more":    {[]VerificationTrial{{Free: 1000, Expected: true, Dropped: 3}, lost}, Fail},
		"needs less":    {[]VerificationTrial{held, {Free: 900, Holds: true}}, Fail},
		"unsound":       {[]VerificationTrial{held, {Free: 900, Unsound: []string{"late"}}}, Inconclusive},
		"unsound, lost": {[]VerificationTrial{{Free: 1000, Expected: true, Dropped: 3, Unsound: []string{"late"}}, lost}, Inconclusive},
		"nothing":       {nil, Inconclusive},
	} {
		v := Verification{Trials: c.trials}
		v.Judge()
		assert.Equal(t, c.want, v.Verdict, name)
	}
}

// Clashes are no full table.
func TestTrialOfWithClashes(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.fill("web", 200, 0, 10)
	s.bump(5, simNode, "drop", 3)
	s.bump(5, simNode, "insert_failed", 3)
	x := TrialOf(s.analyze(), Wanted{Need: 3000, Free: 3000}, "d")
	assert.True(t, x.Holds)
	assert.Zero(t, x.Dropped)
}

func TestTrialOf(t *testing.T) {
	for _, c := range []struct {
		headroom uint64
		holds    bool
	}{{2000, true}, {1800, false}} {
		s := newSim(t, 262144, c.headroom, finTraffic("web", 0, 10))
		s.fill("web", 200, 0, 10)
		x := TrialOf(s.analyze(), Wanted{Free: c.headroom}, "d")
		assert.Empty(t, x.Unsound)
		assert.Equal(t, c.holds, x.Holds)
		assert.Equal(t, c.holds, x.Dropped == 0)
		assert.Equal(t, int64(c.headroom), *x.FreeThen)
		assert.NotEmpty(t, TrialOf(s.analyze(), Wanted{Free: c.headroom + 100}, "d").Unsound, "not what was asked for")
		s.noSample = true
		assert.NotEmpty(t, TrialOf(s.analyze(), Wanted{Free: c.headroom}, "d").Unsound, "no data holds nothing")
	}
}

// What is neither ballast nor to the run's services is others', from the walk
// before traffic on.
func TestOthersInATable(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.fill("web", 100, 0, 10)
	addr, pod := s.header.Services[0].Addr, s.header.Services[0].Backends[0].Addr
	walk := func(at float64, ballast, ours, theirs uint64) {
		c := &runlog.Census{Entries: ballast + ours + theirs, Ballast: ballast, Groups: []runlog.CensusGroup{
			{Proto: "tcp", State: "TIME_WAIT", Service: addr, Backend: pod, Count: ours / 2},
			{Proto: "tcp", State: "ESTABLISHED", Service: pod, Backend: pod, Count: ours - ours/2},
			{Proto: "tcp", State: "ESTABLISHED", Service: netip.MustParseAddrPort("10.96.0.1:443"), Backend: netip.MustParseAddrPort("198.18.0.1:6443"), Count: theirs},
		}}
		s.records = append(s.records, runlog.Record{Host: simNode, T: at, Census: c})
	}
	walk(-3, 200000, 0, 9)
	walk(-1, 259000, 2, 40)
	walk(2, 259000, 200, 43)
	walk(4, 0, 400, 38) // without ballast
	walk(12, 0, 1000, 400)
	s.header.Duration = 10
	n := s.analyze().Nodes[0]
	assert.Equal(t, others{walks: 3, start: 40, least: 38, most: 43}, n.others, "not before the last walk ahead of the traffic, nor after the run")
	require.NotNil(t, n.needs)
	assert.Equal(t, uint64(1000), *n.needs)
	s.records = slices.DeleteFunc(s.records, func(r runlog.Record) bool { return r.Census != nil && r.T > 0 && r.T < 10 })
	assert.Equal(t, others{walks: 2, start: 40, least: 40, most: 400}, s.analyze().Nodes[0].others, "for want of another")
}

// onCluster is a run whose traffic entered by node a.
func onCluster(free int64, o others) *Findings {
	beside, need := int64(100000), uint64(1000)
	return &Findings{Target: kubernetes, Sizing: &Sizing{}, Nodes: []Node{
		{Name: "b", HeadroomAtStart: &beside, Samples: 50, Entered: &Entered{}},
		{Name: "a", HeadroomAtStart: &free, Samples: 50, AgedOut: &Aged{WaitedS: 122}, Entered: &Entered{Due: 1000}, needs: &need, others: o},
	}}
}

// On a cluster's node the connections of others come and go: a trial whose room
// was not that of which it is to show something says nothing.
func TestTrialOfOnACluster(t *testing.T) {
	needed, less := Wanted{Need: 1000, Free: 1010, Holds: true}, Wanted{Need: 1000, Free: 910}
	for _, c := range []struct {
		name    string
		want    Wanted
		free    int64
		o       others
		dropped uint64
		unsound string
	}{
		{"held", needed, 1010, others{3, 50, 48, 52}, 0, ""},
		{"needs more", needed, 1010, others{3, 50, 48, 52}, 4, ""},
		{"less", less, 910, others{3, 50, 48, 52}, 90, ""},
		{"holds with less", less, 910, others{3, 50, 48, 52}, 0, ""},
		{"others took it", needed, 1010, others{3, 50, 50, 70}, 10, "a had room for 990 entries only"},
		{"others took some of too much", needed, 1010, others{3, 50, 50, 70}, 0, ""},
		{"others left", needed, 1010, others{3, 100, 50, 100}, 0, "a had room for up to 1060 entries"},
		{"others left, and it was not enough", needed, 1010, others{3, 100, 50, 100}, 4, ""},
		{"less, and others left", less, 910, others{3, 100, 50, 100}, 0, "a had room for up to 960 entries"},
		{"less, and others took it", less, 910, others{3, 100, 100, 200}, 150, "a had room for 810 entries only"},
		{"filled by others before", needed, 700, others{3, 50, 50, 50}, 300, "a had room for 700 entries only"},
		{"not walked", needed, 1010, others{}, 0, "is not known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := onCluster(c.free, c.o)
			f.Nodes[1].TableFullDrops = c.dropped
			x := TrialOf(f, c.want, "d")
			assert.Equal(t, c.dropped == 0, x.Holds)
			if c.unsound == "" {
				assert.Empty(t, x.Unsound)
				assert.Contains(t, x.text(), "when traffic began")
			} else {
				assert.Contains(t, strings.Join(x.Unsound, "\n"), c.unsound)
			}
		})
	}
	f := onCluster(1010, others{3, 50, 50, 50})
	f.Nodes[1].AgedOut.Left = 7
	assert.Contains(t, strings.Join(TrialOf(f, needed, "d").Unsound, "\n"), "still had 7 entries of the trial before")
	f = onCluster(1010, others{3, 50, 50, 50})
	*f.Nodes[0].HeadroomAtStart = 500
	assert.Contains(t, strings.Join(TrialOf(f, needed, "d").Unsound, "\n"), "b, which traffic does not enter by, had only 500")
	f = onCluster(1010, others{3, 50, 50, 50})
	f.Nodes[1].AgedOut = nil
	assert.NotEmpty(t, TrialOf(f, needed, "d").Unsound, "which node traffic enters by is not known")
}

func TestToVerify(t *testing.T) {
	n, need, theirs, why := onCluster(5000, others{3, 50, 45, 61}).ToVerify()
	assert.Empty(t, why)
	assert.Equal(t, "a", n.Name)
	assert.Equal(t, []uint64{1000, 11}, []uint64{need, theirs})
	for name, change := range map[string]func(*Findings){
		"only runs whose traffic enters by one node": func(f *Findings) { f.Nodes[0].Entered.Due = 500 },
		"no node's table was sampled":                func(f *Findings) { f.Nodes[1].Entered.Due = 0 },
		"against a flood":                            func(f *Findings) { f.Sizing.Meaningless = true },
		"the entries of x cannot be computed":        func(f *Findings) { f.Predicted = &Prediction{UnknownTraffic: []string{"x"}} },
		"could not be computed":                      func(f *Findings) { f.Nodes[1].needs = nil },
		"was not walked twice":                       func(f *Findings) { f.Nodes[1].others.walks = 1 },
		"came and went by 31 entries":                func(f *Findings) { f.Nodes[1].others.most = 81 },
	} {
		f := onCluster(5000, others{3, 50, 45, 61})
		change(f)
		_, _, _, why := f.ToVerify()
		assert.Contains(t, why, name)
	}
}

// What is pasted has the timeout that the size is computed with: kube-proxy's own
// is sixty times as long.
func TestKubeProxyCloseWait(t *testing.T) {
	part := func(state string, residence float64) SizingPart {
		p := waiting(250)
		p.State, p.ResidenceS = state, residence
		return p
	}
	of := func(p SizingPart) string { return Size([]SizingPart{p}, 0, Machine{}).KubeProxy }
	assert.Contains(t, of(part("CLOSE_WAIT", 60)), "\n  tcpCloseWaitTimeout: 60s  #")
	assert.NotContains(t, of(part("CLOSE_WAIT", 3600)), "tcpCloseWait")
	assert.NotContains(t, of(part("TIME_WAIT", 60)), "tcpCloseWait")
}

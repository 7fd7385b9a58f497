package report

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tablefull/tablefull/report/runlog"
)

// A log that is whole by its numbers, and does not say what happened: none of
// these may pass, with a threshold or without.
func TestSilenceIsNoPass(t *testing.T) {
	add := func(s *sim, r runlog.Record) { s.records = append(s.records, r) }
	lost := func(s *sim, what string) {
		add(s, runlog.Record{Host: "client", T: 5, Loss: &runlog.Loss{What: what, Count: 7, Why: "of a test"}})
	}
	for name, c := range map[string]struct {
		spoil func(*sim)
		want  string // in the reasons; empty for a pass
	}{
		"nothing":         {func(*sim) {}, ""},
		"failure details": {func(s *sim) { lost(s, "failures") }, ""},
		"records lost":    {func(s *sim) { lost(s, "records") }, "records were lost: 7 (of a test)"},
		"samples stop":    {func(s *sim) { s.skip = func(_ string, t float64) bool { return t > 2 } }, "not sampled after 1.9 s"},
		"samples begin":   {func(s *sim) { s.skip = func(_ string, t float64) bool { return t < 8 } }, "not sampled before 8.0 s"},
		"samples before":  {func(s *sim) { s.skip = func(_ string, t float64) bool { return t > 0 } }, "no node's table was sampled"},
		"second node":     {func(s *sim) { s.header.Nodes = append(s.header.Nodes, "node2") }, "node2's table was not sampled"},
		"second traffic":  {func(s *sim) { s.header.Traffic = append(s.header.Traffic, finTraffic("other", 0, 10)) }, "no attempt of other was due"},
		"counters set back": {func(s *sim) {
			s.initial["drop"] = 50
			s.bump(5, simNode, "drop", -47)
		}, "counters were set back"},
		"another format": {func(s *sim) { s.header.Format = 2 }, "format 2"},
		"two headers":    {func(s *sim) { add(s, runlog.Record{Host: "x", Header: &runlog.Header{Format: runlog.Format}}) }, "second header"},
		"bins at no time": {func(s *sim) {
			add(s, runlog.Record{Host: "client", T: 5, Bin: &runlog.Bin{Traffic: "web", Start: 1e300, Width: 0.1, Outcomes: map[runlog.Outcome]uint64{runlog.Reset: 9}}})
		}, "impossible time"},
		"unreadable latencies": {func(s *sim) {
			add(s, runlog.Record{Host: "client", T: 5, Latency: &runlog.Latency{Traffic: "web", Width: 1, FromDue: "x", Started: "x"}})
		}, "unreadable"},
		"no ends": {func(s *sim) {
			for _, b := range s.bins["web"] {
				if b.Start > 5 {
					b.Outcomes = nil
				}
			}
		}, "attempts of web would have ended is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, thresholds := range [][]string{nil, {"errors < 50%", "drop == 0", "occupancy < 100%"}} {
				s := newSim(t, 262144, 100000, finTraffic("web", 0, 10))
				s.header.Thresholds = thresholds
				s.fill("web", 100, 0, 10)
				c.spoil(s)
				f := s.analyze()
				if c.want == "" {
					assert.Equal(t, Pass, f.Verdict, "%v", f.Reasons)
					continue
				}
				assert.Equal(t, Inconclusive, f.Verdict, "%v", thresholds)
				assert.Contains(t, joined(f.Reasons), c.want)
			}
		})
	}
}

func joined(s []string) (all string) {
	for _, x := range s {
		all += x + "\n"
	}
	return all
}

// An attempt whose end is not known may have failed: a threshold that holds
// only without those has no answer.
func TestUnknownEndsAreNoSuccess(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 10))
	s.header.Thresholds = []string{"errors < 2%", "errors < 0.5%", "failures == 0"}
	s.fill("web", 100, 0, 10)
	var spared int
	for _, b := range s.bins["web"] {
		if spared < 10 && b.Outcomes[runlog.OK] > 0 {
			b.Outcomes[runlog.OK]--
			b.Outcomes[runlog.Interrupted]++
			spared++
		}
	}
	f := s.analyze()
	assert.Equal(t, Pass, f.Thresholds[0].Result)
	assert.Equal(t, Inconclusive, f.Thresholds[1].Result, f.Thresholds[1].Detail)
	assert.Equal(t, Inconclusive, f.Thresholds[2].Result, f.Thresholds[2].Detail)
	assert.Equal(t, Inconclusive, f.Verdict)
}

// Where nobody looked for seconds, the table may have been as full as what
// arrived meanwhile could make it.
func TestOccupancyInAHole(t *testing.T) {
	s := newSim(t, 10000, 1500, finTraffic("web", 0, 10))
	s.header.Thresholds = []string{"entries < 8700", "entries < 9600"}
	s.fill("web", 10, 0, 10)
	s.skip = func(_ string, t float64) bool { return t > 3 && t < 8 }
	f := s.analyze()
	assert.Equal(t, Pass, f.Thresholds[1].Result, f.Thresholds[1].Detail)
	s.header.Thresholds = []string{"entries < 8602"}
	f = s.analyze()
	assert.Equal(t, Inconclusive, f.Thresholds[0].Result, f.Thresholds[0].Detail)
}

// Drops that no rule could explain, and evictions, leave it open whether it
// was the table; a table that was full is never called one that never was.
func TestUnknownFailuresBesideATroubledTable(t *testing.T) {
	for name, c := range map[string]struct {
		counter  string
		headroom uint64
		verdict  Verdict
	}{
		"insert_failed rose":   {"insert_failed", 100000, Inconclusive},
		"drop below the limit": {"drop", 100000, Inconclusive},
		"full, and quiet":      {"", 400, Inconclusive}, // 60 % failed, and nobody knows why
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, 262144, c.headroom, finTraffic("web", 0, 10))
			for i, due := range dues(0, 10, 100) {
				if i < 400 {
					s.enter(due)
					s.ok("web", due)
					continue
				}
				s.fail("web", due, runlog.Other, 0)
				if c.counter != "" {
					s.bump(due, simNode, c.counter, 1)
				}
			}
			f := s.analyze()
			assert.Equal(t, c.verdict, f.Verdict, "%v", f.Reasons)
			assert.NotContains(t, joined(f.Reasons), "never full")
		})
	}
}

// A few failures of no known cause do not spoil a run that promised nothing;
// more than 1 % do.
func TestUnknownFailuresWithoutThresholds(t *testing.T) {
	for failures, verdict := range map[int]Verdict{9: Pass, 11: Inconclusive} {
		s := newSim(t, 262144, 100000, finTraffic("web", 0, 10))
		for i, due := range dues(0, 10, 100) {
			if i < failures {
				s.fail("web", due, runlog.Other, 0)
				continue
			}
			s.enter(due)
			s.ok("web", due)
		}
		f := s.analyze()
		assert.Equal(t, verdict, f.Verdict, "%d failures: %v", failures, f.Reasons)
	}
}

// The settings are there to be pasted: they never lower what a node has.
func TestSettingsNeverLower(t *testing.T) {
	s := newSim(t, 262144, 200000, finTraffic("web", 0, 10))
	s.fill("web", 700, 0, 10)
	z := s.analyze().Sizing
	assert.Less(t, *z.RecommendedLimit, uint64(262144))
	assert.Contains(t, z.KubeProxy, "min: 262144")
	assert.Contains(t, z.Sysctl, "# nf_conntrack_max is 262144: enough for this traffic\n# and the 62144 entries that were there, leave it.\n")
	assert.Contains(t, z.Sysctl, "# Writing 196608 would LOWER it")
	assert.NotRegexp(t, `(?m)^net\.`, z.Sysctl, "nothing that takes effect")

	s = newSim(t, 65536, 65536, finTraffic("web", 0, 10))
	s.header.Buckets = 262144
	s.fill("web", 700, 0, 10)
	z = s.analyze().Sizing
	assert.Contains(t, z.KubeProxy, "min: 131072")
	assert.Contains(t, z.Sysctl, "net.netfilter.nf_conntrack_max = 131072\n")
	assert.Contains(t, z.Sysctl, "net.netfilter.nf_conntrack_buckets = 262144\n")
}

// What was lowered while traffic flowed is not what there is to keep.
func TestSettingsKeepWhatWasLowered(t *testing.T) {
	run := func(free uint64) *Findings {
		s := newSim(t, 262144, free, finTraffic("web", 0, 10))
		s.header.Sysctls = map[string]string{"nf_conntrack_max": "131072"}
		s.limitAt = func(at float64) uint64 {
			if at < 5 {
				return 262144
			}
			return 131072
		}
		s.fill("web", 200, 0, 10)
		return s.analyze()
	}
	f := run(250000)
	assert.NotEmpty(t, f.Nodes[0].LimitChanges)
	assert.Contains(t, f.Sizing.KubeProxy, "min: 262144\n")
	assert.Contains(t, f.Sizing.Sysctl, "net.netfilter.nf_conntrack_max = 262144\n")
	assert.Contains(t, f.Sizing.Sysctl, " would do; 262144 is what a node had in the run\n")

	// Nor is what is above the present limit, and below that one, called lower.
	f = run(150000)
	assert.Contains(t, f.Sizing.KubeProxy, "# 196608 would do for this traffic and the 112144 entries that were there;\n# min is what a node had in the run\nconntrack:")
	assert.Contains(t, f.Sizing.KubeProxy, "min: 262144\n")
	assert.NotContains(t, f.Sizing.KubeProxy, "LOWER")
}

// Nor where the run itself had set a lower limit for a while.
func TestSettingsKnowTheLimitBefore(t *testing.T) {
	s := newSim(t, 1000, 1000, finTraffic("web", 0, 10))
	s.header.Sysctls = map[string]string{"nf_conntrack_max": "262144"}
	s.fill("web", 700, 0, 10)
	z := s.analyze().Sizing
	assert.Contains(t, z.KubeProxy, "min: 262144")
	assert.NotRegexp(t, `(?m)^net\.`, z.Sysctl)

	s = newSim(t, 262144, 262144, finTraffic("web", 0, 10))
	s.header.Sysctls = map[string]string{"nf_conntrack_max": "65536"}
	s.fill("web", 700, 0, 10)
	assert.Contains(t, s.analyze().Sizing.Sysctl, "nf_conntrack_max = 131072\n", "what the run had raised is low again")
}

// A limit that the machine has no memory for is no recommendation.
func TestSettingsFitTheMachine(t *testing.T) {
	leak := finTraffic("web", 0, 10)
	leak.Close, leak.Residence, leak.ResidueState = "none", 432000, "ESTABLISHED"
	s := newSim(t, 262144, 262144, leak)
	s.header.MemoryBytes = 8 << 30
	s.fill("web", 700, 0, 10)
	z := s.analyze().Sizing
	assert.Empty(t, z.KubeProxy)
	assert.Empty(t, z.Sysctl)
	assert.Contains(t, joined(z.Notes), "no settings are given")
	assert.Contains(t, joined(z.Notes), "kube-proxy sets nf_conntrack_tcp_timeout_established to 86400 s")
}

// After traffic the clients close: what the table holds then is not what
// filled it. And a walk that left ballast out does not say there is none.
func TestCensusIsOfTheTraffic(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.fill("web", 100, 0, 10)
	walk := func(at float64, c runlog.Census) {
		s.records = append(s.records, runlog.Record{Host: simNode, T: at, Census: &c})
	}
	state := func(name string) []runlog.CensusGroup {
		return []runlog.CensusGroup{{Proto: "tcp", State: name, Count: 500}}
	}
	walk(-0.3, runlog.Census{Entries: 259144, Ballast: 259144})
	walk(4, runlog.Census{Entries: 500, Groups: state("ESTABLISHED"), WithoutBallast: true})
	walk(10.5, runlog.Census{Entries: 259644, Ballast: 259144, Groups: state("TIME_WAIT")})
	c := s.analyze().Nodes[0].Census
	assert.Equal(t, "ESTABLISHED", c.Groups[0].State)
	assert.InDelta(t, 4, c.AtS, 1e-9)
	assert.Equal(t, uint64(259144), c.Ballast)
	assert.Equal(t, uint64(259644), c.Entries)
	assert.Equal(t, uint64(3), c.Walks)
}

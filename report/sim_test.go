package report

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// sim makes the run log of an experiment whose truth is known: what happens to
// each packet is decided attempt by attempt, and the samples read the sum of
// it at their own times, as a sampler would.
type sim struct {
	t        *testing.T
	header   runlog.Header
	trailer  *runlog.Trailer
	changes  []change
	bins     map[string]map[int64]*runlog.Bin
	lat      map[string]map[int64]*hdrhistogram.Histogram
	records  []runlog.Record // everything else
	skip     func(host string, t float64) bool
	offset   float64           // s of the samples after a multiple of the interval
	initial  map[string]uint64 // counters that the node's namespace starts with
	wrap     bool              // counters wrap at 2^32
	seqs     map[string]uint64
	limit    uint64
	entries  int64 // now
	end      float64
	hosts    []string // with network counters
	cpuIdle  float64
	limitAt  func(t float64) uint64
	noSample bool
}

type change struct {
	t    float64
	host string
	name string // entries, or a counter
	n    int64
}

const simNode = "node1"

func newSim(t *testing.T, limit, headroom uint64, traffic ...runlog.TrafficInfo) *sim {
	t.Helper()
	s := &sim{
		t: t, bins: map[string]map[int64]*runlog.Bin{}, lat: map[string]map[int64]*hdrhistogram.Histogram{}, offset: 0.03,
		seqs: map[string]uint64{}, limit: limit, entries: int64(limit - headroom), initial: map[string]uint64{}, cpuIdle: 0.5,
		hosts: []string{"web-1", "web-2"},
	}
	s.header = runlog.Header{
		Format: runlog.Format, Version: "test", RunID: "20260101t000000-00000000", Started: "2026-01-01T00:00:00Z", Target: "lab", Scenario: "sim",
		ScenarioYAML: "name: sim\n", Digest: "d", Seed: 7, Kernel: "6.18.44", Arch: "x86_64", CPUs: 2, MemoryBytes: 24 << 30,
		Limit: limit, Buckets: limit, EntryBytes: 256, Timeouts: map[string]float64{"tcp_timeout_time_wait": 120}, Duration: 10,
		Traffic: traffic, Nodes: []string{simNode}, SampleEvery: 0.1, CensusEvery: 1,
		Services: []runlog.ServiceInfo{{Name: "web", Addr: netip.MustParseAddrPort("10.96.0.10:8080"), Protocol: "tcp", Backends: []runlog.BackendInfo{
			{Name: "web-1", Addr: netip.MustParseAddrPort("10.244.0.2:8080")}, {Name: "web-2", Addr: netip.MustParseAddrPort("10.244.0.3:8080")},
		}}},
	}
	s.trailer = &runlog.Trailer{Ended: "2026-01-01T00:00:12Z", Outcome: "completed", Restored: true}
	for _, x := range traffic {
		s.end = max(s.end, x.End+x.Timeout)
	}
	return s
}

func finTraffic(name string, from, to float64) runlog.TrafficInfo {
	return runlog.TrafficInfo{
		Name: name, Shape: "short_lived", To: "web", Start: from, End: to, Timeout: 0.9, Close: "fin",
		EntriesPerAttempt: 1, Residence: 120, ResidueState: "TIME_WAIT", ExpectsAnswer: true,
	}
}

func floodTraffic(name string, from, to float64) runlog.TrafficInfo {
	return runlog.TrafficInfo{
		Name: name, Shape: "flood", To: "web", Start: from, End: to, Timeout: 0.9, EntriesPerAttempt: 1, Residence: 60,
		ResidueState: "SYN_RECV",
	}
}

// dues are the due times of a constant rate.
func dues(from, to, rate float64) []float64 {
	var out []float64
	for i := 0; ; i++ {
		at := from + float64(i)/rate
		if at >= to-1e-12 {
			return out
		}
		out = append(out, at)
	}
}

// each calls fn for the due times of all the rates in order of time.
func each(fn func(name string, due float64), rates map[string][]float64) {
	type one struct {
		name string
		due  float64
	}
	var all []one
	for name, ds := range rates {
		for _, d := range ds {
			all = append(all, one{name, d})
		}
	}
	slices.SortFunc(all, func(x, y one) int {
		switch {
		case x.due != y.due && x.due < y.due:
			return -1
		case x.due != y.due:
			return 1
		case x.name < y.name:
			return -1
		}
		return 1
	})
	for _, o := range all {
		fn(o.name, o.due)
	}
}

func (s *sim) bump(t float64, host, name string, n int64) {
	s.changes = append(s.changes, change{t, host, name, n})
}

func (s *sim) bin(name string, due float64) *runlog.Bin {
	i := int64(math.Floor(due*10 + 1e-9))
	if s.bins[name] == nil {
		s.bins[name] = map[int64]*runlog.Bin{}
	}
	b := s.bins[name][i]
	if b == nil {
		b = &runlog.Bin{Traffic: name, Start: float64(i) / 10, Width: 0.1, Outcomes: map[runlog.Outcome]uint64{}, NotStarted: map[runlog.NotStartedReason]uint64{}}
		s.bins[name][i] = b
	}
	return b
}

func (s *sim) ok(name string, due float64) {
	b := s.bin(name, due)
	b.Due++
	b.Started++
	b.Outcomes[runlog.OK]++
	if s.lat[name] == nil {
		s.lat[name] = map[int64]*hdrhistogram.Histogram{}
	}
	i := int64(math.Floor(due + 1e-9))
	if s.lat[name][i] == nil {
		s.lat[name][i] = hdrhistogram.New(1, 60_000_000, 3)
	}
	require.NoError(s.t, s.lat[name][i].RecordValue(500+i*100))
}

// sent is one packet of one-way traffic.
func (s *sim) sent(name string, due float64) {
	b := s.bin(name, due)
	b.Due++
	b.Started++
}

// fail counts a failed attempt, records it one by one, and returns its number.
func (s *sim) fail(name string, due float64, o runlog.Outcome, packets uint64) uint64 {
	b := s.bin(name, due)
	b.Due++
	b.Started++
	b.Outcomes[o]++
	b.LostPackets += packets
	seq := s.seqs[name]
	s.seqs[name]++
	s.records = append(s.records, runlog.Record{Host: "client", T: due + 0.9, Failure: &runlog.Failure{Traffic: name, Seq: seq, Due: due, Start: due, Outcome: o, Packets: packets}})
	return seq
}

func (s *sim) notStarted(name string, due float64, why runlog.NotStartedReason) {
	b := s.bin(name, due)
	b.Due++
	b.NotStarted[why]++
}

// autopsy records what was found of a failed attempt.
func (s *sim) autopsy(name string, seq uint64, due float64, found bool, state string, replied bool) {
	a := &runlog.Autopsy{Traffic: name, Seq: seq, Lag: 0.002, Found: found, State: state, Replied: replied}
	if found {
		a.DNAT, a.ReplySrc = true, netip.MustParseAddrPort("10.244.0.2:8080")
	}
	s.records = append(s.records, runlog.Record{Host: simNode, T: due + 0.902, Autopsy: a})
}

// enter puts an entry into the table, or drops the packet where it is full.
func (s *sim) enter(t float64) bool {
	if s.entries >= int64(s.limit) {
		s.bump(t, simNode, "drop", 1)
		return false
	}
	s.entries++
	s.bump(t, simNode, "entries", 1)
	return true
}

// log writes everything down.
func (s *sim) log() []byte {
	s.t.Helper()
	all := slices.Clone(s.records)
	for _, bins := range s.bins {
		for _, b := range bins {
			all = append(all, runlog.Record{Host: "client", T: b.Start + b.Width + 1, Bin: b})
		}
	}
	for name, seconds := range s.lat {
		for i, h := range seconds {
			text, err := runlog.EncodeHistogram(h)
			require.NoError(s.t, err)
			all = append(all, runlog.Record{Host: "client", T: float64(i) + 2, Latency: &runlog.Latency{Traffic: name, Start: float64(i), Width: 1, FromDue: text, Started: text}})
		}
	}
	all = append(all, s.samples()...)
	// A failure and its autopsy keep their order: the sort is stable and by
	// time, and the client's records come first.
	slices.SortStableFunc(all, func(x, y runlog.Record) int {
		switch {
		case x.T < y.T:
			return -1
		case x.T > y.T:
			return 1
		}
		return bytes.Compare([]byte(x.Host+x.Kind()), []byte(y.Host+y.Kind()))
	})
	all = append([]runlog.Record{{Host: "controller", Header: &s.header}}, all...)
	if s.trailer != nil {
		all = append(all, runlog.Record{Host: "controller", T: s.end, Trailer: s.trailer})
	}
	var b bytes.Buffer
	w := runlog.NewWriter(&b)
	n := map[string]uint64{}
	for _, r := range all {
		n[r.Host]++
		r.N = n[r.Host]
		require.NoError(s.t, w.Write(r))
	}
	require.NoError(s.t, w.Flush())
	return b.Bytes()
}

func (s *sim) samples() []runlog.Record {
	slices.SortStableFunc(s.changes, func(x, y change) int {
		if x.t < y.t {
			return -1
		}
		if x.t > y.t {
			return 1
		}
		return 0
	})
	start := s.entries
	for _, c := range s.changes {
		if c.host == simNode && c.name == "entries" {
			start -= c.n
		}
	}
	now := map[string]map[string]int64{}
	for _, h := range append([]string{simNode}, s.hosts...) {
		now[h] = map[string]int64{}
	}
	now[simNode]["entries"] = start
	var out []runlog.Record
	next := 0
	// As the sampler has it: what changed, everything at first and every 10 s.
	told := map[string]map[string]uint64{}
	changed := func(host string, i int, all map[string]uint64) map[string]uint64 {
		was := told[host]
		told[host] = maps.Clone(all)
		if was != nil && i%100 != 0 {
			maps.DeleteFunc(all, func(k string, v uint64) bool { return was[k] == v })
		}
		return all
	}
	for i := -5; ; i++ {
		t := float64(i)*0.1 + s.offset
		if t > s.end {
			return out
		}
		for next < len(s.changes) && s.changes[next].t <= t {
			c := s.changes[next]
			now[c.host][c.name] += c.n
			next++
		}
		limit := s.limit
		if s.limitAt != nil {
			limit = s.limitAt(t)
		}
		if !s.noSample && (s.skip == nil || !s.skip(simNode, t)) {
			counters := map[string]uint64{"drop": 0, "early_drop": 0, "insert_failed": 0, "invalid": 0, "chainlength": 0, "found": 0}
			if slices.ContainsFunc(s.changes, func(c change) bool { return c.name == "clashres" }) {
				counters["clashres"] = 0
			}
			for k := range counters {
				counters[k] = s.initial[k] + uint64(now[simNode][k])
				if s.wrap {
					counters[k] %= 1 << 32
				}
			}
			total := 2 * (t + 100)
			out = append(out, runlog.Record{Host: simNode, T: t, Sample: &runlog.Sample{
				Took:      0.0002,
				Conntrack: &runlog.Conntrack{Entries: uint64(now[simNode]["entries"]), Limit: limit, Counters: changed(simNode, i, counters)},
				CPU:       &runlog.CPU{Idle: total * s.cpuIdle, User: total * (1 - s.cpuIdle), Self: t * 0.01},
			}})
		}
		for _, h := range s.hosts {
			net := map[string]uint64{}
			for _, k := range []string{"TcpExt.ListenOverflows", "TcpExt.ListenDrops", "Tcp.OutRsts", "Udp.NoPorts"} {
				net[k] = uint64(now[h][k])
			}
			out = append(out, runlog.Record{Host: h, T: t, Sample: &runlog.Sample{Took: 0.0002, Net: changed(h, i, net)}})
		}
	}
}

// analyze returns the findings of what was simulated.
func (s *sim) analyze() *Findings {
	s.t.Helper()
	f, err := Analyze(bytes.NewReader(s.log()))
	require.NoError(s.t, err)
	s.checkSums(f)
	return f
}

// checkSums holds for every run: each failed attempt has exactly one cause.
func (s *sim) checkSums(f *Findings) {
	s.t.Helper()
	var failed, explained uint64
	for _, t := range f.Traffic {
		failed += t.Failed
	}
	for _, c := range f.Causes {
		if c.ShareOf == "failed" {
			explained += c.Failures
		}
		var by uint64
		for _, n := range c.Proof.Traffic {
			by += n
		}
		require.Equal(s.t, c.Failures, by, "cause %s is divided among traffics", c.Cause)
	}
	require.Equal(s.t, failed, explained, "each failed attempt has exactly one cause")
}

// causes is the findings' causes as a map, for comparison.
func causesOf(f *Findings) map[string]uint64 {
	m := map[string]uint64{}
	for _, c := range f.Causes {
		m[c.Cause] = c.Failures
	}
	return m
}

// fill runs one TIME_WAIT traffic at rate r against the headroom.
func (s *sim) fill(name string, r, from, to float64) (failed uint64) {
	for _, due := range dues(from, to, r) {
		if s.enter(due + 0.0001) {
			s.ok(name, due)
			continue
		}
		failed++
		if seq := s.fail(name, due, runlog.ConnectTimeout, 1); seq%20 == 0 {
			s.autopsy(name, seq, due, false, "", false)
		}
	}
	return failed
}

func ExampleExitCode() {
	fmt.Println(ExitCode(&Findings{Verdict: Pass}), ExitCode(&Findings{Verdict: Fail}), ExitCode(&Findings{Verdict: Inconclusive}), ExitCode(&Findings{}))
	// Output: 0 3 4 4
}

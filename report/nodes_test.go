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

// nodesSim is a lab of several nodes with a pod on each. Attempts enter by the
// nodes in turn and are sent to pods in turn; a table that is full drops.
type nodesSim struct {
	t       *testing.T
	header  runlog.Header
	onePod  bool // all are sent to the first pod
	names   []string
	limit   int
	entries []int
	drops   []int
	seqs    []uint64
	bins    map[string]*runlog.Bin
	records []runlog.Record
}

func newNodesSim(t *testing.T, nodes, limit int, headroom ...int) *nodesSim {
	s := &nodesSim{t: t, limit: limit, bins: map[string]*runlog.Bin{}, drops: make([]int, nodes), seqs: make([]uint64, nodes)}
	svc := runlog.ServiceInfo{Name: "web", Addr: netip.MustParseAddrPort("10.96.0.10:8080"), Protocol: "tcp"}
	for i := range nodes {
		s.names = append(s.names, fmt.Sprintf("node%d", i+1))
		s.entries = append(s.entries, limit-headroom[i])
		svc.Backends = append(svc.Backends, runlog.BackendInfo{Name: fmt.Sprintf("web-%d", i+1), Addr: s.pod(i), Node: s.names[i]})
	}
	s.header = runlog.Header{
		Format: runlog.Format, Scenario: "nodes", Target: "lab", Kernel: "6.18", CPUs: 2, Limit: uint64(limit), Duration: 4, Nodes: s.names, SampleEvery: 0.1,
		Traffic: []runlog.TrafficInfo{finTraffic("clients", 0, 4)}, Services: []runlog.ServiceInfo{svc},
	}
	return s
}

func (s *nodesSim) pod(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(32 * i), 1}), 8080)
}

// enter takes an entry of a node's table, or drops.
func (s *nodesSim) enter(node int) bool {
	if s.entries[node] >= s.limit {
		s.drops[node]++
		return false
	}
	s.entries[node]++
	return true
}

func (s *nodesSim) bin(node int, due float64) *runlog.Bin {
	i := int(math.Floor(due*10 + 1e-9))
	key := fmt.Sprint(node, i)
	if s.bins[key] == nil {
		s.bins[key] = &runlog.Bin{Traffic: "clients", Node: s.names[node], Start: float64(i) / 10, Width: 0.1, Outcomes: map[runlog.Outcome]uint64{}}
	}
	return s.bins[key]
}

// fail records a failed attempt and what its node's table had of it.
func (s *nodesSim) fail(node int, due float64, found bool, to netip.AddrPort) {
	b := s.bin(node, due)
	b.Outcomes[runlog.ConnectTimeout]++
	b.LostPackets++
	seq := s.seqs[node]
	s.seqs[node]++
	s.records = append(s.records,
		runlog.Record{Host: fmt.Sprintf("client%d", node+1), T: due + 0.9, Failure: &runlog.Failure{
			Traffic: "clients", Node: s.names[node], Seq: seq, Due: due, Start: due, Outcome: runlog.ConnectTimeout, Packets: 1,
		}},
		runlog.Record{Host: s.names[node], T: due + 0.902, Autopsy: &runlog.Autopsy{
			Traffic: "clients", Node: s.names[node], Seq: seq, Lag: 0.002, Found: found, DNAT: found, ReplySrc: to, State: "SYN_SENT",
		}})
}

// attempt is one attempt that enters by a node, for a pod of another.
func (s *nodesSim) attempt(due float64, node, pod int) {
	b := s.bin(node, due)
	b.Due++
	b.Started++
	switch {
	case !s.enter(node):
		s.fail(node, due, false, netip.AddrPort{})
	case pod != node && !s.enter(pod):
		s.fail(node, due, true, s.pod(pod))
	default:
		b.Outcomes[runlog.OK]++
	}
}

func (s *nodesSim) sample(at float64) {
	for i, name := range s.names {
		s.records = append(s.records, runlog.Record{Host: name, T: at, Sample: &runlog.Sample{Conntrack: &runlog.Conntrack{
			Entries: uint64(s.entries[i]), Limit: uint64(s.limit), Counters: map[string]uint64{"drop": uint64(s.drops[i]), "early_drop": 0, "insert_failed": 0, "invalid": 0},
		}}})
	}
}

// run sends attempts for 4 s at the rate.
func (s *nodesSim) run(rate int, also func(k int, due float64)) *Findings {
	s.sample(-0.05)
	for k := range 4*rate - 1 {
		due := float64(k+1) / float64(rate)
		pod := k / len(s.names) % len(s.names)
		if s.onePod {
			pod = 0
		}
		s.attempt(due, k%len(s.names), pod)
		if also != nil {
			also(k, due)
		}
		if (k+1)%(rate/10) == 0 {
			s.sample(due + 0.001)
		}
	}
	s.sample(5)
	for _, b := range s.bins {
		s.records = append(s.records, runlog.Record{Host: "client1", T: b.Start + 1, Bin: b})
	}
	slices.SortStableFunc(s.records, func(x, y runlog.Record) int {
		if x.T < y.T {
			return -1
		}
		if x.T > y.T {
			return 1
		}
		return 0
	})
	all := append([]runlog.Record{{Host: "controller", Header: &s.header}}, s.records...)
	all = append(all, runlog.Record{Host: "controller", T: 5, Trailer: &runlog.Trailer{Outcome: "completed", Restored: true}})
	var b bytes.Buffer
	w := runlog.NewWriter(&b)
	n := map[string]uint64{}
	for _, r := range all {
		n[r.Host]++
		r.N = n[r.Host]
		require.NoError(s.t, w.Write(r))
	}
	require.NoError(s.t, w.Flush())
	f, err := Analyze(&b)
	require.NoError(s.t, err)
	return f
}

func causeOf(list []Cause, name string) Cause {
	for _, c := range list {
		if c.Cause == name {
			return c
		}
	}
	return Cause{}
}

// One node's table is full: what enters by it is lost there, and so is what
// the others send on to its pod. Their tables have nothing to do with it.
func TestKneeOnOneNode(t *testing.T) {
	s := newNodesSim(t, 3, 10_000, 9000, 500, 9000)
	f := s.run(900, nil)
	// node2 gets an entry for each of 300/s that enter, and for a third of the
	// 600/s of the others: 500/s.
	require.NotNil(t, f.Knee.Drop)
	assert.InDelta(t, 1, f.Knee.Drop.AtS, 0.02)
	assert.Equal(t, f.Knee.Drop, f.Nodes[1].Knee.Drop)
	require.NotNil(t, f.Predicted)
	assert.InDelta(t, 1, *f.Predicted.FullAtS, 0.02)
	failed := f.Traffic[0].Failed
	assert.EqualValues(t, s.drops[1], failed)
	assert.Equal(t, failed, causeOf(f.Causes, tableFull).Failures)
	assert.Equal(t, []string{"node2"}, causeOf(f.Causes, tableFull).Proof.Hosts)
	assert.EqualValues(t, failed, *causeOf(f.Causes, tableFull).Proof.CounterDelta, "each drop is counted once, whoever it befell")
	var sum uint64
	for i, n := range f.Nodes {
		require.NotNil(t, n.Entered)
		c := causeOf(n.Entered.Causes, tableFull)
		assert.Equal(t, n.Entered.Failed, c.Failures, n.Name)
		assert.Equal(t, []string{"node2"}, c.Proof.Hosts, n.Name)
		assert.NotZero(t, c.Failures, n.Name)
		require.NotNil(t, n.Knee.ClientLoss, n.Name)
		if i != 1 {
			assert.Nil(t, n.Knee.Drop, n.Name)
			assert.Zero(t, n.TableFullDrops, n.Name)
		}
		sum += c.Failures
	}
	assert.Equal(t, failed, sum)
	assert.Contains(t, f.Headline, "node2 drops new connections")
	assert.Contains(t, f.Headline, "the tables of node1, node3 held")
	require.NotNil(t, f.Sizing)
	assert.InDelta(t, 500*120/0.75, float64(*f.Sizing.RecommendedLimit), 500*120/0.75/7)
}

// Of nodes that need the same none needs the most. What is offered to one node
// is not what the plot of all shows.
func TestNodesThatNeedTheSame(t *testing.T) {
	f := newNodesSim(t, 3, 10_000, 9000, 500, 9000).run(900, nil)
	require.NotNil(t, f.Sizing)
	notes := strings.Join(f.Sizing.Notes, "\n")
	assert.Contains(t, notes, ", and no node needs more for this traffic: a node has")
	assert.NotContains(t, notes, "needs the most of all nodes")
	assert.Contains(t, strings.Join(figures(f)[2].Lines, "\n"), "/s offered to node2")
	assert.Equal(t, "Attempts, by when they were due, all nodes together", (&charts{f: f}).load()[0].Title)

	s := newNodesSim(t, 3, 10_000, 9000, 500, 9000)
	s.onePod, s.header.Services[0].Backends = true, s.header.Services[0].Backends[:1]
	assert.Contains(t, strings.Join(s.run(900, nil).Sizing.Notes, "\n"), "the sizes are those of node1, which needs the most of all nodes")
}

// Drops of one node's table explain nothing that was lost without a trace on
// another one's, however well the numbers fit.
func TestDropsOfAnotherNodeExplainNothing(t *testing.T) {
	s := newNodesSim(t, 2, 10_000, 9000, 9000)
	s.onePod = true
	extra := 0
	f := s.run(600, func(k int, due float64) {
		if k%20 != 0 || due < 1 {
			return
		}
		extra++
		// Something is lost on its way to node1, while node2, which is at its
		// limit, drops what nobody of ours had sent.
		b := s.bin(0, due)
		b.Due++
		b.Started++
		s.fail(0, due, false, netip.AddrPort{})
		s.entries[1], s.drops[1] = s.limit, s.drops[1]+1
	})
	assert.Zero(t, causeOf(f.Nodes[0].Entered.Causes, tableFull).Failures)
	assert.EqualValues(t, extra, causeOf(f.Nodes[0].Entered.Causes, unknownCause).Failures)
}

// Each node has its own dataplane: what is stale on one is no cause of another's.
func TestThresholdsOfOneNode(t *testing.T) {
	s := newNodesSim(t, 3, 10_000, 9000, 500, 9000)
	s.header.Thresholds = []string{
		"drop == 0 on node1", "drop > 100 on node2", "table_full > 500 on node2", "errors > 50% on node2 during 2s..4s", "clients: failures < 400 on node3",
		"occupancy < 50% on node1", "occupancy > 99% on node2", "p50 < 1s on node1",
	}
	f := s.run(900, nil)
	require.Len(t, f.Thresholds, 8)
	for _, r := range f.Thresholds[:7] {
		assert.Equal(t, Pass, r.Result, "%s", thresholdLine(r))
	}
	assert.Equal(t, Inconclusive, f.Thresholds[7].Result, "there are no latencies in this log")
}

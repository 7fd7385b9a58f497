package conntrack

import (
	"context"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	ctlib "github.com/ti-mo/conntrack"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
)

// mixture inserts flows of many kinds, some of them in IPv6.
func mixture(t testing.TB) {
	t.Helper()
	f, err := (&ballast{timeout: 600}).newFilling()
	require.NoError(t, err)
	defer f.close()
	for range 40 {
		require.NoError(t, f.insert(t.Context(), batchSize)) // 10240
	}
	conn, err := ctlib.Dial(nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	v4, v6 := netip.MustParseAddr("10.0.0.0").As4(), netip.MustParseAddr("2001:db8::").As16()
	for i := range 2000 {
		status := ctlib.StatusConfirmed | []ctlib.Status{0, ctlib.StatusSeenReply, ctlib.StatusSeenReply | ctlib.StatusAssured}[i%3]
		v4[3], v6[15] = byte(i%7), byte(i%7)
		src, dst := netip.AddrFrom4(v4), netip.MustParseAddr("10.96.0.1")
		if i%5 == 0 {
			src, dst = netip.AddrFrom16(v6), netip.MustParseAddr("2001:db8:1::1")
		}
		flow := ctlib.NewFlow(protoTCP, status, src, dst, uint16(1024+i), uint16(80+i%3), 600, uint32(i%2))
		flow.ProtoInfo.TCP = &ctlib.ProtoInfoTCP{State: uint8(1 + i%8)}
		if i%11 == 0 {
			flow.TupleOrig.Proto.Protocol, flow.TupleReply.Proto.Protocol, flow.ProtoInfo.TCP = protoUDP, protoUDP, nil
		}
		require.NoError(t, conn.Create(flow))
	}
}

// expected counts what ti-mo's Dump returns, in a way of its own.
func expected(flows []ctlib.Flow) (groups map[runlog.CensusGroup]uint64, ballast uint64, sources map[netip.Addr]uint64) {
	groups, sources = make(map[runlog.CensusGroup]uint64), make(map[netip.Addr]uint64)
	states := []string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}
	for _, f := range flows {
		if isBallast(f.Mark) {
			ballast++
			continue
		}
		g := runlog.CensusGroup{
			Proto: map[uint8]string{6: "tcp", 17: "udp"}[f.TupleOrig.Proto.Protocol], Assured: f.Status.Assured(), Replied: f.Status.SeenReply(),
			Service: netip.AddrPortFrom(f.TupleOrig.IP.DestinationAddress, f.TupleOrig.Proto.DestinationPort),
			Backend: netip.AddrPortFrom(f.TupleReply.IP.SourceAddress, f.TupleReply.Proto.SourcePort),
		}
		if f.ProtoInfo.TCP != nil {
			g.State = states[f.ProtoInfo.TCP.State]
		}
		groups[g]++
		sources[f.TupleOrig.IP.SourceAddress]++
	}
	return groups, ballast, sources
}

func TestCensusAgreesWithOtherReaders(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	mixture(t)
	w, err := NewCensus(env.Job{Epoch: monotonic(), Census: &env.CensusJob{Every: 1, MaxCPU: 0.02, Sources: 20}})
	c := start(t, w, err)
	require.NoError(t, c.stop())
	records := c.Records()
	require.GreaterOrEqual(t, len(records), 2, "one walk before it was ready, one at the end")

	conn, err := ctlib.Dial(nil)
	require.NoError(t, err)
	flows, err := conn.Dump(nil)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.Len(t, flows, 10240+2000)
	groups, ballast, sources := expected(flows)
	require.Greater(t, len(groups), 50)

	for _, r := range records {
		got := r.Census
		require.NotNil(t, got)
		assert.Empty(t, got.Failed)
		assert.EqualValues(t, len(flows), got.Entries)
		assert.Equal(t, ballast, got.Ballast)
		assert.Zero(t, got.Other)
		assert.Len(t, got.Groups, len(groups))
		for _, g := range got.Groups {
			n := g.Count
			g.Count = 0
			assert.Equal(t, groups[g], n, "%+v", g)
		}
		assert.Len(t, got.Sources, len(sources))
		for _, s := range got.Sources {
			assert.Equal(t, sources[s.Addr], s.Count, "%v", s)
			assert.Zero(t, s.Error)
		}
		assert.Positive(t, got.Took)
	}
	compareWithTool(t, flows, records[0].Census)
}

// compareWithTool compares with conntrack(8) where it is installed.
func compareWithTool(t *testing.T, flows []ctlib.Flow, got *runlog.Census) {
	tool, err := exec.LookPath("conntrack")
	if err != nil {
		t.Log("conntrack(8) is not installed: not compared with it")
		return
	}
	lines := 0
	var closing, unreplied int
	for _, family := range []string{"ipv4", "ipv6"} {
		out, err := exec.CommandContext(t.Context(), tool, "-L", "-f", family).Output()
		require.NoError(t, err)
		for line := range strings.Lines(string(out)) {
			lines++
			if strings.Contains(line, " TIME_WAIT ") {
				closing++
			}
			if strings.Contains(line, "[UNREPLIED]") {
				unreplied++
			}
		}
	}
	assert.Len(t, flows, lines)
	for _, g := range got.Groups {
		if g.State == "TIME_WAIT" {
			closing -= int(g.Count)
		}
		if !g.Replied {
			unreplied -= int(g.Count)
		}
	}
	assert.Zero(t, closing)
	assert.Zero(t, unreplied)
}

// A real connection through DNAT: the service is where the client went, the
// backend where it arrived.
func TestCensusSeesServiceAndBackend(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	vip, backend := service(t)
	_ = connect(t, vip)
	_ = connect(t, vip)
	got, err := walk(t.Context(), newTally(5), 5, false)
	require.NoError(t, err)
	assert.Equal(t, []runlog.CensusGroup{
		{Proto: "tcp", State: "ESTABLISHED", Assured: true, Replied: true, Service: vip, Backend: backend, Count: 2},
	}, got.Groups)
}

func TestCensusThatCannotReadSaysSo(t *testing.T) {
	w, err := NewCensus(env.Job{Census: &env.CensusJob{Every: 1}})
	require.NoError(t, err)
	withoutPrivilege(func() { err = w.Run(t.Context(), func() { t.Error("ready") }, &recorder{}) })
	require.ErrorContains(t, err, "operation not permitted")

	rec := &recorder{}
	withoutPrivilege(func() { err = w.(*census).walk(t.Context(), false, rec) })
	require.Len(t, rec.Records(), 1)
	assert.Contains(t, rec.Records()[0].Census.Failed, "operation not permitted")
}

func TestWalkEndsWithItsContext(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	mixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	c, err := dial()
	require.NoError(t, err)
	defer c.close()
	seen := 0
	err = c.dump(ctx, markFilter{}, func([]byte) error {
		if seen++; seen == 1000 {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	assert.Less(t, seen, 5000, "far from all")

	// The socket still has the rest of that dump in it; what comes next must
	// not be taken in by it.
	n, err := countBallast(t.Context(), c)
	if err == nil {
		assert.EqualValues(t, 10240, n)
	}
}

// A socket whose buffer overflows has lost messages: the walk has failed.
func TestWalkReportsLostMessages(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	c, err := dial()
	require.NoError(t, err)
	defer c.close()
	require.NoError(t, c.conn.SetReadBuffer(1))
	require.NoError(t, c.conn.SetOption(netlink.CapAcknowledge, false))
	f, err := (&ballast{timeout: 600}).newFilling()
	require.NoError(t, err)
	defer f.close()
	f.client.close()
	f.client = c
	numbers := make([]uint32, batchSize)
	for i := range numbers {
		numbers[i] = uint32(i)
	}
	// None of these exist, so there are 256 errors, and no room for them.
	err = f.send(t.Context(), f.deletion, numbers, func(uint32, syscall.Errno) {})
	require.ErrorContains(t, err, "no buffer space available")
}

func TestPace(t *testing.T) {
	type walk struct {
		r          runlog.Census
		lookalikes uint64
		wantIn     time.Duration // from the beginning of this walk
		wantPart   bool
	}
	mostlyBallast := runlog.Census{CPU: 0.5, Entries: 1000, Ballast: 900}
	part := runlog.Census{CPU: 0.06, Entries: 100, WithoutBallast: true}
	for name, walks := range map[string][]walk{
		"cheap":              {{runlog.Census{CPU: 0.019}, 0, time.Second, false}},
		"expensive":          {{runlog.Census{CPU: 0.5}, 0, 25 * time.Second, false}},
		"mostly ballast":     {{mostlyBallast, 0, time.Second, true}, {part, 0, 4 * time.Second, true}},
		"others look alike":  {{mostlyBallast, 1, 25 * time.Second, false}},
		"half of it ballast": {{runlog.Census{CPU: 0.5, Entries: 1000, Ballast: 500}, 0, 25 * time.Second, false}},
		"ballast has gone": {
			{mostlyBallast, 0, time.Second, true},
			{part, 0, 4 * time.Second, true},
			{runlog.Census{CPU: 0.1, Entries: 100}, 0, 5 * time.Second, false},
		},
		"failed": {{runlog.Census{CPU: 0.5, Entries: 1000, Ballast: 900, Failed: "x"}, 0, 25 * time.Second, false}},
	} {
		t.Run(name, func(t *testing.T) {
			p := pace{every: time.Second, maxCPU: 0.02}
			for i, w := range walks {
				began := int64(i) * int64(10*time.Second)
				p.done(began, &w.r, w.lookalikes)
				at, partial := p.next()
				assert.Equal(t, w.wantIn, time.Duration(at-began), "walk %d", i)
				assert.Equal(t, w.wantPart, partial, "walk %d", i)
			}
		})
	}
}

// However long it runs and whatever walks cost, they stay within the budget,
// and whole walks go on among the cheap ones.
func TestPaceKeepsItsBudget(t *testing.T) {
	p := pace{every: time.Second, maxCPU: 0.02}
	var now int64
	var cpu float64
	whole := 0
	for now < int64(time.Hour) {
		r := runlog.Census{CPU: 0.5, Entries: 1000, Ballast: 900}
		if _, partial := p.next(); partial {
			r = runlog.Census{CPU: 0.06, Entries: 100, WithoutBallast: true}
		} else {
			whole++
		}
		cpu += r.CPU
		p.done(now, &r, 0)
		now, _ = p.next()
	}
	assert.LessOrEqual(t, cpu/seconds(now), 0.0201)
	assert.GreaterOrEqual(t, cpu/seconds(now), 0.018, "and use it")
	assert.Greater(t, whole, 30)
}

func TestCensusLeavesBallastOut(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	mixture(t)
	tl := newTally(20)
	whole, err := walk(t.Context(), tl, 20, false)
	require.NoError(t, err)
	assert.Zero(t, tl.lookalikes)
	part, err := walk(t.Context(), tl, 20, true)
	require.NoError(t, err)
	assert.True(t, part.WithoutBallast)
	assert.Zero(t, part.Ballast)
	assert.EqualValues(t, 40*batchSize/beaconEvery, tl.ballast, "it was shown the beacons, and nothing else of the ballast")
	assert.Equal(t, whole.Entries-whole.Ballast, part.Entries)
	assert.Equal(t, whole.Groups, part.Groups)
	assert.Equal(t, whole.Sources, part.Sources)

	conn, err := ctlib.Dial(nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	require.NoError(t, conn.Create(ctlib.NewFlow(protoUDP, 0, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), 1, 2, 60, bulkBit|5)))
	_, err = walk(t.Context(), tl, 20, false)
	require.NoError(t, err)
	assert.EqualValues(t, 1, tl.lookalikes)
}

// What a walk allocates must not depend on the size of the table.
func TestWalkRunsInConstantMemory(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	tl := newTally(16)
	allocated := func() uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := walk(t.Context(), tl, 16, false)
		require.NoError(t, err)
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	fill(t, 1000, 0)
	small := allocated()
	require.NoError(t, Flush(t.Context()))
	fill(t, 30000, 0)
	large := allocated()
	// A buffer of 32 KiB holds some 160 entries, and brings its sender's
	// address with it.
	assert.Less(t, large-small, uint64(100<<10), "%d bytes for 1000 entries, %d for 30000", small, large)
}

func TestNewCensusRefuses(t *testing.T) {
	_, err := NewCensus(env.Job{ID: "x"})
	assert.Error(t, err)
	for _, j := range []env.CensusJob{{}, {Every: -1}, {Every: 1, MaxCPU: 2}, {Every: 1, Sources: -1}} {
		_, err := NewCensus(env.Job{Census: &j})
		assert.Error(t, err, "%+v", j)
	}
}

//go:build linux

package traffic

import (
	"context"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/scenarios"
)

// rejectTCP has the namespace answer every TCP packet with ICMP port
// unreachable, as a service without endpoints does.
func rejectTCP(t *testing.T) {
	t.Helper()
	nft := nftables.Conn{}
	for family, code := range map[nftables.TableFamily]uint8{nftables.TableFamilyIPv4: 3, nftables.TableFamilyIPv6: 4} {
		table := nft.AddTable(&nftables.Table{Family: family, Name: "reject"})
		chain := nft.AddChain(&nftables.Chain{Table: table, Name: "in", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
		nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code},
		}})
	}
	require.NoError(t, nft.Flush())
}

// A reject that arrives while connect still holds the socket ends the attempt
// at once, in both families: the timeout is shorter than the first SYN
// retransmission, which would be the next chance.
func TestRejectEndsConnecting(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	rejectTCP(t)
	for _, target := range []netip.AddrPort{target4, target6} {
		for name, traffic := range map[string]scenarios.Traffic{
			"short_lived": {ShortLived: &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 200}}},
			"http":        {HTTP: &scenarios.HTTP{Pacing: scenarios.Pacing{Rate: 200}}},
		} {
			t.Run(target.Addr().String()+" "+name, func(t *testing.T) {
				j := load(target, 100*time.Millisecond)
				traffic.Name, traffic.Timeout = name, scenarios.Duration(900*time.Millisecond)
				j.Load.Traffic = traffic
				got, _ := run(t, t.Context(), j)
				assert.Equal(t, map[runlog.Outcome]uint64{runlog.Refused: 19}, got.outcomes)
			})
		}
	}
}

// Of a connection that is complete such a reject ends nothing, in both families:
// the kernel takes it for passing trouble, and the request runs out of time.
func TestRejectDoesNotEndConnected(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	outs := map[netip.AddrPort]*records{}
	for _, target := range []netip.AddrPort{target4, target6} {
		serve(t, target, 1, scenarios.Server{})
		j := load(target, time.Hour)
		j.Load.Traffic.Timeout = scenarios.Duration(time.Second)
		j.Load.Traffic.Idle = &scenarios.Idle{Count: 5, OpenRate: 100, ValidateEvery: scenarios.Duration(200 * time.Millisecond)}
		w, err := New(j)
		require.NoError(t, err)
		_, outs[target] = start(t, w)
	}
	for _, out := range outs {
		require.Eventually(t, func() bool { return out.totals().outcomes[runlog.OK] == 5 }, 20*time.Second, 10*time.Millisecond)
	}
	rejectTCP(t)
	for target, out := range outs {
		require.Eventually(t, func() bool { return len(out.totals().failures) == 5 }, 20*time.Second, 10*time.Millisecond)
		for _, f := range out.totals().failures {
			assert.Equal(t, runlog.ResponseTimeout, f.Outcome, "%v", target)
			assert.Equal(t, "held", f.Phase)
		}
	}
}

// A port that one may not bind is the generator's shortage, and no failure of
// the system under test.
func TestShortLivedPortForbidden(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	j := load(target4, 100*time.Millisecond)
	j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 100}, SourcePorts: &scenarios.SourcePorts{Fixed: 80}}
	w, err := NewShortLived(j)
	require.NoError(t, err)
	out := new(records)
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // the capability is this thread's alone, and the thread ends with it
		err := dropCapability(unix.CAP_NET_BIND_SERVICE)
		if err == nil {
			err = w.Run(t.Context(), func() {}, out)
		}
		ended <- err
	}()
	require.NoError(t, <-ended)
	assert.Equal(t, map[runlog.NotStartedReason]uint64{runlog.NoPorts: 9}, out.totals().notStarted)
	assert.Zero(t, out.totals().started)
}

// stallingRecorder keeps its caller for a while at the first Bin.
type stallingRecorder struct {
	records
	once  sync.Once
	stall time.Duration
}

func (r *stallingRecorder) Record(x runlog.Record) {
	if x.Bin != nil {
		r.once.Do(func() { time.Sleep(r.stall) })
	}
	r.records.Record(x)
}

// A generator that was kept from looking takes the answers that have come in
// the meantime for what they are, before it says that others did not.
func TestUDPLooksBeforeItExpires(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serveAs(t, "udp", target4, 1, scenarios.Server{Delay: scenarios.Duration(80 * time.Millisecond)})
	j := udpLoad(target4, scenarios.UDP{Pacing: scenarios.Pacing{Rate: 5000}})
	j.Load.Traffic.Timeout = scenarios.Duration(2 * time.Second)
	w, err := New(j)
	require.NoError(t, err)
	out := &stallingRecorder{stall: 2500 * time.Millisecond}
	require.NoError(t, w.Run(t.Context(), func() {}, out))
	got := out.totals()
	assert.Equal(t, uint64(499), got.due)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: got.started}, got.outcomes)
}

// What is due when the job is stopped is counted, begun or not.
func TestStoppedWithBacklog(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	pacing := scenarios.Pacing{Rate: 10_000}
	for name, traffic := range map[string]scenarios.Traffic{
		"short_lived": {ShortLived: &scenarios.ShortLived{Pacing: pacing}},
		"udp":         {UDP: &scenarios.UDP{Pacing: pacing}},
		"http":        {HTTP: &scenarios.HTTP{Pacing: pacing}},
	} {
		t.Run(name, func(t *testing.T) {
			j := load(target4, time.Hour)
			j.Epoch -= 500e6 // the job begins half a second late
			traffic.Name, traffic.Timeout = name, scenarios.Duration(20*time.Second)
			j.Load.Traffic = traffic
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			got, _ := run(t, ctx, j)
			assert.GreaterOrEqual(t, got.due, uint64(5000))
		})
	}
}

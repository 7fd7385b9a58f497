//go:build linux

package traffic

import (
	"net/netip"
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

var tornDown = scenarios.Idle{Count: 40, OpenRate: 400, CloseRate: 100, ValidateEvery: scenarios.Duration(200 * time.Millisecond)}

// Each connection is closed when it is due, by both sides.
func TestTearDown(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	for _, target := range []netip.AddrPort{target4, target6} {
		t.Run(target.Addr().String(), func(t *testing.T) {
			serve(t, target, 1, scenarios.Server{})
			j := idleJob(target, 5*time.Second, tornDown)
			j.Load.Traffic.Timeout = scenarios.Duration(2 * time.Second)
			got := drive(t, j)
			assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 40}, got.outcomes)
			assert.Empty(t, got.failures)
			last := got.held[len(got.held)-1]
			require.NotNil(t, last.Closing)
			c := *last.Closing
			assert.Equal(t, []uint64{40, 40, 0}, []uint64{c.Due, c.Closed, c.Failed})
			assert.Zero(t, last.Open)
			assert.Zero(t, last.Lost, "closed as they should be")
			// From 2.6 s on, one each 10 ms; the last is due a timeout before the end.
			assert.GreaterOrEqual(t, c.First-j.Load.Start, 2.61-1e-6)
			assert.GreaterOrEqual(t, c.Last-j.Load.Start, 3-1e-6)
			assert.Positive(t, c.Longest)
			for _, h := range got.held[:len(got.held)-1] {
				if h.Closing == nil {
					assert.Equal(t, uint64(40), h.Open, "none before")
				}
			}
		})
	}
}

// A FIN that never arrives tears nothing down, whatever the client's socket says.
func TestTearDownWithoutFIN(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serve(t, target4, 1, scenarios.Server{})
	dropFIN(t)
	j := idleJob(target4, 5*time.Second, tornDown)
	j.Load.Traffic.Timeout = scenarios.Duration(2 * time.Second)
	got := drive(t, j)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 40}, got.outcomes, "they had been opened")
	c := got.held[len(got.held)-1].Closing
	require.NotNil(t, c)
	assert.Equal(t, []uint64{40, 0, 40}, []uint64{c.Due, c.Closed, c.Failed})
	require.Len(t, got.failures, 40)
	for _, f := range got.failures {
		assert.Equal(t, "close", f.Phase)
		assert.Equal(t, runlog.ResponseTimeout, f.Outcome)
		assert.NotZero(t, f.Tuple.Src.Port())
	}
}

// dropFIN drops whatever has a FIN on its way in.
func dropFIN(t *testing.T) {
	t.Helper()
	nft := nftables.Conn{}
	table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "fin"})
	chain := nft.AddChain(&nftables.Chain{Table: table, Name: "in", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{1}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	require.NoError(t, nft.Flush())
}

//go:build linux

package traffic

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/require"
	"github.com/ti-mo/conntrack"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/server"
	"github.com/tablefull/tablefull/scenarios"
)

// Addresses that are local to the namespace by a route, and on no interface.
var (
	clients4 = netip.MustParsePrefix("10.9.0.0/16")
	clients6 = netip.MustParsePrefix("fd09::/64")
	target4  = netip.MustParseAddrPort("127.0.0.1:8080")
	target6  = netip.MustParseAddrPort("[::1]:8080")
)

// network brings up the namespace's loopback interface, with many addresses,
// and has its connections tracked.
func network(t *testing.T) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(lo))
	for _, p := range []netip.Prefix{clients4, clients6} {
		dst := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}))
	}
	// The kernel tracks connections of a namespace where a rule wants to know.
	nft := nftables.Conn{}
	table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "track"})
	chain := nft.AddChain(&nftables.Chain{Table: table, Name: "in", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Ct{Register: 1, Key: expr.CtKeySTATE}}})
	require.NoError(t, nft.Flush())
}

// states counts the namespace's TCP entries towards port by the kernel's
// number of their state.
func states(t *testing.T, port uint16) map[uint8]int {
	t.Helper()
	c, err := conntrack.Dial(nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	flows, err := c.Dump(nil)
	require.NoError(t, err)
	n := map[uint8]int{}
	for _, f := range flows {
		if f.TupleOrig.Proto.DestinationPort == port && f.ProtoInfo.TCP != nil {
			n[f.ProtoInfo.TCP.State]++
		}
	}
	return n
}

// The kernel's numbers of conntrack's TCP states.
const (
	ctEstablished = 3
	ctCloseWait   = 5
	ctTimeWait    = 7
	ctClose       = 8
)

// start runs w until stop is called, which returns what it recorded.
func start(t *testing.T, w env.Worker) (stop func() *records, out *records) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out = new(records)
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- w.Run(ctx, sync.OnceFunc(func() { close(ready) }), out) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		require.NoError(t, err)
		t.Fatal("ended without being ready")
	}
	stop = sync.OnceValue(func() *records {
		cancel()
		require.NoError(t, <-done)
		return out
	})
	t.Cleanup(func() { stop() })
	return stop, out
}

func serve(t *testing.T, at netip.AddrPort, ports int, s scenarios.Server) (stop func() *records) {
	t.Helper()
	w, err := server.New(env.Job{Serve: &env.ServeJob{Service: "web", Backend: "web-1", Protocol: "tcp", Addr: at, Ports: ports, Server: s}})
	require.NoError(t, err)
	stop, _ = start(t, w)
	return stop
}

// load is a job whose traffic lasts for d from now on. Its timeout is one that
// nothing reaches on the busiest of machines.
func load(target netip.AddrPort, d time.Duration) env.Job {
	j := env.Job{ID: "load", Epoch: monotonic(), Load: &env.LoadJob{
		Traffic: scenarios.Traffic{Name: "web", Timeout: scenarios.Duration(20 * time.Second)},
		End:     d.Seconds(), Target: target, Ports: 1, Sources: clients4, SourceCount: 8, FailuresPerSecond: 1000,
	}}
	if target.Addr().Is6() {
		j.Load.Sources = clients6
	}
	return j
}

// drive runs a job to its end.
func drive(t *testing.T, j env.Job) totals {
	t.Helper()
	w, err := newWorker(j)
	require.NoError(t, err)
	out := new(records)
	require.NoError(t, w.Run(t.Context(), func() {}, out))
	got := out.totals()
	sum := uint64(0)
	for _, n := range got.outcomes {
		sum += n
	}
	require.Equal(t, got.started, sum, "every attempt that was started has an outcome")
	for _, n := range got.notStarted {
		sum += n
	}
	require.Equal(t, got.due, sum, "every attempt that was due was started or not started")
	return got
}

func newWorker(j env.Job) (env.Worker, error) {
	if j.Load.Traffic.Idle != nil {
		return NewIdle(j)
	}
	return NewShortLived(j)
}

// dropAll drops every packet from now on.
func dropAll(t *testing.T) {
	t.Helper()
	nft := nftables.Conn{}
	table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "drop"})
	drop := nftables.ChainPolicyDrop
	nft.AddChain(&nftables.Chain{Table: table, Name: "in", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	require.NoError(t, nft.Flush())
}

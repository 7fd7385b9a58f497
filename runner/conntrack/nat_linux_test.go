package conntrack

import (
	"context"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	nl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
)

// service makes 10.96.0.1:80 (tcp) an address that DNAT sends to a listener on
// the loopback of this namespace, which answers nothing and closes when its
// peer does. It returns the listener's address.
func service(t testing.TB) (vip, backend netip.AddrPort) {
	t.Helper()
	lo, err := nl.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, nl.LinkSetUp(lo))
	vip = netip.MustParseAddrPort("10.96.0.1:80")
	addr, err := nl.ParseAddr("10.96.0.1/32")
	require.NoError(t, err)
	require.NoError(t, nl.AddrAdd(lo, addr))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	backend = l.Addr().(*net.TCPAddr).AddrPort()

	c, err := nftables.New()
	require.NoError(t, err)
	table := c.AddTable(&nftables.Table{Name: "test", Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	to := backend.Addr().As4()
	dst := vip.Addr().As4()
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: dst[:]},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(vip.Port())},
		&expr.Immediate{Register: 1, Data: to[:]},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(backend.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(nftables.TableFamilyIPv4), RegAddrMin: 1, RegProtoMin: 2},
	}})
	require.NoError(t, c.Flush())
	return vip, backend
}

func connect(t testing.TB, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func examine(t testing.TB, tuple runlog.Tuple) *runlog.Autopsy {
	t.Helper()
	failed := 1.5
	epoch := monotonic() - int64(2*time.Second)
	w, err := NewAutopsy(env.Job{ID: "a", Epoch: epoch, Autopsy: &env.AutopsyJob{
		Failure: runlog.Failure{Traffic: "web", Seq: 7, Tuple: tuple}, Failed: failed,
	}})
	require.NoError(t, err)
	rec, ready := &recorder{}, 0
	require.NoError(t, w.Run(t.Context(), func() { ready++ }, rec))
	assert.Equal(t, 1, ready)
	records := rec.Records()
	require.Len(t, records, 1)
	a := records[0].Autopsy
	require.NotNil(t, a)
	assert.Equal(t, "web", a.Traffic)
	assert.Equal(t, uint64(7), a.Seq)
	assert.Equal(t, tuple, a.Tuple)
	assert.InDelta(t, records[0].T-failed, a.Lag, 1e-9)
	assert.GreaterOrEqual(t, a.Lag, 0.5)
	return a
}

func TestAutopsyFindsWhereAConnectionWent(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	vip, backend := service(t)
	c := connect(t, vip)
	tuple := runlog.Tuple{Proto: "tcp", Src: c.LocalAddr().(*net.TCPAddr).AddrPort(), Dst: vip}

	a := examine(t, tuple)
	assert.Empty(t, a.Error)
	assert.True(t, a.Found)
	assert.Equal(t, "ESTABLISHED", a.State)
	assert.True(t, a.Assured && a.Replied && a.DNAT, "%+v", a)
	assert.Equal(t, backend, a.ReplySrc)
	assert.Greater(t, a.Timeout, 100.0)

	require.NoError(t, c.Close())
	require.Eventually(t, func() bool { return examine(t, tuple).State == "TIME_WAIT" }, 10*time.Second, 10*time.Millisecond)

	direct := connect(t, backend)
	tuple = runlog.Tuple{Proto: "tcp", Src: direct.LocalAddr().(*net.TCPAddr).AddrPort(), Dst: backend}
	a = examine(t, tuple)
	assert.True(t, a.Found)
	assert.False(t, a.DNAT, "nothing was translated")
}

func TestAutopsyOfNothing(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	for _, tuple := range []runlog.Tuple{
		{Proto: "tcp", Src: netip.MustParseAddrPort("10.0.0.1:5"), Dst: netip.MustParseAddrPort("10.0.0.2:6")},
		{Proto: "udp", Src: netip.MustParseAddrPort("[2001:db8::1]:5"), Dst: netip.MustParseAddrPort("[2001:db8::2]:6")},
	} {
		a := examine(t, tuple)
		assert.False(t, a.Found)
		assert.Empty(t, a.Error, "no entry is an answer, not an error")
	}
}

func TestAutopsyOfUnansweredUDP(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	insertFlows(t, 0, 1, 600)
	a := examine(t, runlog.Tuple{Proto: "udp", Src: netip.MustParseAddrPort("10.9.0.0:1000"), Dst: netip.MustParseAddrPort("10.8.0.1:53")})
	assert.True(t, a.Found)
	assert.False(t, a.Replied || a.Assured || a.DNAT)
	assert.Empty(t, a.State)
	assert.InDelta(t, 600, a.Timeout, 5)
}

// A look-up that cannot be done says nothing about the entry, and must not
// read as if there were none.
func TestAutopsyThatFailsSaysSo(t *testing.T) {
	tuple := runlog.Tuple{Proto: "tcp", Src: netip.MustParseAddrPort("10.0.0.1:5"), Dst: netip.MustParseAddrPort("10.0.0.2:6")}
	w, err := NewAutopsy(env.Job{Autopsy: &env.AutopsyJob{Failure: runlog.Failure{Tuple: tuple}}})
	require.NoError(t, err)

	rec := &recorder{}
	withoutPrivilege(func() { err = w.Run(t.Context(), func() {}, rec) })
	require.NoError(t, err)
	require.Len(t, rec.Records(), 1)
	a := rec.Records()[0].Autopsy
	assert.False(t, a.Found)
	assert.Contains(t, a.Error, "operation not permitted")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	rec = &recorder{}
	require.NoError(t, w.Run(ctx, func() {}, rec))
	assert.NotEmpty(t, rec.Records()[0].Autopsy.Error)
}

// withoutPrivilege calls f on a thread without capabilities and waits for it.
func withoutPrivilege(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		none := [2]unix.CapUserData{}
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			panic(err)
		}
		f()
	}()
	<-done
}

func TestAutopsyRefusesWhatIsNoConnection(t *testing.T) {
	a4, a6 := netip.MustParseAddrPort("10.0.0.1:5"), netip.MustParseAddrPort("[2001:db8::1]:5")
	for _, tuple := range []runlog.Tuple{
		{}, {Proto: "icmp", Src: a4, Dst: a4}, {Proto: "tcp", Src: a4}, {Proto: "tcp", Src: a4, Dst: a6},
	} {
		_, err := NewAutopsy(env.Job{Autopsy: &env.AutopsyJob{Failure: runlog.Failure{Tuple: tuple}}})
		assert.Error(t, err, "%+v", tuple)
	}
	_, err := NewAutopsy(env.Job{ID: "x"})
	assert.Error(t, err)
}

//go:build linux

package traffic

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/scenarios"
)

// withFiles has the engine believe that so many sockets may be open.
func withFiles(t *testing.T, n uint64) {
	t.Helper()
	var files unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
	before := files
	files.Cur = tcpSpareFiles + n
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &files))
	t.Cleanup(func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &before)) })
}

// No descriptors left is the generator's shortage.
func TestShortLivedNoFiles(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serve(t, target4, 1, scenarios.Server{Behaviour: "silent"})
	withFiles(t, 10)
	j := load(target4, 200*time.Millisecond)
	j.Load.Traffic.Timeout = scenarios.Duration(2 * time.Second)
	j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 100}}
	got := drive(t, j)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.ResponseTimeout: 10}, got.outcomes)
	assert.Equal(t, map[runlog.NotStartedReason]uint64{runlog.NoFiles: 9}, got.notStarted)
}

// Connections that are only kept for their entry give way, and leave it.
func TestShortLivedEvicts(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serve(t, target4, 1, scenarios.Server{})
	withFiles(t, 20)
	j := load(target4, 500*time.Millisecond)
	j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 200}, Close: "half", Closer: "server"}
	got := drive(t, j)
	// Where this machine is busy, 20 may be under way at once.
	assert.Equal(t, uint64(99), got.outcomes[runlog.OK]+got.notStarted[runlog.NoFiles])
	assert.Greater(t, got.outcomes[runlog.OK], uint64(20))
	assert.EventuallyWithT(t, func(ct *assert.CollectT) {
		assert.Equal(ct, map[uint8]int{ctCloseWait: int(got.outcomes[runlog.OK])}, states(t, target4.Port()))
	}, 5*time.Second, 10*time.Millisecond)
}

// Without the privilege to let sockets vanish they are kept to the end.
func TestShortLivedNoneUnprivileged(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serve(t, target4, 1, scenarios.Server{})
	j := load(target4, 300*time.Millisecond)
	j.Load.Traffic.ShortLived = &scenarios.ShortLived{Pacing: scenarios.Pacing{Rate: 100}, Close: "none"}
	w, err := NewShortLived(j)
	require.NoError(t, err)
	out := new(records)
	ended := make(chan error)
	go func() {
		// The capability is this thread's alone, and the thread ends with
		// the goroutine, as it is never unlocked.
		runtime.LockOSThread()
		if err := dropNetAdmin(); err != nil {
			ended <- err
			return
		}
		ended <- w.Run(t.Context(), func() {}, out)
	}()
	at := func() map[uint8]int { return states(t, target4.Port()) }
	require.Eventually(t, func() bool { return out.totals().outcomes[runlog.OK] >= 10 }, 20*time.Second, time.Millisecond)
	during := at()
	require.NoError(t, <-ended)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 29}, out.totals().outcomes)
	assert.GreaterOrEqual(t, during[ctEstablished], 10)
	assert.Len(t, during, 1)
	assert.EventuallyWithT(t, func(ct *assert.CollectT) { assert.Zero(ct, at()[ctEstablished]) }, 5*time.Second, 10*time.Millisecond, "closed in order at the end")
}

func dropNetAdmin() error { return dropCapability(unix.CAP_NET_ADMIN) }

// dropCapability takes a capability from the calling thread.
func dropCapability(number uint) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return err
	}
	caps[0].Effective &^= 1 << number
	return unix.Capset(&header, &caps[0])
}

func TestTCPTuples(t *testing.T) {
	j := load(netip.MustParseAddrPort("10.96.0.1:8080"), time.Second).Load
	j.Sources, j.SourceCount, j.Ports = netip.MustParsePrefix("10.9.0.0/30"), 2, 2
	tuples, err := newTCPTuples(*j, &scenarios.SourcePorts{From: 5000, To: 5001})
	require.NoError(t, err)
	var got []string
	for n := range uint64(9) {
		src, dst := tuples.at(n)
		got = append(got, src.String()+" "+dst.String())
	}
	assert.Equal(t, []string{
		"10.9.0.1:5000 10.96.0.1:8080", "10.9.0.1:5000 10.96.0.1:8081",
		"10.9.0.2:5000 10.96.0.1:8080", "10.9.0.2:5000 10.96.0.1:8081",
		"10.9.0.1:5001 10.96.0.1:8080", "10.9.0.1:5001 10.96.0.1:8081",
		"10.9.0.2:5001 10.96.0.1:8080", "10.9.0.2:5001 10.96.0.1:8081",
		"10.9.0.1:5000 10.96.0.1:8080",
	}, got)

	seen := map[string]bool{}
	j.Sources, j.SourceCount, j.Ports = netip.MustParsePrefix("10.9.0.0/16"), 7, 5
	tuples, err = newTCPTuples(*j, &scenarios.SourcePorts{From: 6000, To: 6010})
	require.NoError(t, err)
	for n := range uint64(7 * 5 * 11) {
		src, dst := tuples.at(n)
		seen[src.String()+dst.String()] = true
	}
	assert.Len(t, seen, 7*5*11, "each tuple once before any again")

	j.Sources, j.SourceCount = netip.MustParsePrefix("10.9.0.7/32"), 1
	tuples, err = newTCPTuples(*j, nil)
	require.NoError(t, err)
	src, _ := tuples.at(12)
	assert.Equal(t, "10.9.0.7:0", src.String())

	j.SourceCount = 0
	tuples, err = newTCPTuples(*j, nil)
	require.NoError(t, err)
	src, _ = tuples.at(12)
	assert.Equal(t, "0.0.0.0:0", src.String())
}

// Several addresses take turns before anything else changes.
func TestTCPTuplesOfSeveralTargets(t *testing.T) {
	j := load(netip.MustParseAddrPort("10.244.0.2:80"), time.Second).Load
	j.Sources, j.SourceCount, j.Ports, j.Targets = netip.MustParsePrefix("10.9.0.0/30"), 2, 2, 3
	tuples, err := newTCPTuples(*j, nil)
	require.NoError(t, err)
	var got []string
	for n := range uint64(7) {
		_, dst := tuples.at(n)
		got = append(got, dst.String())
	}
	assert.Equal(t, []string{
		"10.244.0.2:80", "10.244.0.3:80", "10.244.0.4:80", "10.244.0.2:81", "10.244.0.3:81", "10.244.0.4:81", "10.244.0.2:80",
	}, got)
}

func TestTCPTuplesSix(t *testing.T) {
	j := load(netip.MustParseAddrPort("[fd00::1]:80"), time.Second).Load
	j.Sources, j.SourceCount = netip.MustParsePrefix("fd09::ffff:ffff:ffff:fff0/120"), 200
	tuples, err := newTCPTuples(*j, nil)
	require.NoError(t, err)
	src, _ := tuples.at(199)
	assert.Equal(t, "fd09::ffff:ffff:ffff:ffc8", src.Addr().String())
	assert.Equal(t, netip.MustParseAddr("::1:0:0:0:1"), addrAt(netip.MustParseAddr("::ffff:ffff:ffff:ffff"), 2), "it carries")
}

func TestTCPTuplesRefuse(t *testing.T) {
	good := func() (netip.AddrPort, netip.Prefix, int, int) { return target4, clients4, 4, 1 }
	for name, change := range map[string]func(target *netip.AddrPort, sources *netip.Prefix, count, ports *int){
		"no target":     func(t *netip.AddrPort, _ *netip.Prefix, _, _ *int) { *t = netip.AddrPort{} },
		"other family":  func(_ *netip.AddrPort, s *netip.Prefix, _, _ *int) { *s = clients6 },
		"no sources":    func(_ *netip.AddrPort, s *netip.Prefix, _, _ *int) { *s = netip.Prefix{} },
		"small network": func(_ *netip.AddrPort, s *netip.Prefix, _, _ *int) { *s = netip.MustParsePrefix("10.9.0.0/30") },
		"past 65535":    func(_ *netip.AddrPort, _ *netip.Prefix, _, p *int) { *p = 60_000 },
	} {
		t.Run(name, func(t *testing.T) {
			target, sources, count, ports := good()
			change(&target, &sources, &count, &ports)
			j := load(target4, time.Second).Load
			j.Target, j.Sources, j.SourceCount, j.Ports = target, sources, count, ports
			_, err := newTCPTuples(*j, nil)
			assert.Error(t, err)
		})
	}
}

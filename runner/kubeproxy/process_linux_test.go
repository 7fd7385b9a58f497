package kubeproxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/dataplane"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/kubeapi"
	"github.com/tablefull/tablefull/runner/kubeproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	current  = "v1.36.3"
	previous = "v1.35.4"
	soon     = 30 * time.Second // only how long a failing test waits
	tick     = 5 * time.Millisecond
)

// binary is a real kube-proxy from the user's cache, where it is put if need
// be. It must be called outside of the test's namespace, too: there is the
// network, and the time to build it.
func binary(t *testing.T, version string) string {
	t.Helper()
	cache, err := kubeproxy.DefaultCache()
	if err != nil {
		envtest.Require(t, "kube-proxy", err.Error())
	}
	b, err := kubeproxy.Getter{Cache: cache, Log: func(l string) { t.Log(l) }}.Get(t.Context(), version)
	if err != nil {
		envtest.Require(t, "kube-proxy", err.Error())
	}
	return b.Path
}

func program(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		envtest.Require(t, "kube-proxy", err.Error())
	}
}

var (
	addrA = netip.MustParseAddr("10.244.0.2")
	addrB = netip.MustParseAddr("10.244.0.3")
	web   = kubeapi.Service{Name: "web", ClusterIP: netip.MustParseAddr("10.96.0.10"), Ports: []kubeapi.Port{{Port: 80, Target: 8080}}}
)

// node is a namespace that is a node with two pods, on its loopback, and an
// API server.
type node struct {
	api    *kubeapi.Server
	url    string
	mu     sync.Mutex
	logged []string
}

func newNode(t *testing.T) *node {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(lo))
	for _, a := range []netip.Addr{addrA, addrB} {
		require.NoError(t, netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}}))
		serve(t, netip.AddrPortFrom(a, 8080).String(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, a.String()) }))
	}
	_, services, err := net.ParseCIDR("10.96.0.0/16")
	require.NoError(t, err)
	require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: services}))

	n := &node{api: kubeapi.New(kubeapi.Options{OnUnknown: func(method, path string) { t.Errorf("kube-proxy asks for %s %s", method, path) }})}
	n.url = "http://" + serve(t, "127.0.0.1:0", n.api.Handler())
	t.Cleanup(n.api.Close)
	require.NoError(t, n.api.Set(kubeapi.Node{Name: "node1", Addrs: []netip.Addr{addrA}}.Object(),
		kubeapi.ServiceCIDR(netip.MustParsePrefix("10.96.0.0/16")), web.Object()))
	n.endpoint(t, addrA)
	return n
}

func serve(t *testing.T, addr string, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends with Close
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return l.Addr().String()
}

// endpoint makes a the only endpoint of the service.
func (n *node) endpoint(t *testing.T, a netip.Addr) {
	t.Helper()
	s, err := web.Slice([]kubeapi.Endpoint{{Pod: "web-" + a.String(), Addr: a, Node: "node1", Ready: true, Serving: true}}, time.Now())
	require.NoError(t, err)
	require.NoError(t, n.api.Set(s))
}

func (n *node) log(line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.logged = append(n.logged, line)
}

func (n *node) config(t *testing.T, binary, mode string) kubeproxy.Config {
	none := time.Duration(0)
	return kubeproxy.Config{
		Binary: binary, Mode: mode, Node: "node1", API: n.url, Dir: t.TempDir(), Log: n.log, MinSyncPeriod: 10 * time.Millisecond,
		Conntrack: kubeproxy.Conntrack{TCPEstablished: &none, TCPCloseWait: &none},
	}
}

// answers is who answers at the service's address, over a new connection.
func answers(ctx context.Context) string {
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://10.96.0.10/", nil)
	if err != nil {
		return err.Error()
	}
	resp, err := (&http.Client{Transport: tr, Timeout: time.Second}).Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

func follows(t *testing.T, want netip.Addr) {
	t.Helper()
	require.Eventually(t, func() bool { return answers(t.Context()) == want.String() }, soon, tick, "the rules do not follow")
}

type records []runlog.Record

func (r *records) Record(x runlog.Record) { *r = append(*r, x) }

// programmed checks what an audit reads in the rules of a kube-proxy whose mode
// nobody has told it.
func programmed(t *testing.T, mode string, want netip.Addr) {
	t.Helper()
	w, err := dataplane.New(env.Job{ID: "audit", Audit: &env.AuditJob{
		Every: 1, Mode: env.KubeProxyRules, Services: []env.ServiceState{{Name: web.Name, Addr: web.ClusterIP, Protocol: "tcp", Port: web.Ports[0].Port}},
	}})
	require.NoError(t, err)
	ctx, read := context.WithCancel(t.Context())
	var r records
	require.NoError(t, w.Run(ctx, read, &r))
	require.Len(t, r, 1)
	assert.Empty(t, r[0].Dataplane.Failed)
	assert.Equal(t, mode, r[0].Dataplane.Mode)
	require.Len(t, r[0].Dataplane.Services, 1)
	assert.Equal(t, []runlog.ProgrammedBackend{{Addr: netip.AddrPortFrom(want, 8080), Weight: 1}}, r[0].Dataplane.Services[0].Backends)
}

func start(t *testing.T, c kubeproxy.Config) *kubeproxy.Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	p, err := kubeproxy.Start(ctx, c)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Stop(context.Background())) })
	return p
}

func TestRealNFTables(t *testing.T) { life(t, kubeproxy.NFTables, "nft") }
func TestRealIPTables(t *testing.T) { life(t, kubeproxy.IPTables, "iptables-restore") }

// life is a real kube-proxy's: it programs, follows, hangs, heals, restarts.
func life(t *testing.T, mode, needs string) {
	program(t, needs)
	proxy := binary(t, current)
	if !envtest.Namespace(t) {
		return
	}
	ctx := t.Context()
	n := newNode(t)
	assert.NotEqual(t, addrA.String(), answers(ctx), "without a proxy nobody answers")
	p := start(t, n.config(t, proxy, mode))
	assert.Equal(t, addrA.String(), answers(ctx), "after Start the rules are there")
	first, at, ok := p.TakeFirst()
	require.True(t, ok)
	assert.WithinDuration(t, time.Now(), at, soon)
	assert.False(t, first.LastSync.IsZero() || first.LastSync.After(at), "%s at %s", first.LastSync, at)
	_, _, ok = p.TakeFirst()
	assert.False(t, ok, "it is old by then")
	n.endpoint(t, addrB)
	follows(t, addrB)
	programmed(t, mode, addrB)
	// It measures from the annotation of the EndpointSlice, just after the rules.
	var m kubeproxy.Metrics
	require.Eventually(t, func() bool {
		var err error
		m, err = p.Scrape(ctx)
		return assert.NoError(t, err) && m.Programming.Count > 0
	}, soon, tick)
	assert.WithinDuration(t, time.Now(), m.LastSync, soon)
	assert.Positive(t, m.Sync.Count)
	assert.Positive(t, m.Sync.Sum)
	assert.NotEmpty(t, m.Sync.Buckets)
	assert.Positive(t, m.CPU)
	assert.Positive(t, m.RSS)

	require.NoError(t, p.Pause(ctx))
	n.endpoint(t, addrA)
	for range 20 {
		require.Equal(t, addrB.String(), answers(ctx), "a paused proxy's rules are stale")
		time.Sleep(tick)
	}
	programmed(t, mode, addrB)
	require.NoError(t, p.Resume(ctx))
	follows(t, addrA)

	before := p.PID()
	require.NoError(t, p.Restart(ctx, false))
	assert.NotEqual(t, before, p.PID())
	assert.Equal(t, addrA.String(), answers(ctx))
	again, _, ok := p.TakeFirst()
	assert.True(t, ok)
	assert.True(t, again.LastSync.After(first.LastSync), "another process has its own")
	require.NoError(t, p.Restart(ctx, true))
	assert.Equal(t, addrA.String(), answers(ctx))
	n.endpoint(t, addrB)
	follows(t, addrB)

	// A hung one can be replaced, too.
	require.NoError(t, p.Pause(ctx))
	require.NoError(t, p.Stop(ctx))
	assert.Zero(t, p.PID())
	assert.Equal(t, addrB.String(), answers(ctx), "its rules outlive it")
	require.NoError(t, p.Clean(ctx))
	assert.NotEqual(t, addrB.String(), answers(ctx), "unless they are removed")
	assert.NotEmpty(t, n.logged)
}

// An upgrade of the binary, and a change of mode that leaves no rules of the
// mode before.
func TestRealReplace(t *testing.T) {
	program(t, "nft")
	program(t, "iptables-restore")
	old, proxy := binary(t, previous), binary(t, current)
	if !envtest.Namespace(t) {
		return
	}
	ctx := t.Context()
	n := newNode(t)
	p := start(t, n.config(t, old, kubeproxy.IPTables))
	assert.Equal(t, addrA.String(), answers(ctx))
	require.NoError(t, p.Replace(ctx, proxy, kubeproxy.IPTables, false))
	assert.Equal(t, addrA.String(), answers(ctx))
	n.endpoint(t, addrB)
	follows(t, addrB)
	require.NoError(t, p.Replace(ctx, proxy, kubeproxy.NFTables, false))
	assert.Equal(t, addrB.String(), answers(ctx))
	saved, err := exec.CommandContext(ctx, "iptables-save", "-t", "nat").CombinedOutput()
	require.NoError(t, err)
	assert.NotContains(t, string(saved), "KUBE-SVC")
	n.endpoint(t, addrA)
	follows(t, addrA)
}

// fake is a program that is no kube-proxy.
func fake(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fake")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	return path
}

func fakeConfig(t *testing.T, script string) kubeproxy.Config {
	return kubeproxy.Config{
		Binary: fake(t, script), Mode: kubeproxy.NFTables, Node: "n", API: "http://127.0.0.1:1", Dir: t.TempDir(),
		Health: netip.MustParseAddrPort("127.0.0.1:1"), Metrics: netip.MustParseAddrPort("127.0.0.1:1"),
	}
}

func TestStartFails(t *testing.T) {
	var told error
	c := fakeConfig(t, "echo could not set conntrack parameters; exit 3")
	c.Exited = func(err error) { told = err }
	_, err := kubeproxy.Start(t.Context(), c)
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, "could not set conntrack parameters")
	assert.ErrorContains(t, told, "exit status 3")

	c.Binary = "/nowhere/kube-proxy"
	_, err = kubeproxy.Start(t.Context(), c)
	require.ErrorIs(t, err, os.ErrNotExist)
	c.Mode = "ebpf"
	_, err = kubeproxy.Start(t.Context(), c)
	require.ErrorContains(t, err, "ebpf")
}

func TestStartIsCanceled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	c := fakeConfig(t, "trap '' TERM; echo $$; while :; do sleep 0.05; done")
	why := errors.New("the run is over")
	var pid int
	c.Log = func(line string) {
		_, _ = fmt.Sscan(line, &pid)
		cancel(why)
	}
	_, err := kubeproxy.Start(ctx, c)
	require.ErrorIs(t, err, why)
	require.Positive(t, pid)
	assert.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "nothing runs")
}

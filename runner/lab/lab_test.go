//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/scenarios"
)

// needLab skips the test where no lab can be made, unless that is forbidden.
func needLab(t testing.TB) {
	t.Helper()
	c, err := newEnv().Probe(t.Context())
	require.NoError(t, err)
	for _, name := range []string{"userns", "pidns", "netns", "veth", "nftables"} {
		if c := c.Lookup(name); c.State != env.Yes {
			envtest.Require(t, "netns", fmt.Sprintf("%s is %s: %s", name, c.State, c.Reason))
		}
	}
}

func topology(t testing.TB, family string, services ...scenarios.Service) env.Topology {
	return env.Topology{RunID: "test", WorkDir: filepath.Join(t.TempDir(), "work"), Lab: scenarios.Lab{Family: family}, Services: services}
}

func service(name, protocol string, pods int) scenarios.Service {
	return scenarios.Service{Name: name, Protocol: protocol, Port: 8080, PortCount: 1, Pods: pods, NoPods: pods == 0}
}

// up brings a lab up, starts a server on every pod, and takes all down with
// the test.
func up(t testing.TB, top env.Topology) *Lab {
	t.Helper()
	needLab(t)
	l, err := newEnv().Up(t.Context(), top)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, l.Close(context.Background()))
		assert.NoDirExists(t, top.WorkDir)
	})
	lab := l.(*Lab)
	require.NoError(t, serveAll(t.Context(), lab))
	return lab
}

func serveAll(ctx context.Context, lab *Lab) error {
	return lab.Serve(ctx, map[string]int64{}, discard{})
}

type discard struct{}

func (discard) Record(runlog.Record) {}

func (discard) Join(context.Context, env.Host) (int64, error) {
	return 0, errors.New("no host comes later")
}

// events runs a job on a host to its end and returns what it recorded.
func events(t testing.TB, h env.Host, j env.Job) []runlog.Event {
	t.Helper()
	var all []runlog.Event
	marker := runlog.Event{Kind: "marker", Name: j.ID}
	require.NoError(t, h.Start(t.Context(), j))
	require.NoError(t, h.Wait(t.Context(), j.ID))
	require.NoError(t, h.Start(t.Context(), env.Job{ID: j.ID + " marker", Autopsy: &env.AutopsyJob{Failure: runlog.Failure{Traffic: j.ID}}}))
	found := fmt.Errorf("found")
	err := h.Records(t.Context(), 1, func(r runlog.Record) error {
		if r.Event == nil {
			return nil
		}
		if r.Event.Kind == marker.Kind {
			if r.Event.Name == marker.Name {
				return found
			}
			all = nil // of an earlier job
			return nil
		}
		if r.Event.Kind != "proxy" {
			all = append(all, *r.Event)
		}
		return nil
	})
	require.ErrorIs(t, err, found)
	return all
}

// connects has a host make n connections and returns the answers and errors.
func connects(t testing.TB, h env.Host, network string, to netip.AddrPort, n int, from netip.Prefix, ports int) []runlog.Event {
	t.Helper()
	var seed uint64
	if from.IsValid() && from == addressingOf(from.Addr().Is6()).floods {
		seed = pretend
	}
	return events(t, h, env.Job{ID: fmt.Sprint("dial ", time.Now().UnixNano()), Load: &env.LoadJob{
		Traffic: scenarios.Traffic{To: network}, Target: to, SourceCount: n, Sources: from, Ports: ports, Seed: seed,
	}})
}

// answers splits what servers said into pod names and the addresses they saw.
func answers(t testing.TB, list []runlog.Event) (pods map[string]int, peers []netip.AddrPort) {
	t.Helper()
	pods = map[string]int{}
	for _, e := range list {
		require.Equal(t, "answer", e.Kind, "%+v", e)
		pod, peer, _ := strings.Cut(e.Name, " ")
		pods[pod]++
		peers = append(peers, netip.MustParseAddrPort(peer))
	}
	return pods, peers
}

func entries(t testing.TB, l *Lab) []map[string]string {
	t.Helper()
	var out []map[string]string
	for _, e := range events(t, l.host("node1"), env.Job{ID: fmt.Sprint("table ", time.Now().UnixNano()), Census: &env.CensusJob{}}) {
		if e.Kind == "entry" {
			out = append(out, e.Fields)
		}
	}
	return out
}

func families(t *testing.T, f func(t *testing.T, family string)) {
	for _, family := range []string{"ipv4", "ipv6"} {
		t.Run(family, func(t *testing.T) { f(t, family) })
	}
}

func TestTrafficReachesPods(t *testing.T) {
	families(t, func(t *testing.T, family string) {
		web, dns := service("web", "tcp", 3), service("dns", "udp", 2)
		web.PortCount = 5
		l := up(t, topology(t, family, web, dns))
		client := l.host("client")
		const n = 600
		src := l.Entries()[0].Sources
		pods, peers := answers(t, connects(t, client, "tcp", l.Services()[0].Addr, n, src, 5))
		assert.Len(t, pods, 3)
		for pod, k := range pods {
			// Binomial with p = 1/3: six standard deviations are 69.
			assert.InDelta(t, n/3, k, 75, pod)
		}
		want := src.Addr()
		for _, p := range peers {
			want = want.Next()
			require.Equal(t, want, p.Addr(), "the pod sees the client's own address")
		}
		pods, _ = answers(t, connects(t, client, "udp", l.Services()[1].Addr, 60, src, 1))
		assert.Len(t, pods, 2)

		// The node tracks and translates; it sees each connection once.
		byDst := map[string]int{}
		for _, e := range entries(t, l) {
			byDst[e["dst"]]++
			if e["dst"] == l.Services()[0].Addr.Addr().String() {
				assert.NotEqual(t, e["dst"], e["reply_src"], "translated")
				assert.Equal(t, e["src"], e["reply_dst"], "not masqueraded")
			}
		}
		assert.Equal(t, n, byDst[l.Services()[0].Addr.Addr().String()])
	})
}

// The last source address of the prefix works as well as the first.
func TestEverySourceAddressWorks(t *testing.T) {
	families(t, func(t *testing.T, family string) {
		l := up(t, topology(t, family, service("web", "tcp", 1)))
		last := l.Entries()[0].Sources.Addr()
		b := last.AsSlice()
		b[len(b)-2], b[len(b)-1] = 0xff, 0xfd
		before, _ := netip.AddrFromSlice(b)
		_, peers := answers(t, connects(t, l.host("client"), "tcp", l.Services()[0].Addr, 1, netip.PrefixFrom(before, 16), 1))
		assert.Equal(t, before.Next(), peers[0].Addr())
		assert.True(t, l.Entries()[0].Sources.Contains(peers[0].Addr()))
	})
}

// A gateway's pod reaches another service through the node, which translates
// that connection too.
func TestPodReachesService(t *testing.T) {
	families(t, func(t *testing.T, family string) {
		l := up(t, topology(t, family, service("gw", "tcp", 2), service("web", "tcp", 1)))
		pods, peers := answers(t, connects(t, l.host("gw-1"), "tcp", l.Services()[1].Addr, 10, netip.Prefix{}, 1))
		assert.Equal(t, map[string]int{"web-1": 10}, pods)
		assert.Equal(t, l.Services()[0].Backends[0].Addr.Addr(), peers[0].Addr())
		assert.Len(t, entries(t, l), 10)
	})
}

func TestMasquerade(t *testing.T) {
	families(t, func(t *testing.T, family string) {
		top := topology(t, family, service("gw", "tcp", 1), service("web", "tcp", 1))
		top.Lab.Proxy.Masquerade = true
		l := up(t, top)
		node := addressingOf(family == "ipv6").gateway
		_, peers := answers(t, connects(t, l.host("client"), "tcp", l.Services()[1].Addr, 20, l.Entries()[0].Sources, 1))
		for _, p := range peers {
			assert.Equal(t, node, p.Addr())
		}
		for _, e := range entries(t, l) {
			assert.Equal(t, node.String(), e["reply_dst"])
		}
		_, peers = answers(t, connects(t, l.host("gw-1"), "tcp", l.Services()[1].Addr, 1, netip.Prefix{}, 1))
		assert.Equal(t, l.Services()[0].Backends[0].Addr.Addr(), peers[0].Addr(), "pods keep their address")
	})
}

// With a range, masquerading takes ports of it, and the node's address all the same.
func TestMasqueradePorts(t *testing.T) {
	families(t, func(t *testing.T, family string) {
		top := topology(t, family, service("web", "tcp", 2))
		top.Lab.Proxy.Masquerade, top.Lab.Proxy.MasqueradePorts = true, &scenarios.PortRange{From: 2000, To: 2099}
		l := up(t, top)
		_, peers := answers(t, connects(t, l.host("client"), "tcp", l.Services()[0].Addr, 20, l.Entries()[0].Sources, 1))
		require.Len(t, peers, 20)
		for _, p := range peers {
			assert.Equal(t, addressingOf(family == "ipv6").gateway, p.Addr())
			assert.True(t, 2000 <= p.Port() && p.Port() <= 2099, "%v", p)
		}
	})
}

func TestNoEndpointIsRefused(t *testing.T) {
	families(t, func(t *testing.T, family string) {
		l := up(t, topology(t, family, service("none", "tcp", 0), service("web", "tcp", 1)))
		other := netip.AddrPortFrom(l.Services()[1].Addr.Addr(), 9)
		for _, to := range []netip.AddrPort{l.Services()[0].Addr, other} {
			for _, e := range connects(t, l.host("client"), "tcp", to, 3, l.Entries()[0].Sources, 1) {
				assert.Equal(t, "ECONNREFUSED", e.Name, "%+v", e)
			}
		}
		// A pod without a listener refuses by itself.
		l2 := netip.AddrPortFrom(l.Services()[1].Backends[0].Addr.Addr(), 9)
		assert.Equal(t, "ECONNREFUSED", connects(t, l.host("client"), "tcp", l2, 1, l.Entries()[0].Sources, 1)[0].Name)
	})
}

// What floods pretend to come from answers nothing: no reset, no ICMP error,
// so a half-open connection stays half open.
func TestFloodSourcesAreSilent(t *testing.T) {
	families(t, func(t *testing.T, family string) {
		l := up(t, topology(t, family, service("web", "tcp", 1)))
		floods := addressingOf(family == "ipv6").floods
		list := connects(t, l.host("client"), "tcp", l.Services()[0].Addr, 2, floods, 1)
		for _, e := range list {
			assert.Equal(t, "error", e.Kind)
			assert.Empty(t, e.Name, "a timeout, not an answer: %s", e.Detail)
		}
		var states []string
		for _, e := range entries(t, l) {
			states = append(states, e["state"])
		}
		const synRecv = "2" // answered by the pod, and nothing since
		assert.Equal(t, []string{synRecv, synRecv}, states)
	})
}

func TestSettings(t *testing.T) {
	top := topology(t, "ipv4", service("web", "tcp", 1))
	top.ReusePorts = true
	top.NodeSysctls = map[string]string{"nf_conntrack_tcp_timeout_time_wait": "7", "nf_conntrack_tcp_timeout_close": "3"}
	l := up(t, top)
	read := func(host string) map[string]string {
		return events(t, l.host(host), env.Job{ID: "settings", Sample: &env.SampleJob{}})[0].Fields
	}
	client, node, pod := read("client"), read("node1"), read("web-1")
	assert.Equal(t, "1", client["net/ipv4/tcp_tw_reuse"])
	assert.Equal(t, "2", pod["net/ipv4/tcp_tw_reuse"])
	assert.Equal(t, "0", client["net/ipv4/ip_forward"])
	assert.Equal(t, "1", node["net/ipv4/ip_forward"])
	assert.Equal(t, "0", pod["net/ipv4/ip_forward"])
	assert.Equal(t, "7", node["net/netfilter/nf_conntrack_tcp_timeout_time_wait"])
	assert.NotEqual(t, "7", pod["net/netfilter/nf_conntrack_tcp_timeout_time_wait"], "the other hosts keep theirs")
	assert.Equal(t, "1", pod["net/ipv4/tcp_syncookies"])
	assert.True(t, atLeast(pod["net/core/somaxconn"], "4096"), pod["net/core/somaxconn"])
	for _, h := range []map[string]string{client, node, pod} {
		assert.Equal(t, "true", h["files"], "the limit of open files is raised")
	}
}

func TestUpRefuses(t *testing.T) {
	needLab(t)
	for name, c := range map[string]struct {
		change func(*env.Topology)
		want   string
	}{
		"unknown sysctl": {
			func(t *env.Topology) { t.NodeSysctls = map[string]string{"nf_conntrack_no_such": "1"} },
			"start proxy: node1: job proxy: set net.netfilter.nf_conntrack_no_such to 1: this kernel has no such setting",
		},
		"refused sysctl": {
			func(t *env.Topology) {
				t.NodeSysctls = map[string]string{"nf_conntrack_tcp_timeout_close": "soon"}
			},
			"start proxy: node1: job proxy: set net.netfilter.nf_conntrack_tcp_timeout_close to soon: the kernel refuses it: write /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close: invalid argument",
		},
		"no parent directory": {
			func(t *env.Topology) { t.WorkDir = filepath.Join(t.WorkDir, "sub") },
			"no such file or directory",
		},
	} {
		t.Run(name, func(t *testing.T) {
			top := topology(t, "ipv4", service("web", "tcp", 1))
			c.change(&top)
			before := stateOfMachine(t)
			l, err := newEnv().Up(t.Context(), top)
			if err == nil {
				err = serveAll(t.Context(), l.(*Lab))
				assert.NoError(t, l.Close(t.Context()))
			}
			assert.ErrorContains(t, err, c.want)
			assert.NoDirExists(t, top.WorkDir)
			assert.Equal(t, before, stateOfMachine(t))
		})
	}
	t.Run("somebody else's directory", func(t *testing.T) {
		top := topology(t, "ipv4")
		require.NoError(t, os.MkdirAll(top.WorkDir, 0o700))
		precious := filepath.Join(top.WorkDir, "precious")
		require.NoError(t, os.WriteFile(precious, nil, 0o600))
		_, err := newEnv().Up(t.Context(), top)
		assert.ErrorContains(t, err, "file exists")
		assert.FileExists(t, precious)
	})
	t.Run("link to another directory", func(t *testing.T) {
		top := topology(t, "ipv4")
		elsewhere := t.TempDir()
		require.NoError(t, os.Symlink(elsewhere, top.WorkDir))
		_, err := newEnv().Up(t.Context(), top)
		assert.ErrorContains(t, err, "file exists")
		list, err := os.ReadDir(elsewhere)
		require.NoError(t, err)
		assert.Empty(t, list)
	})
	t.Run("another user's directory", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root can make one")
		}
		top := topology(t, "ipv4")
		require.NoError(t, os.Mkdir(top.WorkDir, 0o777))
		require.NoError(t, os.Chown(top.WorkDir, 65534, 65534))
		_, err := newEnv().Up(t.Context(), top)
		assert.ErrorContains(t, err, "file exists")
		assert.DirExists(t, top.WorkDir)
	})
	t.Run("no binary", func(t *testing.T) {
		_, err := New(Config{Exe: "/no/such/binary"}).Up(t.Context(), topology(t, "ipv4"))
		assert.ErrorContains(t, err, "start supervisor: fork/exec /no/such/binary: no such file or directory")
	})
	t.Run("given up", func(t *testing.T) {
		before := stateOfMachine(t)
		top := topology(t, "ipv4", service("web", "tcp", 5))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		_, err := newEnv().Up(ctx, top)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.NoDirExists(t, top.WorkDir)
		assert.Equal(t, before, stateOfMachine(t))
	})
}

func TestLongWorkDir(t *testing.T) {
	top := topology(t, "ipv4", service("web", "tcp", 1))
	parent := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	require.NoError(t, os.MkdirAll(parent, 0o700))
	top.WorkDir = filepath.Join(parent, strings.Repeat("x", 200))
	l := up(t, top)
	answers(t, connects(t, l.host("client"), "tcp", l.Services()[0].Addr, 1, l.Entries()[0].Sources, 1))
}

func TestWorkDirIsPrivate(t *testing.T) {
	top := topology(t, "ipv4")
	require.NoError(t, os.Mkdir(top.WorkDir, 0o755)) // an empty one is taken
	up(t, top)
	dir, err := os.Stat(top.WorkDir)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o700), dir.Mode().Perm())
	list, err := os.ReadDir(top.WorkDir)
	require.NoError(t, err)
	require.Len(t, list, 4, "a socket and a spool per host")
	for _, f := range list {
		i, err := f.Info()
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), i.Mode().Perm(), f.Name())
	}
}

func TestLabsSideBySide(t *testing.T) {
	needLab(t)
	var wg sync.WaitGroup
	labs := make([]*Lab, 3)
	tops := make([]env.Topology, 3)
	for i := range labs {
		tops[i] = topology(t, "ipv4", service(fmt.Sprint("web", i), "tcp", 2))
		wg.Go(func() {
			l, err := newEnv().Up(t.Context(), tops[i])
			if assert.NoError(t, err) {
				labs[i] = l.(*Lab)
				assert.NoError(t, serveAll(t.Context(), labs[i]))
			}
		})
	}
	wg.Wait()
	for i, l := range labs {
		require.NotNil(t, l)
		pods, _ := answers(t, connects(t, l.host("client"), "tcp", l.Services()[0].Addr, 50, l.Entries()[0].Sources, 1))
		names := slices.Sorted(maps.Keys(pods))
		assert.Equal(t, []string{fmt.Sprintf("web%d-1", i), fmt.Sprintf("web%d-2", i)}, names)
		assert.Len(t, entries(t, l), 50, "each has its own table")
	}
	for _, l := range labs {
		wg.Go(func() { assert.NoError(t, l.Close(t.Context())) })
	}
	wg.Wait()
}

func TestProbe(t *testing.T) {
	before := stateOfMachine(t)
	c, err := newEnv().Probe(t.Context())
	require.NoError(t, err)
	for _, name := range []string{"userns", "pidns", "netns", "veth", "nftables", "ctnetlink", "limit_writable", "slabinfo"} {
		k := c.Lookup(name)
		t.Logf("%s %s %s", k.Name, k.State, k.Reason)
		if k.State != env.Yes {
			assert.NotEmpty(t, k.Reason, "%s: what is missing", name)
			assert.NotEqual(t, "not probed", k.Reason)
		}
	}
	assert.NotEmpty(t, c.Kernel)
	assert.NotEmpty(t, c.Arch)
	assert.Positive(t, c.CPUs)
	assert.Greater(t, c.MemoryBytes, uint64(64<<20))
	assert.Positive(t, c.MaxFiles)
	if c.Lookup("nftables").State == env.Yes {
		assert.Positive(t, c.Buckets)
		assert.EqualValues(t, 120, c.Timeouts["tcp_timeout_time_wait"])
	}
	assert.Equal(t, before, stateOfMachine(t))
}

// A probe whose process cannot be started is an answer with a reason.
func TestProbeWithoutProcesses(t *testing.T) {
	c, err := New(Config{Exe: "/no/such/binary"}).Probe(t.Context())
	require.NoError(t, err)
	assert.NotEqual(t, env.Yes, c.Lookup("netns").State)
	assert.Contains(t, c.Lookup("netns").Reason+c.Lookup("userns").Reason, "no such file")
	assert.Equal(t, env.Unknown, c.Lookup("nftables").State)
}

func TestMainRefusesOutsideItsNamespace(t *testing.T) {
	assert.ErrorContains(t, Main(t.Context(), nil, strings.NewReader("{}"), os.Stderr), "for the program itself")
}

// As many pods as a service may have.
func TestManyPods(t *testing.T) {
	l := up(t, topology(t, "ipv4", service("web", "tcp", 64)))
	pods, _ := answers(t, connects(t, l.host("client"), "tcp", l.Services()[0].Addr, 1500, l.Entries()[0].Sources, 1))
	assert.Len(t, pods, 64)
}

func BenchmarkUpDown(b *testing.B) {
	for _, pods := range []int{10, 64} {
		b.Run(fmt.Sprintf("pods=%d", pods), func(b *testing.B) {
			for b.Loop() {
				l, err := newEnv().Up(b.Context(), env.Topology{WorkDir: filepath.Join(b.TempDir(), "work"), Services: []scenarios.Service{service("web", "tcp", pods)}})
				require.NoError(b, err)
				require.NoError(b, l.Close(b.Context()))
			}
		})
	}
}

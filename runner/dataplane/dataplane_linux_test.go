package dataplane

import (
	"context"
	"maps"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/proxy"
	"github.com/tablefull/tablefull/scenarios"
)

var (
	webTCP = target{netip.MustParseAddrPort("10.96.0.10:8080"), unix.IPPROTO_TCP}
	dnsUDP = target{netip.MustParseAddrPort("10.96.0.11:53"), unix.IPPROTO_UDP}
)

func backends(addrs ...string) []runlog.ProgrammedBackend {
	var out []runlog.ProgrammedBackend
	for _, a := range addrs {
		out = append(out, runlog.ProgrammedBackend{Addr: netip.MustParseAddrPort(a), Weight: 1})
	}
	return out
}

// kubeRules have the shapes of kube-proxy's in mode nftables: a map of services
// leads to a chain each; up to 1.35 or so, and with client affinity, that leads
// to a chain per endpoint; later it translates by a map of its own.
const kubeRules = `
table ip kube-proxy {
	chain endpoint-A { ip saddr 10.244.0.2 jump mark-for-masquerade
		meta l4proto tcp dnat to 10.244.0.2:8080
	}
	chain endpoint-B { meta l4proto tcp dnat to 10.244.0.3:8080
	}
	chain endpoint-D { meta l4proto udp dnat to 10.244.0.9:5353
	}
	chain mark-for-masquerade { meta mark set meta mark or 0x4000
	}
	set affinity-D { type ipv4_addr
	}
	chain service-X { ip saddr != 10.244.0.0/16 jump mark-for-masquerade
		numgen random mod 2 vmap { 0 : goto endpoint-A, 1 : goto endpoint-B }
	}
	chain service-Y { ip saddr @affinity-D goto endpoint-D
		numgen random mod 1 vmap { 0 : goto endpoint-D }
	}
	chain service-Z { meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.0.4 . 80, 1 : 10.244.0.5 . 80 }
	}
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict
		elements = { 10.96.0.10 . tcp . 8080 : goto service-X, 10.96.0.11 . udp . 53 : goto service-Y, 10.96.0.12 . tcp . 80 : goto service-Z }
	}
}`

func TestReadKubeProxyNFTables(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		envtest.Require(t, "nft", err.Error())
	}
	if !envtest.Namespace(t) {
		return
	}
	got, err := readNFT([]bool{false}, all)
	require.NoError(t, err)
	assert.Empty(t, got, "no rules")
	_, _, err = readKube([]bool{false}, all)
	require.ErrorIs(t, err, errNoRules, "of kube-proxy's nothing is known")
	load := exec.Command("nft", kubeRules)
	out, err := load.CombinedOutput()
	require.NoError(t, err, string(out))
	got, err = readNFT([]bool{false}, all)
	require.NoError(t, err)
	assert.Equal(t, table{
		webTCP: backends("10.244.0.2:8080", "10.244.0.3:8080"), dnsUDP: backends("10.244.0.9:5353"),
		{netip.MustParseAddrPort("10.96.0.12:80"), unix.IPPROTO_TCP}: backends("10.244.0.4:80", "10.244.0.5:80"),
	}, got)
	mode, got, err := readKube([]bool{false}, func(k target) bool { return k == dnsUDP })
	require.NoError(t, err)
	assert.Equal(t, "nftables", mode)
	assert.Equal(t, table{dnsUDP: backends("10.244.0.9:5353")}, got, "only what is wanted")
}

// However often a proxy replaces the chains of its endpoints, each reading is one
// of the rules as they were at some moment: both pods of before, or both of after.
func TestReadChangingNFTables(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		envtest.Require(t, "nft", err.Error())
	}
	if !envtest.Namespace(t) {
		return
	}
	nft := func(rules string) {
		out, err := exec.Command("nft", rules).CombinedOutput()
		assert.NoError(t, err, string(out))
	}
	nft(kubeRules)
	const toCD = `add chain ip kube-proxy endpoint-C
add rule ip kube-proxy endpoint-C meta l4proto tcp dnat to 10.244.0.6:8080
add chain ip kube-proxy endpoint-E
add rule ip kube-proxy endpoint-E meta l4proto tcp dnat to 10.244.0.7:8080
flush chain ip kube-proxy service-X
add rule ip kube-proxy service-X numgen random mod 2 vmap { 0 : goto endpoint-C, 1 : goto endpoint-E }
delete chain ip kube-proxy endpoint-A
delete chain ip kube-proxy endpoint-B
`
	toAB := strings.NewReplacer("endpoint-A", "endpoint-C", "endpoint-B", "endpoint-E", "endpoint-C", "endpoint-A", "endpoint-E", "endpoint-B",
		"10.244.0.6", "10.244.0.2", "10.244.0.7", "10.244.0.3").Replace(toCD)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			nft([]string{toCD, toAB}[n%2])
		}
		done <- n
	}()
	ab, cd := backends("10.244.0.2:8080", "10.244.0.3:8080"), backends("10.244.0.6:8080", "10.244.0.7:8080")
	seen := map[string]int{}
	for range 500 {
		_, got, err := readKube([]bool{false}, func(k target) bool { return k == webTCP })
		if !assert.NoError(t, err) {
			break
		}
		switch {
		case assert.ObjectsAreEqual(ab, got[webTCP]):
			seen["before"]++
		case assert.ObjectsAreEqual(cd, got[webTCP]):
			seen["after"]++
		default:
			assert.Failf(t, "a reading of no moment", "%v", got)
		}
	}
	cancel()
	t.Logf("%v in %d changes", seen, <-done)
	assert.Len(t, seen, 2)
}

func all(target) bool { return true }

// What the built-in proxy programs is read back, node ports included.
func TestReadBuiltIn(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	both := table{}
	for _, c := range []struct{ vip, node, one, two string }{
		{"10.96.0.10", "10.0.0.1", "10.244.0.2", "10.244.0.3"},
		{"fd00:96::10", "fd00::1", "fd00:244::2", "fd00:244::3"},
	} {
		vip, node := netip.MustParseAddr(c.vip), netip.MustParseAddr(c.node)
		pod := func(s string) runlog.EndpointState {
			return runlog.EndpointState{Name: s, Addr: netip.MustParseAddr(s), Ready: true, Serving: true}
		}
		w, err := proxy.New(env.Job{ID: "proxy", Proxy: &env.ProxyJob{
			Node: "node1", NodeAddr: node, IPv6: vip.Is6(), Proxy: scenarios.Proxy{Mode: "nftables"},
			VIPs: netip.PrefixFrom(vip, 16), Clients: netip.PrefixFrom(node, 8),
			Services: []env.ServiceState{{
				Name: "web", Addr: vip, Protocol: "tcp", Port: 80, Ports: 1, NodePort: 30080,
				Endpoints: []runlog.EndpointState{pod(c.one), pod(c.two), {Name: "ended", Addr: node}},
			}},
		}})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ready, ended := make(chan struct{}), make(chan error, 1)
		go func() { ended <- w.Run(ctx, func() { close(ready) }, nobody{}) }()
		select {
		case <-ready:
		case err := <-ended:
			require.NoError(t, err)
		}
		got, err := readNFT([]bool{vip.Is6()}, all)
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, err)
		want := []runlog.ProgrammedBackend{}
		for _, a := range []string{c.one, c.two} {
			want = append(want, runlog.ProgrammedBackend{Addr: netip.AddrPortFrom(netip.MustParseAddr(a), 80), Weight: 1})
		}
		assert.Equal(t, table{
			{netip.AddrPortFrom(vip, 80), unix.IPPROTO_TCP}:     want,
			{netip.AddrPortFrom(node, 30080), unix.IPPROTO_TCP}: want,
		}, got)
		maps.Copy(both, got)
	}
	// The rules of both are there still.
	got, err := readNFT([]bool{false, true}, all)
	require.NoError(t, err)
	assert.Len(t, both, 4)
	assert.Equal(t, both, got)
}

type nobody struct{}

func (nobody) Record(runlog.Record) {}

const kubeSave = `# Generated by iptables-save
*nat
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-SEP-A -s 10.244.0.2/32 -m comment --comment default/web -j KUBE-MARK-MASQ
-A KUBE-SEP-A -p tcp -m comment --comment default/web -m tcp -j DNAT --to-destination 10.244.0.2:8080
-A KUBE-SEP-B -p tcp -m comment --comment default/web -m tcp -j DNAT --to-destination 10.244.0.3:8080
-A KUBE-SEP-D -p udp -m comment --comment default/dns -m udp -j DNAT --to-destination 10.244.0.9:5353
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 8080 -j KUBE-SVC-X
-A KUBE-SERVICES -d 10.96.0.11/32 -p udp -m comment --comment "default/dns cluster IP" -m udp --dport 53 -j KUBE-SVC-Y
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-X ! -s 10.244.0.0/16 -d 10.96.0.10/32 -p tcp -m tcp --dport 8080 -j KUBE-MARK-MASQ
-A KUBE-SVC-X -m comment --comment "default/web -> 10.244.0.2:8080" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-A
-A KUBE-SVC-X -m comment --comment "default/web -> 10.244.0.3:8080" -j KUBE-SEP-B
-A KUBE-SVC-Y -j KUBE-SEP-D
COMMIT
`

// kubeRestore is what iptables-restore makes the chains of kubeSave of.
const kubeRestore = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-X - [0:0]
:KUBE-SVC-Y - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-SEP-B - [0:0]
:KUBE-SEP-D - [0:0]
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
`

var toIPv6 = strings.NewReplacer("10.244.0.0/16", "fd00:244::/64", "10.244.0.2:", "[fd00:244::2]:", "10.244.0.3:", "[fd00:244::3]:", "10.244.0.9:", "[fd00:244::9]:",
	"10.96.0.10/32", "fd00:96::10/128", "10.96.0.11/32", "fd00:96::11/128", "10.244.0.2/32", "fd00:244::2/128")

// The rules of a kube-proxy in mode iptables are read without any program of
// iptables, of both families, and those of its mode ipvs are not taken for such.
func TestReadKubeProxyIPTables(t *testing.T) {
	if _, err := exec.LookPath("xtables-nft-multi"); err != nil {
		envtest.Require(t, "nft", err.Error())
	}
	if !envtest.Namespace(t) {
		return
	}
	restore := func(family, rules string) {
		cmd := exec.Command("xtables-nft-multi", family+"-restore", "--noflush")
		cmd.Stdin = strings.NewReader(rules)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
	}
	restore("iptables", "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODE-PORT - [0:0]\n-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT\nCOMMIT\n")
	_, _, err := readKube([]bool{false}, all)
	require.ErrorIs(t, err, errNoRules, "this is mode ipvs")

	rules := kubeRestore + kubeSave[strings.Index(kubeSave, "-A KUBE-SEP-A"):]
	restore("iptables", rules)
	v4 := table{webTCP: backends("10.244.0.2:8080", "10.244.0.3:8080"), dnsUDP: backends("10.244.0.9:5353")}
	mode, got, err := readKube([]bool{false}, all)
	require.NoError(t, err)
	assert.Equal(t, "iptables", mode)
	assert.Equal(t, v4, got)
	_, _, err = readKube([]bool{false, true}, all)
	require.ErrorIs(t, err, errNoRules, "of IPv6 there are none")

	restore("ip6tables", toIPv6.Replace(rules))
	_, got, err = readKube([]bool{false, true}, all)
	require.NoError(t, err)
	maps.Copy(v4, table{
		{netip.MustParseAddrPort("[fd00:96::10]:8080"), unix.IPPROTO_TCP}: backends("[fd00:244::2]:8080", "[fd00:244::3]:8080"),
		{netip.MustParseAddrPort("[fd00:96::11]:53"), unix.IPPROTO_UDP}:   backends("[fd00:244::9]:5353"),
	})
	assert.Equal(t, v4, got)
	_, got, err = readKube([]bool{false}, func(k target) bool { return k == dnsUDP })
	require.NoError(t, err)
	assert.Equal(t, table{dnsUDP: backends("10.244.0.9:5353")}, got, "only what is wanted")
}

// iptables before 1.8.8 compares ports by a match of xtables.
func TestPortalOfOldIPTables(t *testing.T) {
	r := &nftReader{}
	destined := []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4, DestRegister: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{10, 96, 0, 10}},
	}
	jump := &expr.Verdict{Kind: expr.VerdictJump, Chain: "KUBE-SVC-X"}
	k, chain := r.portal(&nftables.Rule{Exprs: append(destined, &expr.Match{Name: "tcp", Info: &xt.Tcp{DstPorts: [2]uint16{8080, 8080}}}, jump)})
	assert.Equal(t, webTCP, k)
	assert.Equal(t, "KUBE-SVC-X", chain)
	k, _ = r.portal(&nftables.Rule{Exprs: append(destined, jump)})
	assert.False(t, k.addr.IsValid(), "of no port")
}

func TestParseIPTables(t *testing.T) {
	assert.Equal(t, table{
		webTCP: backends("10.244.0.2:8080", "10.244.0.3:8080"), dnsUDP: backends("10.244.0.9:5353"),
	}, parseIPTables([]byte(kubeSave)))
	assert.Empty(t, parseIPTables(nil))
}

func FuzzParseIPTables(f *testing.F) {
	f.Add(kubeSave)
	f.Add("-A KUBE-SERVICES -d 1.2.3.4/32 -p tcp --dport 1 -j KUBE-SERVICES")
	f.Fuzz(func(_ *testing.T, s string) { parseIPTables([]byte(s)) })
}

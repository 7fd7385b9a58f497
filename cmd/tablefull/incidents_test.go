package main

import (
	"bytes"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
)

// assertReproduced holds a run to what its scenario expects.
func assertReproduced(t *testing.T, r result, want bool) {
	t.Helper()
	require.NotNil(t, r.Reproduced, "%v", r.Expected)
	assert.Equal(t, want, *r.Reproduced, "%v", r.Expected)
}

// What needs little of the machine and fills no table goes side by side.
func TestTruthSideBySide(t *testing.T) {
	needLab(t)
	tests := map[string]func(*testing.T){
		"upgrade": truthUpgrade, "soak": truthStaleSoak, "idle expiry": truthIdleExpiry,
		"proxy restart": truthProxyRestart, "termination race": truthTerminationRace,
	}
	for name, off := range map[string][]string{ // what takes the mechanism away
		"stale-rules":        {"actions[0]=null"},
		"stale-node":         {"actions[0]=null"},
		"etp-local-drop":     {"services[0].external_traffic_policy=Cluster", "services[0].health_check_node_port=null"},
		"udp-stale-dead-pod": {"lab.proxy.keep_udp=false"},
		"scale-to-zero-udp":  {"actions[0].scale.to=1"},
		// Without the entries the rules, which are there again, are asked.
		"presync-blackhole": {"actions[+]={name: delete-entries, at: 3500ms, flush: {protocol: tcp}}"},
	} {
		tests[name] = func(t *testing.T) { truthIncident(t, name, off) }
	}
	sideBySide(t, tests)
}

// Each incident of the library shows what its file expects, and shows it no
// longer with its mechanism switched off.
func truthIncident(t *testing.T, name string, off []string) {
	r := runHonest(t, name, "")
	assertReproduced(t, r, true)
	assert.Equal(t, exitPass, r.code)
	assertNotTheTable(t, r)
	if name == "etp-local-drop" {
		assertHealthPorts(t, r)
	}
	if slices.Contains(shownByTests, "tablefull run "+name) {
		assertReadme(t, name, r)
	}
	var args []string
	for _, s := range off {
		args = append(args, "--set", s)
	}
	r = runHonest(t, name, "", args...)
	assertReproduced(t, r, false)
	assert.Equal(t, exitInconclusive, r.code)
	assert.LessOrEqual(t, r.Traffic[0].Failed, uint64(20), "at most what was on its way to a pod that ended")
}

// What the gate runs again and again: pods that close at once cost attempts, by
// how late the proxy is, and a restart of it none. With a preStop hook that is
// longer than that, a rollout costs none either.
func truthUpgrade(t *testing.T) {
	r := runHonest(t, "upgrade", "")
	assertReproduced(t, r, true)
	assert.NotZero(t, r.cause("stale_backend"))
	r = runHonest(t, "upgrade", "", "--set", "services[0].lifecycle.pre_stop=2s")
	assertReproduced(t, r, false)
	assert.LessOrEqual(t, r.Traffic[0].Failed, uint64(20), "at most what was on its way to a pod that ended")
}

// The soak goes on while the proxy is well, and ends at the first backend that
// is stale for too long.
func truthStaleSoak(t *testing.T) {
	sets := []string{"--set", "actions[0].at=1s", "--set", "actions[0].every=3s", "--set", `abort_on=["stale < 2s"]`}
	r := runHonest(t, "stale-soak", "", append(sets, "--set", "duration=6s")...)
	assert.Equal(t, exitPass, r.code, "%v", r.Reasons)
	assert.Len(t, r.Spikes, 2)
	r = runHonest(t, "stale-soak", "", append(sets, "--set", "duration=60s", "--set", "actions[+]={at: 2s, pause_proxy: {}}")...)
	assert.Equal(t, exitFail, r.code, "%v", r.Reasons)
	assert.Contains(t, r.Reasons[0], "as abort_on asks: stale < 2s does not hold any more")
	assert.NotZero(t, r.cause("stale_backend"))
	assert.Less(t, r.Traffic[0].Attempted, uint64(20*50), "it was to go on for 60 s")
}

// inState is how many entries a walk found in a state of TCP.
func inState(c *report.Census, state string) float64 {
	var n uint64
	for _, g := range c.Groups {
		if g.State == state {
			n += g.Count
		}
	}
	return float64(n)
}

// A leak fills the table: the entries that the census finds in CLOSE_WAIT are as
// many as were free, and the table is full when rate x time says so. Where the
// client closes, it is not.
func TestTruthCloseWait(t *testing.T) {
	needLab(t)
	r := runHonest(t, "closewait-pileup", "")
	assertReproduced(t, r, true)
	assert.Equal(t, exitPass, r.code)
	assertOnset(t, r.Knee.Drop, 10, 0.1)
	// A walk over this table takes less than a second, in which 250 come on top.
	census := r.Nodes[0].Census
	require.NotNil(t, census)
	assert.InDelta(t, 250*min(census.AtS, 10), inState(census, "CLOSE_WAIT"), 250)
	assert.Greater(t, r.Nodes[0].PeakByState["tcp CLOSE_WAIT"], uint64(2000))
	assert.LessOrEqual(t, r.Nodes[0].PeakByState["tcp CLOSE_WAIT"], uint64(2500), "no more than were free")
	assert.InEpsilon(t, r.Traffic[0].Failed, r.cause("table_full"), 0.01)

	// Not runHonest: entries that have expired leave this table when the census walks it.
	// A slow machine's does so too seldom: 250/s fill 2500 in 10 s, expired or not.
	r = runIt(t, "closewait-pileup", "", "--set", "traffic[0].short_lived.close=fin", "--set", "traffic[0].short_lived.closer=client")
	assertReproduced(t, r, false)
	assert.Zero(t, r.Nodes[0].PeakByState["tcp CLOSE_WAIT"])
	unwalked, last := 0.0, 0.0
	for _, walk := range recordsOf(t, r.dir, func(r *runlog.Record) bool { return r.Census != nil && r.T > 0 }) {
		unwalked, last = max(unwalked, min(walk.T, 13)-last), walk.T
	}
	if unwalked = max(unwalked, 13-last); unwalked < 7 { // and those of 2 s that have not expired
		assert.Zero(t, r.Traffic[0].Failed)
	} else {
		t.Logf("the table was not walked for %.1f s: whether it fills without a leak was not judged", unwalked)
	}
}

// Connections that are idle for longer than the node remembers them are lost
// one by one as they are used again, unless TCP keep-alive keeps their entries or
// there is no other pod to go to.
func truthIdleExpiry(t *testing.T) {
	r := runHonest(t, "idle-expiry-nat-lost", "")
	assertReproduced(t, r, true)
	assert.Equal(t, exitPass, r.code)
	assertNotTheTable(t, r)
	tr := r.Traffic[0]
	require.NotNil(t, tr.HeldLost)
	// 50 are used once before the 5 s are over and after 3 s, then all that are left, 2 in 3
	// of which go to another pod.
	assert.InDelta(t, 50*8/9.+150*2/3., float64(*tr.HeldLost), 30)

	r = runHonest(t, "idle-expiry-nat-lost", "", "--set", "traffic[0].idle.keepalive=1s")
	assertReproduced(t, r, false)
	assert.Zero(t, *r.Traffic[0].HeldLost)
}

// Two datagrams of one new connection on two CPUs: the kernel resolves the clash,
// and nothing is lost. One after the other they do not clash.
func TestTruthDNSPair(t *testing.T) {
	needLab(t)
	if runtime.NumCPU() < 2 {
		t.Skip("a race needs two CPUs")
	}
	r := runHonest(t, "dns-pair", "")
	assertReproduced(t, r, true)
	assert.Equal(t, exitPass, r.code)
	assert.LessOrEqual(t, r.Nodes[0].Counters["clashres"], r.Traffic[0].Attempted, "one datagram of a pair meets the other's entry")
	assert.Zero(t, r.Nodes[0].Counters["drop"])

	r = runHonest(t, "dns-pair", "", "--set", "traffic[0].udp.parallel=false")
	assertReproduced(t, r, false)
	assert.Zero(t, r.Nodes[0].Counters["clashres"])
	assert.Zero(t, r.Traffic[0].Failed)
}

// Through 512 source ports one pod can be sent 512 connections at a time, and
// each further attempt is one SYN that clashes; a second pod has ports of its own.
func TestTruthSourcePorts(t *testing.T) {
	needLab(t)
	r := runHonest(t, "snat-port-exhaustion", "")
	assertReproduced(t, r, true)
	assert.Equal(t, exitPass, r.code)
	assertNotTheTable(t, r)
	assert.Equal(t, uint64(200), r.Traffic[0].Failed)
	assert.Equal(t, uint64(200), r.cause("snat_ports"))
	assert.Equal(t, uint64(200), r.Nodes[0].Counters["insert_failed"])
	assert.Equal(t, uint64(200), r.Nodes[0].Counters["drop"])
	require.NotNil(t, r.Nodes[0].Ports)
	assert.Equal(t, uint64(512), r.Nodes[0].Ports.MostTaken)
	assert.Contains(t, r.Headline, "ran out of source ports")

	r = runHonest(t, "snat-port-exhaustion", "", "--set", "services[0].pods=2")
	assertReproduced(t, r, false)
	assert.Zero(t, r.Traffic[0].Failed)
	assert.Zero(t, r.Nodes[0].Counters["insert_failed"])
}

// Too few buckets refuse connections in a table that is nearly empty; with
// enough of them the same traffic loses none to it. A private kernel on a busy
// machine is too slow for a verdict, but not for who was refused.
func TestTruthBuckets(t *testing.T) {
	needPrivate(t)
	r := runIt(t, "bucket-degenerate", "", "--quiet")
	assertReproduced(t, r, true)
	assertNotTheTable(t, r)
	assert.EqualValues(t, 1024, r.Environment.Buckets)
	assert.Greater(t, float64(r.cause("chain_too_long")), 0.1*float64(r.Traffic[0].Attempted), "a slow machine sends a second SYN, which saves some")
	assert.Equal(t, r.Nodes[0].Counters["chainlength"], r.Nodes[0].Counters["insert_failed"])
	assert.Less(t, *r.Nodes[0].PeakOccupancy, 0.03)
	if !r.Generator.Saturated {
		assert.Equal(t, exitPass, r.code)
		assert.Contains(t, r.Headline, "too few hash buckets")
	}

	r = runIt(t, "bucket-degenerate", "", "--quiet", "--set", "duration=4s", "--set", "conntrack.buckets=262144")
	assertReproduced(t, r, false)
	assert.EqualValues(t, 262144, r.Environment.Buckets)
	assert.Zero(t, r.cause("chain_too_long"))
	assert.Zero(t, r.Nodes[0].Counters["insert_failed"])
	assert.NotZero(t, *r.Traffic[0].Succeeded)
}

// What an action changes of connection tracking holds from then on: of the
// entries that connections leave, those of before stay two minutes, as the kernel
// has it, and those of after a second.
func TestTruthConntrackSettings(t *testing.T) {
	needLab(t)
	r := runHonest(t, "-", `
name: settings
duration: 6s
services:
  - {name: web}
traffic:
  - {name: clients, to: web, short_lived: {rate: 100/s}}
actions:
  - {name: shorter, at: 2s, conntrack_settings: {timeouts: {tcp_timeout_time_wait: 1s}, be_liberal: true}}
`)
	assert.Empty(t, r.Spikes[0].Error)
	assert.Zero(t, r.Traffic[0].Failed)
	assert.Empty(t, r.Nodes[0].LimitChanges)
	require.NotNil(t, r.Nodes[0].Census)
	// A walk takes what has expired away, and counts it.
	waiting := inState(r.Nodes[0].Census, "TIME_WAIT")
	assert.InDelta(t, 2*100+1*100, waiting, 120, "six seconds make 600")
	assert.Contains(t, r.Predicted.Explanation, "timeouts were changed while traffic flowed")
}

// The machine's limit is nobody's to write who has not said so, and a kube-proxy's
// never: who may write it is the run, which puts it back.
func TestLimitNeedsConsent(t *testing.T) {
	before := lookAround(t)
	dir := filepath.Join(t.TempDir(), "out")
	const kube = "lab.proxy={mode: nftables, binary: v1.36.3, conntrack: {max_per_core: 1000}}"
	for _, c := range []struct {
		sets []string
		code int
		says string
	}{
		{[]string{"actions[+]={conntrack_settings: {max: 100000}}"}, exitUsage, "the scenario does not say that it may be"},
		{[]string{"actions[+]={conntrack_settings: {min: 100000}}"}, exitUnsupported, "only a cluster has"},
		{[]string{kube}, exitUsage, "write lab.kernel: private, or max_per_core: 0"},
		{[]string{kube, "conntrack.max=300000"}, exitUsage, "write lab.kernel: private, or max_per_core: 0"},
		{[]string{kube, "lab.kernel=auto"}, exitUsage, "write lab.kernel: private, or max_per_core: 0"},
		{[]string{"conntrack.max=300000", "actions[+]={upgrade_proxy: {mode: nftables, binary: v1.36.3, conntrack: {}}}"}, exitUsage, "write lab.kernel: private, or max_per_core: 0"},
	} {
		args := []string{"run", "healthy", "--out", dir}
		for _, set := range c.sets {
			args = append(args, "--set", set)
		}
		var out, errOut bytes.Buffer
		code := run(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
		assert.Equal(t, c.code, code, "%v: %s", c.sets, errOut.String())
		assert.Contains(t, errOut.String(), c.says, "%v", c.sets)
		assert.NoDirExists(t, dir)
	}
	assertAsBefore(t, before)
}

// A real kube-proxy lowers the limit at its restart to less than there is, and
// from that moment on each new connection is dropped; with one that leaves it
// alone nothing is. A private kernel on a busy machine may be too slow for a
// verdict, but not for that.
func TestTruthProxyLowersMax(t *testing.T) {
	needPrivate(t)
	needKubeProxy(t, []string{"v1.36.3"}, []string{"iptables", "ipset"})
	r := runIt(t, "proxy-lowers-max", "", "--quiet")
	n := r.Nodes[0]
	require.Len(t, n.LimitChanges, 2)
	raised, c := n.LimitChanges[0], n.LimitChanges[1]
	assert.Equal(t, []uint64{131072, 262144, 262144, 131072}, []uint64{raised.From, raised.To, c.From, c.To})
	assert.Equal(t, []string{"administrator"}, raised.Actions)
	assert.Equal(t, []string{"restart"}, c.Actions)
	assert.GreaterOrEqual(t, c.Entries, uint64(139_000))
	require.NotNil(t, n.Knee.Drop)
	assert.InDelta(t, c.AtS, n.Knee.Drop.AtS, 1)
	assert.Equal(t, uint64(131072), *n.Knee.Drop.Limit)
	assert.Greater(t, *n.PeakOccupancy, 1.05)
	assert.Greater(t, float64(r.cause("table_full")), 0.9*float64(r.Traffic[0].Failed))
	assert.GreaterOrEqual(t, n.Counters["drop"], r.cause("table_full"))
	if !r.Generator.Saturated {
		assertReproduced(t, r, true)
		assertReadme(t, "proxy-lowers-max", r)
		assert.Contains(t, r.Headline, "since its limit was lowered from 262144 to 131072 (restart)")
	}

	r = runIt(t, "proxy-lowers-max", "", "--quiet", "--set", "lab.proxy.conntrack.max_per_core=0", "--set", "duration=7s")
	assertReproduced(t, r, false)
	require.Len(t, r.Nodes[0].LimitChanges, 1)
	assert.Zero(t, r.cause("table_full"))
	assert.Zero(t, r.Nodes[0].Counters["drop"])
}

// More ballast than the chains take is said, and not tried for ever.
func TestBallastBeyondTheBuckets(t *testing.T) {
	needPrivate(t)
	dir := filepath.Join(t.TempDir(), "out")
	var out, errOut bytes.Buffer
	args := []string{"run", "bucket-degenerate", "--quiet", "--out", dir, "--set", "conntrack.headroom=3000"}
	code := run(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	assert.Equal(t, exitError, code)
	assert.Contains(t, errOut.String(), "their hash chains would be too long")
	assert.Contains(t, errOut.String(), "ask for a headroom of at least 10")
	assert.NoDirExists(t, dir)
}

func truthProxyRestart(t *testing.T) {
	r := runHonest(t, "proxy-restart-under-load", "")
	assertReproduced(t, r, true)
	assert.Equal(t, exitPass, r.code)
	assert.Zero(t, r.Traffic[0].Failed)
	assert.Len(t, r.Spikes, 5)
	r = runHonest(t, "proxy-restart-under-load", "", "--set", "actions[0].restart_proxy.clean=true", "--set", "actions[0].restart_proxy.down=300ms")
	assertReproduced(t, r, false)
	assert.Equal(t, exitFail, r.code)
	assert.NotZero(t, r.Traffic[0].Failed)
}

// The second article: with IPVS, half of the new connections of clients that
// reuse their source ports go on reaching the pod that is taken out; with what
// kube-proxy sets today, none, and none with nftables or iptables. A private kernel on a busy
// machine is too slow for a verdict, but not for who was reached.
func TestTruthPortReuse(t *testing.T) {
	needPrivate(t)
	noIPVS := []string{"lab.kernel=host", "lab.proxy.ipvs=null", "duration=7s", "actions[0].at=2s", "services[0].lifecycle.grace=4s"}
	for _, c := range []struct {
		name   string
		sets   []string
		lo, hi float64
	}{
		{"article", nil, 0.4, 0.6},
		{"expire_nodest_conn", []string{"lab.proxy.ipvs.expire_nodest_conn=true"}, 0, 0.05},
		{"conn_reuse_mode", []string{"lab.proxy.ipvs.conn_reuse_mode=1"}, 0, 0.05},
		{"nftables", append([]string{"lab.proxy.mode=nftables"}, noIPVS...), 0, 0.05},
		{"iptables", append([]string{"lab.proxy.mode=iptables", "lab.proxy.binary=v1.36.3"}, noIPVS...), 0, 0.05},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "iptables" { // the built-in proxy knows no such mode
				needKubeProxy(t, []string{"v1.36.3"}, []string{"iptables"})
			}
			args := []string{"--quiet", "--set", "lab.kernel=private"}
			for _, s := range c.sets {
				args = append(args, "--set", s)
			}
			r := runIt(t, "port-reuse-rollout", "", args...)
			share := drainingShare(r)
			require.NotNil(t, share, "no pod was seen to drain")
			t.Logf("the draining pod took %.1f %%", 100**share)
			assert.GreaterOrEqual(t, *share, c.lo)
			assert.LessOrEqual(t, *share, c.hi)
			assertReproduced(t, r, c.lo > 0)
			if c.sets == nil && !r.Generator.Saturated {
				assertReadme(t, "port-reuse-rollout", r)
			}
		})
	}
}

// drainingShare is the largest share that a draining pod took; nil for none.
func drainingShare(r result) *float64 {
	var most *float64
	for _, b := range r.Backends {
		if s := b.DrainingShare; s != nil && (most == nil || *s > *most) {
			most = s
		}
	}
	return most
}

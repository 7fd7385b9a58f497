package runner

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

func planOf(t *testing.T, yaml string, caps env.Capabilities) *Plan {
	t.Helper()
	s, err := scenarios.Parse("test.yaml", []byte(yaml))
	require.NoError(t, err)
	p, err := NewPlan(s, caps)
	require.NoError(t, err)
	return p
}

func machine() env.Capabilities {
	return env.Capabilities{
		CPUs: 2, MemoryBytes: 8 << 30, Limit: 262144, MaxFiles: 20000,
		Timeouts: map[string]float64{"tcp_timeout_time_wait": 120, "tcp_timeout_close": 10, "tcp_timeout_syn_recv": 60, "udp_timeout": 30, "tcp_timeout_established": 432000},
	}
}

// The combined fill time of several traffics, against arithmetic by hand.
func TestFill(t *testing.T) {
	const web = "name: x\nduration: %s\nconntrack: {headroom: %d}\nservices: [{name: web}, {name: dns, protocol: udp}]\ntraffic:\n%s"
	for _, c := range []struct {
		name, duration string
		headroom       int
		traffic        string
		at             float64 // 0: never
		peak           float64 // 0: not looked at
	}{
		{"one", "10s", 3000, "- {to: web, short_lived: {rate: 700/s}}", 3000.0 / 700, 7000},
		// 300/s for 2 s are 600; the other 2400 come at 1000/s.
		{"two", "10s", 3000, "- {to: web, short_lived: {rate: 300/s}}\n- {name: later, to: web, start: 2s, short_lived: {rate: 700/s}}", 2 + 2400.0/1000, 8600},
		// 400/s, and only 2000 connections: 5 s for them, the rest at 100/s.
		{"idle ends", "20s", 3000, "- {to: web, idle: {count: 2000, open_rate: 400/s}}\n- {to: web, short_lived: {rate: 100/s}}", 10, 4000},
		// Entries go after 10 s, so 100/s settle at 1000.
		{"settles", "40s", 1001, "- {to: web, short_lived: {rate: 100/s, close: rst}}", 0, 1000},
		{"ramp", "10s", 2500, "- {to: web, short_lived: {ramp: {from: 0/s, to: 1000/s}}}", 7.0711, 5000},
		{"stages", "10s", 2000, "- {to: web, short_lived: {stages: [{to: 100/s, for: 5s}, {from: 1000/s, to: 1000/s, for: 5s}]}}", 6.5, 5500},
		{"sine", "10s", 1001, "- {to: web, short_lived: {sine: {mean: 100/s, amplitude: 50/s, period: 5s}}}", 0, 1000},
		{"both protocols", "10s", 3000, "- {to: web, short_lived: {rate: 300/s}}\n- {to: dns, udp: {rate: 700/s}}", 3, 10000},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := planOf(t, fmt.Sprintf(web, c.duration, c.headroom, c.traffic), machine()).fill()
			assert.Equal(t, c.at > 0, f.full)
			assert.InDelta(t, c.at, f.at, 0.01)
			assert.InDelta(t, c.peak, f.peak, 1)
		})
	}
}

func TestDryRunSaysWhatIsKnown(t *testing.T) {
	text := func(yaml string) string {
		var b strings.Builder
		require.NoError(t, planOf(t, yaml, machine()).WriteText(&b))
		return b.String()
	}
	const head = "name: x\nduration: 10s\nservices: [{name: web}]\n"
	mild := text(head + "traffic: [{to: web, short_lived: {rate: 700/s}}]")
	assert.Contains(t, mild, "at most 7000 of 262144 free entries are needed at once: never full in this run")
	assert.NotContains(t, mild, "doubt")
	assert.NotContains(t, mild, "alone")

	reused := text(head + "traffic: [{to: web, short_lived: {rate: 700/s, source_ports: {fixed: 4000}}}]")
	assert.Contains(t, reused, "cannot be computed")

	const ipvs = "name: x\nduration: 10s\nlab: {proxy: {mode: ipvs}}\nservices: [{name: web}]\ntraffic: [{to: web, short_lived: {rate: 700/s}}]\n"
	for value, computed := range map[string]bool{"0": false, "1": true} {
		bypass := text(ipvs + "actions: [{set_sysctl: {values: {net.ipv4.vs.conntrack: " + value + "}}}]")
		assert.Equal(t, computed, strings.Contains(bypass, "never full in this run"), value)
		assert.Equal(t, !computed, strings.Contains(bypass, "a lack of tracking is between"), value)
	}

	flood := text(head + "conntrack: {headroom: 1000}\ntraffic: [{to: web, flood: {rate: 1000/s}}, {to: web, short_lived: {rate: 1000/s}}]")
	assert.Contains(t, flood, "full at 0.50s")
	assert.Contains(t, flood, "alone it would fill the table at 1.00s")
	assert.Contains(t, flood, "early_drop")

	acting := text(head + "traffic: [{to: web, short_lived: {rate: 1/s}}]\nactions: [{at: 2s, flush: {}}]")
	assert.Contains(t, acting, "never full in this run; without what actions do to it")

	absurd := text(head + "traffic: [{to: web, short_lived: {rate: 10000000/s}}]")
	assert.Contains(t, absurd, "the generator will probably be the limit")
	assert.Contains(t, absurd, "holds a socket for its timeout, 10000000/s x 0.9s = 9000000, and the client may open 20000 files")

	large := text(head + "conntrack: {max: 100000000}\ntraffic: [{to: web, short_lived: {rate: 1/s}}]")
	assert.Contains(t, large, "MiB of kernel memory")
}

// A lab has addresses of one family. In a cluster, traffic goes to the address of
// its family, which has a name of its own in records.
func TestFamilies(t *testing.T) {
	const yaml = "name: x\nservices: [{name: web, families: [ipv4, ipv6]}, {name: six, families: [ipv6]}, {name: four, families: [ipv4]}]\n" +
		"traffic: [{name: a, to: web, short_lived: {rate: 1/s}}, {name: b, to: web, family: ipv6, short_lived: {rate: 1/s}}, {name: c, to: six, family: ipv6, short_lived: {rate: 1/s}}]"
	caps := machine()
	refused := fmt.Sprint(planOf(t, yaml, caps).Refused)
	assert.Contains(t, refused, "services[0].families: ipv4, ipv6: all that is in a lab has addresses of one family, lab.family, which is ipv4")
	assert.Contains(t, refused, "services[1].families: ipv6: ")
	assert.NotContains(t, refused, "services[2]")

	caps.Cluster = true
	p := planOf(t, yaml, caps)
	assert.NotContains(t, fmt.Sprint(p.Refused), "families")
	assert.Equal(t, []string{"web", "web/ipv6", "six"}, []string{p.Traffic[0].To, p.Traffic[1].To, p.Traffic[2].To})
}

// The hash table is resized in a kernel of the run's own only.
func TestBuckets(t *testing.T) {
	const yaml = "name: x\nconntrack: {buckets: 1024}\nservices: [{name: web}]\ntraffic: [{to: web, short_lived: {rate: 1/s}}]"
	caps := machine()
	caps.Buckets = 65536
	caps.Private = true
	own := planOf(t, yaml, caps)
	assert.NotContains(t, fmt.Sprint(own.Refused), "conntrack.buckets")
	assert.EqualValues(t, 1024, own.Buckets())
	var b strings.Builder
	require.NoError(t, own.WriteText(&b))
	assert.Contains(t, b.String(), "1024, where the kernel would have 65536")

	caps.Private = false
	shared := planOf(t, strings.Replace(yaml, "conntrack", "lab: {kernel: private}\nconntrack", 1), caps)
	shared.Scenario.Lab.Kernel = "host" // as a caller of this package could
	p, err := NewPlan(shared.Scenario, caps)
	require.NoError(t, err)
	assert.ErrorContains(t, p.Err(), "conntrack.buckets: the hash table is shared")
}

// What only kube-proxy's ConfigMap has needs a cluster.
func TestProxyConfigMap(t *testing.T) {
	const yaml = "name: x\nservices: [{name: web}]\ntraffic: [{to: web, short_lived: {rate: 1/s}}]\nactions: [{conntrack_settings: {min: 5}}]"
	caps := machine()
	s, err := scenarios.Parse("x", []byte(yaml))
	require.NoError(t, err)
	p, err := NewPlan(s, caps)
	require.NoError(t, err)
	assert.ErrorContains(t, p.Err(), "actions[0] conntrack_settings: max_per_core and min")
	caps.List = append(caps.List, env.Capability{Name: env.ProxyConfigMap, State: env.Yes})
	p, err = NewPlan(s, caps)
	require.NoError(t, err)
	assert.NotContains(t, fmt.Sprint(p.Err()), "conntrack_settings")
	assert.Len(t, p.topology("r", "/w").Actions, 1)
}

package report

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What the scenario itself breaks is said beside what comes of it.
func TestStagedFaultsAreSaid(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 2))
	s.fill("web", 100, 0, 2)
	scenario := func(proxy string) *Findings {
		s.header.ScenarioYAML = "name: sim\nduration: 2s\nlab:\n  proxy: {" + proxy + "}\nservices: [{name: web}]\ntraffic: [{name: web, to: web, short_lived: {rate: 100/s}}]\n"
		return s.analyze()
	}
	assert.Empty(t, staged(scenario("")))
	assert.Contains(t, staged(scenario("keep_udp: true")), "the built-in proxy was told to keep the entries of UDP flows")
	assert.Contains(t, staged(scenario("pass_new: true")), "(lab.proxy.pass_new: true)")
	assert.Empty(t, staged(scenario("mode: ipvs, ipvs: {conn_reuse_mode: 1, expire_nodest_conn: true}")))
	assert.Equal(t, "Set by the scenario, to make it happen: the built-in proxy was told to run with net.ipv4.vs.expire_nodest_conn=0, where kube-proxy sets 1 (lab.proxy.ipvs.expire_nodest_conn: false), and to run with net.ipv4.vs.conn_reuse_mode=0, which kube-proxy sets on kernels before 5.9 alone (lab.proxy.ipvs.conn_reuse_mode: 0).",
		staged(scenario("mode: ipvs, ipvs: {conn_reuse_mode: 0, expire_nodest_conn: false}")))
	f := scenario("delay: 100ms")
	assert.Equal(t, "Set by the scenario, to make it happen: the built-in proxy was told of changes of endpoints only after 100ms (lab.proxy.delay).", staged(f))
	for _, format := range []string{"text", "markdown", "html"} {
		var out bytes.Buffer
		require.NoError(t, Render(format, f, &out))
		page := strings.Join(strings.Fields(out.String()), " ")
		assert.Contains(t, page, "Set by the scenario, to make it happen", format)
	}
	f.Target = "kubernetes"
	assert.Empty(t, staged(f), "whose proxy is its own")
}

// So are what actions stage and which settings are not the defaults.
func TestStagedActionsAndSettingsAreSaid(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 2))
	s.fill("web", 100, 0, 2)
	run := func(more string) *Findings {
		s.header.ScenarioYAML = "name: sim\nduration: 9s\nservices: [{name: web}]\ntraffic: [{name: web, to: web, short_lived: {rate: 100/s}}]\n" + more
		return s.analyze()
	}
	assert.Equal(t, "Set by the scenario, in place of the defaults: nf_conntrack_tcp_timeout_established is 3 s, not 432000 s as the kernel has it (conntrack.timeouts).",
		staged(run("conntrack: {timeouts: {tcp_timeout_established: 3s, tcp_timeout_close_wait: 60s}}\n")), "60 s is what the kernel has")
	assert.Contains(t, staged(run("lab: {kernel: private}\nconntrack: {buckets: 1024}\n")), "the hash table has 1024 buckets (conntrack.buckets)")
	f := run("conntrack: {headroom: 3000}\nactions: [{name: hang, at: 2s, pause_proxy: {}}, {name: more-load, at: 3s, ballast: {headroom: 500}}, {at: 4s, rollout: {service: web}}]\n")
	assert.Equal(t, "Set by the scenario, to make it happen: hang (pause_proxy) stops the proxy at 2.0 s; more-load (ballast) leaves 500 entries free at 3.0 s.", staged(f), "a rollout is what is looked at")
	f.Target = "kubernetes"
	assert.Contains(t, staged(f), "hang (pause_proxy) stops the proxy at 2.0 s", "also on a cluster")
	for _, format := range []string{"text", "markdown", "html"} {
		assert.Contains(t, strings.NewReplacer("\\_", "_", "<wbr>", "").Replace(rendered(t, format, f)), "hang (pause_proxy) stops the proxy", format)
	}
}

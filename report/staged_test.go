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

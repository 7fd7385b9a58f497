package cluster

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/scenarios"
)

const head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n# ours\nkind: KubeProxyConfiguration\n"

// A value is put in its place and every other byte stays, in each of the ways in
// which such a text is written.
func TestEditSection(t *testing.T) {
	for name, c := range map[string]struct{ before, after string }{
		"block": {
			head + "conntrack:\n  # why\n  maxPerCore: 32768   # per core\n  min: null\n  tcpCloseWaitTimeout: 1h0m0s\nmode:   \"\"\n",
			head + "conntrack:\n  # why\n  maxPerCore: 7   # per core\n  min: 9\n  tcpCloseWaitTimeout: 2m0s\nmode:   \"\"\n",
		},
		"quoted": {
			head + "conntrack:\n    maxPerCore: 1\n    min: 2\n    tcpCloseWaitTimeout: '1h'\n",
			head + "conntrack:\n    maxPerCore: 7\n    min: 9\n    tcpCloseWaitTimeout: '2m0s'\n",
		},
		"missing keys": {
			head + "conntrack:\n    tcpEstablishedTimeout: 24h0m0s\nmode: ipvs\n",
			head + "conntrack:\n    tcpCloseWaitTimeout: 2m0s\n    min: 9\n    maxPerCore: 7\n    tcpEstablishedTimeout: 24h0m0s\nmode: ipvs\n",
		},
		"missing section": {
			head + "mode: ipvs",
			head + "mode: ipvs\nconntrack:\n  tcpCloseWaitTimeout: 2m0s\n  min: 9\n  maxPerCore: 7\n",
		},
		"flow": {
			head + "conntrack: {min: 0, maxPerCore: 0} # off\n",
			head + "conntrack: {tcpCloseWaitTimeout: 2m0s, min: 9, maxPerCore: 7} # off\n",
		},
		"empty": {
			head + "conntrack: {}\n",
			head + "conntrack: {tcpCloseWaitTimeout: 2m0s, min: 9, maxPerCore: 7}\n",
		},
		"json": {
			`{"kind":"KubeProxyConfiguration","conntrack":{"maxPerCore":0,"min":1},"mode":"iptables"}`,
			`{"kind":"KubeProxyConfiguration","conntrack":{"tcpCloseWaitTimeout": "2m0s", "maxPerCore":7,"min":9},"mode":"iptables"}`,
		},
	} {
		after, err := editSection(c.before, map[string]string{maxPerCoreKey: "7", minKey: "9", closeWaitKey: "2m0s"})
		require.NoError(t, err, name)
		assert.Equal(t, c.after, after, name)
		s, err := readSection(after)
		require.NoError(t, err, name)
		assert.Equal(t, conntrackSection{7, 9, 24 * time.Hour, 2 * time.Minute}, s, name)
	}
	for name, before := range map[string]string{
		"nothing in it": head + "conntrack:\nmode: ipvs\n",
		"anchor":        head + "conntrack:\n  min: &x 3\n  maxPerCore: 1\n",
		"no value":      head + "conntrack:\n  min:\n",
		"list":          "- conntrack\n",
		"broken":        "conntrack: {\n",
	} {
		_, err := editSection(before, map[string]string{minKey: "9"})
		assert.Error(t, err, name)
	}
	assert.Error(t, checkEdit(head+"mode: a\n", head+"mode: b\nconntrack: {min: 9}\n", map[string]string{minKey: "9"}), "another setting has changed")
}

// What a kube-proxy would write: its defaults, and the limit it makes.
func TestReadSection(t *testing.T) {
	s, err := readSection(head)
	require.NoError(t, err)
	assert.Equal(t, conntrackSection{32768, 131072, 24 * time.Hour, time.Hour}, s)
	assert.Equal(t, []uint64{131072}, s.limits(2))
	assert.Equal(t, []uint64{262144}, s.limits(8))
	assert.Equal(t, []uint64{2097152, 1048576}, s.limits(64), "before 1.36, and from there on")
	assert.Empty(t, conntrackSection{min: 5}.limits(2), "left alone, whatever min says")
	for _, bad := range []string{"kind: Pod\n", "{", head + "conntrack: {min: many}\n", head + "conntrack: {tcpCloseWaitTimeout: 5}\n"} {
		_, err := readSection(bad)
		assert.Error(t, err, bad)
	}
	assert.Equal(t, map[string]string{maxPerCoreKey: "1", minKey: "0", establishedKey: "1h0m0s", closeWaitKey: "1m0s"}, sectionValues(&scenarios.ConntrackSettings{
		MaxPerCore: new(int64(1)), Min: new(int64(0)),
		Timeouts: map[string]scenarios.Duration{establishedTimeout: scenarios.Duration(time.Hour), closeWaitTimeout: scenarios.Duration(time.Minute)},
	}))
}

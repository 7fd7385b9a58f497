package kubeproxy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/runner/kubeproxy"
)

// What others' metrics are among them does not matter, but what is no metric does.
func TestParseMetrics(t *testing.T) {
	const text = `# HELP go_goroutines Number of goroutines that currently exist.
# TYPE go_goroutines gauge
go_goroutines 90
# HELP kubeproxy_sync_proxy_rules_duration_seconds [ALPHA] SyncProxyRules latency
# TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram
kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.001"} 1
kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="+Inf"} 2
kubeproxy_sync_proxy_rules_duration_seconds_sum{ip_family="IPv4"} 0.5
kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} 2
# HELP kubeproxy_sync_proxy_rules_last_timestamp_seconds [ALPHA] The last time proxy rules were successfully synced
# TYPE kubeproxy_sync_proxy_rules_last_timestamp_seconds gauge
kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 1.7e+09
# HELP process_cpu_seconds_total Total user and system CPU time spent in seconds.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 1.5
# HELP rest_client_requests_total [ALPHA] Number of HTTP requests
# TYPE rest_client_requests_total counter
rest_client_requests_total{code="200"} 9
`
	m, err := kubeproxy.ParseMetrics([]byte(text))
	require.NoError(t, err)
	assert.Equal(t, uint64(2), m.Sync.Count)
	assert.InDelta(t, 0.5, m.Sync.Sum, 0)
	assert.Len(t, m.Sync.Buckets, 2)
	assert.Equal(t, time.Unix(1.7e9, 0), m.LastSync)
	assert.Equal(t, 1500*time.Millisecond, m.CPU)

	for _, broken := range []string{text + "kubeproxy_sync", text + "rest_client_requests_total{code=", "kubeproxy_sync_proxy_rules_last_timestamp_seconds x\n"} {
		_, err = kubeproxy.ParseMetrics([]byte(broken))
		assert.Error(t, err, broken[max(0, len(broken)-50):])
	}
}

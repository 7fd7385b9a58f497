package proxy

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// until passes records on until there have been so many, and then ends the job.
type until struct {
	left int
	stop context.CancelFunc
	all  []runlog.Record
}

func (u *until) Record(r runlog.Record) {
	u.all = append(u.all, r)
	if u.left--; u.left == 0 {
		u.stop()
	}
}

// A kube-proxy that is away is recorded once, until it is back.
func TestMetricsOfAKubeProxyThatIsAwayForAWhile(t *testing.T) {
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "/metrics", r.URL.Path)
		if n := asked.Add(1); n > 1 && n < 5 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "kubeproxy_sync_proxy_rules_duration_seconds_count 7\nkubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"} 20\n")
	}))
	defer s.Close()
	w, err := NewMetrics(env.Job{ID: "m", ProxyMetrics: &env.ProxyMetricsJob{At: netip.MustParseAddrPort(strings.TrimPrefix(s.URL, "http://")), Every: 0.01}})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, ready := &until{left: 3, stop: stop}, false
	require.NoError(t, w.Run(ctx, func() { ready = true }, out))
	assert.True(t, ready)
	var names []string
	for _, r := range out.all {
		names = append(names, r.Event.Name)
	}
	assert.Equal(t, []string{"metrics", "silent", "metrics"}, names)
	assert.Equal(t, "20", out.all[0].Event.Fields["deleted_entries"])
	assert.Contains(t, out.all[1].Event.Detail, "503")
	_, err = NewMetrics(env.Job{ID: "m"})
	require.Error(t, err)
}

package report

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// A new process counts from 0. One count that fell tells it of all of them, for
// the first sync is often longer than all of the old process's were.
func TestProxyProcessCountsAnew(t *testing.T) {
	l := &log{}
	for _, m := range [][2]string{{"1", "0.05"}, {"4", "0.11"}, {"1", "0.15"}, {"2", "0.17"}} {
		l.addProxyMetrics("node1", &runlog.Event{Kind: "proxy", Name: "metrics", Fields: map[string]string{"syncs": m[0], "sync_s": m[1]}})
	}
	p := l.proxies["node1"].finding()
	assert.Equal(t, uint64(5), p.Syncs)
	require.NotNil(t, p.SyncMeanS)
	assert.InDelta(t, 0.23/5, *p.SyncMeanS, 1e-9)

	// Where the new one has done as much by its first reading, its start tells.
	l.proxies["node1"].begun()
	l.addProxyMetrics("node1", &runlog.Event{Kind: "proxy", Name: "metrics", Fields: map[string]string{"syncs": "2", "sync_s": "0.2"}})
	assert.Equal(t, uint64(7), l.proxies["node1"].finding().Syncs)
}

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
		l.addProxyMetrics("node1", 0, &runlog.Event{Kind: "proxy", Name: "metrics", Fields: map[string]string{"syncs": m[0], "sync_s": m[1]}})
	}
	p := l.proxies["node1"].finding()
	assert.Equal(t, uint64(5), p.Syncs)
	require.NotNil(t, p.SyncMeanS)
	assert.InDelta(t, 0.23/5, *p.SyncMeanS, 1e-9)

	// Where the new one has done as much by its first reading, its start tells.
	l.proxies["node1"].begun()
	l.addProxyMetrics("node1", 0, &runlog.Event{Kind: "proxy", Name: "metrics", Fields: map[string]string{"syncs": "2", "sync_s": "0.2"}})
	assert.Equal(t, uint64(7), l.proxies["node1"].finding().Syncs)

	// Or it got no further, and took another time for it.
	l.addProxyMetrics("node1", 0, &runlog.Event{Kind: "proxy", Name: "metrics", Fields: map[string]string{"syncs": "2", "sync_s": "0.3"}})
	assert.Equal(t, uint64(9), l.proxies["node1"].finding().Syncs)
	assert.Equal(t, "node1's kube-proxy programmed its rules at least 9 times, in 81 ms on average", proxyText(&Node{Name: "node1", Proxy: l.proxies["node1"].finding()}))
}

// What a process did after it was last asked is not known, nor whether one that did
// not answer is the one that answers next.
func TestProxyProcessDidAtLeastThat(t *testing.T) {
	for _, c := range []struct {
		name, event string
		at          float64
		more        string
	}{
		{"asked as it ended", "ended", 4.05, ""},
		{"ended long after", "ended", 5, "at least "},
		{"did not answer", "silent", 4.5, "at least "},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLog()
			say := func(at float64, name, syncs, s string) {
				l.addEvent(&runlog.Record{Host: "node1", T: at, Event: &runlog.Event{Kind: "proxy", Name: name, Fields: map[string]string{"syncs": syncs, "sync_s": s}}})
			}
			say(-1, "metrics", "10", "1")
			say(4, "metrics", "12", "1.2")
			say(c.at, c.event, "", "")
			say(6, "metrics", "13", "1.3")
			n := uint64(3)
			if c.event == "ended" {
				n = 2 + 13
			}
			assert.Equal(t, "node1's kube-proxy programmed its rules "+c.more+plural(n, "time")+", in 100 ms on average", proxyText(&Node{Name: "node1", Proxy: l.proxies["node1"].finding()}))
		})
	}
}

//go:build linux

package traffic

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/server/wire"
	"github.com/tablefull/tablefull/scenarios"
)

func idleJob(target netip.AddrPort, d time.Duration, i scenarios.Idle) env.Job {
	j := load(target, d)
	j.Load.Traffic.Idle = &i
	return j
}

func TestIdleHoldsAndValidates(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	for _, target := range []netip.AddrPort{target4, target6} {
		t.Run(target.Addr().String(), func(t *testing.T) {
			stop := serve(t, target, 1, scenarios.Server{})
			got := drive(t, idleJob(target, 1500*time.Millisecond, scenarios.Idle{
				Count: 50, OpenRate: 500, ValidateEvery: scenarios.Duration(250 * time.Millisecond), KeepAlive: scenarios.Duration(time.Second),
			}))
			assert.Equal(t, uint64(50), got.due)
			assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 50}, got.outcomes)
			assert.Empty(t, got.failures)
			require.GreaterOrEqual(t, len(got.held), 2, "one in each second, and one at the end")
			last := got.held[len(got.held)-1]
			assert.Equal(t, runlog.Held{Traffic: "web", Open: 50, Validated: 50}, last)
			served := servedTotal(stop())
			assert.Equal(t, uint64(50), served.Accepted)
			// The first request, and one in each of six rounds, less those
			// whose turn in the first came before they were open.
			assert.InDelta(t, 50*6.5, float64(served.Served), 25)
		})
	}
}

// Held is not alive: a server that goes away while connections are idle shows
// in the next round at the latest.
func TestIdleLost(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	stop := serve(t, target4, 1, scenarios.Server{})
	j := idleJob(target4, time.Hour, scenarios.Idle{Count: 20, OpenRate: 1000, ValidateEvery: scenarios.Duration(time.Hour)})
	w, err := New(j)
	require.NoError(t, err)
	stopLoad, out := start(t, w)
	require.Eventually(t, func() bool { return out.totals().outcomes[runlog.OK] == 20 }, 20*time.Second, 10*time.Millisecond)
	stop() // closes its connections, as the end of a process does
	require.Eventually(t, func() bool { return len(out.totals().failures) == 20 }, 20*time.Second, 10*time.Millisecond)
	got := stopLoad().totals()
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 20}, got.outcomes, "the attempts had succeeded")
	for _, f := range got.failures {
		assert.Equal(t, "held", f.Phase)
		assert.Equal(t, runlog.Closed, f.Outcome)
		assert.NotZero(t, f.Tuple.Src.Port())
		assert.Equal(t, f.Start, f.Due)
		assert.Positive(t, f.Quiet)
		assert.Less(t, f.Quiet, f.Start-j.Load.Start, "since its answer, not since before it was opened")
	}
	assert.Equal(t, runlog.Held{Traffic: "web", Lost: 20}, got.held[len(got.held)-1])
}

// A server that answers once and closes: the attempts succeed, and what they
// opened is lost.
func TestIdleClosedByServer(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	listen(t, target4, append(wire.Response{Payload: 64}.Append(nil), make([]byte, 64)...))
	got := drive(t, idleJob(target4, 500*time.Millisecond, scenarios.Idle{Count: 10, OpenRate: 1000}))
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.OK: 10}, got.outcomes)
	require.Len(t, got.failures, 10)
	for _, f := range got.failures {
		assert.Equal(t, runlog.Closed, f.Outcome)
		assert.Equal(t, "held", f.Phase)
	}
	assert.Equal(t, runlog.Held{Traffic: "web", Lost: 10}, got.held[len(got.held)-1])
}

// Connections whose packets go nowhere look open; only asking tells.
func TestIdleDead(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serve(t, target4, 1, scenarios.Server{})
	j := idleJob(target4, time.Hour, scenarios.Idle{Count: 10, OpenRate: 1000, ValidateEvery: scenarios.Duration(500 * time.Millisecond)})
	j.Load.Traffic.Timeout = scenarios.Duration(1500 * time.Millisecond)
	w, err := New(j)
	require.NoError(t, err)
	stopLoad, out := start(t, w)
	require.Eventually(t, func() bool { return out.totals().outcomes[runlog.OK] == 10 }, 20*time.Second, 10*time.Millisecond)
	dropAll(t)
	require.Eventually(t, func() bool { return len(out.totals().failures) == 10 }, 20*time.Second, 10*time.Millisecond)
	got := stopLoad().totals()
	for _, f := range got.failures {
		assert.Equal(t, "held", f.Phase)
		assert.Equal(t, runlog.ResponseTimeout, f.Outcome)
	}
	assert.Equal(t, runlog.Held{Traffic: "web", Lost: 10}, got.held[len(got.held)-1])
}

func TestIdleSilentServer(t *testing.T) {
	t.Parallel()
	if !envtest.Namespace(t) {
		return
	}
	network(t)
	serve(t, target4, 1, scenarios.Server{Behaviour: "silent"})
	j := idleJob(target4, 200*time.Millisecond, scenarios.Idle{Count: 10, OpenRate: 1000})
	j.Load.Traffic.Timeout = scenarios.Duration(100 * time.Millisecond)
	got := drive(t, j)
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.ResponseTimeout: 10}, got.outcomes, "a connection that does not answer is not held")
	assert.Equal(t, runlog.Held{Traffic: "web"}, got.held[len(got.held)-1])
}

func TestIdleRefusesJobs(t *testing.T) {
	for _, i := range []scenarios.Idle{{OpenRate: 1}, {Count: 1}, {Count: -1, OpenRate: 1}} {
		_, err := NewIdle(idleJob(target4, time.Second, i))
		assert.Error(t, err)
	}
}

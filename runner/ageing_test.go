package runner

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// A trial waits for the entries of the one before: as long as they stay, less
// what has passed, and then until they are gone.
func TestAgeing(t *testing.T) {
	s, _, err := scenarios.Load("capacity-rate", nil, "conntrack.headroom=10000")
	require.NoError(t, err)
	p, err := NewPlan(s, env.Capabilities{Limit: 262144, Timeouts: map[string]float64{"tcp_timeout_time_wait": 120, "udp_timeout": 30, "tcp_timeout_established": 432000}})
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		a := p.Ageing()
		assert.InDelta(t, 182, a.Longest(), 0.01)
		assert.Equal(t, env.AgeJob{}, a.Job(), "there is none before the first trial")
		addr, pod := netip.MustParseAddrPort("10.96.7.1:8080"), netip.MustParseAddrPort("10.244.1.9:8081")
		a.Ended([]runlog.ServiceInfo{{Name: "web", Addr: addr, Backends: []runlog.BackendInfo{{Name: "web-1", Addr: pod}}}})
		time.Sleep(30 * time.Second)
		assert.Equal(t, env.AgeJob{To: []netip.AddrPort{addr, pod}, After: 92, Within: 152}, a.Job())
		time.Sleep(300 * time.Second)
		assert.Equal(t, env.AgeJob{To: []netip.AddrPort{addr, pod}, After: 0, Within: 60}, a.Job())
	})
}

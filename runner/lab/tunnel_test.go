package lab

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// With a tunnel everything between a client host and its node goes through it,
// and only that.
func TestLayoutOfTunnels(t *testing.T) {
	for family, w := range map[string]struct{ inside [2]string }{
		"ipv4": {[2]string{"10.65.0.5/30", "10.65.0.6/30"}},
		"ipv6": {[2]string{"fd00:65::5/126", "fd00:65::6/126"}},
	} {
		t.Run(family, func(t *testing.T) {
			top := env.Topology{
				Lab:      scenarios.Lab{Family: family, Nodes: 2, Tunnel: &scenarios.Tunnel{Kind: "vxlan", Notrack: true}},
				Services: []scenarios.Service{{Name: "web", Port: 80, PortCount: 1, Pods: 2}},
			}
			n, err := layout(top)
			require.NoError(t, err)
			require.Len(t, n.plan.Tunnels, 2)
			second := n.plan.Tunnels[1]
			assert.Equal(t, n.places[1].node, second.Ends[0].Host)
			assert.Equal(t, n.places[1].nodeAddr, second.Ends[0].Local)
			for i, want := range w.inside {
				assert.Equal(t, netip.MustParsePrefix(want), second.Ends[i].Addr)
			}
			assert.Equal(t, []uint16{4789}, n.proxy.Untracked)
			all := addressingOf(family == "ipv6").all
			for _, h := range n.plan.Hosts {
				i := slices.IndexFunc(h.Routes, func(r routePlan) bool { return r.Dst == all })
				require.GreaterOrEqual(t, i, 0, h.Name)
				assert.Equal(t, h.Role != env.Pod, h.Routes[i].Dev == tunnelDev, h.Name)
			}
			top.Lab.Tunnel = nil
			n, err = layout(top)
			require.NoError(t, err)
			assert.Empty(t, n.plan.Tunnels)
			assert.Empty(t, n.proxy.Untracked)
		})
	}
}

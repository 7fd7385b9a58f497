package report

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// Whether a node's limit is enough goes by what the traffic needs on that node.
func TestEachNodesLimitIsForItsOwnNeed(t *testing.T) {
	s := newNodesSim(t, 2, 10_000, 9000, 9000)
	s.onePod, s.header.Services[0].Backends = true, s.header.Services[0].Backends[:1]
	notes := strings.Join(s.run(900, nil).Sizing.Notes, "\n")
	need := func(node string) (n int) {
		_, after, is := strings.Cut(notes, node+"'s limit of 10000 is too small for the ")
		require.True(t, is, notes)
		_, err := fmt.Sscanf(after, "%d entries this traffic needs on it in the steady state", &n)
		require.NoError(t, err, notes)
		return n
	}
	assert.InDelta(t, 2*need("node2"), need("node1"), 100, "half of the attempts enter by node2, and all go to node1's pod")
}

// What actions added is not called there from the beginning, and counts for each node.
func TestWhatActionsAddedIsSaid(t *testing.T) {
	s := newSim(t, 262144, 10000, finTraffic("web", 0, 5)) // free with what is added
	s.records = append(s.records, runlog.Record{Host: simNode, T: 3, Event: &runlog.Event{Kind: "ballast", Name: "changed", Fields: map[string]string{"inserted": "90000", "deleted": "0"}}})
	s.bump(3, simNode, "entries", 90000)
	s.fill("web", 50, 0, 5)
	z := s.analyze().Sizing
	require.EqualValues(t, 252144, z.besides())
	notes := strings.Join(z.Notes, "\n")
	assert.Contains(t, notes, "node1's limit of 262144 leaves less than a quarter free above the 6001 entries this traffic needs in the steady state, and the 252144 that were there when it began or that actions added")
	assert.Contains(t, z.KubeProxy, "# for this traffic and the 252144 entries that were there\n# or that actions added\nconntrack:")
}

// No shorter list passes for the whole one.
func TestStaleBackendsThatAreNotNamed(t *testing.T) {
	s := &Stale{MaxBackends: 2, MaxS: 1}
	for i := range 6 {
		pod := fmt.Sprintf("web-%d", i+1)
		s.Backends = append(s.Backends, StaleBackend{Service: "web", Pod: pod, Addr: pod, What: "stale", FromS: float64(i), SeenS: float64(i), ToS: float64(i) + 1, Ended: true})
	}
	assert.True(t, strings.HasSuffix(staleText(&Node{Name: "node1", Stale: s}), "; web-5 (web-5, 4.0 s to 5.0 s); and 1 more"), staleText(&Node{Name: "node1", Stale: s}))
	s.Backends[5] = s.Backends[4]
	assert.NotContains(t, staleText(&Node{Name: "node1", Stale: s}), "more", "it is the same one again")
	s.Backends = s.Backends[:5]
	assert.NotContains(t, staleText(&Node{Name: "node1", Stale: s}), "more")
}

// Where nothing can have made rules out of date, that they were not is no news.
func TestNothingToBeBehindWith(t *testing.T) {
	said := func(kind string, change bool) string {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 5))
		s.header.Target = "lab"
		s.endpoints(-0.4, "1 RS", "2 RS")
		s.read(-0.3, programmed(1, 2))
		s.act("act", kind, 1, 2, 2.1, "")
		if change {
			s.endpoints(3, "1 RS")
			s.read(3, programmed(1))
		}
		s.read(4.9, programmed(1))
		if !change {
			s.records[len(s.records)-1].Dataplane.Services = []runlog.ProgrammedService{programmed(1, 2)}
		}
		s.fill("web", 50, 0, 5)
		f := s.analyze()
		require.NotNil(t, f.Nodes[0].Stale)
		require.Zero(t, f.Nodes[0].Stale.MaxBackends)
		return strings.Join(actionLines(f), "\n")
	}
	const line = "node1's dataplane: no stale backend was seen"
	assert.NotContains(t, said("flush", false), line)
	assert.NotContains(t, said("conntrack_settings", false), line)
	assert.Contains(t, said("restart_proxy", false), line)
	assert.Contains(t, said("flush", true), line)
}

// What kube-proxies do by default is not said of those that were told otherwise
// without saying that.
func TestWhetherKubeProxyWroteALimit(t *testing.T) {
	const scenario = "name: s\nduration: 5s\n%sservices: [{name: web, pods: 2}]\ntraffic: [{name: web, to: web, duration: 5s, short_lived: {rate: 50/s}}]\n%s"
	said := func(target, lab, more string) bool {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, 5))
		s.header.Target, s.header.ScenarioYAML = target, fmt.Sprintf(scenario, lab, more)
		s.fill("web", 50, 0, 5)
		return strings.Contains(strings.Join(s.analyze().Sizing.Notes, "\n"), "in this run kube-proxy wrote no limit")
	}
	const binary = "lab: {proxy: {binary: v1.35.4, mode: iptables}}\n"
	assert.True(t, said("lab", binary, ""))
	assert.True(t, said("lab", binary, "actions: [{name: up, at: 1s, upgrade_proxy: {binary: v1.36.3, mode: iptables}}]\n"))
	assert.False(t, said("lab", "", ""), "the built-in proxy writes none, and nobody says it does")
	assert.False(t, said("kubernetes", binary, ""))
	assert.False(t, said("lab", "lab: {kernel: private, proxy: {binary: v1.36.3, mode: ipvs, conntrack: {}}}\n", ""))
}

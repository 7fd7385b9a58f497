//go:build linux

package cluster_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// proving is set where the long proofs are made.
const proving = "TABLEFULL_PROVE"

// TestProveCluster is what is too long for every day, or needs a machine that
// has nothing else to do: see docs/proofs.md.
func TestProveCluster(t *testing.T) {
	if os.Getenv(proving) == "" {
		t.Skip("for make prove")
	}
	s, programs := start(t)
	t.Run("two at once", func(t *testing.T) { checkTwoAtOnce(t, s) })
	t.Run("same as lab", func(t *testing.T) { checkSameAsLab(t, s, programs["kube-proxy"], 4) })
	t.Run("left alone", func(t *testing.T) { checkLeftAlone(t, s) })
}

// What a cluster does to the traffic is what a lab with the same kube-proxy says
// that it does: the verdict and the cause of most failures are the same. A run
// whose own conditions were not given is made again, this many times in all, and
// then only its cause is compared: it has no verdict. make prove wants one.
func checkSameAsLab(t *testing.T, s setup, kubeProxy string, tries int) {
	for _, c := range []struct {
		scenario, verdict string
		leading           []string // any of these; none where nothing fails
		both, cluster     []string
	}{
		{
			scenario: "rollout-termination-race", verdict: "fail",
			// Both are of rules that led to pods which were not to be used any more. A
			// lab's endpoint goes as soon as its pod has ended; a cluster's is
			// terminating until the kubelet has said so, which can be before the rules
			// have followed, or after: either leads there, see docs/proofs.md.
			leading: []string{"stale_backend", "draining_backend"},
			both:    []string{"lab.proxy={}", "duration=11s", "actions[0].at=1s"},
		}, {
			scenario: "proxy-restart-under-load", verdict: "pass",
			both: []string{"duration=10s", "actions[0].count=1", "traffic[0].short_lived.rate=200/s"}, cluster: []string{"--kube-proxy", "kube-system/kube-proxy"},
		}, {
			// The rollout waits for the kubelet here, and the restart for the scheduler.
			scenario: "stale-rules", verdict: "pass", leading: []string{"stale_backend"},
			both: []string{"duration=22s", "actions[2].at=14s", "traffic[0].short_lived.rate=40/s", "expect[2]=stale_backend > 100", "expect[3]=failures < 10 during 19s..22s"}, cluster: []string{"--kube-proxy", "kube-system/kube-proxy"},
		}, {
			// A pod takes longer to start here than in a lab.
			scenario: "scale-to-zero-udp", verdict: "pass", leading: []string{"stale_backend"},
			both: []string{"duration=11s", "actions[0].at=1s", "actions[1].at=3s", "expect[0]=stale_backend > 300", "expect[1]=failures == 0 during 9s..11s"},
		},
	} {
		t.Run(c.scenario, func(t *testing.T) {
			args := []string{c.scenario}
			for _, x := range c.both {
				args = append(args, "--set", x)
			}
			lab := s.honest(t, tries, append(args, "--target", "lab", "--set", "lab.proxy.binary="+kubeProxy)...)
			real := s.honest(t, tries, append(append(args, "--target", "kubernetes"), c.cluster...)...)
			for where, sum := range map[string]summary{"lab": lab, "cluster": real} {
				if sum.Verdict == "inconclusive" && os.Getenv(proving) == "" {
					t.Logf("NOT COMPARED: the verdict of the %s, which has none: %v", where, sum.Reasons)
				} else {
					assert.Equal(t, c.verdict, sum.Verdict, "%s: %v", where, sum.Reasons)
				}
				if len(c.leading) == 0 {
					assert.Empty(t, sum.Causes, where)
				} else if assert.NotEmpty(t, sum.Causes, where) {
					assert.Contains(t, c.leading, sum.Causes[0].Cause, "%s: %v", where, sum.Causes)
				}
			}
			for _, n := range real.Nodes {
				if assert.NotNil(t, n.Proxy, n.Name) {
					assert.Positive(t, n.Proxy.Syncs, n.Name)
				}
			}
			if c.scenario == "rollout-termination-race" {
				require.NotEmpty(t, real.Spikes)
				require.NotEmpty(t, real.Spikes[0].Ties, "which endpoint, and when the node still programmed it")
				assert.Regexp(t, `^endpoint [0-9.]+ \(web-\S+\) no longer usable at [0-9.]+ s, node-a still programmed it at [0-9.]+ s$`, real.Spikes[0].Ties[0])
			}
		})
	}
}

// honest makes a run again whose own conditions were not given.
func (s setup) honest(t *testing.T, tries int, args ...string) summary {
	for try := 1; ; try++ {
		_, sum, _ := s.run(t, args...)
		if sum.Verdict != "inconclusive" || try == tries {
			return sum
		}
		t.Log("again, because of the run's own conditions:", sum.Reasons)
	}
}

// Two runs at once, by one account, that enter by different nodes: neither
// loses anything, each sees its own pods and no others, and what one leaves
// behind does not hang on the other.
func checkTwoAtOnce(t *testing.T, s setup) {
	type ended struct {
		Verdict  string
		Reasons  []string
		Restored *bool
		Traffic  []struct{ Attempted, Failed float64 }
		Backends []struct{ Name string }
	}
	runs := make([]ended, 2)
	var g errgroup.Group
	for i, node := range []string{"node-a", "node-b"} {
		dir := filepath.Join(t.TempDir(), "run")
		cmd := s.command(t.Context(), t, "run", "healthy", "--target", "kubernetes", "--node", node, "--out", dir,
			"--set", "traffic[0].short_lived.rate=50/s", "--set", "duration=6s")
		g.Go(func() error {
			out, runErr := cmd.CombinedOutput() // its code says less than its summary
			b, err := os.ReadFile(filepath.Join(dir, "summary.json"))
			if err != nil {
				t.Log(runErr, string(out))
				return err
			}
			return json.Unmarshal(b, &runs[i])
		})
	}
	require.NoError(t, g.Wait())
	pods := map[string]int{}
	for _, r := range runs {
		// Two at once are load, so that attempts may be late.
		assert.Contains(t, []string{"pass", "inconclusive"}, r.Verdict, "%v", r.Reasons)
		assert.True(t, r.Restored != nil && *r.Restored)
		require.Len(t, r.Traffic, 1)
		assert.Zero(t, r.Traffic[0].Failed)
		assert.Positive(t, r.Traffic[0].Attempted)
		assert.Len(t, r.Backends, 2)
		for _, b := range r.Backends {
			pods[b.Name]++
		}
	}
	assert.Len(t, pods, 4, "nobody's pods are another's")
}

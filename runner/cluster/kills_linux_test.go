//go:build linux

package cluster_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A run that changes all that one can change outside of its namespace, killed at
// random moments, ten times: clean and restore put all back, and leave nothing. It
// measures nothing, so the machine may have other things to do meanwhile.
func TestProveClusterKills(t *testing.T) {
	if os.Getenv(proving) == "" {
		t.Skip("takes six minutes: make kills, make prove")
	}
	s, _ := start(t)
	scenario := filepath.Join(t.TempDir(), "changes.yaml")
	require.NoError(t, os.WriteFile(scenario, []byte(changesScenario), 0o600))
	before := s.state(t)
	const lasts = 40 * time.Second // about as long as such a run, with all that comes before and after
	changed := 0
	for n := 1; n <= 10; n++ {
		after := time.Duration(rand.Int64N(int64(lasts)))
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			if s.killed(t, scenario, after, before) {
				changed++
			}
		})
	}
	t.Logf("PROVED kills of the controller of a cluster: 10, of which %d left something to put back", changed)
	assert.GreaterOrEqual(t, changed, 3, "most of these moments are within the run")
}

// killed runs the scenario, kills it after that time, puts back what it left, and
// says whether that was anything.
func (s setup) killed(t *testing.T, scenario string, after time.Duration, before string) bool {
	t.Helper()
	home := "XDG_STATE_HOME=" + t.TempDir()
	with := func(args ...string) *exec.Cmd {
		cmd := s.command(t.Context(), t, args...)
		cmd.Env = append(cmd.Env, home)
		return cmd
	}
	run := with("run", scenario, "--target", "kubernetes", "--kube-proxy", "kube-system/kube-proxy", "--node", "node-a", "--set", "conntrack.headroom=100000",
		"--set", "duration=10s", "--set", "actions[5].at=9s", "--out", filepath.Join(t.TempDir(), "run"))
	require.NoError(t, run.Start())
	time.Sleep(after)
	_ = run.Process.Kill()
	_ = run.Wait()
	left := s.state(t) != before
	out, err := with("clean", "--kube-proxy", "kube-system/kube-proxy").CombinedOutput()
	require.NoError(t, err, string(out))
	out2, err := with("restore").CombinedOutput()
	require.NoError(t, err, string(out2))
	t.Logf("killed after %.1f s; something was changed: %v; ended by itself: %v\n%s%s", after.Seconds(), left, run.ProcessState.Exited(), out, out2)
	// A kube-proxy that has just been started writes its settings a moment later.
	assert.Eventually(t, func() bool { return s.state(t) == before }, time.Minute, 200*time.Millisecond)
	assert.Equal(t, before, s.state(t))
	assert.Less(t, s.entries(t, "node-a"), 20_000, "the ballast")
	return left
}

// A kube-proxy that a run has paused, whose controller was killed, goes on without
// anybody's doing; and where what has paused it is killed, too, by what starts it
// again.
func checkLeftAlone(t *testing.T, s setup) {
	before := s.state(t)
	for _, both := range []bool{false, true} {
		cmd := s.command(t.Context(), t, "run", "stale-rules", "--target", "kubernetes", "--kube-proxy", "kube-system/kube-proxy", "--node", "node-a",
			"--set", "duration=60s", "--set", "actions[2].at=59s", "--out", filepath.Join(t.TempDir(), "run"))
		require.NoError(t, cmd.Start())
		stands := func() bool { return len(s.standing(t)) > 0 }
		require.Eventually(t, stands, 2*time.Minute, 50*time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		killed := time.Now()
		if both {
			for _, pid := range s.pausers(t) {
				require.NoError(t, unix.Kill(pid, unix.SIGKILL))
			}
		}
		require.Eventually(t, func() bool { return !stands() }, 2*time.Minute, 50*time.Millisecond)
		t.Logf("what had paused it killed, too: %v; it went on after %.1f s", both, time.Since(killed).Seconds())
		out, err := s.command(t.Context(), t, "clean").CombinedOutput()
		require.NoError(t, err, string(out))
		assert.Equal(t, before, s.state(t))
	}
}

// pausers are the cluster's processes that hold a kube-proxy paused.
func (s setup) pausers(t *testing.T) (out []int) {
	t.Helper()
	kubelets := s.programs(t, "node-a", "kubelet")
	require.Len(t, kubelets, 1)
	cluster, err := os.Readlink(filepath.Join(kubelets[0], "ns/pid"))
	require.NoError(t, err)
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, f := range files { // any of which may end meanwhile
		args, _ := os.ReadFile(f)
		of, _ := os.Readlink(filepath.Join(filepath.Dir(f), "ns/pid"))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err == nil && of == cluster && strings.Contains(string(args), "--stopped=/spool/stopped") {
			out = append(out, pid)
		}
	}
	require.NotEmpty(t, out)
	return out
}

// state is all that such a run may change: the names of objects, those outside of
// its namespace, what the nodes' kernels have, and which kube-proxies stand.
func (s setup) state(t *testing.T) string {
	t.Helper()
	out := s.objects(t) + machineLimit(t) + fmt.Sprint(s.standing(t))
	for _, node := range s.cluster.NodeNames() {
		out += "\n" + node + " " + s.timeouts(t, node)
	}
	return out
}

package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report"
)

// machine is what a run must leave as it was.
type machine struct {
	limit     string
	processes []string // of this test binary; what lives in a namespace of ours is one
	named     []string // namespaces that have a name
	mounts    string
	temp      []string
}

func lookAround(t *testing.T) machine {
	t.Helper()
	limit, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	require.NoError(t, err)
	m := machine{limit: string(limit)}
	self, err := os.Readlink("/proc/self/exe")
	require.NoError(t, err)
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	require.NoError(t, err)
	for _, l := range links {
		if exe, err := os.Readlink(l); err == nil && exe == self {
			m.processes = append(m.processes, strings.Split(l, "/")[2])
		}
	}
	m.named, err = filepath.Glob("/run/netns/*")
	require.NoError(t, err)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	m.mounts = string(mounts)
	entries, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	for _, e := range entries {
		if strings.Contains(e.Name(), "tablefull") {
			m.temp = append(m.temp, e.Name())
		}
	}
	slices.Sort(m.processes)
	return m
}

// assertAsBefore waits for the kernel to finish taking namespaces down, and
// then compares.
func assertAsBefore(t *testing.T, before machine) {
	t.Helper()
	assert.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.Equal(c, before, lookAround(t))
	}, 20*time.Second, 50*time.Millisecond)
}

// program starts the program itself in a process of its own.
func program(t *testing.T, state string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	c := exec.Command("/proc/self/exe", args...)
	c.Args[0] = "tablefull"
	c.Env = append(os.Environ(), "XDG_STATE_HOME="+state)
	var errOut bytes.Buffer
	c.Stderr = &errOut
	return c, &errOut
}

// A controller that is killed at any moment leaves, after `restore`, the
// machine as it was; and the log of what it saw until then can be rendered.
func TestKilledAtRandomMoments(t *testing.T) {
	needLab(t)
	killRuns(t, []killing{{"short-lived", "host", 5 * time.Second, 6, []string{"--set", "duration=3s"}}})
}

// restoreAll puts back what killed runs left, and nothing of it is left to do.
func restoreAll(t *testing.T, state string) {
	t.Helper()
	r, errOut := program(t, state, "restore")
	require.NoError(t, r.Run(), errOut.String())
	left, err := filepath.Glob(filepath.Join(state, "tablefull", "*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

// killing is an incident that is killed again and again.
type killing struct {
	scenario, kernel string
	within           time.Duration // about what a run takes, booting, and putting back, included
	rounds           int           // of five
	args             []string
}

// The same of runs in which pods and proxies come and go, of those that boot a
// kernel, and of one whose kube-proxy writes the limit of its kernel.
func TestKilledIncidents(t *testing.T) {
	needPrivate(t)
	needKubeProxy(t, []string{"v1.36.3"}, []string{"iptables", "ipset"})
	killRuns(t, []killing{
		{"stale-rules", "host", 14 * time.Second, 2, nil},
		{"port-reuse-rollout", "private", 20 * time.Second, 2, nil},
		{"proxy-lowers-max", "private", 20 * time.Second, 1, nil},
	})
}

// The long proof: thirty kills of each, fifteen of proxy-lowers-max. About five minutes.
func TestProveKilledIncidents(t *testing.T) {
	if !proving() {
		t.Skip("takes five minutes: make prove")
	}
	needPrivate(t)
	needKubeProxy(t, []string{"v1.36.3"}, []string{"iptables", "ipset"})
	killRuns(t, []killing{
		{"stale-rules", "host", 14 * time.Second, 6, nil},
		{"port-reuse-rollout", "private", 20 * time.Second, 6, nil},
		{"proxy-lowers-max", "private", 20 * time.Second, 3, nil},
	})
}

// killRuns kills five runs at once, because most of their time is waiting,
// and holds that, once put back, nothing of them is left.
func killRuns(t *testing.T, killings []killing) {
	for _, c := range killings {
		t.Run(c.scenario, func(t *testing.T) {
			before := lookAround(t)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			state := t.TempDir()
			logs, killed := 0, 0
			// By chance, all of a few can be hit while a kernel boots.
			for i := 0; i < c.rounds || logs == 0 && i < c.rounds+4; i++ {
				killed += 5
				dirs := killFive(t, c, state, rnd)
				for _, dir := range dirs {
					if _, err := os.Stat(filepath.Join(dir, "run.jsonl")); err == nil {
						f, err := analyzeDir(dir)
						require.NoError(t, err)
						assert.True(t, f.Restored != nil || f.Verdict != report.Pass, "a run that did not end has passed")
						logs++
					}
				}
			}
			t.Logf("PROVED kills of %s: %d, of which %d had begun a run log", c.scenario, killed, logs)
			assert.NotZero(t, logs, "some kills must have hit a run that had begun")
			restoreAll(t, state)
			assertNothingOf(t, before)
		})
	}
}

// killFive starts five runs, kills each at a random moment, and returns where
// they wrote.
func killFive(t *testing.T, c killing, state string, rnd *rand.Rand) (dirs []string) {
	t.Helper()
	var wait sync.WaitGroup
	defer wait.Wait()
	for range 5 {
		dir := filepath.Join(t.TempDir(), "out")
		dirs = append(dirs, dir)
		p, _ := program(t, state, append([]string{"run", c.scenario, "--out", dir, "--quiet", "--set", "lab.kernel=" + c.kernel}, c.args...)...)
		require.NoError(t, p.Start())
		after := time.Duration(rnd.Int64N(int64(c.within)))
		wait.Go(func() {
			time.Sleep(after)
			_ = p.Process.Kill() // or it has ended by itself
			_ = p.Wait()
		})
	}
	return dirs
}

// One signal stops in order: everything is put back, the log is whole and
// says that it was interrupted.
func TestInterruptedOnce(t *testing.T) {
	needLab(t)
	before := lookAround(t)
	dir, state := filepath.Join(t.TempDir(), "out"), t.TempDir()
	c, errOut := program(t, state, "run", "short-lived", "--out", dir, "--set", "duration=30s")
	require.NoError(t, c.Start())
	waitForTraffic(t, dir)
	require.NoError(t, c.Process.Signal(os.Interrupt))
	_ = c.Wait()
	assert.Equal(t, exitInconclusive, c.ProcessState.ExitCode(), errOut.String())
	assert.Contains(t, errOut.String(), "stopping, putting things back")
	assert.NotContains(t, errOut.String(), "goroutine")
	f, err := analyzeDir(dir)
	require.NoError(t, err)
	require.NotNil(t, f.Restored)
	assert.True(t, *f.Restored)
	assert.FileExists(t, filepath.Join(dir, "report.html"))
	assert.NoDirExists(t, filepath.Join(dir, ".agents"))
	assertAsBefore(t, before)
}

// The second signal leaves at once and names the way back.
func TestInterruptedTwice(t *testing.T) {
	needLab(t)
	before := lookAround(t)
	dir, state := filepath.Join(t.TempDir(), "out"), t.TempDir()
	c, errOut := program(t, state, "run", "short-lived", "--out", dir, "--set", "duration=30s")
	require.NoError(t, c.Start())
	waitForTraffic(t, dir)
	require.NoError(t, c.Process.Signal(os.Interrupt))
	require.NoError(t, c.Process.Signal(syscall.SIGTERM))
	_ = c.Wait()
	assert.Equal(t, exitDirty, c.ProcessState.ExitCode(), errOut.String())
	assert.Contains(t, errOut.String(), "tablefull restore")
	r, out := program(t, state, "restore")
	require.NoError(t, r.Run(), out.String())
	assertAsBefore(t, before)
}

// waitForTraffic waits until the run in dir counts attempts.
func waitForTraffic(t *testing.T, dir string) {
	t.Helper()
	require.Eventually(t, func() bool {
		b, _ := os.ReadFile(filepath.Join(dir, "run.jsonl"))
		return bytes.Contains(b, []byte(`"bin":`))
	}, 30*time.Second, 20*time.Millisecond)
}

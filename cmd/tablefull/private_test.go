package main

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/private"
)

// needPrivate skips where no private kernel can be booted, which
// TABLEFULL_REQUIRE=uml turns into a failure.
func needPrivate(t *testing.T) {
	t.Helper()
	needLab(t)
	if c := private.Probe(t.Context(), privateFiles()); c.State != env.Yes {
		envtest.Require(t, "uml", c.Reason)
	}
}

// inPrivate are the arguments of a small run under a private kernel.
func inPrivate(sets ...string) []string {
	args := []string{"--quiet"}
	for _, s := range append([]string{"lab.kernel=private", "traffic[0].short_lived.rate=100/s"}, sets...) {
		args = append(args, "--set", s)
	}
	return args
}

// umlProcesses are those of any private kernel: the kernel's own program runs
// in all of them, and nowhere else.
func umlProcesses(t *testing.T) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/comm")
	require.NoError(t, err)
	var found []string
	for _, l := range links {
		if b, err := os.ReadFile(l); err == nil && strings.HasPrefix(string(b), "linux.uml") {
			found = append(found, strings.Split(l, "/")[2])
		}
	}
	return found
}

// umlFiles are the files that a kernel leaves that is started by hand.
func umlFiles(t *testing.T) []string {
	t.Helper()
	home, _ := os.UserHomeDir()
	var found []string
	for _, pattern := range []string{os.TempDir() + "/vm_file*", "/tmp/vm_file*", "/dev/shm/vm_file*", home + "/.uml"} {
		names, err := filepath.Glob(pattern)
		require.NoError(t, err)
		found = append(found, names...)
	}
	return found
}

func assertNothingOf(t *testing.T, before machine) {
	t.Helper()
	assertAsBefore(t, before)
	assert.Empty(t, umlProcesses(t))
	assert.Empty(t, umlFiles(t))
}

// With room in the table nothing is lost, and the report says which kernel
// that was.
func TestPrivateKernelHealthy(t *testing.T) {
	needPrivate(t)
	before := lookAround(t)
	r := runIt(t, "healthy", "", inPrivate("duration=2s")...)
	assert.Contains(t, r.Environment.Kernel, "private, user-mode Linux")
	assert.Zero(t, r.Traffic[0].Failed)
	assert.NotZero(t, *r.Traffic[0].Succeeded)
	assert.Equal(t, uint64(65536), *r.Nodes[0].Limit, "the private kernel's own")
	assert.Contains(t, strings.Join(r.NotMeasured, "\n"), "how busy the machine around the private kernel was")
	assert.NoFileExists(t, filepath.Join(r.dir, consoleName))
	assertNothingOf(t, before)
}

// tookTimes is what a run says of its kernel.
var tookTimes = regexp.MustCompile(`took ([0-9.]+) s to boot and ([0-9.]+) s to power off`)

// The long proof: what a real kube-proxy adds to a run in a private kernel. All
// that a run takes besides its duration and what its kernel takes to boot and
// to power off is measured with and without one, in turn. Wall time of a quiet
// machine; of three runs each the one that was disturbed least.
func TestProvePrivateOverhead(t *testing.T) {
	if !proving() {
		t.Skip("means nothing on a busy machine: make prove")
	}
	needPrivate(t)
	needKubeProxy(t, []string{"v1.36.3"}, []string{"iptables", "ipset"})
	builtIn, real := time.Hour, time.Hour
	for range 3 {
		builtIn = min(builtIn, overhead(t, "{mode: ipvs}"))
		real = min(real, overhead(t, "{mode: ipvs, binary: v1.36.3}"))
	}
	t.Logf("PROVED kube-proxy adds %.1f s to the %.1f s of a run with the built-in proxy", (real - builtIn).Seconds(), builtIn.Seconds())
	assert.LessOrEqual(t, builtIn, 5*time.Second)
	assert.LessOrEqual(t, real-builtIn, 5*time.Second)
}

func overhead(t *testing.T, proxy string) time.Duration {
	t.Helper()
	const lasts = 3 * time.Second
	var out, errOut bytes.Buffer
	began := time.Now()
	code := run(t.Context(), []string{
		"run", "healthy", "--out", filepath.Join(t.TempDir(), "out"), "--set", "lab.kernel=private", "--set", "lab.proxy=" + proxy,
		"--set", "duration=" + lasts.String(), "--set", "traffic[0].short_lived.rate=20/s",
	}, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	took := time.Since(began)
	require.Contains(t, []int{exitPass, exitInconclusive}, code, errOut.String())
	m := tookTimes.FindStringSubmatch(errOut.String())
	require.NotNil(t, m, errOut.String())
	boot, err := time.ParseDuration(m[1] + "s")
	require.NoError(t, err)
	off, err := time.ParseDuration(m[2] + "s")
	require.NoError(t, err)
	t.Logf("PROVED overhead with proxy %s: %.1f s, besides %s of duration, %s to boot and %s to power off", proxy, (took - lasts - boot - off).Seconds(), lasts, boot, off)
	return took - lasts - boot - off
}

// The limit is the private kernel's own, so that anybody may write it; and a
// table of that size with ballast in it takes as many connections as were
// free, and drops each further one.
func TestPrivateKernelFull(t *testing.T) {
	needPrivate(t)
	before := lookAround(t)
	for range 2 {
		r := runIt(t, "short-lived", "", inPrivate("duration=4s", "traffic[0].short_lived.rate=50/s", "conntrack.max=20000", "conntrack.headroom=100")...)
		assert.Equal(t, uint64(20000), *r.Nodes[0].Limit)
		assert.Equal(t, uint64(20000), *r.Nodes[0].PeakEntries)
		assert.LessOrEqual(t, *r.Traffic[0].Succeeded, uint64(103), "one a free entry")
		assert.GreaterOrEqual(t, r.Nodes[0].Counters["drop"], r.cause("table_full"), "a late client sends a SYN twice")
		assert.NotZero(t, r.cause("table_full"))
		require.NotNil(t, r.Predicted)
		require.NotNil(t, r.Predicted.MeasuredAtS)
		if r.Generator.Saturated {
			continue // it says of itself that it proves no more than that
		}
		assert.Equal(t, exitFail, r.code)
		assert.InDelta(t, 100, *r.Traffic[0].Succeeded, 3)
		assert.Equal(t, r.Traffic[0].Failed, r.cause("table_full"))
		assert.InDelta(t, 2.0, *r.Predicted.MeasuredAtS, 0.3)
		break
	}
	assertNothingOf(t, before)
}

func TestPrivateKernelDryRun(t *testing.T) {
	needPrivate(t)
	var out, errOut bytes.Buffer
	args := append([]string{"run", "healthy", "--dry-run"}, inPrivate("lab.memory=1024")...)
	code := run(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	assert.Equal(t, exitPass, code, errOut.String())
	assert.Contains(t, out.String(), "proxy ipvs")
	// What the kernel makes of 1 GiB by itself.
	assert.NotContains(t, out.String(), "65536")
}

// What cannot be had inside is said by the inside, with its exit code.
func TestPrivateKernelRefuses(t *testing.T) {
	needPrivate(t)
	dir := filepath.Join(t.TempDir(), "out")
	var out, errOut bytes.Buffer
	args := append([]string{"run", "healthy", "--out", dir}, inPrivate("lab.proxy.mode=nftables")...)
	code := run(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	assert.Equal(t, exitUnsupported, code)
	assert.Contains(t, errOut.String(), "nftables")
	assert.NoDirExists(t, dir)
}

func TestPrivateKernelMissing(t *testing.T) {
	t.Setenv("TABLEFULL_UML", "/does/not/exist")
	var out, errOut bytes.Buffer
	args := append([]string{"run", "healthy", "--out", filepath.Join(t.TempDir(), "out")}, inPrivate()...)
	code := run(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	assert.Equal(t, exitUnsupported, code)
	assert.Contains(t, errOut.String(), "/does/not/exist is not there; as root: apt-get install user-mode-linux")
}

// A kernel that dies leaves its last words, in the message and in a file.
func TestPrivateKernelDies(t *testing.T) {
	needPrivate(t)
	before := lookAround(t)
	kernel := filepath.Join(t.TempDir(), "linux.uml")
	require.NoError(t, os.WriteFile(kernel, []byte("#!/bin/sh\n"+
		"[ \"$1\" = --version ] && exec /usr/bin/linux.uml --version\necho the reason\nexit 7\n"), 0o755))
	t.Setenv("TABLEFULL_UML", kernel)
	dir := filepath.Join(t.TempDir(), "out")
	var out, errOut bytes.Buffer
	args := append([]string{"run", "healthy", "--out", dir}, inPrivate()...)
	code := run(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	assert.Equal(t, exitError, code)
	assert.Contains(t, errOut.String(), "exit status 7")
	assert.Contains(t, errOut.String(), "the reason")
	b, err := os.ReadFile(filepath.Join(dir, consoleName))
	require.NoError(t, err)
	assert.Equal(t, "the reason\n", string(b))
	assertAsBefore(t, before)
}

// One signal stops the run inside in order.
func TestPrivateKernelStopped(t *testing.T) {
	needPrivate(t)
	before := lookAround(t)
	dir, state := filepath.Join(t.TempDir(), "out"), t.TempDir()
	c, errOut := program(t, state, append([]string{"run", "short-lived", "--out", dir}, inPrivate("duration=60s")...)...)
	require.NoError(t, c.Start())
	waitForTraffic(t, dir)
	require.NoError(t, c.Process.Signal(os.Interrupt))
	_ = c.Wait()
	assert.Equal(t, exitInconclusive, c.ProcessState.ExitCode(), errOut.String())
	f, err := analyzeDir(dir)
	require.NoError(t, err)
	require.NotNil(t, f.Restored, errOut.String())
	assert.True(t, *f.Restored)
	assert.FileExists(t, filepath.Join(dir, "report.html"))
	assert.NoDirExists(t, filepath.Join(dir, ".agents"))
	assertNothingOf(t, before)
}

// A controller that is killed at any moment takes the kernel with it.
func TestPrivateKernelKilledAtRandomMoments(t *testing.T) {
	needPrivate(t)
	before := lookAround(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	state := t.TempDir()
	for range 10 {
		dir := filepath.Join(t.TempDir(), "out")
		c, _ := program(t, state, append([]string{"run", "short-lived", "--out", dir}, inPrivate("duration=2s")...)...)
		require.NoError(t, c.Start())
		time.Sleep(time.Duration(rnd.Int64N(int64(5 * time.Second))))
		require.NoError(t, c.Process.Signal(syscall.SIGKILL))
		_ = c.Wait()
		assert.EventuallyWithT(t, func(c *assert.CollectT) {
			assert.Empty(c, umlProcesses(t))
		}, 20*time.Second, 20*time.Millisecond)
		assertNothingOf(t, before)
		assert.NoDirExists(t, filepath.Join(dir, ".agents"))
	}
	restoreAll(t, state)
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/proxy"
)

const smallArms = `
name: arms
duration: 2s
seed: 5
conntrack: {headroom: 500}
services: [{name: web}]
traffic: [{name: clients, to: web, short_lived: {rate: 400/s}}]
expect: [drop > 50]
arms:
  - {name: none}
  - {name: room, set: [conntrack.headroom=1500], expect: [drop == 0]}
`

func comparisonIn(t *testing.T, dir string) *report.Comparison {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "comparison.json"))
	require.NoError(t, err)
	c := &report.Comparison{}
	require.NoError(t, json.Unmarshal(b, c))
	return c
}

// Each arm is run with its own settings under the same traffic, and beside each
// other they show what that changed.
func TestTruthArms(t *testing.T) {
	needLab(t)
	dir := filepath.Join(t.TempDir(), "out")
	var out, errOut bytes.Buffer
	code := run(t.Context(), []string{"run", "-", "--out", dir, "--quiet"}, Streams{In: strings.NewReader(smallArms), Out: &out, Err: &errOut})
	t.Log(out.String(), errOut.String())
	require.Contains(t, []int{exitPass, exitInconclusive}, code)
	c := comparisonIn(t, dir)
	require.Len(t, c.Arms, 2)
	var seeds []uint64
	for i, want := range []bool{true, false} {
		arm := c.Arms[i]
		last := arm.Runs[len(arm.Runs)-1]
		f, err := analyzeDir(filepath.Join(dir, last.Dir))
		require.NoError(t, err)
		seeds = append(seeds, f.Environment.Seed)
		if len(f.Disturbed()) > 0 {
			assert.Equal(t, exitInconclusive, code, "nothing is concluded from a run whose generator was the limit")
			continue
		}
		assert.Equal(t, want, f.Knee.Drop != nil, arm.Name)
		assert.Equal(t, report.Pass, arm.Verdict, "%v", arm.Reasons)
		if want {
			assert.InDelta(t, 500.0/400, f.Knee.Drop.AtS, 0.1)
		}
	}
	assert.Equal(t, seeds[0], seeds[1], "the same traffic")
	for _, name := range []string{"experiment.json", "comparison.html", "comparison.md", "junit.xml", "bench.txt", "none/1/report.html", "room/1/run.jsonl"} {
		assert.FileExists(t, filepath.Join(dir, name))
	}

	// The same once more, from the logs, and of two of its runs by themselves.
	for _, args := range [][]string{{"compare", dir}, {"report", dir}} {
		out.Reset()
		assert.Equal(t, code, run(t.Context(), args, Streams{In: strings.NewReader(""), Out: &out, Err: &errOut}), "%v", args)
	}
	out.Reset()
	assert.Equal(t, exitInconclusive, run(t.Context(), []string{"compare", dir + "/none", dir + "/room"}, Streams{Out: &out, Err: &errOut}), "one of each is too few for a gate")
	assert.Contains(t, out.String(), "verdict of arms: inconclusive")
	assert.Equal(t, exitUsage, run(t.Context(), []string{"run", "short-lived", "--out", dir}, Streams{Out: &out, Err: &errOut}), "the directory is taken")

	// A log that is gone is no data, and never a pass.
	require.NoError(t, os.Remove(filepath.Join(dir, c.Arms[1].Runs[len(c.Arms[1].Runs)-1].Dir, runner.LogName)))
	assert.Equal(t, exitInconclusive, run(t.Context(), []string{"compare", dir}, Streams{Out: &out, Err: &errOut}))
}

// Whoever interrupts an experiment gets what was done until then, as inconclusive.
func TestInterruptedArms(t *testing.T) {
	needLab(t)
	dir := filepath.Join(t.TempDir(), "out")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop := make(chan struct{})
	go func() { // once the second run has begun
		defer close(stop)
		for ctx.Err() == nil {
			if logs, _ := filepath.Glob(dir + "/*/2/" + runner.LogName); len(logs) > 0 {
				time.Sleep(300 * time.Millisecond)
				cancel()
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	var out, errOut bytes.Buffer
	code := run(ctx, []string{"run", "-", "--out", dir, "--quiet", "--set", "trials=5", "--set", "duration=1s"}, Streams{In: strings.NewReader(smallArms), Out: &out, Err: &errOut})
	cancel()
	<-stop
	t.Log(out.String(), errOut.String())
	assert.Equal(t, exitInconclusive, code)
	c := comparisonIn(t, dir)
	assert.Equal(t, report.Inconclusive, c.Verdict)
	assert.Contains(t, strings.Join(c.Reasons, "\n"), "interrupted after")
	entries, err := os.ReadDir(runner.StateDir())
	if err == nil {
		assert.Empty(t, entries, "every journal has been worked off")
	}
	assert.Equal(t, exitInconclusive, run(t.Context(), []string{"compare", dir}, Streams{Out: &out, Err: &errOut}), "and so it stays")
}

// shortGate runs the library's upgrade, cut down to one rollout in 3.5 s, four
// times with the proxy as it is and four times with a candidate that hears of
// changes later by what is given, and returns the exit code and what was said.
func shortGate(t *testing.T, late string, sets ...string) (code int, text string) {
	t.Helper()
	args := []string{"--baseline", "builtin", "--candidate", "builtin"}
	if late != "" {
		args = append(args, "--candidate-set", "lab.proxy.delay="+late)
	}
	return shortGateOf(t, args, sets...)
}

// shortGateOf is shortGate for the arms that args name.
func shortGateOf(t *testing.T, args []string, sets ...string) (code int, text string) {
	t.Helper()
	var out, errOut bytes.Buffer
	args = append([]string{
		"gate", "--trials", "4", "--gate", "failures_per_action", "--quiet", "--out", filepath.Join(t.TempDir(), "out"),
		"--set", "duration=3500ms", "--set", "actions.1=null", "--set", "actions.0.at=500ms", "--set", "expect=null", "--set", "services.0.pods=2",
	}, args...)
	for _, set := range sets {
		args = append(args, "--set", set)
	}
	code = run(t.Context(), args, Streams{Out: &out, Err: &errOut})
	return code, out.String() + errOut.String()
}

// A candidate that hears of changes half a second late costs more at a rollout,
// and the gate says so. A machine that is too busy for it says so, and decides
// nothing. (That the same twice is no worse than itself is shown over simulated
// trials, in package report, for it takes hundreds of gates; and over real ones
// by TestProveGate.)
func TestTruthGate(t *testing.T) {
	needLab(t)
	var code int
	var out string
	for range 3 {
		if code, out = shortGate(t, "600ms"); code != exitInconclusive {
			break
		}
		require.Contains(t, out, "says nothing", "only a busy machine leaves it open")
	}
	t.Log(out)
	require.Equal(t, exitFail, code)
	assert.Contains(t, out, "candidate: failures_per_action is worse")
}

// The long proof: of 20 gates of a proxy against itself at most one fails, the
// built-in one and a real kube-proxy, and of 20 against one that hears of changes
// 500 ms later at least 19 do, and so of a real kube-proxy against one that waits
// for 2 s at each sync. A gate that says of itself that it could not decide, for
// the machine was busy, is made again, at most twice. About 90 minutes.
func TestProveGate(t *testing.T) {
	if !proving() {
		t.Skip("takes 90 minutes: make prove")
	}
	needLab(t)
	const gates = 20
	for _, c := range []struct {
		name  string
		gate  func(t *testing.T, seed string) (int, string)
		fails [2]int // of gates, at least and at most
	}{
		{"same", func(t *testing.T, seed string) (int, string) { return shortGate(t, "", seed) }, [2]int{0, 1}},
		{"later", func(t *testing.T, seed string) (int, string) { return shortGate(t, "600ms", seed) }, [2]int{19, 20}},
		{"same-kube-proxy", sameKubeProxyGate, [2]int{0, 1}},
		{"slow-sync", slowSyncGate, [2]int{19, 20}},
	} {
		t.Run(c.name, func(t *testing.T) {
			run, failed := 0, 0
			for i := range gates {
				t.Run(fmt.Sprintf("%02d", i+1), func(t *testing.T) { // one by one: -run TestProveGate/same/03
					code := exitInconclusive
					for try := 0; try < 3 && code == exitInconclusive; try++ {
						began := time.Now()
						var out string
						code, out = c.gate(t, fmt.Sprintf("seed=%d", 1000+10*i+try))
						t.Logf("PROVED gate %s/%02d: exit code %d in %.0f s", c.name, i+1, code, time.Since(began).Seconds())
						if code != exitPass && code != exitFail {
							t.Log(out)
						}
					}
					require.Contains(t, []int{exitPass, exitFail}, code, "this machine is too busy")
					run++
					if code == exitFail {
						failed++
					}
				})
			}
			t.Logf("PROVED gate %s: %d of %d fail", c.name, failed, run)
			if run == gates {
				assert.GreaterOrEqual(t, failed, c.fails[0])
				assert.LessOrEqual(t, failed, c.fails[1])
			}
		})
	}
}

// sameKubeProxyGate is shortGate with the same real kube-proxy on both sides.
func sameKubeProxyGate(t *testing.T, seed string) (code int, text string) {
	t.Helper()
	needKubeProxy(t, []string{"v1.36.3"}, []string{"nft"})
	return shortGateOf(t, []string{"--baseline", "v1.36.3:nftables", "--candidate", "v1.36.3:nftables"}, seed)
}

// slowSyncGate is shortGate with a kube-proxy, and the same one with an nft that
// waits for 2 s before it applies what it is given, as it is at each sync.
func slowSyncGate(t *testing.T, seed string) (code int, text string) {
	t.Helper()
	needKubeProxy(t, []string{"v1.36.3"}, []string{"nft"})
	real, err := proxy.Locate("v1.36.3")
	require.NoError(t, err)
	nft, err := exec.LookPath("nft")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "bin"), 0o755))
	for name, text := range map[string]string{
		"bin/nft":    "case \" $* \" in *' -f '*) sleep 2;; esac\nexec " + nft + ` "$@"`,
		"kube-proxy": "PATH=" + dir + "/bin:$PATH exec " + real + ` "$@"`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755)) //nolint:gosec // to be run
	}
	return shortGateOf(t, []string{"--baseline", "v1.36.3:nftables", "--candidate", filepath.Join(dir, "kube-proxy") + ":nftables"}, seed)
}

// The ways around a full table, each held to what the library says of it; and
// to nothing once what makes it one is taken away.
func TestTruthWaysAround(t *testing.T) {
	needLab(t)
	show := func(args ...string) (*report.Comparison, int, string) {
		dir := filepath.Join(t.TempDir(), "out")
		var out, errOut bytes.Buffer
		code := run(t.Context(), append([]string{"run", "ways-around", "--out", dir, "--quiet"}, args...), Streams{Out: &out, Err: &errOut})
		t.Log(out.String(), errOut.String())
		return comparisonIn(t, dir), code, dir
	}
	sound := func(a report.ArmFindings) bool { return len(a.Runs[len(a.Runs)-1].Unsound) == 0 }
	c, code, dir := show()
	lookAtArms(t, "ways-around", dir, c)
	entries := map[string]float64{"none": 1, "more-room": 1, "tunnel": 3, "tunnel-notrack": 1, "direct": 1, "notrack": 0}
	for i, a := range c.Arms {
		if !sound(a) {
			assert.Equal(t, exitInconclusive, code)
			continue
		}
		assert.Equal(t, report.Pass, a.Verdict, "%s: %v", a.Name, a.Reasons)
		for _, r := range c.Metrics {
			if want, ok := entries[a.Name]; ok && r.Metric == "entries_per_attempt" && r.Arms[i].Median != nil {
				assert.InDelta(t, want, *r.Arms[i].Median, 0.1, a.Name)
			}
		}
	}
	c, code, _ = show("--set", "arms[none]=null", "--set", "arms[shorter-timeouts]=null", "--set", "arms[tunnel-notrack]=null", "--set", "arms[direct]=null",
		"--set", "arms[more-room].set=null", "--set", "arms[tunnel].set=null", "--set", "arms[notrack].set=[services.0.headless=true]")
	assert.Equal(t, exitInconclusive, code)
	for _, a := range c.Arms {
		if sound(a) {
			assert.Equal(t, report.Inconclusive, a.Verdict, "%s shows what it is without its mechanism", a.Name)
		}
	}
}

// IPVS as kube-proxy sets it up is tracked, and with net.ipv4.vs.conntrack off it
// is not.
func TestTruthWaysAroundIPVS(t *testing.T) {
	needPrivate(t)
	dir := filepath.Join(t.TempDir(), "out")
	var out, errOut bytes.Buffer
	_ = run(t.Context(), []string{"run", "ways-around-ipvs", "--out", dir, "--quiet", "--set", "lab.kernel=private"}, Streams{Out: &out, Err: &errOut})
	t.Log(out.String(), errOut.String())
	c := comparisonIn(t, dir)
	lookAtArms(t, "ways-around-ipvs", dir, c)
	for i, tracked := range []bool{true, false} {
		runs := c.Arms[i].Runs
		f, err := analyzeDir(filepath.Join(dir, runs[len(runs)-1].Dir))
		require.NoError(t, err)
		require.NotNil(t, f.Nodes[0].PeakEntries)
		// A private kernel on a busy machine is too slow for a verdict, but not
		// for what is in its table.
		grown := *f.Nodes[0].PeakEntries - *f.Nodes[0].StartEntries
		if tracked {
			assert.Greater(t, grown, uint64(700))
			assert.NotNil(t, f.Knee.Drop)
		} else {
			assert.Less(t, grown, uint64(150))
			assert.Nil(t, f.Knee.Drop)
		}
	}
}

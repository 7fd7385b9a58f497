package main

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A long run keeps what it has to know, not what it has logged: with a rollout
// every second and records ten times as often as usual, the agents (and, over
// minutes, the controller) need hardly more memory at the end than before, and
// the log is cut into segments, which are read as one.
func TestTruthSoakMemory(t *testing.T) {
	needLab(t)
	soak(t, 8*time.Second, 12*time.Second)
}

// The long proof: the same over six minutes.
func TestProveSoakMemory(t *testing.T) {
	if !proving() {
		t.Skip("takes six minutes: make prove")
	}
	needLab(t)
	soak(t, 2*time.Minute, 4*time.Minute)
}

// soak compares the memory that a run uses after a first stretch of it with what
// it uses after a second one. Records that were kept would make the heap a third
// larger.
func soak(t *testing.T, first, second time.Duration) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	lasts := first + second + 8*time.Second
	ended := make(chan int)
	go func() {
		var out bytes.Buffer
		ended <- run(t.Context(), []string{
			"run", "stale-soak", "--quiet", "--out", dir, "--log-segment", "1", "--set", "duration=" + lasts.String(), "--set", "traffic[0].short_lived.rate=200/s",
			"--set", "actions[0].at=500ms", "--set", "actions[0].every=1s", "--set", "sampling={every: 10ms, census_every: 1s}",
			"--set", "services[0].lifecycle={ready_after: 100ms, pre_stop: 200ms, grace: 1s, on_sigterm: drain}",
		}, Streams{In: strings.NewReader(""), Out: &out, Err: &out})
	}()
	waitForTraffic(t, dir)
	time.Sleep(first)
	heapThen, agentsThen := liveHeap(), agentsMemory(t, dir)
	time.Sleep(second)
	heapNow, agentsNow := liveHeap(), agentsMemory(t, dir)
	require.Contains(t, []int{exitPass, exitFail, exitInconclusive}, <-ended)
	packed, err := filepath.Glob(filepath.Join(dir, "run-*.jsonl.zst"))
	require.NoError(t, err)
	t.Logf("PROVED soak: from %s to %s, the controller's heap went from %d to %d kB, its agents' memory from %d to %d kB, with %d full segments of 1 MiB",
		first, first+second, heapThen>>10, heapNow>>10, agentsThen, agentsNow, len(packed))
	if proving() { // a segment that is being packed is 2 MB for a moment, half of a short run's heap
		// abort_on judges by what is known of each rollout, and there is one each second.
		const perRollout = 8 << 10
		assert.Less(t, float64(heapNow), 1.2*float64(heapThen)+perRollout*second.Seconds())
	}
	assert.Less(t, float64(agentsNow), 1.2*float64(agentsThen))
	assert.NotEmpty(t, packed)
	f, err := analyzeDir(dir)
	require.NoError(t, err)
	assert.False(t, f.Incomplete)
	assert.InDelta(t, lasts.Seconds()*200, f.Traffic[0].Due, 1)
	assert.Greater(t, float64(len(f.Spikes)+int(f.OtherSpikes)), lasts.Seconds()/2)
}

// liveHeap is how many bytes this process uses that nothing could free.
// It is the least of two seconds: what is only at work comes and goes.
func liveHeap() int {
	least := math.MaxInt
	for range 8 {
		runtime.GC()
		runtime.GC() // what was in pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		least = min(least, int(m.HeapAlloc))
		time.Sleep(250 * time.Millisecond)
	}
	return least
}

// agentsMemory is how many kB of memory of their own the agents of the run in
// dir have, those of pods included.
func agentsMemory(t *testing.T, dir string) int {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	kB, found := 0, 0
	for _, l := range lines {
		args, _ := os.ReadFile(l)
		if !bytes.Contains(args, []byte(filepath.Join(dir, ".agents")+"/")) {
			continue
		}
		status, _ := os.ReadFile(filepath.Join(filepath.Dir(l), "status"))
		if m := anonymous.FindSubmatch(status); m != nil {
			n, err := strconv.Atoi(string(m[1]))
			require.NoError(t, err)
			kB, found = kB+n, found+1
		}
	}
	require.Greater(t, found, 3)
	return kB
}

var anonymous = regexp.MustCompile(`RssAnon:\s+([0-9]+) kB`)

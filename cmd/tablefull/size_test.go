package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report"
)

// Two kinds of TCP entries in one table: those in TIME_WAIT, and those held.
const mixed = `
name: mixed
duration: 3s
services: [{name: web}]
traffic:
  - {name: short, to: web, short_lived: {rate: 400/s}}
  - {name: held, to: web, idle: {count: 300, open_rate: 300/s}}
`

// What a run is said to need is what it needs: with that it holds, and with a
// tenth less that tenth is lost.
func TestTruthSizing(t *testing.T) {
	needLab(t)
	assertSized(t, mixed, 1500)
}

// The long proof: five mixes of traffic. About three minutes.
func TestProveSizing(t *testing.T) {
	if !proving() {
		t.Skip("takes 3 minutes: make prove")
	}
	needLab(t)
	for _, m := range []struct {
		name, traffic string
		need          uint64 // rate x 4 s less the last one, which is due at the end, and what is held
	}{
		{"TIME_WAIT", `[{name: short, to: web, short_lived: {rate: 500/s}}]`, 1999},
		{"CLOSE", `[{name: reset, to: web, short_lived: {rate: 500/s, close: rst}}]`, 1999},
		{"held", `[{name: held, to: web, idle: {count: 1500, open_rate: 600/s}}]`, 1500},
		{"UDP", `[{name: queries, to: dns, udp: {rate: 500/s}}]`, 1999},
		{"all", `[{name: short, to: web, short_lived: {rate: 200/s}}, {name: reset, to: web, short_lived: {rate: 100/s, close: rst}}, {name: held, to: web, idle: {count: 400, open_rate: 200/s}}, {name: queries, to: dns, udp: {rate: 100/s}}]`, 1997},
	} {
		t.Run(m.name, func(t *testing.T) {
			sound := false
			for try := 0; try < 3 && !sound; try++ {
				sound = assertSized(t, "name: mix\nduration: 4s\nservices: [{name: web}, {name: dns, protocol: udp}]\ntraffic: "+m.traffic+"\n", m.need)
			}
			assert.True(t, sound, "this machine is too busy: a run was disturbed in each of 3 verifications")
		})
	}
}

// An expired entry counts until somebody comes across it: without walks the
// table holds far more than rate x timeout, up to what a size for good says, and
// with them hardly more. Three minutes.
func TestProveUncollected(t *testing.T) {
	if !proving() {
		t.Skip("takes three minutes: make prove")
	}
	needPrivate(t)
	const rate, timeout = 100, 10
	scenario := fmt.Sprintf("name: expired\nduration: 70s\nlab: {kernel: private}\nconntrack: {timeouts: {udp_timeout: %ds}}\nservices: [{name: dns, protocol: udp}]\ntraffic: [{name: queries, to: dns, udp: {rate: %d/s}}]\n", timeout, rate)
	for _, walked := range []bool{false, true} {
		r := runIt(t, "-", scenario, "--quiet", "--set", fmt.Sprintf("sampling.no_census=%v", !walked))
		require.Len(t, r.Nodes, 1)
		require.NotNil(t, r.Nodes[0].PeakEntries)
		require.NotNil(t, r.Sizing.UncollectedEntries)
		peak := float64(*r.Nodes[0].PeakEntries)
		t.Logf("PROVED walked %v: at most %g entries, where rate x timeout is %d", walked, peak, rate*timeout)
		if walked {
			assert.Less(t, peak, 2.0*rate*timeout)
			continue
		}
		assert.Greater(t, peak, 3.0*rate*timeout)
		assert.LessOrEqual(t, peak, 1.02*float64(*r.Sizing.NeededEntries+*r.Sizing.UncollectedEntries))
	}
}

// assertSized holds what is said of a run's need to arithmetic, to what the
// table held, and to two more runs. It returns false where one of these was
// disturbed, so that it says nothing.
func assertSized(t *testing.T, scenario string, need uint64) (sound bool) {
	t.Helper()
	f, dir := sized(t, scenario)
	assert.Less(t, f.Sizing.Residual.MeanShare, 0.03, "%+v", f.Sizing.Residual)

	var out, errOut bytes.Buffer
	code := run(t.Context(), []string{"size", dir, "--verify", "--quiet", "--format", "json"}, Streams{In: os.Stdin, Out: &out, Err: &errOut})
	var got struct{ Verified report.Verification }
	require.NoError(t, json.Unmarshal(out.Bytes(), &got), errOut.String())
	require.Len(t, got.Verified.Trials, 2)
	less := need * 9 / 10
	sound = true
	for i, free := range []uint64{need, less} {
		x := got.Verified.Trials[i]
		assert.InDelta(t, float64(free), float64(x.Free), 1)
		if len(x.Unsound) > 0 {
			assert.Equal(t, exitInconclusive, code, "a machine that is busy with something else gives no verdict")
			t.Logf("%d free: %s", x.Free, x.Unsound[0])
			sound = false
			continue
		}
		assert.Equal(t, x.Expected, x.Holds)
		t.Logf("PROVED %d free: holds %v, %d dropped or evicted; residual of the model %.2f %%", x.Free, x.Holds, x.Dropped, 100*f.Sizing.Residual.MeanShare)
		if !x.Holds {
			assert.InDelta(t, float64(need-less), float64(x.Dropped), 8, "what is missing is what is lost")
		}
	}
	if got.Verified.Verdict != report.Inconclusive {
		assert.Equal(t, exitPass, code, got.Verified.Reason)
	}
	return sound
}

// sized is a run to size from, made again where its generator was the limit.
func sized(t *testing.T, scenario string) (f *report.Findings, dir string) {
	t.Helper()
	for range 4 {
		r := runIt(t, "-", scenario, "--quiet")
		require.NotNil(t, r.Sizing)
		require.NotNil(t, r.Sizing.Residual)
		if !r.Generator.Saturated {
			return r.Findings, r.dir
		}
	}
	require.FailNow(t, "this machine is too busy: the generator was the limit in each of 4 runs")
	return nil, ""
}

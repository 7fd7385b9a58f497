package main

import (
	"bytes"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/lab"
)

// needLab skips where no lab can be built, which TABLEFULL_REQUIRE=netns turns
// into a failure.
func needLab(t *testing.T) env.Capabilities {
	t.Helper()
	caps, err := lab.New(lab.Config{}).Probe(t.Context())
	require.NoError(t, err)
	if err := missing(caps); err != nil {
		envtest.Require(t, "netns", err.Error())
	}
	return caps
}

// result is one run of the program, from the outside.
type result struct {
	*report.Findings
	code   int
	out    string
	errOut string
	dir    string
}

// runIt runs a scenario as a person does and reads what it left.
func runIt(t *testing.T, scenario, stdin string, args ...string) result {
	t.Helper()
	r := result{dir: filepath.Join(t.TempDir(), "out")}
	var out, errOut bytes.Buffer
	args = append([]string{"run", scenario, "--out", r.dir}, args...)
	r.code = run(t.Context(), args, Streams{In: strings.NewReader(stdin), Out: &out, Err: &errOut})
	r.out, r.errOut = out.String(), errOut.String()
	require.Contains(t, []int{exitPass, exitFail, exitInconclusive}, r.code, "%s%s", r.out, r.errOut)
	f, err := analyzeDir(r.dir)
	require.NoError(t, err)
	r.Findings = f
	t.Logf("exit code %d\n%s", r.code, r.out)
	require.NotNil(t, f.Restored)
	assert.True(t, *f.Restored)
	assert.False(t, f.Incomplete)
	lookAtReport(t, scenario, r.dir, f)
	return r
}

// cause returns how many failures are attributed to name.
func (r result) cause(name string) uint64 {
	for _, c := range r.Causes {
		if c.Cause == name {
			return c.Failures
		}
	}
	return 0
}

// runHonest is runIt on a machine that may be busy with something else for a
// while. A run that says of itself that the generator was the limit proves
// nothing either way; nor does one out of whose table the kernel took entries
// because another namespace's table, such as the run's before, was full. Such a
// run is made again. That is decided by what the run says of its conditions,
// never by its result.
func runHonest(t *testing.T, scenario, stdin string, args ...string) result {
	t.Helper()
	const runs = 6
	for range runs {
		r := runIt(t, scenario, stdin, args...)
		early := slices.ContainsFunc(r.Nodes, func(n report.Node) bool { return n.Reclaimed != nil && n.Reclaimed.Early })
		if !r.Generator.Saturated && !early {
			return r
		}
		t.Logf("made again: the generator was late: %t; another table's filling took entries from this one: %t", r.Generator.Saturated, early)
	}
	require.FailNowf(t, "this machine is too busy", "the conditions were not given in any of %d runs", runs)
	return result{}
}

// assertOnset holds a measured onset to the truth: within 2 % or one sampling
// interval, whichever is larger.
func assertOnset(t *testing.T, o *report.Onset, want, every float64) {
	t.Helper()
	require.NotNil(t, o, "no onset was found")
	assert.InDelta(t, want, o.AtS, math.Max(0.02*want, every), "onset")
}

// With headroom H and r connections a second, closed by FIN, each of which
// leaves an entry in TIME_WAIT for longer than the run, the table is full
// after H/r seconds; every attempt after that is one SYN and one drop.
func TestTruthShortLived(t *testing.T) {
	needLab(t)
	for _, c := range []struct{ headroom, rate int }{{3000, 700}, {2000, 1000}, {4500, 1500}} {
		t.Run(fmt.Sprintf("%d_at_%d", c.headroom, c.rate), func(t *testing.T) {
			want := float64(c.headroom) / float64(c.rate)
			r := runHonest(t, "short-lived", "",
				"--set", fmt.Sprintf("conntrack.headroom=%d", c.headroom),
				"--set", fmt.Sprintf("traffic[0].short_lived.rate=%d/s", c.rate),
				"--set", fmt.Sprintf("duration=%.1fs", want+2))
			assert.Equal(t, exitFail, r.code)
			assertOnset(t, r.Knee.Drop, want, 0.1)
			assertOnset(t, r.Knee.ClientLoss, want, 0.1)
			assertFull(t, r)
			// TIME_WAIT entries are ASSURED: nothing can be evicted for them.
			assert.Nil(t, r.Knee.EarlyDrop, "nothing there can be evicted")
			node := r.Nodes[0]
			require.NotNil(t, node.HeadroomAtStart)
			assert.InEpsilon(t, c.headroom, *node.HeadroomAtStart, 0.001)
			failed := r.Traffic[0].Failed
			assert.NotZero(t, failed)
			assert.InEpsilon(t, failed, node.Counters["drop"], 0.01, "one SYN each: drops and failures are the same packets")
			assert.InEpsilon(t, failed, r.cause("table_full"), 0.01)
		})
	}
}

func assertFull(t *testing.T, r result) {
	t.Helper()
	require.NotNil(t, r.Knee.Drop)
	require.NotNil(t, r.Knee.Drop.Entries)
	require.NotNil(t, r.Nodes[0].Limit)
	assert.InEpsilon(t, *r.Nodes[0].Limit, *r.Knee.Drop.Entries, 0.01, "entries at the onset")
}

func TestTruthIPv6(t *testing.T) {
	needLab(t)
	r := runHonest(t, "short-lived", "", "--set", "lab.family=ipv6",
		"--set", "conntrack.headroom=2000", "--set", "traffic[0].short_lived.rate=800/s", "--set", "duration=4s")
	assertOnset(t, r.Knee.Drop, 2.5, 0.1)
	assert.InEpsilon(t, r.Traffic[0].Failed, r.cause("table_full"), 0.01)
}

// Held connections fill the table for good: one entry each, never evicted.
func TestTruthIdle(t *testing.T) {
	needLab(t)
	r := runHonest(t, "idle", "", "--set", "conntrack.headroom=2000",
		"--set", "traffic[0].idle.count=3000", "--set", "traffic[0].idle.open_rate=800/s", "--set", "duration=6s")
	assert.Equal(t, exitFail, r.code)
	assertOnset(t, r.Knee.Drop, 2.5, 0.1)
	assertFull(t, r)
	assert.Nil(t, r.Knee.EarlyDrop)
	assert.InEpsilon(t, 1000, r.cause("table_full"), 0.01)
	assert.InEpsilon(t, 1000, r.Nodes[0].Counters["drop"], 0.01)
	require.NotNil(t, r.Traffic[0].HeldEnd)
	assert.InEpsilon(t, 2000, *r.Traffic[0].HeldEnd, 0.01, "what was open stays open")
	require.NotNil(t, r.Traffic[0].HeldLost)
	assert.Zero(t, *r.Traffic[0].HeldLost)
}

// One-shot UDP entries are never ASSURED, so the full table evicts before it
// drops: the soft onset is at H/r, the hard one not before it.
func TestTruthDNSFlood(t *testing.T) {
	needLab(t)
	r := runHonest(t, "dns-flood", "", "--set", "conntrack.headroom=4000",
		"--set", "traffic[0].udp.rate=2000/s", "--set", "duration=5s")
	assertOnset(t, r.Knee.EarlyDrop, 2.0, 0.1)
	if r.Knee.Drop != nil {
		assert.GreaterOrEqual(t, r.Knee.Drop.AtS+r.Knee.Drop.UncertaintyS, r.Knee.EarlyDrop.AtS-r.Knee.EarlyDrop.UncertaintyS, "soft before hard")
	}
	// Failures that lost a datagram to the full table are the node's drops.
	if drop := r.Nodes[0].Counters["drop"]; drop > 100 {
		assert.InEpsilon(t, drop, r.cause("table_full"), 0.01)
	}
}

func TestTruthSynFlood(t *testing.T) {
	needLab(t)
	r := runHonest(t, "syn-flood", "")
	require.NotNil(t, r.Knee.EarlyDrop)
	assert.Greater(t, r.Nodes[0].Counters["early_drop"], 10*r.Nodes[0].Counters["drop"], "half-open entries are evicted long before anything is dropped")
	if r.Knee.Drop != nil {
		assert.GreaterOrEqual(t, r.Knee.Drop.AtS+r.Knee.Drop.UncertaintyS, r.Knee.EarlyDrop.AtS-r.Knee.EarlyDrop.UncertaintyS)
	}
}

func TestHealthyPasses(t *testing.T) {
	needLab(t)
	r := runHonest(t, "healthy", "")
	assert.Equal(t, exitPass, r.code, "%v", r.Reasons)
	assert.Nil(t, r.Knee.Drop)
	assert.Nil(t, r.Knee.EarlyDrop)
	assert.Empty(t, r.Causes)
}

// A connection through the gateway costs the node two entries.
func TestGatewayDoubles(t *testing.T) {
	needLab(t)
	r := runHonest(t, "gateway", "")
	require.NotNil(t, r.Predicted)
	require.NotNil(t, r.Predicted.GrowthPerS)
	assert.Greater(t, r.cause("table_full"), uint64(0))
	assertReadme(t, "gateway", r)
}

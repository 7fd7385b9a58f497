package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const observed = `
name: observed
duration: 3s
services: [{name: web, pods: 2}]
traffic: [{to: web, short_lived: {rate: 30000/s, close: rst}}]
`

// unobserved takes everything away that is read while traffic flows, but for a
// sample at either end.
var unobserved = []string{"--set", "sampling.every=10s", "--set", "sampling.no_census=true", "--set", "sampling.no_autopsy=true"}

// settle is how long a run waits for what the one before has left to the
// kernel: namespaces that have gone, with their tables.
const settle = 2 * time.Second

// achieved returns the connections a second that succeeded when far more were
// asked for than the machine can do.
func achieved(b *testing.B, args ...string) float64 {
	b.Helper()
	time.Sleep(settle)
	dir := filepath.Join(b.TempDir(), "out")
	var out bytes.Buffer
	args = append([]string{"run", "-", "--quiet", "--out", dir}, args...)
	run(b.Context(), args, Streams{In: strings.NewReader(observed), Out: &out, Err: &out})
	f, err := analyzeDir(dir)
	require.NoError(b, err, out.String())
	require.NotNil(b, f.Traffic[0].Succeeded)
	return float64(*f.Traffic[0].Succeeded) / f.Environment.DurationS
}

// BenchmarkObserverEffect measures the achievable connection rate with and
// without sampling in pairs, in alternating order, and reports the median of
// the pairs' ratios: 1 is no effect.
func BenchmarkObserverEffect(b *testing.B) {
	const pairs = 12
	var ratios []float64
	var off float64
	log := "conn/s observed/not observed:"
	for range b.N {
		for i := range pairs {
			var with, without float64
			if i%2 == 0 {
				with, without = achieved(b), achieved(b, unobserved...)
			} else {
				without = achieved(b, unobserved...)
				with = achieved(b)
			}
			log += fmt.Sprintf(" %.0f/%.0f", with, without)
			ratios = append(ratios, with/without)
			off += without
		}
	}
	b.Log(log)
	slices.Sort(ratios)
	n := len(ratios)
	b.ReportMetric((ratios[(n-1)/2]+ratios[n/2])/2, "on/off")
	b.ReportMetric(ratios[n/4], "on/off-p25")
	b.ReportMetric(ratios[3*n/4], "on/off-p75")
	b.ReportMetric(off/float64(n), "conn/s-off")
	b.ReportMetric(0, "ns/op")
}

// The node's agent (samplers, census, ballast, look-ups of failures) is the
// largest part of what observing takes; the samplers of the other hosts and
// the controller come on top. The run measures it itself, while traffic was
// due, and so on a table that fills and is full.
func TestSamplingCostsLittle(t *testing.T) {
	needLab(t)
	r := runHonest(t, "short-lived", "", "--set", "duration=8s")
	self, ok := r.Nodes[0].CPU["self"]
	require.True(t, ok, "the sampler's own CPU time was not measured")
	t.Logf("the node's agent took %.2f %% of one CPU", 100*self)
	assert.Less(t, self, 0.10)
}

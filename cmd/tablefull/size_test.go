package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
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
	dir := filepath.Join(t.TempDir(), "run")
	var out, errOut bytes.Buffer
	code := run(t.Context(), []string{"run", "-", "--out", dir, "--quiet"}, Streams{In: strings.NewReader(mixed), Out: &out, Err: &errOut})
	require.Contains(t, []int{exitPass, exitInconclusive}, code, errOut.String())
	f, err := analyzeDir(dir)
	require.NoError(t, err)
	require.NotNil(t, f.Sizing.Residual)
	if !f.Generator.Saturated {
		assert.Less(t, f.Sizing.Residual.MeanShare, 0.03, "%+v", f.Sizing.Residual)
	}

	out.Reset()
	code = run(t.Context(), []string{"size", dir, "--verify", "--quiet", "--format", "json"}, Streams{In: os.Stdin, Out: &out, Err: &errOut})
	var got struct{ Verified report.Verification }
	require.NoError(t, json.Unmarshal(out.Bytes(), &got), errOut.String())
	require.Len(t, got.Verified.Trials, 2)
	for i, free := range []uint64{1500, 1350} {
		x := got.Verified.Trials[i]
		assert.InDelta(t, float64(free), float64(x.Free), 1)
		if len(x.Unsound) > 0 {
			assert.Equal(t, exitInconclusive, code, "a machine that is busy with something else gives no verdict")
			t.Logf("%d free: %s", x.Free, x.Unsound[0])
			continue
		}
		assert.Equal(t, x.Expected, x.Holds)
		if !x.Holds {
			assert.InDelta(t, 150, float64(x.Dropped), 8, "what is missing is what is lost")
		}
	}
	if got.Verified.Verdict != report.Inconclusive {
		assert.Equal(t, exitPass, code, got.Verified.Reason)
	}
}

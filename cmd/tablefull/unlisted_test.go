package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/runner"
)

// An experiment whose process was killed has runs that it could not write down
// any more; they are seen all the same, and it is not taken for a whole one.
func TestUnlistedRuns(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"a/1", "a/1-again-1", "b/1", "b/1-again-1", "b/2", "other/1"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, d, runner.LogName), []byte("{\"n\":1,"), 0o600))
	}
	e := &report.Experiment{
		Order: []string{"a/1", "b/1"}, Trials: 1, Arms: []report.ExperimentArm{{Name: "a"}, {Name: "b"}},
		Runs: []report.ExperimentRun{{Arm: "a", Trial: 1, Dir: "a/1", Discarded: "it was slow"}, {Arm: "a", Trial: 1, Dir: "a/1-again-1"}},
	}
	assert.Equal(t, []report.ExperimentRun{{Arm: "b", Trial: 1, Dir: "b/1"}, {Arm: "b", Trial: 1, Dir: "b/1-again-1"}}, unlistedRuns(dir, e))
	c, err := compareExperiment(dir, e)
	require.NoError(t, err)
	assert.Equal(t, []string{"a/1", "a/1-again-1", "b/1", "b/1-again-1"}, c.Order)
	assert.Equal(t, report.Inconclusive, c.Verdict)
	assert.Contains(t, c.Reasons[0], "the comparison was cut off: 1 of its 2 planned runs is there and counts")
	for _, r := range c.Arms[1].Runs {
		assert.NotEmpty(t, r.Discarded, "a log that breaks off")
	}
}

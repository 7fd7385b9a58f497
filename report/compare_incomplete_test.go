package report

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An arm whose runs were made and do not count was run, and each rendering says
// so, and why it shows nothing.
func TestArmWhoseRunsDoNotCount(t *testing.T) {
	e, trials := experimentWith(nil, []made{{unsound: "it was too slow"}}, []made{{}, {}})
	e.Trials = 1
	for i, why := range []string{"it was slow", "its log breaks off"} {
		trials[1+i].Discarded, trials[1+i].Trial = why, 1
	}
	trials[2].Dir = "b/1-again-1"
	c := Compare(e, trials)
	assert.Equal(t, Inconclusive, c.Verdict)
	assert.Contains(t, c.Reasons, "no data: 2 runs were made of b, of which none counts: b/1: it was slow; b/1-again-1: its log breaks off")
	assert.Equal(t, []string{"a/1", "b/1", "b/1-again-1"}, c.Order)
	for _, format := range []string{"text", "html", "markdown"} {
		var out bytes.Buffer
		require.NoError(t, c.Render(format, &out))
		for _, not := range []string{"was not run", "made again", "One trial of each", "median number", "none, "} {
			assert.NotContains(t, out.String(), not, format)
		}
	}

	e, trials = experimentWith(nil, []made{{}}, []made{{}})
	trials[1].Discarded = "it was slow"
	assert.Equal(t, "No run counts of b: a plain table of the others, without a test.", Compare(e, trials).kind())
}

// A comparison says what was asked of each arm, for how long and on what it was
// run; that a table did not fill is said of that time; and a latency of those
// few that succeeded does not look best.
func TestComparisonSaysWhatWasMade(t *testing.T) {
	e, trials := experimentWith(nil, []made{{drop: 1, failed: 7500, p99: 5}}, []made{{p99: 44}})
	e.Source = "name: ways-around\n"
	yes := true
	for i, asked := range []string{"drop > 1500", "drop == 0"} {
		f := trials[i].Findings
		f.Expected, f.Reproduced = []ThresholdResult{{Threshold: asked, Result: Pass}}, &yes
	}
	c := Compare(e, trials)
	assert.Contains(t, c.Reasons, "a: as expected: drop > 1500")
	assert.Contains(t, c.Reasons, "b: as expected: drop == 0")
	assert.Contains(t, c.Headline, "b not within 10 s.")
	p99 := row(t, c, "p99")
	assert.Equal(t, "5 ms, of the 25.0 % that succeeded", p99.Arms[0].Text)
	assert.Equal(t, "44 ms", p99.Arms[1].Text)
	assert.Contains(t, p99.About, "less says nothing where fewer succeeded")
	for _, format := range []string{"text", "html", "markdown"} {
		var out bytes.Buffer
		require.NoError(t, c.Render(format, &out))
		assert.Contains(t, strings.Join(strings.Fields(out.String()), " "), "Attempts were due for 10 s in each run. Made on kernel 6.18, 2 CPUs.", format)
		assert.Equal(t, format == "html", strings.Contains(out.String(), "name: ways-around"))
	}
	for i := range trials { // as many lost: a difference is one
		trials[i].Findings.Traffic[0].Failed, trials[i].Findings.Traffic[0].Succeeded = 0, trials[1].Findings.Traffic[0].Succeeded
	}
	assert.Equal(t, "5 ms", row(t, Compare(e, trials), "p99").Arms[0].Text)
}

package report

import (
	"bytes"
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
		for _, not := range []string{"was not run", "One trial of each", "median number", "none, "} {
			assert.NotContains(t, out.String(), not, format)
		}
	}

	e, trials = experimentWith(nil, []made{{}}, []made{{}})
	trials[1].Discarded = "it was slow"
	assert.Equal(t, "No run counts of b: a plain table of the others, without a test.", Compare(e, trials).about())
}

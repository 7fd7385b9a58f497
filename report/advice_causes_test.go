package report

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What made a tenth of the failures has a line of its own, whatever made the most.
func TestAdviceForOtherCauses(t *testing.T) {
	f := made{verdict: Fail, failed: 279}.findings()
	f.Causes = []Cause{{Cause: staleBackend, Failures: 153}, {Cause: untranslated, Failures: 125}, {Cause: drainingBackend, Failures: 1}}
	why := joined(advise(f).Why)
	assert.Contains(t, why, "Besides, 125 of the 279 attempts that failed did so because of untranslated. Let no client connect before the node's proxy has programmed the service.")
	assert.NotContains(t, why, drainingBackend, "1 of 279")
	assert.NotContains(t, why, "because of "+staleBackend, "that is what the advice is about")

	f.Causes[1].Cause = natClash
	assert.Contains(t, joined(advise(f).Why), "because of nat_clash. Choose the source ports")
	f.Causes[1].Cause = drainingBackend
	assert.Contains(t, joined(advise(f).Why), "because of draining_backend. Let pods serve on, during a preStop sleep")

	// A table that was full is not all of it, also where it is the lesser cause.
	f.Causes = []Cause{{Cause: unknownCause, Failures: 100}, {Cause: staleBackend, Failures: 90}, {Cause: tableFull, Failures: 89}}
	lines := advise(f).Why[len(advise(f).Why)-2:]
	assert.Contains(t, lines[0], "100 of the 279 attempts that failed did so because of unknown. What")
	assert.Contains(t, lines[1], "90 of the 279 attempts that failed did so because of stale_backend. They were led")

	// A run from which nothing follows has no advice, about these neither.
	f.Verdict, f.unsound = Inconclusive, []string{"late"}
	require.False(t, leftOpen(f))
	assert.NotContains(t, joined(advise(f).Why), "Besides")
	f.unsound = nil
	assert.Contains(t, joined(advise(f).Why), "because of stale_backend")
	assert.NotContains(t, joined(advise(f).Why), "because of unknown")
}

package report

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Arms beside each other say why a table was full and what to change, and of one that
// was not whether it would have been later.
func TestComparisonSaysWhatToChange(t *testing.T) {
	const free = 2800
	arm := func(drop float64, headroom int64, needed, late uint64) *Findings {
		f := made{drop: drop}.findings()
		f.Nodes[0].HeadroomAtStart = &headroom
		part := SizingPart{Traffic: "clients"}
		f.Sizing = &Sizing{Parts: []SizingPart{part}}
		if needed > 0 {
			limit, present := recommended(needed, late), uint64(6000)
			s := f.Sizing
			s.Parts[0].Entries, s.Parts[0].Counted = &needed, true
			s.NeededEntries, s.UncollectedEntries, s.RecommendedLimit, s.PresentLimit = &needed, &late, &limit, &present
		}
		return f
	}
	flood := arm(4, free, 1, 1)
	flood.Sizing.Meaningless = true
	e, trials := experimentWith(nil, []made{{}}, []made{{}}, []made{{}}, []made{{}}, []made{{}}, []made{{}}, []made{{}})
	e.Arms[2].Set, e.Arms[3].Set = []string{"conntrack.headroom=5600"}, []string{"conntrack.headroom=90000", "x=1"}
	e.Arms[4].Set, e.Arms[4].Description = []string{"y=1"}, "with a price"
	for i, f := range []*Findings{
		arm(4, free, 84000, 42000), arm(4.3, free, 1400, 42000), arm(0, 5600, 84000, 42000),
		arm(0, 90000, 2000, 1000), arm(0, 3500, 2000, 2000), arm(1.3, free, 0, 0), flood,
	} {
		trials[i].Findings = f
	}
	c := Compare(e, trials)
	require.Len(t, c.change, 8)
	assert.Equal(t, "a: Set nf_conntrack_max to at least 131,072 (now 6,000).", c.change[0])
	assert.Equal(t, "Not full: c, for as long as it ran (conntrack.headroom=5600); d, for good (conntrack.headroom=90000; x=1); e, for as long as it ran (with a price).", c.change[1])
	assert.Equal(t, []string{
		"a was full because its load needs 84000 entries in the steady state, and 2800 were free when traffic began.",
		"b was full although its load needs only 1400 entries in the steady state, and 2800 were free when traffic began: an entry that has expired counts until the kernel's collector comes by, at the latest after 60 s, and by then there can be 42000 more.",
		"c was not full in the time of this run, and would be later: its load needs 84000 entries in the steady state, and 5600 were free when traffic began.",
		"d was not full, and has room for good: its load needs 2000 entries in the steady state, and 90000 were free when traffic began.",
		"e was not full: its load needs 2000 entries in the steady state, and 3500 were free when traffic began; but an entry that has expired counts until the kernel's collector comes by, at the latest after 60 s, and by then there can be 2000 more.",
		"f was full; what its load needs for good cannot be computed.",
	}, c.change[2:])
	for _, format := range []string{"text", "html", "markdown"} {
		var out bytes.Buffer
		require.NoError(t, c.Render(format, &out))
		text := strings.ToLower(out.String())
		assert.Contains(t, text, "what to change", format)
		assert.Less(t, strings.Index(text, "what to change"), strings.Index(text, "one trial of each arm"), "%s: not below the table", format)
	}
	trials[2].Findings.Traffic[0].Failed, trials[2].Findings.Causes = 7, []Cause{{Cause: unknownCause, Failures: 7}}
	c = Compare(e, trials)
	assert.Contains(t, c.change[1], "c, for as long as it ran (conntrack.headroom=5600), though 7 attempts failed; d, ")
	c.Arms[3].Verdict = Fail
	assert.NotContains(t, c.held(), "d, for good", "its verdict does not say so")
	e.Gate = DefaultGate()
	assert.Empty(t, Compare(e, trials).change, "a gate is about the difference")
	e, trials = experimentWith(nil, []made{{}}, []made{{}})
	assert.Empty(t, Compare(e, trials).change, "no table was full")
}

// A comparison whose runs were cut off does not say that they lasted.
func TestComparisonThatWasCutOff(t *testing.T) {
	e, trials := experimentWith(nil, []made{{}}, []made{{}})
	assert.Contains(t, Compare(e, trials).about(), "Attempts were due for 10 s in each run.")
	trials[1].Findings.Incomplete = true
	assert.Contains(t, Compare(e, trials).about(), "Attempts were to be due for 10 s in each run.")
}

// A pass that is that of a fault shown says so; one of a gate does not.
func TestBadge(t *testing.T) {
	yes, no := true, false
	assert.Equal(t, "pass: reproduced", (&Findings{Verdict: Pass, Reproduced: &yes}).Badge())
	assert.Equal(t, "pass", (&Findings{Verdict: Pass, Reproduced: &no}).Badge())
	assert.Equal(t, "pass", (&Findings{Verdict: Pass}).Badge())
	assert.Equal(t, "fail", (&Findings{Verdict: Fail, Reproduced: &yes}).Badge())
	f := &Findings{Verdict: Pass, Reproduced: &yes, Expected: []ThresholdResult{{Result: Pass}}}
	assert.Contains(t, renderedHTML(t, f), `<p class="badge pass">pass: reproduced</p>`)
	assert.Contains(t, render(t, "markdown", f), "**pass: reproduced**")
	assert.Contains(t, render(t, "svg", f), "PASS: REPRODUCED")

	e, trials := experimentWith(nil, []made{{}}, []made{{}})
	for i := range trials {
		trials[i].Findings.Expected, trials[i].Findings.Reproduced = f.Expected, &yes
	}
	c := Compare(e, trials)
	require.Equal(t, Pass, c.Verdict)
	assert.Equal(t, "pass: reproduced", c.Badge())
	assert.Equal(t, "pass: reproduced", c.Arms[1].Badge())
	e.Gate = []string{"failures"}
	assert.NotContains(t, Compare(e, trials).Badge(), "reproduced")
	trials[1].Findings.Reproduced = nil
	e.Gate = nil
	assert.Equal(t, "pass", Compare(e, trials).Badge())
}

package report

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A reader who multiplies what is printed gets what is printed.
func TestSizesMultiplyOut(t *testing.T) {
	part := func(rate, attempt float64, entries uint64) string {
		return partText(SizingPart{Traffic: "dns", ArrivalsPerS: rate, overS: 5, EntriesPerAttempt: 1, ResidenceS: 30, State: "UDP", attemptS: attempt, Entries: &entries, Counted: true})
	}
	assert.Equal(t, "dns: 100/s in its busiest 5 s x 1 x 30 s in UDP = 3000 entries", part(100, 0, 3000))
	assert.Equal(t, "dns: 99.8/s in its busiest 5 s x 1 x (30 s in UDP + 0.9 ms until then) = 2995 entries", part(99.8, 0.0009, 2995))
	assert.Equal(t, "dns: 233.333/s in its busiest 5 s x 1 x 30 s in UDP = 7000 entries", part(233.3333, 0, 7000))
	assert.Equal(t, "dns: 1234570/s in its busiest 5 s x 1 x 30 s in UDP, with all their digits = 37036999 entries", part(1234566.6, 0, 37036999))
	held := uint64(3000)
	assert.Equal(t, "subscribers: 3000 held = 3000 entries (held connections, of all that were due)",
		partText(SizingPart{Traffic: "subscribers", ArrivalsPerS: 800, overS: 3.6, EntriesPerAttempt: 1, Held: held, Entries: &held, Counted: true, Note: "held connections, of all that were due"}))
}

// Advice about setting a limit is for runs after which one is to be set.
func TestNotesBearOnADecision(t *testing.T) {
	run := func(limit uint64, rate float64) *Sizing {
		s := newSim(t, limit, limit, finTraffic("web", 0, 120))
		s.header.CPUs = 4
		s.fill("web", rate, 0, 2)
		f := s.analyze()
		require.NotNil(t, f.Sizing)
		return f.Sizing
	}
	const memory, buckets, min = "128 more where an extension is in use", "as many buckets as entries", "kube-proxy ignores min"
	for _, note := range []string{memory, buckets, min, "kube-proxy's defaults"} {
		s := run(262144, 100)
		assert.NotContains(t, joined(s.Notes), note, "nothing is to be changed")
		assert.Contains(t, joined(s.withAllNotes().Notes), note, "sizes were asked for")
		assert.Contains(t, joined(run(13000, 100).Notes), note, "the limit is too low")
		assert.Contains(t, joined(run(1048576, 900).Notes), note, "kube-proxy would lower it to less than is needed")
	}
	assert.Contains(t, joined(run(262144, 100).Notes), "is enough for the 12001 entries")
}

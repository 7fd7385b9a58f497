package scenarios

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const everySearch = `
name: every-search
services:
  - {name: web}
  - {name: dns, protocol: udp}
traffic:
  - {name: held, to: web, start: 500ms, idle: {count: 10, open_rate: 100/s, validate_every: 1s}}
  - {name: asked, to: dns, duration: 3s, udp: {rate: 20/s}}
search:
  measure: concurrent_connections
  knob: traffic[held].idle.count
  min: 100
  max: 5000
  goals: [0, 0.1%]
  width: 2%
  trial: 4s
  duration_sum: 12s
  exceed: 25%
  retries: 2
  budget: 1h
thresholds: [capacity >= 400]
expect: [capacity_upper < 500]
`

// The scenario of one trial: the knob turned, the length of a trial behind the
// opening of what is held, and nothing of the search itself.
func TestScenarioOfATrial(t *testing.T) {
	s, err := Parse("every-search.yaml", []byte(everySearch))
	require.NoError(t, err)
	before, err := s.YAML()
	require.NoError(t, err)
	at, err := s.At(2000)
	require.NoError(t, err)
	assert.Equal(t, 2000, at.Traffic[0].Idle.Count)
	assert.Equal(t, "24.5s", at.Duration.String(), "0.5 s, 2000 at 100/s, and a trial")
	assert.Equal(t, "24s", at.Traffic[0].Duration.String())
	assert.Equal(t, "3s", at.Traffic[1].Duration.String(), "what has a length of its own keeps it")
	assert.Nil(t, at.Search)
	assert.Empty(t, at.Thresholds)
	assert.Empty(t, at.Expect)
	after, err := s.YAML()
	require.NoError(t, err)
	assert.Equal(t, string(before), string(after), "the search is as it was")
	again, err := at.YAML()
	require.NoError(t, err)
	parsed, err := Parse("trial.yaml", again)
	require.NoError(t, err)
	assert.Equal(t, at, parsed)

	_, err = s.At(20_000_000)
	var list Errors
	require.ErrorAs(t, err, &list)
}

func TestSearchDefaults(t *testing.T) {
	for _, c := range []struct{ shape, knob, low, high, measure string }{
		{"idle: {count: 10, open_rate: 100/s, validate_every: 1s}", "idle.count", "10", "100", "concurrent_connections"},
		{"idle: {count: 10, open_rate: 100/s, validate_every: 1s}", "idle.open_rate", "10/s", "100/s", "establishment_rate"},
		{"short_lived: {rate: 10/s}", "short_lived.rate", "10/s", "6000/m", "establishment_rate"},
		{"short_lived: {rate: 10/s}", "short_lived.request_bytes", "10", "100", "load"},
	} {
		s, err := Parse("x.yaml", fmt.Appendf(nil, "name: x\nservices: [{name: web}]\ntraffic: [{to: web, %s}]\nsearch: {knob: 'traffic[0].%s', min: %s, max: %s}\n", c.shape, c.knob, c.low, c.high))
		require.NoError(t, err)
		assert.Equal(t, c.measure, s.Search.Measure)
		assert.Equal(t, Duration(15*time.Second), s.Search.DurationSum)
		r, err := s.Range()
		require.NoError(t, err)
		assert.Equal(t, SearchRange{Min: 10, Max: 100, Rate: c.low == "10/s", Goals: []float64{0}, Width: 0.01, Exceed: 0.5}, r)
		assert.InDelta(t, map[bool]float64{true: 0.01, false: 1}[r.Rate], r.Step(), 1e-12)
	}
}

// A rate's loads are multiples of a step that is fine enough for the width.
func TestSearchStep(t *testing.T) {
	assert.InDelta(t, 0.1, SearchRange{Rate: true, Min: 100, Width: 0.01}.Step(), 1e-12)
	assert.InDelta(t, 1, SearchRange{Rate: true, Min: 1e6, Width: 0.01}.Step(), 1e-12)
}

const tearingDown = `
name: tearing-down
services: [{name: web}]
traffic: [{name: held, to: web, idle: {count: 1000, open_rate: 500/s, close_rate: 250/s, validate_every: 500ms}}]
search: {knob: 'traffic[held].idle.close_rate', min: 100/s, max: 1000/s, trial: 1500ms}
`

// A trial of a tear-down opens, holds for its own length, closes at the rate,
// and waits for the last one.
func TestScenarioOfATearDown(t *testing.T) {
	s, err := Parse("tearing-down.yaml", []byte(tearingDown))
	require.NoError(t, err)
	assert.Equal(t, "teardown_rate", s.Search.Measure)
	at, err := s.At(400)
	require.NoError(t, err)
	assert.InDelta(t, 400, float64(at.Traffic[0].Idle.CloseRate), 0)
	assert.Equal(t, "6.9s", at.Duration.String(), "2 s of opening, 1.5 s, 1000 at 400/s, and a timeout")
	assert.Equal(t, "3.4s", at.Traffic[0].Closing().String())
	u, err := at.Untracked()
	require.NoError(t, err)
	assert.False(t, u.Tracked("web"))
	assert.True(t, at.Tracked("web"), "the original is as it was")

	for src, want := range map[string]string{
		"name: x\nduration: 4s\nservices: [{name: web}]\ntraffic: [{to: web, idle: {count: 1000, open_rate: 500/s, close_rate: 500/s, validate_every: 500ms}}]": "takes 6.3s, and the traffic lasts 4s",
		"name: x\nduration: 4s\nservices: [{name: web}]\ntraffic: [{to: web, idle: {count: 10, open_rate: 500/s, close_rate: -1/s, validate_every: 500ms}}]":    "close_rate",
		tearingDown + "thresholds: ['unclosed == 0']":                                                               "a search makes many",
		strings.Replace(tearingDown, "traffic: [", "traffic: [{name: too, to: web, short_lived: {rate: 1/s}}, ", 1): "give it a service of its own",
		strings.Replace(tearingDown, ".close_rate'", ".open_rate', measure: teardown_rate", 1):                      "teardown_rate is not found by turning",
	} {
		_, err := Parse("x.yaml", []byte(src))
		require.Error(t, err, src)
		assert.Contains(t, err.Error(), want)
	}
}

package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A rollout of pods that drain, with a preStop longer than the proxy needs,
// loses nothing: not one attempt in 100 000.
func TestTruthRolloutLosesNothing(t *testing.T) {
	needLab(t)
	r := runHonest(t, "-", `
name: rollout
duration: 51s
services:
  - name: web
    pods: 3
    lifecycle: {ready_after: 500ms, pre_stop: 5s, on_sigterm: drain}
traffic:
  - {name: clients, to: web, timeout: 5s, short_lived: {rate: 2000/s}}
actions:
  - {at: 5s, rollout: {service: web}}
thresholds: [failures == 0]
`)
	assert.Equal(t, exitPass, r.code)
	assert.Zero(t, r.Traffic[0].Failed)
	require.NotNil(t, r.Traffic[0].Succeeded)
	assert.Greater(t, *r.Traffic[0].Succeeded, uint64(100_000))
	assert.Len(t, r.Backends, 6, "three old pods and three new ones")
	for _, b := range r.Backends {
		assert.NotZero(t, b.Served, b.Name)
	}
}

// What makes the race lose connections is that SIGTERM does not wait for the
// proxy: with a preStop that does, nothing is lost.
func truthTerminationRace(t *testing.T) {
	short := []string{"--set", "duration=10s", "--set", "actions[0].at=2s"}
	r := runHonest(t, "rollout-termination-race", "", short...)
	assertReproduced(t, r, true)
	assert.Equal(t, exitFail, r.code)
	// Three pods, each one of three for half a second of 300 attempts/s.
	assert.InDelta(t, 3*0.5*300/3, r.Traffic[0].Failed, 75)
	assertNotTheTable(t, r)

	r = runHonest(t, "rollout-termination-race", "", append(short, "--set", "services[0].lifecycle.pre_stop=2s")...)
	assertReproduced(t, r, false)
	assert.Equal(t, exitPass, r.code)
	assert.Zero(t, r.Traffic[0].Failed)
}

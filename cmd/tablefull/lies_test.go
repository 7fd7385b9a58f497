package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Requests fail here for reasons that are not the table. None of them may be
// blamed on it.

const tcpScenario = `
name: lie
duration: 3s
services: [{name: web, pods: 2}]
traffic: [{to: web, short_lived: {rate: 300/s}}]
thresholds: ["errors < 0.1%"]
`

func assertNotTheTable(t *testing.T, r result) {
	t.Helper()
	assert.Zero(t, r.cause("table_full"))
	assert.Zero(t, r.cause("evicted"))
	assert.Nil(t, r.Knee.Drop)
	assert.Nil(t, r.Knee.EarlyDrop)
}

func TestLieListenQueueOverflows(t *testing.T) {
	needLab(t)
	r := runHonest(t, "-", tcpScenario, "--set", "services[0].server.behaviour=stall", "--set", "services[0].server.backlog=16")
	assertNotTheTable(t, r)
	assert.Equal(t, exitFail, r.code)
	assert.NotZero(t, r.cause("listen_overflow"))
}

// Even when the table is nearly full at the same time, without overflowing.
func TestLieListenQueueOverflowsNearTheLimit(t *testing.T) {
	needLab(t)
	r := runHonest(t, "-", tcpScenario, "--set", "services[0].server.behaviour=stall", "--set", "services[0].server.backlog=16",
		"--set", "conntrack.headroom=1500")
	assertNotTheTable(t, r)
	assert.NotZero(t, r.cause("listen_overflow"))
}

func TestLieSourcePortsUsedUp(t *testing.T) {
	needLab(t)
	r := runIt(t, "-", tcpScenario, "--set", "lab.clients.addresses=1",
		"--set", "traffic[0].short_lived.source_ports.fixed=40000") // a port in TIME_WAIT cannot be had again within a second
	assertNotTheTable(t, r)
	assert.Equal(t, exitInconclusive, r.code)
	assert.NotZero(t, r.cause("generator_ports"))
}

func TestLiePodResets(t *testing.T) {
	needLab(t)
	r := runHonest(t, "-", tcpScenario, "--set", "services[0].server.behaviour=reset")
	assertNotTheTable(t, r)
	assert.Equal(t, exitFail, r.code)
	assert.Equal(t, r.Traffic[0].Failed, r.cause("backend_reset"))
}

func TestLiePodRefuses(t *testing.T) {
	needLab(t)
	r := runHonest(t, "-", tcpScenario, "--set", "services[0].server.behaviour=refuse")
	assertNotTheTable(t, r)
	assert.Equal(t, exitFail, r.code)
	assert.NotZero(t, r.Traffic[0].Failed)
}

func TestLiePodSilent(t *testing.T) {
	needLab(t)
	r := runHonest(t, "-", tcpScenario, "--set", "services[0].server.behaviour=silent")
	assertNotTheTable(t, r)
	assert.Equal(t, exitFail, r.code)
}

// Nothing comes back from a pod that is gone, as nothing comes back from a
// full table; but its entry is there.
func TestLiePodGone(t *testing.T) {
	needLab(t)
	for _, headroom := range []string{"200000", "1500"} {
		r := runHonest(t, "-", tcpScenario, "--set", "services[0].server.behaviour=gone", "--set", "conntrack.headroom="+headroom)
		assertNotTheTable(t, r)
		assert.Equal(t, exitFail, r.code)
		assert.NotZero(t, r.Traffic[0].Failed)
	}
}

func TestLieNoEndpoint(t *testing.T) {
	needLab(t)
	r := runHonest(t, "-", `
name: lie
duration: 2s
services: [{name: web, no_pods: true}]
traffic: [{to: web, short_lived: {rate: 200/s}}]
thresholds: ["errors < 0.1%"]
`)
	assertNotTheTable(t, r)
	assert.Equal(t, r.Traffic[0].Failed, r.cause("no_endpoint"))
}

func TestLieGeneratorOverloaded(t *testing.T) {
	needLab(t)
	r := runIt(t, "-", tcpScenario, "--set", "traffic[0].short_lived.rate=200000/s", "--set", "duration=2s")
	assert.Zero(t, r.cause("table_full"))
	assert.Equal(t, exitInconclusive, r.code)
	assert.NotZero(t, r.cause("generator_late"))
	require.NotEmpty(t, r.Reasons)
	assert.Contains(t, r.Reasons[0], "generator", "said first")
}

// A full table harms nobody while nothing new is attempted: held connections
// go on, and the run passes.
func TestFullTableWithoutNewConnections(t *testing.T) {
	needLab(t)
	r := runHonest(t, "-", `
name: full-but-quiet
duration: 5s
conntrack: {headroom: 500}
services: [{name: web, pods: 2}]
traffic: [{to: web, idle: {count: 500, open_rate: 500/s, validate_every: 1s}}]
thresholds: ["errors < 0.1%"]
`)
	assert.Equal(t, exitPass, r.code, "%v", r.Reasons)
	require.NotNil(t, r.Nodes[0].PeakOccupancy)
	assert.InDelta(t, 1, *r.Nodes[0].PeakOccupancy, 0.001)
	assert.Nil(t, r.Knee.Drop)
}

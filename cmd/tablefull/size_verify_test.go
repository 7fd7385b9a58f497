package main

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/scenarios"
)

const fiveSeconds = `
name: five-seconds
duration: 5s
conntrack: {headroom: 20000}
services: [{name: web}]
traffic: [{name: clients, to: web, short_lived: {rate: 200/s}}]
`

// nodeLog writes the log of a run on a cluster's node a, which others use, too:
// so many entries were free, theirs are there at the times, and the run needs
// needs entries, one after another in 5 s.
func nodeLog(t *testing.T, dir, scenario string, free, needs uint64, others func(at float64) uint64) {
	t.Helper()
	const limit, rate = 262144, 200
	to := netip.MustParseAddrPort("10.96.7.1:8080")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	file, err := os.Create(filepath.Join(dir, runner.LogName))
	require.NoError(t, err)
	w := runlog.NewWriter(file)
	n := map[string]uint64{}
	write := func(r runlog.Record) {
		n[r.Host]++
		r.N = n[r.Host]
		require.NoError(t, w.Write(r))
	}
	write(runlog.Record{Host: "controller", Header: &runlog.Header{
		Format: runlog.Format, RunID: "r1", Started: "2026-01-01T00:00:00Z", Target: "kubernetes", Scenario: "five-seconds", ScenarioYAML: scenario,
		Limit: limit, Buckets: limit, EntryBytes: 256, Duration: 5, Nodes: []string{"a"}, SampleEvery: 0.1, CensusEvery: 1,
		Services: []runlog.ServiceInfo{{Name: "web", Addr: to, Protocol: "tcp", Backends: []runlog.BackendInfo{{Name: "web-1", Addr: to}}}},
		Traffic: []runlog.TrafficInfo{{
			Name: "clients", Shape: "short_lived", To: "web", End: 5, Timeout: 0.9, Close: "fin", EntriesPerAttempt: 1, Residence: 120, ResidueState: "TIME_WAIT", ExpectsAnswer: true,
		}},
	}})
	write(runlog.Record{Host: "a", T: -2, Event: &runlog.Event{Kind: "table", Name: "aged", Fields: map[string]string{"left": "0", "waited_s": "122"}}})
	base := limit - free // others' at the start, and ballast
	var drop, ours uint64
	for i := -5; i <= 50; i++ {
		at := float64(i) / 10
		grown := others(at) - others(-0.5)
		if i > 0 {
			b := &runlog.Bin{Traffic: "clients", Start: at - 0.1, Width: 0.1, Due: rate / 10, Started: rate / 10, Outcomes: map[runlog.Outcome]uint64{}}
			before := drop
			for range rate / 10 * needs / 1000 {
				if base+grown+ours < limit {
					ours++
				} else {
					drop++
				}
			}
			lost := min(drop-before, b.Due)
			b.Outcomes[runlog.OK], b.Outcomes[runlog.ConnectTimeout] = b.Due-lost, lost
			write(runlog.Record{Host: "client", T: at, Bin: b})
		}
		write(runlog.Record{Host: "a", T: at, Sample: &runlog.Sample{
			Conntrack: &runlog.Conntrack{Entries: base + grown + ours, Limit: limit, Counters: map[string]uint64{"drop": drop, "early_drop": 0, "insert_failed": 0}},
			CPU:       &runlog.CPU{Idle: 10 + at, User: 10 + at},
		}})
		if i%10 == -5 || i%10 == 5 {
			write(runlog.Record{Host: "a", T: at, Census: &runlog.Census{Entries: others(at) + ours, WithoutBallast: true, Groups: []runlog.CensusGroup{
				{Proto: "tcp", State: "TIME_WAIT", Service: to, Backend: to, Count: ours},
			}}})
		}
	}
	write(runlog.Record{Host: "controller", T: 6, Trailer: &runlog.Trailer{Outcome: "completed", Restored: true}})
	require.NoError(t, w.Flush())
	require.NoError(t, file.Close())
}

// A run on a cluster is verified there: with what it needs, and what others' may
// come to, and with a tenth less; again where others came to more.
func TestVerifyInCluster(t *testing.T) {
	few := func(at float64) uint64 { return 40 + uint64(at+1)%2 } // 40 and 41
	of := filepath.Join(t.TempDir(), "run")
	nodeLog(t, of, fiveSeconds, 20000, 1000, few)
	f, err := analyzeDir(of)
	require.NoError(t, err)

	_, _, err = toVerify(f, "lab")
	require.ErrorContains(t, err, "give --target kubernetes", "not without the user's leave")
	sc, wanted, err := toVerify(f, "kubernetes")
	require.NoError(t, err)
	assert.Equal(t, []report.Wanted{{Need: 1000, Free: 1011, Holds: true}, {Need: 1000, Free: 911}}, wanted)

	for name, c := range map[string]struct {
		needs   uint64 // in truth
		others  func(try int) func(at float64) uint64
		verdict report.Verdict
		runs    int
	}{
		"as computed": {1000, func(int) func(float64) uint64 { return few }, report.Pass, 2},
		"needs more":  {1200, func(int) func(float64) uint64 { return few }, report.Fail, 2},
		"needs less":  {800, func(int) func(float64) uint64 { return few }, report.Fail, 2},
		"others in the way once": {1000, func(try int) func(float64) uint64 {
			if try == 1 {
				return func(at float64) uint64 { return 40 + uint64(20*(at+1)) }
			}
			return few
		}, report.Pass, 3},
		"others in the way always": {1000, func(int) func(float64) uint64 {
			return func(at float64) uint64 { return 40 + uint64(50*(at+1)) }
		}, report.Inconclusive, 6},
	} {
		t.Run(name, func(t *testing.T) {
			tries := 0
			v, err := verify(t.Context(), sc, wanted, filepath.Join(t.TempDir(), "verify"), func(_ context.Context, sc *scenarios.Scenario, dir string) (*report.Findings, error) {
				tries++
				nodeLog(t, dir, fiveSeconds, uint64(*sc.Conntrack.Headroom), c.needs, c.others(tries)) //nolint:gosec // entries
				return analyzeDir(dir)
			})
			require.NoError(t, err)
			assert.Equal(t, c.verdict, v.Verdict, "%s: %+v", v.Reason, v.Trials)
			assert.Equal(t, c.runs, tries)
		})
	}
}

// What is refused before anything is asked of a cluster.
func TestVerifyInClusterIsRefused(t *testing.T) {
	of := filepath.Join(t.TempDir(), "run")
	nodeLog(t, of, fiveSeconds, 20000, 1000, func(float64) uint64 { return 40 })
	size := func(args ...string) (int, string) {
		var out, errOut bytes.Buffer
		code := run(t.Context(), append([]string{"size"}, args...), Streams{Out: &out, Err: &errOut})
		return code, errOut.String()
	}
	code, said := size(of, "--verify")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, said, "give --target kubernetes")
	t.Setenv(imageVar, "")
	code, said = size(of, "--verify", "--target", "kubernetes")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, said, "--image")
	code, said = size(of, "--target", "kubernetes")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, said, "--verify")
	code, said = size(of, "--verify", "--target", "moon")
	assert.Equal(t, exitUsage, code)
	assert.Contains(t, said, "lab and kubernetes")

	for what, scenario := range map[string]string{
		"stay for hours": `{name: x, duration: 5s, services: [{name: web}], traffic: [{name: clients, to: web, short_lived: {rate: 200/s, close: half}}]}`,
		"changes what":   `{name: x, duration: 5s, conntrack: {headroom: 900}, services: [{name: web}], traffic: [{name: clients, to: web, short_lived: {rate: 200/s}}], actions: [{at: 1s, ballast: {headroom: 500}}]}`,
	} {
		dir := filepath.Join(t.TempDir(), "run")
		nodeLog(t, dir, scenario, 20000, 1000, func(float64) uint64 { return 40 })
		code, said = size(dir, "--verify", "--target", "kubernetes", "--image", "x")
		assert.Equal(t, exitUsage, code)
		assert.Contains(t, said, what)
	}
}

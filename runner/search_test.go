package runner

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/search"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

const searched = `
name: searched
conntrack: {headroom: 3000}
services: [{name: web}]
traffic: [{to: web, name: held, idle: {count: 10, open_rate: 1000/s, validate_every: 1s}}]
search: {knob: 'traffic[0].idle.count', min: 500, max: 8000, trial: 2s, duration_sum: 2s}
`

func searchPlan(t *testing.T, src string, sets ...string) *Plan {
	t.Helper()
	s, err := scenarios.Parse("searched.yaml", []byte(src), sets...)
	require.NoError(t, err)
	p, err := NewPlan(s, env.Capabilities{Limit: 262144, Timeouts: map[string]float64{"tcp_timeout_time_wait": 120, "udp_timeout": 30}})
	require.NoError(t, err)
	return p
}

func readTrials(t *testing.T, dir string) (h *runlog.Header, list []runlog.Trial, end *runlog.Trailer) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, LogName))
	require.NoError(t, err)
	defer f.Close()
	r := runlog.NewReader(f)
	require.NoError(t, r.Each(func(r *runlog.Record) {
		switch {
		case r.Header != nil:
			h = r.Header
		case r.Trial != nil:
			list = append(list, *r.Trial)
		case r.Trailer != nil:
			end = r.Trailer
		}
	}))
	assert.Empty(t, r.Problems())
	return h, list, end
}

// Each trial gets its own scenario and directory, and the log has them all.
func TestSearch(t *testing.T) {
	p := searchPlan(t, searched)
	dir := t.TempDir()
	seeds := map[uint64]bool{}
	err := Search(t.Context(), SearchConfig{Plan: p, Dir: dir, Try: func(_ context.Context, s *scenarios.Scenario, at string) (runlog.Trial, error) {
		info, err := os.Stat(at)
		require.NoError(t, err)
		assert.True(t, info.IsDir())
		assert.Nil(t, s.Search)
		assert.False(t, seeds[s.Seed], "a seed of its own")
		seeds[s.Seed] = true
		n := s.Traffic[0].Idle.Count
		out := runlog.Trial{Due: uint64(n), Traffic: "held"} //nolint:gosec // a count
		if s.Conntrack.Headroom != nil && n > 3000 {
			out.Lost = uint64(n - 3000)
			out.Loss = float64(n-3000) / float64(n)
		}
		return out, nil
	}})
	require.NoError(t, err)
	h, list, end := readTrials(t, dir)
	require.NotNil(t, h)
	require.NotNil(t, h.Search)
	assert.InDelta(t, 3000, h.Search.Predicted, 0, "headroom, one entry each")
	assert.True(t, h.Search.Control)
	require.NotEmpty(t, list)
	assert.Equal(t, "trials/001", list[0].Dir)
	assert.Equal(t, search.Warmup, list[0].Kind)
	assert.Equal(t, search.Control, list[len(list)-1].Kind, "and that one has the whole table")
	got := search.Conclude(h.Search.Config, plainTrials(list))
	assert.Equal(t, search.Bounded, got.Results[0].End)
	assert.InDelta(t, 3000, got.Results[0].Lower, 0)
	assert.Equal(t, search.ControlHeld, got.Control)
	require.NotNil(t, end)
	assert.Equal(t, "completed", end.Outcome)
	assert.True(t, end.Restored)

	err = Search(t.Context(), SearchConfig{Plan: p, Dir: dir})
	assert.ErrorIs(t, err, os.ErrExist, "another search's log is not written over")
}

// A control arm whose table is full all the same, as on a cluster's node with
// others' entries, says nothing of the generator. A trial that is full is what
// is looked for.
func TestSearchWithAFullControlArm(t *testing.T) {
	dir := t.TempDir()
	err := Search(t.Context(), SearchConfig{Plan: searchPlan(t, searched), Dir: dir, Try: func(_ context.Context, s *scenarios.Scenario, _ string) (runlog.Trial, error) {
		n := s.Traffic[0].Idle.Count
		out := runlog.Trial{Due: uint64(n), Traffic: "held"} //nolint:gosec // a count
		if n > 3000 {
			out.Lost, out.Loss = uint64(n-3000), float64(n-3000)/float64(n)
			out.Causes = map[string]uint64{"table_full": out.Lost}
		}
		return out, nil
	}})
	require.NoError(t, err)
	h, list, _ := readTrials(t, dir)
	for _, tr := range list {
		assert.Equal(t, tr.Kind == search.Control, tr.Inconclusive, "%s at %g: %v", tr.Kind, tr.Load, tr.Why)
	}
	got := search.Conclude(h.Search.Config, plainTrials(list))
	assert.Equal(t, search.Bounded, got.Results[0].End)
	assert.Equal(t, search.ControlOpen, got.Control)
}

// How a search ends that cannot go on is in its log.
func TestSearchEnds(t *testing.T) {
	for _, c := range []struct {
		name     string
		err      error
		cancel   bool
		outcome  string
		restored bool
		fails    bool
	}{
		{"the tool fails", errors.New("no veth"), false, "failed", true, true},
		{"something is left", &Dirty{Err: errors.New("a namespace")}, false, "failed", false, true},
		{"interrupted", nil, true, "interrupted", true, false},
		{"interrupted in a run", context.Canceled, true, "interrupted", true, false},
		{"interrupted, and something is left", &Dirty{Err: errors.New("a namespace")}, true, "interrupted", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			n := 0
			err := Search(ctx, SearchConfig{Plan: searchPlan(t, searched), Dir: dir, Try: func(context.Context, *scenarios.Scenario, string) (runlog.Trial, error) {
				if n++; n < 3 {
					return runlog.Trial{}, nil
				}
				if c.cancel {
					cancel()
				}
				return runlog.Trial{}, c.err
			}})
			if c.fails {
				require.ErrorIs(t, err, c.err)
			} else {
				require.NoError(t, err)
			}
			_, list, end := readTrials(t, dir)
			assert.Len(t, list, 2, "a trial that was cut short is none")
			require.NotNil(t, end)
			assert.Equal(t, c.outcome, end.Outcome)
			assert.Equal(t, c.restored, end.Restored)
		})
	}
}

// Where a search begins, and whether it has a control arm.
func TestSearchPredicts(t *testing.T) {
	rate := `
name: searched
conntrack: {headroom: 3000}
services: [{name: web}]
traffic: [{to: web, name: clients, short_lived: {rate: 10/s}}]
search: {knob: 'traffic[0].short_lived.rate', min: 100/s, max: 8000/s, trial: 2s}
`
	for _, c := range []struct {
		name      string
		src       string
		sets      []string
		predicted float64
		noControl string
	}{
		{"held connections", searched, nil, 3000, ""},
		{"a rate for the length of a trial", rate, nil, 1500, ""},
		{"entries that a trial outlives", rate, []string{"search.trial=240s", "search.max=1000/s", "search.min=1/s"}, 25, ""},
		{"the whole range fits", searched, []string{"search.max=2000"}, 0, ""},
		{"not even the minimum", searched, []string{"search.min=4000"}, 4000, ""},
		{"no headroom", searched, []string{"conntrack.headroom=null"}, 0, "whole table free"},
		{"the table is too small for an arm without it", rate, []string{"conntrack.headroom=262000"}, 131000, "whole table holds 262144"},
		{"connections are used again", rate, []string{"traffic[0].short_lived.source_ports={fixed: 5000}"}, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.predicted > 100000 {
				c.sets = append(c.sets, "search.max=200000/s")
			}
			got, err := searchPlan(t, c.src, c.sets...).Search()
			require.NoError(t, err)
			if c.predicted == 0 {
				assert.Zero(t, got.Predicted)
			} else {
				assert.InEpsilon(t, c.predicted, got.Predicted, 0.002)
			}
			assert.Equal(t, c.noControl == "", got.Control)
			assert.Contains(t, got.NoControl, c.noControl)
		})
	}
}

// The control arm of a tear-down goes past what a node does to packets; where
// it cannot, that is said.
func TestTearDownControl(t *testing.T) {
	const src = `
name: searched
services: [{name: web}]
traffic: [{to: web, name: held, idle: {count: 1000, open_rate: 1000/s, validate_every: 500ms, close_rate: 100/s}}]
search: {knob: 'traffic[0].idle.close_rate', min: 100/s, max: 8000/s, trial: 2s, duration_sum: 2s}
`
	p := searchPlan(t, src)
	got, err := p.Search()
	require.NoError(t, err)
	assert.True(t, got.Control, "%s", got.NoControl)
	assert.Zero(t, got.Predicted, "closing takes no room")
	var controls int
	dir := t.TempDir()
	err = Search(t.Context(), SearchConfig{Plan: p, Dir: dir, Try: func(_ context.Context, s *scenarios.Scenario, _ string) (runlog.Trial, error) {
		rate := float64(s.Traffic[0].Idle.CloseRate)
		out := runlog.Trial{Due: 1000, Traffic: "held"}
		if !s.Tracked("web") {
			controls++
		} else if rate > 1234 {
			out.Lost, out.Loss = 10, 0.01
		}
		return out, nil
	}})
	require.NoError(t, err)
	_, list, _ := readTrials(t, dir)
	end := search.Conclude(got.Config, plainTrials(list))
	assert.Equal(t, search.Bounded, end.Results[0].End)
	assert.InEpsilon(t, 1234, end.Results[0].Lower, 0.01)
	assert.InEpsilon(t, 1234, end.Results[0].Upper, 0.01)
	assert.Equal(t, search.ControlHeld, end.Control)
	assert.Positive(t, controls)

	got, err = searchPlan(t, src, "lab.proxy.mode=ipvs").Search()
	require.NoError(t, err)
	assert.False(t, got.Control)
	assert.Contains(t, got.NoControl, "cannot go past the nodes' tracking")
}

// The dry run of a search says which trials it would make, and how long it takes
// at worst.
func TestSearchInTheDryRun(t *testing.T) {
	var b strings.Builder
	require.NoError(t, searchPlan(t, searched).WriteText(&b))
	got := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"search concurrent_connections: traffic[0].idle.count from 500 to 8000 by arithmetic the table holds 3000: it begins there",
		"trials each 2.5 s to 10 s of traffic",
		"6, 30 s of traffic: 3000 (warm-up), 3000, 3120, 3059, 3029, 3029 (control arm)",
		"control arm the same traffic with the whole table free",
		"no trial begins after 600 s, so 610 s, and the building and taking down of the last lab",
	} {
		assert.Contains(t, got, want)
	}
	// A cluster's nodes outlive the trials, and are not the run's own.
	b.Reset()
	p := searchPlan(t, searched)
	p.Caps.Cluster, p.Caps.Timeouts["tcp_timeout_time_wait"] = true, 120
	require.NoError(t, p.WriteText(&b))
	assert.Contains(t, b.String(), "expire, up to 182 s")
	assert.NotContains(t, b.String(), "lab")
	assert.Contains(t, b.String(), "whoever else uses these nodes may be dropped")
	b.Reset()
	require.NoError(t, searchPlan(t, searched, "conntrack.headroom=null").WriteText(&b))
	assert.Contains(t, b.String(), "it begins at the lowest load")
	assert.Contains(t, b.String(), "none: the scenario leaves the whole table free")
}

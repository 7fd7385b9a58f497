package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/search"
)

// While a search goes on it says which trial comes next, what is known so far,
// and how much time is left.
func TestSearchProgress(t *testing.T) {
	what := &runlog.Search{Unit: "1/s", Config: search.Config{
		Goals: []search.Goal{{ExceedRatio: 0.5, DurationSum: 2, Width: 0.01}, {LossRatio: 0.001, ExceedRatio: 0.5, DurationSum: 2, Width: 0.01}},
		Min:   100, Max: 1000, Step: 0.1, Trial: 2, Retries: 3, Budget: 300,
	}}
	require.NoError(t, what.Validate())
	trial := func(n int, kind search.Kind, load, loss float64) runlog.Trial {
		return runlog.Trial{Number: n, Due: 1000, Lost: uint64(loss * 1000), Trial: search.Trial{Kind: kind, Load: load, Loss: loss, Duration: 2, Elapsed: float64(5 * n)}}
	}
	var out bytes.Buffer
	var told []string
	now := 0.0
	tell := searchProgress(&out, what, func() float64 { return now }, func(lines []string) { told = lines })

	tell(nil, search.Request{Kind: search.Warmup, Load: 100})
	assert.Equal(t, []string{"trial 1 at 100/s (warm-up)", "nothing is known yet (at most 0 % lost)", "nothing is known yet (at most 0.1 % lost)", "300s of 300s left"}, told)
	done := []runlog.Trial{trial(1, search.Warmup, 100, 0), trial(2, search.Measure, 100, 0), trial(3, search.Measure, 200, 0.5)}
	said := done[2]
	said.Number, said.Inconclusive, said.Why = 4, true, []string{"the generator could not keep up"}
	done, now = append(done, said), 20.4
	out.Reset()
	tell(done, search.Request{Kind: search.Control, Load: 150.55})
	assert.Equal(t, `tablefull:     5s trial 1: lost 0 of 1000
tablefull:    10s trial 2: lost 0 of 1000
tablefull:    15s trial 3: lost 500 of 1000
tablefull:    15s trial 4: says nothing: the generator could not keep up
tablefull: trial 5 at 150.55/s (control arm); 100/s holds, 200/s does not (at most 0 % lost); 100/s holds, 200/s does not (at most 0.1 % lost); 280s of 300s left
`, out.String())
	out.Reset()
	tell(done, search.Request{Kind: search.Measure, Load: 150})
	assert.NotContains(t, out.String(), "lost 0 of 1000", "each is told once")
}

package lab

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRolloutStep(t *testing.T) {
	for name, c := range map[string]struct {
		in          rollout
		create, del int
	}{
		"surge one":                {rollout{want: 3, maxSurge: 1, oldReady: 3}, 1, 0},
		"new one ready":            {rollout{want: 3, maxSurge: 1, oldReady: 3, newReady: 1}, 0, 1},
		"new one starting":         {rollout{want: 3, maxSurge: 1, oldReady: 3, newStarting: 1}, 0, 0},
		"unavailable one":          {rollout{want: 3, maxUnavailable: 1, oldReady: 3}, 0, 1},
		"unavailable one, gone":    {rollout{want: 3, maxUnavailable: 1, oldReady: 2}, 1, 0},
		"all at once":              {rollout{want: 3, maxSurge: 3, maxUnavailable: 3, oldReady: 3}, 3, 3},
		"old that never was ready": {rollout{want: 2, maxSurge: 1, oldReady: 1, oldStarting: 1}, 1, 0},
		"the last":                 {rollout{want: 2, maxSurge: 1, oldReady: 1, newReady: 2}, 0, 1},
		"nothing left":             {rollout{want: 2, maxSurge: 1, newReady: 2}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			create, del := c.in.step()
			assert.Equal(t, c.create, create, "create")
			assert.Equal(t, c.del, del, "delete")
		})
	}
}

// Whatever the order in which pods become ready, a rollout ends, and never
// leaves the bounds it was given.
func TestRolloutKeepsItsBounds(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := rollout{want: 1 + r.IntN(6), maxSurge: r.IntN(4), maxUnavailable: r.IntN(4)}
		if s.maxSurge == 0 && s.maxUnavailable == 0 {
			s.maxSurge = 1
		}
		s.maxUnavailable = min(s.maxUnavailable, s.want)
		s.oldReady = s.want
		for steps := 0; !s.done(); steps++ {
			require.Less(t, steps, 200, "%+v does not end", s)
			create, del := s.step()
			s.newStarting += create
			unready := min(del, s.oldStarting)
			s.oldStarting -= unready
			s.oldReady -= del - unready
			require.LessOrEqual(t, s.oldReady+s.oldStarting+s.newReady+s.newStarting, s.want+s.maxSurge, "%+v", s)
			require.GreaterOrEqual(t, s.oldReady+s.newReady, s.want-s.maxUnavailable, "%+v", s)
			require.GreaterOrEqual(t, s.oldReady, 0)
			if s.newStarting > 0 && (create+del == 0 || r.IntN(2) == 0) {
				n := 1 + r.IntN(s.newStarting)
				s.newStarting, s.newReady = s.newStarting-n, s.newReady+n
			}
		}
	}
}

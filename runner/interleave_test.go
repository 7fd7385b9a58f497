package runner

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestInterleave(t *testing.T) {
	plan := Interleave(3, 40, 7)
	assert.Len(t, plan, 120)
	assert.Equal(t, plan, Interleave(3, 40, 7))
	assert.NotEqual(t, plan, Interleave(3, 40, 8))
	first := map[int]int{}
	seeds := map[uint64]bool{}
	for i := 0; i < len(plan); i += 3 {
		round := plan[i : i+3]
		seen := map[int]bool{}
		for _, turn := range round {
			seen[turn.Arm] = true
			assert.Equal(t, i/3+1, turn.Trial)
			assert.Equal(t, round[0].Seed, turn.Seed, "the arms of a trial have the same traffic")
			assert.NotZero(t, turn.Seed)
			assert.LessOrEqual(t, turn.Seed, uint64(1<<53))
		}
		assert.Len(t, seen, 3, "each arm once in a round")
		first[round[0].Arm]++
		seeds[round[0].Seed] = true
	}
	assert.Len(t, seeds, 40)
	for arm := range 3 {
		assert.Greater(t, first[arm], 5, "no arm is always late")
	}
}

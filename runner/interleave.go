package runner

import "math/rand/v2"

// A Turn is one run of an experiment.
type Turn struct {
	Arm   int // which, from 0
	Trial int // from 1
	// Seed is that of the run's own random choices, at least 1 and at most
	// 2^53. It is the trial's: all arms have the same, and so the same traffic.
	Seed uint64
}

// Interleave plans trials of each arm: round by round, in each of which every
// arm has its turn once, in a random order. What drifts meanwhile, such as the
// machine's load, then hits all arms alike. The same seed gives the same plan.
func Interleave(arms, trials int, seed uint64) []Turn {
	random := rand.New(rand.NewPCG(seed, 0x61726d73)) //nolint:gosec // an order, not a secret
	var out []Turn
	for trial := 1; trial <= trials; trial++ {
		own := random.Uint64()>>12 + 1
		for _, arm := range random.Perm(arms) {
			out = append(out, Turn{Arm: arm, Trial: trial, Seed: own})
		}
	}
	return out
}

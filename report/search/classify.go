package search

import (
	"math"
	"slices"
)

// Class is what the trials at a load show about a goal.
type Class string

const (
	Undecided  Class = "undecided"
	LowerBound Class = "lower" // the load holds
	UpperBound Class = "upper" // it does not
)

// slack is what sums of durations may be off by, s: they are sums of decimal
// fractions.
const slack = 1e-9

// Classify says what trials at one load show about a goal whose full trials
// last full s. Inconclusive trials must have been left out.
//
// G and B are the summed time of good and bad full trials, g and b that of
// shorter ones. Short bad trials count only beyond what short good ones
// offset, B' = B + max(0, b - g e/(1-e)), and W = max(D, G + B') is the time
// that will have been spent. The load holds if W - G, which is the bad time
// even if all that is missing turns out bad, is at most e W. It does not if B',
// the bad time even if all that is missing turns out good, is more than e W
// (draft-ietf-bmwg-mlrsearch, load classification). Both exclude each other,
// because W - G >= B'.
func Classify(goal Goal, full float64, trials []Trial) Class {
	good, bad, shortGood, shortBad := 0.0, 0.0, 0.0, 0.0
	for _, t := range trials {
		isBad := t.Loss > goal.LossRatio
		switch whole := t.Duration >= full-slack; {
		case whole && isBad:
			bad += t.Duration
		case whole:
			good += t.Duration
		case isBad:
			shortBad += t.Duration
		default:
			shortGood += t.Duration
		}
	}
	e := goal.ExceedRatio
	bad += max(0, shortBad-shortGood*e/(1-e))
	if good+bad == 0 {
		return Undecided // short good trials alone show nothing
	}
	whole := max(goal.DurationSum, good+bad)
	switch {
	case whole-good <= e*whole+slack:
		return LowerBound
	case bad > e*whole+slack:
		return UpperBound
	}
	return Undecided
}

// ConditionalThroughput is the load times the share of attempts that came
// through in the worst trial that still counts: with exceed ratio e, the best
// trials that fill (1-e) of the duration sum are taken, and the highest loss
// ratio among them. Time for which there is no trial counts as lost
// (draft-ietf-bmwg-mlrsearch, conditional throughput). Only full trials count.
func ConditionalThroughput(goal Goal, full, load float64, trials []Trial) float64 {
	whole := slices.DeleteFunc(slices.Clone(trials), func(t Trial) bool { return t.Duration < full-slack })
	slices.SortFunc(whole, func(a, b Trial) int {
		switch {
		case a.Loss < b.Loss:
			return -1
		case a.Loss > b.Loss:
			return 1
		}
		return 0
	})
	spent := 0.0
	for _, t := range whole {
		spent += t.Duration
	}
	left, quantile := (1-goal.ExceedRatio)*max(goal.DurationSum, spent), 0.0
	for _, t := range whole {
		if left <= slack {
			break
		}
		quantile = t.Loss
		left -= t.Duration
	}
	if left > slack {
		quantile = 1
	}
	return load * (1 - math.Min(1, quantile))
}

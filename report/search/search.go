package search

import (
	"errors"
	"fmt"
	"math"
)

// A Goal says what holding a load means.
type Goal struct {
	// LossRatio is the share of attempts, 0 to below 1, that a good trial may lose.
	LossRatio float64 `json:"loss_ratio"`
	// ExceedRatio is the share of the duration sum, 0 to below 1, that bad
	// trials may come to at a load that holds.
	ExceedRatio float64 `json:"exceed_ratio"`
	// DurationSum is how long trials at one load last together, in s, before
	// it is decided at the latest.
	DurationSum float64 `json:"duration_sum_s"`
	// Width is how far apart the bounds may be, as a share of the upper one.
	Width float64 `json:"width"`
}

// A Config is one search. The zero value of an optional field means none.
type Config struct {
	Goals []Goal  `json:"goals"` // strictest first
	Min   float64 `json:"min"`   // above 0
	Max   float64 `json:"max"`   // not below Min
	// Step is what loads are whole multiples of, but for Min and Max: 1 for
	// counts. Below 1 it is one over a whole number. At most Min.
	Step float64 `json:"step"`
	// First is where to begin; 0 is at Min.
	First float64 `json:"first"`
	// Trial is the length of a full trial, s. Shorter ones count for less.
	Trial float64 `json:"trial_s"`
	// Retries is how many trials in turn may be inconclusive at a load.
	Retries int `json:"retries"`
	// Budget is after how long, in s, no further trial begins; 0 is never.
	Budget float64 `json:"budget_s"`
	// Control says that there is a control arm.
	Control bool `json:"control"`
}

// Kind is what a trial is for.
type Kind string

const (
	Warmup  Kind = "warmup" // the first one; it counts for nothing
	Measure Kind = "search"
	Control Kind = "control" // what is measured is not the limit there
)

// A Request is the next trial to make.
type Request struct {
	Kind Kind
	Load float64
}

// A Trial is one trial that was made.
type Trial struct {
	Kind     Kind    `json:"kind"`
	Load     float64 `json:"load"`
	Duration float64 `json:"duration_s"` // as asked for; set-up and the like do not count
	Loss     float64 `json:"loss_ratio"` // 0 to 1
	// Inconclusive says that the trial says nothing about the system.
	Inconclusive bool `json:"inconclusive"`
	// Elapsed is when it ended, s since the search began, on whatever clock
	// the budget is counted.
	Elapsed float64 `json:"elapsed_s"`
}

// Validate reports what cannot be searched.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Min > 0 && c.Max >= c.Min && !math.IsInf(c.Max, 0), "loads from %g to %g are no range above 0", c.Min, c.Max)
	check(c.Step > 0 && c.Step <= c.Min, "step %g is not above 0 and at most the lowest load", c.Step)
	check(c.Trial > 0, "trials of %g s are none", c.Trial)
	check(c.Retries > 0, "%d retries are too few", c.Retries)
	check(len(c.Goals) > 0, "there is no goal")
	for i, g := range c.Goals {
		check(g.LossRatio >= 0 && g.LossRatio < 1, "goal %d: loss ratio %g is not 0 to below 1", i, g.LossRatio)
		check(g.ExceedRatio >= 0 && g.ExceedRatio < 1, "goal %d: exceed ratio %g is not 0 to below 1", i, g.ExceedRatio)
		check(g.DurationSum >= c.Trial, "goal %d: duration sum %g s is less than one trial", i, g.DurationSum)
		check(g.Width > 0 && g.Width < 1, "goal %d: width %g is not between 0 and 1", i, g.Width)
		check(i == 0 || g.LossRatio > c.Goals[i-1].LossRatio, "goal %d is not looser than the one before", i)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("check search: %w", err)
	}
	return nil
}

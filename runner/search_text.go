package runner

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/search"
	"github.com/tablefull/tablefull/scenarios"
)

// writeSearch prints the plan of a search for people: what is turned, which
// trials there would be if arithmetic were right, and how long it can take.
func (p *Plan) writeSearch(w io.Writer) error {
	what, err := p.Search()
	if err != nil {
		return err
	}
	load := func(v float64) string {
		text := strconv.FormatFloat(math.Round(v*1000)/1000, 'f', -1, 64)
		if what.Unit != "" {
			text += "/s"
		}
		return text
	}
	fmt.Fprintf(w, "search\t%s: %s from %s to %s\n", what.Measure, what.Knob, load(what.Min), load(what.Max))
	guess := "the table does not limit the range, or by how much is not known: it begins at the lowest load"
	if what.Predicted > 0 {
		guess = fmt.Sprintf("by arithmetic the table holds %s: it begins there", load(what.Predicted))
	}
	fmt.Fprintf(w, "\t%s\n", guess)
	for _, g := range what.Goals {
		fmt.Fprintf(w, "goal\tat most %g %% lost, bounds within %g %%; a load is decided by trials of %g s together\n", g.LossRatio*100, g.Width*100, g.DurationSum)
	}
	least, most, err := p.trialLengths(what)
	if err != nil {
		return err
	}
	place := "a lab that is built and taken down"
	if p.Caps.Cluster {
		place = "pods that are started and removed"
	}
	fmt.Fprintf(w, "trials\teach %g s to %g s of traffic, and %s\n", least, most, place)
	list, total, err := p.foreseen(what)
	if err != nil {
		return err
	}
	parts := make([]string, len(list))
	for i, r := range list {
		parts[i] = load(r.Load)
		switch r.Kind {
		case search.Warmup:
			parts[i] += " (warm-up)"
		case search.Control:
			parts[i] += " (control arm)"
		case search.Measure:
		}
	}
	fmt.Fprintf(w, "\tif that is right and none is disturbed, %d, %.0f s of traffic: %s\n", len(list), total, strings.Join(parts, ", "))
	if what.Control {
		fmt.Fprintf(w, "control arm\t%s, at the highest load that does not hold\n", scenarios.ControlArm(what.Measure))
	} else {
		fmt.Fprintf(w, "control arm\tnone: %s\n", what.NoControl)
	}
	last := "the building and taking down of the last lab"
	if p.Caps.Cluster {
		last = "what the last trial waits and takes to start its pods and remove them"
		wait := p.Ageing().Longest()
		fmt.Fprintf(w, "ageing\teach trial waits for the entries of the one before to expire, up to %.0f s, which the budget includes\n", wait)
		if need := total + float64(len(list))*(wait-lazily); need > what.Budget {
			fmt.Fprintf(w, "doubt\tthese trials would take %.0f s with that, and the budget is %g s\n", need, what.Budget)
		}
	}
	fmt.Fprintf(w, "at worst\tno trial begins after %g s, so %g s, and %s\n", what.Budget, what.Budget+most, last)
	return nil
}

// trialLengths are how long the traffic of the shortest and of the longest
// trial is due, s. Both are at an end of the range: the length rises with a
// count and falls with a rate of closing.
func (p *Plan) trialLengths(what *runlog.Search) (least, most float64, err error) {
	for i, load := range []float64{what.Min, what.Max} {
		d, err := p.trialLength(load)
		if err != nil {
			return 0, 0, err
		}
		if i == 0 {
			least, most = d, d
		}
		least, most = min(least, d), max(most, d)
	}
	return least, most, nil
}

func (p *Plan) trialLength(load float64) (float64, error) {
	s, err := p.Scenario.At(load)
	if err != nil {
		return 0, err
	}
	return s.Duration.Seconds(), nil
}

// foreseen are the trials of the search if the limit is where it is predicted,
// or beyond the range, and how long their traffic is due together, s.
func (p *Plan) foreseen(what *runlog.Search) (list []search.Request, total float64, err error) {
	c := what.Config
	c.Budget = 0
	var done []search.Trial
	for {
		next, more := search.Next(c, done)
		if !more {
			return list, total, nil
		}
		t := search.Trial{Kind: next.Kind, Load: next.Load, Duration: c.Trial}
		if next.Kind != search.Control && what.Predicted > 0 && next.Load > what.Predicted {
			t.Loss = (next.Load - what.Predicted) / next.Load
		}
		length, err := p.trialLength(next.Load)
		if err != nil {
			return nil, 0, err
		}
		list, done, total = append(list, next), append(done, t), total+length
	}
}

package runner

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/search"
	"github.com/tablefull/tablefull/scenarios"
)

// SearchConfig is one capacity search.
type SearchConfig struct {
	Plan *Plan // of the scenario with its search
	// Dir takes run.jsonl, the log of the search. It must exist and hold no
	// run yet. The runs go to directories of their own below it.
	Dir     string
	Target  string
	RunID   string
	Version string
	// Try makes one run, of the scenario s in the directory dir, and says what
	// it showed: all of the trial but what was asked for. An error ends the
	// search.
	Try func(ctx context.Context, s *scenarios.Scenario, dir string) (runlog.Trial, error)
	// Progress is told of what is about to be tried, with the trials so far.
	// Nil: nothing is.
	Progress func(done []runlog.Trial, next search.Request)
}

// TrialsDir is where the runs of a search are, in its directory.
const TrialsDir = "trials"

// Search makes trials until the search is over, and logs each. A search that
// finds nothing is no error: what it means is in the log. When ctx ends early
// the search is marked interrupted. It returns when everything of the last
// trial has been put back, as its run says.
func Search(ctx context.Context, c SearchConfig) error {
	what, err := c.Plan.Search()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(c.Dir, LogName), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("create run log: %w", err)
	}
	l := searchLog{w: runlog.NewWriter(file), began: time.Now()}
	err = l.header(c, what)
	if err == nil {
		err = l.trailer(ctx, c.trials(ctx, what, &l))
	}
	return errors.Join(err, file.Close())
}

// trials makes them all.
func (c SearchConfig) trials(ctx context.Context, what *runlog.Search, l *searchLog) error {
	var done []runlog.Trial
	for {
		next, more := search.Next(what.Config, plainTrials(done))
		if !more || ctx.Err() != nil {
			return nil
		}
		if c.Progress != nil {
			c.Progress(done, next)
		}
		trial, err := c.try(ctx, what, len(done)+1, next)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil // its run was cut short
		}
		trial.Elapsed = time.Since(l.began).Seconds()
		done = append(done, trial)
		if err := l.write(runlog.Record{Trial: &trial}); err != nil {
			return err
		}
	}
}

func plainTrials(list []runlog.Trial) []search.Trial {
	out := make([]search.Trial, len(list))
	for i := range list {
		out[i] = list[i].Trial
	}
	return out
}

func (c SearchConfig) try(ctx context.Context, what *runlog.Search, number int, next search.Request) (runlog.Trial, error) {
	s, err := c.Plan.Scenario.At(next.Load)
	if err != nil {
		return runlog.Trial{}, fmt.Errorf("make scenario of trial %d: %w", number, err)
	}
	if next.Kind == search.Control {
		if s, err = controlArm(s, what.Measure); err != nil {
			return runlog.Trial{}, fmt.Errorf("make scenario of trial %d: %w", number, err)
		}
	}
	// A seed of its own for each, that follows from the search's.
	s.Seed = (c.Plan.Seed+uint64(number)*0x9e3779b9)>>11 | 1
	rel := filepath.Join(TrialsDir, fmt.Sprintf("%03d", number))
	dir := filepath.Join(c.Dir, rel)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return runlog.Trial{}, fmt.Errorf("make directory of trial %d: %w", number, err)
	}
	trial, err := c.Try(ctx, s, dir)
	if err != nil {
		return runlog.Trial{}, fmt.Errorf("make trial %d: %w", number, err)
	}
	trial.Number, trial.Dir, trial.Kind, trial.Load, trial.Duration = number, filepath.ToSlash(rel), next.Kind, next.Load, what.Trial
	if n := trial.Causes["table_full"]; n > 0 && next.Kind == search.Control {
		// On a cluster's node, of others' entries.
		trial.Why = append(trial.Why, fmt.Sprintf("%d attempts failed because the table was full, which the control arm is to have room in: others' entries were too many", n))
	}
	trial.Inconclusive = len(trial.Why) > 0
	return trial, nil
}

// controlArm is the scenario of a trial of the control arm: the same traffic,
// and the whole table of the machine. What limits a tear-down is not how full
// the table is, but what a node does to each packet, so there it is the same
// traffic without that: neither tracked nor translated.
func controlArm(s *scenarios.Scenario, measure string) (*scenarios.Scenario, error) {
	if measure == scenarios.TeardownRate {
		return s.Untracked()
	}
	s.Conntrack.Headroom, s.Conntrack.Max = nil, nil
	return s, nil
}

// Search is what the plan's search looks for on this machine.
func (p *Plan) Search() (*runlog.Search, error) {
	r, err := p.Scenario.Range()
	if err != nil {
		return nil, err
	}
	s := p.Scenario.Search
	out := &runlog.Search{
		Measure: s.Measure, Knob: s.Knob, Unit: r.Unit(),
		Config: search.Config{
			Min: r.Min, Max: r.Max, Step: r.Step(), Trial: s.Trial.Seconds(), Retries: s.Retries, Budget: s.Budget.Seconds(),
		},
	}
	for _, g := range r.Goals {
		out.Goals = append(out.Goals, search.Goal{LossRatio: g, ExceedRatio: r.Exceed, DurationSum: s.DurationSum.Seconds(), Width: r.Width})
	}
	if out.Predicted, err = p.predictLoad(out.Config); err != nil {
		return nil, err
	}
	if r.Unit() == "" {
		out.Predicted = math.Floor(out.Predicted)
	}
	out.First = out.Predicted
	if out.NoControl, err = p.noControl(out.Config); err != nil {
		return nil, err
	}
	out.Control = out.NoControl == ""
	if err := out.Validate(); err != nil {
		return nil, err
	}
	return out, nil
}

// at is the plan of one trial, or of its control arm.
func (p *Plan) at(load float64, control bool) (*Plan, error) {
	s, err := p.Scenario.At(load)
	if err != nil {
		return nil, err
	}
	if control {
		if s, err = controlArm(s, p.Scenario.Search.Measure); err != nil {
			return nil, err
		}
	}
	return NewPlan(s, p.Caps)
}

// predictLoad is the highest load whose attempts find room in the table, by
// Little's law: arrivals times residence. It is 0 where that is not known, or
// where the whole range finds room, so that the table is not what ends it.
func (p *Plan) predictLoad(c search.Config) (float64, error) {
	fits := func(load float64) (ok, known bool, err error) {
		q, err := p.at(load, false)
		if err != nil {
			return false, false, err
		}
		f := q.fill()
		return !f.full, len(f.unknown) == 0, nil
	}
	top, known, err := fits(c.Max)
	if err != nil || !known || top {
		return 0, err
	}
	low, high := c.Min, c.Max
	if ok, _, err := fits(low); err != nil || !ok {
		return low, err
	}
	for high-low > max(c.Step, low*1e-4) {
		mid := (low + high) / 2
		ok, _, err := fits(mid)
		if err != nil {
			return 0, err
		}
		if ok {
			low = mid
		} else {
			high = mid
		}
	}
	return low, nil
}

// controlRoom is the share of the whole table that the traffic of a control
// arm may fill, so that it is certainly not the limit.
const controlRoom = 0.9

// noControl is why there can be no control arm; empty where there can.
func (p *Plan) noControl(what search.Config) (string, error) {
	most := what.Max
	if what.First > 0 {
		most = min(most, 2*what.First) // what does not hold is near what is predicted, if the table is the limit
	}
	if p.Scenario.Search.Measure == scenarios.TeardownRate {
		if _, err := p.at(what.Min, true); err != nil {
			return fmt.Sprintf("its traffic cannot go past the nodes' tracking: %v", err), nil //nolint:nilerr // that is the answer
		}
		return "", nil
	}
	c := p.Scenario.Conntrack
	if c.Headroom == nil && (c.Max == nil || uint64(*c.Max) >= p.Caps.Limit) {
		return "the scenario leaves the whole table free, so that there is no arm with more room", nil
	}
	q, err := p.at(most, true)
	if err != nil {
		return "", err
	}
	if f := q.fill(); f.peak > controlRoom*float64(q.Limit()) {
		return fmt.Sprintf("at %g the traffic needs %.0f entries, and the whole table holds %d", most, f.peak, q.Limit()), nil
	}
	return "", nil
}

// searchLog writes the log of a search.
type searchLog struct {
	w     *runlog.Writer
	began time.Time
	n     uint64
}

// write adds a record and makes it durable: trials are few and dear.
func (l *searchLog) write(r runlog.Record) error {
	l.n++
	r.N, r.Host = l.n, controller
	if r.Header == nil {
		r.T = time.Since(l.began).Seconds()
	}
	if err := l.w.Write(r); err != nil {
		return err
	}
	return l.w.Flush()
}

func (l *searchLog) header(c SearchConfig, what *runlog.Search) error {
	h := c.Plan.header(c.Target, c.Version, c.RunID)
	h.Started = l.began.UTC().Format(time.RFC3339Nano)
	h.Search, h.Duration, h.Traffic, h.Services = what, what.Trial, []runlog.TrafficInfo{}, []runlog.ServiceInfo{}
	return l.write(runlog.Record{Header: h})
}

// trailer ends the log. Err is how the search ended; what is not told by the
// log comes back.
func (l *searchLog) trailer(ctx context.Context, err error) error {
	t := &runlog.Trailer{
		Ended: time.Now().UTC().Format(time.RFC3339Nano), Outcome: "completed", Restored: true,
		Records: map[string]uint64{},
	}
	var dirty *Dirty
	if errors.As(err, &dirty) {
		t.Restored, t.UndoErrors = false, []string{dirty.Error()}
	}
	switch {
	case ctx.Err() != nil:
		t.Outcome = "interrupted"
		if dirty == nil {
			err = nil
		}
	case err != nil:
		t.Outcome, t.Error = "failed", err.Error()
	}
	return errors.Join(err, l.write(runlog.Record{Trailer: t}))
}

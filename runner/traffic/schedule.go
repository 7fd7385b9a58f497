package traffic

import (
	"errors"
	"fmt"
	"math"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// A Schedule is the due times of one traffic's attempts, in order.
//
// It asks its pacer in virtual time: the time the pacer is told has elapsed is
// the last due time, not what a clock says. So due times depend on the pacer
// alone, and a generator that falls behind is late for them; it does not move
// them.
//
// The zero value has no attempts. A Schedule is not safe for concurrent use.
type Schedule struct {
	pacer   vegeta.Pacer
	start   float64       // s of run time
	length  time.Duration // no attempt is due this long after start, or later
	elapsed time.Duration // virtual time: of the last due time, since start
	next    uint64        // seq of the next attempt
	done    bool
}

// NewSchedule returns the attempts that p makes due in [start, end), in s of
// run time. A pacer that never waits (vegeta's zero Rate: as fast as possible)
// makes attempts due at start without end: the caller bounds them.
func NewSchedule(p vegeta.Pacer, start, end float64) *Schedule {
	return &Schedule{pacer: p, start: start, length: seconds(end - start)}
}

// Next returns the next attempt's due time in s of run time and its number,
// from 0 on. ok is false when there are no more, and stays so.
//
// Attempt k is due when the rate's integral from the start has reached k+1, as
// vegeta counts: with a constant rate r, attempt k is due (k+1)/r after the
// start. The end is exclusive, so a rate of 10/s over 2 s has 19 attempts,
// due at 0.1 s to 1.9 s.
func (s *Schedule) Next() (due float64, seq uint64, ok bool) {
	if s.done || s.pacer == nil {
		return 0, 0, false
	}
	wait, stop := s.pacer.Pace(s.elapsed, s.next)
	if stop || wait >= s.length-s.elapsed {
		s.done = true
		return 0, 0, false
	}
	s.elapsed += max(wait, 0)
	seq = s.next
	s.next++
	return s.start + s.elapsed.Seconds(), seq, true
}

// PacerOf returns the pacer of a resolved pacing over d: a StagesPacer for
// rates, ramps and stages, a SinePacer for a sine.
//
// Of vegeta it uses the interface, so that each pacer also drives a
// vegeta.Attacker, but none of the pacers. ConstantPacer divides the time unit
// by the frequency in whole nanoseconds, which makes 700 000/s into 700 280/s;
// LinearPacer takes a start of 0/s for infinitely fast and works out each wait
// from the rate at its start only; SinePacer gives up after five iterations,
// at low rates up to 1 % of an interval off. And all take whole hits only.
//
// A pacing that has no kind, more than one, or a rate that is negative or not
// a number is an error.
func PacerOf(p scenarios.Pacing, d time.Duration) (vegeta.Pacer, error) {
	kinds := 0
	for _, set := range []bool{p.Rate != 0, p.Ramp != nil, p.Sine != nil, len(p.Stages) > 0} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		return nil, fmt.Errorf("make pacer: need exactly one of rate (above 0/s), ramp, sine and stages, have %d", kinds)
	}
	switch {
	case p.Ramp != nil:
		return NewStagesPacer([]scenarios.Stage{{From: &p.Ramp.From, To: p.Ramp.To, For: scenarios.Duration(d)}})
	case p.Sine != nil:
		return NewSinePacer(*p.Sine)
	case len(p.Stages) > 0:
		return NewStagesPacer(p.Stages)
	default:
		return NewStagesPacer([]scenarios.Stage{{To: p.Rate, For: scenarios.Duration(d)}})
	}
}

// pacerOf is the pacer of a job's part of the attempts.
func pacerOf(l env.LoadJob, p scenarios.Pacing) (vegeta.Pacer, error) {
	all, err := PacerOf(p, seconds(l.End-l.Start))
	if err != nil || l.Part.Of <= 1 {
		return all, err
	}
	return partPacer{all, uint64(l.Part.Index), uint64(l.Part.Of)}, nil
}

// partPacer paces every of-th hit of a pacer, from hit number index on: so that
// of such pacers together make each of its hits once, when it is due.
type partPacer struct {
	all       vegeta.Pacer
	index, of uint64
}

// Pace implements vegeta.Pacer.
func (p partPacer) Pace(elapsed time.Duration, hits uint64) (time.Duration, bool) {
	return p.all.Pace(elapsed, hits*p.of+p.index)
}

// Rate implements vegeta.Pacer.
func (p partPacer) Rate(elapsed time.Duration) float64 { return p.all.Rate(elapsed) / float64(p.of) }

// StagesPacer paces along a rate that is linear within each stage, and stays
// at the last stage's end rate after it. Rates may be 0 and may jump between
// stages. It implements vegeta.Pacer.
//
// The number of hits due by time t is the integral of the rate. In a stage of
// length L that begins at time T with rate a and ends with rate b, and before
// which H hits were due, it is, with u = t - T and s = (b-a)/L,
//
//	h(u) = H + a u + s u²/2
//
// so hit number n (counted from 1) is due where h(u) = n. The solution of that
// quadratic which lies in the stage is
//
//	u = (-a + sqrt(a² + 2 s (n-H))) / s = 2 (n-H) / (a + sqrt(a² + 2 s (n-H)))
//
// of which the second form is used: it also holds for s = 0, and does not
// subtract nearly equal numbers. Each due time is solved for by itself, so
// errors do not add up however long the run is.
type StagesPacer struct {
	stages []stage
	tail   stage // its length is unlimited
}

type stage struct {
	begin  float64 // s since the pacer's start
	length float64 // s
	before float64 // hits due before it
	hits   float64 // hits due in it
	from   float64 // 1/s
	slope  float64 // 1/s²
}

var _ vegeta.Pacer = (*StagesPacer)(nil)

// NewStagesPacer returns a pacer over stages whose rates are 0/s or more.
func NewStagesPacer(stages []scenarios.Stage) (*StagesPacer, error) {
	if len(stages) == 0 {
		return nil, errors.New("make stages pacer: no stages")
	}
	p := &StagesPacer{}
	var begin, before float64
	last := float64(stages[0].To)
	for i, s := range stages {
		from, to, length := last, float64(s.To), s.For.Seconds()
		if s.From != nil {
			from = float64(*s.From)
		}
		if err := errors.Join(checkRate("from", scenarios.Rate(from)), checkRate("to", s.To)); err != nil {
			return nil, fmt.Errorf("make stages pacer: stage %d: %w", i, err)
		}
		last = to
		if length <= 0 {
			continue // a jump
		}
		st := stage{begin: begin, length: length, before: before, hits: (from + to) / 2 * length, from: from, slope: (to - from) / length}
		p.stages = append(p.stages, st)
		begin += length
		before += st.hits
	}
	p.tail = stage{begin: begin, length: math.Inf(1), before: before, hits: math.Inf(1), from: last}
	return p, nil
}

// Pace implements vegeta.Pacer: it waits until hit number hits+1 is due, not
// at all where that is in the past, and stops where no further hit ever is.
func (p *StagesPacer) Pace(elapsed time.Duration, hits uint64) (time.Duration, bool) {
	due := p.due(float64(hits) + 1)
	if due > math.MaxInt64/1e9-1 {
		return 0, true
	}
	return max(0, seconds(due)-elapsed), false
}

// Rate implements vegeta.Pacer.
func (p *StagesPacer) Rate(elapsed time.Duration) float64 {
	t := elapsed.Seconds()
	for _, s := range p.stages {
		if t < s.begin+s.length {
			return s.from + s.slope*(t-s.begin)
		}
	}
	return p.tail.from
}

// due returns when hit number n, from 1, is due, in s since the start; +Inf
// is never.
func (p *StagesPacer) due(n float64) float64 {
	for _, s := range p.stages {
		// A hit that is due at a stage's very end belongs to it, even where
		// rounding has put it a little after: the next stage's rate may be 0.
		if x := n - s.before; s.hits > 0 && x <= s.hits+1e-6+1e-14*n {
			root := math.Sqrt(math.Max(0, s.from*s.from+2*s.slope*x))
			return s.begin + math.Min(s.length, 2*x/(s.from+root))
		}
	}
	if p.tail.from == 0 {
		return math.Inf(1)
	}
	return p.tail.begin + (n-p.tail.before)/p.tail.from
}

// SinePacer paces along the rate M + A sin(w t), with w = 2 pi / period. It
// implements vegeta.Pacer.
//
// The number of hits due by time t is the integral of the rate,
//
//	h(t) = M t + A/w (1 - cos(w t))
//
// which cannot be solved for t in closed form. But the second term lies
// between 0 and 2A/w, so hit number n is due between (n - 2A/w)/M and n/M, and
// as A < M, h rises everywhere: Newton's method finds the place, and where one
// of its steps would leave the interval, halving the interval does.
type SinePacer struct {
	mean, amplitude float64 // 1/s
	omega           float64 // rad/s
}

var _ vegeta.Pacer = SinePacer{}

// NewSinePacer returns a pacer for s, whose amplitude is less than its mean.
func NewSinePacer(s scenarios.Sine) (SinePacer, error) {
	if s.Period <= 0 {
		return SinePacer{}, fmt.Errorf("make sine pacer: period %v must be above 0s", s.Period)
	}
	if err := errors.Join(checkRate("mean", s.Mean), checkRate("amplitude", s.Amplitude)); err != nil {
		return SinePacer{}, fmt.Errorf("make sine pacer: %w", err)
	}
	if s.Amplitude >= s.Mean {
		return SinePacer{}, fmt.Errorf("make sine pacer: amplitude %v must be less than mean %v", s.Amplitude, s.Mean)
	}
	return SinePacer{mean: float64(s.Mean), amplitude: float64(s.Amplitude), omega: 2 * math.Pi / s.Period.Seconds()}, nil
}

// Pace implements vegeta.Pacer as StagesPacer does.
func (p SinePacer) Pace(elapsed time.Duration, hits uint64) (time.Duration, bool) {
	due := p.due(float64(hits) + 1)
	if due > math.MaxInt64/1e9-1 {
		return 0, true
	}
	return max(0, seconds(due)-elapsed), false
}

// Rate implements vegeta.Pacer.
func (p SinePacer) Rate(elapsed time.Duration) float64 {
	return p.mean + p.amplitude*math.Sin(p.omega*elapsed.Seconds())
}

// due returns when hit number n, from 1, is due, in s since the start.
func (p SinePacer) due(n float64) float64 {
	swing := p.amplitude / p.omega
	low, high := math.Max(0, (n-2*swing)/p.mean), n/p.mean
	t := (low + high) / 2
	for range 100 { // halving alone needs about 60
		sin, cos := math.Sincos(p.omega * t)
		over := p.mean*t + swing*(1-cos) - n
		if over > 0 {
			high = t
		} else {
			low = t
		}
		next := t - over/(p.mean+p.amplitude*sin)
		if !(next >= low && next <= high) {
			next = (low + high) / 2
		}
		if math.Abs(next-t) < 1e-10 {
			return next
		}
		t = next
	}
	return t
}

func checkRate(name string, r scenarios.Rate) error {
	if r < 0 || math.IsNaN(float64(r)) || math.IsInf(float64(r), 0) {
		return fmt.Errorf("%s %v must be 0/s or more", name, r)
	}
	return nil
}

// seconds converts s to whole nanoseconds, rounding to the nearest.
func seconds(s float64) time.Duration { return time.Duration(math.Round(s * 1e9)) }

//go:build linux

package traffic

import (
	"math"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// floodPlan is a Schedule that counts instead of listing: how many packets are
// due by a time, and in which bins. Every operation takes time in the
// logarithm of the number of packets it is about.
//
// Packets are numbered from 0 in the order of their due times; first come those
// that are done (sent or given up), then those that wait, then those not due.
type floodPlan struct {
	pacer     vegeta.Pacer
	start     time.Duration // run time
	length    time.Duration
	lateAfter float64 // s after its due time from which a packet counts as late

	due  uint64 // packets due
	done uint64 // of those, sent or given up

	dueBin, doneBin floodBin
	parts           []floodPart // for reuse
}

// floodPart is packets that were due in one bin.
type floodPart struct {
	bin int64 // its start in 1/binsPerSecond s of run time
	n   uint64
}

// floodBin is the bin a counter has come to.
type floodBin struct {
	bin int64
	end uint64 // number of the first packet that is due after it
}

func newFloodPlan(p vegeta.Pacer, start, end time.Duration) *floodPlan {
	first := floorDiv(int64(start), binNanos) - 1 // an empty one
	return &floodPlan{pacer: p, start: start, length: end - start, lateAfter: lateAfter, dueBin: floodBin{bin: first}, doneBin: floodBin{bin: first}}
}

// becomeDue counts the packets that have become due by now, in s of run time.
// Its result, like that of giveUp and take, is good until the next such call.
func (p *floodPlan) becomeDue(now float64) []floodPart {
	from := p.due
	p.due = p.by(now, from)
	return p.split(&p.dueBin, from, p.due)
}

// giveUp takes the packets that wait longer than floodBehind.
func (p *floodPlan) giveUp(now float64) []floodPart {
	return p.take(p.by(now-floodBehind, p.done) - p.done)
}

// take takes the next n packets that wait, or all where there are fewer.
func (p *floodPlan) take(n uint64) []floodPart {
	from := p.done
	p.done += min(n, p.waiting())
	return p.split(&p.doneBin, from, p.done)
}

// waiting is how many packets are due and not done.
func (p *floodPlan) waiting() uint64 { return p.due - p.done }

// late is how many of the waiting are late when they are sent now.
func (p *floodPlan) late(now float64) uint64 { return p.by(now-p.lateAfter, p.done) - p.done }

// next is when the next packet that is not due yet will be, in s of run time;
// more is false where there is none.
func (p *floodPlan) next(now float64) (due float64, more bool) {
	elapsed := max(0, seconds(now)-p.start)
	wait, stop := p.pacer.Pace(elapsed, p.due)
	if stop || wait >= p.length-elapsed {
		return 0, false
	}
	return (p.start + elapsed + max(wait, 0)).Seconds(), true
}

// by is how many packets are due at now, in s of run time, or before. It is
// known that from of them are due at some time, so it is never less.
func (p *floodPlan) by(now float64, from uint64) uint64 {
	return p.within(time.Duration(math.Floor(now*1e9))-p.start, from)
}

// within is by for the time since the start.
func (p *floodPlan) within(elapsed time.Duration, from uint64) uint64 {
	elapsed = min(elapsed, p.length-1) // the end is exclusive
	if elapsed < 0 || !p.isDue(elapsed, from) {
		return from
	}
	// Double the step until a packet is not due, then halve the gap.
	in, step := from, uint64(1)
	for p.isDue(elapsed, in+step) {
		in += step
		step *= 2
	}
	out := in + step
	for out-in > 1 {
		if mid := in + (out-in)/2; p.isDue(elapsed, mid) {
			in = mid
		} else {
			out = mid
		}
	}
	return out
}

func (p *floodPlan) isDue(elapsed time.Duration, k uint64) bool {
	wait, stop := p.pacer.Pace(elapsed, k)
	return !stop && wait <= 0
}

// split lists packets [from, to) by the bins they were due in.
func (p *floodPlan) split(b *floodBin, from, to uint64) []floodPart {
	p.parts = p.parts[:0]
	for from < to {
		for from >= b.end {
			b.bin++
			b.end = p.within(time.Duration((b.bin+1)*binNanos-1)-p.start, b.end) // by the bin's last nanosecond
		}
		n := min(to, b.end) - from
		p.parts = append(p.parts, floodPart{b.bin, n})
		from += n
	}
	return p.parts
}

package traffic

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

const (
	binsPerSecond = 10
	lateAfter     = 0.010     // s after the due time from which a start counts as late
	longest       = 10 * 60e6 // us, the longest latency that is told apart
	digits        = 2         // significant decimal digits of a latency
)

// A Tally counts the attempts of one traffic and turns them into records: Bin
// and Latency increments, Failures up to the job's bound per second, and a
// Loss for the Failures beyond it. Every attempt is told to it in this order:
//
//	Due, then NotStarted
//	Due, then Started, then one of OK, Failed, Interrupted
//
// Nothing is recorded before Flush, except Failures; call Flush about every
// 100 ms, and Close at the end. It is safe for concurrent use.
type Tally struct {
	out env.Recorder
	job env.LoadJob
	now func() float64

	mu       sync.Mutex
	bins     map[int64]*bin    // by due time in 1/binsPerSecond s; what Flush has not recorded yet
	free     []*bin            // for reuse
	lastBin  int64             // the bin most recently asked for, and
	last     *bin              // its number; nil is none
	windows  map[int64]*window // by due time in s
	spare    []*window         // for reuse
	latSec   int64             // second in which windows were last recorded
	failures limiter
}

type bin struct {
	due, started, late, lostPackets uint64
	notStarted                      [len(notStartedReasons)]uint64
	outcomes                        [len(outcomes)]uint64
}

var notStartedReasons = [...]runlog.NotStartedReason{runlog.NoPorts, runlog.NoFiles, runlog.NoMemory, runlog.Behind, runlog.Stopped}

var outcomes = [...]runlog.Outcome{
	runlog.OK, runlog.ConnectTimeout, runlog.ResponseTimeout, runlog.Refused, runlog.Reset,
	runlog.Unreachable, runlog.NotPermitted, runlog.Closed, runlog.BadResponse, runlog.Interrupted, runlog.Other,
}

// window is the latencies of the attempts due within one second.
type window struct{ fromDue, fromStart, connect *hdrhistogram.Histogram }

// lateness is job.LateAfter or its default.
func lateness(job env.LoadJob) float64 {
	if job.LateAfter > 0 {
		return job.LateAfter
	}
	return lateAfter
}

// NewTally returns an empty tally of job's traffic. now is run time in s.
func NewTally(out env.Recorder, job env.LoadJob, now func() float64) *Tally {
	job.LateAfter = lateness(job)
	return &Tally{
		out: out, job: job, now: now,
		bins:     map[int64]*bin{},
		windows:  map[int64]*window{},
		latSec:   math.MinInt64,
		failures: limiter{perSecond: max(0, job.FailuresPerSecond), second: math.MinInt64},
	}
}

// Due counts an attempt that has become due.
func (t *Tally) Due(due float64) {
	t.mu.Lock()
	t.bin(due).due++
	t.mu.Unlock()
}

// Started counts an attempt that was due at due and has begun at start.
func (t *Tally) Started(due, start float64) {
	t.mu.Lock()
	b := t.bin(due)
	b.started++
	if start-due > t.job.LateAfter {
		b.late++
	}
	t.mu.Unlock()
}

// NotStarted counts a due attempt that could not be begun because of
// f.NotStarted. The tally fills in f.Traffic.
func (t *Tally) NotStarted(f runlog.Failure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.bin(f.Due)
	for i, r := range notStartedReasons {
		if r == f.NotStarted {
			b.notStarted[i]++
			t.failure(f)
			return
		}
	}
	panic("traffic: not started for an unknown reason: " + string(f.NotStarted))
}

// OK counts a success: an attempt due at due, started at start, answered whole
// at end. connected is when its TCP handshake was complete; NaN, or any time
// before start, where there was none.
func (t *Tally) OK(due, start, connected, end float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bin(due).outcomes[0]++
	w := t.window(due)
	record(w.fromDue, end-due)
	record(w.fromStart, end-start)
	if connected >= start { // false for NaN
		record(w.connect, connected-start)
	}
}

// Failed counts an attempt that ended with f.Outcome, and f.Packets as lost
// packets: set Packets only where nothing was heard in answer to them. The
// tally fills in f.Traffic.
func (t *Tally) Failed(f runlog.Failure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.bin(f.Due)
	i := len(outcomes) - 1 // Other
	for j, o := range outcomes {
		if o == f.Outcome {
			i = j
		}
	}
	b.outcomes[i]++
	b.lostPackets += f.Packets
	t.failure(f)
}

// Lost records the failure of a connection that was held: an attempt that has
// already been counted as OK, so no bin counts this. It is under the same
// bound as other Failures. The tally fills in f.Traffic.
func (t *Tally) Lost(f runlog.Failure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failure(f)
}

// Interrupted counts an attempt that was still going when the job was stopped.
func (t *Tally) Interrupted(due float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.bin(due)
	for i, o := range outcomes {
		if o == runlog.Interrupted {
			b.outcomes[i]++
		}
	}
}

// Flush records what has been counted since the last Flush: bins each time,
// latencies once in a second.
func (t *Tally) Flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.flushBins()
	if sec := int64(math.Floor(now)); sec != t.latSec {
		t.latSec = sec
		t.flushWindows()
	}
	t.loss(t.failures.turn(now))
}

// Close records everything that is left. The tally can be used again after it.
func (t *Tally) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flushBins()
	t.flushWindows()
	t.loss(t.failures.take())
}

// bin returns the counts of the attempts due at due, to add to.
func (t *Tally) bin(due float64) *bin {
	// Due times are whole nanoseconds, and float64 keeps those exact enough
	// to round; taking the floor of due*10 would put some into the bin before.
	i := floorDiv(int64(seconds(due)), 1e9/binsPerSecond)
	if t.last != nil && t.lastBin == i {
		return t.last
	}
	b := t.bins[i]
	if b == nil {
		if n := len(t.free); n > 0 {
			b, t.free = t.free[n-1], t.free[:n-1]
		} else {
			b = new(bin)
		}
		t.bins[i] = b
	}
	t.lastBin, t.last = i, b
	return b
}

func (t *Tally) flushBins() {
	t.last = nil
	for _, i := range slices.Sorted(maps.Keys(t.bins)) {
		b := t.bins[i]
		r := &runlog.Bin{
			Traffic: t.job.Traffic.Name, Node: t.job.Node, Start: float64(i) / binsPerSecond, Width: 1.0 / binsPerSecond,
			Due: b.due, Started: b.started, Late: b.late, LostPackets: b.lostPackets,
			NotStarted: nonZero(notStartedReasons[:], b.notStarted[:]),
			Outcomes:   nonZero(outcomes[:], b.outcomes[:]),
		}
		t.out.Record(runlog.Record{Bin: r})
		delete(t.bins, i)
		*b = bin{}
		t.free = append(t.free, b)
	}
}

func (t *Tally) window(due float64) *window {
	i := floorDiv(int64(seconds(due)), 1e9)
	w := t.windows[i]
	if w == nil {
		if n := len(t.spare); n > 0 {
			w, t.spare = t.spare[n-1], t.spare[:n-1]
		} else {
			w = &window{hdrhistogram.New(1, longest, digits), hdrhistogram.New(1, longest, digits), hdrhistogram.New(1, longest, digits)}
		}
		t.windows[i] = w
	}
	return w
}

func (t *Tally) flushWindows() {
	for _, i := range slices.Sorted(maps.Keys(t.windows)) {
		w := t.windows[i]
		l := &runlog.Latency{Traffic: t.job.Traffic.Name, Node: t.job.Node, Start: float64(i), Width: 1, FromDue: encode(w.fromDue), Started: encode(w.fromStart)}
		if w.connect.TotalCount() > 0 {
			l.Connect = encode(w.connect)
		}
		t.out.Record(runlog.Record{Latency: l})
		delete(t.windows, i)
		w.fromDue.Reset()
		w.fromStart.Reset()
		w.connect.Reset()
		t.spare = append(t.spare, w)
	}
}

// failure records f, or counts it as lost where the bound is reached.
func (t *Tally) failure(f runlog.Failure) {
	now := t.now()
	t.loss(t.failures.turn(now))
	if t.failures.allow(now, f.NotStarted != "") {
		f.Traffic, f.Node = t.job.Traffic.Name, t.job.Node
		t.out.Record(runlog.Record{Failure: &f})
	}
}

func (t *Tally) loss(n uint64) {
	if n > 0 {
		t.out.Record(runlog.Record{Loss: &runlog.Loss{
			What: "failures", Count: n,
			Why: fmt.Sprintf("traffic %s: more than %d in a second are not recorded one by one", t.job.Traffic.Name, t.failures.perSecond),
		}})
	}
}

// limiter passes at most perSecond failures in each second of run time, and in
// the first k tenths of a second at most k tenths of them: a wave of failures
// is sampled throughout and not only at its beginning. Attempts that were not
// started pass up to half of the bound, so that they do not crowd out those
// that failed.
type limiter struct {
	perSecond  int
	second     int64
	passed     int
	notStarted int // of passed
	held       uint64
}

// turn begins a new second where now is in one, and returns how many were held
// back in the one before.
func (l *limiter) turn(now float64) (held uint64) {
	sec := int64(math.Floor(now))
	if sec == l.second {
		return 0
	}
	l.second, l.passed, l.notStarted = sec, 0, 0
	return l.take()
}

// take returns how many were held back, and forgets them.
func (l *limiter) take() (held uint64) {
	held, l.held = l.held, 0
	return held
}

// allow tells whether one more may pass, in the second last begun by turn.
func (l *limiter) allow(now float64, notStarted bool) bool {
	tenth := int((now-float64(l.second))*10) + 1
	quota := (l.perSecond*tenth + 9) / 10
	if l.passed >= quota || notStarted && l.notStarted >= (quota+1)/2 {
		l.held++
		return false
	}
	l.passed++
	if notStarted {
		l.notStarted++
	}
	return true
}

// record adds a time in s to h. Times outside of h's range count at its edge.
func record(h *hdrhistogram.Histogram, s float64) {
	us := int64(math.Round(math.Max(1, math.Min(s*1e6, longest))))
	if err := h.RecordValue(us); err != nil {
		panic("traffic: record latency: " + err.Error()) // cannot happen: us is in range
	}
}

func encode(h *hdrhistogram.Histogram) string {
	b, err := h.EncodeV2() // this is base64 already
	if err != nil {
		panic("traffic: encode latencies: " + err.Error()) // cannot happen: it writes to memory
	}
	return string(b)
}

// nonZero returns the counts that are above 0 by their names, nil for none.
func nonZero[N comparable](names []N, counts []uint64) map[N]uint64 {
	var m map[N]uint64
	for i, n := range counts {
		if n == 0 {
			continue
		}
		if m == nil {
			m = map[N]uint64{}
		}
		m[names[i]] = n
	}
	return m
}

// floorDiv is a/b rounded down; set-up time is negative.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

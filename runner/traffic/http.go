//go:build linux

package traffic

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

const httpConnections = 100 // idle connections kept by default

// HTTP sends GET requests through vegeta, with a dialer, a transport and a
// pacing of ours.
//
// An attempt is one request. It begins when one of vegeta's workers takes it
// up, and that is counted once the attempt is over: what is still in flight
// when a log is cut was due and is neither started nor not started. An answer
// with status 400 or more is BadResponse, with the status as Errno: HTTP_502.
// Connecting counts towards the timeout; an attempt that runs out of time
// without a connection is ConnectTimeout, later it is ResponseTimeout.
//
// Without keep-alive the request says "Connection: close", so the server
// closes first. With it, connections are net/http's: an attempt may be answered
// over a connection that another one asked for, and a request on a kept
// connection that turns out to be closed is sent again on another. What
// attempts do not show of that is counted in an Event at the end.
type HTTP struct {
	job         env.LoadJob
	epoch       int64
	keepAlive   bool
	connections int
	url         string
	pacer       vegeta.Pacer
	tuples      tcpTuples
}

var _ env.Worker = (*HTTP)(nil)

// NewHTTP returns a worker for job.Load, which must be set, with a traffic of
// shape http.
func NewHTTP(job env.Job) (env.Worker, error) {
	l := *job.Load
	shape := l.Traffic.HTTP
	if shape == nil {
		return nil, fmt.Errorf("make http traffic %s: it has another shape", l.Traffic.Name)
	}
	h := &HTTP{job: l, epoch: job.Epoch, connections: shape.Connections}
	h.keepAlive = shape.KeepAlive == nil || *shape.KeepAlive
	if h.connections == 0 {
		h.connections = httpConnections
	}
	h.connections = max(min(h.connections, 1), l.Part.Has(h.connections))
	if l.Traffic.Timeout <= 0 {
		return nil, fmt.Errorf("make http traffic %s: it has no timeout", l.Traffic.Name)
	}
	if h.connections < 0 {
		return nil, fmt.Errorf("make http traffic %s: connections is %d", l.Traffic.Name, h.connections)
	}
	path := shape.Path
	if path == "" {
		path = "/"
	}
	h.url = "http://" + l.Target.String() + path
	if r, err := http.NewRequest(http.MethodGet, h.url, nil); err != nil || r.URL.Host != l.Target.String() {
		return nil, fmt.Errorf("make http traffic %s: %q is not the path of a URL", l.Traffic.Name, shape.Path)
	}
	var err error
	if h.pacer, err = pacerOf(l, httpPacing(*shape)); err != nil {
		return nil, fmt.Errorf("make http traffic %s: %w", l.Traffic.Name, err)
	}
	if h.tuples, err = newTCPTuples(l, nil); err != nil {
		return nil, fmt.Errorf("make http traffic %s: %w", l.Traffic.Name, err)
	}
	return h, nil
}

func httpPacing(s scenarios.HTTP) scenarios.Pacing { return s.Pacing }

// Run implements env.Worker.
func (h *HTTP) Run(ctx context.Context, ready func(), out env.Recorder) error {
	now := Clock(h.epoch)
	// Requests must tell the job's end from their own: it is always a
	// cancellation to them, even where it is a deadline to ctx.
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	r := &httpRun{HTTP: h, ctx: ctx, requests: requests, out: out, now: now, tally: NewTally(out, h.job, now), attempts: map[uint64]*httpAttempt{}}
	r.dialer = newHTTPDialer(h, now)
	r.transport = &http.Transport{
		DialContext:         r.dialer.dial,
		DisableKeepAlives:   !h.keepAlive,
		MaxIdleConnsPerHost: h.connections,
		DisableCompression:  true,
	}
	r.pace = &httpPacer{ctx: ctx, rate: h.pacer, schedule: NewSchedule(h.pacer, h.job.Start, h.job.End), now: now, tally: r.tally, due: map[uint64]httpDue{}}
	defer r.tally.Close()
	defer r.dialer.close()
	defer r.transport.CloseIdleConnections()
	ready()
	r.attack()
	r.report()
	return nil
}

// httpRun is a running HTTP. It is the http.RoundTripper that vegeta uses: the
// only place where an error is still an error and not a string.
type httpRun struct {
	*HTTP
	ctx       context.Context // of the job
	requests  context.Context // of its requests
	out       env.Recorder
	now       func() float64
	tally     *Tally
	transport *http.Transport
	dialer    *httpDialer
	pace      *httpPacer

	mu       sync.Mutex
	attempts map[uint64]*httpAttempt // by vegeta's number, until their result is there

	resent uint64 // requests that net/http sent more than once
}

// attack runs vegeta to its end, or stops it when the job's context is done.
func (r *httpRun) attack() {
	// Options that come after Client would panic on a RoundTripper that is
	// not an http.Transport; these two do not touch it. vegeta's own timeout
	// is not used: ours includes reading the answer, and tells connecting
	// from waiting.
	attacker := vegeta.NewAttacker(
		vegeta.Client(&http.Client{Transport: r, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}),
		vegeta.MaxWorkers(uint64(maxSockets())),
	)
	// vegeta tells when an attempt began by Go's clock; this pair of readings
	// makes run time of it.
	began, zero := time.Now(), r.now()
	results := attacker.Attack(vegeta.NewStaticTargeter(vegeta.Target{Method: http.MethodGet, URL: r.url}), r.pace, 0, "")
	flush := time.NewTicker(seconds(flushEvery))
	defer flush.Stop()
	done := r.ctx.Done()
	for {
		select {
		case res, ok := <-results:
			if !ok {
				r.pace.stopped()
				return
			}
			start := zero + res.Timestamp.Sub(began).Seconds()
			r.result(res, start, start+res.Latency.Seconds())
		case <-flush.C:
			r.tally.Flush()
		case <-done:
			attacker.Stop() // results are drained until vegeta closes them
			done = nil
		}
	}
}

// result counts one attempt that is over.
func (r *httpRun) result(res *vegeta.Result, start, end float64) {
	d := r.pace.take(res.Seq)
	r.mu.Lock()
	a := r.attempts[res.Seq]
	delete(r.attempts, res.Seq)
	r.mu.Unlock()
	if a == nil { // the request never got to RoundTrip
		a = &httpAttempt{err: errors.New(res.Error)}
	}
	o := a.finish(res.Code, r.dialer)
	if o.conns > 1 {
		r.resent++
	}
	f := runlog.Failure{
		Seq: d.seq, Due: d.due, Start: start, Outcome: o.outcome, NotStarted: o.notStarted, Errno: o.errno, Phase: o.phase, Packets: o.syns,
		Tuple: runlog.Tuple{Proto: "tcp", Src: o.src, Dst: o.dst},
	}
	if f.NotStarted != "" {
		f.Start = 0
		r.tally.NotStarted(f)
		return
	}
	r.tally.Started(d.due, start)
	switch o.outcome {
	case runlog.OK:
		r.tally.OK(d.due, start, o.connected, end)
	case runlog.Interrupted:
		r.tally.Interrupted(d.due)
	default:
		r.tally.Failed(f)
	}
}

// report tells what the attempts do not show.
func (r *httpRun) report() {
	r.dialer.close() // after it the numbers stand
	hidden := r.dialer.hidden.Load()
	if r.resent == 0 && hidden == 0 {
		return
	}
	name := r.job.Traffic.Name
	r.out.Record(runlog.Record{Event: &runlog.Event{
		Kind: "warning", Name: "http_hidden",
		Detail: fmt.Sprintf("traffic %s: %d requests were sent again by net/http on another connection, and %d connections failed whose request was answered over another", name, r.resent, hidden),
		Fields: map[string]string{"traffic": name, "resent": fmt.Sprint(r.resent), "failed_connections": fmt.Sprint(hidden)},
	}})
}

// httpDue is an attempt of the schedule.
type httpDue struct {
	due float64
	seq uint64
}

// httpPacer feeds vegeta the schedule's attempts at their due times.
//
// vegeta asks Pace once for each hit and then sleeps as long as it says,
// whatever happens meanwhile; so Pace itself waits, and says 0. Hits are
// numbered by vegeta as they are taken up, in the order of Pace: what was due
// as hit k is the attempt of vegeta's result k.
type httpPacer struct {
	ctx      context.Context
	rate     vegeta.Pacer
	schedule *Schedule
	now      func() float64
	tally    *Tally

	mu  sync.Mutex
	due map[uint64]httpDue // by vegeta's number: at most as many as are in flight, and one
}

var _ vegeta.Pacer = (*httpPacer)(nil)

// Pace implements vegeta.Pacer. It blocks until the next attempt is due, and
// stops the attack after the last one, or when the job's context is done.
func (p *httpPacer) Pace(_ time.Duration, hits uint64) (time.Duration, bool) {
	for {
		due, seq, more := p.schedule.Next()
		if !more {
			return 0, true
		}
		if !p.waitUntil(due) {
			p.giveUp(due, seq)
			return 0, true
		}
		p.tally.Due(due)
		if p.now()-due > maxBehind {
			p.tally.NotStarted(runlog.Failure{Seq: seq, Due: due, NotStarted: runlog.Behind})
			continue
		}
		p.mu.Lock()
		p.due[hits] = httpDue{due, seq}
		p.mu.Unlock()
		return 0, false
	}
}

// Rate implements vegeta.Pacer.
func (p *httpPacer) Rate(elapsed time.Duration) float64 { return p.rate.Rate(elapsed) }

// waitUntil blocks until due, in s of run time, and reports whether the job
// still goes on then.
func (p *httpPacer) waitUntil(due float64) bool {
	wait := sleepFor(due - p.now())
	if wait <= 0 {
		return p.ctx.Err() == nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// take returns what was due as vegeta's hit number n, and forgets it.
func (p *httpPacer) take(n uint64) httpDue {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.due[n]
	delete(p.due, n)
	return d
}

// giveUp counts an attempt that the job's end has overtaken, if it was due, and
// reports whether it was.
func (p *httpPacer) giveUp(due float64, seq uint64) bool {
	if due > p.now() {
		return false
	}
	p.tally.Due(due)
	p.tally.NotStarted(runlog.Failure{Seq: seq, Due: due, NotStarted: runlog.Stopped})
	return true
}

// stopped counts what was due but not taken up by a worker before the end.
// vegeta does not ask for a pace any more then.
func (p *httpPacer) stopped() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		due, seq, more := p.schedule.Next()
		if !more || !p.giveUp(due, seq) {
			break
		}
	}
	for n, d := range p.due {
		p.tally.NotStarted(runlog.Failure{Seq: d.seq, Due: d.due, NotStarted: runlog.Stopped})
		delete(p.due, n)
	}
}

// httpOutcome is how an attempt ended.
type httpOutcome struct {
	outcome    runlog.Outcome
	notStarted runlog.NotStartedReason
	errno      string
	phase      string
	syns       uint64
	src, dst   netip.AddrPort
	connected  float64 // run time of the handshake's end; NaN where it had none
	conns      int     // connections it was sent on
}

// classify decides by what err is, never by what it says.
func (o *httpOutcome) classify(err error, connected bool) {
	o.phase = "response"
	if !connected {
		o.phase = "connect"
		if why, ok := notStartedFor(err); ok {
			o.notStarted, o.errno, o.phase = why, errnoName(err), ""
			return
		}
	}
	var timeout interface{ Timeout() bool }
	switch o.errno = errnoName(err); {
	case errors.Is(err, context.Canceled):
		o.outcome = runlog.Interrupted
	case errors.Is(err, unix.ETIMEDOUT), o.errno == "" && errors.As(err, &timeout) && timeout.Timeout():
		o.outcome = runlog.ResponseTimeout
		if !connected {
			o.outcome = runlog.ConnectTimeout
		}
	case o.errno != "":
		o.outcome = outcomeOf(err, !connected)
	case closedEarly(err):
		o.outcome = runlog.Closed
	case connected:
		o.outcome = runlog.BadResponse // not HTTP: what net/http could not parse
	default:
		o.outcome = runlog.Other
	}
}

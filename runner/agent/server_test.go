package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// workerFunc is a worker made of a function.
type workerFunc func(ctx context.Context, ready func(), out env.Recorder) error

func (f workerFunc) Run(ctx context.Context, ready func(), out env.Recorder) error {
	return f(ctx, ready, out)
}

// byID makes the worker that is named like the job, less a number after a dot.
func byID(workers map[string]workerFunc) func(env.Job) (env.Worker, error) {
	return func(j env.Job) (env.Worker, error) {
		name, _, _ := strings.Cut(j.ID, ".")
		w, ok := workers[name]
		if !ok {
			return nil, errors.New("no such worker")
		}
		return w, nil
	}
}

func untilStopped(ctx context.Context, ready func(), _ env.Recorder) error {
	ready()
	<-ctx.Done()
	return nil
}

// running is an agent that serves on a unix socket, and how to reach it.
type running struct {
	cfg    ClientConfig
	dir    string // of its spool
	server *Server
	ended  chan struct{}
	err    error // after ended
}

func serve(t testing.TB, workers map[string]workerFunc) *running {
	t.Helper()
	dir := t.TempDir()
	spool, err := NewSpool(filepath.Join(dir, "spool"), "h")
	require.NoError(t, err)
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	r := &running{dir: dir, ended: make(chan struct{}), server: NewServer(Config{Host: "h", Token: "secret", Spool: spool, Build: byID(workers), Errs: io.Discard})}
	r.cfg = ClientConfig{Name: "h", Role: env.Node, Token: "secret", Patience: 2 * time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		r.err = r.server.Serve(ctx, l)
		close(r.ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-r.ended
		assert.NoError(t, spool.Remove())
	})
	return r
}

func dial(t testing.TB, cfg ClientConfig) *Client {
	t.Helper()
	c, err := Dial(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

func TestJobStates(t *testing.T) {
	release := make(chan struct{})
	boom := errors.New("boom")
	c := dial(t, serve(t, map[string]workerFunc{
		"runs":  untilStopped,
		"fails": func(context.Context, func(), env.Recorder) error { return boom },
		"fails later": func(_ context.Context, ready func(), _ env.Recorder) error {
			ready()
			ready() // once more is harmless
			<-release
			return boom
		},
		"short": func(context.Context, func(), env.Recorder) error { return nil },
		"stops with an error": func(ctx context.Context, ready func(), _ env.Recorder) error {
			ready()
			<-ctx.Done()
			return fmt.Errorf("put things back: %w", boom)
		},
		"returns the context's error": func(ctx context.Context, ready func(), _ env.Recorder) error {
			ready()
			<-ctx.Done()
			return fmt.Errorf("wait: %w", ctx.Err())
		},
		"panics": func(context.Context, func(), env.Recorder) error { panic("ouch") },
		"panics later": func(_ context.Context, ready func(), _ env.Recorder) error {
			ready()
			<-release
			list := make([]int, len(release)) // none
			list[0] = 1
			return nil
		},
	}).cfg)
	ctx := t.Context()

	require.NoError(t, c.Start(ctx, env.Job{ID: "runs"}))
	assert.EqualError(t, c.Start(ctx, env.Job{ID: "runs"}), "h: start job runs: a job of this name exists already")
	require.NoError(t, c.Stop(ctx, "runs"))
	require.NoError(t, c.Stop(ctx, "runs"), "stopping again is no error")
	require.NoError(t, c.Wait(ctx, "runs"))

	assert.EqualError(t, c.Start(ctx, env.Job{ID: "fails"}), "h: job fails: boom")
	assert.EqualError(t, c.Wait(ctx, "fails"), "h: job fails: boom")

	require.NoError(t, c.Start(ctx, env.Job{ID: "fails later"}))
	require.NoError(t, c.Start(ctx, env.Job{ID: "panics later"}))
	waited, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	assert.ErrorIs(t, c.Wait(waited, "fails later"), context.DeadlineExceeded)
	cancel()
	close(release)
	assert.EqualError(t, c.Wait(ctx, "fails later"), "h: job fails later: boom")
	assert.EqualError(t, c.Wait(ctx, "panics later"), "h: job panics later: panic: runtime error: index out of range [0] with length 0")
	assert.EqualError(t, c.Start(ctx, env.Job{ID: "panics"}), "h: job panics: panic: ouch")

	require.NoError(t, c.Start(ctx, env.Job{ID: "short"}))
	require.NoError(t, c.Wait(ctx, "short"))

	require.NoError(t, c.Start(ctx, env.Job{ID: "stops with an error"}))
	assert.EqualError(t, c.Stop(ctx, "stops with an error"), "h: job stops with an error: put things back: boom")
	require.NoError(t, c.Start(ctx, env.Job{ID: "returns the context's error"}))
	require.NoError(t, c.Stop(ctx, "returns the context's error"))

	assert.EqualError(t, c.Start(ctx, env.Job{ID: "what"}), "h: make job what: no such worker")
	assert.EqualError(t, c.Start(ctx, env.Job{}), "h: the job has no id")
	assert.EqualError(t, c.Wait(ctx, "who"), "h: job who: unknown job")
	assert.EqualError(t, c.Stop(ctx, "who"), "h: job who: unknown job")
}

func TestJobIDNeedsEscaping(t *testing.T) {
	c := dial(t, serve(t, map[string]workerFunc{"sample/node 1?x=%": untilStopped}).cfg)
	require.NoError(t, c.Start(t.Context(), env.Job{ID: "sample/node 1?x=%"}))
	require.NoError(t, c.Stop(t.Context(), "sample/node 1?x=%"))
}

// A caller that goes away before the job is ready cannot know that it runs, so
// it must not run.
func TestStartGivenUpStopsTheJob(t *testing.T) {
	stopped := make(chan struct{})
	began := make(chan struct{})
	c := dial(t, serve(t, map[string]workerFunc{"slow": func(ctx context.Context, _ func(), _ env.Recorder) error {
		close(began)
		<-ctx.Done()
		close(stopped)
		return nil
	}}).cfg)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	assert.ErrorIs(t, c.Start(ctx, env.Job{ID: "slow"}), context.Canceled)
	<-stopped
	require.NoError(t, c.Wait(t.Context(), "slow"))
}

func TestEndedJobsAreForgotten(t *testing.T) {
	r := serve(t, map[string]workerFunc{"short": func(context.Context, func(), env.Recorder) error { return nil }, "runs": untilStopped})
	jobs := r.server.jobs
	require.NoError(t, jobs.start(t.Context(), env.Job{ID: "runs"}))
	for i := range keepEnded + 10 {
		id := fmt.Sprint("short.", i)
		require.NoError(t, jobs.start(t.Context(), env.Job{ID: id}))
		require.NoError(t, jobs.wait(t.Context(), id))
	}
	jobs.mu.Lock()
	n, working := len(jobs.byID), 0
	for _, jb := range jobs.byID {
		if jb.worker != nil {
			working++
		}
	}
	jobs.mu.Unlock()
	assert.LessOrEqual(t, n, keepEnded+2)
	assert.Equal(t, 1, working, "what ended is not kept with all that it worked with")
	assert.Equal(t, ErrUnknownJob, errors.Unwrap(jobs.wait(t.Context(), "short.0")))
	assert.Equal(t, 1, jobs.running())
	require.NoError(t, jobs.stop(t.Context(), "runs"))
}

func TestRecorderFillsIn(t *testing.T) {
	epoch := monotonic() - int64(5*time.Second)
	c := dial(t, serve(t, map[string]workerFunc{"records": func(_ context.Context, _ func(), out env.Recorder) error {
		out.Record(runlog.Record{T: -3, Host: "somebody", N: 99, Event: &runlog.Event{}})
		out.Record(runlog.Record{Event: &runlog.Event{}})
		return nil
	}}).cfg)
	require.NoError(t, c.Start(t.Context(), env.Job{ID: "records", Epoch: epoch}))
	var recs []runlog.Record
	done := errors.New("enough")
	err := c.Records(t.Context(), 1, func(r runlog.Record) error {
		recs = append(recs, r)
		if len(recs) == 2 {
			return done
		}
		return nil
	})
	require.ErrorIs(t, err, done)
	assert.EqualValues(t, 1, recs[0].N)
	assert.Equal(t, "h", recs[0].Host)
	assert.EqualValues(t, -3, recs[0].T)
	assert.GreaterOrEqual(t, recs[1].T, 5.0)
	assert.Less(t, recs[1].T, 60.0)
	now, err := c.Clock(t.Context())
	require.NoError(t, err)
	assert.LessOrEqual(t, now, monotonic())
	assert.Greater(t, now, epoch)
}

func TestHTTPErrors(t *testing.T) {
	r := serve(t, map[string]workerFunc{"runs": untilStopped})
	h := r.server.http.Handler
	for _, c := range []struct {
		name, method, path, token, body string
		status                          int
		answer                          string
	}{
		{"no token", "GET", "/v1/health", "", "", 401, `{"error":"the token is missing or wrong"}`},
		{"wrong token", "GET", "/v1/health", "Bearer secreT", "", 401, `{"error":"the token is missing or wrong"}`},
		{"no bearer", "GET", "/v1/health", "secret", "", 401, `{"error":"the token is missing or wrong"}`},
		{"shutdown without token", "POST", "/v1/shutdown", "", "", 401, `{"error":"the token is missing or wrong"}`},
		{"not JSON", "POST", "/v1/jobs", "Bearer secret", "{", 400, `{"error":"read job: unexpected EOF"}`},
		{"unknown field", "POST", "/v1/jobs", "Bearer secret", `{"id":"runs","lode":{}}`, 400, `{"error":"read job: json: unknown field \"lode\""}`},
		{"unknown job", "GET", "/v1/jobs/x", "Bearer secret", "", 404, `{"error":"job x: unknown job"}`},
		{"bad number", "GET", "/v1/records?from=-1", "Bearer secret", "", 400, `{"error":"read from: \"-1\" is not a record number"}`},
		{"future", "GET", "/v1/records?from=3", "Bearer secret", "", 416, `{"error":"record 3 was asked for, but the last one is 0"}`},
		{"health", "GET", "/v1/health", "Bearer secret", "", 200, `{"host":"h","records":0,"running":0}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := httptest.NewRequestWithContext(t.Context(), c.method, c.path, strings.NewReader(c.body))
			if c.token != "" {
				req.Header.Set("Authorization", c.token)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			assert.Equal(t, c.status, w.Code)
			assert.JSONEq(t, c.answer, w.Body.String())
		})
	}
}

func TestCloseIsOrderly(t *testing.T) {
	var cleaned atomic.Bool
	r := serve(t, map[string]workerFunc{"holds": func(ctx context.Context, ready func(), out env.Recorder) error {
		out.Record(event(1))
		ready()
		<-ctx.Done()
		out.Record(event(2)) // what is recorded on the way out belongs to the run
		cleaned.Store(true)
		return nil
	}})
	c := dial(t, r.cfg)
	require.NoError(t, c.Start(t.Context(), env.Job{ID: "holds"}))
	var got []uint64
	followed := make(chan error, 1)
	first := make(chan struct{})
	go func() {
		followed <- c.Records(t.Context(), 1, func(r runlog.Record) error {
			if got = append(got, r.N); r.N == 1 {
				close(first)
			}
			time.Sleep(time.Millisecond)
			return nil
		})
	}()
	<-first
	require.NoError(t, c.Close(t.Context()))
	require.NoError(t, <-followed)
	assert.Equal(t, []uint64{1, 2}, got)
	assert.True(t, cleaned.Load())
	<-r.ended
	require.NoError(t, r.err)
	require.NoError(t, c.Close(t.Context()), "closing again is no error")
	assert.NoError(t, c.Records(t.Context(), 3, nil), "there is nothing after the last record")
}

func TestNoJobsAfterShutdown(t *testing.T) {
	r := serve(t, map[string]workerFunc{"runs": untilStopped})
	c := dial(t, r.cfg)
	r.server.Shutdown()
	assert.EqualError(t, c.Start(t.Context(), env.Job{ID: "runs"}), "h: start job runs: the agent is shutting down")
}

func TestDialTellsTheWrongAgent(t *testing.T) {
	r := serve(t, nil)
	cfg := r.cfg
	cfg.Name = "other"
	_, err := Dial(t.Context(), cfg)
	assert.EqualError(t, err, `reach agent other: the agent calls itself "h"`)
	cfg = r.cfg
	cfg.Token = "wrong"
	_, err = Dial(t.Context(), cfg)
	assert.EqualError(t, err, "reach agent h: the token is missing or wrong")
	cfg = r.cfg
	gone := errors.New("the agent has ended: signal: killed")
	cfg.Gone = func() error { return gone }
	cfg.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("refused") }
	_, err = Dial(t.Context(), cfg)
	assert.ErrorIs(t, err, gone)
	cfg.Gone, cfg.Patience = nil, time.Millisecond
	_, err = Dial(t.Context(), cfg)
	assert.EqualError(t, err, "reach agent h: the agent does not answer: refused")
}

// cutter makes connections that break after a random number of bytes read.
type cutter struct {
	dial func(ctx context.Context) (net.Conn, error)
	mu   sync.Mutex
	rng  *rand.Rand
	max  int
	cuts int
}

func (c *cutter) connect(ctx context.Context) (net.Conn, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return &cutConn{Conn: conn, c: c, left: c.rng.IntN(c.max)}, nil
}

type cutConn struct {
	net.Conn
	c    *cutter
	left int
}

func (c *cutConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		c.c.mu.Lock()
		c.c.cuts++
		c.c.mu.Unlock()
		_ = c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// However often the connection breaks, in a header, in the middle of a record
// or between two: nothing is lost, nothing comes twice.
func TestRecordsSurviveCutConnections(t *testing.T) {
	const total = 5000
	r := serve(t, map[string]workerFunc{"records": func(ctx context.Context, ready func(), out env.Recorder) error {
		ready()
		for i := range total {
			out.Record(event(i + 1))
			if i%100 == 0 {
				time.Sleep(time.Millisecond) // so that some come while a follower waits
			}
		}
		return nil
	}})
	plain := dial(t, r.cfg)
	require.NoError(t, plain.Start(t.Context(), env.Job{ID: "records"}))
	seed := rand.Uint64()
	t.Log("seed", seed)
	cut := &cutter{dial: r.cfg.Dial, rng: rand.New(rand.NewPCG(seed, 0)), max: 20000}
	cfg := r.cfg
	cfg.Dial = cut.connect
	c := &Client{cfg: cfg, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return cut.connect(ctx) },
	}}}
	c.cfg.Gone = func() error { return nil }
	defer c.http.CloseIdleConnections()
	var next uint64 = 1
	followed := make(chan error, 1)
	go func() {
		followed <- c.Records(t.Context(), 1, func(r runlog.Record) error {
			if r.N != next || r.Event.Name != fmt.Sprint(next) {
				return fmt.Errorf("got %d, want %d", r.N, next)
			}
			next++
			return nil
		})
	}()
	require.NoError(t, plain.Wait(t.Context(), "records"))
	r.server.Shutdown()
	require.NoError(t, <-followed)
	assert.EqualValues(t, total+1, next)
	t.Log("cuts:", cut.cuts)
	assert.Greater(t, cut.cuts, 10)
}

// Something between the two may end a stream as if it were complete. Only the
// agent's own word for it counts.
func TestRecordsGoOnAfterAnEndThatIsNone(t *testing.T) {
	requests := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		if requests > 2 {
			w.Header().Set("Trailer", completeTrailer)
		}
		fmt.Fprintf(w, "{\"n\":%s}\n", r.URL.Query().Get("from"))
		if requests > 2 {
			w.Header().Set(completeTrailer, "3")
		}
	}))
	defer srv.Close()
	c := &Client{http: srv.Client(), cfg: ClientConfig{Name: "h", Patience: time.Minute, Gone: func() error { return nil }}}
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", srv.Listener.Addr().String())
	}}
	defer c.http.CloseIdleConnections()
	var got []uint64
	require.NoError(t, c.Records(t.Context(), 1, func(r runlog.Record) error { got = append(got, r.N); return nil }))
	assert.Equal(t, []uint64{1, 2, 3}, got)
}

// Waiting for a job and stopping it are repeated when the connection breaks.
func TestWaitSurvivesCutConnections(t *testing.T) {
	r := serve(t, map[string]workerFunc{"runs": untilStopped})
	plain := dial(t, r.cfg)
	require.NoError(t, plain.Start(t.Context(), env.Job{ID: "runs"}))
	cut := &cutter{dial: r.cfg.Dial, rng: rand.New(rand.NewPCG(3, 0)), max: 250}
	cfg := r.cfg
	cfg.Dial = cut.connect
	c := dial(t, cfg)
	for range 20 {
		require.NoError(t, c.Stop(t.Context(), "runs"))
		require.NoError(t, c.Wait(t.Context(), "runs"))
	}
	assert.Positive(t, cut.cuts)
}

// An agent that dies while it is followed is an error, at once where that is
// known, and not an endless wait.
func TestRecordsEndWithADeadAgent(t *testing.T) {
	r := serve(t, map[string]workerFunc{"records": func(ctx context.Context, ready func(), out env.Recorder) error {
		out.Record(event(1))
		return untilStopped(ctx, ready, out)
	}})
	var dead atomic.Bool
	cfg := r.cfg
	var conns sync.Map
	cfg.Dial = func(ctx context.Context) (net.Conn, error) {
		if dead.Load() {
			return nil, errors.New("refused")
		}
		c, err := r.cfg.Dial(ctx)
		if err == nil {
			conns.Store(c, true)
		}
		return c, err
	}
	cfg.Gone = func() error {
		if dead.Load() {
			return errors.New("the agent has ended: signal: killed")
		}
		return nil
	}
	c := dial(t, cfg)
	require.NoError(t, c.Start(t.Context(), env.Job{ID: "records"}))
	err := c.Records(t.Context(), 1, func(runlog.Record) error {
		dead.Store(true)
		conns.Range(func(k, _ any) bool { k.(net.Conn).Close(); return true })
		return nil
	})
	assert.EqualError(t, err, "h: follow records from 2: the agent has ended: signal: killed")
}

func TestRecordsEndWithContext(t *testing.T) {
	c := dial(t, serve(t, nil).cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, c.Records(ctx, 1, nil), context.DeadlineExceeded)
}

// BenchmarkRecordLatency is the time from Record in the agent to the
// controller's callback.
func BenchmarkRecordLatency(b *testing.B) {
	tick := make(chan struct{})
	c := dial(b, serve(b, map[string]workerFunc{"echo": func(ctx context.Context, ready func(), out env.Recorder) error {
		ready()
		for {
			select {
			case <-tick:
				out.Record(event(1))
			case <-ctx.Done():
				return nil
			}
		}
	}}).cfg)
	require.NoError(b, c.Start(b.Context(), env.Job{ID: "echo"}))
	ctx, cancel := context.WithCancel(b.Context())
	got := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.Records(ctx, 1, func(runlog.Record) error { got <- struct{}{}; return nil })
	}()
	for b.Loop() {
		tick <- struct{}{}
		<-got
	}
	cancel()
	<-done
}

// A soak's spool stays small, whoever takes its records sees all of them.
func TestTakenRecordsAreRemoved(t *testing.T) {
	const total = 60_000
	long := strings.Repeat("x", 400) // 26 MB in all
	var taken atomic.Int64
	r := serve(t, map[string]workerFunc{"soak": func(ctx context.Context, ready func(), out env.Recorder) error {
		ready()
		for i := range total {
			out.Record(runlog.Record{T: float64(i), Event: &runlog.Event{Kind: "test", Name: long}})
			// Never 4 MiB ahead of who reads, however busy the machine is: only what has
			// been taken can be removed.
			for int64(i)-taken.Load() > 5000 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
		}
		return nil
	}})
	c := dial(t, r.cfg)
	require.NoError(t, c.Start(t.Context(), env.Job{ID: "soak"}))
	var events, most int
	done := make(chan error, 1)
	go func() {
		done <- c.Records(t.Context(), 1, func(rec runlog.Record) error {
			if e := rec.Event; e != nil && e.Kind == "test" {
				events++
				taken.Add(1)
			}
			if rec.N%1000 == 0 {
				files, err := filepath.Glob(filepath.Join(r.dir, "spool*"))
				most = max(most, len(files))
				return err
			}
			return nil
		})
	}()
	require.NoError(t, c.Wait(t.Context(), "soak"))
	require.NoError(t, c.Close(t.Context()))
	require.NoError(t, <-done)
	assert.Equal(t, total, events)
	assert.LessOrEqual(t, most, 4, "files of 4 MiB")
}

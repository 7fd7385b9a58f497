package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// keepEnded is how many ended jobs are remembered for Wait. Autopsies are jobs
// too, several per second, so a run of days must forget.
const keepEnded = 4096

// ErrUnknownJob says that an agent knows no job of that name: it never began, or
// ended long ago.
var ErrUnknownJob = errors.New("unknown job")

var (
	errDuplicateJob = errors.New("a job of this name exists already")
	errShutDown     = errors.New("the agent is shutting down")
	errFixed        = errors.New("the job cannot be changed while it runs")
	errEnded        = errors.New("the job has ended")
)

// jobs is the set of an agent's jobs. Each goes from starting to ready to
// ended, or from starting to ended.
type jobs struct {
	build  func(env.Job) (env.Worker, error)
	spool  *Spool
	stderr io.Writer

	mu     sync.Mutex
	byID   map[string]*job
	ended  []string // oldest first
	closed bool
	wg     sync.WaitGroup
}

// job is one job; err is valid once ended is closed.
type job struct {
	worker env.Worker // nil once it has ended; guarded by the mutex of jobs
	cancel context.CancelFunc
	serve  *env.ServeJob // nil for other jobs
	epoch  int64
	ready  chan struct{}
	ended  chan struct{}
	err    error

	readyAt time.Time // valid once ready is closed
}

// start runs j and returns when it is ready. A job that ends before that is
// its error, or nil: short jobs need not be ready first. When ctx ends earlier
// the job is stopped, because its caller cannot know that it runs.
func (s *jobs) start(ctx context.Context, j env.Job) error {
	if j.ID == "" {
		return errors.New("the job has no id")
	}
	w, err := s.build(j)
	if err != nil {
		return fmt.Errorf("make job %s: %w", j.ID, err)
	}
	jb, err := s.run(j, w)
	if err != nil {
		return fmt.Errorf("start job %s: %w", j.ID, err)
	}
	select {
	case <-jb.ready:
		return nil
	case <-jb.ended:
		return jb.err
	case <-ctx.Done():
		jb.cancel()
		return fmt.Errorf("start job %s: %w", j.ID, ctx.Err())
	}
}

// run registers the job and starts its goroutine, for which close waits.
func (s *jobs) run(j env.Job, w env.Worker) (*job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errShutDown
	}
	if s.byID[j.ID] != nil {
		return nil, errDuplicateJob
	}
	ctx, cancel := context.WithCancel(context.Background())
	jb := &job{worker: w, cancel: cancel, serve: j.Serve, epoch: j.Epoch, ready: make(chan struct{}), ended: make(chan struct{})}
	s.byID[j.ID] = jb
	s.wg.Go(func() {
		defer cancel()
		out := recorder{spool: s.spool, epoch: j.Epoch}
		err := s.guard(func() error { return w.Run(ctx, sync.OnceFunc(jb.isReady), out) })
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil // stopped, as asked
		}
		if err != nil {
			jb.err = fmt.Errorf("job %s: %w", j.ID, err)
		}
		s.forget(j.ID)
		close(jb.ended)
	})
	return jb, nil
}

// guard makes a panic of f its error. The stack goes to stderr.
func (s *jobs) guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			fmt.Fprintf(s.stderr, "tablefull agent: panic: %v\n%s", v, debug.Stack())
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return f()
}

// forget remembers that id has ended, without what it worked with, and drops the
// oldest beyond keepEnded. A pod's server alone is tens of kB.
func (s *jobs) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[id].worker = nil
	s.ended = append(s.ended, id)
	if n := len(s.ended) - keepEnded; n > 0 {
		for _, old := range s.ended[:n] {
			delete(s.byID, old)
		}
		s.ended = append(s.ended[:0], s.ended[n:]...)
	}
}

// wait returns the job's error once it has ended.
func (s *jobs) wait(ctx context.Context, id string) error {
	s.mu.Lock()
	jb := s.byID[id]
	s.mu.Unlock()
	if jb == nil {
		return fmt.Errorf("job %s: %w", id, ErrUnknownJob)
	}
	select {
	case <-jb.ended:
		return jb.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// update changes the job. It is guarded like the worker itself.
func (s *jobs) update(ctx context.Context, id string, u env.Update) error {
	s.mu.Lock()
	jb := s.byID[id]
	s.mu.Unlock()
	if jb == nil {
		return fmt.Errorf("job %s: %w", id, ErrUnknownJob)
	}
	worker := s.worker(jb)
	if worker == nil { // it may have been ready once
		return fmt.Errorf("job %s: %w", id, errEnded)
	}
	w, ok := worker.(env.Updater)
	if !ok {
		return fmt.Errorf("job %s: %w", id, errFixed)
	}
	select {
	case <-jb.ready:
	default:
		return fmt.Errorf("job %s is not ready", id)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A job that ends takes its updates with it.
	go func() {
		select {
		case <-jb.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return s.guard(func() error { return w.Update(ctx, u) })
}

// worker is what does the job, nil once that has ended.
func (s *jobs) worker(jb *job) env.Worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	return jb.worker
}

// stop asks the job to end and waits for it.
func (s *jobs) stop(ctx context.Context, id string) error {
	s.mu.Lock()
	jb := s.byID[id]
	s.mu.Unlock()
	if jb != nil {
		jb.cancel()
	}
	return s.wait(ctx, id)
}

// close stops every job, refuses new ones, and waits until all have ended.
func (s *jobs) close() {
	s.mu.Lock()
	s.closed = true
	for _, jb := range s.byID {
		jb.cancel()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (j *job) isReady() {
	j.readyAt = time.Now()
	close(j.ready)
}

// servers are the servers that have not ended.
func (s *jobs) servers() []*job {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*job
	for _, jb := range s.byID {
		select {
		case <-jb.ended:
		default:
			if jb.serve != nil {
				out = append(out, jb)
			}
		}
	}
	return out
}

// serving says whether there is a server, each has listened for as long as its
// pod needs to be ready, and none has ended.
func (s *jobs) serving() bool {
	list := s.servers()
	for _, jb := range list {
		select {
		case <-jb.ready:
		default:
			return false
		}
		if time.Since(jb.readyAt) < time.Duration(jb.serve.Lifecycle.ReadyAfter) {
			return false
		}
	}
	return len(list) > 0
}

// terminate does to each server what a SIGTERM does, and waits until all of
// them have ended. How long that takes is theirs to say: nobody but SIGKILL
// bounds it.
func (s *jobs) terminate() {
	var wg sync.WaitGroup
	for _, jb := range s.servers() {
		recorder{spool: s.spool, epoch: jb.epoch}.Record(runlog.Record{Event: &runlog.Event{
			Kind: "pod", Name: jb.serve.Backend, Detail: "sigterm",
			Fields: map[string]string{"service": jb.serve.Service, "addr": jb.serve.Addr.String()},
		}})
		wg.Go(func() {
			w, ok := s.worker(jb).(env.Updater)
			if !ok || s.guard(func() error { return w.Update(context.Background(), env.Update{Terminate: true}) }) != nil {
				jb.cancel()
			}
			<-jb.ended
		})
	}
	wg.Wait()
}

// running is how many jobs have not ended.
func (s *jobs) running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byID) - len(s.ended)
}

// recorder is one job's way into the spool. It knows the job's epoch.
type recorder struct {
	spool *Spool
	epoch int64
}

var _ env.Recorder = recorder{}

// Record is part of env.Recorder.
func (o recorder) Record(r runlog.Record) {
	if r.T == 0 {
		r.T = float64(monotonic()-o.epoch) / 1e9
	}
	o.spool.Append(r)
}

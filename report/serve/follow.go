package serve

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
)

const (
	// renderEvery is how often a live page has something new at most.
	renderEvery = 1500 * time.Millisecond
	// keepFor is how long a log that nobody looks at stays read.
	keepFor = 30 * time.Second
	// maxFollowed is how many logs are kept read at the same time.
	maxFollowed = 6
)

// A view is what a log shows at one moment of the run.
type view struct {
	version int
	ended   bool             // the log has an end, and it has been read
	read    int64            // bytes of the log that it shows
	final   *report.Findings // as for a log that ends here
	soFar   *report.Findings // as for a run that goes on
	err     error            // why the log is not read on
}

// state is that of a run as far as it can be shown: one whose end has been
// written and not been read yet is still going.
func (v view) state(run Run) State {
	switch {
	case v.ended:
		return Finished
	case run.State == Finished && v.soFar != nil && v.err == nil && v.read < run.size:
		return Running
	}
	return run.State
}

// of returns the findings that are true in a state.
func (v view) of(s State) *report.Findings {
	if s == Running && !v.ended {
		return v.soFar
	}
	return v.final
}

// A follower reads one run's log, and what is added to it.
type follower struct {
	dir    string
	log    runlog.Stat // when it was last looked at
	read   atomic.Int64
	cancel context.CancelFunc

	mu      sync.Mutex
	used    time.Time
	watched time.Time // by a page that shows what is new
	view    view
	first   chan struct{} // closed when there is a view
	drawn   time.Duration // what the last rendering took
}

// followers are the logs that are being looked at.
type followers struct {
	lib *library
	ctx context.Context //nolint:containedctx // the server's: followers outlive requests
	all sync.WaitGroup

	mu  sync.Mutex
	byd map[string]*follower
}

// get returns the follower of a run, and starts one where there is none.
func (fs *followers) get(dir string) (*follower, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	log, err := runlog.StatFS(fs.lib.root.FS(), dir)
	if err != nil {
		return nil, err //nolint:wrapcheck // it says what and where
	}
	if f := fs.byd[dir]; f != nil && f.current(log) {
		f.use()
		return f, nil
	}
	in, err := runlog.Open(fs.lib.root.FS(), dir)
	if err != nil {
		return nil, err //nolint:wrapcheck // it says what and where
	}
	fs.drop(dir)
	fs.makeRoom()
	ctx, cancel := context.WithCancel(fs.ctx)
	f := &follower{dir: dir, log: log, cancel: cancel, first: make(chan struct{}), used: time.Now()}
	fs.byd[dir] = f
	fs.all.Go(func() {
		defer in.Close()
		f.follow(ctx, in, fs.lib.anyRunning)
	})
	return f, nil
}

// current says whether the log is still the one that is being read: its last
// file is the same or, where it was that, has become a segment.
func (f *follower) current(now runlog.Stat) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Segments <= f.log.Segments && !os.SameFile(f.log.Last, now.Last) || now.Size < f.read.Load() {
		return false
	}
	f.log = now
	// One that has ended, or failed, is not read on.
	return f.view.err == nil && (!f.view.ended || now.Size == f.read.Load())
}

func (f *follower) use() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = time.Now()
}

// drop ends a follower. The caller holds fs.mu.
func (fs *followers) drop(dir string) {
	if f := fs.byd[dir]; f != nil {
		f.cancel()
		delete(fs.byd, dir)
	}
}

// makeRoom ends the follower that has not been used for longest where there
// are too many. The caller holds fs.mu.
func (fs *followers) makeRoom() {
	for len(fs.byd) >= maxFollowed {
		oldest := ""
		var at time.Time
		for dir, f := range fs.byd {
			if t := f.lastUse(); oldest == "" || t.Before(at) {
				oldest, at = dir, t
			}
		}
		fs.drop(oldest)
	}
}

func (f *follower) lastUse() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used
}

// tidy ends followers that nobody uses.
func (fs *followers) tidy(now time.Time) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for dir, f := range fs.byd {
		if now.Sub(f.lastUse()) > keepFor {
			fs.drop(dir)
		}
	}
}

// follow reads the log until its run has ended or ctx is done.
func (f *follower) follow(ctx context.Context, in io.Reader, slow func() bool) {
	defer f.cancel()
	a := report.NewAnalysis(&paced{ctx: ctx, in: in, slow: slow, done: func(n int) { f.read.Add(int64(n)) }})
	err := a.Follow(ctx, func() error {
		began := time.Now()
		final := a.Findings()
		soFar := a.SoFar(final)
		if soFar == final { // the run has ended
			f.show(view{final: final, ended: true, read: a.Offset()})
			return nil
		}
		f.show(view{final: final, soFar: soFar, read: a.Offset()})
		return f.pause(ctx, time.Since(began)+f.drawing())
	})
	switch {
	case err == nil:
	case ctx.Err() == nil:
		f.show(view{err: err})
	default:
		f.show(view{err: errors.New("the log is not followed any more: nobody looked at it, or the server ends")})
	}
}

// drawing is what the last rendering took.
func (f *follower) drawing() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.drawn
}

// show replaces the view. What went wrong leaves what was seen before.
func (f *follower) show(v view) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v.err != nil {
		v.final, v.soFar, v.read = f.view.final, f.view.soFar, f.view.read
	}
	v.version = f.view.version + 1
	v.ended = v.ended || v.err != nil && f.view.ended
	if f.view.version == 0 {
		close(f.first)
	}
	f.view = v
}

// pause waits until it is time for the next view: when the last one's cost is
// a small share of the time, and somebody watches.
func (f *follower) pause(ctx context.Context, took time.Duration) error {
	began := time.Now()
	// The garbage collector works on other CPUs at the same time.
	rest(ctx, max(took*3/2, renderEvery/4))
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < renderEvery || !f.isWatched() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // it is the caller's own
		}
	}
	return ctx.Err() //nolint:wrapcheck // it is the caller's own
}

// watch says that a page shows what is new.
func (f *follower) watch() view {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used, f.watched = time.Now(), time.Now()
	return f.view
}

func (f *follower) isWatched() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.watched) < 3*time.Second
}

// now returns the present view, after waiting for the first at most as long as
// ctx lets it, and wait where that is not 0.
func (f *follower) now(ctx context.Context, wait time.Duration) (view, bool) {
	if wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	select {
	case <-f.first:
		return f.watch(), true
	case <-ctx.Done():
		return view{}, false
	}
}

// progress is how much of the log has been read, 0 to 1.
func (f *follower) progress() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.log.Size <= 0 {
		return 1
	}
	return min(1, float64(f.read.Load())/float64(f.log.Size))
}

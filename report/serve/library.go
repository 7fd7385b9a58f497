package serve

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
)

const (
	// depth is how far below the folder runs are looked for: a folder of
	// folders of experiments has them at experiment/arm/trial below those.
	depth = 4
	// maxRuns is how many runs are listed.
	maxRuns = 2000
	// scanEvery is how often the folder is looked through at most.
	scanEvery = time.Second
	// quietFor is how long a log without an end may stand still before its run
	// is taken for dead. Logs of runs grow several times a second; only where
	// a large table is filled beforehand can it take longer.
	quietFor = 30 * time.Second
)

// State is what is known of whether a run is going on. Nobody asks its
// process: it may be on another machine.
type State string

const (
	Running  State = "running"  // its log has no end, and has grown lately
	Finished State = "finished" // its log has an end
	CutOff   State = "cut off"  // its log has no end and has stood still
)

// A Run is one line of the list.
type Run struct {
	Dir     string // below the folder, with slashes
	State   State
	Started string  // RFC 3339; empty where unknown
	Quiet   float64 // s since the log has grown
	// Summary is nil until the log has been read, and while the run is going.
	Summary  *Summary
	Scenario string
	Problem  string // why it cannot be read; empty where it can

	size int64 // of its log
}

// A library knows the runs of a folder.
type library struct {
	root *os.Root
	now  func() time.Time

	mu       sync.Mutex
	scanned  time.Time
	items    map[string]*item
	compared map[string]*Comparison
	hidden   bool // there are more than maxRuns
	problem  string
	wake     chan struct{}
}

// An item is what is kept of a run's log as long as it does not change.
type item struct {
	size    int64
	mod     time.Time
	grown   time.Time // when it was last seen to grow
	ended   bool      // it has a trailer
	head    head
	summary *Summary
	problem string
}

func newLibrary(root *os.Root) *library {
	return &library{root: root, now: time.Now, items: map[string]*item{}, wake: make(chan struct{}, 1)}
}

// list returns the runs, newest first, after a look at the folder where the
// last one is over a second old.
func (l *library) list() (runs []Run, more bool, problem string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rescan()
	for dir, it := range l.items {
		runs = append(runs, l.run(dir, it))
	}
	slices.SortFunc(runs, func(a, b Run) int {
		return cmp.Or(l.items[b.Dir].when().Compare(l.items[a.Dir].when()), cmp.Compare(a.Dir, b.Dir))
	})
	return runs, l.hidden, l.problem
}

// when is what runs are sorted by.
func (it *item) when() time.Time {
	if t, err := time.Parse(time.RFC3339Nano, it.head.Started); err == nil {
		return t
	}
	return it.mod
}

func (l *library) run(dir string, it *item) Run {
	r := Run{Dir: dir, State: l.state(it), Started: it.head.Started, Scenario: it.head.Scenario, Quiet: max(0, l.now().Sub(it.grown).Seconds()), Problem: it.problem, size: it.size}
	if r.State != Running {
		r.Summary = it.summary
	}
	return r
}

func (l *library) state(it *item) State {
	switch {
	case it.ended:
		return Finished
	case l.now().Sub(it.grown) < max(quietFor, 3*it.head.Every):
		return Running
	}
	return CutOff
}

// find looks at one run's log, whether or not it has been listed.
func (l *library) find(dir string) (Run, bool) {
	if !fs.ValidPath(dir) {
		return Run{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.items[dir]; !known {
		l.rescan()
	}
	if _, known := l.items[dir]; !known || !l.look(dir) {
		return Run{}, false
	}
	return l.run(dir, l.items[dir]), true
}

// anyRunning says whether a run of the folder is going on.
func (l *library) anyRunning() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, it := range l.items {
		if l.state(it) == Running {
			return true
		}
	}
	return false
}

// rescan scans where the last time is long enough ago.
func (l *library) rescan() {
	if now := l.now(); now.Sub(l.scanned) >= scanEvery {
		l.scan()
		l.scanned = now
	}
}

// scan looks for runs in the folder itself and some levels below it.
func (l *library) scan() {
	seen, compared := map[string]bool{}, map[string]*Comparison{}
	l.hidden, l.problem = false, ""
	err := fs.WalkDir(l.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && name == ".":
			return err
		case err != nil:
			return fs.SkipDir // not ours to read
		case !d.IsDir():
			return nil
		case name != "." && (d.Name()[0] == '.' || level(name) > depth):
			return fs.SkipDir
		case len(seen) >= maxRuns:
			l.hidden = true
			return fs.SkipAll
		}
		if l.look(name) {
			seen[name] = true
		}
		if c := l.lookComparison(name); c != nil {
			compared[name] = c
		}
		return nil
	})
	if err != nil {
		l.problem = fmt.Sprintf("look for runs: %v", err)
		return
	}
	l.compared = compared
	for dir := range l.items {
		if !seen[dir] {
			delete(l.items, dir)
		}
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func level(name string) (n int) {
	for ; name != "."; name = path.Dir(name) {
		n++
	}
	return n
}

// look reads what can be read at once of the run in dir: the log's first
// lines, its last one, and a summary that is not older. It says whether there
// is a run.
func (l *library) look(dir string) bool {
	log, err := runlog.StatFS(l.root.FS(), dir)
	if err != nil {
		delete(l.items, dir)
		return false
	}
	now, mod := l.now(), log.Last.ModTime()
	old := l.items[dir]
	if old != nil && old.size == log.Size && old.mod.Equal(mod) {
		return true
	}
	it := &item{size: log.Size, mod: mod, grown: mod}
	if old != nil || it.grown.After(now) {
		it.grown = now // whatever the clock of the file system says
	}
	l.items[dir] = it
	if it.head, it.ended, err = ends(l.root.FS(), dir, log); err != nil {
		it.problem = err.Error()
		return true
	}
	if old != nil && it.head == (head{}) {
		it.head = old.head
	}
	if l.state(it) != Running {
		it.summary = storedSummary(l.root, dir, it.mod)
	}
	return true
}

// unread is the newest run that has to be analysed for the list; empty for
// none.
func (l *library) unread() (dir string, size int64, mod time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var best *item
	for d, it := range l.items {
		if it.summary == nil && it.problem == "" && l.state(it) != Running && (best == nil || it.when().After(best.when())) {
			dir, best = d, it
		}
	}
	if best == nil {
		return "", 0, time.Time{}
	}
	return dir, best.size, best.mod
}

// read keeps the result of an analysis for the list, unless the log has
// changed meanwhile.
func (l *library) read(dir string, size int64, mod time.Time, f *report.Findings, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	it := l.items[dir]
	if it == nil || it.size != size || !it.mod.Equal(mod) {
		return
	}
	if err != nil {
		it.problem = err.Error()
		return
	}
	it.summary = summaryOf(f)
}

// readAll analyses, one after the other, the runs that need it, until ctx is
// done.
func (l *library) readAll(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second) // for runs that have died meanwhile
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-tick.C:
		}
		for ctx.Err() == nil {
			dir, size, mod := l.unread()
			if dir == "" {
				break
			}
			f, err := l.analyze(ctx, dir)
			if ctx.Err() == nil {
				l.read(dir, size, mod, f, err)
			}
		}
	}
}

func (l *library) analyze(ctx context.Context, dir string) (*report.Findings, error) {
	in, err := runlog.Open(l.root.FS(), dir)
	if err != nil {
		return nil, err //nolint:wrapcheck // it says what and where
	}
	defer in.Close()
	f, err := report.Analyze(&paced{ctx: ctx, in: in, slow: l.anyRunning})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	return f, nil
}

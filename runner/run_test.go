package runner_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/scenarios"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// work is a worker as a function.
type work func(ctx context.Context, ready func(), out env.Recorder) error

func (w work) Run(ctx context.Context, ready func(), out env.Recorder) error {
	return w(ctx, ready, out)
}

// untilStopped is ready at once and ends when it is told to.
func untilStopped(ctx context.Context, ready func(), _ env.Recorder) error {
	ready()
	<-ctx.Done()
	return nil
}

// oneBin sends a bin and ends.
func oneBin(_ context.Context, ready func(), out env.Recorder) error {
	ready()
	out.Record(runlog.Record{T: 0.1, Bin: &runlog.Bin{Traffic: "web", Width: 0.1, Due: 5, Started: 5, Outcomes: map[runlog.Outcome]uint64{runlog.OK: 5}}})
	return nil
}

// build runs loads as load does, everything else until it is stopped.
func build(load work) func(string, env.Job) (env.Worker, error) {
	return func(_ string, j env.Job) (env.Worker, error) {
		if j.Load != nil {
			return load, nil
		}
		return work(untilStopped), nil
	}
}

const yaml = `
name: fake
duration: 100ms
conntrack: {headroom: 10}
services: [{name: web, pods: 2}]
traffic: [{name: web, to: web, short_lived: {rate: 10/s}}]
`

func config(t *testing.T, f *envtest.Fake) runner.Config {
	t.Helper()
	s, err := scenarios.Parse("fake.yaml", []byte(yaml))
	require.NoError(t, err)
	f.Caps.Limit = 1000
	p, err := runner.NewPlan(s, f.Caps)
	require.NoError(t, err)
	return runner.Config{Env: f, Plan: p, Dir: t.TempDir(), StateDir: t.TempDir(), RunID: "r1", Version: "test"}
}

func records(t *testing.T, dir string) []runlog.Record {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, runlog.FileName))
	require.NoError(t, err)
	defer f.Close()
	var out []runlog.Record
	r := runlog.NewReader(f)
	for {
		rec, err := r.Next()
		if err != nil {
			break
		}
		out = append(out, rec)
	}
	require.Empty(t, r.Problems(), "records are numbered without gaps")
	require.False(t, r.Truncated())
	return out
}

func journals(t *testing.T, c runner.Config) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(c.StateDir, "*"))
	require.NoError(t, err)
	return names
}

func TestRunLogIsWhole(t *testing.T) {
	f := &envtest.Fake{Build: build(oneBin)}
	c := config(t, f)
	require.NoError(t, runner.Run(t.Context(), c))
	recs := records(t, c.Dir)
	require.NotNil(t, recs[0].Header, "first")
	last := recs[len(recs)-1]
	require.NotNil(t, last.Trailer, "last")
	assert.Equal(t, "completed", last.Trailer.Outcome)
	assert.True(t, last.Trailer.Restored)
	assert.Equal(t, uint64(1), last.Trailer.Records["client"])
	var due uint64
	for _, r := range recs {
		if r.Bin != nil {
			due += r.Bin.Due
		}
	}
	assert.Equal(t, uint64(5), due)
	assert.True(t, f.Closed)
	assert.Empty(t, journals(t, c), "the journal is gone with what it was for")
}

func TestFailureInSetUpLeavesNothing(t *testing.T) {
	boom := errors.New("boom")
	for name, f := range map[string]*envtest.Fake{
		"the lab": {UpErr: boom},
		"ballast": {Build: func(_ string, j env.Job) (env.Worker, error) {
			if j.Ballast != nil {
				return nil, boom
			}
			return work(untilStopped), nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t, f)
			require.ErrorIs(t, runner.Run(t.Context(), c), boom)
			assert.Empty(t, journals(t, c))
			left, err := os.ReadDir(c.Dir)
			require.NoError(t, err)
			assert.Empty(t, left, "no log of a run that never was")
			assert.Equal(t, f.UpErr == nil, f.Closed)
		})
	}
}

// An agent that dies ends the run, and the log says which one it was.
func TestAgentLost(t *testing.T) {
	f := &envtest.Fake{}
	f.Build = build(func(ctx context.Context, ready func(), _ env.Recorder) error {
		ready()
		f.Kill("web-1")
		<-ctx.Done()
		return nil
	})
	c := config(t, f)
	require.NoError(t, runner.Run(t.Context(), c), "the log tells it")
	recs := records(t, c.Dir)
	tr := recs[len(recs)-1].Trailer
	require.NotNil(t, tr)
	assert.Equal(t, "failed", tr.Outcome)
	assert.Contains(t, tr.Error, "web-1")
}

// One that dies while it is asked for its last records leaves a log that is
// not whole, and that must not look as if it were.
func TestAgentLostInTheEnd(t *testing.T) {
	f := &envtest.Fake{}
	f.Build = func(host string, j env.Job) (env.Worker, error) {
		switch {
		case j.Load != nil:
			return work(oneBin), nil
		case host == "web-1" && j.Serve != nil:
			return work(func(ctx context.Context, ready func(), _ env.Recorder) error {
				ready()
				<-ctx.Done()
				f.Kill("web-1")
				return nil
			}), nil
		}
		return work(untilStopped), nil
	}
	c := config(t, f)
	require.NoError(t, runner.Run(t.Context(), c), "the log tells it")
	recs := records(t, c.Dir)
	tr := recs[len(recs)-1].Trailer
	require.NotNil(t, tr)
	assert.Equal(t, "failed", tr.Outcome)
	assert.Contains(t, tr.Error, "web-1")
}

type panicking struct{ *envtest.Fake }

func (panicking) Up(_ context.Context, t env.Topology) (env.Lab, error) {
	if err := os.Mkdir(t.WorkDir, 0o700); err != nil {
		return nil, err
	}
	panic("a bug")
}

func TestPanicPutsBack(t *testing.T) {
	c := config(t, &envtest.Fake{})
	c.Env = panicking{&envtest.Fake{}}
	assert.PanicsWithValue(t, "a bug", func() { _ = runner.Run(t.Context(), c) })
	assert.Empty(t, journals(t, c))
	assert.NoDirExists(t, filepath.Join(c.Dir, ".agents"))
}

// The journal is replayed from wherever the user happens to be.
func TestJournalPathsAreAbsolute(t *testing.T) {
	c := config(t, &envtest.Fake{})
	t.Chdir(c.Dir)
	c.Dir = "."
	c.Env = seen{&envtest.Fake{UpErr: errors.New("boom")}, func(env.Topology) {
		for _, name := range journals(t, c) {
			b, err := os.ReadFile(name)
			require.NoError(t, err)
			assert.Contains(t, string(b), `"remove_dir":"/`)
		}
	}}
	require.Error(t, runner.Run(t.Context(), c))
}

type seen struct {
	*envtest.Fake
	up func(env.Topology)
}

func (s seen) Up(ctx context.Context, t env.Topology) (env.Lab, error) {
	s.up(t)
	return s.Fake.Up(ctx, t)
}

// Two runs must not both change one setting: the second would put the first
// one's value back as if it were the original.
func TestOneRunAtATimeChangesASetting(t *testing.T) {
	target := filepath.Join(t.TempDir(), "value")
	require.NoError(t, os.WriteFile(target, []byte("7"), 0o600))
	dir := t.TempDir()
	a, err := runner.OpenJournal(dir, "a")
	require.NoError(t, err)
	b, err := runner.OpenJournal(dir, "b")
	require.NoError(t, err)
	require.NoError(t, a.LockFor(target))
	require.ErrorContains(t, b.LockFor(target), "another run")
	require.NoError(t, a.Undo())
	require.NoError(t, b.LockFor(target))
	require.NoError(t, b.Undo())
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	stopped := false
	f := &envtest.Fake{Build: build(func(jctx context.Context, ready func(), _ env.Recorder) error {
		ready()
		cancel()
		<-jctx.Done()
		stopped = true
		return nil
	})}
	c := config(t, f)
	require.NoError(t, runner.Run(ctx, c))
	recs := records(t, c.Dir)
	tr := recs[len(recs)-1].Trailer
	require.NotNil(t, tr)
	assert.Equal(t, "interrupted", tr.Outcome)
	assert.True(t, tr.Restored)
	assert.True(t, stopped, "the load was stopped, not abandoned")
	assert.Empty(t, journals(t, c))
}

// A log that cannot be written ends the run with an error, not a half truth.
func TestDiskFull(t *testing.T) {
	f := &envtest.Fake{Build: build(untilStopped)}
	c := config(t, f)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer full.Close()
	err = runner.RunTo(t.Context(), c, full)
	require.Error(t, err)
	assert.Contains(t, err.Error(), "no space left")
	assert.True(t, f.Closed)
	assert.Empty(t, journals(t, c))
}

func TestJournalRestores(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(t.TempDir(), "value")
	require.NoError(t, os.WriteFile(target, []byte("7"), 0o600))
	work := filepath.Join(t.TempDir(), "work")
	require.NoError(t, os.Mkdir(work, 0o700))
	j, err := runner.OpenJournal(dir, "r1")
	require.NoError(t, err)
	require.NoError(t, j.Plan(runner.Undo{WriteFile: &runner.WriteFile{Path: target, Value: "7"}}))
	require.NoError(t, j.Plan(runner.Undo{RemoveDir: work}))
	require.NoError(t, os.WriteFile(target, []byte("9"), 0o600))

	live, err := runner.Restore(dir)
	require.NoError(t, err)
	require.Len(t, live, 1)
	assert.True(t, live[0].Alive, "its run is still going")
	assert.FileExists(t, filepath.Join(dir, "r1.journal"))

	j.Abandon() // as a kill does
	done, err := runner.Restore(dir)
	require.NoError(t, err)
	require.Len(t, done, 1)
	require.NoError(t, done[0].Err)
	b, err := os.ReadFile(target)
	require.NoError(t, err)
	assert.Equal(t, "7", string(b))
	assert.NoDirExists(t, work)
	assert.NoFileExists(t, filepath.Join(dir, "r1.journal"))
}

// A line that was cut off by a crash belongs to a change that was not made.
func TestJournalCutOff(t *testing.T) {
	dir := t.TempDir()
	work := filepath.Join(t.TempDir(), "work")
	require.NoError(t, os.Mkdir(work, 0o700))
	text := `{"remove_dir":"` + work + `"}` + "\n" + `{"write_file":{"path":"/pr`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "r2.journal"), []byte(text), 0o600))
	done, err := runner.Restore(dir)
	require.NoError(t, err)
	require.Len(t, done, 1)
	require.NoError(t, done[0].Err)
	assert.NoDirExists(t, work)
}

func TestUndoGoesOnPastErrors(t *testing.T) {
	dir := t.TempDir()
	work := filepath.Join(t.TempDir(), "work")
	require.NoError(t, os.Mkdir(work, 0o700))
	j, err := runner.OpenJournal(dir, "r3")
	require.NoError(t, err)
	require.NoError(t, j.Plan(runner.Undo{RemoveDir: work}))
	require.NoError(t, j.Plan(runner.Undo{WriteFile: &runner.WriteFile{Path: filepath.Join(dir, "no", "such"), Value: "1"}}))
	err = j.Undo()
	require.Error(t, err)
	assert.Contains(t, err.Error(), "by hand: echo 1 >", "says how")
	assert.NoDirExists(t, work)
	assert.FileExists(t, filepath.Join(dir, "r3.journal"), "kept for another try")
}

// A setting that somebody else has changed meanwhile is theirs; one of before
// a reboot is nobody's.
func TestUndoLeavesWhatIsNotOurs(t *testing.T) {
	target := filepath.Join(t.TempDir(), "setting")
	for name, c := range map[string]struct {
		undo runner.WriteFile
		now  string
		want string
		err  string
	}{
		"ours":          {runner.WriteFile{Value: "7", Ours: "9"}, "9", "7", ""},
		"old already":   {runner.WriteFile{Value: "7", Ours: "9"}, "7", "7", ""},
		"somebody's":    {runner.WriteFile{Value: "7", Ours: "9"}, "8", "8", "it reads 8, and the run wrote 9: somebody else has changed it since, so it was left alone"},
		"other boot":    {runner.WriteFile{Value: "7", Ours: "9", Boot: "another"}, "9", "9", ""},
		"older journal": {runner.WriteFile{Value: "7"}, "8", "7", ""},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(target, []byte(c.now+"\n"), 0o600))
			dir := t.TempDir()
			j, err := runner.OpenJournal(dir, "r")
			require.NoError(t, err)
			c.undo.Path = target
			require.NoError(t, j.Plan(runner.Undo{WriteFile: &c.undo}))
			err = j.Undo()
			if c.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.err)
			}
			again, err := runner.Restore(dir)
			require.NoError(t, err)
			assert.Empty(t, again, "it is said once")
			b, err := os.ReadFile(target)
			require.NoError(t, err)
			assert.Equal(t, c.want, strings.TrimSpace(string(b)))
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	s, err := scenarios.Parse("x.yaml", []byte(strings.Replace(yaml, "headroom: 10", "headroom: 5000", 1)))
	require.NoError(t, err)
	p, err := runner.NewPlan(s, env.Capabilities{Limit: 1000, List: []env.Capability{{Name: "netns", State: env.No, Reason: "no namespaces here"}}})
	require.NoError(t, err)
	var u *runner.Unsupported
	require.ErrorAs(t, p.Err(), &u)
	assert.Len(t, u.Reasons, 2)
}

func TestPlanSeedIsRecorded(t *testing.T) {
	s, err := scenarios.Parse("x.yaml", []byte(yaml))
	require.NoError(t, err)
	p, err := runner.NewPlan(s, env.Capabilities{Limit: 1000})
	require.NoError(t, err)
	assert.NotZero(t, p.Seed)
	assert.Less(t, p.Seed, uint64(1)<<53)
	assert.InDelta(t, 0.1, p.Traffic[0].End, 1e-9)
}

package proxy

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// said is what a pause has recorded.
type said struct{ events []string }

func (s *said) Record(r runlog.Record) {
	s.events = append(s.events, r.Event.Kind+" "+r.Event.Name+" "+r.Event.Detail)
}

// sleeper is a process that would run for a minute, and a pause of it.
func sleeper(t *testing.T, limit float64) (*exec.Cmd, procID, *pause) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	start, err := started(cmd.Process.Pid)
	require.NoError(t, err)
	x := procID{cmd.Process.Pid, start}
	job := env.PauseJob{Node: "a", Container: strings.Repeat("c", minContainerID), Program: "sleep", For: limit, Journal: filepath.Join(t.TempDir(), "stopped")}
	return cmd, x, &pause{job, func() ([]procID, error) { return []procID{x}, nil }}
}

// It stands while the job goes on, and what would let it go on if we were killed
// is on disk; afterwards it runs and nothing is left.
func TestPause(t *testing.T) {
	for name, c := range map[string]struct {
		limit  float64
		during func(cancel context.CancelFunc, x procID, cmd *exec.Cmd)
		after  procState
		says   []string
	}{
		"stopped":           {60, func(cancel context.CancelFunc, _ procID, _ *exec.Cmd) { cancel() }, moving, []string{"proxy paused ", "proxy resumed "}},
		"dead man's switch": {0.05, func(context.CancelFunc, procID, *exec.Cmd) {}, moving, []string{"proxy paused ", "warning proxy sleep on node a goes on: nobody has said that it shall for 0.05 s", "proxy resumed "}},
		"somebody else": {
			60, func(_ context.CancelFunc, x procID, _ *exec.Cmd) { _ = x.signal(syscall.SIGCONT) }, moving,
			[]string{"proxy paused ", "warning proxy sleep on node a goes on: somebody else has let it", "proxy resumed "},
		},
		"a signal meanwhile": {60, func(cancel context.CancelFunc, _ procID, cmd *exec.Cmd) {
			_ = cmd.Process.Signal(syscall.SIGTERM) // which it does not hear yet
			cancel()
		}, gone, []string{"proxy paused ", "proxy resumed "}},
		"killed": {60, func(_ context.CancelFunc, _ procID, cmd *exec.Cmd) { _ = cmd.Process.Kill() }, gone, []string{"proxy paused ", "proxy ended "}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd, x, p := sleeper(t, c.limit)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out, readyAt := &said{}, procState(-1)
			require.NoError(t, p.Run(ctx, func() {
				readyAt = x.state()
				b, err := os.ReadFile(p.Journal)
				assert.NoError(t, err)
				assert.Contains(t, string(b), " ")
				c.during(cancel, x, cmd)
			}, out))
			assert.Equal(t, standing, readyAt)
			assert.Eventually(t, func() bool { return x.state() == c.after }, 5*time.Second, time.Millisecond)
			assert.Equal(t, c.says, out.events)
			assert.NoFileExists(t, p.Journal)
		})
	}
}

// What an agent that was killed has left stopped goes on when it starts again;
// a process that merely has the same number is left alone.
func TestUnpause(t *testing.T) {
	_, x, p := sleeper(t, 60)
	require.NoError(t, writeStopped(p.Journal, []procID{x}))
	require.ErrorIs(t, writeStopped(p.Journal, []procID{x}), os.ErrExist, "one pause at a time")
	require.NoError(t, stop([]procID{x}))
	require.NoError(t, Unpause(p.Journal))
	assert.Equal(t, moving, x.state())
	assert.NoFileExists(t, p.Journal)
	require.NoError(t, Unpause(p.Journal), "nothing is left")
	require.NoError(t, Unpause(""))

	require.NoError(t, stop([]procID{x}))
	other := procID{x.pid, x.start + 1}
	assert.Equal(t, gone, other.state())
	require.NoError(t, os.WriteFile(p.Journal, []byte("not a number\n"), 0o600))
	require.NoError(t, Unpause(p.Journal))
	require.ErrorIs(t, other.signal(syscall.SIGCONT), os.ErrProcessDone)
	time.Sleep(10 * time.Millisecond)
	assert.Equal(t, standing, x.state())
}

// A process is looked for by its container and its name, both.
func TestProcessesOf(t *testing.T) {
	_, err := processesOf(strings.Repeat("c", minContainerID), "sleep")
	assert.ErrorContains(t, err, "has no process of that name here")
	_, err = NewPause(env.Job{Pause: &env.PauseJob{Container: "0", Program: "sleep", Journal: "j", For: 1}})
	assert.Error(t, err, "that would be in the name of every control group")
	cmd, x, _ := sleeper(t, 60)
	group, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	line, _, _ := strings.Cut(string(group), "\n") // which the child shares
	list, err := processesOf(line, "sleep")
	require.NoError(t, err)
	assert.Contains(t, list, x, cmd.String())
	_, err = processesOf(line, "slee")
	assert.Error(t, err)
}

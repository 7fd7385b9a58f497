package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/hinshun/vt10x"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/scenarios"
)

// before is what was on the terminal before the program started.
const before = "$ what was there before\r\n"

// A terminal emulates one around the program, which has it as its controlling
// terminal.
type terminal struct {
	t         *testing.T
	pty, tty  *os.File
	vt        vt10x.Terminal
	modes     unix.Termios // before the program
	read      chan struct{}
	mu        sync.Mutex
	raw       strings.Builder
	alternate []string // top lines of the alternate screen, each once
	tops      string   // what they may be
}

func newTerminal(t *testing.T, cols, rows int) *terminal {
	t.Helper()
	p, tty, err := pty.Open()
	require.NoError(t, err)
	x := &terminal{
		t: t, pty: p, tty: tty, vt: vt10x.New(vt10x.WithSize(cols, rows)), read: make(chan struct{}),
		tops: `^$|^(tablefull short-lived|(setting up|traffic|draining|putting back)( short-lived)?|stopping)`,
	}
	x.resize(cols, rows)
	modes, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	require.NoError(t, err)
	x.modes = *modes
	_, _ = io.WriteString(x.vt, before)
	go func() {
		defer close(x.read)
		buf := make([]byte, 64<<10)
		for {
			n, err := p.Read(buf)
			x.take(buf[:n])
			if err != nil {
				return // EIO: nobody has the terminal open any more
			}
		}
	}()
	t.Cleanup(func() { tty.Close(); <-x.read; p.Close() })
	return x
}

func (x *terminal) take(b []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.raw.Write(b)
	_, _ = x.vt.Write(b)
	if x.vt.Mode()&vt10x.ModeAltScreen != 0 {
		top := x.line(0)
		if k := len(x.alternate); k == 0 || x.alternate[k-1] != top {
			x.alternate = append(x.alternate, top)
		}
	}
}

func (x *terminal) resize(cols, rows int) {
	x.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.vt.Resize(cols, rows)
	require.NoError(x.t, pty.Setsize(x.pty, &pty.Winsize{Cols: uint16(cols), Rows: uint16(rows)}))
}

// line needs mu.
func (x *terminal) line(y int) string {
	cols, _ := x.vt.Size()
	var b strings.Builder
	for i := range cols {
		if c := x.vt.Cell(i, y).Char; c != 0 {
			b.WriteRune(c)
		} else {
			b.WriteByte(' ')
		}
	}
	return strings.TrimRight(b.String(), " ")
}

func (x *terminal) lines() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, rows := x.vt.Size()
	var out []string
	for y := range rows {
		out = append(out, x.line(y))
	}
	return out
}

func (x *terminal) screen() string { return strings.Join(x.lines(), "\n") }

// await waits until the screen holds each of what.
func (x *terminal) await(what ...string) string {
	x.t.Helper()
	var s string
	require.Eventually(x.t, func() bool {
		s = x.screen()
		for _, w := range what {
			if !strings.Contains(s, w) {
				return false
			}
		}
		return true
	}, 30*time.Second, 50*time.Millisecond, "waiting for %q", what)
	return s
}

// start runs the program on the terminal.
func (x *terminal) start(state string, args ...string) *exec.Cmd {
	x.t.Helper()
	c, _ := program(x.t, state, args...)
	c.Env = append(c.Env, "TERM=xterm-256color", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "CI=")
	c.Stdin, c.Stdout, c.Stderr = x.tty, x.tty, x.tty
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(x.t, c.Start())
	return c
}

func (x *terminal) key(s string) {
	x.t.Helper()
	_, err := io.WriteString(x.pty, s)
	require.NoError(x.t, err)
}

// said is all that the program has written.
func (x *terminal) said() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.raw.String()
}

// assertSaid does not print all that was said where pattern is not in it.
func (x *terminal) assertSaid(pattern, what string) {
	x.t.Helper()
	assert.True(x.t, regexp.MustCompile(pattern).MatchString(x.said()), "%s: %s", what, pattern)
}

// assertRestored looks at the terminal after the program.
func (x *terminal) assertRestored() {
	x.t.Helper()
	require.Eventually(x.t, func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.vt.Mode()&vt10x.ModeAltScreen == 0 && x.vt.CursorVisible()
	}, 10*time.Second, 10*time.Millisecond, "the usual screen, and a cursor")
	now, err := unix.IoctlGetTermios(int(x.tty.Fd()), unix.TCGETS)
	require.NoError(x.t, err)
	assert.Equal(x.t, x.modes, *now, "terminal modes")
	x.mu.Lock()
	defer x.mu.Unlock()
	assert.False(x.t, strings.Contains(x.raw.String(), "goroutine "), "no panic")
	for _, top := range x.alternate {
		// The screen would have scrolled if anything else came to stand here.
		assert.Regexp(x.t, x.tops, top)
	}
}

// A run is shown at any size, in place; and at the end the terminal holds what
// it held before, and the summary.
func TestLiveView(t *testing.T) {
	needLab(t)
	x := newTerminal(t, 80, 24)
	c := x.start(t.TempDir(), "run", "short-lived", "--out", filepath.Join(t.TempDir(), "out"), "--set", "duration=10s", "--set", "conntrack.headroom=700")
	x.await("[setting up]", "... ")
	s := x.await("[traffic]", "of 262,144 entries", "so far", "phase traffic")
	assert.Contains(t, s, "Ctrl-C: stop")
	x.resize(20, 5)
	x.await("traffic short-lived", "node1", "/s ok")
	x.resize(200, 60)
	s = x.await("FULL", "connect_timeout", "drop +")
	assert.Contains(t, strings.Split(s, "\n")[2], " of 10.0 s, ")
	_ = c.Wait()
	x.assertSaid(`\[putting back\]`, "however short it was")
	x.assertRestored()
	// A machine that is busy with something else makes it inconclusive.
	assert.Contains(t, []int{exitFail, exitInconclusive}, c.ProcessState.ExitCode(), x.screen())
	x.await("tablefull: report: ")
	assert.NotContains(t, x.screen(), "Ctrl-C", "the view has gone")
	x.assertSaid(`\x1b\[\?1049l\x1b\[1m\S.*\r\n`, "the headline follows the view")
	assert.Equal(t, 1, strings.Count(x.said(), "\x1b[?1049h"), "it came once")
	x.assertSaid(`verdict of short-lived: \x1b\[1;3[13]m(fail|inconclusive)\x1b\[0m`, "the summary is coloured")
}

// Ctrl-C is what SIGINT is: once, everything is put back, and one sees it.
func TestLiveViewInterruptedOnce(t *testing.T) {
	needLab(t)
	machine := lookAround(t)
	x := newTerminal(t, 200, 24) // wide: steps name temporary directories, which are long
	c := x.start(t.TempDir(), "run", "short-lived", "--out", filepath.Join(t.TempDir(), "out"), "--set", "duration=30s")
	x.await("[setting up]")
	x.key("typed ahead")
	x.await("[traffic]", "so far")
	x.key("\x03")
	_ = c.Wait()
	x.assertSaid(`stopping, putting things back`, "what is going on")
	x.assertSaid(`\[putting back\]`, "however short it was")
	x.assertSaid(`Ctrl-C again`, "the way out")
	x.assertRestored()
	x.assertSaid(`ok  (\x1b\[0m)?stop ballast on node1`, "a step")
	x.assertSaid(`ok  (\x1b\[0m)?rm -r \S+/\.agents`, "the last step")
	assert.Equal(t, exitInconclusive, c.ProcessState.ExitCode(), x.screen())
	x.await("tablefull: report: ")
	x.assertSaid(`verdict of short-lived`, "the report")
	x.assertSaid(`tablefull: stopping, putting things back; once more`, "the scrollback says it too")
	assert.False(t, strings.Contains(x.said(), "typed ahead"), "no echo over the view")
	assertAsBefore(t, machine)
}

// Twice leaves at once: the terminal is as it was, and the way back is named.
// NO_COLOR takes the colours and leaves the view.
func TestLiveViewInterruptedTwice(t *testing.T) {
	needLab(t)
	machine := lookAround(t)
	x := newTerminal(t, 80, 24)
	state := t.TempDir()
	t.Setenv("NO_COLOR", "1")
	c := x.start(state, "run", "short-lived", "--out", filepath.Join(t.TempDir(), "out"), "--set", "duration=30s")
	x.await("[traffic]", "so far")
	x.key("\x03")
	x.await("stopping, putting things back")
	x.key("\x03")
	_ = c.Wait()
	x.assertRestored()
	assert.Equal(t, exitDirty, c.ProcessState.ExitCode(), x.screen())
	x.await(strings.TrimSpace(before), "left at once; put back what may remain with: tablefull restore")
	assert.False(t, regexp.MustCompile(`\x1b\[[0-9;]*[1-9]m`).MatchString(x.said()), "no colours")
	r, out := program(t, state, "restore")
	require.NoError(t, r.Run(), out.String())
	assertAsBefore(t, machine)
}

// A terminal that goes away stops the run in order, though it says so twice.
func TestLiveViewHungUp(t *testing.T) {
	needLab(t)
	// Under nohup it would be ignored, and rightly so; a signal that is caught
	// here has its default action in the program.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	machine := lookAround(t)
	x := newTerminal(t, 80, 24)
	dir := filepath.Join(t.TempDir(), "out")
	c := x.start(t.TempDir(), "run", "short-lived", "--out", dir, "--set", "duration=30s")
	x.await("[traffic]", "so far")
	require.NoError(t, c.Process.Signal(syscall.SIGHUP))
	_ = c.Process.Signal(syscall.SIGHUP) // it may have ended already
	_ = c.Wait()
	x.assertRestored()
	x.assertSaid(`stopping, putting things back`, "what is going on")
	assert.Equal(t, exitInconclusive, c.ProcessState.ExitCode(), x.screen())
	f, err := analyzeDir(dir)
	require.NoError(t, err)
	assert.True(t, *f.Restored)
	assertAsBefore(t, machine)
}

// panicking is an environment with a mistake in it.
type panicking struct{ env.Environment }

func (panicking) Up(context.Context, env.Topology) (env.Lab, error) { panic("a mistake") }

// A panic gives the terminal back, and then is told.
func TestLiveViewPanic(t *testing.T) {
	x := newTerminal(t, 80, 24)
	s, err := scenarios.Parse("x.yaml", []byte("name: short-lived\nservices: [{name: web}]\ntraffic: [{to: web, short_lived: {rate: 1/s}}]\nduration: 1s\n"))
	require.NoError(t, err)
	p, err := runner.NewPlan(s, env.Capabilities{Limit: 1000})
	require.NoError(t, err)
	t.Setenv("TERM", "xterm")
	t.Setenv("CI", "")
	talk := &talk{file: x.tty}
	cfg := runner.Config{Env: panicking{&envtest.Fake{}}, Plan: p, Dir: t.TempDir(), StateDir: t.TempDir(), RunID: "r1"}
	assert.PanicsWithValue(t, "a mistake", func() {
		_ = runShown(t.Context(), cfg, false, Streams{Err: talk})
	})
	x.assertSaid(`\x1b\[\?1049h`, "there was a view")
	x.assertRestored()
}

// Where a view is no use there is none.
func TestNoLiveView(t *testing.T) {
	x := newTerminal(t, 80, 24)
	on := func(err io.Writer, vars map[string]string) bool {
		_, ok := liveOn(err, func(name string) string { return vars[name] })
		return ok
	}
	tty := &talk{file: x.tty}
	assert.True(t, on(tty, map[string]string{"TERM": "xterm"}))
	assert.True(t, on(tty, map[string]string{"TERM": "xterm", "NO_COLOR": "1"}))
	assert.False(t, on(tty, map[string]string{"TERM": "dumb"}))
	assert.False(t, on(tty, nil), "no TERM")
	assert.False(t, on(tty, map[string]string{"TERM": "xterm", "CI": "true"}))
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer func() { require.NoError(t, errors.Join(r.Close(), w.Close())) }()
	assert.False(t, on(&talk{file: w}, map[string]string{"TERM": "xterm"}), "a pipe")
	assert.False(t, on(io.Discard, map[string]string{"TERM": "xterm"}))
}

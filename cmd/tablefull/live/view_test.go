//go:build linux

package live

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the guard, and what is guarded.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == GuardArg:
		Guard(os.Stdin, os.Stderr)
	case os.Getenv("TABLEFULL_TEST_CRASH") != "":
		crash()
	default:
		goleak.VerifyTestMain(m)
	}
}

// crash shows a view and ends in a way that nothing in the process can catch.
func crash() {
	if _, err := Start(os.Stderr, full(), Frame, Style{}, "/proc/self/exe", "do: tablefull restore"); err != nil {
		panic(err)
	}
	if os.Getenv("TABLEFULL_TEST_CRASH") == "kill" {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	go func() { panic("a mistake elsewhere") }()
	select {}
}

// screen is a terminal whose output is kept.
type screen struct {
	pty, tty *os.File
	mu       sync.Mutex
	said     strings.Builder
}

func newScreen(t *testing.T) *screen {
	t.Helper()
	p, tty, err := pty.Open()
	require.NoError(t, err)
	s := &screen{pty: p, tty: tty}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(s, p) // until nobody has it open any more
	}()
	t.Cleanup(func() { tty.Close(); <-ended; p.Close() })
	return s
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.Write(b)
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said.String()
}

func (s *screen) await(t *testing.T, what string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(s.text(), what) }, 30*time.Second, 5*time.Millisecond, "%q", what)
}

func (s *screen) modes(t *testing.T) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(s.tty.Fd()), unix.TCGETS)
	require.NoError(t, err)
	return *m
}

// After a panic of some goroutine, and after a kill, the guard gives the
// terminal back.
func TestCrashRestoresTheTerminal(t *testing.T) {
	for how, want := range map[string]string{"panic": "panic: a mistake elsewhere", "kill": "tablefull restore"} {
		t.Run(how, func(t *testing.T) {
			s := newScreen(t)
			was := s.modes(t)
			c := exec.Command("/proc/self/exe")
			c.Env = append(os.Environ(), "TABLEFULL_TEST_CRASH="+how)
			c.Stderr = s.tty
			require.Error(t, c.Run())
			s.await(t, "tablefull restore")
			assert.Equal(t, was, s.modes(t))
			_, after, found := strings.Cut(s.text(), leave)
			require.True(t, found)
			assert.Contains(t, after, want)
		})
	}
}

// Only what changed is written; closing gives everything back, more than once
// is harmless, and nothing is painted after it.
func TestViewPaintsWhatChanged(t *testing.T) {
	s := newScreen(t)
	was := s.modes(t)
	v, err := Start(s.tty, full(), Frame, Style{}, "/proc/self/exe", "do: tablefull restore")
	require.NoError(t, err)
	s.await(t, "Ctrl-C: stop")
	s.await(t, endFrame)
	assert.Zero(t, s.modes(t).Lflag&unix.ECHO)
	assert.NotZero(t, s.modes(t).Lflag&unix.ISIG, "Ctrl-C stays a signal")
	before := len(s.text())
	v.Show(func(st *State) { st.T = 5.7 })
	s.await(t, "5.7 s of 10.0 s")
	s.await(t, endFrame)
	assert.NotContains(t, s.text()[before:], "clients", "a line that did not change")
	require.NoError(t, v.Close())
	require.NoError(t, v.Close())
	v.Show(func(st *State) { st.T = 6.7 })
	s.await(t, leave)
	assert.NotContains(t, s.text(), "6.7 s")
	assert.Equal(t, was, s.modes(t))
}

// A mistake in painting ends the view, not the run, and is told at the end.
func TestViewSurvivesItself(t *testing.T) {
	s := newScreen(t)
	st := full()
	v, err := Start(s.tty, st, Frame, Style{}, "/proc/self/exe", "")
	require.NoError(t, err)
	v.mu.Lock()
	v.draw = func(State, int, int, Style) []string { panic("a mistake") }
	v.mu.Unlock()
	v.Show(func(*State) {})
	s.await(t, leave)
	v.Show(func(*State) {})
	assert.ErrorContains(t, v.Close(), "the live view failed: a mistake")
	assert.Equal(t, 1, strings.Count(s.text(), leave))
}

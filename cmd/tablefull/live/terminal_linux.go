package live

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// IsTerminal says whether f is one.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Usable says whether f is a terminal that this process may paint on: one that
// stops background jobs which change its modes is not.
func Usable(f *os.File) bool {
	if !IsTerminal(f) {
		return false
	}
	foreground, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	// The error is that it is not our controlling terminal: nobody stops us.
	return err != nil || foreground == unix.Getpgrp()
}

// modes is how a terminal was.
type modes struct{ was unix.Termios }

// quiet switches off what would write over the screen (the echo of keys) or
// leave it half painted (the key that suspends).
func quiet(f *os.File) (*modes, error) {
	was, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	m := &modes{was: *was}
	was.Lflag &^= unix.ECHO | unix.ECHONL
	was.Lflag |= unix.NOFLSH // else Ctrl-C throws away what is being painted, and what was typed
	was.Cc[unix.VSUSP] = 0   // _POSIX_VDISABLE
	return m, unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, was)
}

func (m *modes) restore(f *os.File) {
	// Fails only where the terminal has gone.
	_ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &m.was)
}

// size is that of the screen; where it does not say, the usual one.
func size(f *os.File) (width, height int) {
	w, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || w.Col == 0 || w.Row == 0 {
		return 80, 24
	}
	return int(w.Col), int(w.Row)
}

// onResize tells of a new size, until stop.
func onResize() (resized <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGWINCH)
	return c, func() { signal.Stop(c) }
}

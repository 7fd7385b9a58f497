//go:build linux

package traffic

import (
	"errors"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
)

// outcomeOf tells what err, from a socket, means for an attempt.
func outcomeOf(err error, connecting bool) runlog.Outcome {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return runlog.Refused
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return runlog.Reset
	case errors.Is(err, unix.ETIMEDOUT):
		// The kernel gave up: on the SYN, or on data or a keep-alive probe.
		if connecting {
			return runlog.ConnectTimeout
		}
		return runlog.ResponseTimeout
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return runlog.Unreachable
	case errors.Is(err, unix.EPERM):
		return runlog.NotPermitted
	}
	return runlog.Other
}

// notStartedFor tells whether err, from making, binding or connecting a
// socket, is this host's own shortage, and of what.
func notStartedFor(err error) (runlog.NotStartedReason, bool) {
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EADDRINUSE):
		return runlog.NoPorts, true
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return runlog.NoFiles, true
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOBUFS):
		return runlog.NoMemory, true
	}
	return "", false
}

// errnoName returns err's symbolic errno, "" where it has none.
func errnoName(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) || errno == 0 {
		return ""
	}
	if name := unix.ErrnoName(errno); name != "" {
		return name
	}
	return strconv.Itoa(int(errno))
}

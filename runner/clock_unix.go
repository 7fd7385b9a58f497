//go:build unix

package runner

import "golang.org/x/sys/unix"

// monotonic is this process's CLOCK_MONOTONIC, ns.
func monotonic() int64 {
	var ts unix.Timespec
	// CLOCK_MONOTONIC with a valid pointer cannot fail (clock_gettime(2)).
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

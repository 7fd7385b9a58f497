package agent

import "golang.org/x/sys/unix"

// monotonic is CLOCK_MONOTONIC in ns: one clock for every process of a
// machine, and the one that job epochs are given in.
func monotonic() int64 {
	var ts unix.Timespec
	// It fails only for a clock the kernel does not know.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

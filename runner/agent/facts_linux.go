package agent

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/conntrack"
	"github.com/tablefull/tablefull/runner/env"
)

// MachineFacts reads what all network namespaces of this machine share.
func MachineFacts() (env.Capabilities, error) {
	var u unix.Utsname
	var si unix.Sysinfo_t
	var files unix.Rlimit
	if err := errors.Join(unix.Uname(&u), unix.Sysinfo(&si), unix.Getrlimit(unix.RLIMIT_NOFILE, &files)); err != nil {
		return env.Capabilities{}, err
	}
	return env.Capabilities{
		Kernel:      unix.ByteSliceToString(u.Release[:]),
		Arch:        unix.ByteSliceToString(u.Machine[:]),
		CPUs:        runtime.NumCPU(),
		MemoryBytes: uint64(si.Totalram) * uint64(si.Unit), //nolint:unconvert // 32 bits on some machines
		MaxFiles:    files.Max,
	}, nil
}

// Facts are the machine's and this network namespace's. A host on which
// nothing is tracked has no limit, buckets and timeouts: it fails where the
// kernel has no connection tracking.
func Facts() (env.Capabilities, error) {
	c, err := MachineFacts()
	if err != nil {
		return c, fmt.Errorf("read facts of the machine: %w", err)
	}
	f, err := conntrack.ReadFacts()
	if err != nil {
		return c, err
	}
	c.Entries, c.Limit, c.Buckets, c.EntryBytes, c.Timeouts = f.Entries, f.Limit, f.Buckets, f.EntryBytes, f.Timeouts
	return c, nil
}

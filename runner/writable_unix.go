//go:build unix

package runner

import "golang.org/x/sys/unix"

// writable says whether this user may write into the directory.
func writable(dir string) bool { return unix.Access(dir, unix.W_OK) == nil }

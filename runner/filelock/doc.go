// Package filelock locks files between processes. A lock belongs to an open
// file: it ends with its Close, or with the process that opened it.
package filelock

import "errors"

// ErrHeld says that another process, or another open file, has the lock.
var ErrHeld = errors.New("somebody else has locked it")

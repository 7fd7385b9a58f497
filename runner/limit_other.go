//go:build !linux

package runner

import "errors"

// setGlobalLimit writes a limit that only Linux has.
func setGlobalLimit(*Journal, uint64) error { return errors.ErrUnsupported }

// setBuckets resizes a table that only Linux has.
func setBuckets(uint64) error { return errors.ErrUnsupported }

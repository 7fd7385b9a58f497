//go:build !linux

package runner

import "errors"

// setLimit writes a limit that only Linux has.
func setLimit(*Journal, uint64, bool) (uint64, error) { return 0, errors.ErrUnsupported }

// setBuckets resizes a table that only Linux has.
func setBuckets(uint64) error { return errors.ErrUnsupported }

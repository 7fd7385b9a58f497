package runner

import (
	"context"
	"io"
)

// RunTo is Run with a log that need not be a file of its own.
func RunTo(ctx context.Context, c Config, log io.Writer) error {
	_, err := runTo(ctx, c, log)
	return err
}

// Abandon lets go of the journal as the kernel does for a killed process.
func (j *Journal) Abandon() { j.file.Close() }

// LockFor is lockFor.
func (j *Journal) LockFor(path string) error { return j.lockFor(path) }

//go:build !linux

package dataplane

import (
	"errors"

	"github.com/tablefull/tablefull/runner/env"
)

// New returns an error: dataplanes are read on Linux only.
func New(env.Job) (env.Worker, error) {
	return nil, errors.New("make audit: it runs on Linux only")
}

//go:build !linux

package proxy

import (
	"errors"

	"github.com/tablefull/tablefull/runner/env"
)

// New returns an error: proxies run on Linux only.
func New(env.Job) (env.Worker, error) { return nil, errors.New("make proxy: it runs on Linux only") }

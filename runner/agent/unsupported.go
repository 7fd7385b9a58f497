//go:build !linux

package agent

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/tablefull/tablefull/runner/env"
)

var errLinux = errors.New("agents run on Linux only")

// start makes this system's monotonic clock a number.
var start = time.Now()

// monotonic is the time since this process began, in ns.
func monotonic() int64 { return int64(time.Since(start)) }

// New makes the worker for a job.
func New(env.Job) (env.Worker, error) { return nil, errLinux }

// Facts fails: agents run on Linux only.
func Facts() (env.Capabilities, error) { return env.Capabilities{}, errLinux }

// Main is the hidden command agent.
func Main(context.Context, []string, io.Reader, io.Writer) error { return errLinux }

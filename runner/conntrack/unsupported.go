//go:build !linux

package conntrack

import (
	"context"
	"errors"
	"fmt"

	"github.com/tablefull/tablefull/runner/env"
)

var errLinux = fmt.Errorf("use connection tracking: it is a part of Linux: %w", errors.ErrUnsupported)

// NewSampler fails: connection tracking is a part of Linux.
func NewSampler(env.Job) (env.Worker, error) { return nil, errLinux }

// NewCensus fails: connection tracking is a part of Linux.
func NewCensus(env.Job) (env.Worker, error) { return nil, errLinux }

// NewBallast fails: connection tracking is a part of Linux.
func NewBallast(env.Job) (env.Worker, error) { return nil, errLinux }

// NewAutopsy fails: connection tracking is a part of Linux.
func NewAutopsy(env.Job) (env.Worker, error) { return nil, errLinux }

// ReadFacts fails: connection tracking is a part of Linux.
func ReadFacts() (Facts, error) { return Facts{}, errLinux }

// NewAge fails: connection tracking is a part of Linux.
func NewAge(env.Job) (env.Worker, error) { return nil, errLinux }

// Flush fails: connection tracking is a part of Linux.
func Flush(context.Context) error { return errLinux }

// FlushBallast fails: connection tracking is a part of Linux.
func FlushBallast(context.Context) error { return errLinux }

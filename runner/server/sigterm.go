//go:build linux

package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/tablefull/tablefull/runner/env"
)

// What a server does when it is told to terminate, as a scenario's
// lifecycle.on_sigterm has it.
const (
	drain     = "drain"  // no new connections; ends when those it has are closed
	closeAll  = "close"  // resets all it has and ends at once
	ignoreAll = "ignore" // goes on until it is stopped
)

// sigterm is how a server hears that it shall end: its part of env.Updater.
// Ending by Stop is being killed (SIGKILL); see each server's Run.
type sigterm struct {
	behaviour string
	asked     context.Context // done once somebody has asked
	ask       context.CancelFunc
	acted     context.Context // done once the server has done what it does first
	act       context.CancelFunc
}

func newSigterm(j env.ServeJob) (*sigterm, error) {
	s := &sigterm{behaviour: j.Lifecycle.OnSIGTERM}
	switch s.behaviour {
	case "":
		s.behaviour = drain
	case drain, closeAll, ignoreAll:
	default:
		return nil, fmt.Errorf("unknown behaviour on SIGTERM %q", s.behaviour)
	}
	s.asked, s.ask = context.WithCancel(context.Background())
	s.acted, s.act = context.WithCancel(context.Background())
	return s, nil
}

// Update is part of env.Updater. It knows Terminate alone, and returns when
// the server has begun to end: with drain, when its listeners are closed. A
// second one changes nothing.
func (s *sigterm) Update(ctx context.Context, u env.Update) error {
	if !u.Terminate {
		return errors.New("update server: it can be told to terminate, nothing else")
	}
	s.ask()
	select {
	case <-s.acted.Done():
	case <-ctx.Done():
		// A server that has ended because of this takes ctx with it.
		if s.acted.Err() == nil {
			return ctx.Err()
		}
	}
	return nil
}

//go:build !linux

package lab

import (
	"context"
	"errors"
	"io"

	"github.com/tablefull/tablefull/runner/env"
)

var errLinux = errors.New("a lab is made of Linux network namespaces: run this on Linux, or in a Linux virtual machine")

// Config says how the lab starts its own processes.
type Config struct {
	Exe   string
	Args  []string
	Alone bool
}

// An Env makes labs; not on this system.
type Env struct{}

var _ env.Environment = (*Env)(nil)

// New returns the lab environment.
func New(Config) *Env { return &Env{} }

// Name is part of env.Environment.
func (*Env) Name() string { return "lab" }

// Probe is part of env.Environment.
func (*Env) Probe(context.Context) (env.Capabilities, error) {
	return env.Capabilities{List: []env.Capability{{Name: "netns", State: env.No, Reason: errLinux.Error()}}}, nil
}

// Up is part of env.Environment.
func (*Env) Up(context.Context, env.Topology) (env.Lab, error) { return nil, errLinux }

// Main is the hidden command lab.
func Main(context.Context, []string, io.Reader, io.Writer) error { return errLinux }

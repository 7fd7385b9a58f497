//go:build !linux

package private

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/tablefull/tablefull/runner/env"
)

const needsLinux = "a private kernel is user-mode Linux: run this on Linux, or in a Linux virtual machine"

var errLinux = errors.New(needsLinux)

// Files says where the kernel and its modules are.
type Files struct{ Kernel, Modules string }

// Config is one boot of a private kernel; not on this system.
type Config struct {
	Files
	Exe            string
	Memory         uint64
	Dir            string
	Remove         string
	WorkDir        string
	Env            map[string]string
	Needs          Needs
	Input          json.RawMessage
	Stdout, Stderr io.Writer
	Took           func(boot, off time.Duration)
}

// A Main is what runs inside.
type Main func(ctx context.Context, input io.Reader, stdout, stderr io.Writer) int

// Probe says whether a private kernel can be booted here: no.
func Probe(context.Context, Files) env.Capability {
	return env.Capability{Name: "private_kernel", State: env.No, Reason: needsLinux}
}

// Run boots a private kernel; not on this system.
func Run(context.Context, Config) (int, error) { return 0, &Unfit{needsLinux} }

// Supervise is the hidden command private supervise.
func Supervise(io.Reader, io.Writer, io.Writer) error { return errLinux }

// Init is the hidden command private init.
func Init(context.Context, io.Reader, Main) error { return errLinux }

// Inside reports whether this is the first process of a private kernel.
func Inside() bool { return false }

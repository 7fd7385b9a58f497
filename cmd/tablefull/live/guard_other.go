//go:build !linux

package live

import (
	"errors"
	"io"
	"os"
)

// GuardArg is the argument with which the program is to call [Guard].
const GuardArg = "terminal-guard"

type guard struct{}

func startGuard([]string, *os.File, *modes, string) (*guard, error) {
	return nil, errors.New("no live view on this system")
}

func (*guard) end() {}

// Guard does nothing.
func Guard(io.Reader, *os.File) {}

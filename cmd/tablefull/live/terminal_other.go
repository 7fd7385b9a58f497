//go:build !linux

package live

import (
	"errors"
	"os"
)

// IsTerminal says no: runs are for Linux, and reports are written plainly
// elsewhere.
func IsTerminal(*os.File) bool { return false }

// Usable says no.
func Usable(*os.File) bool { return false }

type modes struct{}

func quiet(*os.File) (*modes, error) { return nil, errors.New("no live view on this system") }

func (*modes) restore(*os.File) {}

func size(*os.File) (width, height int) { return 80, 24 }

func onResize() (resized <-chan os.Signal, stop func()) { return nil, func() {} }

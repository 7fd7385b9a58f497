//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// quit ends this process by SIGQUIT, as it ends anyone: with the stacks of all
// goroutines.
func quit() {
	signal.Reset(syscall.SIGQUIT)
	_ = syscall.Kill(os.Getpid(), syscall.SIGQUIT)
}

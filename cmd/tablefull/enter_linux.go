package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// enterNamespace begins this program anew, with these arguments, in the network
// namespace of a file. It returns only where that failed.
//
// /proc/net shows the namespace of a process' first thread, so changing that of
// one of ours would not do. The thread that calls execve becomes the first one,
// and keeps its namespace.
func enterNamespace(path string, args []string) error {
	ns, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return notEntered(err)
	case err != nil:
		return &usageError{fmt.Errorf("enter network namespace: %w", err)}
	}
	defer ns.Close()
	runtime.LockOSThread() // and never unlocked: it is of no use for anything else
	err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
	switch {
	case errors.Is(err, unix.EPERM):
		return notEntered(err)
	case errors.Is(err, unix.EINVAL):
		return usagef("enter network namespace: %s is none", path)
	case err != nil:
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	if err := syscall.Exec("/proc/self/exe", append([]string{os.Args[0]}, args...), os.Environ()); err != nil {
		return fmt.Errorf("begin anew in network namespace %s: %w", path, err)
	}
	return nil
}

func notEntered(err error) error {
	return &cannotError{fmt.Errorf("enter network namespace: %w: it needs root: sudo tablefull watch; into one of your own user namespace: nsenter --preserve-credentials -U -n -t PID tablefull watch", err)}
}

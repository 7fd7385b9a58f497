package testcluster

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/isolate"
)

// Inside runs f on a thread in the network namespace of a host: control or a
// node. From control, services are reached as from outside the cluster.
func (c *Cluster) Inside(host string, f func() error) error {
	pid, err := c.hostPID(host)
	if err != nil {
		return err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("open network namespace of %s: %w", host, err)
	}
	defer ns.Close()
	return isolate.OnOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace of %s: %w", host, err)
		}
		return f()
	})
}

// DialFrom returns a dialer whose connections come from a host. Addresses are
// numbers: there are no names in there.
func (c *Cluster) DialFrom(host string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		insideErr := c.Inside(host, func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return err
		})
		return conn, insideErr
	}
}

// Signal sends a signal to a component of a host, which starts again one
// second after it has ended. With no component it goes to the host itself,
// whose end is the cluster's.
func (c *Cluster) Signal(host, component string, sig unix.Signal) error {
	pid, err := c.hostPID(host)
	if err == nil && component != "" {
		pid, err = c.componentPID(pid, component)
	}
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, sig); err != nil {
		return fmt.Errorf("signal %s of %s: %w", component, host, err)
	}
	return nil
}

// hostPID finds the process that is a host.
func (c *Cluster) hostPID(host string) (int, error) {
	want := strings.Join([]string{"testcluster", hostStage, c.dir, host, ""}, "\x00")
	pid, err := find(func(dir string) bool {
		b, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		return err == nil && string(b) == want
	})
	if err != nil {
		return 0, fmt.Errorf("find host %s: %w", host, err)
	}
	return pid, nil
}

// componentPID finds the child of a host that runs a program.
func (c *Cluster) componentPID(host int, name string) (int, error) {
	parent := []byte(fmt.Sprintf("\nPPid:\t%d\n", host))
	pid, err := find(func(dir string) bool {
		exe, err := os.Readlink(filepath.Join(dir, "exe"))
		if err != nil || filepath.Base(exe) != name {
			return false
		}
		b, err := os.ReadFile(filepath.Join(dir, "status"))
		return err == nil && bytes.Contains(b, parent)
	})
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", name, err)
	}
	return pid, nil
}

// find returns the number of the first process whose directory below /proc is.
func find(is func(dir string) bool) (int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	for _, dir := range dirs {
		if is(dir) {
			return strconv.Atoi(filepath.Base(dir))
		}
	}
	return 0, fmt.Errorf("it does not run: %w", os.ErrNotExist)
}

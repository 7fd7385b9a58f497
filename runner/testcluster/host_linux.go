package testcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	restartAfter = time.Second
	socketPoll   = 20 * time.Millisecond
	socketWait   = 60 * time.Second
)

// runHost is one host: in a network and a mount namespace of its own it runs
// its components, until one of its own doings fails.
func runHost(dir, name string) error {
	if err := waitToGo(os.Stdin); err != nil {
		return err
	}
	l, r, err := load(dir)
	if err != nil {
		return err
	}
	components := l.control(r.Programs)
	setUp := l.setUpControl
	for _, n := range l.nodes {
		if n.name == name {
			components = l.worker(n, r.Programs, r.Images)
			setUp = func() error { return l.setUpNode(n) }
		}
	}
	if err := l.makePrivate(name); err != nil {
		return err
	}
	if err := setUp(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range components {
		group.Go(func() error { return l.supervise(ctx, name, c) })
		if err := ready(ctx, c); err != nil {
			return err
		}
	}
	return group.Wait()
}

// kubeletWants are the machine's settings that a kubelet sets where it finds
// others (pkg/kubelet/cm, kernelTunables). They are not ours to change: on a
// node's own view of /proc/sys they are what it wants already.
var kubeletWants = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// makePrivate gives the host a /run and a /var of its own, hides the machine's
// settings, and makes the machine's files read-only but for the cluster's
// directory: a component that would write elsewhere fails, and its log says so.
func (l layout) makePrivate(name string) error {
	// What is mounted here is seen here, and in mount namespaces made of this
	// one: a kubelet wants it so.
	for _, how := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", unix.MS_REC|how, ""); err != nil {
			return fmt.Errorf("make mounts the host's own: %w", err)
		}
	}
	if err := unix.Mount(l.dir, l.dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", l.dir, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make the machine's files read-only: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	own := l.path(name, "var")
	for _, d := range []string{"lib", "log", "tmp", "cache"} {
		if err := os.MkdirAll(filepath.Join(own, d), 0o755); err != nil {
			return fmt.Errorf("make /var: %w", err)
		}
	}
	if err := os.Symlink("/run", filepath.Join(own, "run")); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make /var: %w", err)
	}
	if err := unix.Mount(own, "/var", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /var: %w", err)
	}
	for _, how := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.Mount("", "/var", "", how, ""); err != nil {
			return fmt.Errorf("make /var the host's own: %w", err)
		}
	}
	for setting, value := range kubeletWants {
		file := l.path(name, "sysctl", strings.ReplaceAll(setting, "/", "."))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return fmt.Errorf("write setting: %w", err)
		}
		if err := unix.Mount(file, "/proc/sys/"+setting, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hide setting %s: %w", setting, err)
		}
	}
	return os.Setenv("TMPDIR", "/var/tmp")
}

// supervise runs a component again and again until ctx ends.
func (l layout) supervise(ctx context.Context, host string, c component) error {
	log, err := os.OpenFile(l.path(logDir, host+"-"+c.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, c.Path, c.Args...)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
		err := cmd.Run()
		fmt.Fprintf(os.Stderr, "%s testcluster: %s: %s ended: %v\n", time.Now().UTC().Format(time.RFC3339Nano), host, c.Name, err)
		select {
		case <-ctx.Done():
		case <-time.After(restartAfter):
		}
	}
	return nil
}

// ready waits for a component's socket and runs what comes after it.
func ready(ctx context.Context, c component) error {
	if c.Socket == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, socketWait)
	defer cancel()
	for {
		if _, err := os.Stat(c.Socket); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s of %s: %w", c.Socket, c.Name, ctx.Err())
		case <-time.After(socketPoll):
		}
	}
	for _, args := range c.After {
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("run %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

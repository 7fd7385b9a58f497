package testcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	endPoll = 10 * time.Millisecond
	endWait = 30 * time.Second
)

// Open returns the cluster of a directory, which must run.
func Open(dir string) (*Cluster, error) {
	l, r, err := load(dir)
	if err != nil {
		return nil, err
	}
	if alive, err := r.alive(); !alive {
		return nil, errors.Join(fmt.Errorf("the cluster in %s does not run any more", l.dir), err)
	}
	return &Cluster{layout: l, record: r}, nil
}

// load reads what a cluster is.
func load(dir string) (layout, record, error) {
	l, err := newLayout(dir, "")
	if err != nil {
		return l, record{}, err
	}
	r, err := l.readRecord()
	l.version = r.Version
	return l, r, err
}

// Down ends the cluster of a directory and removes all there is of it, the
// directory too. It is no error that there is none. Several times, and after
// a crash of whatever, it does what is left to be done.
func Down(ctx context.Context, dir string) error {
	l, r, err := load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.end(ctx); err != nil {
		return err
	}
	// Without processes there are no mounts and namespaces, but the kernel
	// takes them away by and by.
	if err := errors.Join(l.removeLink(ctx), l.removeCgroups(ctx)); err != nil {
		return err
	}
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("remove the cluster's directory: %w", err)
	}
	return nil
}

// end kills the first process, if it is still the recorded one, and waits for
// the end of all.
func (r record) end(ctx context.Context) error {
	if r.PID == 0 {
		return nil
	}
	// With a descriptor, what is looked at is what is killed.
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", r.PID, err)
	}
	defer unix.Close(fd)
	if alive, err := r.alive(); err != nil || !alive {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", r.PID, err)
	}
	return wait(ctx, "the end of the cluster's processes", func() (bool, error) {
		alive, err := r.alive()
		return !alive, err
	})
}

func wait(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	for {
		ok, err := done()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for %s: %w", what, ctx.Err()), err)
		case <-time.After(endPoll):
		}
	}
}

// removeLink removes the link to this machine, unless the end of the control
// host has done so.
func (l layout) removeLink(ctx context.Context) error {
	return wait(ctx, "the end of link "+l.link.dev, func() (bool, error) {
		link, err := netlink.LinkByName(l.link.dev)
		if missing := (netlink.LinkNotFoundError{}); errors.As(err, &missing) {
			return true, nil
		}
		if err == nil {
			err = netlink.LinkDel(link)
		}
		return false, err
	})
}

package testcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// cgroupRoots are where this machine's control groups are mounted: one place
// for each hierarchy of version 1, or the one of version 2.
func cgroupRoots() ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	var roots []string
	for line := range strings.Lines(string(b)) {
		// proc(5): ... root mount-point options [tags] - type source options
		mount, about, _ := strings.Cut(line, " - ")
		f, kind := strings.Fields(mount), strings.Fields(about)
		if len(f) > 4 && len(kind) > 0 && f[3] == "/" && (kind[0] == "cgroup" || kind[0] == "cgroup2") {
			roots = append(roots, f[4])
		}
	}
	if len(roots) == 0 {
		return nil, errors.New("find control groups: none are mounted")
	}
	return roots, nil
}

// makeCgroups makes the group that each kubelet's groups are below: it wants
// its root to be there.
func (l layout) makeCgroups() error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		for _, n := range l.nodes {
			if err := os.MkdirAll(filepath.Join(root, l.cgroup(), n.name), 0o755); err != nil {
				return fmt.Errorf("make control group: %w", err)
			}
		}
	}
	return nil
}

// removeCgroups removes the groups, the lowest first. A process that has just
// ended may still be in one.
func (l layout) removeCgroups(ctx context.Context) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		top := filepath.Join(root, l.cgroup())
		err := wait(ctx, "the end of control group "+top, func() (bool, error) {
			err := removeGroups(top)
			return err == nil, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func removeGroups(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroups(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}

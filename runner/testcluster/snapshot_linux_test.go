package testcluster_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// machine is what a cluster could leave behind, or change, on this machine.
type machine struct {
	Mounts, Links, Routes, Rules []string
	Cgroups, Files, Processes    []string
	Settings                     map[string]string
}

func snapshot(t *testing.T, programs map[string]string) machine {
	t.Helper()
	m := machine{Settings: map[string]string{}}
	for line := range strings.Lines(read(t, "/proc/self/mountinfo")) {
		m.Mounts = append(m.Mounts, strings.Fields(line)[4])
	}
	m.Links, m.Routes = output(t, "ip", "-brief", "link"), output(t, "ip", "route", "show", "table", "all")
	m.Rules = output(t, "nft", "--stateless", "list", "ruleset")
	walk(t, "/sys/fs/cgroup", 99, func(path string, d fs.DirEntry) {
		if d.IsDir() {
			m.Cgroups = append(m.Cgroups, path)
		}
	})
	root, err := os.ReadDir("/")
	require.NoError(t, err)
	for _, d := range root {
		m.Files = append(m.Files, "/"+d.Name())
	}
	for _, dir := range []string{"/etc", "/opt", "/run", "/srv", "/usr/libexec", "/usr/local", "/var"} {
		walk(t, dir, 3, func(path string, _ fs.DirEntry) { m.Files = append(m.Files, path) })
	}
	walk(t, "/proc/sys", 99, func(path string, d fs.DirEntry) {
		info, err := d.Info()
		// What changes by itself cannot be written, but for this one.
		if err != nil || d.IsDir() || info.Mode()&0o600 != 0o600 || path == "/proc/sys/kernel/ns_last_pid" {
			return
		}
		if b, err := os.ReadFile(path); err == nil {
			m.Settings[path] = string(b)
		}
	})
	found, err := filepath.Glob("/proc/[0-9]*/exe")
	require.NoError(t, err)
	for _, exe := range found {
		path, err := os.Readlink(exe)
		if err != nil {
			continue
		}
		for _, p := range programs {
			if real, err := filepath.EvalSymlinks(p); err == nil && path == real {
				m.Processes = append(m.Processes, path)
			}
		}
	}
	slices.Sort(m.Processes)
	return m
}

// walk calls f for all below dir, so many levels deep.
func walk(t *testing.T, dir string, depth int, f func(path string, d fs.DirEntry)) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it went away meanwhile, or is not for us
		}
		f(path, d)
		if d.IsDir() && strings.Count(strings.TrimPrefix(path, dir), "/") >= depth {
			return fs.SkipDir
		}
		return nil
	}))
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(b)
}

func output(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).Output()
	require.NoError(t, err, args)
	return strings.Split(string(out), "\n")
}

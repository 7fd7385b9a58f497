package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// sysctls is the worker of a SysctlJob.
type sysctls struct {
	values map[string]string // by path below /proc/sys
	hold   time.Duration
}

// NewSysctls returns the worker of j.Sysctl.
func NewSysctls(j env.Job) (env.Worker, error) {
	if j.Sysctl == nil || len(j.Sysctl.Values) == 0 {
		return nil, fmt.Errorf("make sysctl job: job %q sets nothing", j.ID)
	}
	s := &sysctls{values: map[string]string{}, hold: time.Duration(j.Sysctl.For * float64(time.Second))}
	for name, v := range j.Sysctl.Values {
		path := strings.ReplaceAll(name, ".", "/")
		if !filepath.IsLocal(path) || path != filepath.Clean(path) {
			return nil, fmt.Errorf("make sysctl job: %q is not the name of a setting", name)
		}
		s.values[path] = v
	}
	return s, nil
}

// Run is part of env.Worker. Where one of the settings is refused, those that
// were set before it are put back.
func (s *sysctls) Run(ctx context.Context, ready func(), out env.Recorder) error {
	old := map[string]string{}
	for name := range s.values {
		v, err := readSysctl(filepath.Join("/proc/sys", name))
		if err != nil {
			return fmt.Errorf("read %s: %w", dotted(name), err)
		}
		old[name] = v
	}
	if err := setSysctls(s.values); err != nil {
		return errors.Join(err, setSysctls(old))
	}
	note(out, "set", s.values)
	ready()
	if s.hold <= 0 {
		return nil
	}
	wait(ctx, s.hold)
	if err := setSysctls(old); err != nil {
		return fmt.Errorf("put back: %w", err)
	}
	note(out, "restored", old)
	return nil
}

func note(out env.Recorder, what string, values map[string]string) {
	fields := map[string]string{}
	for name, v := range values {
		fields[dotted(name)] = v
	}
	out.Record(runlog.Record{Event: &runlog.Event{Kind: "sysctl", Name: what, Fields: fields}})
}

func dotted(name string) string { return strings.ReplaceAll(name, "/", ".") }

// wait waits until d has passed or ctx is done.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// setSysctls writes settings of this network namespace and reads each back.
// Names are paths below /proc/sys.
func setSysctls(values map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if err := setSysctl(filepath.Join("/proc/sys", name), values[name]); err != nil {
			return fmt.Errorf("set %s to %s: %w", dotted(name), values[name], err)
		}
	}
	return nil
}

func setSysctl(path, value string) error {
	err := os.WriteFile(path, []byte(value), 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("this kernel has no such setting: %w", err)
	case err != nil:
		return fmt.Errorf("the kernel refuses it: %w", err)
	}
	got, err := readSysctl(path)
	if err != nil {
		return err
	}
	if got != oneSpace(value) {
		return fmt.Errorf("the kernel kept %s", got)
	}
	return nil
}

func readSysctl(path string) (string, error) {
	b, err := os.ReadFile(path)
	return oneSpace(string(b)), err
}

// oneSpace is s with its words parted by one space: the kernel prints tabs.
func oneSpace(s string) string { return strings.Join(strings.Fields(s), " ") }

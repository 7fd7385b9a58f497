package sysctl

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// job is the worker of a SysctlJob.
type job struct {
	values map[string]string // by path below /proc/sys
	hold   time.Duration
}

// New returns the worker of j.Sysctl.
func New(j env.Job) (env.Worker, error) {
	if j.Sysctl == nil || len(j.Sysctl.Values) == 0 {
		return nil, fmt.Errorf("make sysctl job: job %q sets nothing", j.ID)
	}
	s := &job{values: map[string]string{}, hold: time.Duration(j.Sysctl.For * float64(time.Second))}
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
func (s *job) Run(ctx context.Context, ready func(), out env.Recorder) error {
	old := map[string]string{}
	for name := range s.values {
		v, err := Read(name)
		if err != nil {
			return fmt.Errorf("read %s: %w", Dotted(name), err)
		}
		old[name] = v
	}
	if err := SetAll(s.values); err != nil {
		return errors.Join(err, SetAll(old))
	}
	Note(out, "set", s.values)
	ready()
	if s.hold <= 0 {
		return nil
	}
	wait(ctx, s.hold)
	if err := SetAll(old); err != nil {
		return fmt.Errorf("put back: %w", err)
	}
	Note(out, "restored", old)
	return nil
}

// Note records values that were written, by path below /proc/sys.
func Note(out env.Recorder, what string, values map[string]string) {
	fields := map[string]string{}
	for name, v := range values {
		fields[Dotted(name)] = v
	}
	out.Record(runlog.Record{Event: &runlog.Event{Kind: "sysctl", Name: what, Fields: fields}})
}

// wait waits until d has passed or ctx is done.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

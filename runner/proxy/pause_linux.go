package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// pause is the worker of a PauseJob.
type pause struct {
	env.PauseJob
	find func() ([]procID, error)
}

// NewPause returns the worker of j.Pause.
func NewPause(j env.Job) (env.Worker, error) {
	if p := j.Pause; p == nil || len(p.Container) < minContainerID || p.Program == "" || p.Journal == "" || p.For <= 0 {
		return nil, fmt.Errorf("make pause: job %q does not say what, for how long, and where that is noted", j.ID)
	}
	return &pause{*j.Pause, func() ([]procID, error) { return processesOf(j.Pause.Container, j.Pause.Program) }}, nil
}

const (
	// minContainerID is the least length of a container's id, which is looked for
	// in the names of control groups: runtimes give 64 digits.
	minContainerID = 32
	standTimeout   = 5 * time.Second // for threads to stand still, or to go on
	standPoll      = time.Millisecond
	watchStopped   = 200 * time.Millisecond // how often what is stopped is looked at
	movesFor       = 5                      // looks, one after the other, that see it move
)

// Run is part of env.Worker.
func (p *pause) Run(ctx context.Context, ready func(), out env.Recorder) (err error) {
	list, err := p.find()
	if err != nil {
		return fmt.Errorf("pause %s: %w", p.Program, err)
	}
	if err := writeStopped(p.Journal, list); err != nil {
		return fmt.Errorf("pause %s: %w", p.Program, err)
	}
	defer func() {
		gone, goErr := letGo(list)
		if goErr == nil {
			goErr = os.Remove(p.Journal)
			p.note(out, map[bool]string{true: "ended", false: "resumed"}[gone])
		}
		err = errors.Join(err, goErr)
	}()
	if err := stop(list); err != nil {
		return fmt.Errorf("pause %s: %w", p.Program, err)
	}
	p.note(out, "paused")
	ready()
	if why := p.hold(ctx, list); why != "" {
		out.Record(runlog.Record{Event: &runlog.Event{Kind: "warning", Name: "proxy", Detail: fmt.Sprintf("%s on node %s goes on: %s", p.Program, p.Node, why)}})
	}
	return nil
}

func (p *pause) note(out env.Recorder, what string) {
	out.Record(runlog.Record{Event: &runlog.Event{Kind: "proxy", Name: what, Fields: map[string]string{"node": p.Node}}})
}

// hold returns when ctx has ended or what is stopped has, or why it goes on
// otherwise.
func (p *pause) hold(ctx context.Context, list []procID) (why string) {
	limit := time.NewTimer(time.Duration(p.For * float64(time.Second)))
	defer limit.Stop()
	look := time.NewTicker(watchStopped)
	defer look.Stop()
	for moves := 0; ; {
		select {
		case <-ctx.Done():
			return ""
		case <-limit.C:
			return fmt.Sprintf("nobody has said that it shall for %g s", p.For)
		case <-look.C:
		}
		is := gone
		for _, x := range list {
			is = max(is, x.state())
		}
		switch is {
		case gone:
			return ""
		case standing:
			moves = 0
		default: // one that is killed moves, too, for as long as that takes
			if moves++; moves == movesFor {
				return "somebody else has let it"
			}
		}
	}
}

// A procID is one process: numbers are given anew, but not with the same start.
type procID struct {
	pid   int
	start uint64 // in clock ticks since the machine's start
}

// procState is what a process does.
type procState int

const (
	gone     procState = iota // also where nobody has asked how it ended
	standing                  // all of its threads are stopped
	moving
)

// statField is one of /proc/PID/stat: see proc_pid_stat(5), which counts from 1.
func statField(stat []byte, n int) string {
	_, rest, _ := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(" "))
	if fields := strings.Fields(string(rest)); n >= 3 && n-3 < len(fields) {
		return fields[n-3]
	}
	return ""
}

// started is the start of the process that has a number now.
func started(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(statField(stat, 22), 10, 64)
}

func (x procID) state() procState {
	if now, err := started(x.pid); err != nil || now != x.start {
		return gone
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", x.pid)) // the pattern is well formed
	is := gone
	for _, t := range tasks {
		stat, err := os.ReadFile(t)
		if err != nil {
			continue // a thread that has ended
		}
		switch statField(stat, 3) {
		case "Z", "X", "x":
		case "T":
			is = max(is, standing)
		default:
			return moving
		}
	}
	return is
}

// signal sends a signal to this process and to no other that has its number.
func (x procID) signal(s os.Signal) error {
	p, err := os.FindProcess(x.pid) // holds on to it, whatever becomes of the number
	if err != nil {
		return fmt.Errorf("find process %d: %w", x.pid, err)
	}
	defer func() { _ = p.Release() }()
	if now, err := started(x.pid); err != nil || now != x.start {
		return fmt.Errorf("signal process %d: %w", x.pid, os.ErrProcessDone)
	}
	if err := p.Signal(s); err != nil {
		return fmt.Errorf("signal process %d: %w", x.pid, err)
	}
	return nil
}

// processesOf are the processes of a container that run a program.
func processesOf(container, program string) ([]procID, error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []procID
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		// One that ends meanwhile, or may not be looked at, is none of them.
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		group, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if string(bytes.TrimSpace(comm)) != program || !bytes.Contains(group, []byte(container)) {
			continue
		}
		start, err := started(pid)
		if err != nil {
			return nil, fmt.Errorf("look at process %d: %w", pid, err)
		}
		out = append(out, procID{pid, start})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("container %s has no process of that name here", container)
	}
	return out, nil
}

// stop stops processes, and returns when they stand.
func stop(list []procID) error {
	for _, x := range list {
		if err := x.signal(syscall.SIGSTOP); err != nil {
			return err
		}
	}
	return awaitAll(list, func(s procState) bool { return s == standing }, "still runs")
}

// letGo lets processes go on, and returns when they do; over says that all had
// ended before. What one does with a signal that came meanwhile is its own.
func letGo(list []procID) (over bool, err error) {
	over = true
	for _, x := range list {
		if x.state() == gone {
			continue
		}
		over = false
		if serr := x.signal(syscall.SIGCONT); !errors.Is(serr, os.ErrProcessDone) {
			err = errors.Join(err, serr)
		}
	}
	return over, errors.Join(err, awaitAll(list, func(s procState) bool { return s != standing }, "is still stopped"))
}

func awaitAll(list []procID, ok func(procState) bool, otherwise string) error {
	end := time.Now().Add(standTimeout)
	for _, x := range list {
		for !ok(x.state()) {
			if time.Now().After(end) {
				return fmt.Errorf("process %d %s after %s", x.pid, otherwise, standTimeout)
			}
			time.Sleep(standPoll)
		}
	}
	return nil
}

// writeStopped notes what will be stopped. A file that is there is another
// pause's.
func writeStopped(path string, list []procID) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("note what is stopped: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, x := range list {
		if _, err := fmt.Fprintln(f, x.pid, x.start); err != nil {
			return fmt.Errorf("note what is stopped: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("note what is stopped: %w", err)
	}
	return nil
}

// Unpause lets go on what the journal of a PauseJob says is stopped, whose
// agent was killed. An empty path, or no such file, is nothing to do.
func Unpause(journal string) error {
	b, err := os.ReadFile(journal)
	if journal == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what was stopped: %w", err)
	}
	var list []procID
	for line := range strings.Lines(string(b)) {
		var x procID
		if _, err := fmt.Sscanf(line, "%d %d\n", &x.pid, &x.start); err == nil { // half a line was written before anything was stopped
			list = append(list, x)
		}
	}
	if _, err := letGo(list); err != nil {
		return fmt.Errorf("let go on what was stopped: %w", err)
	}
	if err := os.Remove(journal); err != nil {
		return fmt.Errorf("let go on what was stopped: %w", err)
	}
	return nil
}

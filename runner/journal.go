package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/runner/filelock"
)

// A Journal holds, on disk, how to undo what a run changes outside its own
// processes. An Undo is written and synced before the change is made; the file
// goes away when everything has been undone. It lives in the user's state
// directory, where `tablefull restore` finds it after a crash.
//
// The writer keeps a lock on the file, so that a journal whose owner lives
// is told from one whose owner was killed.
type Journal struct {
	file  *os.File
	undos []Undo
	locks []*os.File // of what only one run at a time may change
}

// lockFor keeps other runs from changing path until everything is undone: the
// second would take the first one's value for the original, and put that back
// last. The lock is on path itself, so that runs of all users meet.
func (j *Journal) lockFor(path string) error {
	if slices.ContainsFunc(j.locks, func(f *os.File) bool { return f.Name() == path }) {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	if err := filelock.Try(f); err != nil {
		return errors.Join(fmt.Errorf("lock %s, which another run may have changed and will put back: %w", path, err), f.Close())
	}
	j.locks = append(j.locks, f)
	return nil
}

// An Undo is one step back. Exactly one field is set.
type Undo struct {
	WriteFile *WriteFile `json:"write_file,omitempty"` // a sysctl
	RemoveDir string     `json:"remove_dir,omitempty"` // a work directory of ours
}

// WriteFile puts a value back, if it is still the one that the run wrote.
type WriteFile struct {
	Path  string `json:"path"`
	Value string `json:"value"`
	// Ours is what the run wrote; empty puts Value back whatever is there.
	Ours string `json:"ours,omitempty"`
	// Boot is the machine's boot ID then: after a reboot there is nothing to
	// put back. Empty is any.
	Boot string `json:"boot,omitempty"`
}

// errTheirs is said once: there is nothing of ours left to put back.
var errTheirs = errors.New("somebody else has changed it since, so it was left alone")

// apply puts the value back and verifies it. A value that is neither the run's
// nor the old one is somebody else's and stays; the error says so.
func (w *WriteFile) apply() error {
	if w.Boot != "" && w.Boot != bootID() {
		return nil
	}
	now, err := readValue(w.Path)
	switch {
	case err != nil:
		return fmt.Errorf("read %s: %w", w.Path, err)
	case now == w.Value:
		return nil
	case w.Ours != "" && now != w.Ours:
		return fmt.Errorf("put back %s: it reads %s, and the run wrote %s: %w", w.Path, now, w.Ours, errTheirs)
	}
	if err := os.WriteFile(w.Path, []byte(w.Value), 0); err != nil {
		return fmt.Errorf("put back %s: %w", w.Path, err)
	}
	if now, err = readValue(w.Path); err != nil {
		return fmt.Errorf("read back %s: %w", w.Path, err)
	}
	if now != w.Value {
		return fmt.Errorf("put back %s: it reads %s after %s was written", w.Path, now, w.Value)
	}
	return nil
}

func readValue(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}

// bootID tells one boot of the machine from another; empty where the kernel
// does not say.
func bootID() string {
	id, err := readValue("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return id
}

// Command is how a person does it by hand.
func (u Undo) Command() string {
	if u.WriteFile != nil {
		return fmt.Sprintf("echo %s > %s", u.WriteFile.Value, u.WriteFile.Path)
	}
	return "rm -r " + u.RemoveDir
}

// apply does the step and verifies it. Undoing twice is harmless.
func (u Undo) apply() error {
	switch {
	case u.WriteFile != nil:
		return u.WriteFile.apply()
	case u.RemoveDir != "":
		if err := os.RemoveAll(u.RemoveDir); err != nil {
			return fmt.Errorf("remove %s: %w", u.RemoveDir, err)
		}
	}
	return nil
}

// StateDir is where journals are kept: $XDG_STATE_HOME/tablefull, or
// .local/state/tablefull below the home directory, or, where there is neither,
// a directory of the user's own below the system's temporary one.
func StateDir() string {
	if d := os.Getenv("XDG_STATE_HOME"); d != "" {
		return filepath.Join(d, "tablefull")
	}
	if home, err := os.UserHomeDir(); err == nil && home != "" {
		if info, err := os.Stat(home); err == nil && info.IsDir() && writable(home) {
			return filepath.Join(home, ".local", "state", "tablefull")
		}
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("tablefull-state-%d", os.Geteuid()))
}

// OpenJournal creates the journal of a run in dir.
func OpenJournal(dir, runID string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, runID+".journal"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := filelock.Try(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock journal: %w", err), f.Close(), os.Remove(f.Name()))
	}
	return &Journal{file: f}, nil
}

// Plan writes u to disk. Only after it has returned nil may the change be made.
func (j *Journal) Plan(u Undo) error {
	line, err := json.Marshal(u)
	if err != nil {
		return fmt.Errorf("encode undo: %w", err)
	}
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	j.undos = append(j.undos, u)
	return nil
}

// Undo does every planned step in reverse order, continues past errors, and
// removes the journal when all succeeded. What remains is in the error, with
// the command that does it by hand.
func (j *Journal) Undo() error { return j.undo(silently) }

// undo is Undo that tells step of each step before it is done, and what step
// returned how it ended.
func (j *Journal) undo(step func(Undo) func(error)) error {
	open, err := undoAll(j.undos, step)
	if !open {
		if rerr := os.Remove(j.file.Name()); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	for _, f := range j.locks {
		err = errors.Join(err, f.Close())
	}
	return errors.Join(err, j.file.Close())
}

func silently(Undo) func(error) { return func(error) {} }

// undoAll does the steps in reverse order. Open says that one may work another
// time, so that the journal has to stay.
func undoAll(undos []Undo, step func(Undo) func(error)) (open bool, err error) {
	var errs []error
	for _, u := range slices.Backward(undos) {
		done := step(u)
		err := u.apply()
		done(err)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w; by hand: %s", err, u.Command()))
			open = open || !errors.Is(err, errTheirs)
		}
	}
	return open, errors.Join(errs...)
}

// Restored is what Restore did about one journal.
type Restored struct {
	RunID string
	Alive bool // its run is still going, or has just put everything back: left alone
	Steps []Undo
	Err   error // what could not be put back
}

// Restore replays the journals in dir whose runs are gone. A missing dir is
// an empty one.
func Restore(dir string) ([]Restored, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil {
		return nil, fmt.Errorf("list journals: %w", err)
	}
	var out []Restored
	for _, name := range names {
		out = append(out, restoreOne(name))
	}
	return out, nil
}

func sameFile(f *os.File, info fs.FileInfo) bool {
	have, err := f.Stat()
	return err == nil && os.SameFile(have, info)
}

func restoreOne(name string) Restored {
	r := Restored{RunID: strings.TrimSuffix(filepath.Base(name), ".journal")}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		r.Err = fmt.Errorf("open journal: %w", err)
		return r
	}
	defer f.Close()
	if err := filelock.Try(f); err != nil {
		r.Alive = true
		return r
	}
	if now, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) || err == nil && !sameFile(f, now) {
		r.Alive = true // its run undid everything and ended while it was opened
		return r
	}
	dec := json.NewDecoder(f)
	for dec.More() {
		var u Undo
		// A line that was cut off was never acted on: the change it belongs
		// to is made only after the line is whole and synced.
		if err := dec.Decode(&u); err != nil {
			break
		}
		r.Steps = append(r.Steps, u)
	}
	open, err := undoAll(r.Steps, silently)
	if r.Err = err; !open {
		r.Err = errors.Join(err, os.Remove(name))
	}
	return r
}

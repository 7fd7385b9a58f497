package private

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/isolate"
)

// Config is one boot of a private kernel.
type Config struct {
	Files
	// Exe is the program that has the hidden command private. Empty is
	// /proc/self/exe, this very program.
	Exe string
	// Memory is what the kernel may use, MiB. It is taken from the machine only
	// as it is used.
	Memory uint64
	// Dir is the one directory that can be written from inside; absolute.
	// Empty: none.
	Dir string
	// Remove is a directory below Dir that is removed at the end, as a run that
	// did not get to its end may have left it. Empty: none.
	Remove string
	// WorkDir is where what runs inside begins, if it can be seen there.
	WorkDir string
	// Env is added to its environment, over what Init sets.
	Env   map[string]string
	Needs Needs
	// Input is handed to what Init runs.
	Input json.RawMessage
	// Stdout and Stderr get what it writes.
	Stdout, Stderr io.Writer
	// Took is told how long the kernel took until Main was called, and from when
	// that returned until the kernel was gone, within 30 ms each. Nil: nobody.
	Took func(boot, off time.Duration)
}

// request is what a supervisor is told, the first line of its standard input.
type request struct {
	Kernel  string `json:"kernel"`
	Modules string `json:"modules"`
	Memory  uint64 `json:"memory"`
	Dir     string `json:"dir,omitempty"`
	Remove  string `json:"remove,omitempty"`
	Path    string `json:"path"` // $PATH of the caller
	WorkDir string `json:"work_dir,omitempty"`

	Env   map[string]string `json:"env,omitempty"`
	Needs Needs             `json:"needs"`
	Input json.RawMessage   `json:"input"`
}

// stopLine asks, on the life-line and then on the console, to end in order.
const stopLine = "stop\n"

// reply is what a supervisor says at its end.
type reply struct {
	Code    int    `json:"code"`            // exit code of what ran inside
	Stopped bool   `json:"stopped"`         // before anything ran inside
	Error   string `json:"error,omitempty"` // why there is no code
	Console string `json:"console,omitempty"`

	Boot time.Duration `json:"boot,omitempty"`
	Off  time.Duration `json:"off,omitempty"`
}

// Run boots a private kernel, waits until what Init runs there has ended, and
// returns its exit code. When ctx ends what runs inside is asked to end in
// order, and its exit code counts; if it has not begun, the error is that of
// ctx. A kernel that gave no result is a *Crash; what this machine lacks is an
// *Unfit.
// When Run returns, or this process is gone, nothing of the kernel is left.
func Run(ctx context.Context, c Config) (code int, err error) {
	if c.Exe == "" {
		c.Exe = "/proc/self/exe"
	}
	if c.Stdout == nil {
		c.Stdout = io.Discard
	}
	if c.Stderr == nil {
		c.Stderr = io.Discard
	}
	img, err := c.find(ctx)
	if err != nil {
		return 0, err
	}
	if err := checkMemory(c.Memory); err != nil {
		return 0, err
	}
	line, err := json.Marshal(request{
		Kernel: img.kernel, Modules: img.modules, Memory: c.Memory,
		Dir: c.Dir, Remove: c.Remove, Path: os.Getenv("PATH"), WorkDir: c.WorkDir, Env: c.Env, Needs: c.Needs, Input: c.Input,
	})
	if err != nil {
		return 0, fmt.Errorf("encode request: %w", err)
	}
	r, err := c.supervised(ctx, append(line, '\n'))
	switch {
	case err != nil:
		return 0, err
	case r.Stopped:
		return 0, fmt.Errorf("boot private kernel: %w", context.Cause(ctx))
	case r.Error != "":
		return 0, &Crash{Reason: r.Error, Console: r.Console}
	}
	if c.Took != nil {
		c.Took(r.Boot, r.Off)
	}
	return r.Code, nil
}

// supervised starts a supervisor, hands it the request, and waits for its end.
func (c Config) supervised(ctx context.Context, request []byte) (reply, error) {
	in, lifeline, err := os.Pipe()
	if err != nil {
		return reply{}, fmt.Errorf("make life-line: %w", err)
	}
	defer in.Close()
	defer lifeline.Close()
	answers, out, err := os.Pipe()
	if err != nil {
		return reply{}, fmt.Errorf("make reply pipe: %w", err)
	}
	defer answers.Close()
	defer out.Close()
	cmd := exec.Command(c.Exe, "private", "supervise")
	cmd.Args[0] = "tablefull"
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, c.Stdout, c.Stderr
	cmd.ExtraFiles = []*os.File{out}
	cmd.SysProcAttr = isolate.Attr(syscall.CLONE_NEWNS, unix.CAP_SYS_ADMIN)
	if err := cmd.Start(); err != nil {
		return reply{}, &Unfit{fmt.Sprintf("a process in PID, mount and (without root) user namespaces of its own could not be started: %v; see: tablefull doctor", err)}
	}
	_ = out.Close() // only the supervisor's is left

	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = lifeline.Write(request) // fails only where the supervisor has ended, which is said below
	}()
	stop := context.AfterFunc(ctx, func() {
		<-written
		_, _ = io.WriteString(lifeline, stopLine)
	})
	var r reply
	derr := json.NewDecoder(answers).Decode(&r)
	werr := cmd.Wait()
	<-written
	stop()
	if derr != nil {
		return reply{}, fmt.Errorf("the private kernel's supervisor has ended without a result: %w", errors.Join(werr, derr))
	}
	return r, nil
}

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/isolate"
)

// endDeadline is how long a supervisor may take to end before it is killed,
// which ends everything in its PID namespace.
const endDeadline = downDeadline + 5*time.Second

// processName is what ps shows of supervisors and agents; their binary may be
// /proc/self/exe.
const processName = "tablefull"

// process is a supervisor as its controller sees it.
type process struct {
	cmd      *exec.Cmd
	lifeline *os.File
	stderr   isolate.Tail
	replies  chan message  // up, error and probe
	done     chan struct{} // the process has ended and replies are read
	waitErr  error         // valid after done

	mu     sync.Mutex
	told   bool              // reply has returned that it died
	made   bool              // the supervisor has made the work directory
	exited map[string]string // host -> how its agent ended
}

// start runs a supervisor in a PID namespace of its own and other new ones.
func start(command []string, namespaces uintptr) (*process, error) {
	in, lifeline, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make life-line: %w", err)
	}
	defer in.Close()
	replies, out, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make reply pipe: %w", err), lifeline.Close())
	}
	defer out.Close()
	p := &process{lifeline: lifeline, replies: make(chan message, 1), done: make(chan struct{}), exited: map[string]string{}}
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Args[0] = processName
	p.cmd.Dir = "/"
	p.cmd.Stdin = in
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = time.Second
	p.cmd.ExtraFiles = []*os.File{out}
	if fd, err := unix.PidfdOpen(os.Getpid(), 0); err == nil {
		self := os.NewFile(uintptr(fd), "controller")
		defer self.Close()
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, self)
		p.cmd.Args = append(p.cmd.Args, "--controller")
	}
	p.cmd.SysProcAttr = isolate.Attr(namespaces, needs...)
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start supervisor: %w", explainStart(err)), lifeline.Close(), replies.Close())
	}
	go p.read(replies)
	return p, nil
}

// What a supervisor of a lab is isolated in, and what making that needs.
const namespaces = syscall.CLONE_NEWNET

var needs = []uint{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN}

// read takes the supervisor's replies until it ends.
func (p *process) read(replies io.ReadCloser) {
	defer close(p.done)
	d := json.NewDecoder(replies)
	for {
		var m message
		if err := d.Decode(&m); err != nil {
			break
		}
		if m.Exited != nil || m.Made {
			p.mu.Lock()
			if m.Exited != nil {
				p.exited[m.Exited.Host] = m.Exited.Status
			}
			p.made = p.made || m.Made
			p.mu.Unlock()
			continue
		}
		select {
		case p.replies <- m:
		default: // more than one reply to one question: not ours
		}
	}
	_ = replies.Close()
	p.waitErr = p.cmd.Wait()
}

// build hands over the plan and waits until the lab is up.
func (p *process) build(ctx context.Context, pl plan) error {
	b, err := json.Marshal(pl)
	if err != nil {
		return fmt.Errorf("encode plan: %w", err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := p.lifeline.Write(append(b, '\n'))
		written <- err
	}()
	m, err := p.reply(ctx)
	if err != nil {
		return err
	}
	if err := <-written; err != nil {
		return fmt.Errorf("hand over plan: %w", err)
	}
	if m.Error != "" {
		return errors.New(m.Error)
	}
	return nil
}

// reply waits for the supervisor's answer.
func (p *process) reply(ctx context.Context) (message, error) {
	select {
	case m := <-p.replies:
		return m, nil
	case <-ctx.Done():
		return message{}, ctx.Err()
	case <-p.done:
	}
	select {
	case m := <-p.replies:
		return m, nil
	default:
		p.mu.Lock()
		p.told = true
		p.mu.Unlock()
		return message{}, p.died()
	}
}

// died says how the supervisor ended. It has ended.
func (p *process) died() error {
	status := "exit status 0"
	if p.waitErr != nil {
		status = p.waitErr.Error()
	}
	if s := p.stderr.String(); s != "" {
		status += ": " + s
	}
	return fmt.Errorf("the lab's supervisor has ended: %s", status)
}

// hostGone returns an error once the host's agent is known to have ended.
func (p *process) hostGone(host string) error {
	p.mu.Lock()
	status, gone := p.exited[host]
	p.mu.Unlock()
	if gone {
		return fmt.Errorf("the agent has ended: %s", status)
	}
	select {
	case <-p.done:
		return p.died()
	default:
		return nil
	}
}

// madeDir reports whether the supervisor has made the work directory.
func (p *process) madeDir() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made
}

// end asks the supervisor to take the lab down and waits for its end, after
// which no process of the lab is left. That it had ended before is an error,
// unless reply has returned that already.
func (p *process) end() error {
	_ = p.lifeline.Close() // nothing buffered
	t := time.NewTimer(endDeadline)
	defer t.Stop()
	var late error
	select {
	case <-p.done:
	case <-t.C:
		late = errors.Join(fmt.Errorf("the lab's supervisor did not end within %v and was killed", endDeadline), p.cmd.Process.Kill())
		<-p.done
	}
	p.mu.Lock()
	told := p.told
	p.mu.Unlock()
	if late == nil && p.waitErr != nil && !told {
		late = p.died()
	}
	return late
}

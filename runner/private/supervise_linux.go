package private

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/isolate"
)

const (
	// replyFD is what a supervisor inherits besides the standard descriptors.
	replyFD = 3
	// own is where the supervisor mounts a file system of its own, in its own
	// mount namespace: a directory that every Linux machine has, where nobody
	// keeps files of theirs, and that has no blank in its name, which the
	// kernel's command line could not hold.
	own = "/sys"

	bootTimeout = 60 * time.Second
	// silence is how long the inside may give no sign of life.
	silence = 60 * time.Second
	// haltTimeout is how long powering off may take once there is a result.
	haltTimeout = 10 * time.Second
	// relayEvery is how often output from inside is passed on.
	relayEvery = 30 * time.Millisecond
)

// Files below own, written from one side and read from the other.
const (
	requestFile = "request" // for init
	outFile     = "out"     // standard output of what runs inside
	errFile     = "err"     // its standard error
	aliveFile   = "alive"   // grows while the inside lives; empty until it is up
	codeFile    = "code"    // the exit code
	initFile    = "init"    // this program
)

// Supervise is the hidden command private supervise: it boots the kernel that
// its standard input asks for, and ends with it. The end of its standard input
// ends the kernel at once.
func Supervise(stdin io.Reader, stdout, stderr io.Writer) error {
	// It mounts, and its end kills: never outside namespaces of its own.
	if os.Getpid() != 1 {
		return errors.New("this command is for the program itself")
	}
	answers := os.NewFile(replyFD, "replies")
	unix.CloseOnExec(replyFD)
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	s := &supervisor{lifeline: in, relays: []*relay{{name: outFile, to: stdout}, {name: errFile, to: stderr}}}
	if err := json.Unmarshal(line, &s.request); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	r := s.run()
	if s.request.Remove != "" {
		_ = os.RemoveAll(s.request.Remove) // the caller does it once more, and says so where it fails
	}
	return json.NewEncoder(answers).Encode(r)
}

type supervisor struct {
	request  request
	lifeline io.Reader
	relays   []*relay
	console  isolate.Tail
}

// run boots the kernel and waits for its end.
func (s *supervisor) run() reply {
	if err := s.prepare(); err != nil {
		return reply{Error: err.Error()}
	}
	cmd, console, err := s.boot()
	if err != nil {
		return reply{Error: fmt.Sprintf("start %s: %v", s.request.Kernel, err)}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	r := s.follow(console, ended)
	r.Console = s.console.String()
	return r
}

// prepare mounts the supervisor's own file system and puts into it what the
// kernel needs.
func (s *supervisor) prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// The kernel's memory is a file in here. A little more, for the rest.
	size := fmt.Sprintf("size=%dm,mode=700", s.request.Memory+256)
	// Huge pages, where this machine has them, are taken and cleared 512 at once.
	err := unix.Mount("tablefull", own, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, size+",huge=within_size")
	if err != nil {
		err = unix.Mount("tablefull", own, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, size)
	}
	if err != nil {
		return fmt.Errorf("mount a temporary file system: %w", err)
	}
	b, err := json.Marshal(s.request)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	for name, content := range map[string][]byte{requestFile: b, outFile: nil, errFile: nil, aliveFile: nil} {
		if err := os.WriteFile(filepath.Join(own, name), content, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return copySelf(filepath.Join(own, initFile))
}

// copySelf makes this very program, even if its file has been replaced, the
// file to.
func copySelf(to string) error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("copy this program: %w", err)
	}
	defer self.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		return fmt.Errorf("copy this program: %w", err)
	}
	_, err = io.Copy(f, self)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("copy this program: %w", err)
	}
	return nil
}

// boot starts the kernel. What is written to the file it returns is read from
// the console inside.
func (s *supervisor) boot() (*exec.Cmd, io.Writer, error) {
	cmd := exec.Command(s.request.Kernel,
		"mem="+strconv.FormatUint(s.request.Memory, 10)+"M",
		"root=98:0", "rootfstype=hostfs", "rootflags=/", "ro", "console=tty0",
		"uml_dir="+own, "umid=kernel", "con=null", "con0=fd:0,fd:1", "ssl=null",
		"quiet", "noreboot", "panic=1", "init="+filepath.Join(own, initFile), "--", "private", "init")
	cmd.Dir = own
	cmd.Env = []string{"HOME=" + own, "TMPDIR=" + own, "PATH=/usr/bin:/bin"}
	cmd.Stdout, cmd.Stderr = &s.console, &s.console
	// A process of the kernel's may hold the console open for a moment longer.
	cmd.WaitDelay = time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	return cmd, in, onOneCPU(cmd.Start)
}

// onOneCPU calls start on a thread that is bound to the CPU it is on, and so
// binds what start starts. The kernel has one CPU and runs its processes by
// ptrace: of it and them one at a time runs, each system call and page fault
// hands over twice, and handing over to another CPU is what takes long, most of
// all on a busy machine.
func onOneCPU(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	var cpu uint32
	_, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0)
	one.Set(int(cpu))
	if errno != 0 || unix.SchedGetaffinity(0, &all) != nil || unix.SchedSetaffinity(0, &one) != nil {
		return start() // it is only slower
	}
	err := start()
	if unix.SchedSetaffinity(0, &all) != nil {
		runtime.LockOSThread() // and so never unlocked: nobody else gets this thread
	}
	return err
}

// follow passes on what is said in both directions until the kernel has
// ended, and says how.
func (s *supervisor) follow(console io.Writer, ended <-chan error) reply {
	stop, gone := s.listen()
	tick := time.NewTicker(relayEvery)
	defer tick.Stop()
	life := vital{dir: own, begun: time.Now(), last: time.Now()}
	var failed string
	for {
		select {
		case err := <-ended:
			s.pass()
			life.look(time.Now()) // it may have ended between two ticks
			r := s.result(err, failed)
			r.Boot, r.Off = life.up.Sub(life.begun), time.Since(life.result)
			return r
		case <-gone:
			killAll()
			<-ended
			return reply{Error: "the caller has ended"}
		case <-stop:
			stop = nil
			if life.size == 0 {
				killAll()
				<-ended
				return reply{Stopped: true}
			}
			_, _ = io.WriteString(console, stopLine) // fails only where it has ended
		case <-tick.C:
			s.pass()
			if failed == "" {
				if failed = life.check(time.Now()); failed != "" {
					killAll()
				}
			}
		}
	}
}

// killAll ends all processes of the kernel: this process is the first of its
// PID namespace, and so they are all there are.
func killAll() { _ = unix.Kill(-1, unix.SIGKILL) } // fails only where there are none

// listen reads the life-line: stop is closed when the inside is to end in
// order, gone when the caller has gone.
func (s *supervisor) listen() (stop, gone <-chan struct{}) {
	a, b := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(b)
		r := bufio.NewReader(s.lifeline)
		if line, err := r.ReadString('\n'); err == nil && line == stopLine {
			close(a)
			_, _ = io.Copy(io.Discard, r)
		}
	}()
	return a, b
}

// result is how the kernel ended: with an exit code in its file, or badly.
func (s *supervisor) result(waited error, failed string) reply {
	b, err := os.ReadFile(filepath.Join(own, codeFile))
	if err == nil {
		if code, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			return reply{Code: code}
		}
	}
	if failed == "" {
		failed = "the private kernel has ended without a result"
		if waited != nil {
			failed += " (" + waited.Error() + ")"
		}
	}
	return reply{Error: failed}
}

// pass passes on what is new in the output from inside.
func (s *supervisor) pass() {
	for _, r := range s.relays {
		r.pass()
	}
}

// vital watches for signs of life.
type vital struct {
	dir    string
	size   int64 // of the file that grows
	begun  time.Time
	up     time.Time // when there was the first sign
	last   time.Time
	result time.Time // when there was an exit code
}

// look reads the signs.
func (v *vital) look(now time.Time) {
	if info, err := os.Stat(filepath.Join(v.dir, aliveFile)); err == nil && info.Size() > v.size {
		if v.size == 0 {
			v.up = now
		}
		v.size, v.last = info.Size(), now
	}
	if v.result.IsZero() {
		if info, err := os.Stat(filepath.Join(v.dir, codeFile)); err == nil && info.Size() > 0 {
			v.result = now
		}
	}
}

// check returns why the kernel must be taken for dead, or nothing.
func (v *vital) check(now time.Time) string {
	v.look(now)
	switch {
	case !v.result.IsZero() && now.Sub(v.result) > haltTimeout:
		return fmt.Sprintf("the private kernel did not power off within %v", haltTimeout)
	case !v.result.IsZero():
		return ""
	case v.size == 0 && now.Sub(v.last) > bootTimeout:
		return fmt.Sprintf("the private kernel did not boot within %v", bootTimeout)
	case v.size > 0 && now.Sub(v.last) > silence:
		return fmt.Sprintf("the private kernel gave no sign of life for %v", silence)
	}
	return ""
}

// relay passes on a file that grows.
type relay struct {
	name string
	to   io.Writer
	file *os.File
}

// pass goes on where it left off. What cannot be written is lost, as it is to
// a program whose output is closed.
func (r *relay) pass() {
	if r.file == nil {
		f, err := os.Open(filepath.Join(own, r.name))
		if err != nil {
			return
		}
		r.file = f
	}
	_, _ = io.Copy(r.to, r.file)
}

package kubeproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readyPoll = 20 * time.Millisecond // at least
	// readyRest is how many times longer than the last question of its kind the
	// pause before the next one is: on the one CPU of a private kernel kube-proxy
	// programs no rules while it answers and we read. Its metrics take most of that,
	// a tenth of a second and more.
	readyRest = 9
	statePoll = time.Millisecond
	endGrace  = 5 * time.Second // from SIGTERM to SIGKILL
	tailLines = 20
)

// Process is a kube-proxy that runs as a child of this process, in its network
// namespace. It ends when this process ends. Its methods, but for Scrape, must
// not be called concurrently.
type Process struct {
	config Config
	child  *child // nil while there is none
	client *http.Client
	used   Usage
	first  *reading // what the child said when it had programmed rules, until it was taken
}

type reading struct {
	Metrics
	at time.Time
}

// child is one run of a binary.
type child struct {
	cmd    *exec.Cmd
	log    *lines
	ending atomic.Bool   // it was told to end
	done   chan struct{} // it has ended
	err    error         // how; valid after done
}

// Start runs a kube-proxy and waits until its rules are programmed for the
// first time. If it fails or ctx ends before, nothing runs.
func Start(ctx context.Context, c Config) (*Process, error) {
	p := &Process{config: c, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}, Timeout: 5 * time.Second}}
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Process) start(ctx context.Context) error {
	if err := p.config.check(); err != nil {
		return err
	}
	path, err := p.config.write()
	if err != nil {
		return err
	}
	ch, err := run(p.config, "--config", path, "-v", strconv.Itoa(p.config.Verbosity))
	if err != nil {
		return err
	}
	p.child = ch
	if err := p.waitSynced(ctx, ch); err != nil {
		return errors.Join(err, p.Stop(context.WithoutCancel(ctx)))
	}
	return nil
}

// run starts the binary. The thread that starts it stays until it ends: the
// kernel's signal at a parent's death goes by thread.
func run(c Config, args ...string) (*child, error) {
	ch := &child{log: &lines{tell: c.Log, keep: tailLines}, done: make(chan struct{})}
	ch.cmd = exec.Command(c.Binary, args...)
	ch.cmd.Dir = "/"
	ch.cmd.Env = append(os.Environ(), c.Env...)
	ch.cmd.Stdout, ch.cmd.Stderr = ch.log, ch.log
	ch.cmd.WaitDelay = time.Second
	ch.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := ch.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		ch.err = ch.cmd.Wait()
		ch.log.flush()
		if !ch.ending.Load() && c.Exited != nil {
			c.Exited(ch.ended())
		}
		close(ch.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start kube-proxy: %w", err)
	}
	return ch, nil
}

// ended says how the child ended, with its last words.
func (ch *child) ended() error {
	how := "exit status 0"
	if ch.err != nil {
		how = ch.err.Error()
	}
	return fmt.Errorf("kube-proxy ended by itself: %s; its last words:\n%s", how, strings.Join(ch.log.last(), "\n"))
}

// waitSynced waits until ch is healthy and has programmed rules. Only its
// metrics say that it has; but where its health says when it last did anything
// to rules, which it also does once before, they are asked for when that has
// changed, and else only now and then.
func (p *Process) waitSynced(ctx context.Context, ch *child) error {
	var touched, next time.Time // as health said last, and when metrics may be asked for all the same
	for {
		asked := time.Now()
		h, last := p.health(ctx)
		took := time.Since(asked)
		if last == nil {
			last = errNoRules
			if now := h.touched(); !now.Equal(touched) || time.Now().After(next) {
				look := time.Now()
				var m Metrics
				if m, last = p.synced(ctx); last == nil {
					p.first = &reading{m, time.Now()}
					return nil
				}
				touched, next = now, time.Now().Add(max(readyPoll, readyRest*time.Since(look)))
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for kube-proxy's first rules: %w (%w); its last words:\n%s",
				context.Cause(ctx), last, strings.Join(ch.log.last(), "\n"))
		case <-ch.done:
			return ch.ended()
		case <-time.After(max(readyPoll, readyRest*took)):
		}
	}
}

func (p *Process) synced(ctx context.Context) (Metrics, error) {
	m, err := p.Scrape(ctx)
	if err == nil && m.LastSync.IsZero() {
		err = errNoRules
	}
	return m, err
}

// TakeFirst returns once what a kube-proxy that was started said, and when, as it
// was healthy and had programmed its rules for the first time: asking it again at
// once would cost the one CPU of a private kernel a tenth of a second.
func (p *Process) TakeFirst() (m Metrics, at time.Time, ok bool) {
	if p.first == nil {
		return Metrics{}, time.Time{}, false
	}
	r := *p.first
	p.first = nil
	return r.Metrics, r.at, true
}

var errNoRules = errors.New("it has not programmed rules yet")

// Healthy returns nil if the health endpoint answers 200, and else what it
// answers.
func (p *Process) Healthy(ctx context.Context) error {
	_, err := p.health(ctx)
	return err
}

// health is what the health endpoint says, of a kube-proxy that knows
// pkg/proxy/healthcheck.ProxyHealth.Status; one that does not says nothing here.
type health struct {
	Status map[string]struct {
		LastUpdated time.Time `json:"lastUpdated"`
	} `json:"status"`
}

// touched is when the loop that programs rules began or last succeeded; zero if
// that is not known.
func (h health) touched() (last time.Time) {
	for _, family := range h.Status {
		if family.LastUpdated.After(last) {
			last = family.LastUpdated
		}
	}
	return last
}

func (p *Process) health(ctx context.Context) (h health, err error) {
	body, err := p.get(ctx, "http://"+p.config.health().String()+"/healthz")
	if err != nil && len(body) > 0 {
		err = fmt.Errorf("%w: %.200s", err, body)
	}
	if err != nil || json.Unmarshal(body, &h) != nil {
		return health{}, err // what it says is an extra
	}
	return h, nil
}

// Pause stops the process as a hang does: its rules stay as they are.
func (p *Process) Pause(ctx context.Context) error {
	return p.signal(ctx, "pause", syscall.SIGSTOP, unix.WSTOPPED)
}

// Resume lets a paused process go on.
func (p *Process) Resume(ctx context.Context) error {
	return p.signal(ctx, "resume", syscall.SIGCONT, unix.WCONTINUED)
}

// signal sends sig and waits until the kernel reports the new state, of all
// threads.
func (p *Process) signal(ctx context.Context, verb string, sig syscall.Signal, state int) error {
	ch := p.child
	if ch == nil {
		return fmt.Errorf("%s kube-proxy: it does not run", verb)
	}
	pid := ch.cmd.Process.Pid
	if err := ch.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("%s kube-proxy: %w", verb, err)
	}
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, state|unix.WNOHANG, nil)
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("%s kube-proxy: wait for it: %w", verb, err)
		case info.Signo != 0:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s kube-proxy: %w", verb, context.Cause(ctx))
		case <-ch.done:
			return fmt.Errorf("%s kube-proxy: %w", verb, ch.ended())
		case <-time.After(statePoll):
		}
	}
}

// Stop ends the process, paused or not, and leaves its rules: by SIGTERM, and
// by SIGKILL after 5 s or when ctx ends. It is no mistake if nothing runs.
func (p *Process) Stop(ctx context.Context) error {
	ch := p.child
	if ch == nil {
		return nil
	}
	p.child = nil
	defer p.client.CloseIdleConnections()
	ch.ending.Store(true)
	// A process that has ended meanwhile takes no signal.
	_ = ch.cmd.Process.Signal(syscall.SIGTERM)
	_ = ch.cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-ch.done:
	case <-time.After(endGrace):
	case <-ctx.Done():
	}
	// Also what it has started, such as an iptables-restore.
	_ = syscall.Kill(-ch.cmd.Process.Pid, syscall.SIGKILL)
	<-ch.done
	p.used.add(ch.cmd.ProcessState)
	return nil
}

// Usage is what processes that have ended used.
type Usage struct {
	CPU time.Duration // of all, in user and kernel mode
	RSS uint64        // most memory of one, bytes
}

func (u *Usage) add(s *os.ProcessState) {
	if s == nil {
		return
	}
	u.CPU += s.UserTime() + s.SystemTime()
	if r, ok := s.SysUsage().(*syscall.Rusage); ok {
		u.RSS = max(u.RSS, uint64(r.Maxrss)<<10) //nolint:gosec // KiB, never negative
	}
}

// Used is what the processes that Stop, Restart and Replace have ended used. A
// kube-proxy itself reads that from /proc, which in a lab shows processes under
// other numbers than its own.
func (p *Process) Used() Usage { return p.used }

// Restart ends the process and runs it again, with all its rules removed in
// between if clean is true (kube-proxy --cleanup).
func (p *Process) Restart(ctx context.Context, clean bool) error {
	return p.Replace(ctx, p.config.Binary, p.config.Mode, clean)
}

// Replace ends the process and runs another binary, or another mode, in its
// place, like an upgrade of a node. It waits until the new one has programmed
// its rules; if that fails, nothing runs.
func (p *Process) Replace(ctx context.Context, binary, mode string, clean bool) error {
	if err := p.Stop(ctx); err != nil {
		return err
	}
	if clean {
		if err := p.Clean(ctx); err != nil {
			return err
		}
	}
	p.config.Binary, p.config.Mode = binary, mode
	return p.start(ctx)
}

// Clean removes the rules of all modes, as kube-proxy --cleanup does. The
// process must not run.
//
// After mode ipvs it says that it failed: what removes the rules of mode iptables
// comes first and fails on chains that those of mode ipvs refer to. These are removed
// all the same. So what is left decides, and only if that is something a second time is
// worth its time.
func (p *Process) Clean(ctx context.Context) error {
	if p.child != nil {
		return errors.New("clean kube-proxy's rules: it still runs")
	}
	err := p.cleanOnce(ctx)
	switch {
	case err == nil || p.config.Mode != IPVS || ctx.Err() != nil:
		return err
	case cleaned(ctx):
		return nil
	}
	return p.cleanOnce(ctx)
}

func (p *Process) cleanOnce(ctx context.Context) error {
	quiet := p.config
	quiet.Exited = nil
	ch, err := run(quiet, "--cleanup")
	if err != nil {
		return err
	}
	select {
	case <-ch.done:
	case <-ctx.Done():
		_ = syscall.Kill(-ch.cmd.Process.Pid, syscall.SIGKILL)
		<-ch.done
		return fmt.Errorf("clean kube-proxy's rules: %w", context.Cause(ctx))
	}
	if ch.err != nil {
		return fmt.Errorf("clean kube-proxy's rules: %w:\n%s", ch.err, strings.Join(ch.log.last(), "\n"))
	}
	return nil
}

// PID is the process's id, or 0 while there is none.
func (p *Process) PID() int {
	if p.child == nil {
		return 0
	}
	return p.child.cmd.Process.Pid
}

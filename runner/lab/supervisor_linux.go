package lab

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/agent"
)

const (
	// Descriptors a supervisor inherits besides the standard ones.
	replyFD      = 3
	controllerFD = 4 // pidfd of the controller, with --controller

	listenerFD = 3 // what an agent inherits

	// downDeadline is how long taking down may last before the supervisor
	// exits all the same: its end takes every process of the lab with it.
	downDeadline = 5 * time.Second
)

// message is what a supervisor tells its controller, one JSON line each.
type message struct {
	Made   bool         `json:"made,omitempty"` // the work directory is there, and ours
	Up     bool         `json:"up,omitempty"`
	Error  string       `json:"error,omitempty"` // why it is not up
	Exited *exited      `json:"exited,omitempty"`
	Probe  *probeResult `json:"probe,omitempty"`
}

// exited says that a host's agent has ended, by itself or not.
type exited struct {
	Host   string `json:"host"`
	Status string `json:"status"`
}

// Main is the hidden command lab: the supervisor of one lab, as the first
// process of a PID namespace. Its stdin is a plan, and after that the life-line: its
// end takes the lab down. With --probe it tries out what a lab needs instead.
func Main(ctx context.Context, args []string, stdin io.Reader, stderr io.Writer) error {
	fs := flag.NewFlagSet("lab", flag.ContinueOnError)
	fs.SetOutput(stderr)
	probe := fs.Bool("probe", false, "try out what a lab needs")
	watch := fs.Bool("controller", false, "there is a pidfd of the controller")
	if err := fs.Parse(args); err != nil {
		return fmt.Errorf("read arguments: %w", err)
	}
	// It kills and unmakes: never outside a PID namespace of its own.
	if os.Getpid() != 1 {
		return errors.New("this command is for the program itself")
	}
	out := json.NewEncoder(os.NewFile(replyFD, "replies"))
	if *probe {
		r := probeInside()
		return out.Encode(message{Probe: &r})
	}
	s := &supervisor{stderr: stderr, out: out}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *watch {
		go func() {
			awaitEnd(controllerFD)
			cancel()
		}()
	}
	in := json.NewDecoder(stdin)
	if err := in.Decode(&s.plan); err != nil {
		return fmt.Errorf("read plan: %w", err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		cancel()
	}()
	err := s.up(ctx)
	if err == nil {
		err = s.tell(message{Up: true})
	} else {
		_ = s.tell(message{Error: err.Error()}) // where nobody listens, nobody needs it
	}
	if err == nil {
		<-ctx.Done()
	}
	return s.down()
}

// awaitEnd returns when the process behind pidfd has ended. Where that cannot
// be told it never returns: the life-line is enough.
func awaitEnd(pidfd int32) {
	fds := []unix.PollFd{{Fd: pidfd, Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			select {}
		}
		if n > 0 && fds[0].Revents&unix.POLLIN != 0 {
			return
		}
	}
}

type supervisor struct {
	plan   plan
	stderr io.Writer

	outMu sync.Mutex
	out   *json.Encoder

	madeDir bool
	dir     *os.File
	held    *os.File // the agents' life-line: it must not be collected
	hosts   map[string]*labHost

	agentsMu sync.Mutex
	agents   []*exec.Cmd
	waits    sync.WaitGroup
}

// labHost is one host as the supervisor holds it.
type labHost struct {
	plan hostPlan
	ns   *namespace
}

func (s *supervisor) tell(m message) error {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	if err := s.out.Encode(m); err != nil {
		return fmt.Errorf("tell controller: %w", err)
	}
	return nil
}

// up builds the lab. The agents start while the network is being made: a
// process start is the longest part of both.
func (s *supervisor) up(ctx context.Context) error {
	if err := s.makeDir(); err != nil {
		return err
	}
	lifeline, held, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make the agents' life-line: %w", err)
	}
	defer lifeline.Close()
	s.held = held

	s.hosts = make(map[string]*labHost, len(s.plan.Hosts))
	var g errgroup.Group
	for i, p := range s.plan.Hosts {
		h := &labHost{plan: p}
		s.hosts[p.Name] = h
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := s.makeHost(i, h, lifeline); err != nil {
				return fmt.Errorf("make host %s: %w", p.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return s.connect(ctx)
}

// makeDir makes the work directory. One that exists is taken only if it is
// empty and this user's, and not by way of a link: who owns it can replace what
// is in it, and what a link leads to would not be removed.
func (s *supervisor) makeDir() error {
	err := os.Mkdir(s.plan.WorkDir, 0o700)
	if errors.Is(err, os.ErrExist) && ownDir(s.plan.WorkDir) {
		list, rerr := os.ReadDir(s.plan.WorkDir)
		if rerr == nil && len(list) == 0 {
			err = os.Chmod(s.plan.WorkDir, 0o700)
		}
	}
	if err != nil {
		return fmt.Errorf("make work directory: %w", err)
	}
	s.madeDir = true
	if err := s.tell(message{Made: true}); err != nil {
		return err
	}
	if s.dir, err = os.Open(s.plan.WorkDir); err != nil {
		return fmt.Errorf("open work directory: %w", err)
	}
	return nil
}

// ownDir reports whether path is a directory, not a link to one, of this user.
func ownDir(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && int(st.Uid) == os.Geteuid()
}

// makeHost makes the host's namespace, prepares it, and starts its agent.
func (s *supervisor) makeHost(i int, h *labHost, lifeline *os.File) error {
	var err error
	if h.ns, err = namespaceOf(h.plan); err != nil {
		return err
	}
	l, err := listenerAt(s.dir, socketName(i))
	if err != nil {
		return err
	}
	defer l.Close()
	return h.ns.do(func() error {
		if err := s.startAgent(h.plan.Name, l.File, lifeline); err != nil {
			return fmt.Errorf("start agent: %w", err)
		}
		if err := applySysctls(h.plan.Sysctls); err != nil {
			return err
		}
		nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open route netlink: %w", err)
		}
		defer nl.Close()
		return loopbackUp(nl)
	})
}

// socketName is the file of a host's agent.
func socketName(host int) string { return fmt.Sprintf("%d.sock", host) }

// startAgent starts an agent in the network namespace of this thread.
func (s *supervisor) startAgent(host string, listener func() (*os.File, error), lifeline *os.File) error {
	f, err := listener()
	if err != nil {
		return fmt.Errorf("pass on listener: %w", err)
	}
	defer f.Close()
	args := append(s.plan.Command[1:len(s.plan.Command):len(s.plan.Command)],
		"--host", host, "--listen", fmt.Sprintf("fd:%d", listenerFD), "--lifeline",
		"--spool", filepath.Join(s.plan.WorkDir, host+".jsonl"))
	cmd := exec.Command(s.plan.Command[0], args...)
	cmd.Args[0] = processName
	cmd.Env = append(os.Environ(), agent.TokenVar+"="+s.plan.Token)
	cmd.Stdin = lifeline
	cmd.Stderr = s.stderr
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.agentsMu.Lock()
	s.agents = append(s.agents, cmd)
	s.agentsMu.Unlock()
	s.waits.Go(func() {
		status := "exit status 0"
		if err := cmd.Wait(); err != nil {
			status = err.Error()
		}
		_ = s.tell(message{Exited: &exited{Host: host, Status: status}}) // fails only when nobody listens any more
	})
	return nil
}

// firstIndex is the number of the first link's device on the node, far from
// those that the kernel hands out.
const firstIndex = 1000

// connect makes everything between the hosts.
func (s *supervisor) connect(ctx context.Context) error {
	for i, l := range s.plan.Links {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := addLink(s.hosts[l.Ends[0].Host].ns, s.hosts[l.Ends[1].Host].ns, l, firstIndex+i); err != nil {
			return fmt.Errorf("make link: %w", err)
		}
	}
	if err := s.addTunnels(); err != nil {
		return err
	}
	for _, step := range []func(context.Context, *labHost) error{s.route, s.reach} {
		for _, p := range s.plan.Hosts {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := step(ctx, s.hosts[p.Name]); err != nil {
				return fmt.Errorf("set up host %s: %w", p.Name, err)
			}
		}
	}
	return nil
}

func (s *supervisor) route(_ context.Context, h *labHost) error {
	return h.ns.withNetlink(func(nl *netlink.Handle) error { return addRoutes(nl, h.plan.Routes) })
}

func (s *supervisor) reach(ctx context.Context, h *labHost) error {
	if len(h.plan.Reach) == 0 {
		return nil
	}
	return h.ns.do(func() error {
		for _, a := range h.plan.Reach {
			if err := awaitReachable(ctx, a); err != nil {
				return err
			}
		}
		return nil
	})
}

// down ends the agents and removes the work directory. The network goes with
// the last process and descriptor that is in it.
func (s *supervisor) down() error {
	hard := time.AfterFunc(downDeadline, func() {
		_ = s.removeDir()
		os.Exit(1)
	})
	defer hard.Stop()
	s.agentsMu.Lock()
	agents := s.agents
	s.agentsMu.Unlock()
	for _, cmd := range agents {
		_ = cmd.Process.Kill() // fails only for one that has ended
	}
	s.waits.Wait()
	return s.removeDir()
}

func (s *supervisor) removeDir() error {
	if !s.madeDir {
		return nil
	}
	if err := os.RemoveAll(s.plan.WorkDir); err != nil {
		return fmt.Errorf("remove work directory: %w", err)
	}
	return nil
}

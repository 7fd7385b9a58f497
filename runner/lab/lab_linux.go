package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/agent"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/proxy"
)

// closeGrace is how long Close waits for agents to end their jobs in order.
// What they hold is in namespaces that go away, so being killed leaves nothing.
const closeGrace = 3 * time.Second

// Config says how the lab starts its own processes. The zero value is right
// for the tablefull binary.
type Config struct {
	// Exe is the binary with the hidden commands lab and agent. Empty is
	// /proc/self/exe: this very binary, even if its file has been replaced.
	Exe string
	// Args come before the hidden command's name.
	Args []string
	// Alone says that this kernel is ours alone. What it can do is then tried out on
	// a thread of this process, and not in a process of its own, which takes a
	// private kernel a third of a second to start.
	Alone bool
}

// An Env makes labs on this machine.
type Env struct{ cfg Config }

var _ env.Environment = (*Env)(nil)

// New returns the lab environment.
func New(cfg Config) *Env {
	if cfg.Exe == "" {
		cfg.Exe = "/proc/self/exe"
	}
	return &Env{cfg: cfg}
}

// Name is part of env.Environment.
func (*Env) Name() string { return "lab" }

// A Lab is a lab that is up.
type Lab struct {
	hosts    []env.Host
	topology env.Topology
	network  *network
	workDir  string

	// Since Serve.
	epochs      map[string]int64
	out         env.Recorder
	deployments []*deployment
	feeds       []*feed
	statesMu    sync.Mutex
	states      []env.ServiceState // as published last
	away        sync.Map           // slot without a network: the job that keeps it so
	serial      atomic.Uint64
	ctx         context.Context // ends with the lab
	stop        context.CancelFunc
	tasks       sync.WaitGroup

	dir   *os.File
	super *process

	close    sync.Mutex
	closed   bool
	closeErr error
}

var _ env.Lab = (*Lab)(nil)

// Up is part of env.Environment. Where t.WorkDir is empty a directory below the system's
// temporary one is used.
func (e *Env) Up(ctx context.Context, t env.Topology) (env.Lab, error) {
	l, err := e.up(ctx, t)
	if err != nil {
		return nil, fmt.Errorf("build lab: %w", err)
	}
	return l, nil
}

func (e *Env) up(ctx context.Context, t env.Topology) (_ *Lab, err error) {
	token := randomHex(32)
	if t.WorkDir == "" {
		t.WorkDir = filepath.Join(os.TempDir(), "tablefull-"+randomHex(8))
	}
	if t.WorkDir, err = filepath.Abs(t.WorkDir); err != nil {
		return nil, fmt.Errorf("find work directory: %w", err)
	}
	if t.Lab.Proxy.Binary != "" {
		if t.Lab.Proxy.Binary, err = proxy.Locate(t.Lab.Proxy.Binary); err != nil {
			return nil, err
		}
	}
	n, err := layout(t)
	if err != nil {
		return nil, err
	}
	p := &n.plan
	p.Token = token
	p.Command = e.command("agent")
	l := &Lab{topology: t, network: n, workDir: t.WorkDir}
	in := uintptr(namespaces)
	if t.FirstNamespace {
		in = 0 // this process is in the first one
	}
	if l.super, err = start(e.command("lab"), in); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close(context.WithoutCancel(ctx)))
		}
	}()
	if err := l.super.build(ctx, *p); err != nil {
		return nil, err
	}
	if l.dir, err = os.Open(t.WorkDir); err != nil {
		return nil, fmt.Errorf("open work directory: %w", err)
	}
	return l, l.dial(ctx, *p)
}

// command is the command line of a hidden command.
func (e *Env) command(name string) []string {
	return append(append([]string{e.cfg.Exe}, e.cfg.Args...), name)
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// dial reaches every host's agent.
func (l *Lab) dial(ctx context.Context, p plan) error {
	l.hosts = make([]env.Host, len(p.Hosts))
	g, ctx := errgroup.WithContext(ctx)
	for i, h := range p.Hosts {
		g.Go(func() error {
			c, err := agent.Dial(ctx, agent.ClientConfig{
				Name: h.Name, Role: h.Role, Token: p.Token,
				Dial: func(ctx context.Context) (net.Conn, error) {
					var d net.Dialer
					return d.DialContext(ctx, "unix", socketPath(l.dir, socketName(i)))
				},
				Gone: func() error { return l.super.hostGone(h.Name) },
			})
			if err != nil {
				return err
			}
			l.hosts[i] = c
			return nil
		})
	}
	return g.Wait()
}

// Hosts is part of env.Lab.
func (l *Lab) Hosts() []env.Host { return l.hosts }

// Services is part of env.Lab.
func (l *Lab) Services() []runlog.ServiceInfo { return l.network.services }

// Entries is part of env.Lab.
func (l *Lab) Entries() []env.Entry {
	var out []env.Entry
	for _, p := range l.network.places {
		out = append(out, env.Entry{Client: l.host(p.client), Node: p.node, Addresses: env.Addresses{NodeAddr: p.nodeAddr, Sources: p.sources, Outside: p.outside, Floods: p.floods}})
	}
	return out
}

// Close is part of env.Lab. Agents that are still there get a moment to end
// their jobs in order. When ctx is done the lab is taken down all the
// same, only faster.
func (l *Lab) Close(ctx context.Context) error {
	l.close.Lock()
	defer l.close.Unlock()
	if l.closed {
		return l.closeErr
	}
	l.closed = true
	l.closeErr = l.takeDown(ctx)
	return l.closeErr
}

func (l *Lab) takeDown(ctx context.Context) error {
	if l.stop != nil {
		l.stop()
		l.tasks.Wait()
	}
	orderly, cancel := context.WithTimeout(ctx, closeGrace)
	defer cancel()
	var wg sync.WaitGroup
	for _, h := range l.hosts {
		if h != nil {
			// Its failure changes nothing: the process is ended below.
			wg.Go(func() { _ = h.Close(orderly) })
		}
	}
	wg.Wait()
	err := l.super.end()
	if l.dir != nil {
		err = errors.Join(err, l.dir.Close())
	}
	// The supervisor has removed it, unless somebody killed the supervisor.
	if l.super.madeDir() {
		if rerr := os.RemoveAll(l.workDir); rerr != nil {
			err = errors.Join(err, fmt.Errorf("remove work directory: %w", rerr))
		}
	}
	return err
}

//go:build linux

package lab

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/isolate"
	"github.com/tablefull/tablefull/scenarios"
)

const markVar = "TABLEFULL_TEST_MARK"

// controller is a process that makes labs one after the other, uses each, and
// says so, until it is killed.
func controller(ctx context.Context, args []string) error {
	dir, family := args[0], args[1]
	for i := 0; ; i++ {
		top := env.Topology{
			WorkDir: filepath.Join(dir, strconv.Itoa(i)), Lab: scenarios.Lab{Family: family},
			Services: []scenarios.Service{service("web", "tcp", 3)},
		}
		l, err := newEnv().Up(ctx, top)
		if err != nil {
			return err
		}
		lab := l.(*Lab)
		if err := serveAll(ctx, lab); err != nil {
			return err
		}
		fmt.Println("up")
		err = lab.host("client").Start(ctx, env.Job{ID: "dial", Load: &env.LoadJob{
			Traffic: scenarios.Traffic{To: "tcp"}, Target: lab.Services()[0].Addr, SourceCount: 200, Sources: lab.Entries()[0].Sources,
		}})
		if err != nil {
			return err
		}
		if err := lab.host("client").Wait(ctx, "dial"); err != nil {
			return err
		}
		if err := l.Close(ctx); err != nil {
			return err
		}
	}
}

// machine is what a lab must not change.
type machine struct {
	Links     string
	Mounts    string
	Netns     []string
	Files     []string // descriptors of this process
	Limit     string
	Processes []int // in other PID namespaces than ours, started by us
}

func stateOfMachine(t testing.TB) machine {
	t.Helper()
	var m machine
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	for _, line := range strings.Split(read("/proc/net/dev"), "\n") {
		name, _, _ := strings.Cut(line, ":")
		m.Links += strings.TrimSpace(name) + "\n"
	}
	m.Mounts = read("/proc/self/mountinfo")
	m.Limit = read("/proc/sys/net/netfilter/nf_conntrack_max") + read("/proc/sys/net/ipv4/ip_forward")
	m.Netns, _ = filepath.Glob("/run/netns/*")
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err == nil && !strings.HasPrefix(to, "/dev/") && !strings.HasPrefix(to, "anon_inode:") {
			m.Files = append(m.Files, to)
		}
	}
	slices.Sort(m.Files)
	m.Processes = children()
	return m
}

// children are the processes whose parent is this one.
func children() []int {
	var out []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		if len(f) > 1 && f[1] == strconv.Itoa(os.Getpid()) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			out = append(out, pid)
		}
	}
	return out
}

// marked are the processes that carry mark in their environment, and the
// network namespaces they are in.
func marked(mark string) (pids []int, namespaces map[string]bool) {
	namespaces = map[string]bool{}
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		b, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(b, []byte(markVar+"="+mark+"\x00")) {
			continue
		}
		dir := filepath.Dir(path)
		pid, _ := strconv.Atoi(filepath.Base(dir))
		pids = append(pids, pid)
		if ns, err := os.Readlink(filepath.Join(dir, "ns/net")); err == nil {
			namespaces[ns] = true
		}
	}
	return pids, namespaces
}

// inUse are those of the namespaces that some process is in.
func inUse(namespaces map[string]bool) []string {
	var out []string
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, l := range links {
		if ns, err := os.Readlink(l); err == nil && namespaces[ns] {
			out = append(out, ns)
		}
	}
	return out
}

// eventually waits for what must come, however slow the machine is.
func eventually(t *testing.T, what func() bool, otherwise string) {
	t.Helper()
	require.Eventually(t, what, time.Minute, 5*time.Millisecond, otherwise)
}

func TestUpCloseLeavesNothing(t *testing.T) {
	needLab(t)
	families(t, func(t *testing.T, family string) {
		mark := fmt.Sprint(rand.Uint64())
		t.Setenv(markVar, mark)
		before := stateOfMachine(t)
		top := topology(t, family, service("web", "tcp", 3))
		l := up(t, top)
		pids, namespaces := marked(mark)
		assert.Len(t, pids, 6, "the supervisor and an agent per host")
		assert.Len(t, namespaces, 6)
		require.NoError(t, l.Close(t.Context()))
		require.NoError(t, l.Close(t.Context()), "closing again is no error")
		pids, _ = marked(mark)
		assert.Empty(t, pids)
		assert.Empty(t, inUse(namespaces))
		assert.NoDirExists(t, top.WorkDir)
		assert.Equal(t, before, stateOfMachine(t))
	})
}

// A lab is taken down although the context is done, and although its hosts
// have work.
func TestCloseWithoutTime(t *testing.T) {
	top := topology(t, "ipv4", service("web", "tcp", 2))
	l := up(t, top)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, l.Close(ctx))
	assert.NoDirExists(t, top.WorkDir)
}

// Whenever the controller is killed, everything is gone soon after: processes,
// namespaces, sockets, files.
func TestKilledControllerLeavesNothing(t *testing.T) {
	needLab(t)
	seed := rand.Uint64()
	t.Log("seed", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const rounds = 20
	for i := range rounds {
		mark, dir := fmt.Sprint(rng.Uint64()), t.TempDir()
		before := stateOfMachine(t)
		cmd := exec.Command("/proc/self/exe", "hidden", "controller", dir, []string{"ipv4", "ipv6"}[i%2])
		cmd.Env = append(os.Environ(), markVar+"="+mark)
		var stderr isolate.Tail
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		if i%4 == 3 { // of every four one while traffic flows, the others any time from the start on
			_, err := bufio.NewReader(out).ReadString('\n')
			require.NoError(t, err, stderr.String())
		}
		moment := time.NewTimer(time.Duration(rng.Int64N(int64(120 * time.Millisecond))))
		<-moment.C
		_, namespaces := marked(mark)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
		require.Equal(t, "signal: killed", cmd.ProcessState.String(), stderr.String())
		own, err := os.Readlink("/proc/self/ns/net")
		require.NoError(t, err)
		delete(namespaces, own)
		eventually(t, func() bool { p, _ := marked(mark); return len(p) == 0 }, "processes remain")
		eventually(t, func() bool { return len(inUse(namespaces)) == 0 }, "namespaces remain")
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		assert.Empty(t, left, "round %d", i)
		assert.Equal(t, before, stateOfMachine(t))
	}
}

// A controller that leaked its life-line to a process that outlives it: the
// supervisor notices by the controller's pidfd.
func TestLeakedLifeline(t *testing.T) {
	needLab(t)
	mark, dir := fmt.Sprint(rand.Uint64()), t.TempDir()
	cmd := exec.Command("/proc/self/exe", "hidden", "leaky controller", dir)
	cmd.Env = append(os.Environ(), markVar+"="+mark)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var heir int
	_, err = fmt.Fscan(out, &heir)
	require.NoError(t, err)
	defer func() { assert.NoError(t, unix.Kill(heir, unix.SIGKILL)) }()
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
	eventually(t, func() bool { p, _ := marked(mark); return len(p) == 1 && p[0] == heir }, "the lab remains")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
}

// leakyController brings a lab up and starts a process that inherits the
// life-line, whose number it prints.
func leakyController(ctx context.Context, args []string) error {
	l, err := newEnv().Up(ctx, env.Topology{WorkDir: filepath.Join(args[0], "work"), Services: []scenarios.Service{service("web", "tcp", 1)}})
	if err != nil {
		return err
	}
	heir := exec.Command("sleep", "300")
	heir.ExtraFiles = []*os.File{l.(*Lab).super.lifeline}
	if err := heir.Start(); err != nil {
		return err
	}
	fmt.Println(heir.Process.Pid)
	return heir.Wait()
}

// pidsOf are the marked processes whose command line has part in it.
func pidsOf(t *testing.T, mark, part string) []int {
	t.Helper()
	var out []int
	pids, _ := marked(mark)
	for _, pid := range pids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(b), part) {
			out = append(out, pid)
		}
	}
	return out
}

// When somebody kills the supervisor the lab is gone, calls say so at once,
// and Close removes what the supervisor could not.
func TestKilledSupervisor(t *testing.T) {
	needLab(t)
	mark := fmt.Sprint(rand.Uint64())
	t.Setenv(markVar, mark)
	top := topology(t, "ipv4", service("web", "tcp", 1))
	l, err := newEnv().Up(t.Context(), top)
	require.NoError(t, err)
	super := pidsOf(t, mark, "hidden\x00lab")
	require.Len(t, super, 1)
	require.NoError(t, unix.Kill(super[0], unix.SIGKILL))
	err = l.(*Lab).host("client").Records(t.Context(), 1, nil)
	assert.ErrorContains(t, err, "ended")
	assert.ErrorContains(t, l.Close(t.Context()), "signal: killed")
	assert.NoDirExists(t, top.WorkDir)
	pids, _ := marked(mark)
	assert.Empty(t, pids)
}

// When an agent dies, calls to its host say so, and the others go on.
func TestKilledAgent(t *testing.T) {
	needLab(t)
	mark := fmt.Sprint(rand.Uint64())
	t.Setenv(markVar, mark)
	l := up(t, topology(t, "ipv4", service("web", "tcp", 2)))
	pid := pidsOf(t, mark, "--host\x00web-1")
	require.Len(t, pid, 1)
	require.NoError(t, unix.Kill(pid[0], unix.SIGKILL))
	err := l.host("web-1").Wait(t.Context(), "serve")
	assert.EqualError(t, err, "web-1: the agent has ended: signal: killed")
	var refused, answered int
	for _, e := range connects(t, l.host("client"), "tcp", l.Services()[0].Addr, 40, netip.Prefix{}, 1) {
		switch {
		case e.Name == "ECONNREFUSED":
			refused++
		case strings.HasPrefix(e.Name, "web-2"):
			answered++
		}
	}
	assert.Equal(t, 40, refused+answered)
	assert.Positive(t, refused, "its namespace is still there, its listener is not")
	assert.Positive(t, answered)
}

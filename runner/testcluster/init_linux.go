package testcluster

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The stages, as a process's first argument. The second is the directory.
const (
	initStage = "testcluster-init"
	hostStage = "testcluster-host" // the third argument is the host's name
	goLine    = "go\n"
)

const controlHost = "control"

// Stage runs a part of a cluster, and does not return, if that is what this
// process was started for. Every program that calls [Up] calls it first.
func Stage() {
	if len(os.Args) < 3 {
		return
	}
	var err error
	switch os.Args[1] {
	case initStage:
		err = runInit(os.Args[2])
	case hostStage:
		err = runHost(os.Args[2], os.Args[3])
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testcluster:", strings.Join(os.Args[1:], " ")+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// runInit is the first process of the cluster's PID namespace, in the network
// namespace of this machine. It ends when one of the hosts does, and everything
// with it.
func runInit(dir string) error {
	// Whoever started us writes down who we are before he lets us go on.
	if err := waitToGo(os.Stdin); err != nil {
		return err
	}
	l, _, err := load(dir)
	if err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	hosts := map[int]string{}
	pids := map[string]int{}
	var release []*os.File
	for _, name := range l.hosts() {
		pid, in, err := l.startHost(name)
		if err != nil {
			return err
		}
		hosts[pid], pids[name] = name, pid
		release = append(release, in)
	}
	if err := l.makeLinks(pids); err != nil {
		return err
	}
	for _, in := range release {
		if _, err := in.WriteString(goLine); err != nil {
			return fmt.Errorf("let a host go on: %w", err)
		}
	}
	return reap(hosts)
}

func waitToGo(r io.Reader) error {
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || line != goLine {
		return errors.New("who started this has ended")
	}
	return nil
}

// reap waits for children, our own and inherited ones, until a host's ends or
// we are told to.
func reap(hosts map[int]string) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	ended := make(chan error, 1)
	go func() { // ends with the process
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, 0, nil)
			switch {
			case errors.Is(err, syscall.EINTR):
			case err != nil:
				ended <- fmt.Errorf("wait for children: %w", err)
				return
			case hosts[pid] != "":
				ended <- fmt.Errorf("host %s ended: exit code %d, signal %d", hosts[pid], status.ExitStatus(), status.Signal())
				return
			}
		}
	}()
	select {
	case <-signals:
		return nil
	case err := <-ended:
		return err
	}
}

// hosts are the names of all hosts.
func (l layout) hosts() []string {
	names := []string{controlHost}
	for _, n := range l.nodes {
		names = append(names, n.name)
	}
	return names
}

// startHost starts the process that is a host. It is reaped by reap, so it is
// no exec.Cmd. It goes on when it reads a line.
func (l layout) startHost(name string) (pid int, in *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, nil, fmt.Errorf("make pipe: %w", err)
	}
	defer r.Close()
	p, err := os.StartProcess("/proc/self/exe", []string{"testcluster", hostStage, l.dir, name}, &os.ProcAttr{
		Files: []*os.File{r, os.Stdout, os.Stderr},
		Env:   os.Environ(),
		Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS},
	})
	if err != nil {
		return 0, nil, errors.Join(fmt.Errorf("start host %s: %w", name, err), w.Close())
	}
	pid = p.Pid
	return pid, w, p.Release()
}

// makeLinks joins the hosts, and control with this machine. The links go away
// with the hosts' namespaces.
func (l layout) makeLinks(pids map[string]int) error {
	for _, n := range l.nodes {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Namespace = n.dev, netlink.NsPid(pids[controlHost])
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerNamespace = nodeDev, netlink.NsPid(pids[n.name])
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("link %s: %w", n.name, err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = l.link.dev
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerNamespace = hostDev, netlink.NsPid(pids[controlHost])
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("link this machine: %w", err)
	}
	return setAddr(l.link.dev, l.link.host, linkBits)
}

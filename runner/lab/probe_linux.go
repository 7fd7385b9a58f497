package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	tc "github.com/ti-mo/conntrack"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/agent"
	"github.com/tablefull/tablefull/runner/conntrack"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/isolate"
	"github.com/tablefull/tablefull/runner/proxy"
	"github.com/tablefull/tablefull/runner/sysctl"
)

// probeResult is what a throw-away supervisor found out inside its namespaces.
type probeResult struct {
	Capabilities []env.Capability `json:"capabilities"`
	// Facts as a lab's node will have them: a namespace's timeouts are the
	// kernel's defaults, not what the machine has set for itself.
	Facts conntrack.Facts `json:"facts"`
}

// Probe is part of env.Environment. It tries each thing in a throw-away
// process in namespaces of its own, or in a network namespace where this kernel is
// ours alone.
func (e *Env) Probe(ctx context.Context) (env.Capabilities, error) {
	caps, err := agent.MachineFacts()
	if err != nil {
		return env.Capabilities{}, fmt.Errorf("probe machine: %w", err)
	}
	r, err := e.probeInside(ctx)
	if ctx.Err() != nil {
		return env.Capabilities{}, fmt.Errorf("probe machine: %w", ctx.Err())
	}
	if err == nil {
		caps.List = append(namespacesWork(), r.Capabilities...)
	} else {
		caps.List = append(e.whichNamespaceFails(err), notTried("veth"), notTried("nftables"), notTried("ctnetlink"))
	}
	caps.Limit, caps.Buckets, caps.EntryBytes, caps.Timeouts = r.Facts.Limit, r.Facts.Buckets, r.Facts.EntryBytes, r.Facts.Timeouts
	caps.List = append(caps.List,
		canOpen("limit_writable", "/proc/sys/net/netfilter/nf_conntrack_max", os.O_WRONLY,
			"only root in the machine's own network namespace may write nf_conntrack_max; conntrack.headroom needs no such right"),
		canOpen("slabinfo", "/proc/slabinfo", os.O_RDONLY,
			"only root may read /proc/slabinfo; without it the memory of the table is estimated"))
	return caps, nil
}

// probeInside runs the hidden command lab --probe, or does what that does.
func (e *Env) probeInside(ctx context.Context) (r probeResult, err error) {
	if e.cfg.Alone {
		err = isolate.OnOwnThread(func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make network namespace: %w", err)
			}
			r = probeInside()
			return nil
		})
		return r, err
	}
	p, err := start(append(e.command("lab"), "--probe"), namespaces)
	if err != nil {
		return probeResult{}, err
	}
	m, err := p.reply(ctx)
	if err = errors.Join(err, p.end()); err != nil {
		return probeResult{}, err
	}
	if m.Probe == nil {
		return probeResult{}, errors.New("the probe gave no answer")
	}
	return *m.Probe, nil
}

func namespacesWork() []env.Capability {
	userns := env.Capability{Name: "userns", State: env.Yes}
	if isolate.Privileged(needs...) {
		userns.Reason = "not needed: this process may make networks without one"
	}
	return []env.Capability{userns, {Name: "pidns", State: env.Yes}, {Name: "netns", State: env.Yes}}
}

// whichNamespaceFails finds out which kind of namespace is the trouble, when
// all together failed with err.
func (e *Env) whichNamespaceFails(err error) []env.Capability {
	list := []env.Capability{
		{Name: "userns", State: env.Yes, Reason: "not needed: this process may make networks without one"},
		{Name: "pidns", State: env.Unknown},
		{Name: "netns", State: env.Unknown},
	}
	if !isolate.Privileged(needs...) {
		list[0] = e.tryNamespace("userns", 0)
	}
	if list[0].State != env.Yes {
		list[1], list[2] = notTried("pidns"), notTried("netns")
		return list
	}
	list[1] = e.tryNamespace("pidns", syscall.CLONE_NEWPID)
	list[2] = e.tryNamespace("netns", syscall.CLONE_NEWNET)
	if list[1].State == env.Yes && list[2].State == env.Yes {
		// Each alone works: what failed is the probe.
		list[2] = env.Capability{Name: "netns", State: env.Unknown, Reason: err.Error()}
	}
	return list
}

// tryNamespace starts a child in one kind of namespace (and a user namespace
// where that is needed). The child refuses to do anything there.
func (e *Env) tryNamespace(name string, flag uintptr) env.Capability {
	command := append(e.command("lab"), "--try")
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = isolate.Attr(namespaces, needs...)
	cmd.SysProcAttr.Cloneflags &= syscall.CLONE_NEWUSER
	cmd.SysProcAttr.Cloneflags |= flag
	if err := cmd.Start(); err != nil {
		return env.Capability{Name: name, State: env.No, Reason: explainStart(err).Error()}
	}
	_ = cmd.Wait() // it fails, as it should
	return env.Capability{Name: name, State: env.Yes}
}

func notTried(name string) env.Capability {
	return env.Capability{Name: name, State: env.Unknown, Reason: "not tried: it needs the namespaces"}
}

func canOpen(name, path string, flag int, why string) env.Capability {
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return env.Capability{Name: name, State: env.No, Reason: fmt.Sprintf("%v: %s", err, why)}
	}
	_ = f.Close() // nothing was written
	return env.Capability{Name: name, State: env.Yes}
}

// explainStart adds to a failed start in new namespaces what to do about it.
func explainStart(err error) error {
	var hint string
	switch {
	case errors.Is(err, os.ErrNotExist):
		return err
	case sysctlIs("kernel/unprivileged_userns_clone", "0"):
		hint = "user namespaces are switched off for users: sysctl kernel.unprivileged_userns_clone=1, or run as root"
	case sysctlIs("user/max_user_namespaces", "0"):
		hint = "user namespaces are switched off: sysctl user.max_user_namespaces=15000, or run as root"
	case sysctlIs("kernel/apparmor_restrict_unprivileged_userns", "1") && !isolate.Privileged(needs...):
		hint = "AppArmor restricts user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run as root"
	case errors.Is(err, unix.ENOSPC):
		hint = "too many namespaces exist: see /proc/sys/user/max_net_namespaces and its neighbours"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		hint = "in a container, its runtime forbids namespaces: start it with --privileged, or with --security-opt seccomp=unconfined and --cap-add SYS_ADMIN --cap-add NET_ADMIN"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		hint = "this kernel was built without the namespaces (CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS)"
	default:
		return err
	}
	return fmt.Errorf("%w (%s)", err, hint)
}

func sysctlIs(name, value string) bool {
	v, err := sysctl.Read(name)
	return err == nil && v == value
}

// probeInside tries the parts of a lab. Its thread is in fresh namespaces, and
// everything it makes goes away with them.
func probeInside() probeResult {
	var r probeResult
	add := func(name, hint string, err error) bool {
		c := env.Capability{Name: name, State: env.Yes}
		if err != nil {
			c.State, c.Reason = env.No, inOneLine(err)
			if hint != "" {
				c.Reason += " (" + hint + ")"
			}
		}
		r.Capabilities = append(r.Capabilities, c)
		return err == nil
	}
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		r.Capabilities = append(r.Capabilities, notTried("veth"), notTried("nftables"), notTried("ctnetlink"))
		return r
	}
	ns := &namespace{here}
	add("veth", "the kernel needs CONFIG_VETH; as root: modprobe veth", tryVeth(ns))
	nft := add("nftables", "the kernel needs nf_tables with NAT; as root: modprobe -a nft_chain_nat nft_numgen nft_reject_ipv4 nft_reject_ipv6 nft_masq", proxy.Try())
	add("ipvs", "as root: modprobe -a ip_vs ip_vs_rr, where the kernel has it; lab.kernel: private is one that has", tryIPVS())
	if !nft && !sysctlExists("net/netfilter/nf_conntrack_max") {
		r.Capabilities = append(r.Capabilities, env.Capability{Name: "ctnetlink", State: env.Unknown, Reason: "not tried: without nftables nothing has loaded connection tracking"})
		return r
	}
	add("ctnetlink", "the kernel needs CONFIG_NF_CT_NETLINK; as root: modprobe nf_conntrack_netlink", tryTable())
	facts, err := conntrack.ReadFacts()
	if err != nil {
		add("conntrack_settings", "", err)
	}
	r.Facts = facts
	return r
}

// inOneLine is what an error says, each thing once: nf_tables has one error for
// each part of what it refused.
func inOneLine(err error) string {
	return strings.Join(slices.Compact(strings.Split(err.Error(), "\n")), "; ")
}

// tryIPVS asks for IPVS's settings of this namespace. Asking for its generic
// netlink family before makes the kernel load the module where it may.
func tryIPVS() error {
	if _, err := netlink.GenlFamilyGet("IPVS"); err != nil {
		return fmt.Errorf("find IPVS: %w", err)
	}
	if !sysctlExists("net/ipv4/vs/conntrack") {
		return errors.New("IPVS has no settings in this namespace")
	}
	return nil
}

func sysctlExists(name string) bool {
	_, err := os.Stat("/proc/sys/" + name)
	return err == nil
}

func tryVeth(here *namespace) error {
	there, err := newNamespace()
	if err != nil {
		return err
	}
	return errors.Join(addLink(here, there, linkPlan{Ends: [2]linkEnd{{Host: "here", Dev: "a"}, {Host: "there", Dev: "b"}}}, firstIndex), there.close())
}

// tryTable puts an entry into this namespace's table and finds it there.
func tryTable() error {
	c, err := tc.Dial(nil)
	if err != nil {
		return fmt.Errorf("open ctnetlink: %w", err)
	}
	flow := tc.NewFlow(unix.IPPROTO_TCP, tc.StatusConfirmed|tc.StatusSeenReply|tc.StatusAssured, netip.MustParseAddr("100.64.0.1"), netip.MustParseAddr("100.64.0.2"), 1, 2, 5, 0)
	if err := c.Create(flow); err != nil {
		return errors.Join(fmt.Errorf("insert entry: %w", err), c.Close())
	}
	if _, err := c.Get(flow); err != nil {
		return errors.Join(fmt.Errorf("look up entry: %w", err), c.Close())
	}
	return c.Close()
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/isolate"
	"github.com/tablefull/tablefull/runner/sysctl"
)

// A namespace is a network namespace, kept alive by a descriptor.
type namespace struct{ f *os.File }

// namespaceOf is a host's: a new one, or that of this process.
func namespaceOf(p hostPlan) (*namespace, error) {
	if p.First {
		return openNamespace(func() error { return nil })
	}
	return newNamespace()
}

// newNamespace makes one. Nobody else knows of it until something is put in.
func newNamespace() (*namespace, error) {
	return openNamespace(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		return nil
	})
}

// openNamespace keeps the one that a thread is in once it has entered.
func openNamespace(enter func() error) (*namespace, error) {
	var n namespace
	err := isolate.OnOwnThread(func() error {
		if err := enter(); err != nil {
			return err
		}
		// Not by our thread's number: /proc is that of the outer PID
		// namespace, where it means another thread.
		f, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return fmt.Errorf("keep network namespace: %w", err)
		}
		n.f = f
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &n, nil
}

// do runs f on a thread that is inside the namespace. Sockets f makes and
// processes it starts belong to the namespace; /proc/sys/net is the
// namespace's.
func (n *namespace) do(f func() error) error {
	return isolate.OnOwnThread(func() error {
		if err := unix.Setns(int(n.f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

func (n *namespace) close() error { return n.f.Close() }

// withNetlink runs f inside the namespace with a route netlink handle.
func (n *namespace) withNetlink(f func(h *netlink.Handle) error) error {
	return n.do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return fmt.Errorf("open route netlink: %w", err)
		}
		defer h.Close()
		return f(h)
	})
}

// applySysctls writes the settings in order and reads each back. The caller is
// on a thread inside the namespace.
func applySysctls(list []setting) error {
	for _, s := range list {
		if err := applySysctl(s); err != nil {
			return err
		}
	}
	return nil
}

func applySysctl(s setting) error {
	before, err := sysctl.Read(s.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && s.IfPresent:
		return nil
	case err == nil && (before == s.Value || s.AtLeast && atLeast(before, s.Value)):
		return nil
	}
	return sysctl.Set(s.Name, s.Value)
}

// atLeast reports whether the number have is not below want.
func atLeast(have, want string) bool {
	h, err1 := strconv.ParseUint(have, 10, 64)
	w, err2 := strconv.ParseUint(want, 10, 64)
	return err1 == nil && err2 == nil && h >= w
}

// loopbackUp is what local routes need.
func loopbackUp(h *netlink.Handle) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// addLink makes a veth pair between two namespaces. Its number on the first
// side is index, which must be unused there.
//
// Neighbours are entered by hand: address resolution could lose the first
// packet, and an attempt that was lost to that is nobody's finding.
func addLink(a, b *namespace, l linkPlan, index int) error {
	err := a.withNetlink(func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = l.Ends[0].Dev
		// The kernel takes its time to activate a veth whose peer has the
		// same number in another namespace.
		attrs.Index = index
		veth := netlink.NewVeth(attrs)
		veth.PeerName = l.Ends[1].Dev
		veth.PeerNamespace = netlink.NsFd(int(b.f.Fd()))
		if err := h.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth %s: %w", attrs.Name, err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", l.Ends[0].Host, err)
	}
	var macs [2]net.HardwareAddr
	for i, ns := range []*namespace{a, b} {
		err := ns.withNetlink(func(h *netlink.Handle) (err error) {
			macs[i], err = addEnd(h, l.Ends[i])
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", l.Ends[i].Host, err)
		}
	}
	for i, ns := range []*namespace{a, b} {
		err := ns.withNetlink(func(h *netlink.Handle) error {
			return addNeighbours(h, l.Ends[i].Dev, l.Ends[1-i].Addrs, macs[1-i])
		})
		if err != nil {
			return fmt.Errorf("%s: %w", l.Ends[i].Host, err)
		}
	}
	return nil
}

// addEnd gives one end of a link its addresses, sets it up, and returns its
// hardware address.
func addEnd(h *netlink.Handle, e linkEnd) (net.HardwareAddr, error) {
	dev, err := h.LinkByName(e.Dev)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", e.Dev, err)
	}
	for _, p := range e.Addrs {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(dev, addr); err != nil {
			return nil, fmt.Errorf("add address %s to %s: %w", p, e.Dev, err)
		}
	}
	if err := h.LinkSetUp(dev); err != nil {
		return nil, fmt.Errorf("set %s up: %w", e.Dev, err)
	}
	return dev.Attrs().HardwareAddr, nil
}

// addNeighbours enters where addrs are found, for good.
func addNeighbours(h *netlink.Handle, device string, addrs []netip.Prefix, mac net.HardwareAddr) error {
	dev, err := h.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	for _, p := range addrs {
		n := &netlink.Neigh{LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: p.Addr().AsSlice(), HardwareAddr: mac}
		if err := h.NeighSet(n); err != nil {
			return fmt.Errorf("add neighbour %s: %w", p.Addr(), err)
		}
	}
	return nil
}

const (
	reachTry   = 20 * time.Millisecond // for one handshake across a veth pair
	reachLimit = 5 * time.Second
	closedPort = 1
)

// awaitReachable returns once packets come through to addr and back: a link
// that is up may still drop them for a moment. The caller is on a thread inside the
// namespace, and nobody listens at addr, so the proof is a reset. It must come
// before connections are tracked, or the table would keep a trace of it.
func awaitReachable(ctx context.Context, addr netip.Addr) error {
	end := time.Now().Add(reachLimit)
	for {
		err := knock(netip.AddrPortFrom(addr, closedPort))
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(end) {
			return fmt.Errorf("reach %s: %w", addr, err)
		}
	}
}

// knock connects to a port where nobody listens and returns how that ended.
func knock(to netip.AddrPort) error {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sa); !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if _, err := unix.Poll(fds, int(reachTry.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for socket: %w", err)
	}
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return fmt.Errorf("read socket error: %w", err)
	}
	if errno == 0 {
		return unix.ETIMEDOUT
	}
	return unix.Errno(errno)
}

// addRoutes adds a host's routes in order. All its links are there and up.
func addRoutes(h *netlink.Handle, list []routePlan) error {
	for _, r := range list {
		if err := addRoute(h, r); err != nil {
			return fmt.Errorf("add route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

func addRoute(h *netlink.Handle, r routePlan) error {
	route := netlink.Route{Dst: ipNet(r.Dst), Type: unix.RTN_UNICAST}
	name := r.Dev
	switch r.Kind {
	case routeLocal:
		route.Type, route.Table, route.Scope = unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, netlink.SCOPE_HOST
		name = "lo"
	case routeBlackhole:
		route.Type = unix.RTN_BLACKHOLE
	default:
		route.Scope = netlink.SCOPE_LINK
	}
	if r.Via.IsValid() {
		route.Gw, route.Scope = r.Via.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	if name != "" {
		dev, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		route.LinkIndex = dev.Attrs().Index
	}
	return h.RouteAdd(&route)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// listenerAt binds a unix socket named name in dir, whose path may be longer
// than the 107 bytes a socket address holds. Only this user may connect.
func listenerAt(dir *os.File, name string) (*net.UnixListener, error) {
	path := socketPath(dir, name)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	// The work directory's owner removes it; the agent's copy of the listener
	// lives on after this one is closed.
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect %s: %w", name, err), l.Close())
	}
	return l, nil
}

// socketPath names a file in dir in few bytes.
func socketPath(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}

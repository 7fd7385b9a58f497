//go:build linux

package traffic

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// socket makes a socket that is bound to src as far as that is given.
func (e *tcpEngine) socket(src netip.AddrPort) (fd int, err error) {
	family, level := unix.AF_INET, unix.IPPROTO_IP
	six := src.Addr().Is6()
	if six {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if six {
		if err = hearICMP6(fd, true); err != nil {
			return fd, err
		}
	}
	if src.Addr().IsUnspecified() && src.Port() == 0 {
		return fd, e.tune(fd)
	}
	if six {
		// Addresses that are ours by a local route only, and not on an
		// interface, may be bound to like this; IPv4 needs nothing for it.
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
	}
	if err == nil {
		if src.Port() == 0 {
			// The port is chosen by connect, which knows the destination:
			// a port may then serve once for each of them.
			err = unix.SetsockoptInt(fd, level, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		} else {
			// Older connections from this port may be in TIME_WAIT.
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
	}
	if err == nil {
		err = unix.Bind(fd, e.sockaddr(src))
	}
	if err == nil {
		err = e.tune(fd)
	}
	return fd, err
}

// hearICMP6 says whether ICMPv6 errors are queued at the socket (IPV6_RECVERR).
//
// On one machine a reject arrives while connect still holds the socket. IPv4
// queues it all the same, and the socket has an event; IPv6 does so only on
// demand, and otherwise nothing is heard before the next SYN is rejected. It is
// for connecting only: once connected, IPv4 takes such errors for passing
// troubles, and IPv6 does so only without the option.
func hearICMP6(fd int, on bool) error {
	value := 0
	if on {
		value = 1
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, value)
}

// tune sets what is the same for all sockets.
func (e *tcpEngine) tune(fd int) error {
	// A request in one segment never has a second one that could wait for
	// the first one's ACK.
	if len(e.request) > tcpSegment {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return err
		}
	}
	if e.keepAlive == 0 {
		return nil
	}
	for _, o := range [...]struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, e.keepAlive},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, e.keepAlive},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	return nil
}

func (e *tcpEngine) connect(fd int, dst netip.AddrPort) error {
	return unix.Connect(fd, e.sockaddr(dst))
}

// sockaddr returns a in the form of system calls, valid until the next call.
func (e *tcpEngine) sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		e.sa4.Addr, e.sa4.Port = a.Addr().As4(), int(a.Port())
		return &e.sa4
	}
	e.sa6.Addr, e.sa6.Port = a.Addr().As16(), int(a.Port())
	return &e.sa6
}

// local returns the address and port the socket has.
func (e *tcpEngine) local(fd int32) netip.AddrPort {
	sa, err := unix.Getsockname(int(fd))
	if err != nil {
		return netip.AddrPort{}
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// socketError returns what has happened to the socket; the kernel forgets it
// then.
func (e *tcpEngine) socketError(fd int32) error {
	n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	return unix.Errno(n)
}

// retransmits returns how many segments the socket has sent more than once;
// while it connects these are SYNs.
func (e *tcpEngine) retransmits(fd int32) uint64 {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return uint64(info.Total_retrans)
}

// resetOnClose makes the socket's close a reset.
func resetOnClose(fd int32) {
	_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
}

// acknowledge sends the ACK of what has been received and read, if the kernel
// is delaying it.
func acknowledge(fd int32) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
}

// vanish prepares the socket to be closed without a packet. What has been
// read is acknowledged before: if the peer sent it once more it would find
// nobody, and be answered by a reset. It fails where the process has no
// CAP_NET_ADMIN in its network namespace.
func vanish(fd int32) error {
	acknowledge(fd)
	return unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON)
}

// canVanish tells whether vanish works for this process.
func canVanish() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON) == nil
}

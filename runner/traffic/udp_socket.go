//go:build linux

package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/server/wire"
	"github.com/tablefull/tablefull/scenarios"
)

const (
	firstEphemeral = 32768 // the kernel's default net.ipv4.ip_local_port_range
	lastEphemeral  = 60999
	bindTries      = 256     // ports in use that are passed over for one socket
	udpBuffer      = 4 << 20 // bytes of receive buffer of a long-lived socket
)

// udpTuples chooses source addresses and ports and destination ports.
//
// Source addresses take turns. Each address goes through the port range in
// order and then again, so a port comes back as late as it can. The kernel's
// own choice (a random free port) would bring some back within milliseconds,
// and a datagram from the same address and port meets the conntrack entry its
// predecessor left: it costs no new entry, and an old NAT decision is used
// again. Where the range was not given in the scenario it is the host's
// net.ipv4.ip_local_port_range, from a place that the seed decides.
//
// With several destination ports, the address's attempt j goes to port number
// (j mod R + j div R) mod P, for R source and P destination ports: so every
// one of the R P pairs comes up before any comes up again.
type udpTuples struct {
	sources  []netip.Addr
	from     int // first port
	ports    int // R
	offset   int // in [0, R)
	target   netip.AddrPort
	dstPorts int      // P
	cursor   []uint64 // j of each source
	turn     int
}

func newUDPTuples(l env.LoadJob, sp *scenarios.SourcePorts) (*udpTuples, error) {
	t := &udpTuples{target: l.Target, dstPorts: max(1, l.Ports)}
	if !l.Target.IsValid() || l.Target.Port() == 0 {
		return nil, fmt.Errorf("%v is not an address and port to send to", l.Target)
	}
	if int(l.Target.Port())+t.dstPorts-1 > 65535 {
		return nil, fmt.Errorf("%d ports from %d on run past 65535", t.dstPorts, l.Target.Port())
	}
	switch {
	case sp == nil:
		first, last := ephemeralPorts()
		t.from, t.ports = first, last-first+1
		h := fnv.New64a()
		fmt.Fprintf(h, "%d %s", l.Seed, l.Traffic.Name)
		t.offset = int(h.Sum64() % uint64(t.ports))
	case sp.Fixed != 0:
		t.from, t.ports = sp.Fixed, 1
	default:
		t.from, t.ports = sp.From, sp.To-sp.From+1
	}
	if t.from < 1 || t.ports < 1 || t.from+t.ports-1 > 65535 {
		return nil, fmt.Errorf("source ports %d to %d are not a range of ports", t.from, t.from+t.ports-1)
	}
	addrs, err := udpSources(l)
	if err != nil {
		return nil, err
	}
	t.sources, t.cursor = addrs, make([]uint64, len(addrs))
	return t, nil
}

// udpSources lists the job's source addresses; without any it is the
// unspecified address, which lets the kernel choose by route.
func udpSources(l env.LoadJob) ([]netip.Addr, error) {
	if l.SourceCount <= 0 {
		if l.Target.Addr().Is4() {
			return []netip.Addr{netip.IPv4Unspecified()}, nil
		}
		return []netip.Addr{netip.IPv6Unspecified()}, nil
	}
	t := tcpTuples{dst: l.Target, sources: uint64(l.SourceCount)}
	if err := t.setSources(l.Sources); err != nil {
		return nil, err
	}
	list := make([]netip.Addr, l.SourceCount)
	for i := range list {
		list[i] = addrAt(t.source, uint64(i))
	}
	return list, nil
}

// source is the index of the source whose turn it is.
func (t *udpTuples) source() int {
	i := t.turn
	t.turn = (t.turn + 1) % len(t.sources)
	return i
}

// next is the next tuple of a source.
func (t *udpTuples) next(source int) (src, dst netip.AddrPort) {
	j := t.cursor[source]
	t.cursor[source]++
	r := uint64(t.ports)
	port := t.from + int((j+uint64(t.offset))%r)
	to := (j%r + j/r) % uint64(t.dstPorts)
	return netip.AddrPortFrom(t.sources[source], uint16(port)),
		netip.AddrPortFrom(t.target.Addr(), t.target.Port()+uint16(to))
}

// ephemeralPorts is the namespace's range, which is for IPv6 as well.
func ephemeralPorts() (first, last int) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		if n, _ := fmt.Sscan(string(b), &first, &last); n == 2 && first >= 1 && last >= first && last <= 65535 {
			return first, last
		}
	}
	return firstEphemeral, lastEphemeral
}

// udpSocket is one connected socket; fd is -1 when it is closed.
type udpSocket struct {
	fd       int
	src, dst netip.AddrPort
}

// udpBinder remembers what binding takes here.
type udpBinder struct{ freebind bool }

// openSocket returns the index of a new socket: bound, connected, registered.
// Its errors are errnos.
func (e *udpEngine) openSocket() (int32, error) {
	if e.open >= e.maxOpen {
		return 0, unix.EMFILE
	}
	family := unix.AF_INET
	if e.job.Target.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	s := udpSocket{fd: fd}
	i := int32(len(e.sockets))
	if n := len(e.free); n > 0 {
		i = e.free[n-1]
	}
	if err = e.setUp(&s, family); err == nil {
		err = e.poll.Add(fd, i, unix.EPOLLIN) // level-triggered: what one look leaves is seen at the next
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	if int(i) == len(e.sockets) {
		e.sockets = append(e.sockets, s)
	} else {
		e.free = e.free[:len(e.free)-1]
		e.sockets[i] = s
	}
	e.open++
	return i, nil
}

// setUp binds and connects. IP_RECVERR makes the kernel keep ICMP errors with
// the datagram they are about.
func (e *udpEngine) setUp(s *udpSocket, family int) error {
	level, recverr := unix.IPPROTO_IP, unix.IP_RECVERR
	if family == unix.AF_INET6 {
		level, recverr = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	if err := unix.SetsockoptInt(s.fd, level, recverr, 1); err != nil {
		return err
	}
	if e.shape.Socket == "long_lived" {
		// Many answers may wait in it while this thread waits for a CPU; what
		// does not fit would look like the network's loss. With CAP_NET_ADMIN
		// it may be larger than net.core.rmem_max.
		if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, udpBuffer) != nil {
			_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, udpBuffer)
		}
	}
	source := e.tuples.source()
	for range min(bindTries, e.tuples.ports) {
		s.src, s.dst = e.tuples.next(source)
		err := e.bind.bind(s.fd, s.src)
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			return err
		}
		return unix.Connect(s.fd, sockaddr(s.dst))
	}
	return unix.EADDRINUSE
}

// bind binds fd. Addresses that are not this host's are allowed
// (IP_FREEBIND) once one has turned out not to be.
func (b *udpBinder) bind(fd int, src netip.AddrPort) error {
	if b.freebind {
		if err := freebind(fd, src.Addr()); err != nil {
			return err
		}
	}
	err := unix.Bind(fd, sockaddr(src))
	if b.freebind || !errors.Is(err, unix.EADDRNOTAVAIL) {
		return err
	}
	b.freebind = true
	return b.bind(fd, src)
}

func freebind(fd int, a netip.Addr) error {
	if a.Is4() {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
}

func (e *udpEngine) closeSocket(i int32) {
	s := &e.sockets[i]
	if s.fd < 0 {
		return
	}
	_ = unix.Close(s.fd) // a datagram socket has nothing left to fail with
	s.fd = -1
	e.free = append(e.free, i)
	e.open--
}

// readErrors empties a socket's error queue, and reports whether there was
// anything in it. Each error quotes the datagram that caused it, so the attempt
// it ends is known, even among many on one socket.
func (e *udpEngine) readErrors(s int32) (any bool) {
	for e.sockets[s].fd >= 0 {
		n, oobn, _, _, err := unix.Recvmsg(e.sockets[s].fd, e.in, e.oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return any
		}
		any = true
		errno := quotedErrno(e.oob[:oobn])
		u, ok := wire.ParseUDP(e.in[:n])
		if !ok || u.Answer || errno == 0 || !e.inFlight(u) {
			e.strays++
			continue
		}
		f := e.flight(u.ID)
		e.failed(f, errno, "response", 0)
		e.release(f.socket)
	}
	return any
}

// quotedErrno finds ee_errno of struct sock_extended_err, which is its first
// 4 bytes.
func quotedErrno(oob []byte) unix.Errno {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range msgs {
		is4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		is6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if (is4 || is6) && len(m.Data) >= 4 {
			return unix.Errno(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return 0
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// errnoOf finds the errno in err; EIO stands for an error without one, which
// system calls do not return.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return unix.EIO
}

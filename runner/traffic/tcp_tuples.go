package traffic

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// tcpTuples says which source and destination each attempt of a traffic uses.
//
// Destination address, destination port, source address and source port are the
// digits of the attempt's number, the first running fastest: every destination
// in turn, then the next source address, and when all addresses have been
// used the next source port. So each tuple is used once before any is used
// again.
type tcpTuples struct {
	dst       netip.AddrPort
	dsts      uint64 // from dst's address on
	dstPorts  uint64 // from dst's port on
	source    netip.Addr
	sources   uint64 // from source on; 0 leaves the address to the kernel
	firstPort uint16 // 0 leaves the port to the kernel
	ports     uint64 // from firstPort on
}

func newTCPTuples(job env.LoadJob, ports *scenarios.SourcePorts) (tcpTuples, error) {
	t := tcpTuples{dst: job.Target, dsts: uint64(max(1, job.Targets)), dstPorts: uint64(max(1, job.Ports)), sources: uint64(max(0, job.SourceCount)), ports: 1}
	if !t.dst.IsValid() || t.dst.Port() == 0 {
		return tcpTuples{}, fmt.Errorf("%v is not an address and port to send to", t.dst)
	}
	if last := uint64(t.dst.Port()) + t.dstPorts - 1; last > 65535 {
		return tcpTuples{}, fmt.Errorf("%d ports from %d on run past 65535", t.dstPorts, t.dst.Port())
	}
	t.dst = netip.AddrPortFrom(t.dst.Addr().Unmap(), t.dst.Port())
	if t.sources > 0 {
		if err := t.setSources(job.Sources); err != nil {
			return tcpTuples{}, err
		}
	}
	switch {
	case ports == nil:
	case ports.Fixed != 0:
		if ports.Fixed < 1 || ports.Fixed > 65535 || ports.From != 0 || ports.To != 0 {
			return tcpTuples{}, fmt.Errorf("source ports: fixed %d with range %d to %d", ports.Fixed, ports.From, ports.To)
		}
		t.firstPort = uint16(ports.Fixed)
	default:
		if ports.From < 1 || ports.To > 65535 || ports.From > ports.To {
			return tcpTuples{}, fmt.Errorf("source ports: no range from %d to %d", ports.From, ports.To)
		}
		t.firstPort, t.ports = uint16(ports.From), uint64(ports.To-ports.From+1)
	}
	return t, nil
}

func (t *tcpTuples) setSources(p netip.Prefix) error {
	if !p.IsValid() || p.Addr().Unmap().Is4() != t.dst.Addr().Is4() {
		return fmt.Errorf("sources %v do not fit target %v", p, t.dst)
	}
	t.source = p.Masked().Addr()
	// The first address of a network is not a host's, unless there is no room
	// for one that is.
	if p.Bits() < p.Addr().BitLen()-1 {
		t.source = t.source.Next()
	}
	if last := addrAt(t.source, t.sources-1); !p.Contains(last) {
		return fmt.Errorf("%v has no %d source addresses", p, t.sources)
	}
	return nil
}

// at returns attempt seq's source, with the zero address or port where the
// kernel is to choose it, and its destination.
func (t *tcpTuples) at(seq uint64) (src, dst netip.AddrPort) {
	to := t.dst.Addr()
	if t.dsts > 1 {
		to = addrAt(to, seq%t.dsts)
		seq /= t.dsts
	}
	dst = netip.AddrPortFrom(to, t.dst.Port()+uint16(seq%t.dstPorts))
	seq /= t.dstPorts
	addr := netip.IPv4Unspecified()
	if t.dst.Addr().Is6() {
		addr = netip.IPv6Unspecified()
	}
	if t.sources > 0 {
		addr = addrAt(t.source, seq%t.sources)
		seq /= t.sources
	}
	port := t.firstPort
	if port != 0 {
		port += uint16(seq % t.ports)
	}
	return netip.AddrPortFrom(addr, port), dst
}

// last returns the source address that the highest used one is.
func (t *tcpTuples) last() netip.Addr { return addrAt(t.source, t.sources-1) }

// addrAt returns the address n after a.
func addrAt(a netip.Addr, n uint64) netip.Addr {
	if a.Is4() {
		b := a.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
		return netip.AddrFrom4(b)
	}
	b := a.As16()
	low := binary.BigEndian.Uint64(b[8:])
	if low+n < low {
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])+1)
	}
	binary.BigEndian.PutUint64(b[8:], low+n)
	return netip.AddrFrom16(b)
}

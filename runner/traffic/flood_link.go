//go:build linux

package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	resolveWithin = 3 * time.Second
	resolveEvery  = 10 * time.Millisecond
)

// floodPath is the way frames leave this host.
type floodPath struct {
	index    int // of the interface
	name     string
	src, dst net.HardwareAddr
}

// findFloodPath asks the kernel's routes for the interface and next hop
// towards target, and resolves the next hop's MAC address. It blocks up to 3 s.
func findFloodPath(ctx context.Context, target netip.Addr) (floodPath, error) {
	routes, err := netlink.RouteGet(target.AsSlice())
	if err != nil {
		return floodPath{}, fmt.Errorf("look up route to %v: %w", target, err)
	}
	if len(routes) == 0 {
		return floodPath{}, fmt.Errorf("look up route to %v: there is none", target)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return floodPath{}, fmt.Errorf("look up interface %d: %w", routes[0].LinkIndex, err)
	}
	a := link.Attrs()
	p := floodPath{index: a.Index, name: a.Name, src: a.HardwareAddr}
	if a.Flags&net.FlagLoopback != 0 {
		p.src, p.dst = make(net.HardwareAddr, 6), make(net.HardwareAddr, 6)
		return p, nil
	}
	if len(p.src) != 6 {
		return floodPath{}, fmt.Errorf("interface %s towards %v is not Ethernet: a flood sends Ethernet frames", a.Name, target)
	}
	hop := target
	if gw, ok := netip.AddrFromSlice(routes[0].Gw); ok {
		hop = gw.Unmap()
	}
	if p.dst, err = resolve(ctx, a.Index, hop); err != nil {
		return floodPath{}, fmt.Errorf("resolve next hop %v on %s: %w", hop, a.Name, err)
	}
	return p, nil
}

// resolve waits until the neighbour table knows hop's MAC address.
func resolve(ctx context.Context, index int, hop netip.Addr) (net.HardwareAddr, error) {
	family := netlink.FAMILY_V6
	if hop.Is4() {
		family = netlink.FAMILY_V4
	}
	askNeighbour(index, family, hop)
	ctx, cancel := context.WithTimeoutCause(ctx, resolveWithin, errors.New("it does not answer"))
	defer cancel()
	tick := time.NewTicker(resolveEvery)
	defer tick.Stop()
	for {
		list, err := netlink.NeighList(index, family)
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		for _, n := range list {
			known := n.State&(unix.NUD_REACHABLE|unix.NUD_STALE|unix.NUD_DELAY|unix.NUD_PROBE|unix.NUD_PERMANENT|unix.NUD_NOARP) != 0
			if a, ok := netip.AddrFromSlice(n.IP); ok && a.Unmap() == hop && known && len(n.HardwareAddr) == 6 {
				return n.HardwareAddr, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// askNeighbour starts resolving hop: through netlink where we may
// (CAP_NET_ADMIN), else with a datagram to its discard port. The latter works
// anywhere, but leaves an entry in the next hop's conntrack table.
func askNeighbour(index, family int, hop netip.Addr) {
	n := netlink.Neigh{LinkIndex: index, Family: family, Flags: netlink.NTF_USE, IP: hop.AsSlice()}
	if netlink.NeighSet(&n) == nil {
		return
	}
	c, err := net.Dial("udp", netip.AddrPortFrom(hop.WithZone(zone(index, hop)), 9).String())
	if err != nil {
		return // resolve will say that nothing answered
	}
	_, _ = c.Write([]byte{0})
	_ = c.Close()
}

func zone(index int, a netip.Addr) string {
	if !a.IsLinkLocalUnicast() || a.Is4() {
		return ""
	}
	return fmt.Sprint(index)
}

// txDropped reads how many frames the interface has dropped on sending since
// it exists; ok is false where that cannot be read.
func (p floodPath) txDropped() (n uint64, ok bool) {
	link, err := netlink.LinkByIndex(p.index)
	if err != nil || link.Attrs().Statistics == nil {
		return 0, false
	}
	return link.Attrs().Statistics.TxDropped, true
}

package testcluster

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names of links inside the hosts.
const (
	nodeDev = "eth0" // in a node, to control
	hostDev = "host" // in control, to this machine
)

// setUpControl makes this network namespace the router between the nodes.
// It has no rules, so it tracks no connections.
func (l layout) setUpControl() error {
	if err := forward(); err != nil {
		return err
	}
	if err := setAddr("lo", l.api.Addr(), l.api.Addr().BitLen()); err != nil {
		return err
	}
	if err := setAddr(hostDev, l.link.control, linkBits); err != nil {
		return err
	}
	for i, n := range l.nodes {
		if err := up(n.dev); err != nil {
			return err
		}
		// Its source address is the API server's; it has no other.
		if err := addRoute(n.dev, netip.PrefixFrom(n.addr, n.addr.BitLen()), netip.Addr{}, l.api.Addr()); err != nil {
			return err
		}
		if err := addRoute(n.dev, n.pods, n.addr, l.api.Addr()); err != nil {
			return err
		}
		// Services are reached through one node's kube-proxy: there is none here.
		if i == 0 {
			if err := addRoute(n.dev, serviceCIDR, n.addr, l.api.Addr()); err != nil {
				return err
			}
		}
	}
	return nil
}

// setUpNode gives this network namespace the node's address and its way out.
func (l layout) setUpNode(n node) error {
	if err := forward(); err != nil {
		return err
	}
	if err := up("lo"); err != nil {
		return err
	}
	if err := setAddr(nodeDev, n.addr, n.addr.BitLen()); err != nil {
		return err
	}
	if err := addRoute(nodeDev, netip.PrefixFrom(l.api.Addr(), l.api.Addr().BitLen()), netip.Addr{}, n.addr); err != nil {
		return err
	}
	return addRoute(nodeDev, netip.PrefixFrom(netip.IPv4Unspecified(), 0), l.api.Addr(), n.addr)
}

func forward() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("forward packets: %w", err)
	}
	return nil
}

func up(dev string) error {
	link, err := netlink.LinkByName(dev)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set %s up: %w", dev, err)
	}
	return nil
}

func setAddr(dev string, addr netip.Addr, bits int) error {
	link, err := netlink.LinkByName(dev)
	if err == nil {
		err = netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, bits))})
	}
	if err != nil {
		return fmt.Errorf("give %s the address %s: %w", dev, addr, err)
	}
	return up(dev)
}

func addRoute(dev string, dst netip.Prefix, via, src netip.Addr) error {
	link, err := netlink.LinkByName(dev)
	if err == nil {
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst), Src: src.AsSlice()}
		if via.IsValid() {
			r.Gw, r.Flags = via.AsSlice(), int(netlink.FLAG_ONLINK)
		} else {
			r.Scope = unix.RT_SCOPE_LINK
		}
		err = netlink.RouteAdd(r)
	}
	if err != nil {
		return fmt.Errorf("add route to %s: %w", dst, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

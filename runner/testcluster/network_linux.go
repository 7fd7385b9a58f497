package testcluster

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names of links inside the hosts.
const (
	nodeDev = "eth0" // in a node, to control
	hostDev = "host" // in control, to this machine
)

// setUpControl makes this network namespace the router between the nodes.
// It has no rules of filtering, so it tracks no connections.
func (l layout) setUpControl() error {
	if err := l.forward(); err != nil {
		return err
	}
	if err := setAddr("lo", l.api.Addr(), l.api.Addr().BitLen()); err != nil {
		return err
	}
	if err := setAddr(hostDev, l.link.control, linkBits); err != nil {
		return err
	}
	if l.ipv6 {
		if err := setAddr("lo", controlAddr6, controlAddr6.BitLen()); err != nil {
			return err
		}
	}
	for i, n := range l.nodes {
		if err := up(n.dev); err != nil {
			return err
		}
		// Services are reached through one node's kube-proxy: there is none here.
		if err := routeTo(n.dev, n.addr, l.api.Addr(), n.pods, serviceCIDR, i == 0); err != nil {
			return err
		}
		if !l.ipv6 {
			continue
		}
		if err := setAddr(n.dev, gateway6, 64); err != nil {
			return err
		}
		if err := routeTo(n.dev, n.addr6, controlAddr6, n.pods6, serviceCIDR6, i == 0); err != nil {
			return err
		}
	}
	return nil
}

// routeTo leads to a node what is for it, for its pods and, of one node, for
// services. The source address is the router's only one.
func routeTo(dev string, node, src netip.Addr, pods, services netip.Prefix, toServices bool) error {
	if err := addRoute(dev, netip.PrefixFrom(node, node.BitLen()), netip.Addr{}, src); err != nil {
		return err
	}
	if err := addRoute(dev, pods, node, src); err != nil {
		return err
	}
	if toServices {
		if err := addRoute(dev, services, node, src); err != nil {
			return err
		}
	}
	return notBack(dev, pods)
}

// notBack drops what a node sends the router for the node's own pods, so for one
// that has gone: else it would go to and fro between the two until its hop
// limit ends, and leave an entry in the node's table each time. A route on the
// node would do as well, but drop it before its entry is in the table, which is
// what shows where it was sent; most clusters' networks drop it after that.
func notBack(dev string, pods netip.Prefix) error {
	r := netlink.NewRule()
	r.IifName, r.Dst, r.Type = dev, ipNet(pods), unix.RTN_BLACKHOLE
	r.Family = netlink.FAMILY_V4
	if pods.Addr().Is6() {
		r.Family = netlink.FAMILY_V6
	}
	if err := netlink.RuleAdd(r); err != nil {
		return fmt.Errorf("keep what is for %s from going back to %s: %w", pods, dev, err)
	}
	return nil
}

// setUpNode gives this network namespace the node's addresses and its way out.
func (l layout) setUpNode(n node) error {
	if err := l.forward(); err != nil {
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
	if err := addRoute(nodeDev, netip.PrefixFrom(netip.IPv4Unspecified(), 0), l.api.Addr(), n.addr); err != nil || !l.ipv6 {
		return err
	}
	if err := setAddr(nodeDev, n.addr6, n.addr6.BitLen()); err != nil {
		return err
	}
	return addRoute(nodeDev, netip.PrefixFrom(netip.IPv6Unspecified(), 0), gateway6, n.addr6)
}

// forward makes this network namespace forward packets. Nobody else is on its
// links, so that its addresses of IPv6 are used at once.
func (l layout) forward() error {
	settings := map[string]string{"ipv4/ip_forward": "1"}
	if l.ipv6 {
		settings["ipv6/conf/all/forwarding"] = "1"
		devs, err := filepath.Glob("/proc/sys/net/ipv6/conf/*")
		if err != nil {
			return fmt.Errorf("list links: %w", err)
		}
		for _, dev := range devs {
			settings["ipv6/conf/"+filepath.Base(dev)+"/accept_dad"] = "0"
		}
	}
	for setting, value := range settings {
		if err := os.WriteFile("/proc/sys/net/"+setting, []byte(value), 0); err != nil {
			return fmt.Errorf("forward packets: %w", err)
		}
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
	flags := 0
	if addr.Is6() {
		flags = unix.IFA_F_NODAD // to be used at once, also where the other end is not up yet
	}
	link, err := netlink.LinkByName(dev)
	if err == nil {
		err = netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, bits)), Flags: flags})
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

//go:build linux

package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/env"
)

// Gone is a pod that has vanished from the network while its service still
// points to it: packets to it are lost, and nothing comes back, no reset and
// no ICMP. Its agent, which is not reached through the network, goes on.
type Gone struct{ addr netip.Addr }

var _ env.Worker = (*Gone)(nil)

// NewGone returns the worker for job.
func NewGone(job env.Job) (env.Worker, error) {
	return &Gone{addr: job.Serve.Addr.Addr()}, nil
}

// Run takes the interface that has the pod's address down, and up again at the
// end. It needs CAP_NET_ADMIN over the pod's namespace.
func (g *Gone) Run(ctx context.Context, ready func(), _ env.Recorder) error {
	link, err := linkOf(g.addr)
	if err != nil {
		return fmt.Errorf("make pod vanish: %w", err)
	}
	had, err := settingsOf(link)
	if err != nil {
		return fmt.Errorf("make pod vanish: %w", err)
	}
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("take %s down: %w", link.Attrs().Name, err)
	}
	ready()
	<-ctx.Done()
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("take %s up again: %w", link.Attrs().Name, err)
	}
	if err := had.restore(link); err != nil {
		return fmt.Errorf("give %s back what it had: %w", link.Attrs().Name, err)
	}
	return nil
}

// linkSettings is what an interface loses when it goes down: its routes, and
// the addresses of IPv6.
type linkSettings struct {
	addrs  []netlink.Addr
	routes []netlink.Route
}

func settingsOf(link netlink.Link) (s linkSettings, err error) {
	if s.addrs, err = netlink.AddrList(link, netlink.FAMILY_ALL); err != nil {
		return s, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	if s.routes, err = netlink.RouteList(link, netlink.FAMILY_ALL); err != nil {
		return s, fmt.Errorf("list routes of %s: %w", link.Attrs().Name, err)
	}
	return s, nil
}

func (s linkSettings) restore(link netlink.Link) error {
	for _, a := range s.addrs {
		if a.IP.IsLinkLocalUnicast() {
			continue // the kernel makes it
		}
		if err := netlink.AddrReplace(link, &a); err != nil {
			return fmt.Errorf("add address %v: %w", a.IPNet, err)
		}
	}
	// Those without a next hop first: the others lead through them.
	for _, through := range []bool{false, true} {
		for _, r := range s.routes {
			if (r.Gw != nil) != through || r.Protocol == unix.RTPROT_KERNEL {
				continue
			}
			if err := netlink.RouteReplace(&r); err != nil {
				return fmt.Errorf("add route to %v: %w", r.Dst, err)
			}
		}
	}
	return nil
}

func linkOf(addr netip.Addr) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
		}
		for _, a := range addrs {
			if have, ok := netip.AddrFromSlice(a.IP); ok && have.Unmap() == addr {
				return l, nil
			}
		}
	}
	return nil, errors.New("no interface has the address " + addr.String())
}

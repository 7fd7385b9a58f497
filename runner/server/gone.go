//go:build linux

package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

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
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("take %s down: %w", link.Attrs().Name, err)
	}
	ready()
	<-ctx.Done()
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("take %s up again: %w", link.Attrs().Name, err)
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

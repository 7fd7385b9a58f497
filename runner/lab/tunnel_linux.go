package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// addTunnels makes both ends of each tunnel. As with links, neighbours are
// entered by hand.
func (s *supervisor) addTunnels() error {
	for _, t := range s.plan.Tunnels {
		var macs [2]net.HardwareAddr
		for i, e := range t.Ends {
			err := s.hosts[e.Host].ns.withNetlink(func(h *netlink.Handle) (err error) {
				macs[i], err = addTunnelEnd(h, e, t.Ends[1-i].Local)
				return err
			})
			if err != nil {
				return fmt.Errorf("make tunnel: %s: %w", e.Host, err)
			}
		}
		for i, e := range t.Ends {
			err := s.hosts[e.Host].ns.withNetlink(func(h *netlink.Handle) error {
				return addNeighbours(h, tunnelDev, []netip.Prefix{t.Ends[1-i].Addr}, macs[1-i])
			})
			if err != nil {
				return fmt.Errorf("make tunnel: %s: %w", e.Host, err)
			}
		}
	}
	return nil
}

// addTunnelEnd makes one end, whose other end is at remote, and returns its
// hardware address.
func addTunnelEnd(h *netlink.Handle, e tunnelEnd, remote netip.Addr) (net.HardwareAddr, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = tunnelDev, e.MTU
	dev := &netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: tunnelID, Port: tunnelPort, SrcAddr: e.Local.AsSlice(), Group: remote.AsSlice(),
		UDPCSum: true, UDP6ZeroCSumTx: false, UDP6ZeroCSumRx: false,
	}
	if err := h.LinkAdd(dev); err != nil {
		return nil, fmt.Errorf("add %s: %w; the kernel needs vxlan", tunnelDev, err)
	}
	return addEnd(h, linkEnd{Host: e.Host, Dev: tunnelDev, Addrs: []netip.Prefix{e.Addr}})
}

package proxy

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/env"
)

// forgetUDP deletes the entries of UDP flows that were translated to an
// endpoint which does not serve any more (one that is terminating may), as kube-proxy does from 1.32 on: a
// flow whose socket goes on sending would never be translated anew. Like
// kube-proxy up to 1.36 it leaves out services without any serving endpoint
// (kubernetes/kubernetes#139628).
func forgetUDP(j env.ProxyJob) error {
	f := udpFilter{}
	for _, s := range j.Services {
		ends := map[netip.Addr]bool{}
		for _, e := range s.Endpoints {
			if e.Serving {
				ends[e.Addr] = true
			}
		}
		if s.Protocol != "udp" || len(ends) == 0 {
			continue
		}
		for i := range s.Ports {
			f[netip.AddrPortFrom(s.Addr, s.Port+i)] = ends
			if s.NodePort != 0 {
				f[netip.AddrPortFrom(j.NodeAddr, s.NodePort+i)] = ends
			}
		}
	}
	if len(f) == 0 {
		return nil
	}
	family := netlink.InetFamily(unix.AF_INET)
	if j.IPv6 {
		family = unix.AF_INET6
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, f); err != nil {
		return fmt.Errorf("delete entries of stale UDP flows: %w", err)
	}
	return nil
}

// udpFilter is the serving endpoints of UDP services by service address.
type udpFilter map[netip.AddrPort]map[netip.Addr]bool

// MatchConntrackFlow is part of netlink.CustomConntrackFilter.
func (f udpFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, _ := netip.AddrFromSlice(flow.Forward.DstIP)
	ends, ours := f[netip.AddrPortFrom(dst.Unmap(), flow.Forward.DstPort)]
	if !ours {
		return false
	}
	src, _ := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return !ends[src.Unmap()]
}

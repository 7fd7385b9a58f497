package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/sysctl"
	"github.com/tablefull/tablefull/scenarios"
)

// ipvsPlane is the built-in proxy in mode ipvs, with the documented behaviour
// of kube-proxy's:
//
//   - each port of a service is a virtual server (rr) on an address that is
//     local to the node, each usable endpoint a real server (NAT, weight 1);
//   - an endpoint that is no longer usable gets weight 0 and stays until it
//     has neither active nor inactive connections, looked at every
//     drain_check; UDP ones are removed at once;
//   - one that comes back is removed and added anew;
//   - net.ipv4.vs.conntrack is 1: what IPVS forwards is tracked as well;
//   - a service without real servers is answered by IPVS with ICMP port
//     unreachable;
//   - each node port is a virtual server on the node's address, which is
//     masqueraded; see nodeServers for externalTrafficPolicy Local.
//
// Connection tracking, the rejection of unknown service addresses and masquerading
// come from nft without services, or from xtables where the kernel has no nf_tables
// for IP.
type ipvsPlane struct {
	h       *ipvs.Handle
	job     env.ProxyJob
	rules   *nft
	health  *health
	every   time.Duration
	local   map[netip.Addr]bool // service addresses that are routed here
	servers map[virtual]map[real]bool
	// draining are real servers with weight 0 that are still there.
	draining map[virtual]map[real]bool
}

// virtual is one virtual server.
type virtual struct {
	addr  netip.Addr
	proto uint16
	port  uint16
}

// real is one real server.
type real struct {
	addr netip.Addr
	port uint16
}

func openIPVS(j env.ProxyJob) (dataplane, error) {
	h, err := ipvs.New("")
	if err != nil {
		return nil, fmt.Errorf("open IPVS: %w; the kernel needs ip_vs and ip_vs_rr", err)
	}
	p := &ipvsPlane{
		h: h, job: j, rules: &nft{nodeAddr: j.NodeAddr, ipv6: j.IPv6, clients: j.Clients, vips: j.VIPs}, health: newHealth(j), every: time.Duration(j.Proxy.IPVS.DrainCheck),
		local: map[netip.Addr]bool{}, servers: map[virtual]map[real]bool{}, draining: map[virtual]map[real]bool{},
	}
	if p.every <= 0 {
		p.every = time.Minute
	}
	if err := p.prepare(); err != nil {
		h.Close()
		return nil, err
	}
	return p, nil
}

// prepare makes the settings kube-proxy makes, and learns what an earlier
// proxy has left: a real server with weight 0 is one that drains.
func (p *ipvsPlane) prepare() error {
	values := map[string]string{
		"net/ipv4/vs/conntrack":                 "1",
		"net/ipv4/vs/expire_quiescent_template": "1",
		"net/ipv4/vs/expire_nodest_conn":        "1",
		"net/ipv4/vs/conn_reuse_mode":           "1",
	}
	maps.Copy(values, ipvsSettings(p.job.Proxy.IPVS))
	if err := sysctl.SetAll(values); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w; the kernel has no IPVS in this namespace", err)
		}
		return err
	}
	list, err := p.h.GetServices()
	if err != nil {
		return fmt.Errorf("list virtual servers: %w", err)
	}
	for _, s := range list {
		addr, _ := netip.AddrFromSlice(s.Address)
		v := virtual{addr.Unmap(), s.Protocol, s.Port}
		p.servers[v], p.draining[v] = map[real]bool{}, map[real]bool{}
		p.local[v.addr] = v.addr != p.job.NodeAddr
		dests, err := p.h.GetDestinations(s)
		if err != nil {
			return fmt.Errorf("list real servers: %w", err)
		}
		for _, d := range dests {
			a, _ := netip.AddrFromSlice(d.Address)
			r := real{a.Unmap(), d.Port}
			p.servers[v][r] = true
			if d.Weight == 0 {
				p.draining[v][r] = true
			}
		}
	}
	return nil
}

// ipvsSettings are those that a scenario chooses, by name.
func ipvsSettings(s scenarios.IPVS) map[string]string {
	values := map[string]string{}
	if s.ConnReuseMode != nil {
		values["net/ipv4/vs/conn_reuse_mode"] = strconv.Itoa(*s.ConnReuseMode)
	}
	if s.ExpireNodestConn != nil {
		values["net/ipv4/vs/expire_nodest_conn"] = "0"
		if *s.ExpireNodestConn {
			values["net/ipv4/vs/expire_nodest_conn"] = "1"
		}
	}
	return values
}

// sync is part of dataplane.
func (p *ipvsPlane) sync(ctx context.Context, services []env.ServiceState) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.rules.asked = toMasquerade(services)
	if err := p.track(ctx); err != nil {
		return err
	}
	for _, s := range services {
		if err := p.syncService(s); err != nil {
			return fmt.Errorf("program service %s: %w", s.Name, err)
		}
	}
	return p.health.sync(services)
}

// track makes connections be tracked, unknown service addresses rejected, and
// what comes to node ports masqueraded.
func (p *ipvsPlane) track(ctx context.Context) error {
	err := p.rules.sync(ctx, nil)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	if err := trackByXtables(p.job.VIPs, p.job.IPv6); err != nil || len(p.rules.asked) == 0 {
		return err
	}
	return masqueradeByXtables(p.job.NodeAddr, p.rules.asked, p.job.IPv6)
}

// hang is part of hanger.
func (p *ipvsPlane) hang(does bool) { p.health.hang(does) }

func (p *ipvsPlane) syncService(s env.ServiceState) error {
	if !p.local[s.Addr] {
		if err := routeHere(s.Addr); err != nil {
			return err
		}
		p.local[s.Addr] = true
	}
	proto := uint16(protocolOf(s))
	for i := range s.Ports {
		if err := p.syncVirtual(virtual{s.Addr, proto, s.Port + i}, realsOf(s.Usable(), s.Port+i)); err != nil {
			return err
		}
		if s.NodePort == 0 {
			continue
		}
		if err := p.syncVirtual(virtual{p.job.NodeAddr, proto, s.NodePort + i}, realsOf(nodeServers(s, p.job.Node), s.Port+i)); err != nil {
			return err
		}
	}
	return nil
}

// nodeServers are the endpoints behind the node port of a node. With
// externalTrafficPolicy Local and none on the node these are all there are, without
// masquerading: so kube-proxy does it in this mode alone (kubernetes/kubernetes#97081),
// for the node's own pods. What comes from outside is answered by a pod itself, from
// an address that the client has not asked.
func nodeServers(s env.ServiceState, node string) []runlog.EndpointState {
	if on := s.UsableFrom(node); len(on) > 0 {
		return on
	}
	return s.Usable()
}

func realsOf(list []runlog.EndpointState, port uint16) map[real]bool {
	out := map[real]bool{}
	for _, e := range list {
		out[real{e.Addr, port}] = true
	}
	return out
}

// toMasquerade are the node ports whose clients' addresses do not reach the pods.
func toMasquerade(services []env.ServiceState) (out []portSpan) {
	for _, s := range services {
		if s.NodePort != 0 && !s.Local {
			out = append(out, portSpan{protocolOf(s), s.NodePort, s.NodePort + s.Ports - 1})
		}
	}
	return out
}

func protocolOf(s env.ServiceState) byte {
	if s.Protocol == "udp" {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

func (p *ipvsPlane) syncVirtual(v virtual, want map[real]bool) error {
	if p.servers[v] == nil {
		if err := p.h.NewService(v.service()); err != nil {
			return fmt.Errorf("add virtual server %v:%d: %w", v.addr, v.port, err)
		}
		p.servers[v], p.draining[v] = map[real]bool{}, map[real]bool{}
	}
	// New ones first, as kube-proxy does: there is always somebody to go to.
	for r := range want {
		if p.draining[v][r] {
			if err := p.delete(v, r); err != nil {
				return err
			}
		}
		if p.servers[v][r] {
			continue
		}
		if err := p.h.NewDestination(v.service(), r.destination(1)); err != nil {
			return fmt.Errorf("add real server %v:%d: %w", r.addr, r.port, err)
		}
		p.servers[v][r] = true
	}
	for r := range p.servers[v] {
		if !want[r] && !p.draining[v][r] {
			if err := p.drain(v, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// drain removes a real server if it is idle, and else gives it weight 0.
func (p *ipvsPlane) drain(v virtual, r real) error {
	busy, err := p.busy(v, r)
	if err != nil {
		return err
	}
	if v.proto == unix.IPPROTO_UDP || !busy {
		return p.delete(v, r)
	}
	if err := p.h.UpdateDestination(v.service(), r.destination(0)); err != nil {
		return fmt.Errorf("set weight of %v:%d to 0: %w", r.addr, r.port, err)
	}
	p.draining[v][r] = true
	return nil
}

func (p *ipvsPlane) delete(v virtual, r real) error {
	if err := p.h.DelDestination(v.service(), r.destination(0)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove real server %v:%d: %w", r.addr, r.port, err)
	}
	delete(p.servers[v], r)
	delete(p.draining[v], r)
	return nil
}

// busy says whether the real server has connections, active or not.
func (p *ipvsPlane) busy(v virtual, r real) (bool, error) {
	dests, err := p.h.GetDestinations(v.service())
	if err != nil {
		return false, fmt.Errorf("list real servers: %w", err)
	}
	for _, d := range dests {
		a, _ := netip.AddrFromSlice(d.Address)
		if a.Unmap() == r.addr && d.Port == r.port {
			return d.ActiveConnections+d.InactiveConnections > 0, nil
		}
	}
	return false, nil
}

// tick is part of ticker: it removes what has drained.
func (p *ipvsPlane) tick() (time.Duration, error) {
	for v, list := range p.draining {
		for r := range list {
			busy, err := p.busy(v, r)
			if err == nil && !busy {
				err = p.delete(v, r)
			}
			if err != nil {
				return p.every, err
			}
		}
	}
	return p.every, nil
}

// remove is part of dataplane. It may be called after close.
func (p *ipvsPlane) remove() error {
	h, err := ipvs.New("")
	if err != nil {
		return fmt.Errorf("open IPVS: %w", err)
	}
	defer h.Close()
	if err := h.Flush(); err != nil {
		return fmt.Errorf("remove virtual servers: %w", err)
	}
	for a, ours := range p.local {
		if !ours {
			continue
		}
		if err := netlink.RouteDel(localRoute(a)); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route to %v: %w", a, err)
		}
	}
	err = p.rules.remove()
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	if err := trackByXtables(netip.Prefix{}, p.job.IPv6); err != nil || len(p.rules.asked) == 0 {
		return err
	}
	return masqueradeByXtables(p.job.NodeAddr, nil, p.job.IPv6)
}

// close is part of dataplane.
func (p *ipvsPlane) close() error {
	p.h.Close()
	return p.health.close()
}

func (v virtual) service() *ipvs.Service {
	s := &ipvs.Service{
		Address: v.addr.AsSlice(), Protocol: v.proto, Port: v.port, SchedName: ipvs.RoundRobin,
		AddressFamily: unix.AF_INET, Netmask: 0xffffffff,
	}
	if v.addr.Is6() {
		s.AddressFamily, s.Netmask = unix.AF_INET6, 128
	}
	return s
}

func (r real) destination(weight int) *ipvs.Destination {
	d := &ipvs.Destination{Address: r.addr.AsSlice(), Port: r.port, Weight: weight, ConnectionFlags: ipvs.ConnectionFlagMasq, AddressFamily: unix.AF_INET}
	if r.addr.Is6() {
		d.AddressFamily = unix.AF_INET6
	}
	return d
}

// routeHere makes packets to the address be delivered locally, where IPVS
// takes them. kube-proxy puts the address on a dummy device for that.
func routeHere(a netip.Addr) error {
	if err := netlink.RouteReplace(localRoute(a)); err != nil {
		return fmt.Errorf("route %v to this host: %w", a, err)
	}
	return nil
}

func localRoute(a netip.Addr) *netlink.Route {
	return &netlink.Route{
		Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, LinkIndex: 1, // lo
		Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
	}
}

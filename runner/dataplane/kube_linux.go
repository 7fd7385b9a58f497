package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
)

// What a kube-proxy in mode iptables has in the table nat. In mode ipvs it has
// the first of these chains, too, and none of the others.
const (
	natTable      = "nat"
	kubeServices  = "KUBE-SERVICES"
	kubeNodePorts = "KUBE-NODEPORTS"
	kubeService   = "KUBE-SVC-" // and a hash
)

var errNoRules = errors.New("there is neither its table " + kubeTable + " nor, of iptables' variant of nf_tables, its chain " + kubeServices +
	": kube-proxy has not begun here, or runs in mode ipvs or with iptables-legacy, whose rules are not read")

// readKube reads what a kube-proxy has programmed that somebody else has
// started, and in which mode, as far as netlink alone shows it: a pod of ours has
// no iptables-save. Where there are no rules of such a mode that is an error: it
// does not show that nothing is programmed.
func readKube(ipv6 []bool, wanted func(target) bool) (mode string, t table, err error) {
	t, err = atOneMoment(func(c *nftables.Conn, t table) (err error) {
		for _, six := range ipv6 {
			if mode, err = readKubeFamily(c, t, six, wanted); err != nil {
				return fmt.Errorf("read kube-proxy's rules%s: %w", map[bool]string{true: " of IPv6"}[six], err)
			}
		}
		return nil
	})
	return mode, t, err
}

func readKubeFamily(c *nftables.Conn, t table, ipv6 bool, wanted func(target) bool) (mode string, err error) {
	tables, err := listTables(c, ipv6)
	if err != nil {
		return "", err
	}
	var nat *nftables.Table
	for _, nt := range tables {
		switch nt.Name {
		case kubeTable:
			return "nftables", newReader(c, nt, ipv6).kube(t, wanted)
		case natTable:
			nat = nt
		}
	}
	if nat == nil {
		return "", errNoRules
	}
	return "iptables", newReader(c, nat, ipv6).xtables(t, wanted)
}

// xtables reads kube-proxy's rules in mode iptables: those of KUBE-SERVICES lead
// from address, protocol and port to a chain of the service, which leads to chains
// of endpoints, which translate.
func (r *nftReader) xtables(t table, wanted func(target) bool) error {
	rules, err := r.chain(kubeServices)
	if err != nil {
		return err
	}
	ours := false
	for _, rule := range rules {
		k, chain := r.portal(rule)
		ours = ours || chain == kubeNodePorts || strings.HasPrefix(chain, kubeService)
		if chain == "" || !k.addr.IsValid() || !wanted(k) {
			continue
		}
		ends, err := r.ends(chain, 0)
		if err != nil {
			return err
		}
		for _, a := range ends {
			t[k] = append(t[k], runlog.ProgrammedBackend{Addr: a, Weight: 1})
		}
	}
	if !ours {
		return errNoRules
	}
	return nil
}

// What a register holds that a rule compares.
const (
	destination = iota + 1
	protocol
	destinationPort
)

// portal is the service address that a rule is for, and the chain that it leads
// to. iptables compares ports by itself since 1.8.8, before that by a match of
// xtables.
func (r *nftReader) portal(rule *nftables.Rule) (k target, chain string) {
	var addr netip.Addr
	var port uint16
	held := 0
	for _, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Payload:
			held = r.field(e)
		case *expr.Meta:
			if held = 0; e.Key == expr.MetaKeyL4PROTO {
				held = protocol
			}
		case *expr.Bitwise:
			held = 0 // a part of it: that is no single address
		case *expr.Cmp:
			switch {
			case e.Op != expr.CmpOpEq:
			case held == destination:
				addr, _ = netip.AddrFromSlice(e.Data)
			case held == protocol && len(e.Data) == 1:
				k.proto = e.Data[0]
			case held == destinationPort && len(e.Data) == 2:
				port = binary.BigEndian.Uint16(e.Data)
			}
		case *expr.Match:
			switch m := e.Info.(type) {
			case *xt.Tcp:
				k.proto, port = unix.IPPROTO_TCP, m.DstPorts[0]
			case *xt.Udp:
				k.proto, port = unix.IPPROTO_UDP, m.DstPorts[0]
			}
		case *expr.Verdict:
			chain = e.Chain
		}
	}
	if addr.IsValid() && port != 0 {
		k.addr = netip.AddrPortFrom(addr, port)
	}
	return k, chain
}

// field is what a rule loads of a packet; 0 for all that is not looked for.
func (r *nftReader) field(e *expr.Payload) int {
	offset, size := uint32(16), uint32(4) // of the destination in an IPv4 header
	if r.ipv6 {
		offset, size = 24, 16
	}
	switch {
	case e.Base == expr.PayloadBaseNetworkHeader && e.Offset == offset && e.Len == size:
		return destination
	case e.Base == expr.PayloadBaseNetworkHeader && !r.ipv6 && e.Offset == 9 && e.Len == 1:
		return protocol
	case e.Base == expr.PayloadBaseTransportHeader && e.Offset == 2 && e.Len == 2:
		return destinationPort
	}
	return 0
}

// xtTranslation is where a DNAT of iptables leads.
func xtTranslation(e *expr.Target) (netip.AddrPort, error) {
	var ip net.IP
	var port uint16
	switch to := e.Info.(type) {
	case *xt.NatRange2:
		ip, port = to.MinIP, to.MinPort
	case *xt.NatRange:
		ip, port = to.MinIP, to.MinPort
	case *xt.NatIPv4MultiRangeCompat:
		if len(*to) == 1 {
			ip, port = (*to)[0].MinIP, (*to)[0].MinPort
		}
	}
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("a DNAT of revision %d is not read", e.Rev)
	}
	return netip.AddrPortFrom(a.Unmap(), port), nil
}

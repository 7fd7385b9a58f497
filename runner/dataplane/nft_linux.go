package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
)

// The tables of the built-in proxy and of kube-proxy in mode nftables.
const (
	ownTable  = "tablefull"
	kubeTable = "kube-proxy"
)

// maxDepth is how many chains are followed from a service to an endpoint;
// kube-proxy has two.
const maxDepth = 6

// readings is how often the rules are read at most until they hold still. A
// reading takes milliseconds, and kube-proxy changes them once a second at most.
const readings = 10

// readNFT reads what the tables of either proxy translate at one moment; of
// kube-proxy's, which has the services of a whole cluster, only what leads to
// wanted ones.
func readNFT(ipv6 []bool, wanted func(target) bool) (table, error) {
	return atOneMoment(func(c *nftables.Conn, t table) error {
		for _, six := range ipv6 {
			if err := readFamily(c, t, six, wanted); err != nil {
				return err
			}
		}
		return nil
	})
}

// atOneMoment returns what read adds to a table. A reading is many requests,
// between which a proxy may take away a chain that another one leads to. The
// kernel numbers its rule sets, and a reading that began and ended with another
// number is made again.
func atOneMoment(read func(c *nftables.Conn, t table) error) (table, error) {
	g, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink: %w", err)
	}
	defer g.Close()
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer func() { _ = c.CloseLasting() }()
	for range readings {
		before, err := generation(g)
		if err != nil {
			return nil, err
		}
		t := table{}
		readErr := read(c, t)
		after, err := generation(g)
		if err != nil {
			return nil, err
		}
		if before == after {
			return t, readErr
		}
	}
	return nil, fmt.Errorf("read nftables: the rules were changed during each of %d readings", readings)
}

// generation is the number of this namespace's nf_tables rule set, which each
// transaction raises (nft_net.base_seq; NFT_MSG_GETGEN, Linux 3.18).
func generation(c *netlink.Conn) (uint32, error) {
	replies, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, nfgenmsgSize),
	})
	if err != nil {
		return 0, fmt.Errorf("read generation of nftables: %w", err)
	}
	if len(replies) != 1 || len(replies[0].Data) < nfgenmsgSize {
		return 0, fmt.Errorf("read generation of nftables: the kernel answered with %d messages", len(replies))
	}
	d, err := netlink.NewAttributeDecoder(replies[0].Data[nfgenmsgSize:])
	if err != nil {
		return 0, fmt.Errorf("decode generation of nftables: %w", err)
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		if d.Type() == unix.NFTA_GEN_ID {
			return d.Uint32(), nil
		}
	}
	return 0, errors.Join(errors.New("decode generation of nftables: there is none"), d.Err())
}

// nfgenmsgSize is that of struct nfgenmsg, which is before the attributes.
const nfgenmsgSize = 4

// readFamily adds what the tables of one family translate to t.
func readFamily(c *nftables.Conn, t table, ipv6 bool, wanted func(target) bool) error {
	tables, err := listTables(c, ipv6)
	if err != nil {
		return err
	}
	for _, nt := range tables {
		r := newReader(c, nt, ipv6)
		switch nt.Name {
		case ownTable:
			err = r.own(t)
		case kubeTable:
			err = r.kube(t, wanted)
		}
		if err != nil {
			return fmt.Errorf("read nftables table %s: %w", nt.Name, err)
		}
	}
	return nil
}

func listTables(c *nftables.Conn, ipv6 bool) ([]*nftables.Table, error) {
	family := nftables.TableFamilyIPv4
	if ipv6 {
		family = nftables.TableFamilyIPv6
	}
	tables, err := c.ListTablesOfFamily(family)
	if err != nil {
		return nil, fmt.Errorf("list nftables: %w", err)
	}
	return tables, nil
}

type nftReader struct {
	c     *nftables.Conn
	table *nftables.Table
	ipv6  bool
	rules map[string][]*nftables.Rule // by chain
}

func newReader(c *nftables.Conn, t *nftables.Table, ipv6 bool) *nftReader {
	return &nftReader{c: c, table: t, ipv6: ipv6, rules: map[string][]*nftables.Rule{}}
}

func (r *nftReader) chain(name string) ([]*nftables.Rule, error) {
	if list, ok := r.rules[name]; ok {
		return list, nil
	}
	list, err := r.c.GetRules(r.table, &nftables.Chain{Name: name, Table: r.table})
	if err != nil {
		return nil, fmt.Errorf("list rules of chain %s: %w", name, err)
	}
	r.rules[name] = list
	return list, nil
}

// elements are those of a set or map by its name.
func (r *nftReader) elements(name string) ([]nftables.SetElement, error) {
	set, err := r.c.GetSetByName(r.table, name)
	if err != nil {
		return nil, fmt.Errorf("find set %s: %w", name, err)
	}
	list, err := r.c.GetSetElements(set)
	if err != nil {
		return nil, fmt.Errorf("list set %s: %w", name, err)
	}
	return list, nil
}

// own reads the built-in proxy's rules: each matches an address, a protocol
// and ports, and translates to one pod.
func (r *nftReader) own(t table) error {
	rules, err := r.chain("services")
	if err != nil {
		return err
	}
	for _, rule := range rules {
		var k target
		var addr netip.Addr
		var compared int
		values := map[uint32][]byte{} // of registers
		for _, e := range rule.Exprs {
			switch e := e.(type) {
			case *expr.Cmp:
				compared++
				switch compared {
				case 1:
					addr, _ = netip.AddrFromSlice(e.Data)
				case 2:
					k.proto = e.Data[0]
				case 3:
					k.addr = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(e.Data))
				}
			case *expr.Immediate:
				values[e.Register] = e.Data
			case *expr.NAT:
				pod, ok := netip.AddrFromSlice(values[e.RegAddrMin])
				if !ok {
					return fmt.Errorf("read rule %d of chain services: it translates to no address", rule.Handle)
				}
				port := k.addr.Port() // it stays as it is
				if e.RegProtoMin != 0 {
					port = binary.BigEndian.Uint16(values[e.RegProtoMin])
				}
				t[k] = append(t[k], runlog.ProgrammedBackend{Addr: netip.AddrPortFrom(pod, port), Weight: 1})
			}
		}
	}
	return nil
}

// kube reads kube-proxy's rules: a map leads from address, protocol and port to
// a chain of the service, which leads to chains of endpoints, which translate.
func (r *nftReader) kube(t table, wanted func(target) bool) error {
	list, err := r.elements("service-ips")
	if err != nil {
		return err
	}
	for _, e := range list {
		k, ok := r.key(e.Key)
		chain := verdictChain(e)
		if !ok || chain == "" || !wanted(k) {
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
	return nil
}

// translations are the addresses a translation can lead to: those of its
// address register, each with the port that follows it there (the value of a
// map of address . port) or with that of its port register.
func (r *nftReader) translations(addrs, ports [][]byte) []netip.AddrPort {
	n := 4
	if r.ipv6 {
		n = 16
	}
	var out []netip.AddrPort
	for _, v := range addrs {
		if len(v) < n {
			continue
		}
		a, _ := netip.AddrFromSlice(v[:n])
		var port uint16
		switch {
		case len(v) >= n+2:
			port = binary.BigEndian.Uint16(v[n:])
		case len(ports) == 1 && len(ports[0]) >= 2:
			port = binary.BigEndian.Uint16(ports[0])
		}
		out = append(out, netip.AddrPortFrom(a, port))
	}
	return out
}

// verdictChain is the chain that an element of a verdict map leads to, empty
// for none. The library leaves the verdict of a map whose type it did not
// recognise as it came: attributes in a value.
func verdictChain(e nftables.SetElement) string {
	if e.VerdictData != nil {
		return e.VerdictData.Chain
	}
	d, err := netlink.NewAttributeDecoder(e.Val)
	if err != nil {
		return ""
	}
	for d.Next() {
		if d.Type() == unix.NFTA_VERDICT_CHAIN {
			return d.String()
		}
	}
	return ""
}

// key splits address . protocol . port, each padded to four bytes.
func (r *nftReader) key(b []byte) (target, bool) {
	n := 4
	if r.ipv6 {
		n = 16
	}
	if len(b) < n+8 {
		return target{}, false
	}
	a, _ := netip.AddrFromSlice(b[:n])
	return target{netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[n+4:])), b[n]}, true
}

// ends are the addresses to which a chain, and those it leads to, translate.
func (r *nftReader) ends(chain string, depth int) ([]netip.AddrPort, error) {
	if depth > maxDepth {
		return nil, nil
	}
	rules, err := r.chain(chain)
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for _, rule := range rules {
		next, ends, err := r.leads(rule)
		if err != nil {
			return nil, err
		}
		out = append(out, ends...)
		for _, c := range next {
			more, err := r.ends(c, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out), nil
}

// leads says where a rule goes: to other chains, or by translation to
// addresses.
func (r *nftReader) leads(rule *nftables.Rule) (chains []string, ends []netip.AddrPort, err error) {
	data := map[uint32][][]byte{} // that a register can hold
	for _, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Immediate:
			data[e.Register] = [][]byte{e.Data}
		case *expr.Verdict:
			if e.Chain != "" {
				chains = append(chains, e.Chain)
			}
		case *expr.Lookup:
			if e.DestRegister != unix.NFT_REG_VERDICT && !e.IsDestRegSet {
				continue // a set: only a condition
			}
			list, err := r.elements(e.SetName)
			if err != nil {
				return nil, nil, err
			}
			data[e.DestRegister] = nil
			for _, x := range list {
				if e.DestRegister != unix.NFT_REG_VERDICT {
					data[e.DestRegister] = append(data[e.DestRegister], x.Val)
				} else if c := verdictChain(x); c != "" {
					chains = append(chains, c)
				}
			}
		case *expr.NAT:
			if e.Type == expr.NATTypeDestNAT {
				ends = append(ends, r.translations(data[e.RegAddrMin], data[e.RegProtoMin])...)
			}
		case *expr.Target:
			if e.Name == "DNAT" {
				to, err := xtTranslation(e)
				if err != nil {
					return nil, nil, err
				}
				ends = append(ends, to)
			}
		}
	}
	return chains, ends, nil
}

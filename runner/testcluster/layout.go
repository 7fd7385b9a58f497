package testcluster

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// Names below a cluster's directory.
const (
	recordFile     = "cluster.json"
	kubeconfigFile = "kubeconfig"
	pkiDir         = "pki"
	logDir         = "log"
	imageDir       = "images"
)

// Addresses are inside the cluster's own network namespaces, so they are the
// same in every cluster; only the link to this machine has its own.
var (
	apiAddr     = netip.MustParseAddrPort("192.0.2.1:6443")
	serviceCIDR = netip.MustParsePrefix("10.96.0.0/16")
	podCIDR     = netip.MustParsePrefix("10.244.0.0/16")

	// Those of IPv6: kind's, and the range for documentation (RFC 3849).
	serviceCIDR6 = netip.MustParsePrefix("fd00:10:96::/112")
	podCIDR6     = netip.MustParsePrefix("fd00:10:244::/56")
	controlAddr6 = netip.MustParseAddr("2001:db8::1")
	// gateway6 is the router's address on each node's link: unlike that of
	// IPv4, a neighbour of IPv6 answers for the addresses of that link alone.
	gateway6 = netip.MustParseAddr("fe80::1")
)

// layout is what a cluster consists of: only data, found anew from its
// directory's name by every process of it.
type layout struct {
	dir     string // absolute
	id      string // of this cluster among those of the machine
	version string // of Kubernetes
	api     netip.AddrPort
	nodes   []node
	link    hostLink
	ipv6    bool // the kernel has it: all has addresses of both families
}

// node is one node: a network and a mount namespace.
type node struct {
	name string
	dev  string // of its link, in the control host; eth0 in the node
	addr netip.Addr
	pods netip.Prefix

	addr6 netip.Addr
	pods6 netip.Prefix
}

// hostLink is the link between this machine and the control host.
type hostLink struct {
	dev           string // on this machine
	host, control netip.Addr
}

const linkBits = 30

func newLayout(dir, version string) (layout, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return layout{}, fmt.Errorf("find directory: %w", err)
	}
	sum := sha256.Sum256([]byte(dir))
	// One of the 512 networks 198.18.N.0/30 and 198.19.N.0/30, of the range
	// for tests between hosts (RFC 2544).
	host := netip.AddrFrom4([4]byte{198, 18 + sum[0]&1, sum[1], 1})
	l := layout{
		dir: dir, id: hex.EncodeToString(sum[:4]), version: version, api: apiAddr,
		link: hostLink{dev: "tfc" + hex.EncodeToString(sum[:4]), host: host, control: host.Next()},
		ipv6: hasIPv6(),
	}
	for i, name := range []string{"node-a", "node-b"} {
		l.nodes = append(l.nodes, node{
			name: name, dev: name,
			addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(11 + i)}),
			pods: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(1 + i), 0}), 24),

			addr6: lastByte(controlAddr6, byte(0x11+i)), pods6: podsOf6(byte(1 + i)),
		})
	}
	return l, nil
}

// hasIPv6 says whether the kernel has IPv6 at all: a network namespace of its
// own has it then, whatever is set on this machine.
func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

func lastByte(a netip.Addr, b byte) netip.Addr {
	x := a.As16()
	x[15] = b
	return netip.AddrFrom16(x)
}

// podsOf6 is the number b's /64 of podCIDR6.
func podsOf6(b byte) netip.Prefix {
	x := podCIDR6.Addr().As16()
	x[7] = b
	return netip.PrefixFrom(netip.AddrFrom16(x), 64)
}

// both are, comma-separated, what there is of a setting in both families, IPv4
// first.
func (l layout) both(v4, v6 fmt.Stringer) string {
	if !l.ipv6 {
		return v4.String()
	}
	return v4.String() + "," + v6.String()
}

// serviceIP is the address of the service kubernetes.
func (l layout) serviceIP() netip.Addr { return serviceCIDR.Addr().Next() }

// cgroup is the parent of the cluster's control groups.
func (l layout) cgroup() string { return "tablefull-test-" + l.id }

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{l.dir}, elem...)...)
}

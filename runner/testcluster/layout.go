package testcluster

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
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
}

// node is one node: a network and a mount namespace.
type node struct {
	name string
	dev  string // of its link, in the control host; eth0 in the node
	addr netip.Addr
	pods netip.Prefix
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
	}
	for i, name := range []string{"node-a", "node-b"} {
		l.nodes = append(l.nodes, node{
			name: name, dev: name,
			addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(11 + i)}),
			pods: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(1 + i), 0}), 24),
		})
	}
	return l, nil
}

// serviceIP is the address of the service kubernetes.
func (l layout) serviceIP() netip.Addr { return serviceCIDR.Addr().Next() }

// cgroup is the parent of the cluster's control groups.
func (l layout) cgroup() string { return "tablefull-test-" + l.id }

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{l.dir}, elem...)...)
}

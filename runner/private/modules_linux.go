package private

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// wanted are the modules that a lab may need, by name. Nothing in the private
// kernel loads modules by itself: there is no modprobe. Those that a kernel
// was built without are left out; what needs them says so. Each costs more the
// more there are: when the kernel frees what only the start of a module needs,
// it maps the pages of those loaded before anew, one by one.
var wanted = []string{
	// Connection tracking, and the means to look at it.
	"nf_conntrack", "nf_conntrack_netlink", "inet_diag", "tcp_diag", "udp_diag",
	// Links.
	"ipv6", "veth", "dummy", "vxlan",
	// IPVS.
	"ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_lc", "ip_vs_wlc", "ip_vs_sh", "ip_vs_sed", "ip_vs_nq",
	// nftables; without the rest it still answers that it cannot.
	"nf_tables",
	// What the built-in proxy in mode ipvs has instead of nftables.
	"iptable_filter", "ip6table_filter", "xt_state", "ipt_REJECT", "ip6t_REJECT",
}

// wantedNAT is what that proxy needs besides for node ports.
var wantedNAT = []string{"iptable_nat", "ip6table_nat", "xt_tcpudp", "xt_mark", "xt_MASQUERADE"}

// wantedNFT is the rest of nftables. A kernel that was built without nftables for
// IP, as Debian's, has no nftForIP, and nothing to do for the others.
var wantedNFT = []string{
	nftForIP, "nft_reject_ipv6", "nft_chain_nat", "nft_nat", "nft_ct", "nft_masq", "nft_redir", "nft_reject",
	"nft_numgen", "nft_hash", "nft_limit", "nft_log", "nft_compat", "nft_fib_ipv4", "nft_fib_ipv6",
}

const nftForIP = "nft_reject_ipv4"

// wantedXtables is iptables and ipset, as kube-proxy uses them, in each of its
// modes.
var wantedXtables = []string{
	"iptable_nat", "iptable_mangle", "iptable_raw",
	"xt_addrtype", "xt_comment", "xt_conntrack", "xt_CT", "xt_ipvs", "xt_limit", "xt_mark", "xt_MASQUERADE", "xt_multiport",
	"xt_nat", "xt_nfacct", "xt_recent", "xt_set", "xt_statistic", "xt_tcpudp",
	"ip_set", "ip_set_bitmap_port", "ip_set_hash_ip", "ip_set_hash_ipport", "ip_set_hash_ipportip", "ip_set_hash_ipportnet", "ip_set_hash_net",
}

// wantedIP6tables is the rest of it, for IPv6. Where it is there kube-proxy --cleanup
// goes through all chains of IPv6, too, which takes as long again, and in a lab
// of IPv4, whose nodes have no IPv6, nothing is in them.
var wantedIP6tables = []string{"ip6table_nat", "ip6table_mangle", "ip6table_raw"}

// modules is a parsed modules.dep.
type modules struct {
	dir  string
	path map[string]string   // module name -> file below dir
	deps map[string][]string // file -> files it needs, all of them
}

// readModules reads dir/modules.dep.
func readModules(dir string) (*modules, error) {
	f, err := os.Open(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("read dependencies of modules: %w", err)
	}
	defer f.Close()
	m, err := parseModules(f)
	if err != nil {
		return nil, fmt.Errorf("read dependencies of modules: %w", err)
	}
	m.dir = dir
	return m, nil
}

// parseModules reads lines "FILE: FILE...": a module and all it needs, the
// nearest first, so that loading goes from the end to the beginning.
func parseModules(r io.Reader) (*modules, error) {
	m := &modules{path: map[string]string{}, deps: map[string][]string{}}
	s := bufio.NewScanner(r)
	for s.Scan() {
		file, deps, ok := strings.Cut(s.Text(), ":")
		if !ok {
			continue
		}
		m.path[moduleName(file)] = file
		m.deps[file] = strings.Fields(deps)
	}
	return m, s.Err()
}

// moduleName is the kernel's name of a module's file, with _ for -.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), ".ko"), "-", "_")
}

// order lists the files of the named modules and all they need, each once, in
// an order in which they can be loaded. Modules that do not exist are left out.
func (m *modules) order(names []string) []string {
	var out []string
	seen := map[string]bool{}
	var add func(file string)
	add = func(file string) {
		if seen[file] {
			return
		}
		seen[file] = true
		deps := m.deps[file]
		for i := len(deps) - 1; i >= 0; i-- {
			add(deps[i])
		}
		out = append(out, file)
	}
	for _, name := range names {
		if file, ok := m.path[name]; ok {
			add(file)
		}
	}
	return out
}

// choose are the modules to load for what will run.
func (m *modules) choose(n Needs) []string {
	names := slices.Clone(wanted)
	if _, ok := m.path[nftForIP]; ok {
		names = append(names, wantedNFT...)
	}
	if n.NodePorts {
		names = append(names, wantedNAT...)
	}
	if n.KubeProxy {
		names = append(names, wantedXtables...)
		if n.IPv6 {
			names = append(names, wantedIP6tables...)
		}
	}
	return names
}

// load loads the named modules into this kernel. It goes on past failures.
func (m *modules) load(names []string) error {
	var errs []error
	for _, file := range m.order(names) {
		if err := loadModule(filepath.Join(m.dir, file)); err != nil {
			errs = append(errs, fmt.Errorf("load module %s: %w", moduleName(file), err))
		}
	}
	return errors.Join(errs...)
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

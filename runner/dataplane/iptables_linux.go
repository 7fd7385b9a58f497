package dataplane

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
)

// readIPTables reads kube-proxy's rules of these families.
func readIPTables(ctx context.Context, ipv6 []bool) (table, error) {
	t := table{}
	for _, six := range ipv6 {
		rules, err := saveIPTables(ctx, six)
		if err != nil {
			return nil, err
		}
		maps.Copy(t, parseIPTables(rules))
	}
	return t, nil
}

// saveIPTables runs iptables-save, the only reader of both kinds of iptables.
func saveIPTables(ctx context.Context, ipv6 bool) ([]byte, error) {
	name := "iptables-save"
	if ipv6 {
		name = "ip6tables-save"
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, "-t", "nat")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("run %s: it is not installed (Debian: iptables)", name)
	}
	if err != nil {
		return nil, fmt.Errorf("run %s: %w: %s", name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// parseIPTables follows kube-proxy's chains: KUBE-SERVICES leads from a
// service address to KUBE-SVC-..., that to KUBE-SEP-..., which translate. Rules
// it does not know are passed over.
func parseIPTables(save []byte) table {
	rules := map[string][]iptRule{}
	lines := bufio.NewScanner(bytes.NewReader(save))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if chain, r, ok := parseRule(lines.Text()); ok {
			rules[chain] = append(rules[chain], r)
		}
	}
	t := table{}
	for _, r := range rules["KUBE-SERVICES"] {
		if !r.dst.IsValid() || r.port == 0 {
			continue
		}
		k := target{netip.AddrPortFrom(r.dst, r.port), r.proto}
		seen := map[netip.AddrPort]bool{}
		follow(rules, r.jump, 0, func(a netip.AddrPort) {
			if !seen[a] {
				seen[a] = true
				t[k] = append(t[k], runlog.ProgrammedBackend{Addr: a, Weight: 1})
			}
		})
	}
	return t
}

func follow(rules map[string][]iptRule, chain string, depth int, end func(netip.AddrPort)) {
	if depth > maxDepth {
		return
	}
	for _, r := range rules[chain] {
		if r.to.IsValid() {
			end(r.to)
		} else {
			follow(rules, r.jump, depth+1, end)
		}
	}
}

type iptRule struct {
	dst   netip.Addr
	proto uint8
	port  uint16
	jump  string
	to    netip.AddrPort // of DNAT
}

// parseRule reads a line such as
//
//	-A KUBE-SVC-X -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-SEP-Y
func parseRule(line string) (chain string, r iptRule, ok bool) {
	f := strings.Fields(line)
	if len(f) < 4 || f[0] != "-A" {
		return "", r, false
	}
	for i := 2; i+1 < len(f); i++ {
		v := f[i+1]
		switch f[i] {
		case "!": // what is excluded is no address to look for
			i += 2
		case "-d":
			if p, err := netip.ParsePrefix(v); err == nil && p.IsSingleIP() {
				r.dst = p.Addr()
			}
		case "-p":
			r.proto = map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[v]
		case "--dport":
			n, _ := strconv.ParseUint(v, 10, 16)
			r.port = uint16(n)
		case "-j", "-g":
			r.jump = v
		case "--to-destination":
			r.to, _ = netip.ParseAddrPort(v)
		}
	}
	return f[1], r, true
}

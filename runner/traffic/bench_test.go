//go:build linux

package traffic

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/require"
	"github.com/ti-mo/conntrack"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/server"
)

// The benchmarks' network is three namespaces, each with a process in it:
//
//	client (10.9.0.0/16, local) -- node (10.96.0.1:8080 is DNATed) -- server
//
// The benchmark runs itself again for each of them, with the role in this
// variable. Every measurement has a network, and so a table, of its own.
const roleVariable = "TABLEFULL_BENCH_ROLE"

var (
	benchClient  = netip.MustParsePrefix("192.168.1.2/24")
	benchNode    = [2]netip.Prefix{netip.MustParsePrefix("192.168.1.1/24"), netip.MustParsePrefix("192.168.2.1/24")}
	benchServer  = netip.MustParsePrefix("192.168.2.2/24")
	benchService = netip.MustParseAddrPort("10.96.0.1:8080")
)

// measureAs makes the network, has the client, a role, measure, and takes the
// network down. The client's answer goes to result.
func measureAs(b *testing.B, result any, client string, args ...string) {
	b.Helper()
	r, err := newRole(client, args...)
	if err != nil {
		envtest.Require(b, "netns", err.Error())
	}
	line, err := r.out.ReadBytes('\n')
	if err != nil {
		b.Fatalf("%s: no answer: %v", client, errors.Join(err, r.stop()))
	}
	require.NoError(b, json.Unmarshal(line, result), string(line))
	require.NoError(b, r.stop())
}

// needTools skips the benchmark, or fails it, where a peer is not installed.
func needTools(b *testing.B, names ...string) {
	b.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			envtest.Require(b, name, err.Error())
		}
	}
}

// median returns the middle of v, or the mean of the two middle ones.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// ratios divides round by round: what was near in time is compared.
func ratios(ours, peers []float64) (r []float64) {
	for i := range ours {
		r = append(r, ours[i]/peers[i])
	}
	return r
}

type role struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// newRole starts this binary in a new network namespace.
func newRole(name string, args ...string) (*role, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+strings.Join(append([]string{name}, args...), ","))
	cmd.SysProcAttr = envtest.Attr(syscall.CLONE_NEWNET)
	if name == "node" || name == "server" {
		// The client owns their user namespace, if there is one.
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &role{cmd: cmd, in: in, out: bufio.NewReader(out)}, cmd.Start()
}

// stop ends the process and waits for it.
func (r *role) stop() error {
	return errors.Join(r.in.Close(), r.cmd.Wait())
}

// ask sends a line to the role and returns the line it answers.
func (r *role) ask(question string) ([]byte, error) {
	if _, err := io.WriteString(r.in, question+"\n"); err != nil {
		return nil, fmt.Errorf("ask for %s: %w", question, err)
	}
	line, err := r.out.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", question, err)
	}
	return bytes.TrimSpace(line), nil
}

// playRole is what the processes do; TestMain calls it.
func playRole(name string, args []string) error {
	switch name {
	case "connections":
		return playConnections(args[0], args[1], args[2])
	case "flood":
		return playFlood(args[0])
	case "node":
		return playNode()
	case "server":
		return playServer(args[0])
	}
	return fmt.Errorf("no role %s", name)
}

// benchNet is the network around a client.
type benchNet struct{ node, server *role }

// newBenchNet builds the network around this process, whose namespace is the
// client's, with a server of that protocol.
func newBenchNet(protocol string) (n *benchNet, err error) {
	n = &benchNet{}
	if n.node, err = newRole("node"); err != nil {
		return nil, err
	}
	if n.server, err = newRole("server", protocol); err != nil {
		return nil, errors.Join(err, n.node.stop())
	}
	if err := n.join(); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func (n *benchNet) join() error {
	for _, pair := range [][2]string{{"c0", "n0"}, {"n1", "s0"}} {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: pair[0]}, PeerName: pair[1]}); err != nil {
			return fmt.Errorf("add veth: %w", err)
		}
	}
	for name, to := range map[string]*role{"n0": n.node, "n1": n.node, "s0": n.server} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetNsPid(l, to.cmd.Process.Pid); err != nil {
			return fmt.Errorf("move %s: %w", name, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	if err := address("c0", benchClient); err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(clients4), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}); err != nil {
		return err
	}
	if err := defaultRoute(benchNode[0].Addr()); err != nil {
		return err
	}
	if err := forward(false); err != nil { // what comes for a source that nobody has ends here
		return err
	}
	for _, x := range []*role{n.node, n.server} {
		if line, err := x.ask("go"); err != nil || string(line) != "ready" {
			return fmt.Errorf("a role is not ready: %q %w", line, err)
		}
	}
	return nil
}

func (n *benchNet) close() error { return errors.Join(n.node.stop(), n.server.stop()) }

// nodeCount is what the node had got from the client at a time (s, of a clock
// that all processes share).
type nodeCount struct {
	At      float64
	SYNs    uint64 // TCP segments with SYN and no other flag
	Frames  uint64 // received by the node's interface, of any kind
	Entries uint32 // in the node's table
}

func (n *benchNet) count() (c nodeCount, err error) {
	line, err := n.node.ask("count")
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(line, &c)
}

// flush empties the node's table: the kernel would otherwise do it when the
// namespace has gone, in the middle of the next measurement.
func (n *benchNet) flush() error {
	_, err := n.node.ask("flush")
	return err
}

// playNode forwards, tracks and translates, and answers count and flush.
func playNode() error {
	in := bufio.NewScanner(os.Stdin)
	if !in.Scan() { // until the client has moved the interfaces
		return in.Err()
	}
	for i, name := range []string{"n0", "n1"} {
		if err := address(name, benchNode[i]); err != nil {
			return err
		}
	}
	if err := defaultRoute(benchClient.Addr()); err != nil {
		return err
	}
	if err := forward(true); err != nil {
		return err
	}
	nft := &nftables.Conn{}
	counted := nodeRules(nft)
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("add rules: %w", err)
	}
	ct, err := conntrack.Dial(nil)
	if err != nil {
		return err
	}
	defer func() { _ = ct.Close() }()
	fmt.Println("ready")
	for in.Scan() {
		switch in.Text() {
		case "count":
			c, err := countNode(nft, counted, ct)
			if err != nil {
				return err
			}
			if err := json.NewEncoder(os.Stdout).Encode(c); err != nil {
				return err
			}
		case "flush":
			if err := ct.Flush(); err != nil {
				return err
			}
			fmt.Println("flushed")
		}
	}
	return in.Err()
}

// nodeRules translates the service, and counts SYNs before anything is done
// with them, in the one rule of the chain it returns.
func nodeRules(nft *nftables.Conn) (counted *nftables.Chain) {
	table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "services"})
	counted = nft.AddChain(&nftables.Chain{Table: table, Name: "syns", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
	nft.AddRule(&nftables.Rule{Table: table, Chain: counted, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{2}},
		&expr.Counter{},
	}})
	dnat := nft.AddChain(&nftables.Chain{Table: table, Name: "dnat", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	nft.AddRule(&nftables.Rule{Table: table, Chain: dnat, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: benchService.Addr().AsSlice()},
		&expr.Immediate{Register: 1, Data: benchServer.Addr().AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}})
	return counted
}

func countNode(nft *nftables.Conn, counted *nftables.Chain, ct *conntrack.Conn) (c nodeCount, err error) {
	rules, err := nft.GetRules(counted.Table, counted)
	if err != nil || len(rules) != 1 {
		return c, fmt.Errorf("read the rule that counts: %d rules: %w", len(rules), err)
	}
	c.At = time.Duration(monotonic()).Seconds()
	for _, e := range rules[0].Exprs {
		if x, ok := e.(*expr.Counter); ok {
			c.SYNs = x.Packets
		}
	}
	l, err := netlink.LinkByName("n0")
	if err != nil {
		return c, err
	}
	c.Frames = l.Attrs().Statistics.RxPackets
	stats, err := ct.StatsGlobal()
	c.Entries = stats.Entries
	return c, err
}

func playServer(protocol string) error {
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	if err := address("s0", benchServer); err != nil {
		return err
	}
	if err := defaultRoute(benchNode[1].Addr()); err != nil {
		return err
	}
	w, err := server.New(env.Job{Serve: &env.ServeJob{Protocol: protocol, Addr: netip.AddrPortFrom(benchServer.Addr(), benchService.Port()), Ports: 1}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, func() { fmt.Println("ready") }, discard{}) }()
	_, _ = io.Copy(io.Discard, in)
	cancel()
	return <-ended
}

func address(link string, a netip.Prefix) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), 32)}}); err != nil {
		return fmt.Errorf("add address %v: %w", a, err)
	}
	return netlink.LinkSetUp(l)
}

func defaultRoute(gateway netip.Addr) error {
	return netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: gateway.AsSlice()})
}

// forward says whether this namespace forwards.
func forward(yes bool) error {
	value := []byte("0")
	if yes {
		value = []byte("1")
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", value, 0)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

//go:build linux

package traffic

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/stretchr/testify/require"
	vegeta "github.com/tsenart/vegeta/v12/lib"
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

const (
	benchSources    = 64
	benchConcurrent = 256 // connections under way, for all generators
)

type benchResult struct {
	OK           int
	Took         float64 // s
	User, System float64 // s of CPU, of the generator
	ServerCPU    float64 // s
	Error        string
}

// BenchmarkConnections measures how many new connections per second, with one
// request each, a generator makes through a node that forwards, tracks and
// translates, when it makes the next as soon as one is done: the comparison of
// our engine with others, on the same network and machine.
//
// conn/s is the result, and only its ratios between generators mean anything.
func BenchmarkConnections(b *testing.B) {
	for _, generator := range []string{"engine", "c-epoll", "vegeta", "wrk"} {
		b.Run(generator, func(b *testing.B) {
			switch generator {
			case "c-epoll":
				if _, err := exec.LookPath("gcc"); err != nil {
					envtest.Require(b, "gcc", err.Error())
				}
			case "wrk":
				if _, err := exec.LookPath("wrk"); err != nil {
					envtest.Require(b, "wrk", err.Error())
				}
			}
			r := measure(b, generator, b.N)
			b.ReportMetric(float64(r.OK)/r.Took, "conn/s")
			b.ReportMetric(r.User/float64(max(1, r.OK))*1e6, "user-us/conn")
			b.ReportMetric(r.System/float64(max(1, r.OK))*1e6, "system-us/conn")
			b.ReportMetric(r.ServerCPU/float64(max(1, r.OK))*1e6, "server-us/conn")
			if generator != "wrk" && r.OK < b.N*99/100 { // wrk knows a time, no number
				b.Errorf("%d of %d connections succeeded: %s", r.OK, b.N, r.Error)
			}
		})
	}
}

// measure makes the network, has generator make n connections, and takes the
// network down.
func measure(b *testing.B, generator string, n int) (r benchResult) {
	b.Helper()
	client := startRole(b, "client", generator, strconv.Itoa(n), b.TempDir())
	line, err := client.out.ReadString('\n')
	require.NoError(b, err)
	require.NoError(b, json.Unmarshal([]byte(line), &r), line)
	client.stop(b)
	return r
}

type role struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startRole starts this binary in a new network namespace.
func startRole(t testing.TB, name string, args ...string) *role {
	t.Helper()
	r, err := newRole(name, args...)
	if err != nil {
		envtest.Require(t, "netns", err.Error())
	}
	return r
}

func newRole(name string, args ...string) (*role, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"="+strings.Join(append([]string{name}, args...), ","))
	cmd.SysProcAttr = envtest.Attr(syscall.CLONE_NEWNET)
	if name != "client" {
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
func (r *role) stop(t testing.TB) {
	t.Helper()
	_ = r.in.Close()
	require.NoError(t, r.cmd.Wait())
}

// playRole is what the processes do; TestMain calls it.
func playRole(name string, args []string) error {
	switch name {
	case "client":
		r, err := playClient(args[0], args[1], args[2])
		if err != nil {
			r.Error = err.Error()
		}
		return json.NewEncoder(os.Stdout).Encode(r)
	case "node":
		return playNode()
	case "server":
		return playServer(args[0])
	}
	return fmt.Errorf("no role %s", name)
}

// playClient builds the network around itself and generates the load.
func playClient(generator, count, dir string) (r benchResult, err error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return r, err
	}
	protocol := "tcp"
	if generator == "vegeta" || generator == "wrk" {
		protocol = "http"
	}
	node, err := newRole("node")
	if err != nil {
		return r, err
	}
	srv, err := newRole("server", protocol)
	if err != nil {
		return r, err
	}
	defer func() {
		_ = node.in.Close()
		_ = srv.in.Close()
		_ = node.cmd.Wait()
		_ = srv.cmd.Wait()
		r.ServerCPU = srv.cmd.ProcessState.UserTime().Seconds() + srv.cmd.ProcessState.SystemTime().Seconds()
	}()
	for _, pair := range [][2]string{{"c0", "n0"}, {"n1", "s0"}} {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: pair[0]}, PeerName: pair[1]}); err != nil {
			return r, fmt.Errorf("add veth: %w", err)
		}
	}
	for name, pid := range map[string]int{"n0": node.cmd.Process.Pid, "n1": node.cmd.Process.Pid, "s0": srv.cmd.Process.Pid} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return r, err
		}
		if err := netlink.LinkSetNsPid(l, pid); err != nil {
			return r, fmt.Errorf("move %s: %w", name, err)
		}
	}
	if err := address("c0", benchClient); err != nil {
		return r, err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return r, err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return r, err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: ipNet(clients4), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}); err != nil {
		return r, err
	}
	if err := defaultRoute(benchNode[0].Addr()); err != nil {
		return r, err
	}
	for _, x := range []*role{node, srv} {
		if _, err := io.WriteString(x.in, "go\n"); err != nil {
			return r, err
		}
		if line, err := x.out.ReadString('\n'); err != nil || line != "ready\n" {
			return r, fmt.Errorf("a role is not ready: %q %w", line, err)
		}
	}
	before := usage()
	began := time.Now()
	switch generator {
	case "engine":
		r.OK, err = benchEngine(n)
	case "c-epoll":
		r.OK, began, err = benchC(n, dir)
	case "vegeta":
		r.OK, err = benchVegeta(n)
	case "wrk":
		r.OK, err = benchWrk(n)
	}
	r.Took = time.Since(began).Seconds()
	after := usage()
	r.User, r.System = after[0]-before[0], after[1]-before[1]
	return r, err
}

// usage is the CPU time, user and system in s, of this process and of those it
// has waited for.
func usage() (s [2]float64) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			s[0] += float64(u.Utime.Nano()) / 1e9
			s[1] += float64(u.Stime.Nano()) / 1e9
		}
	}
	return s
}

func playNode() error {
	if err := awaitGo(); err != nil {
		return err
	}
	for i, name := range []string{"n0", "n1"} {
		if err := address(name, benchNode[i]); err != nil {
			return err
		}
	}
	if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(clients4), Gw: benchClient.Addr().AsSlice()}); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	nft := nftables.Conn{}
	table := nft.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "services"})
	chain := nft.AddChain(&nftables.Chain{Table: table, Name: "dnat", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: benchService.Addr().AsSlice()},
		&expr.Immediate{Register: 1, Data: benchServer.Addr().AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}})
	if err := nft.Flush(); err != nil {
		return err
	}
	return untilClosed()
}

func playServer(protocol string) error {
	if err := awaitGo(); err != nil {
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
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	return <-ended
}

// awaitGo waits until the client has moved the interfaces.
func awaitGo() error {
	var b [3]byte
	_, err := io.ReadFull(os.Stdin, b[:])
	return err
}

func untilClosed() error {
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
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

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// closedLoop is a pacer that makes the next attempt due when fewer than
// benchConcurrent sockets are open.
type closedLoop struct {
	e     *tcpEngine
	start float64
}

func (c *closedLoop) Pace(elapsed time.Duration, _ uint64) (time.Duration, bool) {
	wait := max(0, seconds(c.e.now()-c.start)-elapsed)
	if c.e.open >= benchConcurrent {
		wait += 100 * time.Microsecond
	}
	return wait, false
}

func (c *closedLoop) Rate(time.Duration) float64 { return 0 }

func benchEngine(n int) (ok int, err error) {
	j := load(benchService, time.Hour)
	j.Load.SourceCount = benchSources
	j.Load.End = 0
	tuples, err := newTCPTuples(*j.Load, nil)
	if err != nil {
		return 0, err
	}
	shape := &shortLived{mode: "fin"}
	pacer := &closedLoop{}
	out := new(records)
	e, err := newTCPEngine(j, out, shape, tcpSetup{schedule: NewSchedule(pacer, 0, 3600), limit: uint64(n), tuples: tuples, requestBytes: 64, responseBytes: 64})
	if err != nil {
		return 0, err
	}
	shape.e, pacer.e = e, e
	if err := e.run(context.Background()); err != nil {
		return 0, err
	}
	got := out.totals()
	if len(got.failures) > 0 {
		err = fmt.Errorf("%v %v", got.outcomes, got.failures[0])
	}
	return int(got.outcomes["ok"]), err
}

func benchC(n int, dir string) (ok int, began time.Time, err error) {
	bin := filepath.Join(dir, "generator")
	if out, err := exec.Command("gcc", "-O2", "-o", bin, "testdata/generator.c").CombinedOutput(); err != nil {
		return 0, time.Now(), fmt.Errorf("compile generator: %w: %s", err, out)
	}
	began = time.Now()
	out, err := exec.Command(bin, benchService.Addr().String(), strconv.Itoa(int(benchService.Port())), "10.9.0.1", strconv.Itoa(benchSources), strconv.Itoa(n), strconv.Itoa(benchConcurrent)).Output()
	if err != nil {
		return 0, began, err
	}
	ok, err = strconv.Atoi(strings.TrimSpace(string(out)))
	return ok, began, err
}

// benchVegeta attacks as vegeta does without keep-alive, as fast as it can.
func benchVegeta(n int) (ok int, err error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error { return nil }}).DialContext}
	attacker := vegeta.NewAttacker(vegeta.Workers(benchConcurrent), vegeta.MaxWorkers(benchConcurrent), vegeta.Client(&http.Client{Transport: transport, Timeout: 20 * time.Second}))
	targeter := vegeta.NewStaticTargeter(vegeta.Target{Method: "GET", URL: "http://" + benchService.String() + "/"})
	left := n
	pacer := bounded{&left}
	for r := range attacker.Attack(targeter, pacer, 0, "bench") {
		if r.Code == 200 {
			ok++
		} else {
			err = fmt.Errorf("%s", r.Error)
		}
	}
	return ok, err
}

// bounded is a pacer for so many hits, as fast as possible.
type bounded struct{ left *int }

func (p bounded) Pace(_ time.Duration, hits uint64) (time.Duration, bool) {
	return 0, hits >= uint64(*p.left)
}
func (p bounded) Rate(time.Duration) float64 { return 0 }

// benchWrk runs for as long as n connections may take; wrk knows no number.
func benchWrk(n int) (ok int, err error) {
	d := max(1, n/10_000)
	out, err := exec.Command("wrk", "-t1", "-c"+strconv.Itoa(benchConcurrent), "-d"+strconv.Itoa(d)+"s", "-H", "Connection: close", "http://"+benchService.String()+"/").Output()
	for _, line := range strings.Split(string(out), "\n") {
		var took string
		if k, _ := fmt.Sscanf(strings.TrimSpace(line), "%d requests in %s", &ok, &took); k == 2 {
			return ok, err
		}
	}
	return 0, fmt.Errorf("wrk: %w: %s", err, out)
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	ctlib "github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/watch"
	"github.com/tablefull/tablefull/runner/agent"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/env/envtest"
)

// inserter puts entries of its own making into this namespace's table, by
// another library than ours.
type inserter struct {
	t    *testing.T
	conn *ctlib.Conn
	n    int
	// lasting makes each entry one that the kernel's collector may not take.
	lasting bool
}

// established is TCP_CONNTRACK_ESTABLISHED of nf_conntrack_tcp.h.
const established = 3

func newInserter(t *testing.T) *inserter {
	t.Helper()
	conn, err := ctlib.Dial(nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return &inserter{t: t, conn: conn}
}

func (x *inserter) insert() {
	x.t.Helper()
	x.n++
	kind, state := x.n, uint8(1+x.n%8)
	if x.lasting {
		kind, state = 2, established
	}
	status := ctlib.StatusConfirmed | []ctlib.Status{0, ctlib.StatusSeenReply, ctlib.StatusSeenReply | ctlib.StatusAssured}[kind%3]
	src := netip.AddrFrom4([4]byte{10, 128, 0, byte(x.n % 50 * (x.n % 2))}) // half of them from .0
	dst := netip.AddrFrom4([4]byte{10, 96, 0, byte(x.n % 5 / 2)})
	f := ctlib.NewFlow(unix.IPPROTO_TCP, status, src, dst, uint16(1024+x.n%60000), uint16(80+x.n/60000), 600, 0)
	f.ProtoInfo.TCP = &ctlib.ProtoInfoTCP{State: state}
	if x.n%7 == 0 {
		f.TupleOrig.Proto.Protocol, f.TupleReply.Proto.Protocol, f.ProtoInfo.TCP = unix.IPPROTO_UDP, unix.IPPROTO_UDP, nil
	}
	require.NoError(x.t, x.conn.Create(f))
}

// watchLines runs a watch in this process and returns the tables it printed;
// meanwhile goes on beside it.
func watchLines(t *testing.T, meanwhile func(errOut io.Reader), args ...string) []watch.Table {
	t.Helper()
	var out bytes.Buffer
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); meanwhile(r); _, _ = io.Copy(io.Discard, r) }()
	code := run(t.Context(), append([]string{"watch", "--json"}, args...), Streams{Out: &out, Err: w})
	require.NoError(t, w.Close())
	<-done
	require.Equal(t, exitPass, code)
	var tables []watch.Table
	for line := range bytes.Lines(out.Bytes()) {
		var x watch.Table
		require.NoError(t, json.Unmarshal(line, &x), "%s", line)
		tables = append(tables, x)
	}
	require.NotEmpty(t, tables)
	return tables
}

// tool runs a program of somebody else.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		envtest.Require(t, "conntrack-tool", err.Error())
	}
	out, err := exec.CommandContext(t.Context(), path, args...).Output()
	require.NoError(t, err)
	return string(out)
}

// kernelCounters adds up /proc/net/stat/nf_conntrack over the CPUs.
func kernelCounters(t *testing.T) map[string]uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/net/stat/nf_conntrack")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	sums := map[string]uint64{}
	for _, l := range lines[1:] {
		for i, f := range strings.Fields(l) {
			v, err := strconv.ParseUint(f, 16, 64)
			require.NoError(t, err)
			sums[strings.Fields(lines[0])[i]] += v
		}
	}
	return sums
}

// What a watch says is what conntrack(8) and /proc say of the same table, and
// what Prometheus gets.
func TestWatchAgreesWithOtherTools(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	tool(t, "ip", "link", "set", "lo", "up") // for the metrics
	x := newInserter(t)
	for range 3000 {
		x.insert()
	}
	var before, after map[string]uint64
	var metrics families
	tables := watchLines(t, func(errOut io.Reader) {
		before = kernelCounters(t)
		line, err := bufio.NewReader(errOut).ReadString('\n')
		if !assert.NoError(t, err) {
			return
		}
		url := regexp.MustCompile(`http://\S+`).FindString(line)
		time.Sleep(1500 * time.Millisecond)
		for range 500 {
			x.insert()
		}
		after = kernelCounters(t)
		time.Sleep(6 * time.Second) // until it has been seen by a walk
		defer http.DefaultClient.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if !assert.NoError(t, err) {
			return
		}
		res, err := http.DefaultClient.Do(req)
		if assert.NoError(t, err) {
			metrics = parseMetrics(t, res.Body)
			assert.NoError(t, res.Body.Close())
		}
	}, "--for", "10s", "--interval", "500ms", "--metrics", ":0")

	last := tables[len(tables)-1]
	entries, err := strconv.ParseUint(strings.TrimSpace(tool(t, "conntrack", "-C")), 10, 64)
	require.NoError(t, err)
	assert.Equal(t, entries, last.Entries)
	assert.EqualValues(t, 3500, last.Entries)
	assert.Equal(t, after["insert"]-before["insert"], last.Counters["insert"], "of /proc/net/stat/nf_conntrack")
	assert.EqualValues(t, 500, last.Counters["insert"])
	limit, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	require.NoError(t, err)
	assert.Equal(t, strings.TrimSpace(string(limit)), strconv.FormatUint(last.Limit, 10))

	require.NotNil(t, last.Census)
	states, sources, services := map[string]int{}, map[string]int{}, map[string]int{}
	for line := range strings.Lines(tool(t, "conntrack", "-L")) {
		f := strings.Fields(line)
		key := f[0]
		if f[0] == "tcp" {
			key += " " + f[3]
		}
		states[key]++
		sources[field(f, "src=")]++
		services[f[0]+" "+field(f, "dst=")+":"+field(f, "dport=")]++
	}
	have := map[string]int{}
	for _, s := range last.Census.States {
		have[strings.TrimSpace(s.Proto+" "+s.State)] = int(s.Entries)
	}
	assert.Equal(t, states, have)
	assert.Equal(t, watchNames, len(last.Census.Sources))
	assert.EqualValues(t, slices.Max(slices.Collect(maps.Values(sources))), last.Census.Sources[0].Count)
	for _, s := range last.Census.Sources {
		assert.EqualValues(t, sources[s.Addr.String()], s.Count, "%s", s.Addr)
		assert.Zero(t, s.Error)
	}
	for _, s := range last.Census.Services {
		assert.EqualValues(t, services[watch.Service(s)], s.Count, "%s", watch.Service(s))
	}
	came := uint64(0)
	for i, x := range tables {
		if c := x.Census; c != nil && c.Turnover != nil && (i == 0 || tables[i-1].Census == nil || tables[i-1].Census.Age > c.Age) {
			came += c.Turnover.Came
			assert.Zero(t, c.Turnover.Went)
		}
	}
	assert.EqualValues(t, 500, came, "between some two walks")

	assert.Equal(t, float64(entries), metrics.sum("node_nf_conntrack_entries"))
	assert.Equal(t, float64(last.Limit), metrics.sum("node_nf_conntrack_entries_limit"))
	assert.Equal(t, float64(after["insert"]), metrics.sum("node_nf_conntrack_stat_insert"))
	assert.Equal(t, 3500.0, metrics.sum("tablefull_census_entries"))
	assert.Equal(t, 500.0, metrics.sum("tablefull_entries_came_total"))
	assert.Contains(t, metrics, "tablefull_growth_per_second")
	assert.NotContains(t, metrics, "tablefull_node_cpu_seconds_total", "it was not read, so it is not 0")
}

// field is what stands behind the first occurrence of a name.
func field(fields []string, name string) string {
	for _, f := range fields {
		if v, ok := strings.CutPrefix(f, name); ok {
			return v
		}
	}
	return ""
}

// A table that is filled at a known rate is full when the watch said it would
// be; while nothing comes it is not said to grow, nor when it is full.
func TestWatchForeseesAFullTable(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	const perS, free, still = 400, 5200, 1
	b := ballastUpTo(t, free)
	defer b()
	x := newInserter(t)
	// Where any table of this machine was full in the last minute, the kernel's
	// collector takes unanswered, unassured and closing connections out of every table
	// above 95 %: one that other tests ran before would never be full.
	x.lasting = true
	var began, fills time.Time
	tables := watchLines(t, func(io.Reader) {
		time.Sleep(still * time.Second)
		began = time.Now()
		for x.n < free {
			for due := min(free, int(time.Since(began).Seconds()*perS)); x.n < due; {
				x.insert()
			}
			time.Sleep(10 * time.Millisecond)
		}
		fills = time.Now() // on a busy machine a little late
	}, "--for", "18s")
	require.InDelta(t, float64(free)/perS, fills.Sub(began).Seconds(), 2, "as fast as it was meant to be")
	foreseen := 0
	for _, x := range tables {
		at, err := time.Parse(time.RFC3339, x.Time)
		require.NoError(t, err)
		left, since := fills.Sub(at).Seconds(), at.Sub(began).Seconds()
		switch {
		case since < 1:
			assert.NotEqual(t, watch.Growing, x.Full.When, "at %.1f s", since)
		case left < -0.1:
			assert.Equal(t, watch.Now, x.Full.When)
		case x.Full.When == watch.Growing && left > 0.5:
			foreseen++
			// A table that is sampled while this machine is busy has moved on.
			assert.InDelta(t, left, *x.Full.In, 0.15*left+1, "%.1f s before it is full: %+v", left, x.Growth)
		}
	}
	assert.Positive(t, foreseen)
}

// ballastUpTo leaves so many entries free, until the function it returns is
// called.
func ballastUpTo(t *testing.T, free uint64) (end func()) {
	t.Helper()
	w, err := agent.New(env.Job{ID: "ballast", Epoch: agent.Clock(), Ballast: &env.BallastJob{Headroom: free, Timeout: 60}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- w.Run(ctx, func() { close(ready) }, discard{}) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	return func() { cancel(); assert.NoError(t, <-done) }
}

type discard struct{}

func (discard) Record(runlog.Record) {}

// The walks of a large table are so rare that they cost what they may.
func TestWatchCostsWhatItSays(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	x := newInserter(t)
	for range 20_000 { // not ballast, which most walks leave out
		x.insert()
	}
	tables := watchLines(t, func(io.Reader) {}, "--for", "13s", "--interval", "1s")
	last := tables[len(tables)-1]
	require.NotNil(t, last.Census)
	walks, spent := 0, 0.0
	for i, x := range tables {
		if c := x.Census; c != nil && (i == 0 || tables[i-1].Census == nil || tables[i-1].Census.Age > c.Age) {
			walks++
			spent += c.CPU
		}
	}
	// The one that was begun last has not been waited for.
	assert.LessOrEqual(t, (spent-last.Census.CPU)/last.At, walkShare+0.002, "%d walks of %.3f s", walks, last.Census.CPU)
	assert.Greater(t, walks, 1)
	t.Logf("%d walks, the last of %.3f s; %.2f %% of a CPU in all", walks, last.Census.CPU, 100*last.Cost.Share)
	assert.InEpsilon(t, last.Cost.CPU/last.At, last.Cost.Share, 0.05)
	assert.False(t, math.IsNaN(last.Cost.Share))
}

// The table of another namespace is watched from outside, by process and by
// file, and it is that table and no other.
func TestWatchAnotherNamespace(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	x := newInserter(t)
	for range 20 {
		x.insert() // what is here must not be seen
	}
	other := exec.Command("sleep", "60")
	other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	require.NoError(t, other.Start())
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	pid := strconv.Itoa(other.Process.Pid)
	for _, where := range [][]string{{"--pid", pid}, {"--netns", "/proc/" + pid + "/ns/net"}} {
		c, errOut := program(t, t.TempDir(), append([]string{"watch", "--json", "--for", "1s"}, where...)...)
		out, err := c.Output()
		require.NoError(t, err, errOut.String())
		lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
		var last watch.Table
		require.NoError(t, json.Unmarshal(lines[len(lines)-1], &last))
		assert.Zero(t, last.Entries)
		require.NotNil(t, last.Census)
		assert.Zero(t, last.Census.Entries)
	}
	for _, bad := range [][]string{{"--netns", "/no/such"}, {"--netns", "/dev/null"}, {"--pid", "4999999"}} {
		c, errOut := program(t, t.TempDir(), append([]string{"watch"}, bad...)...)
		assert.Error(t, c.Run())
		assert.Equal(t, exitUsage, c.ProcessState.ExitCode(), errOut.String())
	}
}

// Who may not walk the table is told what to do, and can have the rest.
func TestWatchWithoutPrivilege(t *testing.T) {
	nobody := func(args ...string) (*exec.Cmd, *bytes.Buffer) {
		c, errOut := program(t, "/nonexistent", args...)
		if os.Geteuid() == 0 {
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: true}}
		}
		c.Dir = "/"
		return c, errOut
	}
	c, errOut := nobody("watch", "--for", "1s")
	_ = c.Run()
	assert.Equal(t, exitUnsupported, c.ProcessState.ExitCode(), errOut.String())
	assert.Contains(t, errOut.String(), "CAP_NET_ADMIN")
	assert.Contains(t, errOut.String(), "sudo tablefull watch")
	assert.Equal(t, 1, strings.Count(errOut.String(), "\n"), "one message: %s", errOut.String())

	c, errOut = nobody("watch", "--no-walk", "--for", "1s")
	out, err := c.Output()
	require.NoError(t, err, errOut.String())
	assert.Regexp(t, `(?m)^[0-9:]{8} [0-9,]+ of [0-9,]+ entries \([0-9.]+ %\); `, string(out))

	c, errOut = nobody("watch", "--netns", "/proc/1/ns/net")
	_ = c.Run()
	assert.Equal(t, exitUnsupported, c.ProcessState.ExitCode(), errOut.String())
	assert.Contains(t, errOut.String(), "needs root")
}

// A watch is shown at any size, in place, and leaves the last figures behind.
func TestWatchLiveView(t *testing.T) {
	if !envtest.Namespace(t) {
		return
	}
	ins := newInserter(t)
	for range 1000 {
		ins.insert()
	}
	x := newTerminal(t, 80, 24)
	x.tops = `^$|^tablefull watch`
	c := x.start(t.TempDir(), "watch", "--interval", "200ms")
	t.Cleanup(func() { _ = c.Process.Kill() }) // else the terminal is waited for
	x.await("1,000 of ", "states ", "SYN_SENT", "other states", "heaviest sources", "10.128.0.0", "new/s", "of one CPU")
	for range 500 {
		ins.insert()
	}
	x.await("1,500 of ", "insert +500")
	x.resize(20, 5)
	x.await("tablefull watch", "not growing")
	x.resize(200, 60)
	s := x.await("1,500 of ", "Ctrl-C", "heaviest services (before NAT)", "not growing")
	assert.Contains(t, strings.Split(s, "\n")[2], "1,500 of ")
	x.key("\x03")
	_ = c.Wait()
	x.assertRestored()
	assert.Equal(t, exitPass, c.ProcessState.ExitCode(), x.screen())
	x.await("1,500 of ", "watching has used")
	assert.NotContains(t, x.screen(), "restore", "nothing was changed")
	assert.Equal(t, 1, strings.Count(x.said(), "\x1b[?1049h"), "it came once")
}

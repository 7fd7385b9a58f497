//go:build linux

package cluster_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/kubeproxy"
	"github.com/tablefull/tablefull/runner/testcluster"
	"github.com/tablefull/tablefull/runner/testcluster/ociimage"
)

func TestMain(m *testing.M) {
	testcluster.Stage()
	os.Exit(m.Run())
}

const (
	version = "v1.36.3"
	image   = "localhost/tablefull:test"
)

// setup is a cluster that runs, and the program.
type setup struct {
	cluster    *testcluster.Cluster
	program    string
	kubeconfig string
}

// start builds the program and starts a cluster that lasts as long as the test;
// programs are what it runs.
func start(t *testing.T) (s setup, programs map[string]string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a test cluster needs root") // which CI runs these tests as, too
	}
	programs, err := testcluster.Find(t.Context(), kubeproxy.Getter{Site: "http://127.0.0.1:1", Go: "/nonexistent"}, version)
	if err != nil {
		envtest.Require(t, "cluster", err.Error()+" (see: make kube-programs)")
	}
	s = setup{program: filepath.Join(t.TempDir(), "tablefull")}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", s.program, "github.com/tablefull/tablefull/cmd/tablefull")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	images := t.TempDir()
	archives, err := testcluster.MakeImages(t.Context(), images, version, programs["kube-proxy"])
	require.NoError(t, err)
	other, err := testcluster.MakeImages(t.Context(), filepath.Join(images, otherVersion), otherVersion, otherProxy(t))
	require.NoError(t, err)
	archives = append(archives, other[1]) // less the sandbox's, which is there
	ours := filepath.Join(images, "tablefull.tar")
	require.NoError(t, ociimage.WriteFile(ours, testcluster.TablefullImage(image, s.program)))
	dir := filepath.Join(t.TempDir(), "cluster")
	s.cluster, err = testcluster.Up(t.Context(), testcluster.Config{Dir: dir, Version: version, Programs: programs, Images: append(archives, ours)})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, testcluster.Down(context.Background(), dir)) })
	s.kubeconfig = s.cluster.Kubeconfig()
	return s, programs
}

// TestRealCluster runs the program against a real Kubernetes.
func TestRealCluster(t *testing.T) {
	s, programs := start(t)
	actions := filepath.Join(t.TempDir(), "actions.yaml")
	require.NoError(t, os.WriteFile(actions, []byte(actionsScenario), 0o600))
	// Whoever runs something has the rights that it needs and no more.
	one := s.grant(t, "short-lived", types.NamespacedName{})
	proxy := types.NamespacedName{Namespace: "kube-system", Name: "kube-proxy"}
	two := s.grant(t, actions, proxy)
	changes := filepath.Join(t.TempDir(), "changes.yaml")
	require.NoError(t, os.WriteFile(changes, []byte(changesScenario), 0o600))
	three := s.grant(t, changes, proxy)
	doctor, watcher, local, families := s.doctor(t), s.watcher(t), s.local(t), s.families(t)
	before := s.objects(t)
	t.Run("doctor", func(t *testing.T) { checkDoctor(t, s.as(doctor)) })
	t.Run("watch", func(t *testing.T) { checkWatch(t, s.as(watcher)) })
	t.Run("truth", func(t *testing.T) { checkTruth(t, s.as(one)) })
	t.Run("truth of IPv6", func(t *testing.T) { checkTruth(t, s, "lab.family=ipv6") })
	t.Run("both families", func(t *testing.T) { checkFamilies(t, s, families) })
	t.Run("node ports", func(t *testing.T) { checkNodePorts(t, s, local) })
	t.Run("actions", func(t *testing.T) { checkActions(t, s, two) })
	t.Run("changes", func(t *testing.T) { checkChanges(t, s, three) })
	t.Run("changes killed", func(t *testing.T) { checkChangesKilled(t, s, three) })
	t.Run("API server restarts", func(t *testing.T) { checkRestart(t, s) })
	t.Run("killed", func(t *testing.T) { checkKilled(t, s.as(one)) })
	t.Run("cron job", func(t *testing.T) { checkCronJob(t, s) })
	t.Run("same as lab", func(t *testing.T) { checkSameAsLab(t, s, programs["kube-proxy"], 2) })
	t.Run("refused", func(t *testing.T) { checkRefused(t, s) })
	for _, a := range []account{one, two, three, doctor, watcher, local, families} {
		t.Run("rights of "+a.name, func(t *testing.T) { checkUsed(t, s, a) })
	}
	t.Run("one right less", func(t *testing.T) { checkOneLess(t, s, two, three, local, families, one) })
	t.Run("one right less of doctor", func(t *testing.T) { checkDoctorLess(t, s, doctor) })
	assert.Equal(t, before, s.objects(t))
}

// otherProxy is the program of another version, as make kube-proxies has got it.
func otherProxy(t *testing.T) string {
	t.Helper()
	cache, err := kubeproxy.CacheOf("kube-proxy")
	require.NoError(t, err)
	b, err := kubeproxy.Getter{Site: "http://127.0.0.1:1", Go: "/nonexistent", Program: "kube-proxy", Cache: cache}.Get(t.Context(), otherVersion)
	if err != nil {
		envtest.Require(t, "kube-proxy", err.Error()+" (see: make kube-proxies)")
	}
	return b.Path
}

// command is the program with the cluster's kubeconfig.
func (s setup) command(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.program, args...)
	// What the user's environment says about proxies is not about this cluster.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "KUBECONFIG=" + s.kubeconfig, "XDG_STATE_HOME=" + t.TempDir(), "HOME=" + t.TempDir(), "TABLEFULL_IMAGE=" + image}
	return cmd
}

// objects are the names of what a run could leave behind.
func (s setup) objects(t *testing.T) string {
	t.Helper()
	out, err := s.cluster.Kubectl(t.Context(), nil, "get", "namespaces,clusterroles,clusterrolebindings,nodes", "--output=name")
	require.NoError(t, err)
	return string(out) + s.outsides(t)
}

// summary is what this test reads of a run's findings.
type summary struct {
	Target, Verdict string
	Reasons         []string
	Restored        *bool
	Knee            struct{ Drop *onset }
	Causes          []struct {
		Cause string
		Share float64
	}
	Spikes  []spike
	Traffic []struct {
		Name              string
		Succeeded, Failed float64
	}
	Backends []struct {
		Name   string
		Served float64
	}
	Nodes []struct {
		Name        string
		PeakEntries float64            `json:"peak_entries"`
		Headroom    float64            `json:"headroom_at_start"`
		Counters    map[string]float64 `json:"counters"`
		Knee        struct{ Drop *onset }
		Stale       *struct {
			MaxS float64 `json:"max_s"`
		}
		Proxy   *struct{ Syncs float64 }
		Entered *struct{ Attempted float64 }
	}
}

type spike struct {
	Ties  []string
	Error string
}

type onset struct {
	At float64 `json:"at_s"`
}

// run runs a scenario and returns its exit code and findings.
func (s setup) run(t *testing.T, args ...string) (int, summary, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	cmd := s.command(t.Context(), t, append([]string{"run", "--target=kubernetes", "--out", dir}, args...)...)
	var talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &talk, &talk
	_ = cmd.Run() // its code says more
	if cmd.ProcessState.ExitCode() == 6 {
		t.Log(talk.String()) // says what was not put back
	}
	b, err := os.ReadFile(filepath.Join(dir, "summary.json"))
	require.NoError(t, err, talk.String())
	var sum summary
	require.NoError(t, json.Unmarshal(b, &sum))
	return cmd.ProcessState.ExitCode(), sum, dir
}

// A node's table is full when it must be; the other node's, which traffic does
// not enter by, stays what it was.
func checkTruth(t *testing.T, s setup, sets ...string) {
	const headroom, rate = 2000.0, 500.0
	for try := 1; ; try++ {
		args := []string{"short-lived", "--node", "node-b"}
		for _, set := range append(sets, fmt.Sprintf("conntrack.headroom=%v", headroom), fmt.Sprintf("traffic[0].short_lived.rate=%v/s", rate), "duration=6s") {
			args = append(args, "--set", set)
		}
		s.forget(t)
		code, sum, _ := s.run(t, args...)
		if sum.Verdict == "inconclusive" && try < 4 {
			t.Log("again, because of the run's own conditions:", sum.Reasons)
			continue
		}
		require.Equal(t, 3, code, "%v", sum.Reasons)
		assert.Equal(t, "kubernetes", sum.Target)
		assert.True(t, sum.Restored != nil && *sum.Restored)
		require.NotEmpty(t, sum.Causes)
		assert.Equal(t, "table_full", sum.Causes[0].Cause)
		assert.Greater(t, sum.Causes[0].Share, 0.99)
		require.Len(t, sum.Nodes, 2)
		for _, n := range sum.Nodes {
			if n.Name == "node-b" {
				// What else the node tracks (probes, kubelet) takes a few entries.
				assert.InDelta(t, headroom, n.Headroom, 30)
				require.NotNil(t, n.Knee.Drop)
				assert.InEpsilon(t, n.Headroom/rate, n.Knee.Drop.At, 0.03)
				continue
			}
			assert.Nil(t, n.Knee.Drop, n.Name)
			assert.Zero(t, n.Counters["drop"], n.Name)
			assert.Less(t, n.PeakEntries, headroom, "%s has no ballast", n.Name)
		}
		return
	}
}

// forget takes the connections that are over out of the nodes' tables: those of
// a run before would expire during the next one.
func (s setup) forget(t *testing.T) {
	t.Helper()
	for _, node := range s.cluster.NodeNames() {
		for _, family := range []string{"ipv4", "ipv6"} {
			var out []byte
			err := s.cluster.Inside(node, func() (err error) {
				out, err = exec.CommandContext(t.Context(), "conntrack", "-D", "-f", family, "-p", "tcp", "--state", "TIME_WAIT").CombinedOutput()
				return err
			})
			require.True(t, err == nil || strings.Contains(string(out), "0 flow entries"), "%v: %s", err, out) // its code is 1 where there are none
		}
	}
}

// actionsScenario does to a service all that is done to one in a cluster.
const actionsScenario = `
name: actions
duration: 30s
lab: {nodes: 2}
conntrack: {headroom: 100000}
services:
  - name: web
    pods: 2
    lifecycle: {grace: 5s, on_sigterm: close}
traffic:
  - {name: clients, to: web, short_lived: {rate: 50/s}}
actions:
  - {at: 1s, rollout: {service: web}}
  - {at: 11s, scale: {service: web, to: 1}}
  - {at: 14s, delete_pod: {service: web}}
  - {at: 16s, ballast: {headroom: 50000}}
  - {at: 17s, restart_proxy: {rolling: true}}
`

// Pods come and go, each with its events on the run's clock: an old pod hears
// SIGTERM after it has begun to terminate, and ends after that. What the pods
// have counted is in the log. Of the kube-proxies, which are restarted one after
// the other, there is no moment in which neither is ready.
func checkActions(t *testing.T, s setup, a account) {
	watched := s.watchProxies(t)
	_, sum, dir := s.as(a).run(t, append([]string{a.ref}, a.flags()...)...)
	if slices.ContainsFunc(sum.Spikes, func(x spike) bool { return strings.HasSuffix(x.Error, "is being changed by another action") }) {
		t.Log("again: a kubelet took so long to start a pod that the rollout was not over when the next action began")
		watched()
		watched = s.watchProxies(t)
		_, sum, dir = s.as(a).run(t, append([]string{a.ref}, a.flags()...)...)
	}
	assert.Equal(t, map[string]bool{"node-a node-b": true, "node-a": true, "node-b": true}, watched(), "the nodes whose kube-proxy was ready, as the API server told each change")
	assert.True(t, sum.Restored != nil && *sum.Restored)
	b, err := os.ReadFile(filepath.Join(dir, "run.jsonl"))
	require.NoError(t, err)
	ended, at, served, sets, inserted := map[string]string{}, map[string]map[string]float64{}, map[string]bool{}, 0, 0.0
	var had []string // usable endpoints, each set once told
	atEnd := ""
	var told []*runlog.Event            // of Kubernetes
	programmed := map[string][]string{} // by node: the sets of backends
	for line := range strings.Lines(string(b)) {
		var r runlog.Record
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		switch e := r.Event; {
		case r.Served != nil:
			served[r.Host] = true
		case r.Endpoints != nil:
			sets++
			had = append(had, usable(r.Endpoints))
			if r.T < 30 { // after which servers are ended
				atEnd = usable(r.Endpoints)
			}
		case r.Dataplane != nil && r.T < 30:
			require.Len(t, r.Dataplane.Services, 1, "%+v", r.Dataplane)
			programmed[r.Host] = append(programmed[r.Host], backends(r.Dataplane.Services[0]))
		case e == nil:
		case e.Kind == "action" && e.Fields["phase"] != "begin":
			ended[e.Name] = e.Fields["phase"] + e.Detail
		case e.Kind == "ballast" && e.Name == "changed":
			inserted, err = strconv.ParseFloat(e.Fields["inserted"], 64)
			require.NoError(t, err)
		case e.Kind == "pod":
			if at[e.Name] == nil {
				at[e.Name] = map[string]float64{}
			}
			at[e.Name][e.Detail] = r.T
		case e.Kind == "event":
			told = append(told, e)
		case e.Kind == "warning":
			t.Log(r.Host, e.Name, e.Detail)
		}
	}
	assert.Equal(t, map[string]string{"rollout": "end", "scale": "end", "delete_pod": "end", "ballast": "end", "restart_proxy": "end"}, ended)
	assert.InDelta(t, 50000, inserted, 5000, "on each node half of the headroom was filled up, less what came since")
	proxies := map[bool]int{} // whether they have gone
	for name, events := range at {
		if strings.HasPrefix(name, "kube-proxy-") {
			_, gone := events["gone"]
			proxies[gone]++
			delete(at, name)
		}
	}
	assert.Equal(t, map[bool]int{true: 2, false: 2}, proxies, "each was replaced")
	assert.Len(t, at, 5, "two, two after the rollout, and one after the deletion")
	assert.Greater(t, sets, 6)
	assert.NotEmpty(t, atEnd)
	for node, sets := range programmed {
		assert.Equal(t, atEnd, sets[len(sets)-1], "%s, also where kube-proxy was restarted", node)
	}
	checkProgrammed(t, sum, had, programmed)
	checkEvents(t, s, told)
	gone := 0
	for name, events := range at {
		assert.True(t, served[name], name)
		if _, ok := events["gone"]; !ok {
			continue
		}
		gone++
		assert.Contains(t, events, "sigterm", name)
		assert.GreaterOrEqual(t, events["gone"], events["sigterm"], name)
		assert.GreaterOrEqual(t, events["gone"], events["terminating"], name)
	}
	assert.Equal(t, 4, gone)
	out, err := s.as(a).command(t.Context(), t, "clean").Output()
	require.NoError(t, err)
	assert.Empty(t, out, "nothing was left")
}

// What the run log has of Kubernetes' Events is what kubectl shows; those about
// the run's own pods went with its namespace.
func checkEvents(t *testing.T, s setup, told []*runlog.Event) {
	t.Helper()
	shown, err := s.cluster.Kubectl(t.Context(), nil, "--namespace=kube-system", "get", "events", "--output=jsonpath={range .items[*]}{.involvedObject.name} {.reason};{end}")
	require.NoError(t, err)
	reasons := map[string][]string{} // of pods, by whose they are
	for _, e := range told {
		if e.Fields["object"] == "node" {
			assert.Contains(t, []string{"node-a", "node-b"}, e.Name)
			continue
		}
		whose, _, _ := strings.Cut(e.Name, "-")
		reasons[whose] = append(reasons[whose], e.Fields["reason"])
		if whose == "kube" {
			assert.Contains(t, ";"+string(shown), ";"+e.Name+" "+e.Fields["reason"]+";")
		}
	}
	assert.Subset(t, reasons["web"], []string{"Scheduled", "Started", "Killing"})
	assert.Subset(t, reasons["kube"], []string{"Scheduled", "Started", "Killing"}, "one was replaced")
}

// Each node's rules led to pods that there were at one time, those after the
// rollout among them, and how long they led to others is known.
func checkProgrammed(t *testing.T, sum summary, had []string, programmed map[string][]string) {
	rolled := ""
	for _, set := range had[1:] { // the last two of which neither had been there at first
		if pods := strings.Fields(set); len(pods) == 2 && !strings.Contains(had[0], pods[0]) && !strings.Contains(had[0], pods[1]) {
			rolled = set
		}
	}
	require.NotEmpty(t, rolled, "%v", had)
	assert.Len(t, programmed, 2)
	for node, sets := range programmed {
		assert.Subset(t, had, sets, node)
		assert.Contains(t, sets, rolled, node)
	}
	for _, n := range sum.Nodes {
		if assert.NotNil(t, n.Stale, n.Name) {
			assert.Positive(t, n.Stale.MaxS, "%s: it takes a moment to hear of a pod that has gone", n.Name)
		}
	}
}

// usable are the addresses that new connections may go to, in order.
func usable(e *runlog.Endpoints) string {
	var out []string
	for _, x := range runlog.Usable(e.Endpoints) {
		out = append(out, x.Addr.String())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// backends are the addresses that a node leads to, in order.
func backends(s runlog.ProgrammedService) string {
	var out []string
	for _, b := range s.Backends {
		out = append(out, b.Addr.Addr().String())
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// An API server that is killed in the middle of a run is away for seconds, and
// all connections through it are cut. The records are all there, once. SIGTERM
// would cut nothing: it waits a minute for connections to end, and ours last as
// long as the run.
func checkRestart(t *testing.T, s setup) {
	restarted := make(chan error, 1)
	go func() {
		restarted <- s.whenTrafficFlows(t, func() error { return s.cluster.Signal("control", "kube-apiserver", unix.SIGKILL) })
	}()
	code, sum, dir := s.run(t, "healthy", "--set", "traffic[0].short_lived.rate=50/s", "--set", "duration=15s")
	require.NoError(t, <-restarted)
	assert.Contains(t, []int{0, 4}, code, "%v", sum.Reasons) // the restart is load, so that attempts may be late
	assert.True(t, sum.Restored != nil && *sum.Restored)
	checkRecords(t, filepath.Join(dir, "run.jsonl"))
}

// whenTrafficFlows calls f as soon as a worker has a job.
func (s setup) whenTrafficFlows(t *testing.T, f func() error) error {
	for range 1200 {
		out, err := s.cluster.Kubectl(t.Context(), nil, "get", "pods", "--all-namespaces", "--selector=app.kubernetes.io/component=worker", "--output=jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}")
		if err == nil && strings.Contains(string(out), "True") {
			time.Sleep(4 * time.Second) // servers, samplers, and run time 0
			return f()
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("no worker was ready in two minutes")
}

// checkRecords counts each host's records: they are numbered without a gap and
// as many as the trailer says.
func checkRecords(t *testing.T, file string) {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	last := map[string]uint64{}
	var trailer struct {
		Outcome string
		Records map[string]uint64
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var r struct {
			N       uint64          `json:"n"`
			Host    string          `json:"host"`
			Trailer json.RawMessage `json:"trailer"`
		}
		require.NoError(t, json.Unmarshal(lines.Bytes(), &r))
		require.Equal(t, last[r.Host]+1, r.N, "of %s", r.Host)
		last[r.Host] = r.N
		if r.Trailer != nil {
			require.NoError(t, json.Unmarshal(r.Trailer, &trailer))
		}
	}
	require.NoError(t, lines.Err())
	assert.Equal(t, "completed", trailer.Outcome)
	delete(last, "controller")
	assert.Len(t, last, 5) // one worker, two nodes, two pods
	for host, n := range last {
		assert.Equal(t, trailer.Records[host], n, host)
	}
}

// A controller that is killed leaves its namespace; clean removes it, and the
// ballast goes with its agent.
func checkKilled(t *testing.T, s setup) {
	cmd := s.command(t.Context(), t, "run", "short-lived", "--target", "kubernetes", "--node", "node-a", "--out", filepath.Join(t.TempDir(), "run"))
	require.NoError(t, cmd.Start())
	full := func() bool { return s.entries(t, "node-a") > 200_000 }
	require.Eventually(t, full, 3*time.Minute, 50*time.Millisecond, "there is ballast")
	require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
	_ = cmd.Wait()
	clean := s.command(t.Context(), t, "clean")
	out, err := clean.Output()
	require.NoError(t, err)
	assert.Regexp(t, `^tablefull-\S+\n$`, string(out))
	assert.Less(t, s.entries(t, "node-a"), 20_000)
	out, err = s.command(t.Context(), t, "clean").Output()
	require.NoError(t, err)
	assert.Empty(t, out)
}

// entries is how many a node's table has.
func (s setup) entries(t *testing.T, node string) (n int) {
	assert.NoError(t, s.cluster.Inside(node, func() error {
		b, err := os.ReadFile("/proc/thread-self/net/stat/nf_conntrack")
		if err != nil {
			return err
		}
		_, lines, _ := strings.Cut(string(b), "\n")
		_, err = fmt.Sscanf(lines, "%x", &n)
		return err
	}))
	return n
}

// What cannot be is said, with its reason, and leaves nothing.
func checkRefused(t *testing.T, s setup) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"proxy-restart-under-load", "--set", "lab.proxy={}"}, 5, "--kube-proxy kube-system/kube-proxy"},
		{[]string{"healthy", "--node", "node-c"}, 5, "no node node-c"},
		{[]string{"healthy", "--node", "node-a,node-b"}, 2, "lab.nodes"},
		{[]string{"healthy", "--context", "other"}, 2, "other"},
	} {
		cmd := s.command(t.Context(), t, append([]string{"run", "--target", "kubernetes", "--out", filepath.Join(t.TempDir(), "run")}, c.args...)...)
		out, _ := cmd.CombinedOutput()
		assert.Equal(t, c.code, cmd.ProcessState.ExitCode(), "%s: %s", c.args, out)
		assert.Contains(t, string(out), c.says)
	}
}

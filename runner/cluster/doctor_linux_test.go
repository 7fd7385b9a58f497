//go:build linux

package cluster_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/watch"
	"github.com/tablefull/tablefull/runner/cluster"
)

// doctor is an account that has what doctor needs, and nothing else.
func (s setup) doctor(t *testing.T) account {
	t.Helper()
	look, err := cluster.LookRights()
	require.NoError(t, err)
	rights := cluster.LeastOf(append(look, cluster.ViewRights(cluster.DefaultKubeProxy)...))
	return s.give(t, account{name: "doctor", ref: "doctor", rights: rights}, "--read-nodes")
}

// markedAt is where the entries that marked makes lead to.
var markedAt = netip.MustParseAddrPort("203.0.113.9:99")

// marked puts so many entries into a node's table, which the kernel's collector
// may not take, until the test ends: an entry that expired later would make room
// in the middle of another test.
func (s setup) marked(t *testing.T, node string, n int) {
	t.Helper()
	var flows []conntrack.Flow
	for i := range n {
		src := netip.AddrFrom4([4]byte{203, 0, 113, 1 + byte(i%2)})
		f := conntrack.NewFlow(unix.IPPROTO_TCP, conntrack.StatusConfirmed|conntrack.StatusSeenReply|conntrack.StatusAssured, src, markedAt.Addr(), uint16(1024+i), markedAt.Port(), 600, 0)
		f.ProtoInfo.TCP = &conntrack.ProtoInfoTCP{State: 3} // ESTABLISHED
		flows = append(flows, f)
	}
	each := func(do func(*conntrack.Conn, conntrack.Flow) error) error {
		return s.cluster.Inside(node, func() error {
			c, err := conntrack.Dial(nil)
			for i := 0; err == nil && i < len(flows); i++ {
				err = do(c, flows[i])
			}
			if c != nil {
				err = errors.Join(err, c.Close())
			}
			return err
		})
	}
	t.Cleanup(func() { assert.NoError(t, each((*conntrack.Conn).Delete)) })
	require.NoError(t, each((*conntrack.Conn).Create))
}

// What doctor says of the nodes is what kubectl and the nodes themselves say;
// its pods are gone when it has ended.
func checkDoctor(t *testing.T, s setup) {
	const mark = 400
	s.marked(t, "node-b", mark)
	s.set(t, "node-b", "nf_conntrack_tcp_timeout_time_wait", "77") // so that nobody else's is taken for it
	cmd := s.command(t.Context(), t, "doctor", "--target=kubernetes", "--read-nodes", "--json", "short-lived", "stale-rules", "proxy-restart-under-load")
	out, err := cmd.Output()
	require.Error(t, err, "this account may run nothing")
	require.Equal(t, 5, cmd.ProcessState.ExitCode(), "%s", out)
	var d struct {
		cluster.View
		Scenarios []struct {
			Name    string
			Refused []string
		}
		Answer string
	}
	require.NoError(t, json.Unmarshal(out, &d))
	assert.Equal(t, "not ready", d.Answer)
	assert.Equal(t, "system:serviceaccount:default:doctor", d.User)
	assert.Equal(t, version, d.Version)
	require.Len(t, d.Nodes, 2)
	for _, n := range d.Nodes {
		says := func(path string) string {
			b, err := s.cluster.Kubectl(t.Context(), nil, "get", "node", n.Name, "--output=jsonpath={"+path+"}")
			require.NoError(t, err)
			return string(b)
		}
		assert.Equal(t, says(".status.nodeInfo.kernelVersion"), n.Kernel)
		assert.Equal(t, says(".status.nodeInfo.operatingSystem")+" "+says(".status.nodeInfo.architecture"), n.OS+" "+n.Arch)
		assert.Equal(t, says(".status.nodeInfo.kubeletVersion"), n.Kubelet)
		assert.Equal(t, "True", says(".status.conditions[?(@.type=='Ready')].status"))
		assert.True(t, n.Ready && !n.Cordoned && n.Unfit == "", "%+v", n)
		require.NotNil(t, n.Proxy)
		assert.Equal(t, cluster.NodeProxy{Pod: n.Proxy.Pod, Version: version, Ready: true}, *n.Proxy)
		require.NotNil(t, n.Table, n.NotRead)
		assert.Equal(t, s.setting(t, n.Name, "nf_conntrack_max"), n.Table.Limit)
		assert.Equal(t, s.setting(t, n.Name, "nf_conntrack_buckets"), n.Table.Buckets)
		assert.Equal(t, s.setting(t, n.Name, "nf_conntrack_tcp_timeout_time_wait"), uint64(n.Table.Timeouts["tcp_timeout_time_wait"]))
		if n.Name == "node-b" {
			assert.InDelta(t, mark, n.Table.Entries, mark/2, "its own, and what the node does besides")
		} else {
			assert.Less(t, n.Table.Entries, uint64(mark/2))
		}
	}
	assert.Equal(t, "nftables", d.Proxy.Mode)
	assert.Equal(t, version, d.Proxy.Version)
	assert.Equal(t, 2, d.Proxy.Ready)
	require.Len(t, d.Scenarios, 3)
	assert.Contains(t, strings.Join(d.Scenarios[0].Refused, "; "), "the account may not create deployments.apps web")
	assert.Contains(t, strings.Join(d.Scenarios[1].Refused, "; "), "pause_proxy")
	assert.Contains(t, strings.Join(d.Scenarios[2].Refused, "; "), "--kube-proxy kube-system/kube-proxy")

	nobody, err := s.command(t.Context(), t, "clean").Output()
	require.NoError(t, err)
	assert.Empty(t, nobody, "it has removed its pods")
	// Who may do everything is told that the library can be run.
	admin := s
	admin.kubeconfig = s.cluster.Kubeconfig()
	out, err = admin.command(t.Context(), t, "doctor", "--target=kubernetes").Output()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "\nready: ")
}

// setting is one of connection tracking, as the node's own network namespace
// has it.
func (s setup) setting(t *testing.T, node, name string) (v uint64) {
	t.Helper()
	require.NoError(t, s.cluster.Inside(node, func() error {
		b, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
		if err == nil {
			v, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		}
		return err
	}))
	return v
}

// set writes one, until the test ends.
func (s setup) set(t *testing.T, node, name, value string) {
	t.Helper()
	write := func(v string) error {
		return s.cluster.Inside(node, func() error { return os.WriteFile("/proc/sys/net/netfilter/"+name, []byte(v), 0) })
	}
	was := s.setting(t, node, name)
	require.NotEqual(t, value, strconv.FormatUint(was, 10))
	t.Cleanup(func() { assert.NoError(t, write(strconv.FormatUint(was, 10))) })
	require.NoError(t, write(value))
}

// watcher is an account that has what watch needs, and nothing else.
func (s setup) watcher(t *testing.T) account {
	t.Helper()
	rights, err := cluster.LookRights()
	require.NoError(t, err)
	return s.give(t, account{name: "watcher", ref: "watch", rights: rights})
}

// What a watch shows of each node is what conntrack(8) lists there, and when it
// ends its pods are gone, also where a signal ends it.
func checkWatch(t *testing.T, s setup) {
	const mark = 300
	s.marked(t, "node-b", mark)
	cmd := s.command(t.Context(), t, "watch", "--target=kubernetes", "--node=node-b,node-a", "--json")
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	tables := map[string]watch.Table{}
	for lines := json.NewDecoder(out); ; {
		var w watch.Table
		if lines.Decode(&w) != nil {
			break
		}
		tables[w.Node] = w
		if len(tables) == 2 && tables["node-a"].Census != nil && tables["node-b"].Census != nil {
			_ = cmd.Process.Signal(unix.SIGTERM) // it may have ended
		}
	}
	require.NoError(t, cmd.Wait(), errOut.String())
	require.Len(t, tables, 2, errOut.String())
	b, a := tables["node-b"], tables["node-a"]
	assert.InDelta(t, mark, b.Entries, mark/2, "its own, and what the node does besides")
	assert.Less(t, a.Entries, uint64(mark/2))
	assert.Equal(t, s.setting(t, "node-b", "nf_conntrack_max"), b.Limit)

	listed := 0 // by conntrack(8), of those that were made
	require.NoError(t, s.cluster.Inside("node-b", func() error {
		text, err := exec.CommandContext(t.Context(), "conntrack", "-L", "--dst", markedAt.Addr().String()).Output()
		listed = strings.Count(string(text), "dport="+strconv.Itoa(int(markedAt.Port()))+" ")
		return err
	}))
	require.NotNil(t, b.Census)
	require.NotEmpty(t, b.Census.Services)
	assert.Equal(t, markedAt, b.Census.Services[0].Addr)
	assert.Equal(t, uint64(listed), b.Census.Services[0].Count)
	assert.Equal(t, "ESTABLISHED", b.Census.States[0].State)
	require.GreaterOrEqual(t, len(b.Census.Sources), 2)
	assert.Equal(t, uint64(listed), b.Census.Sources[0].Count+b.Census.Sources[1].Count)
	require.NotNil(t, a.Census)
	for _, x := range a.Census.Services {
		assert.NotEqual(t, markedAt, x.Addr, "it is another node's")
	}
	left, err := s.command(t.Context(), t, "clean").Output()
	require.NoError(t, err)
	assert.Empty(t, left, "it has removed its pods")

	// One that is killed leaves a namespace that clean finds.
	cmd = s.command(t.Context(), t, "watch", "--target=kubernetes", "--node=node-a", "--no-walk")
	out, err = cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 1))
	assert.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	left, err = s.command(t.Context(), t, "clean").Output()
	require.NoError(t, err)
	assert.Regexp(t, `^tablefull-watch-\S+\n$`, string(left))
}

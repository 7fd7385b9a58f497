//go:build linux

package cluster_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// changesScenario does to a cluster all that is done to one outside of a run's
// own namespace.
const changesScenario = `
name: changes
duration: 20s
services: [{name: web, pods: 2}]
traffic:
  - {name: clients, to: web, short_lived: {rate: 20/s}}
actions:
  - {at: 200ms, drain_node: {}}
  - {at: 500ms, pause_proxy: {}}
  - {at: 1s, conntrack_settings: {timeouts: {tcp_timeout_established: 2h, tcp_timeout_close_wait: 90s}}}
  - {at: 2s, upgrade_proxy: {binary: ` + otherVersion + `}}
  - {at: 4s, resume_proxy: {}}
  - {at: 15s, uncordon_node: {}}
`

// otherVersion is another kube-proxy's than the cluster's.
const otherVersion = "v1.35.4"

// outsides are the objects outside of a run's own namespace that it may change,
// less what the API server counts and keeps for itself.
func (s setup) outsides(t *testing.T) string {
	t.Helper()
	out, err := s.cluster.Kubectl(t.Context(), nil, "--namespace=kube-system", "get", "configmaps/kube-proxy", "daemonsets/kube-proxy", "nodes/node-a", "nodes/node-b", "--output=json")
	require.NoError(t, err)
	var list struct{ Items []map[string]any }
	require.NoError(t, json.Unmarshal(out, &list))
	for _, o := range list.Items {
		delete(o, "status")
		meta := o["metadata"].(map[string]any)
		for _, key := range []string{"resourceVersion", "generation", "managedFields"} {
			delete(meta, key)
		}
		if a, ok := meta["annotations"].(map[string]any); ok {
			delete(a, "deprecated.daemonset.template.generation")
		}
	}
	b, err := json.MarshalIndent(list.Items, "", " ")
	require.NoError(t, err)
	return string(b)
}

// programs are the directories in /proc of a node's processes of a name that are
// in its network. Any may end meanwhile.
func (s setup) programs(t *testing.T, node, name string) (dirs []string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/comm")
	require.NoError(t, err)
	var network string
	require.NoError(t, s.cluster.Inside(node, func() (err error) {
		network, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}))
	for _, comm := range all {
		is, _ := os.ReadFile(comm)
		dir := filepath.Dir(comm)
		if of, _ := os.Readlink(filepath.Join(dir, "ns/net")); string(is) == name+"\n" && of == network {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// standing are the nodes whose kube-proxy is stopped, as the kernel says.
func (s setup) standing(t *testing.T) (out []string) {
	t.Helper()
	for _, node := range s.cluster.NodeNames() {
		for _, dir := range s.programs(t, node, "kube-proxy") {
			if status, _ := os.ReadFile(filepath.Join(dir, "status")); strings.Contains(string(status), "State:\tT (stopped)") {
				out = append(out, node)
			}
		}
	}
	return out
}

// timeouts are the two of a node that a kube-proxy sets.
func (s setup) timeouts(t *testing.T, node string) string {
	t.Helper()
	var out []string
	assert.NoError(t, s.cluster.Inside(node, func() error {
		for _, name := range []string{"established", "close_wait"} {
			b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_" + name)
			if err != nil {
				return err
			}
			out = append(out, string(bytes.TrimSpace(b)))
		}
		return nil
	}))
	return strings.Join(out, " ")
}

// machineLimit is the one nf_conntrack_max, which nothing here may change.
func machineLimit(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	require.NoError(t, err)
	return string(b)
}

// What a run changes outside of its namespace is so on every node while it goes
// on, and afterwards as it was.
func checkChanges(t *testing.T, s setup, a account) {
	const theirs, ours = "86400 3600", "7200 90"
	before, limit := s.outsides(t), machineLimit(t)
	stood := map[string]bool{} // which nodes' kube-proxies, at any moment
	stop, seen := make(chan struct{}), make(chan map[string]bool, 1)
	go func() {
		at := map[string]bool{}
		defer func() { seen <- at }()
		for {
			for _, node := range s.cluster.NodeNames() {
				at[node+" "+s.timeouts(t, node)] = true
			}
			stood[strings.Join(s.standing(t), " ")] = true
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	_, sum, dir := s.as(a).run(t, append([]string{a.ref}, a.flags()...)...)
	close(stop)
	at := <-seen // and one between the two writes, perhaps
	for _, want := range []string{"node-a " + theirs, "node-b " + theirs, "node-a " + ours, "node-b " + ours} {
		assert.True(t, at[want], want)
	}
	assert.Equal(t, map[string]bool{"": true, "node-a": true}, stood, "the node that traffic enters by, and no other")
	assert.Empty(t, s.standing(t))
	assert.True(t, sum.Restored != nil && *sum.Restored)
	assert.Equal(t, before, s.outsides(t))
	assert.Equal(t, limit, machineLimit(t))
	images, err := s.cluster.Kubectl(t.Context(), nil, "--namespace=kube-system", "get", "controllerrevisions", "--output=jsonpath={.items[*].data.spec.template.spec.containers[*].image}")
	require.NoError(t, err)
	assert.Contains(t, string(images), "localhost/kube-proxy:"+otherVersion)
	out, err := s.as(a).command(t.Context(), t, "clean").CombinedOutput()
	require.NoError(t, err)
	assert.Empty(t, out, "nothing was left")
	ended, read := map[string]string{}, map[string]string{}
	var pauses, drained []string
	b, err := os.ReadFile(filepath.Join(dir, "run.jsonl"))
	require.NoError(t, err)
	moved := 0
	for line := range strings.Lines(string(b)) {
		var r runlog.Record
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		switch e := r.Event; {
		case e == nil:
		case e.Kind == "action" && e.Fields["phase"] != "begin":
			ended[e.Name] = e.Fields["phase"] + e.Detail
		case e.Kind == "proxy" && e.Name != "metrics" && e.Name != "silent":
			pauses = append(pauses, e.Name)
			assert.Equal(t, "node-a", e.Fields["node"])
		case e.Kind == "node" && strings.HasSuffix(e.Detail, "cordoned"):
			drained = append(drained, e.Detail)
			assert.Equal(t, "node-a", e.Name)
		case e.Kind == "pod" && e.Detail == "ready" && r.T > 0.2 && e.Fields["service"] == "web":
			assert.Equal(t, "node-b", e.Fields["node"], "in place of the one that was evicted")
			moved++
		case e.Kind == "sysctl":
			read[e.Fields["node"]] = e.Fields["net.netfilter.nf_conntrack_tcp_timeout_established"] + " " + e.Fields["net.netfilter.nf_conntrack_tcp_timeout_close_wait"]
		}
	}
	assert.Equal(t, []string{"cordoned", "uncordoned"}, drained)
	assert.Equal(t, map[string]string{"drain_node": "end", "uncordon_node": "end", "conntrack_settings": "end", "upgrade_proxy": "end", "pause_proxy": "end", "resume_proxy": "end"}, ended)
	assert.Equal(t, []string{"paused", "resumed"}, pauses)
	assert.Positive(t, moved)
	assert.Equal(t, map[string]string{"node-a": ours, "node-b": ours}, read)
}

// A controller that is killed in the middle of a change leaves it; clean puts it
// back, as it puts back everything, and has seen the nodes' settings when it ends.
func checkChangesKilled(t *testing.T, s setup, a account) {
	before := s.outsides(t)
	cmd := s.as(a).command(t.Context(), t, append([]string{"run", a.ref, "--target", "kubernetes", "--out", filepath.Join(t.TempDir(), "run")}, a.flags()...)...)
	require.NoError(t, cmd.Start())
	for range 600 {
		// The node's, and that of kube-proxy's ConfigMap, which comes later.
		if strings.Count(s.outsides(t), "tablefull/undo") >= 2 && len(s.standing(t)) > 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.NotEqual(t, before, s.outsides(t))
	require.Equal(t, []string{"node-a"}, s.standing(t))
	clean := s.as(a).command(t.Context(), t, "clean")
	var said bytes.Buffer
	clean.Stderr = &said
	out, err := clean.Output()
	require.NoError(t, err, said.String())
	assert.Regexp(t, `^tablefull-\S+\n$`, string(out))
	assert.Contains(t, said.String(), "put back ConfigMap kube-system/kube-proxy")
	assert.Contains(t, said.String(), "put back kube-proxy on node node-a")
	assert.Contains(t, said.String(), "put back Node node-a")
	assert.Empty(t, s.standing(t))
	assert.Equal(t, before, s.outsides(t))
	for _, node := range s.cluster.NodeNames() {
		assert.Equal(t, "86400 3600", s.timeouts(t, node), node)
		assert.Contains(t, said.String(), "read back: node "+node+" has nf_conntrack_max "+strings.TrimSpace(machineLimit(t))+" (which kube-proxy leaves alone), nf_conntrack_tcp_timeout_established 86400, nf_conntrack_tcp_timeout_close_wait 3600, as kube-proxy's ConfigMap makes it")
	}
}

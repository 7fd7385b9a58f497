//go:build linux

package cluster_test

import (
	"encoding/json"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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

// marked makes so many entries in a node's table, and in no other: datagrams to
// a port of its own loopback on which nobody listens.
func (s setup) marked(t *testing.T, node string, n int) {
	t.Helper()
	require.NoError(t, s.cluster.Inside(node, func() error {
		for range n {
			c, err := net.Dial("udp", "127.0.0.1:9")
			if err != nil {
				return err
			}
			_, err = c.Write([]byte("x"))
			if cerr := c.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// What doctor says of the nodes is what kubectl and the nodes themselves say;
// its pods are gone when it has ended.
func checkDoctor(t *testing.T, s setup) {
	const mark = 400
	s.marked(t, "node-b", mark)
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

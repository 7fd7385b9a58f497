//go:build linux

package lab

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/runner/proxy"
	"github.com/tablefull/tablefull/scenarios"
)

const (
	nodePort   = 30080
	healthPort = 30081
)

// A real kube-proxy's health check port, asked from outside as a load balancer does:
// it says 200 while the node has a ready pod of its own, 503 from the moment on at
// which its last one terminates, although that one still serves what comes, and
// nothing while the kube-proxy hangs. That the built-in proxy's says the same is
// held by what runs record of both.
func TestHealthCheckNodePorts(t *testing.T) {
	p := scenarios.Proxy{Mode: "nftables", Binary: "v1.36.3"}
	if _, err := proxy.Locate(p.Binary); err != nil {
		envtest.Require(t, "kube-proxy", err.Error())
	}
	if _, err := exec.LookPath("nft"); err != nil {
		envtest.Require(t, "kube-proxy", err.Error())
	}
	web := withLife(service("web", "tcp", 1), scenarios.Lifecycle{PreStop: ms(2500), Grace: ms(30_000), OnSIGTERM: "drain"})
	web.NodePort, web.External, web.HealthCheck = nodePort, "Local", healthPort
	top := topology(t, "ipv4", web)
	top.Lab.Nodes, top.Lab.Proxy = 2, p
	l, _ := serve(t, top, 2)
	says(t, l, 0, http.StatusOK, 1)
	says(t, l, 1, http.StatusServiceUnavailable, 0)
	assert.True(t, reached(t, l, 0))
	assert.False(t, reached(t, l, 1), "it has no pod of its own")

	act(t, l, scenarios.Action{Scale: &scenarios.Scale{Service: "web", To: 2}})
	says(t, l, 1, http.StatusOK, 1)
	act(t, l, scenarios.Action{PauseProxy: &scenarios.Simple{}, Nodes: []string{"node2"}})
	says(t, l, 1, 0, 0)
	says(t, l, 0, http.StatusOK, 1)
	act(t, l, scenarios.Action{ResumeProxy: &scenarios.Simple{}, Nodes: []string{"node2"}})
	says(t, l, 1, http.StatusOK, 1)

	done := make(chan error, 1)
	go func() { done <- l.Act(t.Context(), scenarios.Action{Scale: &scenarios.Scale{Service: "web", To: 1}}) }()
	says(t, l, 1, http.StatusServiceUnavailable, 0)
	assert.True(t, reached(t, l, 1), "its pod terminates, and serves")
	require.NoError(t, <-done)
	require.Eventually(t, func() bool { return !reached(t, l, 1) }, 10*time.Second, 20*time.Millisecond, "the node has none left")
	says(t, l, 1, http.StatusServiceUnavailable, 0)
	says(t, l, 0, http.StatusOK, 1)
	assert.True(t, reached(t, l, 0))
}

// says waits until the health check port of a node says that; 0 is no answer.
func says(t *testing.T, l *Lab, node, status, local int) {
	t.Helper()
	var last string
	if !assert.Eventually(t, func() bool {
		var gotStatus, gotLocal int
		gotStatus, gotLocal, last = healthOf(t, l, node)
		return gotStatus == status && gotLocal == local
	}, 10*time.Second, 50*time.Millisecond) {
		t.Fatalf("node %d says %q, not %d with %d endpoints", node+1, last, status, local)
	}
}

// healthOf asks the health check port of a node.
func healthOf(t *testing.T, l *Lab, node int) (status, local int, answer string) {
	t.Helper()
	from := l.Entries()[node]
	got := connects(t, from.Client, "health", netip.AddrPortFrom(from.NodeAddr, healthPort), 1, netip.Prefix{}, 1)
	require.Len(t, got, 1)
	if got[0].Kind != "answer" {
		return 0, 0, got[0].Detail
	}
	r, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got[0].Name)), nil)
	require.NoError(t, err, got[0].Name)
	defer r.Body.Close()
	var body struct {
		Service             struct{ Namespace, Name string }
		LocalEndpoints      int
		ServiceProxyHealthy bool
	}
	require.NoError(t, json.NewDecoder(r.Body).Decode(&body), got[0].Name)
	assert.Equal(t, "web", body.Service.Name)
	assert.True(t, body.ServiceProxyHealthy)
	return r.StatusCode, body.LocalEndpoints, got[0].Name
}

// reached says whether the node port of a node leads to a pod: whether somebody
// takes the connection, although no pod answers such a question.
func reached(t *testing.T, l *Lab, node int) bool {
	t.Helper()
	from := l.Entries()[node]
	got := connects(t, from.Client, "health", netip.AddrPortFrom(from.NodeAddr, nodePort), 1, from.Outside, 1)
	require.Len(t, got, 1)
	return got[0].Kind == "answer" || strings.HasPrefix(got[0].Detail, "read ")
}

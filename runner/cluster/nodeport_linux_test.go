//go:build linux

package cluster_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"
)

// localScenario comes to the node port of a node that loses its last pod, at the
// node's addresses of both families.
const localScenario = `
name: local
duration: 9s
conntrack: {headroom: 100000}
services:
  - name: web
    pods: 2
    families: [ipv4, ipv6]
    node_port: 30080
    external_traffic_policy: Local
    lifecycle: {grace: 2s}
traffic:
  - {name: four, to: web, via: node_port, short_lived: {rate: 50/s}}
  - {name: six, to: web, family: ipv6, via: node_port, short_lived: {rate: 50/s}}
actions:
  - {at: 3s, scale: {service: web, to: 1}}
expect:
  - no_endpoint > 100
`

// local is an account that may run it, and nothing else.
func (s setup) local(t *testing.T) account {
	t.Helper()
	file := filepath.Join(t.TempDir(), "local.yaml")
	require.NoError(t, os.WriteFile(file, []byte(localScenario), 0o600))
	return s.grant(t, file, types.NamespacedName{})
}

// With externalTrafficPolicy Local what comes to a node goes to its own pod
// alone, and is lost once that has ended, though there is another elsewhere.
func checkNodePorts(t *testing.T, s setup, a account) {
	checkTakenNodePort(t, s, a)
	gone := make(chan error, 1)
	pod := ""
	go func() {
		var err error
		pod, err = s.goesFirst(t, "node-b")
		gone <- err
	}()
	code, sum, _ := s.as(a).run(t, a.ref, "--node", "node-b")
	require.NoError(t, <-gone)
	assert.Contains(t, []int{0, 4}, code, "%v", sum.Reasons) // until its rules have followed, what fails there is often not known
	require.NotEmpty(t, sum.Causes)
	assert.Equal(t, "no_endpoint", sum.Causes[0].Cause)
	assert.Greater(t, sum.Causes[0].Share, 0.5, "the others are from before the node's rules have followed")
	require.Len(t, sum.Traffic, 2)
	for _, x := range sum.Traffic {
		assert.Greater(t, x.Succeeded, 100.0, "%s came to the pod", x.Name)
		assert.Greater(t, x.Failed, 50.0, "%s did not, once that was gone", x.Name)
	}
	served := map[string]float64{}
	for _, b := range sum.Backends {
		if b.Served > 0 {
			served[b.Name] = b.Served
		}
	}
	assert.Len(t, served, 1, "the other pod is on the other node")
	assert.Greater(t, served[pod], 200.0, "it was the node's own")
	for _, n := range sum.Nodes {
		if n.Name == "node-b" {
			require.NotNil(t, n.Entered)
			assert.Greater(t, n.Entered.Attempted, 800.0, "whoever sends is on the other node")
		}
	}
	left, err := s.as(a).command(t.Context(), t, "clean").Output()
	require.NoError(t, err)
	assert.Empty(t, left)
}

// A run whose node port somebody else has is refused before anything starts. That
// there is a Service of the same name elsewhere is no reason.
func checkTakenNodePort(t *testing.T, s setup, a account) {
	admin := func(args ...string) {
		t.Helper()
		_, err := s.cluster.Kubectl(t.Context(), nil, args...)
		require.NoError(t, err)
	}
	admin("create", "service", "nodeport", "web", "--tcp=80", "--node-port=30080")
	t.Cleanup(func() {
		_, err := s.cluster.Kubectl(context.Background(), nil, "delete", "service", "web")
		assert.NoError(t, err)
	})
	_, before := s.requests(t, a)
	cmd := s.as(a).command(t.Context(), t, "run", a.ref, "--target=kubernetes", "--node=node-b", "--out", filepath.Join(t.TempDir(), "run"))
	out, _ := cmd.CombinedOutput()
	assert.Equal(t, 5, cmd.ProcessState.ExitCode(), "%s", out)
	assert.Contains(t, string(out), "services[0].node_port: 30080: the API server refuses it: Invalid value: 30080: provided port is already allocated;")
	_, after := s.requests(t, a)
	writes := slices.DeleteFunc(after[len(before):], func(r request) bool { return r.Verb == "list" })
	if assert.Len(t, writes, 1, "it has asked for that, and done nothing") {
		assert.Equal(t, http.StatusUnprocessableEntity, writes[0].Status.Code)
	}
	admin("delete", "service", "web")
	admin("create", "service", "clusterip", "web", "--tcp=80")
}

// goesFirst makes the pod under load that is on a node the first to go when its
// Deployment is scaled down, and returns its name.
func (s setup) goesFirst(t *testing.T, node string) (string, error) {
	for range 300 {
		out, err := s.cluster.Kubectl(t.Context(), nil, "get", "pods", "--all-namespaces", "--selector=app.kubernetes.io/component=target", "--field-selector=spec.nodeName="+node,
			"--output=jsonpath={.items[0].metadata.namespace} {.items[0].metadata.name}")
		if namespace, name, ok := strings.Cut(strings.TrimSpace(string(out)), " "); err == nil && ok {
			_, err := s.cluster.Kubectl(t.Context(), nil, "--namespace="+namespace, "annotate", "pod", name, "controller.kubernetes.io/pod-deletion-cost=-100")
			return name, err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return "", fmt.Errorf("there was no pod on %s in 30 s", node)
}

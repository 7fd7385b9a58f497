//go:build linux

package proxy

import (
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// A node's answer depends on its own ready endpoints, and on nothing else; a
// proxy that hangs answers nobody, and one that has ended refuses.
func TestHealthCheckNodePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	h := newHealth(env.ProxyJob{Node: "node1", NodeAddr: netip.MustParseAddr("127.0.0.1")})
	defer func() { require.NoError(t, h.close()) }()
	client := http.Client{Timeout: 200 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	refused := func() {
		r, err := client.Get("http://127.0.0.1:" + strconv.Itoa(port) + "/")
		if err == nil {
			_ = r.Body.Close()
		}
		require.Error(t, err)
	}
	ask := func(ends ...runlog.EndpointState) (status int, weight string, local float64) {
		require.NoError(t, h.sync([]env.ServiceState{{Name: "web", HealthCheck: uint16(port), Endpoints: ends}, {Name: "none"}}))
		r, err := client.Get("http://127.0.0.1:" + strconv.Itoa(port) + "/")
		require.NoError(t, err)
		defer r.Body.Close()
		var body map[string]any
		require.NoError(t, json.NewDecoder(r.Body).Decode(&body))
		assert.Equal(t, map[string]any{"namespace": "default", "name": "web"}, body["service"])
		return r.StatusCode, r.Header.Get("X-Load-Balancing-Endpoint-Weight"), body["localEndpoints"].(float64)
	}
	here := runlog.EndpointState{Name: "a", Node: "node1", Ready: true, Serving: true}
	ending := runlog.EndpointState{Name: "b", Node: "node1", Serving: true, Terminating: true}
	there := runlog.EndpointState{Name: "c", Node: "node2", Ready: true, Serving: true}
	status, weight, local := ask(here, here, there)
	assert.Equal(t, http.StatusOK, status)
	assert.Equal(t, "2", weight)
	assert.EqualValues(t, 2, local)
	status, weight, _ = ask(ending, there)
	assert.Equal(t, http.StatusServiceUnavailable, status, "one that is terminating serves, and does not count")
	assert.Equal(t, "0", weight)

	h.hang(true)
	refused()
	h.hang(false)
	status, _, _ = ask(here)
	assert.Equal(t, http.StatusOK, status)
	require.NoError(t, h.close())
	refused()
}

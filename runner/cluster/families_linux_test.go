//go:build linux

package cluster_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tablefull/tablefull/report/runlog"
)

// familiesScenario sends to both addresses of a dual-stack Service.
const familiesScenario = `
name: families
duration: 5s
conntrack: {headroom: 100000}
services:
  - {name: web, families: [ipv4, ipv6]}
traffic:
  - {name: four, to: web, short_lived: {rate: 50/s}}
  - {name: six, to: web, family: ipv6, short_lived: {rate: 50/s}}
actions:
  - {at: 1s, scale: {service: web, to: 3}}
`

// families is an account that may run it, and nothing else.
func (s setup) families(t *testing.T) account {
	t.Helper()
	file := filepath.Join(t.TempDir(), "families.yaml")
	require.NoError(t, os.WriteFile(file, []byte(familiesScenario), 0o600))
	return s.grant(t, file, types.NamespacedName{})
}

// Of a Service of both families each address is reached, and each has its own
// endpoints and is looked for in the nodes' rules.
func checkFamilies(t *testing.T, s setup, a account) {
	code, sum, dir := s.as(a).run(t, a.ref)
	assert.Contains(t, []int{0, 4}, code, "%v", sum.Reasons) // attempts may be late on a busy machine
	b, err := os.ReadFile(filepath.Join(dir, "run.jsonl"))
	require.NoError(t, err)
	six := map[string]bool{"web": false, "web/ipv6": true} // by address
	traffic, told, led := map[string]string{}, map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(string(b)) {
		var r runlog.Record
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		switch {
		case r.Header != nil:
			for _, x := range r.Header.Traffic {
				traffic[x.Name] = x.To
			}
			assert.Len(t, r.Header.Services, len(six))
			for _, x := range r.Header.Services {
				assert.Equal(t, six[x.Name], x.Addr.Addr().Is6(), x.Name)
				assert.Len(t, x.Backends, 2, x.Name)
			}
		case r.Endpoints != nil:
			for _, x := range r.Endpoints.Endpoints {
				assert.Equal(t, six[r.Endpoints.Service], x.Addr.Is6(), "%s of %s", x.Addr, r.Endpoints.Service)
				told[r.Endpoints.Service] = true
			}
		case r.Dataplane != nil:
			assert.Empty(t, r.Dataplane.Failed)
			for _, x := range r.Dataplane.Services {
				for _, to := range x.Backends {
					assert.Equal(t, six[x.Service], to.Addr.Addr().Is6(), "%s leads to %s", x.Service, to.Addr)
					led[r.Host+" "+x.Service] = true
				}
			}
		}
	}
	assert.Equal(t, map[string]string{"four": "web", "six": "web/ipv6"}, traffic)
	assert.Equal(t, map[string]bool{"web": true, "web/ipv6": true}, told)
	assert.Equal(t, map[string]bool{"node-a web": true, "node-a web/ipv6": true, "node-b web": true, "node-b web/ipv6": true}, led)
	require.Len(t, sum.Traffic, 2)
	succeeded, served := 0.0, 0.0
	for _, x := range sum.Traffic {
		assert.Greater(t, x.Succeeded, 10*x.Failed, x.Name)
		succeeded += x.Succeeded
	}
	for _, x := range sum.Backends {
		served += x.Served
	}
	assert.Len(t, sum.Backends, 3, "a pod has addresses of both families")
	assert.GreaterOrEqual(t, served, succeeded, "the pods count both")
	left, err := s.as(a).command(t.Context(), t, "clean").Output()
	require.NoError(t, err)
	assert.Empty(t, left)
}

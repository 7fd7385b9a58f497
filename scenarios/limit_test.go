package scenarios

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The limit that a kube-proxy writes is its kernel's. Only a private kernel may be
// given one: not auto, which may become the machine's, and not by conntrack.max,
// which consents to what the run itself writes, journals and puts back.
func TestKubeProxyMayOnlyWriteAPrivateKernelsLimit(t *testing.T) {
	proxies := map[string]string{
		"lab.proxy":                "lab.proxy={binary: v1.36.3, mode: %s, conntrack: %s}",
		"actions[0].upgrade_proxy": "actions[+]={upgrade_proxy: {binary: v1.36.3, mode: %s, conntrack: %s}}",
	}
	for where, set := range proxies {
		for _, kernel := range []string{"", "host", "auto", "private"} {
			for _, mode := range []string{"iptables", "nftables", "ipvs"} {
				for _, consent := range []bool{false, true} {
					for limit, writes := range map[string]bool{"{}": true, "{max_per_core: 1000}": true, "{min: 5000}": true, "{max_per_core: 0}": false, "{max_per_core: 0, min: 5000}": false} {
						sets := []string{fmt.Sprintf(set, mode, limit)}
						if kernel != "" {
							sets = append(sets, "lab.kernel="+kernel)
						}
						if consent {
							sets = append(sets, "conntrack.max=300000")
						}
						_, err := Parse("small", []byte(small), sets...)
						if kernel == "private" || !writes {
							assert.NoError(t, err, "%v", sets)
						} else {
							assert.ErrorContains(t, err, where+".conntrack: makes the kube-proxy write nf_conntrack_max", "%v", sets)
						}
					}
				}
			}
		}
	}
}

// Nor does an arm, or what is changed on the command line later, get around that.
func TestNoArmWritesTheMachinesLimit(t *testing.T) {
	src := strings.Replace(small, "services:", "lab: {kernel: private, proxy: {mode: ipvs, binary: v1.36.3, conntrack: {max_per_core: 1000}}}\nservices:", 1)
	_, err := Parse("small", []byte(src))
	require.NoError(t, err)
	for _, sets := range [][]string{
		{"lab.kernel=host"},
		{"lab.kernel=null"},
		{"lab.kernel=auto", "conntrack.max=300000"},
		{"arms=[{name: one}, {name: other, set: [lab.kernel=host]}]"},
		{"lab.nodes=2"}, // only the kernel's first namespace can write it
	} {
		_, err := Parse("small", []byte(src), sets...)
		assert.ErrorContains(t, err, "makes the kube-proxy write nf_conntrack_max", "%v", sets)
	}
}

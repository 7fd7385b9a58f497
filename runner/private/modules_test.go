//go:build linux

package private

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const dependencies = `kernel/net/netfilter/nf_conntrack.ko: kernel/net/ipv6/netfilter/nf_defrag_ipv6.ko kernel/net/ipv4/netfilter/nf_defrag_ipv4.ko
kernel/net/netfilter/nf_nat.ko: kernel/net/netfilter/nf_conntrack.ko kernel/net/ipv6/netfilter/nf_defrag_ipv6.ko kernel/net/ipv4/netfilter/nf_defrag_ipv4.ko
kernel/net/ipv6/netfilter/nf_defrag_ipv6.ko:
kernel/net/ipv4/netfilter/nf_defrag_ipv4.ko:
kernel/drivers/net/some-thing.ko:
`

func TestModulesLoadAfterWhatTheyNeed(t *testing.T) {
	m, err := parseModules(strings.NewReader(dependencies))
	require.NoError(t, err)
	var names []string
	for _, file := range m.order([]string{"nf_nat", "not_built", "nf_conntrack", "some_thing"}) {
		names = append(names, moduleName(file))
	}
	assert.Equal(t, []string{"nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "nf_nat", "some_thing"}, names)
}

func TestModulesThatAreNotThere(t *testing.T) {
	_, err := readModules(t.TempDir())
	assert.ErrorContains(t, err, "modules.dep")
}

// What only a kube-proxy uses is left out without one, and what only an nftables
// for IP uses is left out without that.
func TestModulesThatAreWanted(t *testing.T) {
	debian := &modules{path: map[string]string{}}
	full := &modules{path: map[string]string{nftForIP: "nft_reject_ipv4.ko"}}
	kubeProxy := Needs{KubeProxy: true}
	assert.NotContains(t, debian.choose(Needs{}), "ip_set")
	assert.Contains(t, debian.choose(kubeProxy), "ip_set")
	assert.NotContains(t, debian.choose(kubeProxy), "ip6table_nat", "it would clean up what is not there")
	assert.Contains(t, debian.choose(Needs{KubeProxy: true, IPv6: true}), "ip6table_nat")
	assert.NotContains(t, debian.choose(Needs{}), "iptable_nat")
	assert.Contains(t, debian.choose(Needs{NodePorts: true}), "iptable_nat")
	assert.NotContains(t, debian.choose(kubeProxy), "nft_nat")
	assert.Contains(t, full.choose(Needs{}), "nft_nat")
	for _, m := range []*modules{debian, full} {
		assert.Contains(t, m.choose(Needs{}), "nf_tables", "without it nobody answers")
		assert.Contains(t, m.choose(Needs{}), "xt_state", "the built-in proxy's in mode ipvs")
		assert.Subset(t, m.choose(kubeProxy), m.choose(Needs{}))
	}
	assert.NotContains(t, wanted, nftForIP, "choosing leaves the list alone")
}

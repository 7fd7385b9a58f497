package kubeproxy

import (
	"context"
	"os"
	"os/exec"
	"regexp"
)

var (
	// virtualServer begins a line of /proc/net/ip_vs that tells of one.
	virtualServer = regexp.MustCompile(`(?m)^(TCP|UDP|SCTP|FWM) `)
	// kubeJump is a rule by which packets get to chains of kube-proxy's.
	kubeJump = regexp.MustCompile(`(?m)^-A (PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING) .*-j KUBE-`)
)

// cleaned says whether packets meet no rule of a kube-proxy's mode ipvs or iptables any
// more: IPVS has no virtual server, and nothing leads to a chain of kube-proxy's. A chain
// that nobody is led to may be left, as by kube-proxy --cleanup itself.
func cleaned(ctx context.Context) bool {
	servers, err := os.ReadFile("/proc/thread-self/net/ip_vs")
	if err != nil || virtualServer.Match(servers) {
		return false
	}
	for _, program := range []string{"iptables-save", "ip6tables-save"} {
		rules, err := exec.CommandContext(ctx, program).Output()
		if err != nil || kubeJump.Match(rules) {
			return false
		}
	}
	return true
}

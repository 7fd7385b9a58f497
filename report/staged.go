package report

import (
	"fmt"
	"strings"

	"github.com/tablefull/tablefull/scenarios"
)

// staged says which faults the scenario itself put into the lab's proxy, so that
// nobody takes them for something found; empty for none, and where the scenario
// cannot be read.
func staged(f *Findings) string {
	s, err := scenarios.Parse("the run log", []byte(f.Environment.ScenarioYAML))
	if err != nil || f.Target != "lab" {
		return ""
	}
	x, who := s.Lab.Proxy, "the built-in proxy"
	if x.Binary != "" {
		who = "the kube-proxy"
	}
	var set []string
	if x.KeepUDP && x.Binary == "" {
		set = append(set, "to keep the entries of UDP flows to pods that are gone, which a kube-proxy deletes (lab.proxy.keep_udp: true)")
	}
	if x.PassNew && x.Binary == "" {
		set = append(set, "to let connections pass that no rule translated yet, as kube-proxy does in mode iptables and not in mode nftables (lab.proxy.pass_new: true)")
	}
	if x.Delay > 0 {
		set = append(set, fmt.Sprintf("of changes of endpoints only after %s (lab.proxy.delay)", x.Delay))
	}
	if i := x.IPVS; i.ExpireNodestConn != nil && !*i.ExpireNodestConn {
		set = append(set, "to run with net.ipv4.vs.expire_nodest_conn=0, where kube-proxy sets 1 (lab.proxy.ipvs.expire_nodest_conn: false)")
	}
	if i := x.IPVS; i.ConnReuseMode != nil && *i.ConnReuseMode == 0 {
		set = append(set, "to run with net.ipv4.vs.conn_reuse_mode=0, which kube-proxy sets on kernels before 5.9 alone (lab.proxy.ipvs.conn_reuse_mode: 0)")
	}
	if len(set) == 0 {
		return ""
	}
	return "Set by the scenario, to make it happen: " + who + " was told " + strings.Join(set, ", and ") + "."
}

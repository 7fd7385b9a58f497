package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/scenarios"
)

// staged says what the scenario itself did to make something happen, and which
// settings it put in place of the defaults, so that nobody takes them for something
// found; empty for none, and where the scenario cannot be read.
func staged(f *Findings) string {
	s, err := scenarios.Parse("the run log", []byte(f.Environment.ScenarioYAML))
	if err != nil {
		return ""
	}
	var done, said []string
	if f.Target == "lab" {
		done = stagedProxy(&s.Lab.Proxy)
	}
	done = append(done, stagedActions(s.Actions)...)
	if len(done) > 0 {
		said = append(said, "Set by the scenario, to make it happen: "+strings.Join(done, "; ")+".")
	}
	if set := stagedSettings(&s.Conntrack); len(set) > 0 && f.Target == "lab" {
		said = append(said, "Set by the scenario, in place of the defaults: "+strings.Join(set, "; ")+".")
	}
	return strings.Join(said, " ")
}

// stagedActions are those that hang or block a proxy, or fill or empty a table.
func stagedActions(actions []scenarios.Action) (out []string) {
	for i := range actions {
		a, what := &actions[i], ""
		switch {
		case a.PauseProxy != nil:
			what = "stops the proxy"
		case a.HoldXtablesLock != nil:
			what = "holds the lock that iptables takes"
		case a.Ballast != nil:
			what = fmt.Sprintf("leaves %d entries free", a.Ballast.Headroom)
		case a.Flush != nil:
			what = "deletes entries"
		default:
			continue
		}
		what += " at " + seconds(a.At.Seconds())
		if len(a.Nodes) > 0 {
			what += " on " + listed(a.Nodes)
		}
		name := a.Kind()
		if a.Name != "" && a.Name != name {
			name = fmt.Sprintf("%s (%s)", a.Name, name)
		}
		out = append(out, name+" "+what)
	}
	return out
}

// kernelTimeouts are those of the kernel, s (nf_conntrack_proto_tcp.c and _udp.c).
var kernelTimeouts = map[string]float64{
	"tcp_timeout_syn_sent": 120, "tcp_timeout_syn_recv": 60, "tcp_timeout_established": 432000, "tcp_timeout_fin_wait": 120,
	"tcp_timeout_close_wait": 60, "tcp_timeout_last_ack": 30, "tcp_timeout_time_wait": 120, "tcp_timeout_close": 10,
	"udp_timeout": 30, "udp_timeout_stream": 120,
}

// stagedSettings are those of the node's connection tracking. That the table is
// filled with ballast is said where the entries are.
func stagedSettings(c *scenarios.Conntrack) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(c.Timeouts)) {
		is, of := c.Timeouts[name].Seconds(), kernelTimeouts[name]
		switch {
		case of == 0:
			out = append(out, fmt.Sprintf("nf_conntrack_%s is %g s (conntrack.timeouts)", name, is))
		case is != of:
			out = append(out, fmt.Sprintf("nf_conntrack_%s is %g s, not %g s as the kernel has it (conntrack.timeouts)", name, is, of))
		}
	}
	if c.Buckets != nil {
		out = append(out, fmt.Sprintf("the hash table has %d buckets (conntrack.buckets)", *c.Buckets))
	}
	if c.Max != nil {
		out = append(out, fmt.Sprintf("nf_conntrack_max is %d (conntrack.max)", *c.Max))
	}
	return out
}

// stagedProxy are faults of the lab's proxy.
func stagedProxy(x *scenarios.Proxy) []string {
	who := "the built-in proxy"
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
		return nil
	}
	return []string{who + " was told " + strings.Join(set, ", and ")}
}

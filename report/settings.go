package report

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
)

// settings spells the limit out for kube-proxy and for sysctl, for this traffic
// and what was there. People paste what they are shown, so it never lowers what
// the nodes have or had, and a limit that the machine has no memory for is not
// spelled out at all.
func (s *Sizing) settings(m Machine) {
	_, limit := s.inAll()
	present := m.Limit
	if present > 0 {
		s.PresentLimit = &present
	}
	if why := s.unfit(limit, m.MemoryBytes); why != "" {
		s.Notes = append(s.Notes, fmt.Sprintf("no settings are given: %s. Shorten the timeout that keeps the entries, or make the clients close what they open", why))
		return
	}
	keep := max(present, s.there.highest)
	s.kubeProxy(limit, keep, m)
	if max(limit, keep) <= present {
		s.setting.leave = !s.there.chained && m.CPUs > 0 && kubeProxyDefault(m.CPUs, true) >= limit
		s.Sysctl = s.floodComment() + fmt.Sprintf("# nf_conntrack_max is %d: enough for this traffic", present)
		if s.besides() > 0 {
			s.Sysctl += "\n# and " + s.thereComment()
		}
		s.Sysctl += ", leave it.\n"
		if limit < present {
			s.Sysctl += fmt.Sprintf("# Writing %d would LOWER it, and harm whatever else the node does.\n", limit)
		}
		if want := present / bucketShare; s.there.chained && m.Buckets > 0 && want > m.Buckets {
			s.Sysctl += fmt.Sprintf("# There are %d buckets, which were too few.\nnet.netfilter.nf_conntrack_buckets = %d\n", m.Buckets, want)
		}
		return
	}
	s.Sysctl = s.floodComment()
	if limit < keep { // here it is what the run had, and not what there is
		s.Sysctl += fmt.Sprintf("# %d would do; %d is what a node had in the run\n", limit, keep)
	}
	s.Sysctl += fmt.Sprintf("net.netfilter.nf_conntrack_max = %d\nnet.netfilter.nf_conntrack_buckets = %d\n", max(limit, keep), max(limit, keep, m.Buckets))
}

// thereComment is what else the settings have room for.
func (s *Sizing) thereComment() string {
	text := fmt.Sprintf("the %d entries that were there", s.besides())
	if s.there.added {
		text += "\n# or that actions added"
	}
	return text
}

// floodComment is for whoever pastes the settings, where the load includes a flood.
func (s *Sizing) floodComment() string {
	if !s.Meaningless {
		return ""
	}
	return "# no remedy for the flood, whatever the limit: for the rest\n"
}

// presentLimit is the limit of the machine outside the run; 0 where it is
// unknown. A kernel of the run's own has no outside. Nor is it looked at where
// the buckets were too few for the run's limit: they are to be enough for that.
func presentLimit(h *runlog.Header, nodes []Node) uint64 {
	present, own := h.Limit, h.Private
	for _, n := range nodes {
		if n.Limit != nil {
			present = max(present, *n.Limit)
		}
		own = own || chainTooLong(n.Counters) > 0
	}
	if own {
		return present
	}
	if before, err := strconv.ParseUint(h.Sysctls["nf_conntrack_max"], 10, 64); err == nil {
		return before // the run had a limit of its own, higher or lower
	}
	return present
}

// unfit says why the machine cannot have that limit, empty where it can.
func (s *Sizing) unfit(limit, memory uint64) string {
	switch {
	case limit > maxLimit:
		return fmt.Sprintf("a limit of %d is more than the kernel takes (%d)", limit, uint64(maxLimit))
	case memory > 0 && float64(s.memoryMax(limit)) > memoryShare*float64(memory):
		return fmt.Sprintf("a full table of %d entries would take %s of this machine's %s", limit, byteSize(s.memoryMax(limit)), byteSize(memory))
	}
	return ""
}

// kubeProxy is for a limit, and what is not to be lowered: what the machine has, or a
// node had in the run.
func (s *Sizing) kubeProxy(limit, keep uint64, m Machine) {
	var b strings.Builder
	b.WriteString("# for the KubeProxyConfiguration in kube-proxy's ConfigMap;\n# the limit is max(maxPerCore x cores, min)\n" + s.floodComment())
	what := "this traffic"
	if s.besides() > 0 {
		what += " and " + s.thereComment()
	}
	switch {
	case limit < m.Limit && s.besides() == 0:
		fmt.Fprintf(&b, "# %d would do for this traffic and LOWER the limit; min keeps it\n", limit)
	case limit < m.Limit:
		fmt.Fprintf(&b, "# %d would do for %s\n# and LOWER the limit; min keeps it\n", limit, what)
	case limit < keep:
		fmt.Fprintf(&b, "# %d would do for %s;\n# min is what a node had in the run\n", limit, what)
	case s.besides() > 0:
		fmt.Fprintf(&b, "# for %s\n", what)
	}
	fmt.Fprintf(&b, "conntrack:\n%s", kubeProxyLimit(max(limit, keep)))
	for _, p := range s.Parts {
		if p.Counted && p.State == "CLOSE_WAIT" && p.ResidenceS > 0 && p.ResidenceS != kubeProxyCloseWait {
			fmt.Fprintf(&b, "  tcpCloseWaitTimeout: %gs  # what this is computed with; %gs by default\n", p.ResidenceS, kubeProxyCloseWait)
			break // it is one setting for all
		}
	}
	s.KubeProxy = b.String()
	s.forLimit(
		"kube-proxy ignores min where maxPerCore is 0, and leaves the limit alone then",
		"kube-proxy 1.30 to 1.36 writes its limit whenever the present one differs, so it also lowers a limit that an administrator raised")
	if max(limit, keep) > kubeProxyCap {
		s.Notes = append(s.Notes, fmt.Sprintf("kube-proxy 1.36 and later cut maxPerCore x cores to %d before looking at min, and with the default maxPerCore of 32768 ignore min on more than 32 cores: hence maxPerCore: 1, which gives large nodes no more than that, too", kubeProxyCap))
	}
	if m.CPUs > 0 {
		s.forLimit(fmt.Sprintf("kube-proxy's defaults (maxPerCore 32768, min 131072) give %d on the %s here", kubeProxyDefault(m.CPUs, false), plural(uint64(m.CPUs), "core")))
	}
}

// kubeProxyLimit are the lines by which kube-proxy sees to a limit of at least
// that. It is for all nodes of a cluster, and maxPerCore as it is by default never
// gives a large node less than it has; but from 1.36 on kube-proxy does not look at
// min where maxPerCore x cores is cut.
func kubeProxyLimit(limit uint64) string {
	if limit > kubeProxyCap {
		return fmt.Sprintf("  maxPerCore: 1  # so that min decides, on any number of cores\n  min: %d\n", limit)
	}
	return fmt.Sprintf("  maxPerCore: %d  # the default: large nodes keep more\n  min: %d\n", kubeProxyPerCore, limit)
}

// kubeProxyCloseWait is nf_conntrack_tcp_timeout_close_wait as kube-proxy sets it
// by default, s.
const kubeProxyCloseWait = 3600.0

// caveats says where another node's need differs from the one computed.
func (s *Sizing) caveats() {
	// What kube-proxy sets by default, s: a node of a cluster has these.
	defaults := map[string]float64{"ESTABLISHED": 86400, "CLOSE_WAIT": kubeProxyCloseWait}
	sysctls := map[string]string{"ESTABLISHED": "nf_conntrack_tcp_timeout_established", "CLOSE_WAIT": "nf_conntrack_tcp_timeout_close_wait"}
	for _, p := range s.Parts {
		if !p.Counted || p.Entries == nil || p.ResidenceS <= 0 {
			continue
		}
		if d, ok := defaults[p.State]; ok && d != p.ResidenceS {
			s.Notes = append(s.Notes, fmt.Sprintf("this is with the timeout of the run, %g s; kube-proxy sets %s to %g s by default, and with that %s needs about %.0f entries", p.ResidenceS, sysctls[p.State], d, p.Traffic, p.ArrivalsPerS*p.EntriesPerAttempt*d))
		}
	}
	s.Notes = append(s.Notes, s.timeoutNotes()...)
	if *s.UncollectedEntries > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("an expired entry counts until the kernel's collector comes by, which can take up to %d s: at worst that is %d entries more, which the recommended limit holds as well. Walks over the table take expired entries out, those of this tool, too, so that a run does not show them%s", collectorGap, *s.UncollectedEntries, s.secondNote()))
	}
}

// kubeProxyTimeouts are the timeouts that kube-proxy has a setting for, with what it
// writes at its start by default, s; 0 where it leaves them alone by default
// (setSysctls in its conntrack package, defaults.go of its v1alpha1).
var kubeProxyTimeouts = map[string]struct {
	setting   string
	byItselfS float64
}{
	"tcp_timeout_established": {"tcpEstablishedTimeout", 86400}, "tcp_timeout_close_wait": {"tcpCloseWaitTimeout", kubeProxyCloseWait},
	"udp_timeout": {"udpTimeout", 0}, "udp_timeout_stream": {"udpStreamTimeout", 0},
}

// timeoutNotes says of the timeouts that could be shorter where kube-proxy writes
// them over what a sysctl has set.
func (s *Sizing) timeoutNotes() (out []string) {
	for _, e := range s.Timeouts {
		k, has := kubeProxyTimeouts[strings.TrimPrefix(e.Sysctl, "net.netfilter.nf_conntrack_")]
		name := strings.TrimPrefix(e.Sysctl, "net.netfilter.")
		note := fmt.Sprintf("kube-proxy writes %s at its start only where conntrack.%s is set, which it is not by default: one set by sysctl stays", name, k.setting)
		if k.byItselfS > 0 {
			note = fmt.Sprintf("kube-proxy writes %s at its start (conntrack.%s, %g s by default): set it there, for one set by sysctl alone is overwritten", name, k.setting, k.byItselfS)
		}
		if has && !slices.Contains(out, note) {
			out = append(out, note)
		}
	}
	return out
}

// compare says whether each node's present limit would do, for what this traffic
// needs there and what was there or came by actions.
func (l *log) compare(s *Sizing, nodes []Node) {
	for _, n := range nodes {
		if n.Limit == nil {
			continue
		}
		traffic, late, on := *s.NeededEntries, *s.UncollectedEntries, ""
		if l.parted() {
			traffic, late = l.needOn(l.nodes[n.Name])
			on = " on it"
		}
		needed, limit, rest := traffic, recommended(traffic, late), ", an otherwise empty table provided"
		if t := thereOn(l.nodes[n.Name], nodes); t.entries > needed/100 {
			rest = fmt.Sprintf(", and the %d that were there when it began", t.entries)
			if t.added {
				rest += " or that actions added"
			}
			needed += t.entries
			limit = recommended(needed, late)
		}
		verb := "is enough for"
		switch {
		case *n.Limit < needed:
			verb = "is too small for"
		case *n.Limit < limit:
			verb = "leaves less than a quarter free above"
		}
		note := fmt.Sprintf("%s's limit of %d %s the %d entries this traffic needs%s in the steady state%s", n.Name, *n.Limit, verb, traffic, on, rest)
		if s.PresentLimit != nil && *s.PresentLimit != *n.Limit {
			note += fmt.Sprintf(" (that was the limit of the run; outside it the machine has %d, and the settings are for that)", *s.PresentLimit)
		}
		s.Notes = append(s.Notes, note)
	}
}

// needOn is what the traffic needs on one of several nodes in the steady state, and
// how many more can have expired there and not be collected.
func (l *log) needOn(n *node) (entries, late uint64) {
	on := newSizing()
	for _, t := range l.order {
		if t.due().total == 0 {
			continue
		}
		p := l.sizingPart(t, n)
		if on.Parts = append(on.Parts, p); p.Counted && p.Entries != nil {
			entries += *p.Entries
		}
	}
	l.clashes(on, n)
	return entries, on.uncollected()
}

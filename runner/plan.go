package runner

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// A Plan is a scenario resolved for one machine: nothing in it is chosen
// later, except the addresses, which are the environment's.
type Plan struct {
	Scenario *scenarios.Scenario
	YAML     []byte // the resolved scenario, as it goes into the run log
	Seed     uint64
	// Traffic and its limits, in the scenario's order.
	Traffic []runlog.TrafficInfo
	Caps    env.Capabilities
	// Refused is why this plan cannot run here; empty when it can.
	Refused []string
}

// Unsupported says that this machine cannot run a plan, and why.
type Unsupported struct{ Reasons []string }

func (e *Unsupported) Error() string {
	if len(e.Reasons) == 1 {
		return "this machine cannot run the scenario: " + e.Reasons[0]
	}
	msg := "this machine cannot run the scenario:"
	for _, r := range e.Reasons {
		msg += "\n  - " + r
	}
	return msg
}

// NewPlan resolves s for the machine that caps describes. It touches nothing.
// What the machine cannot do is in Plan.Refused, so that a dry run can show
// the rest all the same.
func NewPlan(s *scenarios.Scenario, caps env.Capabilities) (*Plan, error) {
	yaml, err := s.YAML()
	if err != nil {
		return nil, fmt.Errorf("write resolved scenario: %w", err)
	}
	p := &Plan{Scenario: s, YAML: yaml, Seed: s.Seed, Caps: caps}
	for p.Seed == 0 {
		p.Seed = rand.Uint64() >> 11 // fits a float64, so any JSON reader keeps it
	}
	for _, t := range s.Traffic {
		p.Traffic = append(p.Traffic, p.trafficInfo(t))
	}
	p.Refused = p.refusals()
	return p, nil
}

// Err is Refused as an error, or nil.
func (p *Plan) Err() error {
	if len(p.Refused) == 0 {
		return nil
	}
	return &Unsupported{Reasons: p.Refused}
}

// NeedsPrivateKernel reports whether s must be run under a private kernel, and
// not under the one that caps describes.
func NeedsPrivateKernel(s *scenarios.Scenario, caps env.Capabilities) bool {
	switch {
	case caps.Private:
		return false
	case s.Lab.Kernel == "auto":
		return s.Lab.Proxy.Mode == "ipvs" && caps.Lookup("ipvs").State == env.No
	}
	return s.Lab.Kernel == "private"
}

func (p *Plan) refusals() []string {
	s := p.Scenario
	if NeedsPrivateKernel(s, p.Caps) {
		if c := p.Caps.Lookup("private_kernel"); c.State != env.Yes {
			return []string{"lab.kernel: private: " + c.Reason}
		}
		return nil // the rest is for that kernel to say
	}
	out := missing(neededBy(s), p.Caps)
	if s.Conntrack.Max != nil {
		if c := p.Caps.Lookup("limit_writable"); c.State != env.Yes {
			out = append(out, "conntrack.max: "+c.Reason)
		}
	}
	if s.Conntrack.Buckets != nil && !p.Caps.Private {
		out = append(out, "conntrack.buckets: the hash table is shared by all network namespaces of this machine's kernel; lab.kernel: private has one of its own")
	}
	for i := range s.Services {
		if f := s.Lab.FamiliesOf(&s.Services[i]); !p.Caps.Cluster && !slices.Equal(f, []string{s.Lab.Family}) {
			out = append(out, fmt.Sprintf("services[%d].families: %s: all that is in a lab has addresses of one family, lab.family, which is %s; a cluster can have both (--target kubernetes)", i, strings.Join(f, ", "), s.Lab.Family))
		}
	}
	for i, a := range s.Actions {
		if (a.DrainNode != nil || a.UncordonNode != nil) && !p.Caps.Cluster {
			out = append(out, fmt.Sprintf("actions[%d] %s: only a cluster has nodes to drain (--target kubernetes); in the lab write delete_pod", i, a.Kind()))
		}
		if c := a.ConntrackSettings; c != nil && (c.MaxPerCore != nil || c.Min != nil) && p.Caps.Lookup(env.ProxyConfigMap).State != env.Yes {
			out = append(out, fmt.Sprintf("actions[%d] conntrack_settings: max_per_core and min are in kube-proxy's ConfigMap, which only a cluster has; in the lab write max, or lab.proxy.conntrack", i))
		}
	}
	limit := p.Limit()
	if h := s.Conntrack.Headroom; h != nil && uint64(*h) > limit {
		out = append(out, fmt.Sprintf("conntrack.headroom: %d entries cannot be free in a table of %d", *h, limit))
	}
	if need := p.sockets(); p.Caps.MaxFiles > 0 && need > p.Caps.MaxFiles-min(p.Caps.MaxFiles, spareFiles) {
		out = append(out, fmt.Sprintf("the client would need about %d sockets at once and may open %d files (hard RLIMIT_NOFILE); lower idle.count, the rate or the timeout, or raise the limit (ulimit -Hn)", need, p.Caps.MaxFiles))
	}
	return out
}

// spareFiles are descriptors an agent needs besides its sockets.
const spareFiles = 200

// sockets estimates how many sockets the client holds open for good: idle and
// half-closed connections. Those of attempts on their way come on top; where
// they are too many, the audit of the generator says so.
func (p *Plan) sockets() uint64 {
	var n float64
	for i, t := range p.Scenario.Traffic {
		switch {
		case t.Idle != nil:
			n += float64(t.Idle.Count)
		case t.ShortLived != nil:
			if t.ShortLived.Close == "half" {
				n += peakRate(t.ShortLived.Pacing) * (p.Traffic[i].End - p.Traffic[i].Start)
			}
		}
	}
	return uint64(n)
}

func peakRate(p scenarios.Pacing) float64 {
	r := float64(p.Rate)
	if p.Ramp != nil {
		r = max(float64(p.Ramp.From), float64(p.Ramp.To))
	}
	if p.Sine != nil {
		r = float64(p.Sine.Mean + p.Sine.Amplitude)
	}
	for _, st := range p.Stages {
		r = max(r, float64(st.To))
		if st.From != nil {
			r = max(r, float64(*st.From))
		}
	}
	return r
}

// Limit is nf_conntrack_max as it will be when traffic begins.
func (p *Plan) Limit() uint64 {
	if n := p.Scenario.Lab.Proxy.Conntrack.Limit(p.Caps.CPUs); n > 0 {
		return n // it writes what it wants over what there is
	}
	if m := p.Scenario.Conntrack.Max; m != nil {
		return uint64(*m)
	}
	return p.Caps.Limit
}

// Buckets is nf_conntrack_buckets as it will be during the run.
func (p *Plan) Buckets() uint64 {
	if n := p.Scenario.Conntrack.Buckets; n != nil {
		return uint64(*n)
	}
	return p.Caps.Buckets
}

// masquerade is the source ports that clients' are rewritten to. Without a
// range it is what the kernel takes for client ports from 1024 on, which are all
// there are here (nf_nat_core.c, nf_nat_l4proto_unique_tuple).
func (p *Plan) masquerade() *runlog.PortRange {
	by := p.Scenario.Lab.Proxy
	changes := slices.ContainsFunc(p.Scenario.Actions, func(a scenarios.Action) bool { return a.UpgradeProxy != nil })
	switch {
	case !by.Masquerade || changes:
		return nil
	case by.MasqueradePorts != nil:
		return &runlog.PortRange{From: uint16(by.MasqueradePorts.From), To: uint16(by.MasqueradePorts.To)}
	}
	return &runlog.PortRange{From: 1024, To: 65535}
}

// Timeouts are the node's conntrack timeouts during the run, s.
func (p *Plan) Timeouts() map[string]float64 {
	out := map[string]float64{}
	for k, v := range p.Caps.Timeouts {
		out[k] = v
	}
	if p.Scenario.Lab.Proxy.Binary != "" {
		// What a kube-proxy writes (its defaults tcpEstablishedTimeout 24h and
		// tcpCloseWaitTimeout 1h), but for the scenario's own.
		out["tcp_timeout_established"], out["tcp_timeout_close_wait"] = 86400, 3600
	}
	for k, v := range p.Scenario.Conntrack.Timeouts {
		out[k] = v.Seconds()
	}
	return out
}

// trafficInfo says what one traffic costs the node, from the kernel's state
// machine: which state an attempt's entry ends in and how long that lasts.
func (p *Plan) trafficInfo(t scenarios.Traffic) runlog.TrafficInfo {
	s := p.Scenario
	info := runlog.TrafficInfo{
		Name: t.Name, To: s.AddressOf(&t), Shape: Shape(t),
		Start: t.Start.Seconds(), End: (t.Start + t.Duration).Seconds(),
		Timeout: t.Timeout.Seconds(), ExpectsAnswer: true,
	}
	if t.Duration == 0 {
		info.End = s.Duration.Seconds()
	}
	for _, svc := range s.Services {
		if svc.Name == t.To {
			info.Local = t.Via == "node_port" && svc.External == "Local"
		}
	}
	state, entries := "", 1.0
	switch {
	case t.ShortLived != nil:
		info.Close = t.ShortLived.Close
		state = map[string]string{"fin": "time_wait", "rst": "close", "half": "close_wait", "none": "established"}[info.Close]
		if t.ShortLived.SourcePorts != nil {
			entries = 0 // a reused tuple replaces its own entry
		}
	case t.Idle != nil:
		state = "established"
	case t.UDP != nil:
		info.ExpectsAnswer = t.UDP.Reply == nil || *t.UDP.Reply
		info.ResidueState, info.Residence = "UDP", p.Timeouts()["udp_timeout"]
		if t.UDP.Socket == "long_lived" || t.UDP.SourcePorts != nil {
			entries = 0
		}
	case t.Flood != nil:
		info.ExpectsAnswer = false
		if t.Flood.Kind == "udp" {
			info.ResidueState, info.Residence = "UDP", p.Timeouts()["udp_timeout"]
		} else {
			state = "syn_recv"
		}
	case t.HTTP != nil:
		state = "time_wait"
		if t.HTTP.KeepAlive == nil || *t.HTTP.KeepAlive {
			state, entries = "established", 0
		} else if g := gatewayOf(s, t.To); g != nil && g.KeepAlive != nil && !*g.KeepAlive {
			entries = 2 // client to gateway, gateway to backend
		}
	}
	if !s.Tracked(t.To) || s.Lab.Tunnel != nil && !s.Lab.Tunnel.Notrack {
		// None at all; or also those of the tunnel's own packets, of which
		// there are as many as the source ports that the flows inside hash to.
		entries = 0
	}
	if state != "" {
		info.ResidueState, info.Residence = upper(state), p.Timeouts()["tcp_timeout_"+state]
	}
	info.EntriesPerAttempt = entries
	return info
}

func gatewayOf(s *scenarios.Scenario, name string) *scenarios.Gateway {
	for _, svc := range s.Services {
		if svc.Name == name {
			return svc.Gateway
		}
	}
	return nil
}

// upper is for the kernel's state names, which are ASCII.
func upper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

// Shape names the one shape of t that is set.
func Shape(t scenarios.Traffic) string {
	switch {
	case t.ShortLived != nil:
		return "short_lived"
	case t.Idle != nil:
		return "idle"
	case t.UDP != nil:
		return "udp"
	case t.Flood != nil:
		return "flood"
	case t.HTTP != nil:
		return "http"
	}
	return "none"
}

// topology is what the environment is asked to build.
func (p *Plan) topology(runID, workDir string) env.Topology {
	t := env.Topology{
		RunID: runID, WorkDir: workDir, Lab: p.Scenario.Lab,
		Services: p.Scenario.Services, Actions: p.Scenario.Actions, Duration: time.Duration(p.Scenario.Duration), NodeSysctls: map[string]string{}, Slots: slots(p.Scenario),
		FirstNamespace: p.Caps.Private && writesLimit(p.Scenario),
	}
	for name, d := range p.Scenario.Conntrack.Timeouts {
		t.NodeSysctls["nf_conntrack_"+name] = fmt.Sprint(int64(time.Duration(d) / time.Second))
	}
	for _, tr := range p.Scenario.Traffic {
		t.FromOutside = t.FromOutside || tr.Via == "node_port"
		if tr.ShortLived != nil && tr.ShortLived.SourcePorts != nil {
			t.ReusePorts = true
		}
	}
	return t
}

// writesLimit says whether a kube-proxy of the lab writes the kernel's limit, at
// first or after an upgrade.
func writesLimit(s *scenarios.Scenario) bool {
	return s.Lab.Proxy.Conntrack.Limit(1) > 0 || slices.ContainsFunc(s.Actions, func(a scenarios.Action) bool {
		return a.UpgradeProxy != nil && a.UpgradeProxy.Conntrack.Limit(1) > 0
	})
}

// slots is how many hosts the pods of each service need that come and go. Pods
// that are terminating hold theirs, so twice what there is at once is enough
// where each rollout ends before the next one begins; an address is then not
// used again before a whole rollout has passed.
func slots(s *scenarios.Scenario) map[string]int {
	out := map[string]int{}
	for _, svc := range s.Services {
		most, extra := svc.Pods, 0
		if svc.NoPods {
			most = 0
		}
		for _, a := range s.Actions {
			if a.Scale != nil && a.Scale.Service == svc.Name {
				most = max(most, a.Scale.To)
			}
		}
		for _, a := range s.Actions {
			switch {
			case a.Rollout != nil && a.Rollout.Service == svc.Name:
				surge := 1
				if a.Rollout.MaxSurge != nil {
					surge = *a.Rollout.MaxSurge
				}
				extra = max(extra, most+surge)
			case a.Scale != nil && a.Scale.Service == svc.Name:
				extra = max(extra, most)
			case a.DeletePod != nil && a.DeletePod.Service == svc.Name:
				extra = max(extra, a.DeletePod.Count, 1)
			}
		}
		out[svc.Name] = most + extra
	}
	return out
}

// lateAfter is how long after its due time, in s, a start counts as late. A
// private kernel's clock ticks every 10 ms, and its sleeps end at a tick: there
// three of them.
func (p *Plan) lateAfter() float64 {
	if p.Caps.Private {
		return 0.03
	}
	return 0.01
}

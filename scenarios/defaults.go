package scenarios

import (
	"math"
	"strings"
	"time"
)

// Defaults fills in what was left out, as the descriptions of the fields say.
// It changes nothing that was set, and a second call changes nothing. Text is
// put on one line. Mistakes are left for [Scenario.Validate].
func (s *Scenario) Defaults() {
	s.Description = oneLine(s.Description)
	for i, t := range s.Thresholds {
		s.Thresholds[i] = oneLine(t)
	}
	for i, t := range s.AbortOn {
		s.AbortOn[i] = oneLine(t)
	}
	for i, t := range s.Expect {
		s.Expect[i] = oneLine(t)
	}
	orElse(&s.Duration, Duration(20*time.Second))
	if s.Conntrack.Buckets != nil {
		orElse(&s.Lab.Kernel, "private")
	}
	s.Lab.defaults()
	orElse(&s.Lab.Family, "ipv4")
	orElse(&s.Lab.Nodes, 1)
	orElse(&s.Lab.Clients.Addresses, 64)
	orElse(&s.Sampling.Every, Duration(100*time.Millisecond))
	orElse(&s.Sampling.CensusEvery, Duration(time.Second))
	s.armDefaults()
	for i := range s.Services {
		s.Services[i].defaults()
	}
	for i := range s.Traffic {
		s.Traffic[i].defaults(s.Duration, s.Lab.Nodes)
	}
	s.nameActions()
	for i := range s.Actions {
		s.Actions[i].defaults()
	}
	if s.Search != nil {
		s.Search.defaults(s.Traffic)
	}
	// An empty list and none are the same, also when they are compared.
	if len(s.Thresholds) == 0 {
		s.Thresholds = nil
	}
	if len(s.AbortOn) == 0 {
		s.AbortOn = nil
	}
	if len(s.Expect) == 0 {
		s.Expect = nil
	}
	if len(s.Conntrack.Timeouts) == 0 {
		s.Conntrack.Timeouts = nil
	}
	if len(s.Services) == 0 {
		s.Services = nil
	}
	if len(s.Traffic) == 0 {
		s.Traffic = nil
	}
	if len(s.Actions) == 0 {
		s.Actions = nil
	}
}

func (l *Lab) defaults() {
	if l.Kernel == "private" {
		orElse(&l.Proxy.Mode, "ipvs")
	}
	if l.Tunnel != nil {
		orElse(&l.Tunnel.Kind, "vxlan")
	}
	l.Proxy.defaults()
	if l.Proxy.Mode == "ipvs" {
		orElse(&l.Kernel, "auto")
	}
	orElse(&l.Kernel, "host")
	if l.Kernel != "host" {
		orElse(&l.Memory, 1536)
	}
}

func (p *Proxy) defaults() {
	orElse(&p.Mode, "nftables")
	if c := p.Conntrack; c != nil {
		orElse(&c.MaxPerCore, new(int64(32768)))
		orElse(&c.Min, new(int64(131072)))
	}
	if p.Mode != "ipvs" || p.Binary != "" {
		return // what a kube-proxy sets is for it to say
	}
	orElse(&p.IPVS.ConnReuseMode, new(1))
	orElse(&p.IPVS.ExpireNodestConn, new(true))
	orElse(&p.IPVS.DrainCheck, Duration(time.Minute))
}

func (s *Service) defaults() {
	orElse(&s.Protocol, "tcp")
	orElse(&s.Port, 8080)
	orElse(&s.PortCount, 1)
	if !s.NoPods {
		orElse(&s.Pods, 2)
	}
	if s.NodePort != 0 {
		orElse(&s.External, "Cluster")
	}
	orElse(&s.Server.Behaviour, "answer")
	orElse(&s.Server.Backlog, 4096)
	orElse(&s.Lifecycle.Grace, Duration(30*time.Second))
	orElse(&s.Lifecycle.OnSIGTERM, "drain")
	if g := s.Gateway; g != nil {
		orElse(&g.KeepAlive, new(true))
		orElse(&g.Idle, 100)
	}
}

func (t *Traffic) defaults(scenario Duration, nodes int) {
	orElse(&t.Name, t.Shape())
	orElse(&t.Via, "cluster_ip")
	orElse(&t.Timeout, Duration(900*time.Millisecond))
	if p := t.Pacing(); p != nil {
		p.defaults()
		if len(p.Stages) > 0 {
			orElse(&t.Duration, stagesLast(p.Stages))
		}
	}
	if scenario > t.Start {
		orElse(&t.Duration, scenario-t.Start)
	}
	if s := t.ShortLived; s != nil {
		orElse(&s.Close, "fin")
		orElse(&s.Closer, "client")
		orElse(&s.RequestBytes, 64)
		orElse(&s.ResponseBytes, 64)
	}
	if s := t.Idle; s != nil {
		orElse(&s.ValidateEvery, Duration(5*time.Second))
	}
	if s := t.UDP; s != nil {
		orElse(&s.Socket, "per_request")
		if s.Socket == "long_lived" {
			orElse(&s.Sockets, max(1, nodes))
		}
		orElse(&s.Reply, new(true))
		orElse(&s.RequestBytes, 64)
	}
	if s := t.Flood; s != nil {
		orElse(&s.Kind, "syn")
		orElse(&s.Sources, 4096)
	}
	if s := t.HTTP; s != nil {
		orElse(&s.KeepAlive, new(true))
		orElse(&s.Connections, 100)
		orElse(&s.Path, "/")
	}
}

// defaults writes the beginning of each stage out.
func (p *Pacing) defaults() {
	if len(p.Stages) == 0 {
		p.Stages = nil
	}
	for i := range p.Stages {
		st := &p.Stages[i]
		switch {
		case st.From != nil:
		case i == 0:
			st.From = new(st.To)
		default:
			st.From = new(p.Stages[i-1].To)
		}
	}
}

// stagesLast is how long the stages last together.
func stagesLast(stages []Stage) Duration {
	var sum Duration
	for _, st := range stages {
		if st.For > math.MaxInt64-sum {
			return math.MaxInt64
		}
		sum += st.For
	}
	return sum
}

func orElse[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// shapes are the names of the shapes, as fields of [Traffic].
var shapes = []string{"short_lived", "idle", "udp", "flood", "http"}

// setShapes lists the shapes that are set; a valid traffic has exactly one.
func (t *Traffic) setShapes() []string {
	var set []string
	for i, is := range []bool{t.ShortLived != nil, t.Idle != nil, t.UDP != nil, t.Flood != nil, t.HTTP != nil} {
		if is {
			set = append(set, shapes[i])
		}
	}
	return set
}

// Shape is the name of the traffic's shape as YAML spells it: short_lived,
// idle, udp, flood or http. Empty where none is set.
func (t *Traffic) Shape() string {
	if set := t.setShapes(); len(set) > 0 {
		return set[0]
	}
	return ""
}

// Pacing is when the traffic's attempts are due; nil for idle, which has an
// open rate instead, and where no shape is set.
func (t *Traffic) Pacing() *Pacing {
	switch {
	case t.ShortLived != nil:
		return &t.ShortLived.Pacing
	case t.UDP != nil:
		return &t.UDP.Pacing
	case t.Flood != nil:
		return &t.Flood.Pacing
	case t.HTTP != nil:
		return &t.HTTP.Pacing
	}
	return nil
}

// Answers says whether the traffic's attempts are answered, so that they have
// a latency and are known to have arrived.
func (t *Traffic) Answers() bool {
	return t.Flood == nil && (t.UDP == nil || t.UDP.Reply == nil || *t.UDP.Reply)
}

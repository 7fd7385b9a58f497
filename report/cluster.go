package report

import (
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/tablefull/tablefull/report/runlog"
)

const (
	// maxActs bounds how many occurrences of actions are told apart.
	maxActs = 20_000
	// maxGoing bounds how many of them latencies are kept for at a time.
	maxGoing = 64
	// heldReading is for how long, in s, a reading of a dataplane holds: it is
	// recorded every 10 s though nothing has changed.
	heldReading = 15.0
	// afterAct is for how long after an action's end latencies still count as
	// around it, s: the longest step of TCP's SYN retransmission that is told
	// apart is 5 s.
	afterAct = 5.0
)

// cluster is what the log says of endpoints, dataplanes and actions.
type cluster struct {
	services map[string]*endpointLog
	planes   map[string][]plane     // by node
	failures map[string]string      // of readings, by node: the first
	syncs    map[string][]proxySync // by node, in order
	ipvs     bool                   // some reading was of IPVS
	modes    map[string][]string    // of the proxy, by node, in order
	told     map[string]float64     // by pod, when it was told to end
	acts     []*act
	going    []*act  // those that latencies can still belong to
	dropped  uint64  // occurrences beyond maxActs
	until    float64 // begin of the first of them
}

// endpointLog is the states of one service's endpoints, in order of time.
type endpointLog struct {
	t      []float64
	states [][]runlog.EndpointState
	// accepted is what all pods of the service took in, by second.
	accepted map[int64]float64
	// local is whether some traffic is sent on to pods of the node it enters by only.
	local bool
	// draining are the pods that are now, drained all that ever were.
	draining, drained map[string]*drainTime
}

// plane is one reading of a node's dataplane.
type plane struct {
	t, seen  float64 // of the first and the last reading that was so
	before   float64 // of the last reading that was not yet
	failed   bool    // it could not be read: nothing is known
	services []runlog.ProgrammedService
}

// proxySync is what a proxy says it has programmed.
type proxySync struct {
	t    float64
	pods map[string]string // by service, their names
}

// maxSyncs bounds how many of them are kept of a node.
const maxSyncs = 20_000

func (l *log) addSync(node string, t float64, e *runlog.Event) {
	c := &l.cluster
	if c.syncs == nil {
		c.syncs = map[string][]proxySync{}
	}
	if len(c.syncs[node]) < maxSyncs {
		c.syncs[node] = append(c.syncs[node], proxySync{t, e.Fields})
	}
}

// act is one occurrence of an action.
type act struct {
	name, kind string
	nodes      []string // it was done to; nil for all
	number     int
	begin, end float64 // end is NaN while it goes on
	failed     string
	latency    *hdrhistogram.PackedHistogram // from due, around it
}

func (l *log) addEndpoints(t float64, e *runlog.Endpoints) {
	c := &l.cluster
	if c.services == nil {
		c.services = map[string]*endpointLog{}
	}
	s := c.services[e.Service]
	if s == nil {
		s = &endpointLog{accepted: map[int64]float64{}, local: l.localTo(e.Service)}
		c.services[e.Service] = s
	}
	if n := len(s.t); n > 0 && t < s.t[n-1] {
		t = s.t[n-1] // one writer, so this is its clock's noise
	}
	s.t, s.states = append(s.t, t), append(s.states, e.Endpoints)
	s.noteDraining(t, e.Endpoints)
}

func (l *log) addDataplane(node string, t float64, d *runlog.Dataplane) {
	c := &l.cluster
	if c.planes == nil {
		c.planes, c.failures = map[string][]plane{}, map[string]string{}
	}
	l.node(node)
	c.ipvs = c.ipvs || d.Mode == "ipvs"
	c.noteMode(node, d)
	if d.Failed != "" && c.failures[node] == "" {
		c.failures[node] = d.Failed
	}
	list := c.planes[node]
	if n := len(list); n > 0 {
		last := &list[n-1]
		switch {
		case t <= last.seen:
			return // of the past, so that it says nothing new
		case last.failed == (d.Failed != "") && sameServices(last.services, d.Services) && t-last.seen <= heldReading:
			last.seen = t // a soak's readings are all the same
			return
		}
	}
	c.planes[node] = append(list, plane{t: t, seen: t, before: l.readBefore(list, t, d), failed: d.Failed != "", services: d.Services})
}

// readBefore is when the reading before d was: what it showed is what the last
// one of the list did. Logs that do not say so leave the last one that was recorded.
func (l *log) readBefore(list []plane, t float64, d *runlog.Dataplane) float64 {
	switch n := len(list); {
	case sane(d.Since) && d.Since > 0 && d.Since <= heldReading:
		return t - d.Since
	case n > 0:
		return list[n-1].seen
	}
	return t
}

// sameServices says whether both lead to the same pods.
func sameServices(x, y []runlog.ProgrammedService) bool {
	return slices.EqualFunc(x, y, func(a, b runlog.ProgrammedService) bool {
		return a.Service == b.Service && a.Addr == b.Addr && slices.EqualFunc(a.Backends, b.Backends, func(p, q runlog.ProgrammedBackend) bool {
			return p.Addr == q.Addr && (p.Weight == 0) == (q.Weight == 0)
		})
	})
}

// maxTold bounds of how many pods it is kept when they were told to end.
const maxTold = 20_000

func (c *cluster) noteTold(pod string, t float64) {
	if c.told == nil {
		c.told = map[string]float64{}
	}
	if _, again := c.told[pod]; !again && len(c.told) < maxTold {
		c.told[pod] = t
	}
}

// toldToEnd says whether the pod that had the address at that time had certainly
// been told to end by then. Its endpoint says so only later.
func (l *log) toldToEnd(service string, addr netip.Addr, at float64) bool {
	s := l.cluster.services[service]
	if s == nil {
		return false
	}
	told, is := l.cluster.told[s.nameOf(addr, at)]
	return is && told+l.clockBound <= at
}

// addAct notes the beginning or the end of an action.
func (l *log) addAct(t float64, e *runlog.Event) {
	c := &l.cluster
	number, _ := strconv.Atoi(e.Fields["number"])
	if e.Fields["phase"] == "begin" {
		if len(c.acts) == maxActs {
			if c.dropped++; c.dropped == 1 {
				c.until = t
			}
			return
		}
		a := &act{name: e.Name, kind: e.Fields["kind"], nodes: strings.Fields(e.Fields["nodes"]), number: number, begin: t, end: math.NaN()}
		c.acts, c.going = append(c.acts, a), append(c.going, a)
		if len(c.going) > maxGoing {
			c.going = slices.Delete(c.going, 0, 1)
		}
		return
	}
	for _, a := range slices.Backward(c.acts) {
		if a.name == e.Name && a.number == number && math.IsNaN(a.end) {
			a.end = t
			if e.Fields["phase"] == "fail" {
				a.failed = cmpOr(e.Detail, "failed")
			}
			return
		}
	}
}

// around says whether t belongs to the action and what follows it.
func (x *act) around(t float64) bool {
	return t >= x.begin && (math.IsNaN(x.end) || t <= x.end+afterAct)
}

// addActLatency merges latencies of attempts due around actions.
func (l *log) addActLatency(b *runlog.Latency, took *hdrhistogram.PackedHistogram) {
	c := &l.cluster
	c.going = slices.DeleteFunc(c.going, func(a *act) bool { return b.Start > a.end+60 }) // never true of one without an end
	for _, a := range c.going {
		switch {
		case !a.around(b.Start + b.Width/2):
		case a.latency == nil:
			a.latency = took.Clone()
		default:
			mergeTimes(&a.latency, took.Clone())
		}
	}
}

// role is what an address was to a service.
type role int

const (
	noPod    role = iota // not among its endpoints
	draining             // terminating, and not to be used any more
	usable               // new connections may go there
)

// at returns the endpoints at a time; nil before the first.
func (s *endpointLog) at(t float64) []runlog.EndpointState {
	i := s.after(t)
	if i == 0 {
		return nil
	}
	return s.states[i-1]
}

// usableTo are the endpoints that new connections go to that entered by the
// node; by any where that is empty, which is also so where they may leave it.
func usableTo(node string, list []runlog.EndpointState) []runlog.EndpointState {
	if node == "" {
		return runlog.Usable(list)
	}
	return runlog.UsableOn(node, list)
}

// inUse are the endpoints that new connections go to from some node. To one that
// sends them on to its own pods only, others' are of no use: the last pod of a node is
// used there while it terminates and serves (KEP-1669).
func (s *endpointLog) inUse(list []runlog.EndpointState) []runlog.EndpointState {
	if !s.local {
		return runlog.Usable(list)
	}
	var out []runlog.EndpointState
	for i, e := range list {
		if !slices.ContainsFunc(list[:i], func(x runlog.EndpointState) bool { return x.Node == e.Node }) {
			out = append(out, runlog.UsableOn(e.Node, list)...)
		}
	}
	return out
}

// localTo says whether some traffic to the service stays on the node it enters by.
func (l *log) localTo(service string) bool {
	return l.header != nil && slices.ContainsFunc(l.header.Traffic, func(t runlog.TrafficInfo) bool { return t.Local && serviceOf(t.To) == service })
}

// stays is the node that the lane's attempts do not leave (externalTrafficPolicy
// Local); empty where they may.
func (v *lane) stays() string {
	if v.t.info.Local {
		return v.node
	}
	return ""
}

// roleOf is what the address was to the service at that time, for what must
// stay on a node if that is not empty. Without records
// of endpoints the header's are taken for all times.
func (l *log) roleOf(service, node string, addr netip.Addr, at float64) role {
	s := l.cluster.services[service]
	if s == nil || len(s.t) == 0 {
		if l.isBackend(service, addr) {
			return usable
		}
		return noPod
	}
	list := s.at(max(at, s.t[0]))
	if len(usableTo(node, list)) == 0 {
		node = "" // in mode ipvs a node without pods of its own sends to others'
	}
	for _, e := range usableTo(node, list) {
		if e.Addr == addr {
			return usable
		}
	}
	for _, e := range list {
		if e.Addr == addr && e.Terminating {
			return draining
		}
	}
	return noPod // or one that is not ready yet
}

// nameOf is the pod that had the address last before at.
func (s *endpointLog) nameOf(addr netip.Addr, at float64) string {
	for i := len(s.t) - 1; i >= 0; i-- {
		if s.t[i] > at {
			continue
		}
		for _, e := range s.states[i] {
			if e.Addr == addr {
				return e.Name
			}
		}
	}
	return addr.String()
}

// hasEndpoint says whether the service had a usable endpoint at any time from
// a to b, for what must stay on a node if that is not empty.
func (l *log) hasEndpoint(s *runlog.ServiceInfo, node string, a, b float64) bool {
	e := l.cluster.services[s.Name]
	if e == nil || len(e.t) == 0 {
		return slices.ContainsFunc(s.Backends, func(x runlog.BackendInfo) bool { return node == "" || x.Node == node })
	}
	if len(usableTo(node, e.at(max(a, e.t[0])))) > 0 {
		return true
	}
	for _, t := range l.changesBetween(a, b) {
		if len(usableTo(node, e.at(t))) > 0 {
			return true
		}
	}
	return false
}

package scenarios

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

const (
	maxDuration = Duration(30 * 24 * time.Hour)
	maxTimeout  = Duration(10 * time.Minute)
	millisecond = Duration(time.Millisecond)
	maxRate     = Rate(10_000_000)
	// maxSeed is where float64, which other readers of the run log may use,
	// stops being exact.
	maxSeed = 1 << 53
	// maxTimeoutSeconds is what the kernel stores of a conntrack timeout at
	// 1000 ticks per second.
	maxTimeoutSeconds = 2_147_483
	// minDatagram is what it takes to tell an answer from another's, and
	// maxDatagram the largest payload of UDP over IPv4.
	minDatagram = 24
	maxDatagram = 65507
	maxPayload  = 1 << 20
	// maxList is how many services, traffics, actions and thresholds there may be.
	maxList = 256
)

var (
	validName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// validTraffic also allows the names of the shapes, which are the default.
	validTraffic = regexp.MustCompile(`^[a-z]([a-z0-9_-]{0,61}[a-z0-9])?$`)
)

// TimeoutNames lists the kernel's conntrack timeouts, less the nf_conntrack_
// in front. Which of them a kernel has depends on its version and build.
func TimeoutNames() []string {
	return []string{
		"generic_timeout",
		"gre_timeout", "gre_timeout_stream",
		"icmp_timeout", "icmpv6_timeout",
		"sctp_timeout_closed", "sctp_timeout_cookie_echoed", "sctp_timeout_cookie_wait",
		"sctp_timeout_established", "sctp_timeout_heartbeat_sent", "sctp_timeout_shutdown_ack_sent",
		"sctp_timeout_shutdown_recd", "sctp_timeout_shutdown_sent",
		"tcp_timeout_close", "tcp_timeout_close_wait", "tcp_timeout_established", "tcp_timeout_fin_wait",
		"tcp_timeout_last_ack", "tcp_timeout_max_retrans", "tcp_timeout_syn_recv", "tcp_timeout_syn_sent",
		"tcp_timeout_time_wait", "tcp_timeout_unacknowledged",
		"udp_timeout", "udp_timeout_stream",
	}
}

// Validate checks what a scenario means, after [Scenario.Defaults]. The error
// is an [Errors] with every mistake; they have paths, but no file.
func (s *Scenario) Validate() error { return s.validate().err() }

func (s *Scenario) validate() Errors {
	v := validator{s: s}
	v.scenario()
	if max(len(s.Services), len(s.Traffic), len(s.Actions), len(s.Thresholds), len(s.AbortOn), len(s.Arms)) > maxList {
		return v.errs
	}
	v.services()
	for i := range s.Traffic {
		v.traffic(fmt.Sprintf("traffic[%d]", i), &s.Traffic[i])
	}
	v.names("traffic", validTraffic, len(s.Traffic), func(i int) string { return s.Traffic[i].Name })
	v.actions()
	v.thresholds()
	v.arms()
	v.search()
	return v.errs
}

type validator struct {
	s    *Scenario
	errs Errors
}

func (v *validator) fail(path, problem, hint string) *Error {
	e := &Error{Path: path, Problem: problem, Hint: hint}
	v.errs = append(v.errs, e)
	return e
}

// err is fail with the problem and the hint of an error.
func (v *validator) err(path string, err error) {
	var u *unitError
	if errors.As(err, &u) {
		v.fail(path, u.problem, u.hint)
		return
	}
	v.fail(path, err.Error(), "")
}

func (v *validator) between(path string, n, low, high int64) {
	if n < low || n > high {
		v.fail(path, fmt.Sprintf("%d is out of range", n), fmt.Sprintf("write %d to %d", low, high))
	}
}

func (v *validator) lasts(path string, d, low, high Duration) {
	if d < low || d > high {
		v.fail(path, d.String()+" is out of range", fmt.Sprintf("write %s to %s", low, high))
	}
}

func (v *validator) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		v.fail(path, quote(value)+" is not known", didYouMean(value, "one of", allowed))
	}
}

func (v *validator) name(path string, valid *regexp.Regexp, name string) {
	if !valid.MatchString(name) {
		v.fail(path, quote(name)+" is not a name", "write lower case letters, digits and dashes, a letter first, at most 63")
	}
}

// names checks that the names of a list are names, each once.
func (v *validator) names(list string, valid *regexp.Regexp, n int, name func(int) string) {
	first := map[string]int{}
	for i := range n {
		path := fmt.Sprintf("%s[%d].name", list, i)
		if list == "traffic" && name(i) == "" && v.s.Traffic[i].Shape() == "" {
			continue // it would be named after its shape, and that is said to be missing
		}
		if list == "actions" && name(i) == "" && v.s.Actions[i].Kind() == "" {
			continue // likewise
		}
		v.name(path, valid, name(i))
		if j, dup := first[name(i)]; dup {
			other := fmt.Sprintf("%s[%d]", list, j)
			v.fail(path, quote(name(i))+" is also the name of "+other, "give each a name of its own").needs = []string{other}
			continue
		}
		first[name(i)] = i
	}
}

func (v *validator) scenario() {
	s := v.s
	v.name("name", validName, s.Name)
	if strings.ContainsFunc(s.Description, func(r rune) bool { return !unicode.IsPrint(r) }) {
		v.fail("description", "has characters that cannot be printed", "write plain text")
	}
	if s.Seed > maxSeed {
		v.fail("seed", fmt.Sprintf("%d is out of range", s.Seed), "write at most 9007199254740992 (2^53)")
	}
	if s.Duration <= 0 || s.Duration > maxDuration {
		v.fail("duration", s.Duration.String()+" is out of range", "write more than 0s, at most 30 days (720h)")
	}
	v.oneOf("lab.kernel", s.Lab.Kernel, "host", "private", "auto")
	switch {
	case s.Lab.Kernel != "host":
		v.between("lab.memory", int64(s.Lab.Memory), 256, 65536)
	case s.Lab.Memory != 0:
		v.fail("lab.memory", "is about a private kernel", "leave it out, or write lab.kernel: private").needs = []string{"lab.kernel"}
	}
	v.oneOf("lab.family", s.Lab.Family, "ipv4", "ipv6")
	v.between("lab.nodes", int64(s.Lab.Nodes), 1, MaxNodes)
	v.between("lab.clients.addresses", int64(s.Lab.Clients.Addresses), 1, 65534)
	v.eachNode("lab.clients.addresses", s.Lab.Clients.Addresses)
	v.proxy("lab.proxy", &s.Lab.Proxy)
	v.tunnel()
	v.conntrack()
	v.lasts("sampling.every", s.Sampling.Every, Duration(10*time.Millisecond), Duration(10*time.Second))
	v.lasts("sampling.census_every", s.Sampling.CensusEvery, Duration(100*time.Millisecond), Duration(10*time.Minute))
	if len(s.Services) == 0 {
		v.fail("services", "there is none", "describe at least one service")
	}
	if len(s.Traffic) == 0 {
		v.fail("traffic", "there is none", "describe at least one traffic")
	}
	for _, list := range []struct {
		path string
		n    int
	}{{"services", len(s.Services)}, {"traffic", len(s.Traffic)}, {"actions", len(s.Actions)}, {"thresholds", len(s.Thresholds)}, {"abort_on", len(s.AbortOn)}} {
		if list.n > maxList {
			v.fail(list.path, fmt.Sprintf("there are %d", list.n), fmt.Sprintf("write at most %d", maxList))
		}
	}
}

func (v *validator) conntrack() {
	c := v.s.Conntrack
	const most = 1 << 31 // entries; the kernel counts them in an int
	if c.Headroom != nil {
		v.between("conntrack.headroom", *c.Headroom, 1, most-1)
	}
	if c.Max != nil {
		v.between("conntrack.max", *c.Max, 1, most-1)
	}
	if c.Headroom != nil && c.Max != nil && *c.Headroom > *c.Max && *c.Max >= 1 {
		v.fail("conntrack.headroom", fmt.Sprintf("%d is more than max, which is %d", *c.Headroom, *c.Max), "write at most max").needs = []string{"conntrack.max"}
	}
	if c.Buckets != nil {
		v.buckets(*c.Buckets)
	}
	v.timeouts("conntrack.timeouts", c.Timeouts)
}

// timeouts checks conntrack timeouts by name.
func (v *validator) timeouts(at string, timeouts map[string]Duration) {
	if len(timeouts) > maxList {
		v.fail(at, fmt.Sprintf("there are %d", len(timeouts)), fmt.Sprintf("the kernel has %d", len(TimeoutNames())))
		return
	}
	for _, name := range sortedKeys(timeouts) {
		path := at + "." + name
		if !slices.Contains(TimeoutNames(), name) {
			hint := didYouMean(strings.TrimPrefix(name, "nf_conntrack_"), "timeouts", TimeoutNames())
			if bare, ok := strings.CutPrefix(name, "nf_conntrack_"); ok && slices.Contains(TimeoutNames(), bare) {
				hint = "write " + bare
			}
			v.fail(path, "unknown timeout", hint)
		}
		d := time.Duration(timeouts[name])
		if d%time.Second != 0 || d < time.Second || d > maxTimeoutSeconds*time.Second {
			v.fail(path, d.String()+" is not a timeout of the kernel's", fmt.Sprintf("write whole seconds, 1s to %ds", maxTimeoutSeconds))
		}
	}
}

// bucketStep is how many buckets fit into a page: the kernel rounds up to it.
const bucketStep = 512

func (v *validator) buckets(n int64) {
	const most = 1 << 24 // 128 MiB of pointers
	v.between("conntrack.buckets", n, bucketStep, most)
	if n%bucketStep != 0 && n > bucketStep && n < most {
		v.fail("conntrack.buckets", fmt.Sprintf("%d is no multiple of %d, to which the kernel rounds up", n, bucketStep), fmt.Sprintf("write %d", (n/bucketStep+1)*bucketStep))
	}
	if v.s.Lab.Kernel != "private" {
		v.fail("conntrack.buckets", "the hash table of this machine's kernel is not the lab's alone", "write lab.kernel: private").needs = []string{"lab.kernel"}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (v *validator) services() {
	v.names("services", validName, len(v.s.Services), func(i int) string { return v.s.Services[i].Name })
	for i := range v.s.Services {
		v.service(fmt.Sprintf("services[%d]", i), &v.s.Services[i])
	}
}

func (v *validator) service(path string, s *Service) {
	v.oneOf(path+".protocol", s.Protocol, "tcp", "udp", "http")
	v.between(path+".port", int64(s.Port), 1, 65535)
	v.between(path+".port_count", int64(s.PortCount), 1, 256)
	if last := s.Port + s.PortCount - 1; s.Port >= 1 && s.Port <= 65535 && s.PortCount <= 256 && last > 65535 {
		v.fail(path+".port_count", fmt.Sprintf("the last port would be %d", last), fmt.Sprintf("write at most %d, or a lower port", 65536-s.Port))
	}
	switch {
	case s.NoPods && s.Pods != 0:
		v.fail(path+".pods", fmt.Sprintf("%d, but no_pods says there are none", s.Pods), "leave pods or no_pods out")
	case !s.NoPods:
		v.between(path+".pods", int64(s.Pods), 1, 64)
	}
	v.families(path, s)
	v.untranslated(path, s)
	v.nodePorts(path, s)
	v.oneOf(path+".server.behaviour", s.Server.Behaviour, "answer", "silent", "reset", "refuse", "stall", "gone")
	if b := s.Server.Behaviour; s.Protocol == "udp" && (b == "reset" || b == "stall") {
		v.fail(path+".server.behaviour", b+" is about connections, which udp has not", "write answer, silent, refuse or gone").needs = []string{path + ".protocol"}
	}
	v.between(path+".server.backlog", int64(s.Server.Backlog), 1, 65535)
	v.lasts(path+".server.delay", s.Server.Delay, 0, maxTimeout)
	v.lifecycle(path+".lifecycle", &s.Lifecycle)
	if s.Gateway != nil {
		v.gateway(path, s)
	}
}

func (v *validator) gateway(path string, s *Service) {
	g := s.Gateway
	v.between(path+".gateway.idle_connections", int64(g.Idle), 1, 65535)
	if s.Protocol != "http" {
		v.fail(path+".protocol", "a gateway speaks http, not "+s.Protocol, "write protocol: http").needs = []string{path + ".gateway"}
	}
	at := path + ".gateway.to"
	to := v.to(at, g.To)
	if to == nil {
		return
	}
	if to.Protocol != "http" {
		v.fail(at, g.To+" speaks "+to.Protocol+", and a gateway forwards http", "give "+g.To+" protocol: http").needs = []string{v.pathOf(to) + ".protocol"}
	}
	// Who comes back to where it began is on a cycle. Whoever only leads into
	// one gets no message: those on it do.
	around := []string{s.Name}
	for range v.s.Services {
		around = append(around, to.Name)
		if to == s {
			v.fail(at, "goes round in a circle: "+strings.Join(around, " -> "), "let one of them be no gateway")
			return
		}
		if to.Gateway == nil {
			return
		}
		if to = v.find(to.Gateway.To); to == nil {
			return
		}
	}
}

// to is the service of that name, or a mistake.
func (v *validator) to(path, name string) *Service {
	if s := v.find(name); s != nil {
		return s
	}
	var names, needs []string
	for i, s := range v.s.Services {
		names = append(names, s.Name)
		needs = append(needs, fmt.Sprintf("services[%d].name", i))
	}
	if len(names) == 0 {
		needs = []string{"services"}
	}
	v.fail(path, "there is no service "+quote(name), didYouMean(name, "services are", names)).needs = needs
	return nil
}

// pathOf is where service s is.
func (v *validator) pathOf(s *Service) string {
	for i := range v.s.Services {
		if &v.s.Services[i] == s {
			return fmt.Sprintf("services[%d]", i)
		}
	}
	return "services"
}

func (v *validator) find(name string) *Service {
	for i := range v.s.Services {
		if v.s.Services[i].Name == name {
			return &v.s.Services[i]
		}
	}
	return nil
}

package scenarios

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
)

func (v *validator) traffic(path string, t *Traffic) {
	set := t.setShapes()
	switch {
	case len(set) == 0:
		v.fail(path, "has no shape", "write one of "+strings.Join(shapes, ", "))
	case len(set) > 1:
		v.fail(path, "has "+fmt.Sprint(len(set))+" shapes: "+strings.Join(set, ", "), "write one, and another traffic for each other")
	}
	v.lasts(path+".timeout", t.Timeout, millisecond, maxTimeout)
	v.window(path, t)
	to := v.to(path+".to", t.To)
	v.oneOf(path+".via", t.Via, "cluster_ip", "node_port")
	if to != nil && t.Via == "node_port" && to.NodePort == 0 {
		v.fail(path+".via", to.Name+" has no node port", "give "+to.Name+" a node_port, such as 30080").needs = []string{v.pathOf(to) + ".node_port"}
	}
	v.family(path, t, to)
	for _, shape := range set {
		if to != nil {
			v.fits(path, t, shape, to)
		}
	}
	if s := t.ShortLived; s != nil {
		v.shortLived(path+".short_lived", t, s)
	}
	if s := t.Idle; s != nil {
		v.idle(path+".idle", t, s)
	}
	if s := t.UDP; s != nil {
		v.udp(path+".udp", t, s)
	}
	if s := t.Flood; s != nil {
		v.pacing(path+".flood", t, &s.Pacing)
		v.oneOf(path+".flood.kind", s.Kind, "syn", "udp")
		v.between(path+".flood.sources", int64(s.Sources), 1, 65534)
		v.eachNode(path+".flood.sources", s.Sources)
	}
	if s := t.HTTP; s != nil {
		v.http(path+".http", t, s)
	}
}

// eachNode checks that there is at least one of something for each node.
func (v *validator) eachNode(path string, n int) {
	if nodes := v.s.Lab.Nodes; nodes <= MaxNodes && n >= 1 && n < nodes {
		v.fail(path, fmt.Sprintf("%d is less than lab.nodes, which is %d, and each node needs one", n, nodes), fmt.Sprintf("write at least %d", nodes)).needs = []string{"lab.nodes"}
	}
}

// window checks that the traffic lies inside the run.
func (v *validator) window(path string, t *Traffic) {
	run := v.s.Duration
	switch {
	case run <= 0:
		// There is no run to be inside of; that is said elsewhere.
	case t.Start < 0:
		v.fail(path+".start", t.Start.String()+" is before the run", "write 0s or more")
	case t.Start >= run:
		v.fail(path+".start", fmt.Sprintf("%s is after the run, which lasts %s", t.Start, run), "write less than "+run.String()).needs = []string{"duration"}
	case t.Duration <= 0:
		v.fail(path+".duration", t.Duration.String()+" is out of range", "write more than 0s")
	case t.Duration > run-t.Start:
		hint := "write at most " + (run - t.Start).String()
		if t.Duration <= maxDuration {
			hint += ", or duration: " + (t.Start + t.Duration).String() + " at the top level"
		}
		v.fail(path+".duration", fmt.Sprintf("from %s for %s is longer than the run, which lasts %s", t.Start, t.Duration, run), hint).needs = []string{"duration", path}
	}
}

// fits checks that the service speaks what the shape sends.
func (v *validator) fits(path string, t *Traffic, shape string, to *Service) {
	var speaks []string
	switch shape {
	case "short_lived", "idle":
		speaks = []string{"tcp"}
	case "udp":
		speaks = []string{"udp"}
	case "http":
		speaks = []string{"http"}
	case "flood":
		shape += " of kind " + t.Flood.Kind
		speaks = []string{"tcp", "http"}
		if t.Flood.Kind == "udp" {
			speaks = []string{"udp"}
		}
	}
	if !slices.Contains(speaks, to.Protocol) {
		v.fail(path+".to", fmt.Sprintf("%s speaks %s, and the shape %s needs a service that speaks %s", to.Name, to.Protocol, shape, strings.Join(speaks, " or ")),
			"choose another").needs = []string{v.pathOf(to) + ".protocol", path + ".flood.kind"}
	}
}

func (v *validator) rate(path string, r, low Rate) {
	if r < low || r > maxRate {
		hint := "write 0/s to "
		if low > 0 {
			hint = "write more than 0/s, at most "
		}
		v.fail(path, r.String()+" is out of range", hint+maxRate.String())
	}
}

// leastRate is above 0: a traffic without a rate is none.
const leastRate = Rate(1e-9)

func (v *validator) pacing(path string, t *Traffic, p *Pacing) {
	var set []string
	for i, is := range []bool{p.Rate != 0, p.Ramp != nil, p.Sine != nil, len(p.Stages) > 0} {
		if is {
			set = append(set, pacings[i])
		}
	}
	switch {
	case len(set) == 0:
		v.fail(path, "has no rate", "write rate: 700/s, or one of ramp, sine, stages")
	case len(set) > 1:
		v.fail(path, "has "+strings.Join(set, " and "), "write one of them")
	}
	if p.Rate != 0 {
		v.rate(path+".rate", p.Rate, leastRate)
	}
	if r := p.Ramp; r != nil {
		v.rate(path+".ramp.from", r.From, 0)
		v.rate(path+".ramp.to", r.To, 0)
		if r.From == 0 && r.To == 0 {
			v.fail(path+".ramp", "is 0/s all the time", "write a from or a to above 0/s")
		}
	}
	if s := p.Sine; s != nil {
		v.rate(path+".sine.mean", s.Mean, leastRate)
		switch {
		case s.Amplitude < 0 || s.Amplitude >= s.Mean:
			v.fail(path+".sine.amplitude", fmt.Sprintf("%s is not less than the mean, %s", s.Amplitude, s.Mean), "the rate would stop").needs = []string{path + ".sine.mean"}
		case s.Mean <= maxRate && s.Mean+s.Amplitude > maxRate:
			v.fail(path+".sine", fmt.Sprintf("rises to %s", s.Mean+s.Amplitude), "at most "+maxRate.String()).needs = []string{path + ".sine.mean"}
		}
		v.lasts(path+".sine.period", s.Period, millisecond, maxDuration)
	}
	if len(p.Stages) > 0 {
		v.stages(path+".stages", t, p.Stages)
	}
}

// pacings are the names of the pacings, as fields of [Pacing].
var pacings = []string{"rate", "ramp", "sine", "stages"}

func (v *validator) stages(path string, t *Traffic, stages []Stage) {
	highest := Rate(0)
	for i, st := range stages {
		at := fmt.Sprintf("%s[%d]", path, i)
		if st.From != nil {
			v.rate(at+".from", *st.From, 0)
			highest = max(highest, *st.From)
		}
		v.rate(at+".to", st.To, 0)
		highest = max(highest, st.To)
		v.lasts(at+".for", st.For, millisecond, maxDuration)
	}
	if highest == 0 {
		v.fail(path, "are 0/s all the time", "write a rate above 0/s")
	}
	if last := stagesLast(stages); last != t.Duration {
		v.fail(path, fmt.Sprintf("last %s together, and the traffic lasts %s", last, t.Duration),
			"leave the traffic's duration out, or make them the same").needs = []string{path[:strings.Index(path, ".")] + ".duration"}
	}
}

func (v *validator) shortLived(path string, t *Traffic, s *ShortLived) {
	v.pacing(path, t, &s.Pacing)
	v.oneOf(path+".close", s.Close, "fin", "rst", "half", "none")
	v.oneOf(path+".closer", s.Closer, "client", "server")
	v.sourcePorts(path+".source_ports", s.SourcePorts)
	v.between(path+".request_bytes", int64(s.RequestBytes), 1, maxPayload)
	v.between(path+".response_bytes", int64(s.ResponseBytes), 1, maxPayload)
}

func (v *validator) idle(path string, t *Traffic, s *Idle) {
	v.between(path+".count", int64(s.Count), 1, 10_000_000)
	v.eachNode(path+".count", s.Count)
	v.rate(path+".open_rate", s.OpenRate, leastRate)
	v.lasts(path+".validate_every", s.ValidateEvery, millisecond, maxDuration)
	v.lasts(path+".keepalive", s.KeepAlive, 0, maxDuration)
	if s.OpenRate < leastRate || s.Count < 1 || t.Duration <= 0 {
		return
	}
	// Who cannot open them all in time would hold another number than it says.
	if takes := float64(s.Count) / float64(s.OpenRate); takes > t.Duration.Seconds()*(1+1e-9) {
		least := float64(s.Count) / t.Duration.Seconds()
		v.fail(path+".open_rate", fmt.Sprintf("opening %d at %s takes %.1fs, and the traffic lasts %s", s.Count, s.OpenRate, takes, t.Duration),
			fmt.Sprintf("write at least %.0f/s, or a count of at most %.0f", math.Ceil(least), math.Floor(float64(s.OpenRate)*t.Duration.Seconds()))).needs = []string{"duration", path + ".count", strings.TrimSuffix(path, ".idle")}
		return
	}
	v.closing(path, t, s)
}

// closing checks that connections can be opened, asked and closed in the time
// there is.
func (v *validator) closing(path string, t *Traffic, s *Idle) {
	if s.CloseRate == 0 {
		return
	}
	if s.CloseRate < leastRate || s.CloseRate > maxRate {
		v.rate(path+".close_rate", s.CloseRate, leastRate)
		return
	}
	need := float64(s.Count)/float64(s.OpenRate) + (s.ValidateEvery + t.Timeout + t.Closing()).Seconds()
	if need > t.Duration.Seconds()+0.002 { // rounding
		v.fail(path+".close_rate", fmt.Sprintf("opening %d at %s, asking each once more (validate_every and the timeout) and closing them at %s takes %.1fs, and the traffic lasts %s", s.Count, s.OpenRate, s.CloseRate, need, t.Duration),
			fmt.Sprintf("let it last %.1fs, or write a higher rate", math.Ceil(need*10)/10)).needs = []string{"duration", path + ".count", path + ".open_rate", path + ".validate_every", strings.TrimSuffix(path, ".idle")}
	}
}

func (v *validator) udp(path string, t *Traffic, s *UDP) {
	v.pacing(path, t, &s.Pacing)
	v.oneOf(path+".socket", s.Socket, "per_request", "long_lived")
	switch {
	case s.Socket == "long_lived":
		v.between(path+".sockets", int64(s.Sockets), 1, 65534)
		v.eachNode(path+".sockets", s.Sockets)
	case s.Sockets != 0:
		v.fail(path+".sockets", "only long-lived sockets have a number", "write socket: long_lived, or leave sockets out").needs = []string{path + ".socket"}
	}
	v.sourcePorts(path+".source_ports", s.SourcePorts)
	if s.DNSPair && s.Reply != nil && !*s.Reply {
		v.fail(path+".dns_pair", "both datagrams of a pair must be answered, and reply is false", "leave reply out").needs = []string{path + ".reply"}
	}
	if s.Parallel && !s.DNSPair {
		v.fail(path+".parallel", "only the datagrams of a pair can be sent at the same moment", "write dns_pair: true, or leave parallel out").needs = []string{path + ".dns_pair"}
	}
	v.between(path+".request_bytes", int64(s.RequestBytes), minDatagram, maxDatagram)
}

func (v *validator) sourcePorts(path string, p *SourcePorts) {
	switch {
	case p == nil:
	case p.Fixed != 0 && (p.From != 0 || p.To != 0):
		v.fail(path, "has both fixed and a range", "write fixed, or from and to")
	case p.Fixed != 0:
		v.between(path+".fixed", int64(p.Fixed), 1, 65535)
	case p.From == 0 && p.To == 0:
		v.fail(path, "names no port", "write fixed, or from and to, or leave source_ports out")
	case p.From == 0 || p.To == 0:
		v.fail(path, "has one end of a range", "write from and to, or fixed")
	default:
		v.between(path+".from", int64(p.From), 1, 65535)
		v.between(path+".to", int64(p.To), 1, 65535)
		if p.From > p.To {
			v.fail(path, fmt.Sprintf("from %d is above to %d", p.From, p.To), "write the lower port first").needs = []string{path + ".from", path + ".to"}
		}
	}
}

func (v *validator) http(path string, t *Traffic, s *HTTP) {
	v.pacing(path, t, &s.Pacing)
	v.between(path+".connections", int64(s.Connections), 1, 65535)
	u, err := url.ParseRequestURI(s.Path)
	if err != nil || !strings.HasPrefix(s.Path, "/") || u.Fragment != "" || strings.ContainsAny(s.Path, " \t\r\n#") {
		v.fail(path+".path", quote(s.Path)+" is not the path of a request", "write for example /")
	}
}

package scenarios

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind is what the value of a metric is.
type Kind string

const (
	Ratio Kind = "ratio" // of 1; written 0.1% or 0.001
	Time  Kind = "time"  // seconds; written with a unit, 50ms
	Count Kind = "count" // a whole number
)

// A Metric can be held against a threshold.
type Metric struct {
	Name string
	Kind Kind
	// PerTraffic metrics are of the attempts: of one traffic where the
	// threshold names one, of all together otherwise. The others are of the
	// node: occupancy is entries over the limit, entries the largest number
	// of entries, and drop, early_drop and insert_failed are the kernel's
	// counters over the run or the window. WholeRun metrics are known for the
	// run as a whole only.
	PerTraffic, WholeRun bool
	About                string // what it is, in a few words
}

// OfNodes says whether the metric is also known of one node alone: of what was
// counted there, or of the attempts that entered by it.
func (m Metric) OfNodes() bool {
	return m.Name != "held_lost" && m.Name != "unclosed" && m.Name != "draining_share"
}

// Metrics lists what thresholds can be set for.
func Metrics() []Metric {
	list := []Metric{
		{"errors", Ratio, true, false, "failed attempts, of those that were started and have ended"},
		{"not_started", Ratio, true, false, "attempts that the generator could not start, of those due"},
		{"late", Ratio, true, false, "attempts started more than 10 ms (in a private kernel 30 ms) late, of those started"},
		{"failures", Count, true, false, "failed attempts"},
		{"p50", Time, true, false, "latency of the attempts that succeeded, from when they were due"},
		{"p90", Time, true, false, "the same, of nine in ten"},
		{"p95", Time, true, false, "the same, of 95 %"},
		{"p99", Time, true, false, "the same, of 99 %"},
		{"p999", Time, true, false, "the same, of 99.9 %"},
		{"max", Time, true, false, "the longest"},
		{"occupancy", Ratio, false, false, "highest number of entries over the limit"},
		{"entries", Count, false, false, "highest number of entries"},
		{"drop", Count, false, false, "increase of the kernel's counter"},
		{"early_drop", Count, false, false, "increase of the kernel's counter"},
		{"insert_failed", Count, false, false, "increase of the kernel's counter"},
		{"invalid", Count, false, false, "increase of the kernel's counter"},
		{"clashres", Count, false, true, "increase of the kernel's counter (clash_resolve)"},
		{"chainlength", Count, false, true, "increase of the kernel's counter (chain_toolong)"},
		{"stale", Time, false, true, "longest time for which a node sent new connections to a backend that was not usable any more, up to the first reading of its rules that shows it no more"},
		{"stale_backends", Count, false, true, "most of those backends at once"},
		{"draining_share", Ratio, false, true, "largest share of its service's connections that a pod accepted while it was terminating, others were usable, and no node was programmed to give it new ones"},
		{"held_lost", Count, true, true, "held connections that were lost"},
		{"unclosed", Count, true, true, "held connections that were due to be closed (idle.close_rate) and were not torn down, or whose entries are left in ESTABLISHED"},
		{"entry_expired", Count, true, true, "held connections that were lost because their entry had expired"},
		{"capacity", Count, false, true, "of a search: the highest load that was shown to hold, for its strictest goal; rates per second"},
		{"capacity_upper", Count, false, true, "the lowest load that was shown not to"},
	}
	for _, state := range TCPStates() {
		list = append(list, Metric{stateMetric(state), Count, false, true, "most entries that a census found in " + state})
	}
	for _, c := range Causes() {
		list = append(list, Metric{c, Count, false, true, "attempts that failed because of it, of all traffics"})
	}
	return list
}

// Causes lists why attempts fail, as reports name it.
func Causes() []string {
	return []string{
		"table_full", "evicted", "nat_clash", "snat_ports", "chain_too_long", "stale_backend", "draining_backend", "backend_gone", "no_endpoint", "untranslated", "not_programmed",
		"invalid_reset", "listen_overflow", "backend_reset", "backend_refused", "backend_silent", "unknown",
	}
}

// TCPStates are the kernel's names of the states of a TCP entry, in the order
// of a connection's life.
func TCPStates() []string {
	return []string{"SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE"}
}

// stateMetric is like close_wait_entries.
func stateMetric(state string) string { return strings.ToLower(state) + "_entries" }

// TCPState is the state whose entries the metric counts, empty for any other
// metric.
func TCPState(metric string) string {
	for _, state := range TCPStates() {
		if stateMetric(state) == metric {
			return state
		}
	}
	return ""
}

// Op is a comparison.
type Op string

const (
	Less         Op = "<"
	LessEqual    Op = "<="
	Greater      Op = ">"
	GreaterEqual Op = ">="
	Equal        Op = "=="
)

// A Threshold is something that must hold for a run to pass.
type Threshold struct {
	Source  string // as it was written
	Traffic string // whose attempts; empty: all, or the node
	Node    string // which node, or by which the attempts entered; empty: any
	Metric  string
	Kind    Kind // of Metric
	Op      Op
	Value   float64 // of 1, s, or a number, by Kind
	// From and To are the window it must hold in, in s of run time. To 0 is
	// to the end. Attempts belong to the moment they were due.
	From, To float64
}

// Holds says whether value, in the unit of t.Value, satisfies the threshold.
// NaN, which is no data, never does.
func (t Threshold) Holds(value float64) bool {
	switch t.Op {
	case Less:
		return value < t.Value
	case LessEqual:
		return value <= t.Value
	case Greater:
		return value > t.Value
	case GreaterEqual:
		return value >= t.Value
	case Equal:
		return value == t.Value
	}
	return false
}

// String is the threshold in one spelling, which ParseThreshold reads back to
// an equal value but for Source.
func (t Threshold) String() string {
	var b strings.Builder
	if t.Traffic != "" {
		b.WriteString(t.Traffic + ": ")
	}
	fmt.Fprintf(&b, "%s %s %s", t.Metric, t.Op, t.value())
	if t.Node != "" {
		b.WriteString(" on " + t.Node)
	}
	if t.From > 0 || t.To > 0 {
		b.WriteString(" during " + seconds(t.From) + "..")
		if t.To > 0 {
			b.WriteString(seconds(t.To))
		}
	}
	return b.String()
}

func (t Threshold) value() string {
	switch t.Kind {
	case Time:
		return seconds(t.Value)
	case Ratio:
		// A percentage only where it is the very same number.
		p := strconv.FormatFloat(math.Round(t.Value*100*1e9)/1e9, 'f', -1, 64)
		if v, err := strconv.ParseFloat(p, 64); err == nil && v/100 == t.Value {
			return p + "%"
		}
	}
	return strconv.FormatFloat(t.Value, 'f', -1, 64)
}

var (
	comparison  = regexp.MustCompile(`^(\S+?)\s*(<=|>=|==|=|<|>)\s*(\S+)(?:\s+(\S.*))?$`)
	onNode      = regexp.MustCompile(`^on\s+(\S+)(?:\s+(\S.*))?$`)
	windowParts = regexp.MustCompile(`^during\s+(\S+?)\s*\.\.\s*(\S*)$`)
)

const thresholdForm = "write for example errors < 0.1%, web: p99 < 50ms, or occupancy < 80% during 5s..20s"

// ParseThreshold reads
//
//	[traffic:] metric op value [on node] [during a..b]
//
// with op one of < <= > >= ==, a value of the metric's kind, and a and b run
// times; without b the window lasts to the end. Whether traffic and node exist and
// the window lies inside the run is checked by [Scenario.Validate].
func ParseThreshold(s string) (Threshold, error) {
	t := Threshold{Source: s}
	rest := strings.TrimSpace(s)
	if traffic, after, ok := strings.Cut(rest, ":"); ok {
		t.Traffic, rest = strings.TrimSpace(traffic), strings.TrimSpace(after)
		if !validTraffic.MatchString(t.Traffic) {
			return Threshold{}, &unitError{quote(t.Traffic) + " is not the name of a traffic", thresholdForm}
		}
	}
	m := comparison.FindStringSubmatch(rest)
	if m == nil {
		return Threshold{}, &unitError{quote(s) + " is not a threshold", thresholdForm}
	}
	if m[2] == "=" {
		return Threshold{}, &unitError{"= is not a comparison", "write one of < <= > >= =="}
	}
	metric, err := lookupMetric(m[1])
	if err != nil {
		return Threshold{}, err
	}
	if t.Traffic != "" && !metric.PerTraffic {
		return Threshold{}, &unitError{metric.Name + " is the node's, not of one traffic", "write " + strings.TrimSpace(strings.TrimPrefix(rest, t.Traffic))}
	}
	t.Metric, t.Kind, t.Op = metric.Name, metric.Kind, Op(m[2])
	if t.Value, err = parseValue(m[3], metric); err != nil {
		return Threshold{}, err
	}
	window := m[4]
	if on := onNode.FindStringSubmatch(m[4]); on != nil {
		if t.Node, window = on[1], on[2]; !metric.OfNodes() {
			return Threshold{}, &unitError{metric.Name + " is known of all nodes together only", "leave " + quote("on "+t.Node) + " out"}
		}
		if !validName.MatchString(t.Node) {
			return Threshold{}, &unitError{quote(t.Node) + " is not the name of a node", "write for example failures == 0 on node1"}
		}
	}
	if window != "" {
		if metric.WholeRun {
			return Threshold{}, &unitError{metric.Name + " is known for the whole run only", "leave " + quote(window) + " out"}
		}
		if t.From, t.To, err = parseWindow(window); err != nil {
			return Threshold{}, err
		}
	}
	return t, nil
}

func lookupMetric(name string) (Metric, error) {
	var names []string
	for _, m := range Metrics() {
		if m.Name == name {
			return m, nil
		}
		names = append(names, m.Name)
	}
	return Metric{}, &unitError{"unknown metric " + quote(name), didYouMean(name, "metrics", names)}
}

func parseValue(s string, m Metric) (float64, error) {
	switch m.Kind {
	case Time:
		return parseSeconds(s)
	case Count:
		v, err := strconv.ParseUint(s, 10, 53)
		if err != nil {
			hint := "write for example " + m.Name + " < 100"
			if m.Name == "entries" && strings.HasSuffix(s, "%") {
				hint = "write occupancy < " + s + " for a share of the limit"
			}
			if m.Name == "failures" && strings.HasSuffix(s, "%") {
				hint = "write errors < " + s + " for a share of the attempts"
			}
			return 0, &unitError{quote(s) + " is not a whole number, which " + m.Name + " is", hint}
		}
		return float64(v), nil
	default:
		number, percent := strings.CutSuffix(s, "%")
		v, err := strconv.ParseFloat(number, 64)
		if err != nil || math.IsNaN(v) {
			return 0, &unitError{quote(s) + " is not a share, which " + m.Name + " is", "write for example 0.1% or 0.001"}
		}
		if percent {
			v /= 100
		}
		if v < 0 || v > 1 {
			hint := "write 0% to 100%"
			if !percent && v <= 100 && v > 1 {
				hint = "write " + s + "%"
			}
			return 0, &unitError{quote(s) + " is not between 0% and 100%", hint}
		}
		return math.Abs(v), nil // -0 is 0
	}
}

// parseSeconds reads a duration of whole microseconds up to maxDuration. Within
// that, seconds as a float64 and the text for them are exact.
func parseSeconds(s string) (float64, error) {
	var d Duration
	if err := d.UnmarshalText([]byte(s)); err != nil {
		return 0, err
	}
	if time.Duration(d)%time.Microsecond != 0 {
		return 0, &unitError{quote(s) + " is finer than a microsecond", "write for example 50ms"}
	}
	if d > maxDuration {
		return 0, &unitError{quote(s) + " is more than 30 days", ""}
	}
	return d.Seconds(), nil
}

func seconds(v float64) string {
	return (time.Duration(math.Round(v*1e6)) * time.Microsecond).String()
}

func parseWindow(s string) (from, to float64, err error) {
	m := windowParts.FindStringSubmatch(s)
	if m == nil {
		return 0, 0, &unitError{quote(s) + " is not a window", "write for example during 5s..20s"}
	}
	if from, err = parseSeconds(m[1]); err != nil {
		return 0, 0, err
	}
	if m[2] == "" {
		return from, 0, nil
	}
	if to, err = parseSeconds(m[2]); err != nil {
		return 0, 0, err
	}
	if to <= from {
		return 0, 0, &unitError{"the window " + quote(m[1]+".."+m[2]) + " ends before it has begun", "write the earlier time first"}
	}
	return from, to, nil
}

// ParsedThresholds are the scenario's thresholds. It fails only on a scenario
// that Validate refuses.
func (s *Scenario) ParsedThresholds() ([]Threshold, error) {
	out := make([]Threshold, len(s.Thresholds))
	for i, text := range s.Thresholds {
		t, err := ParseThreshold(text)
		if err != nil {
			return nil, fmt.Errorf("parse threshold %d: %w", i, err)
		}
		out[i] = t
	}
	return out, nil
}

// thresholds checks what a threshold alone cannot know.
func (v *validator) thresholds() {
	var names, needs []string
	for i := range v.s.Traffic {
		names = append(names, v.s.Traffic[i].Name)
		needs = append(needs, fmt.Sprintf("traffic[%d].name", i))
		if names[i] == "" {
			// It would be named after its shape.
			needs[i] = fmt.Sprintf("traffic[%d]", i)
		}
	}
	if len(names) == 0 {
		needs = []string{"traffic"}
	}
	until := len(v.s.Thresholds) + len(v.s.AbortOn)
	for i, text := range slices.Concat(v.s.Thresholds, v.s.AbortOn, v.s.Expect) {
		path := fmt.Sprintf("thresholds[%d]", i)
		switch {
		case i >= until:
			path = fmt.Sprintf("expect[%d]", i-until)
		case i >= len(v.s.Thresholds):
			path = fmt.Sprintf("abort_on[%d]", i-len(v.s.Thresholds))
		}
		t, err := ParseThreshold(text)
		if err != nil {
			v.err(path, err)
			continue
		}
		if t.Node != "" && !slices.Contains(v.s.NodeNames(), t.Node) {
			v.fail(path, "there is no node "+quote(t.Node), didYouMean(t.Node, "nodes are", v.s.NodeNames())).needs = []string{"lab.nodes"}
		}
		at := slices.Index(names, t.Traffic)
		switch capacity := strings.HasPrefix(t.Metric, "capacity"); {
		case capacity && v.s.Search == nil:
			v.fail(path, t.Metric+" is the result of a search, and there is none", "leave it out, or add search")
			continue
		case !capacity && v.s.Search != nil:
			v.fail(path, t.Metric+" is of one run, and a search makes many", "write for example capacity > 1000").needs = []string{"search"}
			continue
		}
		switch {
		case t.Traffic != "" && at < 0:
			v.fail(path, "there is no traffic "+quote(t.Traffic), didYouMean(t.Traffic, "traffic is", names)).needs = needs
		case t.Kind == Time && t.Traffic != "" && !v.s.Traffic[at].Answers():
			v.fail(path, t.Traffic+" waits for no answer, so it has no latency", "leave "+t.Metric+" out").needs = []string{"traffic"}
		case t.Metric == "stale":
		case t.Kind == Time && !slices.ContainsFunc(v.s.Traffic, func(t Traffic) bool { return t.Answers() }):
			v.fail(path, "no traffic waits for an answer, so there is no latency", "leave "+t.Metric+" out").needs = []string{"traffic"}
		}
		if end := v.s.Duration.Seconds(); t.To > end || t.From >= end {
			v.fail(path, fmt.Sprintf("the window %s..%s is not inside the run of %s", seconds(t.From), openEnd(t.To), v.s.Duration), "").needs = []string{"duration"}
		}
	}
}

func openEnd(to float64) string {
	if to == 0 {
		return ""
	}
	return seconds(to)
}

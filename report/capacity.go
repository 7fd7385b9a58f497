package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/search"
	"github.com/tablefull/tablefull/scenarios"
)

// Capacity is the result of a capacity search.
type Capacity struct {
	Measure    string            `json:"measure" jsonschema:"enum=establishment_rate,enum=concurrent_connections,enum=teardown_rate,enum=load" jsonschema_description:"What was looked for."`
	Name       string            `json:"name" jsonschema_description:"The same in the words of RFC 3511 and RFC 9693."`
	Knob       string            `json:"knob" jsonschema_description:"Path of what was turned."`
	Unit       string            `json:"unit" jsonschema_description:"Unit of loads and bounds: 1/s, or empty for a number."`
	Min        float64           `json:"min" jsonschema_description:"Lowest load of the range."`
	Max        float64           `json:"max" jsonschema_description:"Highest load of the range."`
	TrialS     float64           `json:"trial_s" jsonschema_description:"Length of a trial in s, behind the opening of connections that are held."`
	BudgetS    float64           `json:"budget_s" jsonschema_description:"After how long in s no further trial began."`
	Predicted  *float64          `json:"predicted" jsonschema_description:"Highest load that the table holds by arithmetic, where the search began; null where that is not known, or beyond the range."`
	Lower      *float64          `json:"lower" jsonschema_description:"Highest load that was shown to hold, for the strictest goal; null without."`
	Upper      *float64          `json:"upper" jsonschema_description:"Lowest load that was shown not to hold, for the strictest goal; null without."`
	Throughput *float64          `json:"conditional_throughput" jsonschema_description:"lower times the share of attempts that came through there, in the worst trial that counts (MLRsearch); null without."`
	Goals      []CapacityGoal    `json:"goals" jsonschema_description:"The same for each goal, strictest first."`
	Control    CapacityControl   `json:"control" jsonschema_description:"Whether something else than the table was the limit."`
	Trials     []CapacityTrial   `json:"trials" jsonschema_description:"Every trial, in order."`
	conclusion search.Conclusion // what the rest says in other words
	room       room
}

// CapacityGoal is what was shown about one goal.
type CapacityGoal struct {
	LossRatio    float64  `json:"loss_ratio" jsonschema_description:"Share of attempts, 0 to 1, that a good trial may lose."`
	ExceedRatio  float64  `json:"exceed_ratio" jsonschema_description:"Share of the duration sum that bad trials may come to at a load that holds."`
	DurationSumS float64  `json:"duration_sum_s"`
	Width        float64  `json:"width" jsonschema_description:"How far apart the bounds may be, as a share of the upper one."`
	End          string   `json:"end" jsonschema:"enum=bounded,enum=at_max,enum=below_min,enum=generator,enum=unfinished" jsonschema_description:"bounded: the limit lies between the bounds. at_max: even the highest load holds. below_min: not even the lowest one does. generator: above lower nothing can be measured. unfinished: the search ended before."`
	Lower        *float64 `json:"lower"`
	Upper        *float64 `json:"upper"`
	Throughput   *float64 `json:"conditional_throughput"`
}

// CapacityControl is what the control arm showed.
type CapacityControl struct {
	Result string   `json:"result" jsonschema:"enum=held,enum=failed,enum=open,enum=not_done" jsonschema_description:"held: the same traffic where the table is not the limit carried the highest load that did not hold: the generator was not the limit. failed: it did not. open: its trials do not decide that. not_done: there is none, or nothing for it to do."`
	Load   *float64 `json:"load" jsonschema_description:"Where it was tried; null for nowhere."`
	Why    string   `json:"why_not" jsonschema_description:"Why there is no control arm; empty where there is."`
}

// CapacityTrial is one trial.
type CapacityTrial struct {
	Number       int      `json:"number"`
	Kind         string   `json:"kind" jsonschema:"enum=warmup,enum=search,enum=control"`
	Load         float64  `json:"load"`
	Due          uint64   `json:"due" jsonschema_description:"Attempts due, of the traffic that fared worst."`
	Lost         uint64   `json:"lost" jsonschema_description:"Of those, lost: failed, or held and not alive in the end."`
	LossRatio    float64  `json:"loss_ratio"`
	Traffic      string   `json:"traffic" jsonschema_description:"Which traffic that is."`
	FreeAtStart  *int64   `json:"free_at_start" jsonschema_description:"Free entries when traffic began."`
	PeakEntries  *uint64  `json:"peak_entries"`
	Causes       []string `json:"causes" jsonschema_description:"Why attempts failed, most first: name and number."`
	Inconclusive bool     `json:"inconclusive" jsonschema_description:"The trial says nothing about the system."`
	Why          []string `json:"why" jsonschema_description:"Why it does not."`
	EndedS       float64  `json:"ended_s" jsonschema_description:"When it ended, s since the search began."`
	Dir          string   `json:"dir" jsonschema_description:"Its own run log, relative to the search's."`

	evicted uint64 // early_drop, of all nodes; 0 where that was not recorded
	closed  string // how connections were torn down, of a search for that rate; empty where it is not known
}

const perSecondUnit = "1/s"

// measureNames are the standards' names.
var measureNames = map[string]string{
	"establishment_rate":     "Maximum connection establishment rate (RFC 3511 5.3, RFC 9693)",
	"concurrent_connections": "Concurrent connection capacity (RFC 3511 5.2; connection tracking table capacity, RFC 9693)",
	"teardown_rate":          "Maximum connection tear-down rate (RFC 3511 5.4, RFC 9693)",
	"load":                   "Highest load that holds",
}

// SearchTrialOf is what a run, of scenario s, shows as a trial of a capacity search:
// all but what was asked for.
//
// The loss is that of the traffic that fared worst: of the attempts due, those
// that did not succeed. A held connection succeeds if it answered a request
// after all of them had been opened; one that is to be closed at a rate, if it
// is torn down and its entry leaves ESTABLISHED.
func SearchTrialOf(f *Findings, s *scenarios.Scenario) runlog.Trial {
	t := runlog.Trial{Why: slices.Clone(f.Disturbed()), Causes: map[string]uint64{}}
	for i := range f.Traffic {
		tr := &f.Traffic[i]
		if tr.OneWay || tr.Succeeded == nil {
			continue
		}
		ok := *tr.Succeeded
		lost := tr.Due - min(tr.Due, ok)
		if c := closing(s, tr.Name); c != nil {
			var why string
			if lost, why = tr.TearDown.lost(tr, uint64(max(0, c.Idle.Count)), s.Tracked(c.To)); why != "" {
				t.Why = append(t.Why, why)
			}
			if d := tr.TearDown; d != nil && d.RatePerS != nil && d.LongestMs != nil {
				t.ClosedPerS, t.LongestMs = *d.RatePerS, *d.LongestMs
			}
		} else if tr.Shape == "idle" {
			ok = 0
			if tr.HeldAlive == nil {
				t.Why = append(t.Why, fmt.Sprintf("no data: how many of %s connections were alive is not known", whose(tr.Name)))
			} else {
				ok = *tr.HeldAlive
			}
			if want := idleCount(s, tr.Name); tr.Due != want {
				t.Why = append(t.Why, fmt.Sprintf("%d of %s connections were due, and %d were asked for", tr.Due, whose(tr.Name), want))
			}
			lost = tr.Due - min(tr.Due, ok)
		}
		if ratio := float64(lost) / float64(max(1, tr.Due)); t.Traffic == "" || ratio > t.Loss {
			t.Traffic, t.Due, t.Lost, t.Loss = tr.Name, tr.Due, lost, ratio
		}
	}
	if t.Due == 0 && len(t.Why) == 0 {
		t.Why = append(t.Why, "no data: no attempt was due of which anybody would know")
	}
	for _, c := range f.Causes {
		t.Causes[c.Cause] += c.Failures
	}
	full := -1.0
	for i := range f.Nodes {
		n := &f.Nodes[i]
		t.Evicted += n.Counters["early_drop"]
		why := strangeStart(n, s.Conntrack.Headroom)
		// Of a cluster's nodes only those are filled that traffic enters by.
		if beside := n.AgedOut == nil && slices.ContainsFunc(f.Nodes, func(n Node) bool { return n.AgedOut != nil }); beside {
			why = lessRoom(n, s.Conntrack.Headroom)
		}
		if why != "" {
			t.Why = append(t.Why, why)
		}
		if a := n.AgedOut; a != nil && a.Left > 0 {
			t.Why = append(t.Why, a.why(n.Name))
		}
		if n.PeakOccupancy != nil && *n.PeakOccupancy > full {
			full, t.Free, t.Peak = *n.PeakOccupancy, n.HeadroomAtStart, n.PeakEntries
		}
	}
	return t
}

func idleCount(s *scenarios.Scenario, name string) uint64 {
	for i := range s.Traffic {
		if s.Traffic[i].Name == name && s.Traffic[i].Idle != nil {
			return uint64(s.Traffic[i].Idle.Count)
		}
	}
	return 0
}

// strangeStart says why a node's table was not, when traffic began, as a trial
// has to find it: empty but for the filling. A thousandth is what servers and
// probes of the lab's own may come to.
func strangeStart(n *Node, headroom *int64) string {
	switch {
	case n.HeadroomAtStart == nil || n.StartEntries == nil || n.Limit == nil:
		return fmt.Sprintf("how full %s's table was when traffic began is not known", n.Name)
	case headroom != nil:
		if off := math.Abs(float64(*n.HeadroomAtStart - *headroom)); off > max(2, float64(*headroom)/1000) {
			return fmt.Sprintf("%s's table had %d free entries when traffic began, and %d were asked for", n.Name, *n.HeadroomAtStart, *headroom)
		}
	case n.AgedOut != nil: // a node with entries of others
	case float64(*n.StartEntries) > max(100, float64(*n.Limit)/1000):
		return fmt.Sprintf("%s's table was not empty when traffic began: it had %d entries", n.Name, *n.StartEntries)
	}
	return ""
}

// lessRoom says why a node that traffic does not enter by, and that is not filled,
// could be what limits it: its pods' connections are in its table, too.
func lessRoom(n *Node, headroom *int64) string {
	if headroom == nil || n.HeadroomAtStart == nil || *n.HeadroomAtStart >= *headroom {
		return ""
	}
	return fmt.Sprintf("%s, which traffic does not enter by, had only %d free entries when it began", n.Name, *n.HeadroomAtStart)
}

// addTrial takes a trial of a search's log.
func (l *log) addTrial(t *runlog.Trial) {
	if bad := func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) || v < 0 }; bad(t.Load) || bad(t.Loss) || bad(t.Duration) || bad(t.Elapsed) || t.Loss > 1 {
		l.mistake("trial %d has impossible numbers", t.Number)
		return
	}
	l.trials = append(l.trials, *t)
}

// capacity is what the trials of a search's log show; nil where it is a run's.
func (l *log) capacity() *Capacity {
	if l.header == nil || l.header.Search == nil {
		return nil
	}
	h := l.header.Search
	c := &Capacity{
		Measure: h.Measure, Name: cmpOr(measureNames[h.Measure], h.Measure), Knob: h.Knob, Unit: h.Unit, Min: h.Min, Max: h.Max,
		TrialS: h.Trial, BudgetS: h.Budget, Predicted: positive(h.Predicted), Goals: []CapacityGoal{}, Trials: []CapacityTrial{},
		Control: CapacityControl{Result: string(search.ControlNotDone), Why: h.NoControl},
	}
	if _, known := measureNames[c.Measure]; !known {
		c.Measure = "load"
	}
	plain := make([]search.Trial, 0, len(l.trials))
	for i := range l.trials {
		plain = append(plain, l.trials[i].Trial)
		c.Trials = append(c.Trials, capacityTrial(&l.trials[i]))
	}
	if err := h.Validate(); err != nil {
		l.mistake("the search cannot be read: %v", err)
		return c
	}
	c.room = l.roomOfTrials(c)
	c.conclusion = search.Conclude(h.Config, plain)
	for _, r := range c.conclusion.Results {
		c.Goals = append(c.Goals, CapacityGoal{
			LossRatio: r.Goal.LossRatio, ExceedRatio: r.Goal.ExceedRatio, DurationSumS: r.Goal.DurationSum, Width: r.Goal.Width,
			End: string(r.End), Lower: positive(r.Lower), Upper: positive(r.Upper), Throughput: positive(r.Throughput),
		})
	}
	c.Lower, c.Upper, c.Throughput = c.Goals[0].Lower, c.Goals[0].Upper, c.Goals[0].Throughput
	c.Control.Result, c.Control.Load = string(c.conclusion.Control), positive(c.conclusion.ControlLoad)
	return c
}

func capacityTrial(t *runlog.Trial) CapacityTrial {
	out := CapacityTrial{
		Number: t.Number, Kind: string(t.Kind), Load: t.Load, Due: t.Due, Lost: t.Lost, LossRatio: t.Loss, Traffic: t.Traffic,
		FreeAtStart: t.Free, PeakEntries: t.Peak, Causes: []string{}, Inconclusive: t.Inconclusive, Why: append([]string{}, t.Why...),
		EndedS: t.Elapsed, Dir: t.Dir, evicted: t.Evicted,
	}
	if t.ClosedPerS > 0 {
		out.closed = fmt.Sprintf("closed at %s, each within %s ms", perSecond(t.ClosedPerS), ms(&t.LongestMs))
	}
	names := make([]string, 0, len(t.Causes))
	for name := range t.Causes {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(t.Causes[b], t.Causes[a]), strings.Compare(a, b))
	})
	for _, name := range names {
		out.Causes = append(out.Causes, fmt.Sprintf("%s %d", name, t.Causes[name]))
	}
	return out
}

// positive is v, or nil for none.
func positive(v float64) *float64 {
	if v <= 0 {
		return nil
	}
	return finite(v)
}

// capacityMetric is a bound of the strictest goal. Where the limit is known to
// be beyond the range, the bound that is missing is the range's end's other
// side.
func capacityMetric(name string, f *Findings) (v float64, detail string) {
	c := f.Capacity
	if c == nil || len(c.Goals) == 0 {
		return math.NaN(), "this run made no search, and has no capacity to show"
	}
	switch end := search.End(c.Goals[0].End); {
	case name == "capacity" && c.Lower != nil:
		return *c.Lower, c.load(*c.Lower) + " was shown to hold"
	case name == "capacity" && end == search.BelowMin:
		return 0, "not even " + c.load(c.Min) + " holds"
	case name == "capacity_upper" && c.Upper != nil:
		return *c.Upper, c.load(*c.Upper) + " was shown not to hold"
	case name == "capacity_upper" && end == search.AtMax:
		return math.Nextafter(c.Max, math.Inf(1)), "even " + c.load(c.Max) + " holds"
	}
	return math.NaN(), "the search did not find it"
}

// beyond says why a search cannot show what is asked of it: all of its range holds,
// and what is asked for lies behind its end. Empty where it can.
func (c *Capacity) beyond(t scenarios.Threshold) string {
	if c == nil || len(c.Goals) == 0 || t.Metric != "capacity" && t.Metric != "capacity_upper" {
		return ""
	}
	if c.Goals[0].End != string(search.AtMax) || t.Value <= c.Max || t.Metric == "capacity" && t.Holds(c.Max) {
		return ""
	}
	return fmt.Sprintf("this search cannot show it: its range ends at %s, which holds, and what is above that was not tried", c.load(c.Max))
}

// load is a load with its unit.
func (c *Capacity) load(v float64) string {
	s := strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.3f", v), "0"), ".")
	if c.Unit == perSecondUnit {
		return s + "/s"
	}
	return s
}

// judgeSearch sets the verdict of a search, with its reasons, and what else
// would be about a single run.
func (l *log) judgeSearch(f *Findings) {
	c := f.Capacity
	inconclusive := append(l.unfinished(), l.wrong...)
	if len(c.Trials) == 0 {
		inconclusive = append(inconclusive, "no data: no trial was made")
	}
	var fails, notes []string
	for i, g := range c.Goals {
		text := c.goalText(g)
		switch search.End(g.End) {
		case search.Bounded, search.AtMax:
			notes = append(notes, text)
		case search.BelowMin:
			fails = append(fails, text)
		case search.Unfinished:
			if i > 0 && c.Goals[i-1].End != string(search.Bounded) && c.Goals[i-1].End != string(search.AtMax) {
				continue // the goal before says why
			}
			inconclusive = append(inconclusive, text)
		default:
			inconclusive = append(inconclusive, text)
		}
	}
	if why := c.controlText(); why != "" {
		if c.Control.Result == string(search.ControlHeld) {
			notes = append(notes, why)
		} else {
			inconclusive = append(inconclusive, why)
		}
	}
	f.unsound = slices.Clone(inconclusive)
	unanswered := false
	for _, r := range f.Thresholds {
		switch r.Result {
		case Fail:
			fails = append(fails, "threshold failed: "+thresholdLine(r))
		case Inconclusive:
			unanswered = true
			notes = append(notes, "threshold without an answer: "+thresholdLine(r))
		}
	}
	expected, shown := expectations(f)
	if len(f.Expected) > 0 && len(f.Thresholds) == 0 && !shown {
		inconclusive = append(inconclusive, expected...)
	} else {
		notes = append(notes, expected...)
	}
	f.Verdict = judged(inconclusive, fails, unanswered)
	f.Reasons = slices.Concat(inconclusive, fails, notes)
	f.Doubts, f.NotMeasured = c.doubts(), []string{}
	f.Headline = c.headline(f)
}

func (c *Capacity) headline(f *Findings) string {
	if f.Verdict == Inconclusive && len(f.Reasons) > 0 {
		return "Inconclusive: " + strings.TrimSuffix(f.Reasons[0], ".") + "."
	}
	name, _, _ := strings.Cut(c.Name, " (")
	if c.Measure == "establishment_rate" { // entries outlive their connections, so it does not last
		name += fmt.Sprintf(" for %g s", c.TrialS)
	}
	if len(c.Goals) == 0 {
		return name + ": nothing is known."
	}
	s := name + ": " + c.goalText(c.Goals[0])
	if f.Verdict == Fail && !strings.Contains(s, f.Reasons[0]) {
		s += "; " + f.Reasons[0]
	}
	return s + "." + c.beganText() + c.lastsText()
}

// goalText is like: 3000 holds (nothing lost) and 3020 does not.
func (c *Capacity) goalText(g CapacityGoal) string {
	of := fmt.Sprintf("at most %s lost", percent(g.LossRatio))
	if g.LossRatio == 0 {
		of = "nothing lost"
	}
	held := "no load was shown to hold"
	if g.Lower != nil {
		held = c.load(*g.Lower) + " holds"
	}
	switch search.End(g.End) {
	case search.Bounded:
		return fmt.Sprintf("%s (%s) and %s does not%s", held, of, c.load(*g.Upper), because(c.lostOf(g, *g.Upper)))
	case search.AtMax:
		return fmt.Sprintf("even %s, the highest load of the range, holds (%s)", c.load(c.Max), of)
	case search.BelowMin:
		return fmt.Sprintf("not even %s, the lowest load of the range, holds (%s)%s", c.load(c.Min), of, because(c.lostOf(g, c.Min)))
	case search.Generator:
		return fmt.Sprintf("%s (%s), and above that nothing can be measured: %s", held, of, c.firstWhy())
	}
	if g.Upper != nil {
		held += ", " + c.load(*g.Upper) + " does not"
	}
	return fmt.Sprintf("the search ended before the bounds were within %s of each other (%s): %s", percent(g.Width), of, held)
}

// lostOf is the cause that bounds a goal: the one of which most attempts failed
// in the trials at that load that lost too much. Empty where it is unknown, or
// the trials do not agree on it.
func (c *Capacity) lostOf(g CapacityGoal, load float64) string {
	cause := ""
	for _, t := range c.Trials {
		if t.Inconclusive || t.Kind != string(search.Measure) || t.Load != load || t.LossRatio <= g.LossRatio {
			continue
		}
		top := unknownCause
		if len(t.Causes) > 0 {
			top, _, _ = strings.Cut(t.Causes[0], " ")
		}
		if top == unknownCause || cause != "" && top != cause {
			return ""
		}
		cause = top
	}
	return cause
}

// because is like: ", because of table_full"; empty for no cause.
func because(cause string) string {
	if cause == "" {
		return ""
	}
	return ", because of " + cause
}

// goalVerdict is that of one goal by itself.
func (c *Capacity) goalVerdict(g CapacityGoal) Verdict {
	switch search.End(g.End) {
	case search.Bounded, search.AtMax:
		return Pass
	case search.BelowMin:
		return Fail
	}
	return Inconclusive
}

// firstWhy is why the last trial that said nothing did not.
func (c *Capacity) firstWhy() string {
	for _, t := range slices.Backward(c.Trials) {
		if t.Inconclusive && t.Kind == string(search.Measure) && len(t.Why) > 0 {
			return t.Why[0]
		}
	}
	return "the trials there said nothing about the system"
}

// controlText says what the control arm means; empty where it is not needed.
func (c *Capacity) controlText() string {
	needed := slices.ContainsFunc(c.Goals, func(g CapacityGoal) bool { return g.Upper != nil })
	if !needed {
		return ""
	}
	if c.Control.Load == nil {
		return "no control arm shows that " + c.suspect() + " was the limit, and not the generator or the machine: " + cmpOr(c.Control.Why, "it was not reached")
	}
	at := c.load(*c.Control.Load)
	switch search.ControlEnd(c.Control.Result) {
	case search.ControlHeld:
		return fmt.Sprintf("the control arm, %s, holds %s: the generator was not the limit", scenarios.ControlArm(c.Measure), at)
	case search.ControlFailed:
		return fmt.Sprintf("the control arm, %s, does not hold %s either: the generator or the machine was the limit, not %s", scenarios.ControlArm(c.Measure), at, c.suspect())
	}
	return fmt.Sprintf("the control arm at %s does not say whether the generator was the limit: its trials are too few, or say nothing", at)
}

// suspect is what the limit is where the control arm holds.
func (c *Capacity) suspect() string {
	if c.Measure == scenarios.TeardownRate {
		return "what the nodes do to connections"
	}
	return "the table"
}

// doubts are what limits how far the bounds can be trusted.
func (c *Capacity) doubts() []string {
	out := []string{}
	silent := 0
	for _, t := range c.Trials {
		if t.Inconclusive && t.Kind != string(search.Warmup) { // that one counts for nothing anyway
			silent++
		}
	}
	if silent > 0 {
		out = append(out, fmt.Sprintf("%d of %d trials said nothing about the system and were made again", silent, len(c.Trials)))
	}
	if c.Measure == scenarios.TeardownRate {
		return append(out, "torn down is: both sides have sent FIN, and no entry is left in ESTABLISHED. The entries stay in TIME_WAIT, and count against the limit, for nf_conntrack_tcp_timeout_time_wait more")
	}
	if c.Unit == perSecondUnit {
		from := ""
		if c.room.free > 0 {
			from = fmt.Sprintf(", from %s on", plural(c.room.free, "free entry", "free entries"))
		}
		out = append(out, fmt.Sprintf("a rate is shown to hold for %g s%s. Entries outlive their connections: for good the table needs the rate times their timeout, see tablefull report on one of the trials", c.TrialS, from))
	}
	return out
}

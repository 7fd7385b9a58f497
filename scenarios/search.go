package scenarios

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Search makes a scenario the trial of a capacity search: it is run again and
// again with another load, until the highest one that holds is known.
type Search struct {
	Measure     string   `yaml:"measure,omitempty" jsonschema:"enum=establishment_rate,enum=concurrent_connections,enum=teardown_rate,enum=load" jsonschema_description:"What is looked for, in the words of RFC 3511 and RFC 9693. establishment_rate: the highest rate of attempts of which all succeed for the length of a trial (maximum connection establishment rate). concurrent_connections: the most connections that can be open at once, each of which answers a request once all are open (concurrent connection capacity, connection tracking table capacity). teardown_rate: the highest rate at which held connections are closed and each is torn down: the client sends FIN and sees the server's within the timeout, and no entry is left in ESTABLISHED on the nodes (maximum connection tear down rate). load: the highest value of the knob at which attempts succeed. Default: by the knob, concurrent_connections for idle.count, teardown_rate for idle.close_rate, establishment_rate for a rate of attempts, otherwise load."`
	Knob        string   `yaml:"knob" jsonschema:"required" jsonschema_description:"Path of the number that is searched, as --set spells it, for example traffic[0].idle.count or traffic[clients].short_lived.rate: a rate or a whole number of which more is harder. The value it has in the file does not matter."`
	Min         string   `yaml:"min" jsonschema:"required" jsonschema_description:"Lowest load, in the unit of the knob: 100, or 100/s. Where even this does not hold, the search ends at once, and fails."`
	Max         string   `yaml:"max" jsonschema:"required" jsonschema_description:"Highest load."`
	Goals       []string `yaml:"goals,omitempty" jsonschema_description:"Shares of attempts that a good trial may lose, strictest first, each a search goal with bounds of its own, for example 0% and 0.1%. Lost is what failed, and of held connections each one that does not answer in the end. Of several traffics the one that fares worst counts. Default 0%."`
	Width       string   `yaml:"width,omitempty" jsonschema_description:"How far apart the bounds may be, as a share of the upper one, 0.01% to 50%. Default 1%."`
	Trial       Duration `yaml:"trial,omitempty" jsonschema_description:"Length of one trial, in place of duration, 100ms to 1h. Of idle traffic: how long connections are held once the last one is due to be open, which must leave time for a request on each; where left out it does. What closes them at a rate comes on top. Default 5s."`
	DurationSum Duration `yaml:"duration_sum,omitempty" jsonschema_description:"How long trials at one load last together before it is decided at the latest; whole trials. Default three trials: two that agree decide."`
	Exceed      string   `yaml:"exceed,omitempty" jsonschema_description:"Share of the duration sum that bad trials may come to at a load that holds. Default 50%; 0%: a single bad trial is the end."`
	Retries     int      `yaml:"retries,omitempty" jsonschema_description:"How many trials in turn may say nothing about the system, because the generator was the limit or the table was not as it should be, before that load counts as one that cannot be measured, 1 to 20. Default 3."`
	Budget      Duration `yaml:"budget,omitempty" jsonschema_description:"After how long no further trial begins; what is not known by then makes the verdict inconclusive. Default 10m."`
}

const (
	maxGoals  = 8
	maxTrial  = Duration(time.Hour)
	maxBudget = Duration(7 * 24 * time.Hour)
)

// TeardownRate is the Measure of which the control arm goes past the nodes: see
// ControlArm.
const TeardownRate = "teardown_rate"

// ControlArm is what the control arm of a search for measure is, for people. A
// full table does not keep connections from being closed, so more room in it
// would show nothing of a tear-down.
func ControlArm(measure string) string {
	if measure == TeardownRate {
		return "the same traffic past the nodes' tracking and translation"
	}
	return "the same traffic with the whole table free"
}

func (r *Search) defaults(traffic []Traffic) {
	orElse(&r.Measure, measureOf(r.Knob))
	if len(r.Goals) == 0 {
		r.Goals = []string{"0%"}
	}
	orElse(&r.Width, "1%")
	trial := Duration(5 * time.Second)
	for i := range traffic {
		if idle := traffic[i].Idle; idle != nil && idle.ValidateEvery <= maxTrial && traffic[i].Timeout <= maxTimeout {
			trial = max(trial, idle.ValidateEvery+traffic[i].Timeout)
		}
	}
	orElse(&r.Trial, trial)
	orElse(&r.DurationSum, 3*r.Trial)
	orElse(&r.Exceed, "50%")
	orElse(&r.Retries, 3)
	orElse(&r.Budget, Duration(10*time.Minute))
}

// measureOf is what a knob is usually turned for.
func measureOf(knob string) string {
	switch {
	case strings.HasSuffix(knob, ".idle.count"):
		return "concurrent_connections"
	case strings.HasSuffix(knob, ".idle.close_rate"):
		return TeardownRate
	case strings.HasSuffix(knob, ".rate"), strings.HasSuffix(knob, ".open_rate"):
		return "establishment_rate"
	}
	return "load"
}

// A SearchRange is a Search whose texts have been read.
type SearchRange struct {
	Min, Max      float64
	Rate          bool // loads are rates, per s; otherwise whole numbers
	Goals         []float64
	Width, Exceed float64
}

// Range reads the texts. It fails only on a scenario that Validate refuses.
func (s *Scenario) Range() (SearchRange, error) {
	var r SearchRange
	knob, ok := s.knob()
	if s.Search == nil || !ok {
		return r, fmt.Errorf("read search: there is no knob")
	}
	r.Rate = knob.Type() == reflect.TypeFor[Rate]()
	var err error
	for _, x := range []struct {
		to    *float64
		value string
	}{{&r.Min, s.Search.Min}, {&r.Max, s.Search.Max}} {
		if *x.to, err = parseLoad(x.value, r.Rate); err != nil {
			return r, fmt.Errorf("read search: %w", err)
		}
	}
	r.Goals = make([]float64, len(s.Search.Goals))
	for i, g := range s.Search.Goals {
		if r.Goals[i], err = parseShare(g); err != nil {
			return r, fmt.Errorf("read search: %w", err)
		}
	}
	if r.Width, err = parseShare(s.Search.Width); err == nil {
		r.Exceed, err = parseShare(s.Search.Exceed)
	}
	if err != nil {
		return r, fmt.Errorf("read search: %w", err)
	}
	return r, nil
}

// knob is the value that is searched.
func (s *Scenario) knob() (reflect.Value, bool) {
	if s.Search == nil {
		return reflect.Value{}, false
	}
	path, ok := s.numbered(s.Search.Knob)
	if !ok {
		return reflect.Value{}, false
	}
	v, ok := valueAt(reflect.ValueOf(s), path)
	if !ok || !v.CanSet() {
		return v, false
	}
	whole := v.CanInt() && v.Type() != reflect.TypeFor[Duration]()
	return v, whole || v.Type() == reflect.TypeFor[Rate]()
}

// numbered is a path with the numbers of its elements in place of their names.
func (s *Scenario) numbered(path string) (string, bool) {
	steps, err := parsePath(path)
	if err != nil {
		return "", false
	}
	out := ""
	for _, st := range steps {
		if !st.bracket {
			out = join(out, st.text)
			continue
		}
		if _, err := strconv.Atoi(st.text); err == nil {
			out += "[" + st.text + "]"
			continue
		}
		list, ok := valueAt(reflect.ValueOf(s), out)
		if !ok || list.Kind() != reflect.Slice {
			return "", false
		}
		at := -1
		for i := range list.Len() {
			if name := list.Index(i).FieldByName("Name"); name.IsValid() && name.String() == st.text {
				at = i
			}
		}
		if at < 0 {
			return "", false
		}
		out += fmt.Sprintf("[%d]", at)
	}
	return out, true
}

// parseLoad reads a load in the unit of its knob.
func parseLoad(text string, rate bool) (float64, error) {
	if rate {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err != nil {
			return 0, err
		}
		return float64(r), nil
	}
	n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 53)
	if err != nil {
		return 0, &unitError{quote(text) + " is not a whole number, which the knob is", "write for example 4000"}
	}
	return float64(n), nil
}

// parseShare reads a share of 1.
func parseShare(text string) (float64, error) {
	return parseValue(strings.TrimSpace(text), Metric{Name: "this", Kind: Ratio})
}

// At is the scenario of one trial: the knob at load, the length of a trial,
// and nothing of the search, of thresholds and of expectations in it. It fails
// where that is no scenario, with an [Errors].
func (s *Scenario) At(load float64) (*Scenario, error) {
	c, err := s.clone()
	if err != nil {
		return nil, err
	}
	if !c.setKnob(load) {
		return nil, Errors{{Path: "search.knob", Problem: "there is no knob " + quote(s.Search.Knob)}}
	}
	trial, before := s.Search.Trial, s.Duration
	c.Search, c.Thresholds, c.Expect = nil, nil, nil
	c.Duration = c.lasting(trial)
	for i := range c.Traffic {
		if t := &c.Traffic[i]; t.Start+t.Duration >= before && len(c.stagesOf(t)) == 0 {
			t.Duration = c.Duration - t.Start
		}
	}
	c.Defaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}

func (s *Scenario) stagesOf(t *Traffic) []Stage {
	if p := t.Pacing(); p != nil {
		return p.Stages
	}
	return nil
}

// setKnob turns the knob.
func (s *Scenario) setKnob(load float64) bool {
	v, ok := s.knob()
	switch {
	case !ok:
		return false
	case v.CanInt():
		v.SetInt(int64(math.Round(load)))
	default:
		v.SetFloat(load)
	}
	return true
}

// lasting is how long a trial takes: its own length, behind the opening of
// connections that are held, and before their closing.
func (s *Scenario) lasting(trial Duration) Duration {
	var opening float64
	var closing Duration
	for _, t := range s.Traffic {
		if i := t.Idle; i != nil && i.OpenRate > 0 {
			opening = max(opening, t.Start.Seconds()+float64(i.Count)/float64(i.OpenRate))
			closing = max(closing, t.Closing())
		}
	}
	opened := Duration(math.Ceil(min(opening, maxDuration.Seconds())*1000)) * millisecond
	return opened + trial + closing
}

// Untracked is the scenario with the same traffic past the nodes' connection
// tracking: clients send to the pods' own addresses, and the nodes neither
// track nor translate. It fails, with an [Errors], where that is no scenario.
func (s *Scenario) Untracked() (*Scenario, error) {
	c, err := s.clone()
	if err != nil {
		return nil, err
	}
	for i := range c.Services {
		c.Services[i].Headless, c.Services[i].Notrack = true, true
	}
	c.Conntrack.Headroom, c.Conntrack.Max = nil, nil
	c.Defaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// clone is a copy that shares nothing with s.
func (s *Scenario) clone() (*Scenario, error) {
	b, err := s.YAML()
	if err != nil {
		return nil, err
	}
	var c Scenario
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		return nil, fmt.Errorf("copy scenario: %w", err)
	}
	return &c, nil
}

// Unit is the unit of the knob: 1/s, or nothing for a number.
func (r SearchRange) Unit() string {
	if r.Rate {
		return "1/s"
	}
	return ""
}

// Step is what loads are whole multiples of: 1, and for rates the power of ten
// that is fine enough for the width at the lowest load.
func (r SearchRange) Step() float64 {
	if !r.Rate {
		return 1
	}
	step := math.Pow(10, math.Floor(math.Log10(r.Min*r.Width/2)))
	return min(step, 1)
}

// search checks what is searched.
func (v *validator) search() {
	r := v.s.Search
	if r == nil {
		return
	}
	v.oneOf("search.measure", r.Measure, "establishment_rate", "concurrent_connections", TeardownRate, "load")
	v.searchNumbers(r)
	rate, ok := v.searchKnob(r)
	if !ok {
		return
	}
	low, lowOK := v.load("search.min", r.Min, rate)
	high, highOK := v.load("search.max", r.Max, rate)
	if lowOK && highOK && high < low {
		v.fail("search.max", r.Max+" is less than min, which is "+r.Min, "write at least min").needs = []string{"search.min"}
		return
	}
	if len(v.errs) > 0 || !lowOK || !highOK {
		return // what else the ends of the range make wrong follows from these
	}
	for _, end := range []struct {
		path string
		load float64
		text string
	}{{"search.min", low, r.Min}, {"search.max", high, r.Max}} {
		_, err := v.s.At(end.load)
		var list Errors
		if list, ok = err.(Errors); !ok && err != nil { //nolint:errorlint // At says so
			v.fail(end.path, err.Error(), "")
		}
		for _, e := range list {
			v.fail(end.path, fmt.Sprintf("with %s=%s %s: %s", r.Knob, end.text, e.Path, e.Problem), e.Hint).needs = []string{e.Path}
		}
	}
}

// searchNumbers checks what does not depend on the knob.
func (v *validator) searchNumbers(r *Search) {
	if len(r.Goals) > maxGoals {
		v.fail("search.goals", fmt.Sprintf("there are %d", len(r.Goals)), fmt.Sprintf("write at most %d", maxGoals))
		return
	}
	last := -1.0
	for i, text := range r.Goals {
		path := fmt.Sprintf("search.goals[%d]", i)
		g, err := parseShare(text)
		switch {
		case err != nil:
			v.err(path, err)
			continue
		case g >= 1:
			v.fail(path, quote(text)+" is no goal: everything may be lost", "write less than 100%")
		case g <= last:
			v.fail(path, quote(text)+" is not looser than the one before", "write the strictest first, each once")
		}
		last = g
	}
	if w, err := parseShare(r.Width); err != nil {
		v.err("search.width", err)
	} else if w < 0.0001 || w > 0.5 {
		v.fail("search.width", r.Width+" is out of range", "write 0.01% to 50%")
	}
	if e, err := parseShare(r.Exceed); err != nil {
		v.err("search.exceed", err)
	} else if e >= 1 {
		v.fail("search.exceed", r.Exceed+" is out of range", "write 0% to less than 100%")
	}
	v.lasts("search.trial", r.Trial, 100*millisecond, maxTrial)
	v.lasts("search.budget", r.Budget, Duration(time.Second), maxBudget)
	if r.Trial > 0 && (r.DurationSum < r.Trial || r.DurationSum%r.Trial != 0 || r.DurationSum > 100*r.Trial) {
		v.fail("search.duration_sum", fmt.Sprintf("%s is not 1 to 100 whole trials of %s", r.DurationSum, r.Trial), "write for example "+(3*r.Trial).String()).needs = []string{"search.trial"}
	}
	if len(v.s.AbortOn) > 0 {
		v.fail("abort_on", "ends a run, and a trial of a search has to go on to its end", "leave it out")
	}
	v.between("search.retries", int64(r.Retries), 1, 20)
	answered := slices.ContainsFunc(v.s.Traffic, func(t Traffic) bool { return t.Answers() })
	if !answered && len(v.s.Traffic) > 0 {
		v.fail("search", "no traffic waits for an answer, so nobody knows what was lost", "let one of them wait for answers").needs = []string{"traffic"}
	}
	for i, t := range v.s.Traffic {
		if t.Idle == nil || r.Trial < 100*millisecond {
			continue
		}
		others := func(o Traffic) bool { return o.To == t.To && o.Name != t.Name }
		if r.Measure == TeardownRate && t.Closing() > 0 && slices.ContainsFunc(v.s.Traffic, others) {
			v.fail("search.measure", fmt.Sprintf("whose entries in ESTABLISHED are left cannot be told where other traffic goes to %s, too", t.To), "give it a service of its own").needs = []string{"traffic"}
		}
		if need := t.Idle.ValidateEvery + t.Timeout; r.Trial < need {
			v.fail("search.trial", fmt.Sprintf("%s is too short: each of %s's connections must be asked once all are open, which takes validate_every and the timeout, %s", r.Trial, t.Name, need),
				"write at least "+need.String()+", or a shorter validate_every").needs = []string{fmt.Sprintf("traffic[%d]", i)}
		}
	}
}

// searchKnob checks the knob, and says whether it is a rate.
func (v *validator) searchKnob(r *Search) (rate, ok bool) {
	const path = "search.knob"
	steps, err := parsePath(r.Knob)
	if err != nil {
		v.fail(path, err.Error(), "write for example traffic[0].idle.count")
		return false, false
	}
	knob, ok := v.s.knob()
	switch top := steps[0].text; {
	case slices.Contains([]string{"conntrack", "sampling", "seed", "search", "duration"}, top):
		v.fail(path, r.Knob+" is not a load", "choose a number of which more is harder, for example a rate")
		return false, false
	case !ok:
		v.fail(path, "there is no number at "+quote(r.Knob)+" in this scenario", "choose a rate or a whole number that is set, for example "+v.someKnob()).needs = []string{top}
		return false, false
	}
	fits := map[string][]string{
		"concurrent_connections": {".idle.count"},
		"establishment_rate":     {".rate", ".open_rate"},
		TeardownRate:             {".idle.close_rate"},
	}
	if ends, limited := fits[r.Measure]; limited && !slices.ContainsFunc(ends, func(e string) bool { return strings.HasSuffix(r.Knob, e) }) {
		v.fail("search.measure", fmt.Sprintf("%s is not found by turning %s", r.Measure, r.Knob), "turn a knob that ends in "+strings.Join(ends, " or ")+", or leave measure out").needs = []string{path}
	}
	return knob.Type() == reflect.TypeFor[Rate](), true
}

// someKnob is a number of this scenario that can be searched.
func (v *validator) someKnob() string {
	for i := range v.s.Traffic {
		t := &v.s.Traffic[i]
		switch {
		case t.Idle != nil:
			return fmt.Sprintf("traffic[%d].idle.count", i)
		case t.Pacing() != nil && t.Pacing().Rate > 0:
			return fmt.Sprintf("traffic[%d].%s.rate", i, t.Shape())
		}
	}
	return "traffic[0].idle.count"
}

// load reads one end of the range.
func (v *validator) load(path, text string, rate bool) (load float64, ok bool) {
	load, err := parseLoad(text, rate)
	switch {
	case err != nil:
		v.err(path, err)
		return 0, false
	case load <= 0:
		v.fail(path, text+" is no load", "write more than 0")
		return 0, false
	}
	return load, true
}

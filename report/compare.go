package report

// ComparisonVersion is the version of comparison.json.
const ComparisonVersion = 1

// Result says what a comparison of one metric shows.
type Result string

const (
	Better   Result = "better"   // a difference is shown, for the better
	Worse    Result = "worse"    // a difference is shown, for the worse, and larger than the margin
	Small    Result = "small"    // a difference is shown, and is within the margin, or neither is better
	NotShown Result = "~"        // no difference is shown, which is not that there is none
	Untested Result = "untested" // there are too few trials for a test, or no data
)

// A Comparison is what the runs of several arms show beside each other. It is
// also the content of comparison.json, whose keys are never absent.
type Comparison struct {
	Format   int      `json:"format" jsonschema_description:"Version of this document's format."`
	Scenario string   `json:"scenario" jsonschema_description:"Name of the scenario."`
	Verdict  Verdict  `json:"verdict" jsonschema:"enum=pass,enum=fail,enum=inconclusive"`
	Headline string   `json:"headline" jsonschema_description:"The answer in one sentence."`
	Reasons  []string `json:"reasons" jsonschema_description:"Why the verdict is what it is, heaviest first."`
	Warnings []string `json:"warnings" jsonschema_description:"What limits how far the numbers can be trusted."`
	Baseline string   `json:"baseline" jsonschema_description:"The arm that the others are compared with."`
	Trials   int      `json:"trials" jsonschema_description:"Planned trials of each arm; 0 where nobody planned any."`
	Seed     uint64   `json:"seed" jsonschema_description:"Of the order of the runs."`
	Order    []string `json:"order" jsonschema_description:"The runs in the order in which they were made: arm/trial."`
	Test     string   `json:"test" jsonschema_description:"The test that was made; empty for none."`
	Alpha    float64  `json:"alpha" jsonschema_description:"The share of false alarms that all gating metrics together may cause; likewise the others."`

	Arms    []ArmFindings `json:"arms"`
	Metrics []MetricRow   `json:"metrics" jsonschema_description:"Those that decide first."`

	change []string // what to change, where a table was full
	source string   // of the scenario; empty where runs were named
}

// ArmFindings is one arm's runs.
type ArmFindings struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Set         []string        `json:"set" jsonschema_description:"What is different in it."`
	Verdict     Verdict         `json:"verdict" summary:"nullable" jsonschema_description:"By its thresholds and expectations over all its trials; empty where it has none."`
	Reasons     []string        `json:"reasons"`
	Runs        []TrialFindings `json:"runs"`
	Typical     int             `json:"typical" jsonschema_description:"Index of the run that the plots show: the one with the median number of failures; -1 for none."`

	trials []Trial // those that count, in order
}

// TrialFindings is one run.
type TrialFindings struct {
	Trial     int      `json:"trial"`
	Dir       string   `json:"dir"`
	Verdict   Verdict  `json:"verdict" jsonschema_description:"Of the run by itself."`
	Headline  string   `json:"headline"`
	Unsound   []string `json:"unsound" jsonschema_description:"Why nothing can be concluded from it."`
	Discarded string   `json:"discarded" jsonschema_description:"Why it does not count, so that it is made again, but for the last one of a comparison that was cut off; empty where it counts."`
	Seed      uint64   `json:"seed"`
	Started   string   `json:"started"`

	aborted   bool
	disturbed []string
}

// MetricRow is one metric in all arms.
type MetricRow struct {
	Metric string     `json:"metric"`
	Group  string     `json:"group" jsonschema_description:"The name without that of a traffic: what gates and margins are named by."`
	Unit   string     `json:"unit"`
	About  string     `json:"about"`
	Better string     `json:"better" jsonschema:"enum=less,enum=more,enum=neither" jsonschema_description:"Which direction is the better one."`
	Gate   bool       `json:"gate" jsonschema_description:"Whether it decides."`
	Margin string     `json:"margin" jsonschema_description:"How much worse does not matter."`
	Arms   []ArmValue `json:"arms"`

	metric metric
}

// ArmValue is one metric in one arm.
type ArmValue struct {
	Arm        string     `json:"arm"`
	Values     []*float64 `json:"values" jsonschema_description:"By trial; null is never: what the metric is the time of did not happen."`
	Missing    int        `json:"missing" jsonschema_description:"Trials without a value."`
	Median     *float64   `json:"median" jsonschema_description:"null for never, and where there is none."`
	Low        *float64   `json:"low" jsonschema_description:"Of the interval of the median; null is unbounded."`
	High       *float64   `json:"high"`
	Confidence *float64   `json:"confidence" jsonschema_description:"Of that interval; null without one."`
	Text       string     `json:"text" jsonschema_description:"The same for people."`
	Against    *Against   `json:"against" jsonschema_description:"Beside the baseline; null for the baseline itself."`

	values []float64 // +Inf is never
	median float64   // NaN without any
}

// Against is one arm beside the baseline.
type Against struct {
	Result   Result   `json:"result" jsonschema:"enum=better,enum=worse,enum=small,enum=~,enum=untested"`
	Change   *float64 `json:"change" jsonschema_description:"Difference of the medians, in the metric's unit; null where one of them is never, or missing."`
	Relative *float64 `json:"relative" jsonschema_description:"The same as a share of the baseline's."`
	P        *float64 `json:"p" jsonschema_description:"Of the test by itself; null without one."`
	Adjusted *float64 `json:"adjusted_p" jsonschema_description:"Of the test among the others of its family."`
	Mark     string   `json:"mark" jsonschema_description:"For a table: the change where one is shown, else ~."`
	Warnings []string `json:"warnings"`
}

// ExitCode is the process exit code that states the verdict.
func (c *Comparison) ExitCode() int { return ExitCode(&Findings{Verdict: c.Verdict}) }

// Compare says what the trials of an experiment's arms show. It fails for
// nothing: what is missing makes the verdict inconclusive.
func Compare(e *Experiment, trials []Trial) *Comparison {
	c := &Comparison{
		Format: ComparisonVersion, Scenario: e.Scenario, Trials: e.Trials, Seed: e.Seed, Alpha: alpha, source: e.Source,
		Reasons: []string{}, Warnings: []string{}, Order: []string{}, Arms: []ArmFindings{}, Metrics: []MetricRow{},
	}
	for _, t := range trials {
		c.Order = append(c.Order, t.Dir)
	}
	for _, a := range e.Arms {
		c.Arms = append(c.Arms, armFindings(a, trials))
	}
	if len(c.Arms) > 0 {
		c.Baseline = c.Arms[0].Name
	}
	c.measure(e)
	c.test()
	c.differ()
	c.judge(e)
	c.change = c.advise(e)
	return c
}

func armFindings(a ExperimentArm, trials []Trial) ArmFindings {
	out := ArmFindings{Name: a.Name, Description: a.Description, Set: append([]string{}, a.Set...), Reasons: []string{}, Runs: []TrialFindings{}, Typical: -1}
	for _, t := range trials {
		if t.Arm != a.Name {
			continue
		}
		r := TrialFindings{Trial: t.Trial, Dir: t.Dir, Discarded: t.Discarded, Verdict: Inconclusive, Unsound: []string{}}
		switch f := t.Findings; {
		case f == nil:
			r.Unsound = append(r.Unsound, "no data: the run left no log that can be read")
		default:
			r.Verdict, r.Headline, r.Seed, r.Started = f.Verdict, f.Headline, f.Environment.Seed, f.Environment.Started
			r.Unsound = append(r.Unsound, f.unsound...)
			r.aborted, r.disturbed = f.aborted, f.Disturbed()
		}
		out.Runs = append(out.Runs, r)
		if t.Discarded == "" && t.Findings != nil {
			out.trials = append(out.trials, t)
		}
	}
	out.choose()
	return out
}

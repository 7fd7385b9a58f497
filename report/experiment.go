package report

// ExperimentVersion is the version of experiment.json.
const ExperimentVersion = 1

// An Experiment is the runs of a scenario's arms: what was planned before the
// first of them, and what has been done. It is the content of experiment.json,
// which is written anew before each run and after it, so that an experiment
// that was cut off can be told apart from a whole one.
type Experiment struct {
	Format   int             `json:"format"`
	Version  string          `json:"version"` // of the tool
	Scenario string          `json:"scenario"`
	Source   string          `json:"source"` // YAML as it was read
	Sets     []string        `json:"sets"`   // overrides of all arms
	Seed     uint64          `json:"seed"`   // of the order, and of each trial's own
	Trials   int             `json:"trials"` // planned, of each arm
	Arms     []ExperimentArm `json:"arms"`   // the first is what the others are compared with
	Order    []string        `json:"order"`  // planned: arm/trial
	// Gate names the metrics that decide; empty where none does.
	Gate    []string          `json:"gate"`
	Margins map[string]string `json:"margins"` // in place of the metrics' own, by metric
	Runs    []ExperimentRun   `json:"runs"`
	Problem string            `json:"problem"` // why it ended early; empty where it did not
}

// ExperimentArm is one arm.
type ExperimentArm struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Set         []string `json:"set"`
}

// ExperimentRun is one run of an arm.
type ExperimentRun struct {
	Arm   string `json:"arm"`
	Trial int    `json:"trial"` // from 1
	Dir   string `json:"dir"`   // relative to experiment.json
	// Discarded is why the run does not count and was made again: its own
	// conditions, never what it measured. Empty where it counts.
	Discarded string `json:"discarded"`
}

// A Trial is one run of an arm with what it showed. Findings is nil for a run
// of which nothing could be read.
type Trial struct {
	ExperimentRun
	Findings *Findings
}

// Unsound is why nothing can be concluded from the run about the system: it is
// not whole, has no data, or its generator was the limit. Empty where it can.
// Only findings from a run log know it, not those read from summary.json.
func (f *Findings) Unsound() []string { return f.unsound }

// Disturbed is why the run's conditions were not those that were asked for:
// those of Unsound, and what other tables on the machine did to this one. It
// says nothing about what was measured. Empty where they were.
func (f *Findings) Disturbed() []string {
	out := f.unsound
	for i := range f.Nodes {
		if n := &f.Nodes[i]; n.Reclaimed.beforeTime(f) {
			out = append(out[:len(out):len(out)], n.Reclaimed.doubt(n, f))
		}
	}
	return out
}

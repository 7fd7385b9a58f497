package runlog

import "github.com/tablefull/tablefull/report/search"

// Search is what a capacity search looks for, and how.
type Search struct {
	search.Config
	Measure string `json:"measure"` // establishment_rate, concurrent_connections, teardown_rate, load
	Knob    string `json:"knob"`    // path of what is turned
	Unit    string `json:"unit"`    // of loads: 1/s, or empty for a number
	// Predicted is the highest load that the table holds by arithmetic, 0 for
	// unknown or beyond the range. It is where the search begins.
	Predicted float64 `json:"predicted,omitempty"`
	// NoControl is why there is no control arm; empty where there is one.
	NoControl string `json:"no_control,omitempty"`
}

// A Trial is one run of a capacity search, as the search sees it.
type Trial struct {
	search.Trial
	Number int    `json:"number"` // from 1
	Dir    string `json:"dir"`    // of its own log, relative to this one
	// Why it is inconclusive; empty where it is not.
	Why []string `json:"why,omitempty"`
	// Traffic is the one that fared worst, of which Due were due and Lost lost.
	Traffic string `json:"traffic"`
	Due     uint64 `json:"due"`
	Lost    uint64 `json:"lost"`
	// Free is how many entries were free on the fullest node when traffic
	// began, Peak the most it held. Nil where that was not measured.
	Free *int64  `json:"free,omitempty"`
	Peak *uint64 `json:"peak,omitempty"`
	// ClosedPerS is how many connections were torn down per second and LongestMs
	// what one took at most, in ms, in a search for a tear-down rate; else 0.
	ClosedPerS float64 `json:"closed_per_s,omitempty"`
	LongestMs  float64 `json:"longest_ms,omitempty"`
	// Evicted is what early_drop rose by on all nodes: as many were let in at the
	// expense of entries that were there.
	Evicted uint64 `json:"evicted,omitempty"`
	// Causes is why attempts failed, of all traffics.
	Causes map[string]uint64 `json:"causes,omitempty"`
}

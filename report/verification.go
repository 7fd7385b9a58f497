package report

import "fmt"

// Verification is what a run showed that was made again, with as many entries
// free as it needs, and with fewer.
type Verification struct {
	Verdict Verdict             `json:"verdict"`
	Reason  string              `json:"reason"`
	Trials  []VerificationTrial `json:"trials"`
}

// VerificationTrial is one of those runs.
type VerificationTrial struct {
	Dir      string `json:"dir"`
	Free     uint64 `json:"free"`      // entries that were to be free when traffic began
	FreeThen *int64 `json:"free_then"` // and that were
	Expected bool   `json:"expected"`  // to hold
	Holds    bool   `json:"holds"`     // nothing was dropped or evicted
	Dropped  uint64 `json:"dropped"`   // drop and early_drop together
	// Unsound is why its conditions were not those that were asked for, so
	// that it says nothing.
	Unsound []string `json:"unsound"`
}

// TrialOf is what a run with one node says about a need.
func TrialOf(f *Findings, free uint64, dir string) VerificationTrial {
	t := VerificationTrial{Dir: dir, Free: free, Unsound: append([]string{}, f.Disturbed()...)}
	if f.Incomplete {
		t.Unsound = append(t.Unsound, "the run was cut off")
	}
	if len(f.Nodes) != 1 || f.Nodes[0].Samples == 0 {
		t.Unsound = append(t.Unsound, "the node's table was not sampled")
		return t
	}
	n := &f.Nodes[0]
	t.FreeThen = n.HeadroomAtStart
	asked := int64(free) //nolint:gosec // entries of a table
	if why := strangeStart(n, &asked); why != "" {
		t.Unsound = append(t.Unsound, why)
	}
	t.Dropped = n.TableFullDrops + n.Counters["early_drop"]
	t.Holds = n.Knee.Drop == nil && n.Knee.EarlyDrop == nil && t.Dropped == 0
	return t
}

// Judge sets the verdict: pass where each trial was sound and did what was
// expected.
func (v *Verification) Judge() {
	v.Verdict, v.Reason = Pass, "it holds with what it needs, and does not with less"
	if len(v.Trials) == 0 {
		v.Verdict, v.Reason = Inconclusive, "no run was made"
		return
	}
	for _, t := range v.Trials {
		if len(t.Unsound) > 0 {
			v.Verdict, v.Reason = Inconclusive, fmt.Sprintf("the run with %d entries free says nothing: %s", t.Free, t.Unsound[0])
			return
		}
	}
	for _, t := range v.Trials {
		switch {
		case t.Expected && !t.Holds:
			v.Verdict, v.Reason = Fail, fmt.Sprintf("with %d entries free it does not hold: %d were dropped or evicted; do not size from this run", t.Free, t.Dropped)
			return
		case !t.Expected && t.Holds:
			v.Verdict, v.Reason = Fail, fmt.Sprintf("with %d entries free it holds as well: it needs less than was computed", t.Free)
			return
		}
	}
}

func (t VerificationTrial) text() string {
	is := "held"
	if !t.Holds {
		is = fmt.Sprintf("did not hold: %d dropped or evicted", t.Dropped)
	}
	if len(t.Unsound) > 0 {
		is = "says nothing: " + t.Unsound[0]
	}
	return fmt.Sprintf("%d entries free: %s", t.Free, is)
}

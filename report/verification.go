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
	// Others is what else moved the table of a cluster's node; null in a lab,
	// where nothing does, and where that is not known.
	Others *Moved `json:"others"`
	// Unsound is why its conditions were not those that were asked for, so
	// that it says nothing.
	Unsound []string `json:"unsound"`
}

// Moved is by how many entries the connections of others came and went.
type Moved struct {
	Down uint64 `json:"down"`
	Up   uint64 `json:"up"`
}

// What a run on a cluster has to show, as shares of the need: on a node that
// others use, the room is not exactly what was asked for.
const (
	mostRoom  = 1.05 // for the need to be shown to be needed
	lessRoomy = 0.95 // to be less than the need
	leastRoom = 0.85 // to be a tenth less, and not half of it
	// undisturbed is how much others may come to, for that to be kept to.
	undisturbed = 0.03
)

// Wanted is what a verification's run has to show.
type Wanted struct {
	Need  uint64 // entries that the run is said to need at once
	Free  uint64 // that are to be free
	Holds bool   // whether that is enough
}

// ToVerify is how many entries a run's attempts need at once of the one node
// that they enter by, how many the connections of others on it came to
// meanwhile, and that node; or why it cannot be verified.
func (f *Findings) ToVerify() (n *Node, need, others uint64, why string) {
	for i := range f.Nodes {
		if e := f.Nodes[i].Entered; len(f.Nodes) > 1 && (e == nil || e.Due == 0) {
			continue
		}
		if n != nil {
			return nil, 0, 0, "only runs whose traffic enters by one node can be verified"
		}
		n = &f.Nodes[i]
	}
	switch {
	case n == nil:
		return nil, 0, 0, "no node's table was sampled that traffic is known to have entered by"
	case f.Sizing == nil || f.Sizing.Meaningless:
		return nil, 0, 0, "against a flood no limit is a remedy"
	case f.Predicted != nil && len(f.Predicted.UnknownTraffic) > 0:
		return nil, 0, 0, fmt.Sprintf("the entries of %s cannot be computed", f.Predicted.UnknownTraffic[0])
	case n.needs == nil || *n.needs == 0:
		return nil, 0, 0, "what the run needs could not be computed"
	case f.Target != kubernetes:
		return n, *n.needs, 0, ""
	case n.others.walks < 2:
		return nil, 0, 0, fmt.Sprintf("how many entries of others are in %s's table is not known: it was not walked twice", n.Name)
	}
	if o := n.others; float64(max(o.grew(), o.shrank())) > undisturbed*float64(*n.needs) {
		return nil, 0, 0, fmt.Sprintf("the connections of others on %s came and went by %d entries, more than %g %% of the %d that the run needs: choose a node that is kept free for it, or more traffic", n.Name, max(o.grew(), o.shrank()), undisturbed*100, *n.needs)
	}
	return n, *n.needs, n.others.grew(), ""
}

const kubernetes = "kubernetes" // a target

// TrialOf is what a run with one node, or on a cluster, says about a need.
func TrialOf(f *Findings, want Wanted, dir string) VerificationTrial {
	t := VerificationTrial{Dir: dir, Free: want.Free, Expected: want.Holds, Unsound: append([]string{}, f.Disturbed()...)}
	if f.Incomplete {
		t.Unsound = append(t.Unsound, "the run was cut off")
	}
	onCluster := f.Target == kubernetes
	var n *Node
	for i := range f.Nodes {
		x := &f.Nodes[i]
		if onCluster && x.AgedOut == nil { // traffic does not enter by it
			room := int64(want.Free) //nolint:gosec // entries of a table
			if why := lessRoom(x, &room); why != "" {
				t.Unsound = append(t.Unsound, why)
			}
			continue
		}
		if n != nil {
			n = nil
			break
		}
		n = x
	}
	if n == nil || n.Samples == 0 {
		t.Unsound = append(t.Unsound, "the node's table was not sampled")
		return t
	}
	t.FreeThen = n.HeadroomAtStart
	t.Dropped = n.TableFullDrops + n.Counters["early_drop"]
	t.Holds = n.Knee.Drop == nil && n.Knee.EarlyDrop == nil && t.Dropped == 0
	if onCluster {
		t.beside(n, want.Need)
		return t
	}
	asked := int64(want.Free) //nolint:gosec // entries of a table
	if why := strangeStart(n, &asked); why != "" {
		t.Unsound = append(t.Unsound, why)
	}
	return t
}

// beside judges a trial on a node that others use: the room that the run had was
// what was free when traffic began, less what theirs came to, or more by what
// went of it.
func (t *VerificationTrial) beside(n *Node, need uint64) {
	unsound := func(format string, args ...any) { t.Unsound = append(t.Unsound, fmt.Sprintf(format, args...)) }
	if a := n.AgedOut; a.Left > 0 {
		unsound("%s", a.why(n.Name))
	}
	if n.HeadroomAtStart == nil || n.others.walks < 2 {
		unsound("how many entries of %s's table were free for the run, beside those of others, is not known", n.Name)
		return
	}
	t.Others = &Moved{Down: n.others.shrank(), Up: n.others.grew()}
	least, most := float64(*n.HeadroomAtStart)-float64(t.Others.Up), float64(*n.HeadroomAtStart)+float64(t.Others.Down)
	needs := float64(need)
	switch {
	case t.Expected && t.Holds && most > mostRoom*needs, !t.Expected && t.Holds && most > lessRoomy*needs:
		unsound("%s had room for up to %.0f entries, as connections of others ended", n.Name, most)
	case t.Expected && !t.Holds && least < needs, !t.Expected && !t.Holds && least < leastRoom*needs:
		unsound("%s had room for %.0f entries only, beside the connections of others", n.Name, max(0, least))
	}
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
	if t.Others != nil && t.FreeThen != nil {
		is = fmt.Sprintf("(%d when traffic began; those of others grew by up to %d and shrank by up to %d) %s", *t.FreeThen, t.Others.Up, t.Others.Down, is)
	}
	return fmt.Sprintf("%d entries free: %s", t.Free, is)
}

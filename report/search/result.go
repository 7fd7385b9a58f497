package search

// End is how the search for a goal ended.
type End string

const (
	Bounded    End = "bounded"    // the limit lies between lower and upper, which are close enough
	AtMax      End = "at_max"     // even the highest load of the range holds
	BelowMin   End = "below_min"  // not even the lowest load of the range holds
	Generator  End = "generator"  // above lower nothing can be measured: trials there were inconclusive
	Unfinished End = "unfinished" // the budget was used up, or somebody ended the search
)

// A Result is what the trials show about one goal.
type Result struct {
	Goal Goal
	End  End
	// Lower is the highest load that was shown to hold, Upper the lowest that
	// was shown not to. 0 is none.
	Lower, Upper float64
	// Throughput is the conditional throughput at Lower, 0 for none.
	Throughput float64
}

// ControlEnd says what the control arm showed.
type ControlEnd string

const (
	ControlHeld    ControlEnd = "held"     // it carried what the system did not: the generator was not the limit
	ControlFailed  ControlEnd = "failed"   // it failed there as well: the generator or the machine was the limit
	ControlOpen    ControlEnd = "open"     // its trials do not decide that
	ControlNotDone ControlEnd = "not_done" // there is no control arm, or nothing for it to do
)

// A Conclusion is what all trials show.
type Conclusion struct {
	Results []Result // in the order of the goals
	Control ControlEnd
	// ControlLoad is where the control arm was tried; 0 is nowhere.
	ControlLoad float64
}

// Conclude says what these trials show. It can be asked at any time.
func Conclude(c Config, trials []Trial) Conclusion {
	var out Conclusion
	by := byLoad(trials, Measure)
	below := false // a stricter goal is not met at the minimum, and was the end of the search
	for _, g := range c.Goals {
		b := c.boundsOf(g, trials)
		r := Result{Goal: g, Lower: b.low(), Upper: b.upper, End: Unfinished}
		if r.Lower > 0 {
			r.Throughput = ConditionalThroughput(g, c.Trial, r.Lower, conclusive(by[r.Lower]))
		}
		_, more := c.nextFor(g, trials)
		switch {
		case below || more || len(trials) == 0:
		case b.upper > 0 && b.upper <= c.Min && b.top() == b.upper:
			r.End, below = BelowMin, true
		case b.top() == 0:
			r.End = AtMax
		case b.top() == b.fence, r.Lower == 0:
			r.End, below = Generator, r.Lower == 0
		default:
			r.End = Bounded
		}
		out.Results = append(out.Results, r)
	}
	out.Control = ControlNotDone
	load := c.controlLoad(trials)
	if !c.Control || load == 0 {
		return out
	}
	out.ControlLoad, out.Control = load, ControlOpen
	switch Classify(c.Goals[0], c.Trial, conclusive(byLoad(trials, Control)[load])) {
	case LowerBound:
		out.Control = ControlHeld
	case UpperBound:
		out.Control = ControlFailed
	}
	return out
}

package report

import (
	"fmt"
	"slices"
	"strings"
)

// settingsNote says what the settings have room for, where that is more than
// this traffic.
func settingsNote(f *Findings) string {
	if f.Sizing == nil || f.Sizing.besides() == 0 {
		return ""
	}
	s := fmt.Sprintf("They are for this traffic and %s.", prose(f.Sizing.thereText()))
	if f.Sizing.Meaningless {
		s = fmt.Sprintf("They are for the other traffic and %s, and no remedy for the flood.", prose(f.Sizing.thereText()))
	}
	return s
}

// A figure is one number of the first screen.
type figure struct {
	Name  string
	What  string // the name in words
	Value string
	Lines []string
	Kind  string // early, drop, loss or room: its colour in the plots
}

// figures are the three onsets and the headroom.
func figures(f *Findings) []figure {
	head := headNode(f)
	return []figure{
		evictionFigure(f, head),
		dropFigure(f, head),
		lossFigure(f, head),
		roomFigure(head),
	}
}

// evictionFigure is when the kernel began to make room, and how often it did.
func evictionFigure(f *Findings, head *Node) figure {
	g := onsetFigure(f, "early_drop", "entries are evicted", "early", f.Knee.EarlyDrop, counted(head, "early_drop"))
	if head != nil && f.Knee.EarlyDrop != nil && head.Counters["early_drop"] > 0 {
		g.Lines = append(g.Lines, fmt.Sprintf("early_drop +%s in all", grouped(head.Counters["early_drop"])))
	}
	return g
}

// lossFigure is the first attempt that failed. Of several nodes it is that of
// the one that is shown, whose entries it names. Connections that were lost
// later are no failed attempts, and are not hidden either.
func lossFigure(f *Findings, head *Node) figure {
	o, of := f.Knee.ClientLoss, ""
	if len(f.Nodes) > 1 && head != nil && head.Knee.ClientLoss != nil {
		o, of = head.Knee.ClientLoss, head.Name
	}
	g := onsetFigure(f, "client loss", "first attempt that failed", "loss", o, answered(f))
	if of != "" && o.OfferedPerS != nil {
		g.Lines[len(g.Lines)-1] += " to " + of
	}
	if top, _, _ := mainCause(f); top == snatPorts && o != nil && head != nil && head.Ports != nil && head.Ports.early() != "" {
		g.Lines = append(g.Lines, prose(head.Ports.early()))
	}
	for _, t := range f.Traffic {
		if t.HeldLost != nil && *t.HeldLost > 0 {
			g.Lines = append(g.Lines, prose(fmt.Sprintf("but %s lost", plural(*t.HeldLost, "held connection"))))
		}
	}
	return g
}

// dropFigure is the onset of drops by a full table. The kernel counts others
// under the same name.
func dropFigure(f *Findings, head *Node) figure {
	g := onsetFigure(f, "drop", "new connections dropped", "drop", f.Knee.Drop, counted(head, "drop"))
	if n := otherDrops(head); n > 0 {
		g.What = "dropped by a full table"
		g.Lines = append(g.Lines, fmt.Sprintf("drop +%s, the table not full", grouped(n)))
	}
	return g
}

// otherDrops are what a node's kernel counted as drop although its table was
// not full.
func otherDrops(n *Node) uint64 {
	if n == nil || n.Knee.Drop != nil {
		return 0
	}
	return n.Counters["drop"]
}

// counted says whether a counter was read on the node.
func counted(n *Node, counter string) bool {
	if n == nil {
		return false
	}
	_, ok := n.Counters[counter]
	return ok
}

// answered says whether there were attempts of whose end somebody knows.
func answered(f *Findings) bool {
	for _, t := range f.Traffic {
		if !t.OneWay && t.Due > 0 {
			return true
		}
	}
	return false
}

func onsetFigure(f *Findings, name, what, kind string, o *Onset, measured bool) figure {
	g := figure{Name: name, What: what, Kind: kind}
	switch {
	case o == nil && !measured:
		g.Value = "not measured"
		return g
	case o == nil:
		g.Value = "none"
		if f.Incomplete {
			g.Lines = []string{"up to where the log ends"}
		}
		return g
	}
	g.Value = "filling unknown"
	if o.Occupancy != nil {
		g.Value = percent(*o.Occupancy) + " full"
	}
	if o.Entries != nil {
		g.Lines = append(g.Lines, grouped(*o.Entries)+" entries")
	}
	g.Lines = append(g.Lines, fmt.Sprintf("at %s ± %s", moment(o.AtS), plusMinus(o.UncertaintyS)))
	if o.OfferedPerS != nil {
		g.Lines = append(g.Lines, groupedRate(*o.OfferedPerS)+" offered")
	}
	return g
}

func roomFigure(n *Node) figure {
	g := figure{Name: "headroom", What: "free when traffic began", Kind: "room", Value: "not measured"}
	if n == nil || n.HeadroomAtStart == nil {
		return g
	}
	g.Value = grouped(*n.HeadroomAtStart)
	if n.Limit == nil || *n.Limit == 0 {
		return g
	}
	g.Lines = append(g.Lines, "of "+grouped(*n.Limit)+", the limit")
	if n.PeakEntries != nil {
		left := "none"
		if *n.PeakEntries < *n.Limit {
			left = grouped(*n.Limit - *n.PeakEntries)
		}
		g.Lines = append(g.Lines, left+" left at the fullest")
	}
	return g
}

// advice is what to change, from the sizing and nothing else.
type advice struct {
	Do  string   // in one sentence
	Why []string // what it stands on
	Set string   // a setting to paste; empty for none
}

// adviceOf is what to change, of a run or of a search; false where a search has no
// answer, which its reasons say.
func adviceOf(f *Findings) (a advice, is bool) {
	if f.Capacity == nil {
		return advise(f), true
	}
	a = f.Capacity.advise()
	if f.Verdict == Fail && strings.HasPrefix(a.Do, "Nothing") {
		a = advice{Do: "This search does not show what to change: all of its range holds. A search whose range goes further (search.max) would."}
	}
	return a, f.Verdict != Inconclusive
}

// advise is what to change, first of all about what the run failed of most, and then
// about what else made a tenth of the failures.
func advise(f *Findings) advice {
	a := adviseFirst(f)
	if f.Verdict == Live || f.Verdict == Inconclusive && !leftOpen(f) {
		return a
	}
	a.Why = append(slices.Clone(a.Why), otherCauses(f)...)
	return a
}

func adviseFirst(f *Findings) advice {
	s := f.Sizing
	switch {
	case f.Verdict == Live:
		return advice{Do: "Nothing yet: the run is still going."}
	case f.Verdict == Inconclusive:
		if n := headNode(f); n != nil && lowered(n, firstOnset(n.Knee)) != nil {
			a := loweredAdvice(f, n, lowered(n, firstOnset(n.Knee)))
			a.Why = append(a.Why, "The run is inconclusive for the reasons above. They do not touch this: the limit was read, and whatever the generator did has not lowered it.")
			return a
		}
		if leftOpen(f) {
			return unknownAdvice(f)
		}
		return advice{Do: "Nothing, on the strength of this run: it is inconclusive.", Why: []string{"Remove the reasons above, and run it again."}}
	case s != nil && s.Meaningless && tableTrouble(f):
		return advice{
			Do:  "No limit is a remedy: the load includes a flood, and whoever sends twice as much fills twice the table.",
			Why: floodWhy(s),
		}
	}
	if a, is := entryAdvice(f); is {
		return a
	}
	switch {
	case !tableTrouble(f) && failures(f) > 0:
		return otherAdvice(f)
	}
	if !tableTrouble(f) {
		if a, is := unmetAdvice(f); is {
			return a
		}
	}
	switch {
	case s == nil || s.RecommendedLimit == nil || s.NeededEntries == nil:
		return runAdvice(f)
	}
	switch _, limit := s.inAll(); {
	case s.PresentLimit == nil || *s.PresentLimit < limit:
		return raise(f, s)
	case tableTrouble(f):
		return crowded(f, s)
	}
	return advice{
		Do:  fmt.Sprintf("Nothing: leave nf_conntrack_max at %s.", grouped(*s.PresentLimit)),
		Why: []string{fmt.Sprintf("This traffic needs %s entries in the steady state%s, for which a limit of %s would do.", grouped(*s.NeededEntries), prose(s.lateText()), grouped(*s.RecommendedLimit))},
	}
}

// floodWhy is what helps against each kind of flood that there was.
func floodWhy(s *Sizing) []string {
	var out []string
	for _, p := range s.Parts {
		if help := againstFlood(p.State); !p.Counted && p.Entries != nil && !slices.Contains(out, help) {
			out = append(out, help)
		}
	}
	return out
}

// otherAdvice is for attempts that failed while the table held.
func otherAdvice(f *Findings) advice {
	var longest *Stale
	for _, n := range f.Nodes {
		if n.Stale != nil && (longest == nil || n.Stale.MaxS > longest.MaxS) {
			longest = n.Stale
		}
	}
	behind := 0.0
	if longest != nil {
		_, behind = longest.longest()
	}
	failing := 0.0
	for i := range f.Spikes {
		s := &f.Spikes[i]
		if s.StartS == nil || s.EndS == nil {
			continue
		}
		if from, to, _ := s.lasted(); to-from > failing {
			failing = to - from
		}
	}
	var empty *noPodTime // of the action that cost most
	if s := worstSpike(f); s != nil {
		empty = f.withoutPod(s)
	}
	top, _, _ := mainCause(f)
	if a, is := causeAdvice(f, top); is {
		return a
	}
	switch {
	case len(f.Causes) == 0 || f.Causes[0].Cause != staleBackend || longest == nil || failing == 0:
		return advice{Do: "Not the limit: the table held, and the attempts failed for another cause.", Why: []string{"See the causes and their evidence below."}}
	case empty != nil:
		return noPodAdvice(f, empty)
	case outlivedRules(f, failing > 3*behind+1): // of pods that end one after the other, each is behind on its own
		return advice{
			Do:  "Not the limit: entries outlived the pods that they lead to.",
			Why: []string{fmt.Sprintf("Attempts failed for %s, and no backend was out of date for longer than %s: whoever has an old entry is led by it, whatever the rules say.", stretch(failing), stretch(behind)), f.lingering()},
		}
	}
	if n, healed := hungProxy(f); healed != nil {
		return advice{
			Do:  fmt.Sprintf("Not the limit: the proxy of %s stopped following the endpoints. Find out why, watch whether changes wait for its next synchronisation, and restart one that hangs.", n),
			Why: append([]string{fmt.Sprintf("%s, until %s. Of kube-proxy that shows in its metrics: kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds runs ahead of kubeproxy_sync_proxy_rules_last_timestamp_seconds; the age of the latter alone can grow on a quiet cluster, too. One that is stopped answers neither /metrics nor /healthz, so raise an alarm where these fail as well.", longest.outOfDate(), spikeName(healed))}, keptAdvice(f)...),
		}
	}
	return advice{
		Do:  "Not the limit: nodes sent to pods that were gone. Shorten the time for which they are behind, or let pods serve on for longer than that.",
		Why: append([]string{longest.outOfDate() + ". Pods that are told to end serve on during a preStop sleep."}, keptAdvice(f)...),
	}
}

// hungProxy is the node whose proxy was behind until it was resumed or
// restarted, and the action by which it was; nil where that was not what ended
// the failures.
func hungProxy(f *Findings) (node string, healed *Spike) {
	for i := range f.Spikes {
		s := &f.Spikes[i]
		if !calmed(s) || s.Kind != "restart_proxy" && s.Kind != "resume_proxy" {
			continue
		}
		for _, n := range f.Nodes {
			if (len(s.Nodes) == 0 || slices.Contains(s.Nodes, n.Name)) && staleUntil(n.Stale, s.BeginS, s.DoneS) {
				return n.Name, s
			}
		}
	}
	return "", nil
}

// calmed says whether failures ended with an action. Single ones may follow, of
// a source port that is used again while the entry of a failed attempt is there.
func calmed(s *Spike) bool {
	if s.StoppedS != nil {
		return true
	}
	return s.StartS == nil && s.WatchedToS != nil && *s.WatchedToS-s.BeginS >= calm && s.After < s.Before/20
}

// staleUntil says whether a backend that had been stale for longer than a proxy
// takes that is well (kube-proxy: 1 s between two synchronisations) ceased to be
// while the action went on.
func staleUntil(s *Stale, begin float64, done *float64) bool {
	if s == nil || done == nil {
		return false
	}
	return slices.ContainsFunc(s.Backends, func(b StaleBackend) bool {
		return b.What == "stale" && b.Ended && b.ToS-b.FromS > 2 && b.ToS >= begin-0.5 && b.ToS <= *done+0.5
	})
}

// remedies are what to do about the causes that say by themselves what is to be
// changed.
var remedies = map[string]advice{
	notProgrammed: {
		Do:  "Not the limit: there were usable pods, and the node that they entered by had not programmed any of them yet. Keep one usable pod at all times.",
		Why: []string{"A proxy hears of an endpoint after it is ready, and synchronises at most once a second (kube-proxy: minSyncPeriod). Which endpoint, and until when, is said below."},
	},
	backendGone: {
		Do:  "Not the limit: pods ended before they had answered. Let them finish what they have begun, and give them terminationGracePeriodSeconds for it.",
		Why: []string{"Their entries led to pods that were usable when they were sent. A pod that crashed or was killed cannot finish anything."},
	},
	backendReset: {
		Do:  "Not the limit: the pods ended connections that stood. What to change is in the application: its own log says why it resets or closes them.",
		Why: []string{"The node's invalid counter did not rise with them, so conntrack did not make them."},
	},
	backendRefused: {
		Do:  "Not the limit: pods refused connections, because nothing listens on the port that they were sent to. Let them be ready only while something does.",
		Why: []string{"A readiness probe of that very port sees to it."},
	},
	backendSilent: {
		Do:  "Not the limit: connections stood, and pods did not answer in time. Give the service more pods or more CPU, or the clients more time.",
		Why: []string{"What a pod was busy with, its own log and its CPU time say, and not this run."},
	},
	listenOverflow: {
		Do:  "Not the limit: the server does not take connections in as fast as they come. Give it a longer listen queue (backlog, net.core.somaxconn), or more pods.",
		Why: []string{"Its kernel counted what it threw away in front of a full listen queue (ListenOverflows)."},
	},
	invalidReset: {
		Do:  "Not the limit: packets that conntrack calls invalid passed untranslated, and their receiver reset the connection. Set nf_conntrack_tcp_be_liberal=1.",
		Why: []string{"See the cause and its evidence below. kube-proxy sets it with conntrack.tcpBeLiberal, and does not set it back to 0 without."},
	},
}

// tableTrouble says whether the table was short of room, by the kernel's
// counters or by what attempts failed of. Buckets or source ports that were too
// few are no such trouble: a higher limit is no remedy.
func tableTrouble(f *Findings) bool {
	if f.Knee.EarlyDrop != nil || f.Knee.Drop != nil {
		return true
	}
	for _, c := range f.Causes {
		if byRoom(c.Cause) {
			return true
		}
	}
	return false
}

func failures(f *Findings) (n uint64) {
	for _, t := range f.Traffic {
		n += t.Failed
	}
	return n
}

func runAdvice(f *Findings) advice {
	s := f.Sizing
	switch {
	case s != nil && s.RunNeeded != nil && tableTrouble(f):
		return advice{
			Do:  fmt.Sprintf("A limit of %s would have held this run; what lasting load needs cannot be computed.", grouped(*s.RunNeeded)),
			Why: []string{prose("That is " + s.RunNeededHow + ".")},
		}
	case tableTrouble(f):
		return advice{Do: "The limit is too low for this load; by how much cannot be computed from this run."}
	}
	return advice{Do: "Nothing: the table held."}
}

// raise is for a limit that is too low for good, for this traffic and what was
// there. What would have held just this run, which ends, comes after it.
func raise(f *Findings, s *Sizing) advice {
	needed, limit := s.inAll()
	a := advice{Do: fmt.Sprintf("Set nf_conntrack_max to at least %s", grouped(limit)), Set: s.Sysctl}
	if s.PresentLimit != nil {
		a.Do += fmt.Sprintf(" (now %s)", grouped(*s.PresentLimit))
	}
	if s.besides() > 0 {
		a.Do += ", or make room"
	}
	a.Do += "."
	if head := headNode(f); s.besides() > 0 && head != nil && head.HeadroomAtStart != nil {
		a.Why = append(a.Why, fmt.Sprintf("%s were free when traffic began.", grouped(*head.HeadroomAtStart)))
	}
	if s.besides() > 0 {
		a.Why = append(a.Why, fmt.Sprintf("This traffic needs %s entries in the steady state, %s with %s%s.", grouped(*s.NeededEntries), grouped(needed), prose(s.thereText()), prose(s.lateText())))
	} else {
		a.Why = append(a.Why, fmt.Sprintf("This traffic needs %s entries in the steady state%s, on a node that tracks nothing else.", grouped(*s.NeededEntries), prose(s.lateText())))
	}
	if margin := s.marginText(); margin != "" {
		a.Why = append(a.Why, "Its margin: "+prose(margin)+".")
	}
	if s.RunNeeded != nil && tableTrouble(f) && *s.RunNeeded < limit {
		a.Why = append(a.Why, fmt.Sprintf("A limit of %s would have held just this run.", grouped(*s.RunNeeded)))
	}
	a.Why = append(a.Why, fewerEntries(f)...)
	a.Why = append(a.Why, overwritten)
	if s.MemoryBytesMin != nil && s.MemoryBytesMax != nil {
		a.Why = append(a.Why, fmt.Sprintf("Memory: %s to %s when full.", byteSize(s.memoryMin(limit)), byteSize(s.memoryMax(limit))))
	}
	return a
}

// overwritten is what becomes of a limit that is set by sysctl alone (SetMax in
// kube-proxy's conntrack.go, sysctls.go from 1.36 on).
const overwritten = "Where kube-proxy runs, set it in its configuration (conntrack.min and maxPerCore): releases up to 1.36 write their own limit at each start over one set by sysctl alone, unless maxPerCore is 0."

// fewerEntries is what helps where an attempt takes more than one.
func fewerEntries(f *Findings) []string {
	switch {
	case costly(f) == "":
		return nil
	case f.gateway:
		return []string{"Fewer entries per attempt help as well: keep-alive before and behind the gateway."}
	}
	return []string{"Fewer entries per attempt help as well."}
}

// crowded is a table that is large enough for this traffic and was full all
// the same, because of what was there before.
func crowded(f *Findings, s *Sizing) advice {
	a := advice{Do: fmt.Sprintf("Make room: the limit of %s is enough for this traffic alone, but not for what was there before.", grouped(*s.PresentLimit))}
	if s.RunNeeded != nil && *s.RunNeeded > *s.PresentLimit {
		a.Do = fmt.Sprintf("Make room, or set nf_conntrack_max to at least %s, which would have held this run.", grouped(*s.RunNeeded))
		a.Why = append(a.Why, overwritten)
	}
	lasting := fmt.Sprintf("In the steady state, a load like this adds %s entries", grouped(*s.NeededEntries))
	if head := headNode(f); head != nil && head.StartEntries != nil && head.HeadroomAtStart != nil {
		what := ""
		if head.Census != nil && 2*head.Census.Ballast > *head.StartEntries {
			what = ", most of them ballast: entries of ours that stand for other load"
		}
		a.Why = append(a.Why, fmt.Sprintf("%s were free when traffic began. %s entries were there%s.", grouped(*head.HeadroomAtStart), grouped(*head.StartEntries), what))
		lasting += fmt.Sprintf(": %s with those, if they stay", grouped(*head.StartEntries+*s.NeededEntries))
	}
	a.Why = append(a.Why, fewerEntries(f)...)
	a.Why = append(a.Why, fmt.Sprintf("%s. Alone it would do with a limit of %s.", lasting, grouped(*s.RecommendedLimit)))
	return a
}

package watch

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tablefull/tablefull/report/runlog"
)

// Outlook is whether and when the table will be full, for people.
func (t *Table) Outlook() string {
	switch t.Full.When {
	case NoLimit:
		return "no limit: nf_conntrack_max is 0"
	case Now:
		return "FULL: what needs a new entry is dropped, unless another can be dropped early"
	case Growing:
		in, early, late := Duration(*t.Full.In), Duration(*t.Full.Earliest), Duration(*t.Full.Latest)
		if early == late {
			return fmt.Sprintf("full in %s at %s of the last %s", in, t.Growth, Duration(t.Growth.Over))
		}
		return fmt.Sprintf("full in %s (%s to %s) at %s of the last %s", in, early, late, t.Growth, Duration(t.Growth.Over))
	case Steady, Shrinking:
		return fmt.Sprintf("%s in the last %s: %s", t.Full.When, Duration(t.Growth.Over), t.Growth)
	}
	return fmt.Sprintf("when it is full is not known before %d s", minStretches)
}

// String is like: +340/s (+320 to +351).
func (g *Growth) String() string {
	return fmt.Sprintf("%s/s (%s to %s)", signed(g.PerS), signed(g.Low), signed(g.High))
}

// Turned is what comes and goes, for people, or why that is not known yet.
func (t *Table) Turned() string {
	if t.Census == nil || t.Census.Turnover == nil {
		return "new and gone entries: known after the second walk over the table"
	}
	v := t.Census.Turnover
	perS := func(n uint64) string {
		s := Rate(float64(n) / v.Over)
		if v.OneIn > 1 {
			s += " ± " + Rate(2*math.Sqrt(float64(v.OneIn*n))/v.Over)
		}
		return s
	}
	return fmt.Sprintf("at least %s new/s, %s gone/s (walks %s apart)", perS(v.Came), perS(v.Went), Duration(v.Over))
}

// Duration is s in one unit, for people.
func Duration(s float64) string {
	switch {
	case s < 10:
		return strconv.FormatFloat(s, 'f', 1, 64) + " s"
	case s < 120:
		return strconv.FormatFloat(s, 'f', 0, 64) + " s"
	case s < 2*3600:
		return strconv.FormatFloat(s/60, 'f', 0, 64) + " min"
	case s < 2*86400:
		return strconv.FormatFloat(s/3600, 'f', 1, 64) + " h"
	case s < 1000*86400:
		return strconv.FormatFloat(s/86400, 'f', 0, 64) + " days"
	}
	return "more than 1,000 days"
}

// Rate is v with as many digits as it is worth.
func Rate(v float64) string {
	if math.Abs(v) >= 10 {
		return Count(uint64(math.Round(math.Abs(v))))
	}
	return strings.TrimSuffix(strconv.FormatFloat(math.Abs(v), 'f', 1, 64), ".0")
}

func signed(v float64) string {
	switch s := Rate(v); {
	case s == "0":
		return "0"
	case v < 0:
		return "-" + s
	default:
		return "+" + s
	}
}

// Count writes n with commas between thousands.
func Count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Telling are the kernel's counters that say that something went wrong, the most
// important ones first.
var Telling = []string{"drop", "early_drop", "insert_failed", "invalid", "clashres", "chainlength", "chain_toolong", "chaintoolong", "search_restart", "icmp_error"}

// Moved are the counters that moved since the watch began, in two parts: those
// that say that something went wrong, and the others.
func (t *Table) Moved() (wrong, others []string) {
	say := func(name string) string {
		s := name + " +" + Count(t.Counters[name])
		if r := t.PerS[name]; r > 0 {
			s += " (" + Rate(r) + "/s)"
		}
		return s
	}
	var names []string
	for name, n := range t.Counters {
		if n > 0 && !slices.Contains(Telling, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range Telling {
		if t.Counters[name] > 0 {
			wrong = append(wrong, say(name))
		}
	}
	for _, name := range names {
		others = append(others, say(name))
	}
	return wrong, others
}

// A Heavy is somebody with many entries, or a state they are in.
type Heavy struct {
	Name  string
	Count string  // or a range of it
	Share float64 // of all that the walk met; of a range, its lower end
}

// Heaviest are the sources and the services with most entries, at most n of
// each. Only those are named that have at least half of their count for
// certain: what the sketch says of the others is its own error. The last lines
// say how many entries any other has at most, where that is not all.
func (c *Census) Heaviest(n int) (sources, services []Heavy, otherSource, otherService string) {
	var counts [][2]uint64
	var names []string
	for _, s := range c.Sources {
		counts, names = append(counts, [2]uint64{s.Count, s.Error}), append(names, s.Addr.String())
	}
	sources, otherSource = c.heavy(names, counts, n)
	names, counts = nil, nil
	for _, s := range c.Services {
		counts, names = append(counts, [2]uint64{s.Count, s.Error}), append(names, Service(s))
	}
	services, otherService = c.heavy(names, counts, n)
	return sources, services, otherSource, otherService
}

// Service is like: tcp 10.96.0.1:443.
func Service(s runlog.TopService) string {
	if s.Addr.Port() == 0 {
		return s.Proto + " " + s.Addr.Addr().String()
	}
	return s.Proto + " " + s.Addr.String()
}

func (c *Census) heavy(names []string, counts [][2]uint64, n int) (out []Heavy, other string) {
	for i, k := range counts {
		count, sure := k[0], k[0]-k[1]
		if len(out) == n || sure*2 < count {
			return out, "any other: at most " + Count(count)
		}
		h := Heavy{Name: names[i], Count: Count(count), Share: float64(sure) / float64(max(c.Entries, 1))}
		if sure < count {
			h.Count = Count(sure) + " to " + Count(count)
		}
		out = append(out, h)
	}
	return out, ""
}

// Line is the table in one line, for logs.
func (t *Table) Line() string {
	s := t.begin() + t.Filling() + "; " + t.Outlook()
	if wrong, _ := t.Moved(); len(wrong) > 0 {
		s += "; " + strings.Join(wrong, ", ")
	}
	return s
}

// Filling is like: 48 of 262,144 entries (0.0 %).
func (t *Table) Filling() string {
	if t.Limit == 0 {
		return Count(t.Entries) + " entries"
	}
	// Cut and not rounded: 100 % is said of a full table alone.
	return fmt.Sprintf("%s of %s entries (%.1f %%)", Count(t.Entries), Count(t.Limit), math.Floor(1000*float64(t.Entries)/float64(t.Limit))/10)
}

func (t *Table) clock() string {
	if _, after, ok := strings.Cut(t.Time, "T"); ok && len(after) >= 8 {
		return after[:8]
	}
	return fmt.Sprintf("%.0f s", t.At)
}

// begin is how a line begins.
func (t *Table) begin() string {
	if t.Named {
		return t.clock() + " " + t.Node + " "
	}
	return t.clock() + " "
}

// WalkLine is what the newest walk found, in one line.
func (t *Table) WalkLine() string {
	c := t.Census
	if c == nil {
		return ""
	}
	var parts []string
	for i, s := range c.States {
		if i == 5 {
			parts = append(parts, "...")
			break
		}
		parts = append(parts, strings.TrimSpace(s.Proto+" "+s.State)+" "+Count(s.Entries))
	}
	if len(parts) == 0 {
		parts = []string{"no entry"}
	}
	sources, services, _, _ := c.Heaviest(3)
	for _, list := range []struct {
		name string
		of   []Heavy
	}{{"from", sources}, {"to", services}} {
		for i, h := range list.of {
			if i == 0 {
				parts = append(parts, "; most "+list.name+" "+h.Name+" "+h.Count)
			} else {
				parts = append(parts, h.Name+" "+h.Count)
			}
		}
	}
	s := strings.ReplaceAll(strings.Join(parts, ", "), ", ; ", "; ")
	if c.Turnover != nil {
		s += "; " + t.Turned()
	}
	return fmt.Sprintf("%swalk of %.2f s: %s", t.begin(), c.Took, s)
}

// CostLine is Costs, with whose they are where there are several.
func (t *Table) CostLine() string {
	if t.Named {
		return t.Node + ": " + t.Costs()
	}
	return t.Costs()
}

// Costs is what watching costs, for people.
func (t *Table) Costs() string {
	s := fmt.Sprintf("watching has used %.2f %% of one CPU", 100*t.Cost.Share)
	if t.Cost.Share < 0.00005 {
		s = "watching has used less than 0.01 % of one CPU"
	}
	if t.Census != nil {
		s += fmt.Sprintf(", the last walk %.3f s of it", t.Census.CPU)
	}
	if t.Cost.Lost > 0 {
		s += fmt.Sprintf("; %s samples were not taken in time", Count(t.Cost.Lost))
	}
	return s
}

package report

import (
	"fmt"
	"strconv"

	"github.com/tablefull/tablefull/report/runlog"
)

// A flush is entries that were deleted from a node's table at one moment.
type flush struct {
	at      float64
	node    string
	entries uint64
}

// addFlush notes what was deleted from the host's table.
func (l *log) addFlush(r *runlog.Record) {
	if n, err := strconv.ParseUint(r.Event.Fields["entries"], 10, 64); err == nil && n > 0 && len(l.flushes) < maxConditions {
		l.flushes = append(l.flushes, flush{r.T, r.Host, n})
	}
}

// flusher is the action that did it; nil where it was somebody else.
func (l *log) flusher(x flush) (by *act) {
	for _, a := range l.cluster.acts {
		if a.kind == "flush" && a.begin <= x.at && !(a.end < x.at) { // NaN: it goes on
			by = a
		}
	}
	return by
}

// flushText is like: flush deleted 500 entries from node1's table at 3.9 s.
func (l *log) flushText(x flush) string {
	by := "somebody"
	if a := l.flusher(x); a != nil {
		by = a.name
		if a.name != a.kind {
			by += " (" + a.kind + ")"
		}
	}
	return fmt.Sprintf("%s deleted %s from %s table at %s", by, plural(x.entries, "entry", "entries"), whose(x.node), seconds(x.at))
}

// flushed is the flush that tear-downs failed of, and how many look-ups show it;
// nil where none does. What is being closed has an entry, and one of which a FIN
// was not answered has it for minutes more. So none, milliseconds after each
// tear-down that failed and was due behind the flush, is the flush's doing.
func (l *log) flushed(t *traffic) (by *flush, looks int) {
	for i := range l.flushes {
		x := &l.flushes[i]
		looks = 0
		for _, u := range t.unclosedLooks {
			if u.due >= x.at && u.found {
				return nil, 0
			}
			if u.due >= x.at {
				looks++
			}
		}
		if looks > 0 {
			return x, looks
		}
	}
	return nil, 0
}

// lostAtFlush says how many connections were lost at their first use after a
// flush; empty for none.
func (l *log) lostAtFlush(t *traffic) string {
	for _, x := range l.flushes {
		n := 0
		for _, o := range t.lostOnes {
			if o.at >= x.at && o.at-o.quiet < x.at {
				n++
			}
		}
		if n > 0 {
			return fmt.Sprintf("%d were lost when they were used for the first time after %s", n, l.flushText(x))
		}
	}
	return ""
}

// unclosedBy is what a flush cost connections that were being closed, which are no
// attempts; empty for nothing.
func unclosedBy(f *Findings, s *Spike) string {
	for _, t := range f.Traffic {
		d := t.TearDown
		if d == nil || d.flushedBy == nil || d.flushedBy.name != s.Action || d.flushedBy.number != s.Number {
			continue
		}
		return "; " + d.failedText(t.Name)
	}
	return ""
}

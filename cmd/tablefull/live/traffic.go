package live

import (
	"fmt"
	"strconv"

	"github.com/tablefull/tablefull/report/watch"
	"github.com/tablefull/tablefull/runner"
)

// traffic is a table with two lines per traffic: the newest whole second, and
// everything so far.
func (f *frame) traffic() {
	if len(f.Traffics) == 0 || !f.Begun {
		return
	}
	if f.narrow {
		f.briefly()
		return
	}
	f.gap()
	f.put(24, line{{fmt.Sprintf("%-10s %-8s%11s%11s%9s%10s%10s%9s", "traffic", "", "offered", "ok", "failed", "unstarted", "in flight", "late"), dim}})
	for _, name := range f.Traffics {
		t := f.Traffic[name]
		f.rates(clean(name), t)
		f.totals(t)
		if t.Held > 0 || t.Lost > 0 {
			f.put(22, text(fmt.Sprintf("%-10s held %s connections, %s of them answering, %s lost", "", watch.Count(t.Held), watch.Count(t.Validated), watch.Count(t.Lost))))
		}
	}
}

func (f *frame) rates(name string, t runner.TrafficProgress) {
	r := []rune(name)
	if len(r) > 10 {
		name = string(r[:9]) + "~"
	}
	ok := watch.Count(t.Last.OK)
	if t.OneWay {
		ok = "?"
	}
	l := line{{fmt.Sprintf("%-10s ", name), bold}}
	l = l.add(fmt.Sprintf("%-8s%11s", "a second", watch.Count(t.Last.Due))).in(green, fmt.Sprintf("%11s", ok))
	f.put(21, l.in(red, fmt.Sprintf("%9s", watch.Count(t.Last.Failed))).in(yellow, fmt.Sprintf("%10s", watch.Count(t.Last.NotStarted))))
}

func (f *frame) totals(t runner.TrafficProgress) {
	ok, flight := watch.Count(t.OK), watch.Count(t.InFlight())
	if t.OneWay {
		ok, flight = "?", "?" // nobody answers, so nobody knows
	}
	late := ""
	if t.Due > 0 {
		late = share(t.Late, t.Due)
	}
	f.put(23, text(fmt.Sprintf("%-10s %-8s%11s%11s%9s%10s%10s%9s", "", "so far", watch.Count(t.Due), ok, watch.Count(t.Failed), watch.Count(t.NotStarted), flight, late)))
}

// briefly is one line of it for each traffic.
func (f *frame) briefly() {
	for _, name := range f.Traffics {
		t := f.Traffic[name]
		l := text("")
		if len(f.Traffics) > 1 {
			l = l.in(bold, clean(name)+" ")
		}
		l = l.add(watch.Count(t.Last.Due) + "/s ")
		if !t.OneWay {
			l = l.in(green, "ok "+watch.Count(t.Last.OK)+" ")
		}
		f.put(8, l.in(red, "failed "+watch.Count(t.Last.Failed)))
		f.put(28, text(fmt.Sprintf("so far %s, failed %s", watch.Count(t.Due), watch.Count(t.Failed))))
	}
}

// share is n of of in percent: never 0 or 100 where it is only nearly so.
func share(n, of uint64) string {
	switch p := float64(n) / float64(of) * 100; {
	case n == 0:
		return "0 %"
	case p < 0.01:
		return "<0.01 %"
	case n < of && p > 99.99:
		return ">99.99 %"
	case p < 10:
		return strconv.FormatFloat(p, 'f', 2, 64) + " %"
	default:
		return strconv.FormatFloat(p, 'f', 0, 64) + " %"
	}
}

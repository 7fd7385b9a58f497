package report

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tablefull/tablefull/report/runlog"
)

// noPodTime is a stretch of time, in s of run time, for which a service had no
// usable endpoint anywhere.
type noPodTime struct {
	service  string
	from, to float64
}

// noPodTimes are those of all services.
func (l *log) noPodTimes() (out []noPodTime) {
	for _, name := range slices.Sorted(maps.Keys(l.cluster.services)) {
		s := l.cluster.services[name]
		for i := 0; i < len(s.t); i++ {
			if len(runlog.Usable(s.states[i])) > 0 {
				continue
			}
			from := s.t[i]
			for i+1 < len(s.t) && len(runlog.Usable(s.states[i+1])) == 0 {
				i++
			}
			to := max(from, l.lastT)
			if i+1 < len(s.t) {
				to = s.t[i+1]
			}
			out = append(out, noPodTime{name, from, to})
		}
	}
	return out
}

// withoutPod is the stretch without a usable pod that makes up at least half of
// the time for which attempts of that service failed around an action; nil
// where there is none.
func (f *Findings) withoutPod(s *Spike) *noPodTime {
	if s.StartS == nil || s.EndS == nil {
		return nil
	}
	for i := range f.noPod {
		n := &f.noPod[i]
		if slices.ContainsFunc(f.Traffic, func(t Traffic) bool { return t.To == n.service && t.Failed > 0 }) &&
			min(n.to, *s.EndS)-max(n.from, *s.StartS) >= (*s.EndS-*s.StartS)/2 {
			return n
		}
	}
	return nil
}

// noPodAdvice is for attempts that failed because of entries to pods that were
// gone, while there was no other that they could have led to.
func noPodAdvice(n *noPodTime) advice {
	return advice{
		Do: fmt.Sprintf("Not the limit: %s had no usable pod. Keep one replica at all times.", n.service),
		Why: []string{
			fmt.Sprintf("It had none for %s, from %s to %s: nothing that was sent to it could succeed. The entries that still led to pods that were gone only turned a refusal into silence.", stretch(n.to-n.from), seconds(n.from), seconds(n.to)),
			"kube-proxy deletes UDP entries to pods that are gone, but in 1.33 to 1.36 not of a service that has no serving pod at all: only when one comes back.",
		},
	}
}

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

// during counts what failed of what was due in each of these stretches, and in that
// of a spike.
func (f failing) during(list []noPodTime, from, to float64) (n []float64) {
	for _, x := range list {
		n = append(n, f.tallied(max(from, x.from), min(to, x.to)).n)
	}
	return n
}

// withoutPod is the stretch without a usable pod in which at least half of the
// attempts were due that failed around an action, where any of them went to that
// service; nil where there is none. What the rules were makes no difference then.
func (f *Findings) withoutPod(s *Spike) *noPodTime {
	if s.StartS == nil || s.EndS == nil {
		return nil
	}
	for i := range f.noPod {
		n := &f.noPod[i]
		if slices.ContainsFunc(f.Traffic, func(t Traffic) bool { return t.To == n.service && t.Failed > 0 }) &&
			i < len(s.emptied) && s.Failures > 0 && 2*s.emptied[i] >= float64(s.Failures) {
			return n
		}
	}
	return nil
}

// noPodAdvice is for attempts that failed because of entries to pods that were
// gone, while there was no other that they could have led to.
func noPodAdvice(f *Findings, n *noPodTime) advice {
	a := advice{
		Do:  fmt.Sprintf("Not the limit: %s had no usable pod. Keep one usable at all times, which takes two replicas where pods are replaced or deleted.", n.service),
		Why: []string{fmt.Sprintf("It had none for %s, from %s to %s: nothing that was sent to it could succeed. What still led to pods that were gone only turned a refusal into silence.", stretch(n.to-n.from), seconds(n.from), seconds(n.to))},
	}
	if f.sendsDatagrams() {
		a.Why = append(a.Why, "kube-proxy deletes UDP entries to pods that are gone, but in 1.33 to 1.36 not of a service that has no serving pod at all: only when one comes back.")
	}
	return a
}

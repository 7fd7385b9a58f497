package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tablefull/tablefull/report"
)

// found is what the analysis says of the records so far. It is said anew each
// time: an attempt's cause can become known later.
type found struct {
	causes                                  *prometheus.GaugeVec
	onsetTime, onsetEntries, onsetOccupancy *prometheus.GaugeVec
	stale                                   *prometheus.GaugeVec
	verdict, restored                       *prometheus.GaugeVec
}

// searched is what the log of a capacity search shows.
type searched struct {
	capacity, trials, trialLoad, trialLoss *prometheus.GaugeVec
}

func newFound(vec func(name, help string, labels ...string) *prometheus.GaugeVec) found {
	return found{
		causes:         vec("tablefull_run_cause_attempts", "Failed attempts of this run by cause, as far as known; generator_...: attempts that were not started, or late.", "cause"),
		onsetTime:      vec("tablefull_onset_time_seconds", "Run time of an onset: early_drop, drop or client_loss.", "node", "onset"),
		onsetEntries:   vec("tablefull_onset_entries", "Entries in the table at the onset.", "node", "onset"),
		onsetOccupancy: vec("tablefull_onset_occupancy_ratio", "Entries over limit at the onset.", "node", "onset"),
		stale:          vec("tablefull_stale_backends", "Most backends at once that a node's dataplane led to and should not have.", "node"),
		verdict:        vec("tablefull_verdict", "1 for the verdict; there is one once the run has ended.", "tablefull_verdict"),
		restored:       vec("tablefull_restored", "1 where everything that was changed has been put back, once the run has ended."),
	}
}

func newSearched(vec func(name, help string, labels ...string) *prometheus.GaugeVec) searched {
	return searched{
		capacity:  vec("tablefull_capacity", "Bounds of the capacity search so far, in the unit of what is searched.", "measure", "unit", "loss_ratio", "bound"),
		trials:    vec("tablefull_search_trials", "Trials of the capacity search that have ended.", "kind", "result"),
		trialLoad: vec("tablefull_search_last_load", "Load of the newest of them, in the unit of what is searched.", "kind"),
		trialLoss: vec("tablefull_search_last_loss_ratio", "Share of attempts that it lost.", "kind"),
	}
}

// show writes findings over those before: those of a search beside those of the
// trial that goes on.
func (g *gauges) show(arm string, f *report.Findings, ended bool) {
	if f.Capacity != nil {
		g.showSearch(arm, f.Capacity)
	} else {
		g.showRun(arm, f)
	}
	if !ended {
		return
	}
	for _, v := range []report.Verdict{report.Pass, report.Fail, report.Inconclusive} {
		is := 0.0
		if v == f.Verdict {
			is = 1
		}
		g.verdict.WithLabelValues(arm, string(v)).Set(is)
	}
	if f.Restored != nil {
		is := 0.0
		if *f.Restored {
			is = 1
		}
		g.restored.WithLabelValues(arm).Set(is)
	}
}

func (g *gauges) showRun(arm string, f *report.Findings) {
	g.causes.Reset()
	for _, c := range f.Causes {
		g.causes.WithLabelValues(arm, c.Cause).Set(float64(c.Failures))
	}
	for _, n := range f.Nodes {
		for name, o := range map[string]*report.Onset{"early_drop": n.Knee.EarlyDrop, "drop": n.Knee.Drop, "client_loss": n.Knee.ClientLoss} {
			if o == nil {
				continue
			}
			g.onsetTime.WithLabelValues(arm, n.Name, name).Set(o.AtS)
			if o.Entries != nil {
				g.onsetEntries.WithLabelValues(arm, n.Name, name).Set(float64(*o.Entries))
			}
			if o.Occupancy != nil {
				g.onsetOccupancy.WithLabelValues(arm, n.Name, name).Set(*o.Occupancy)
			}
		}
		if n.Stale != nil {
			g.stale.WithLabelValues(arm, n.Name).Set(float64(n.Stale.MaxBackends))
		}
	}
}

func (g *gauges) showSearch(arm string, c *report.Capacity) {
	for _, goal := range c.Goals {
		loss := strconv.FormatFloat(goal.LossRatio, 'g', -1, 64)
		for bound, v := range map[string]*float64{"lower": goal.Lower, "upper": goal.Upper} {
			if v != nil {
				g.capacity.WithLabelValues(arm, c.Measure, c.Unit, loss, bound).Set(*v)
			}
		}
	}
	g.trials.Reset()
	for _, t := range c.Trials {
		result := "counts"
		if t.Inconclusive {
			result = "inconclusive"
		}
		g.trials.WithLabelValues(arm, t.Kind, result).Inc()
		g.trialLoad.WithLabelValues(arm, t.Kind).Set(t.Load)
		g.trialLoss.WithLabelValues(arm, t.Kind).Set(t.LossRatio)
	}
}

package metrics

import (
	"time"

	"github.com/tablefull/tablefull/report/runlog"
)

func (e *Exporter) header(h *runlog.Header) {
	e.run.header = h
	for _, t := range h.Traffic {
		e.run.oneWay[t.Name] = !t.ExpectsAnswer
	}
	e.gauges.info.WithLabelValues(e.arm, h.RunID, h.Version, h.Kernel, h.Arch, h.Digest).Set(1)
	e.gauges.planned.WithLabelValues(e.arm).Set(h.Duration)
	if t, err := time.Parse(time.RFC3339Nano, h.Started); err == nil {
		e.gauges.started.WithLabelValues(e.arm).Set(float64(t.UnixMilli()) / 1000)
	}
	if h.Search == nil {
		e.counters.runs.WithLabelValues(e.arm).Inc()
	}
}

func (e *Exporter) bin(b *runlog.Bin) {
	c, on := &e.counters, []string{e.arm, b.Traffic, b.Node}
	c.due.WithLabelValues(on...).Add(float64(b.Due))
	c.started.WithLabelValues(on...).Add(float64(b.Started))
	c.late.WithLabelValues(on...).Add(float64(b.Late))
	c.lostPackets.WithLabelValues(on...).Add(float64(b.LostPackets))
	for why, n := range b.NotStarted {
		c.notStarted.WithLabelValues(append(on, string(why))...).Add(float64(n))
	}
	for o, n := range b.Outcomes {
		how := string(o)
		if o == runlog.OK && e.run.oneWay[b.Traffic] {
			how = "sent"
		}
		c.ended.WithLabelValues(append(on, how)...).Add(float64(n))
	}
}

func (e *Exporter) held(h *runlog.Held) {
	on := []string{e.arm, h.Traffic, h.Node}
	e.gauges.held.WithLabelValues(on...).Set(float64(h.Open))
	e.gauges.validated.WithLabelValues(on...).Set(float64(h.Validated))
	key := [2]string{h.Traffic, h.Node}
	if was := e.run.lost[key]; h.Lost >= was {
		e.counters.heldLost.WithLabelValues(on...).Add(float64(h.Lost - was))
	}
	e.run.lost[key] = h.Lost
}

// served adds up over the backends of a service: their names change with each
// rollout, and would be series without end.
func (e *Exporter) served(s *runlog.Served) {
	c, on := &e.counters, []string{e.arm, s.Service}
	c.accepted.WithLabelValues(on...).Add(float64(s.Accepted))
	c.served.WithLabelValues(on...).Add(float64(s.Served))
	c.servedDraining.WithLabelValues(on...).Add(float64(s.Draining))
	c.serverErrors.WithLabelValues(on...).Add(float64(s.Errors))
}

func (e *Exporter) sample(r *runlog.Record) {
	s := r.Sample
	if ct := s.Conntrack; ct != nil {
		e.gauges.entries.WithLabelValues(e.arm, r.Host).Set(float64(ct.Entries))
		e.gauges.limit.WithLabelValues(e.arm, r.Host).Set(float64(ct.Limit))
		was := e.run.table[r.Host]
		if was == nil {
			was = map[string]uint64{}
			e.run.table[r.Host] = was
		}
		for name, v := range ct.Counters {
			before, seen := was[name]
			was[name] = v
			if g := e.gauges.stat[name]; g != nil {
				g.WithLabelValues(e.arm, r.Host).Set(float64(v))
			}
			// Set-up, which fills the table, is not the run. A counter that fell
			// has no increase that could be known.
			if seen && r.T > 0 && v >= before {
				e.counters.conntrack.WithLabelValues(e.arm, r.Host, name).Add(float64(v - before))
			}
		}
	}
	if s.SlabBytes != nil {
		e.gauges.slab.WithLabelValues(e.arm, r.Host).Set(float64(*s.SlabBytes))
	}
	if s.CPU != nil {
		e.cpu(r.Host, r.T, s.CPU)
	}
}

func (e *Exporter) cpu(host string, at float64, is *runlog.CPU) {
	was := e.run.cpu[host]
	e.run.cpu[host] = is
	if was == nil || at <= 0 {
		return
	}
	e.counters.observer.WithLabelValues(e.arm, host).Add(max(0, is.Self-was.Self))
	if *is == (runlog.CPU{Self: is.Self}) {
		return // it has that of the observer alone
	}
	for _, m := range []struct {
		mode       string
		is, before float64
	}{
		{"user", is.User, was.User},
		{"system", is.System, was.System},
		{"softirq", is.SoftIRQ, was.SoftIRQ},
		{"idle", is.Idle, was.Idle},
		{"steal", is.Steal, was.Steal},
	} {
		e.counters.cpu.WithLabelValues(e.arm, host, m.mode).Add(max(0, m.is-m.before))
	}
}

// census replaces what the walk before found. Services and backends are added
// up: the report has them apart.
func (e *Exporter) census(host string, c *runlog.Census) {
	if c.Failed != "" {
		return // a part of the table is not the table
	}
	g := e.gauges.census
	g.DeletePartialMatch(map[string]string{"arm": e.arm, "node": host})
	for _, b := range c.States { // where not all entries are in groups
		g.WithLabelValues(e.arm, host, b.Proto, b.State, yes(b.Assured), yes(b.Replied)).Add(float64(b.Count))
	}
	for i := range c.Groups {
		if b := &c.Groups[i]; len(c.States) == 0 {
			g.WithLabelValues(e.arm, host, b.Proto, b.State, yes(b.Assured), yes(b.Replied)).Add(float64(b.Count))
		}
	}
	e.gauges.walk.WithLabelValues(e.arm, host).Set(c.CPU)
	if v := c.Turnover; v != nil {
		e.counters.came.WithLabelValues(e.arm, host).Add(float64(v.Came))
		e.counters.went.WithLabelValues(e.arm, host).Add(float64(v.Went))
	}
	if !c.WithoutBallast {
		e.gauges.ballast.WithLabelValues(e.arm, host).Set(float64(c.Ballast))
	}
}

func yes(v bool) string {
	if v {
		return "true"
	}
	return "false"
}

func (e *Exporter) event(ev *runlog.Event) {
	switch ev.Kind {
	case "phase":
		e.gauges.phase.Reset()
		e.gauges.phase.WithLabelValues(e.arm, ev.Name).Set(1)
	case "action":
		kind := ev.Fields["kind"]
		switch ev.Fields["phase"] {
		case "begin":
			e.counters.actions.WithLabelValues(e.arm, ev.Name, kind).Inc()
			e.gauges.acting.WithLabelValues(e.arm, ev.Name, kind).Inc()
		case "end", "fail":
			e.gauges.acting.WithLabelValues(e.arm, ev.Name, kind).Dec()
		}
		if ev.Fields["phase"] == "fail" {
			e.counters.actionsFailed.WithLabelValues(e.arm, ev.Name, kind).Inc()
		}
	case "warning":
		e.counters.warnings.WithLabelValues(e.arm, ev.Name).Inc()
	}
}

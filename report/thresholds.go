package report

import (
	"fmt"
	"math"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/scenarios"
)

// windowed says whether the threshold needs latencies of a part of the run.
func windowed(t scenarios.Threshold) bool {
	return t.Kind == scenarios.Time && (t.From > 0 || t.To > 0)
}

// covers says whether an attempt of the traffic due at `at`, or a sample taken
// then, is the threshold's business.
func covers(t scenarios.Threshold, traffic string, at float64) bool {
	return (t.Traffic == "" || t.Traffic == traffic) && at >= t.From && (t.To == 0 || at < t.To)
}

// thresholds evaluates what the header lists, in its order.
func (l *log) thresholds(specs []string, f *Findings, a *attribution) []ThresholdResult {
	out := []ThresholdResult{}
	for _, spec := range specs {
		t, err := scenarios.ParseThreshold(spec)
		if err != nil {
			out = append(out, ThresholdResult{Threshold: spec, Result: Inconclusive, Detail: "this version cannot read the threshold: " + err.Error()})
			continue
		}
		out = append(out, l.threshold(t, f, a))
	}
	return out
}

func (l *log) threshold(t scenarios.Threshold, f *Findings, a *attribution) ThresholdResult {
	limit := t.Value
	r := ThresholdResult{Threshold: t.Source, Limit: &limit, Result: Inconclusive}
	if why := f.Capacity.beyond(t); why != "" {
		r.Detail = why
		return r
	}
	switch t.Kind {
	case scenarios.Ratio:
		r.Unit = "ratio"
	case scenarios.Time:
		r.Unit = "s"
	}
	// worst is what v would be if what is not known had gone as badly as it can.
	var v, worst float64
	switch t.Metric {
	case "occupancy", "entries", "drop", "early_drop", "insert_failed", "invalid":
		v, worst, r.Detail = l.nodeMetric(t, a)
	case "errors", "not_started", "late", "failures":
		v, worst, r.Detail = l.attemptMetric(t)
	case "p50", "p90", "p95", "p99", "p999", "max":
		v, r.Detail = l.latencyMetric(t)
		worst = v
	default:
		v, r.Detail = runMetric(t, f)
		if worst = v; (t.Metric == "stale" || t.Metric == "stale_backends") && unread(f, t.Node) {
			worst = math.Inf(1)
		}
	}
	if math.IsNaN(v) {
		r.Detail = "no data: " + r.Detail
		return r
	}
	r.Measured = &v
	switch {
	case !t.Holds(v):
		r.Result = Fail
	case !t.Holds(worst):
		if math.IsInf(worst, 1) {
			r.Detail += "; but it can have been more: not all of it was looked at"
		} else {
			r.Detail += fmt.Sprintf("; but it can have been up to %.4g: that much is not known", worst)
		}
	default:
		r.Result = Pass
	}
	return r
}

// nodeMetric is the highest value on any node for gauges, the sum over nodes
// for counters. NaN is no data. Between two samples that are far apart the
// table can have held as much more as arrived meanwhile: that is worst.
func (l *log) nodeMetric(t scenarios.Threshold, a *attribution) (v, worst float64, detail string) {
	seen := 0
	for _, n := range l.nodeList {
		if t.Node != "" && n.name != t.Node {
			continue
		}
		for iv := range n.rows.intervals() {
			s, hole := iv.b, 0.0
			if s.t-max(iv.a.t, 0) > l.patience() {
				hole = a.arrivals(n.name, iv.a.t, s.t)
			}
			most := float64(max(s.entries, iv.a.entries)) + hole
			if hole == 0 {
				most = float64(s.entries)
			}
			// A counter's increase belongs to the moment it was read; windows
			// that end between samples lose at most one interval.
			if !covers(t, t.Traffic, s.t) {
				continue
			}
			switch t.Metric {
			case "occupancy":
				if s.limit == 0 {
					continue
				}
				v = max(v, float64(s.entries)/float64(s.limit))
				worst = max(worst, most/float64(s.limit))
			case "entries":
				v = max(v, float64(s.entries))
				worst = max(worst, most)
			case "drop":
				v += float64(iv.drop)
			case "early_drop":
				v += float64(iv.early)
			case "insert_failed":
				v += float64(iv.failed)
			case "invalid":
				v += float64(iv.invalid)
			}
			seen++
		}
	}
	if seen == 0 {
		return math.NaN(), 0, "no sample of a node in that time"
	}
	if t.Metric == "occupancy" {
		return v, worst, fmt.Sprintf("highest of %s: %.2f %%", plural(uint64(seen), "sample"), v*100)
	}
	return v, max(v, worst), fmt.Sprintf("%s %.0f in %s", t.Metric, v, plural(uint64(seen), "sample"))
}

// attemptMetric counts attempts. Worst is with all those failed of whose end
// nothing is known.
func (l *log) attemptMetric(t scenarios.Threshold) (v, worst float64, detail string) {
	var due, started, ended, failed, late, notStarted, unknown float64
	for _, tr := range l.order {
		// Of one-way traffic nobody knows which attempts failed.
		if t.Traffic != "" && tr.info.Name != t.Traffic {
			continue
		}
		errors := t.Metric == "errors" || t.Metric == "failures"
		if t.Traffic == "" && errors && tr.oneWay() {
			continue
		}
		for k, b := range tr.binsVia(t.Node).all() {
			if !covers(t, tr.info.Name, tr.start(k)+tr.width/2) {
				continue
			}
			due += float64(b.due)
			started += float64(b.started)
			late += float64(b.late)
			failed += float64(b.failed())
			if !tr.oneWay() || b.failed() > 0 {
				ended += float64(b.ok + b.failed())
			}
			if done := b.ok + b.failed(); !tr.oneWay() && b.started > done {
				unknown += float64(b.started - done)
			}
			if b.bad != nil {
				notStarted += float64(b.bad.notStarted)
			}
		}
	}
	share := func(part, whole, unknown float64, what string) (float64, float64, string) {
		if whole == 0 {
			return math.NaN(), 0, "no attempt was " + what + " in that time"
		}
		return part / whole, (part + unknown) / (whole + unknown), fmt.Sprintf("%.0f of %.0f %s", part, whole, what)
	}
	switch t.Metric {
	case "errors":
		return share(failed, ended, unknown, "ended")
	case "failures":
		if ended == 0 {
			return math.NaN(), 0, "no attempt ended in that time"
		}
		return failed, failed + unknown, fmt.Sprintf("%.0f of %.0f ended attempts failed", failed, ended)
	case "late":
		return share(late, started, 0, "started")
	default:
		return share(notStarted, due, 0, "due")
	}
}

func (l *log) latencyMetric(t scenarios.Threshold) (float64, string) {
	h := l.histogram(t)
	if h == nil || h.TotalCount() == 0 {
		return math.NaN(), "no attempt succeeded in that time"
	}
	quantile := map[string]float64{"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9}
	us := float64(h.Max())
	if q, ok := quantile[t.Metric]; ok {
		us = float64(h.ValueAtQuantile(q))
	} else if t.Metric != "max" {
		return math.NaN(), "this version does not know the metric " + t.Metric
	}
	detail := fmt.Sprintf("%s %.3g ms of %s that succeeded", t.Metric, us/1000, plural(uint64(h.TotalCount()), "attempt"))
	if windowed(t) && (t.From != math.Trunc(t.From) || t.To != math.Trunc(t.To)) {
		detail += "; latencies are kept by whole seconds, so the edges of the window are that coarse"
	}
	return us / 1e6, detail
}

// histogram merges the latencies the threshold is about.
func (l *log) histogram(t scenarios.Threshold) *hdrhistogram.Histogram {
	var sum *hdrhistogram.Histogram
	add := func(h *hdrhistogram.Histogram) {
		if h == nil {
			return
		}
		if s, err := runlog.EncodeHistogram(h); err == nil {
			// A copy through its encoding: merging must not change the parts.
			sum, _ = runlog.MergeHistogram(sum, s)
		}
	}
	for _, tr := range l.order {
		if t.Traffic != "" && tr.info.Name != t.Traffic {
			continue
		}
		if !windowed(t) {
			add(tr.tookVia(t.Node))
			continue
		}
		for _, w := range l.windows {
			if w.threshold == t {
				add(w.latency[tr.info.Name])
				break
			}
		}
	}
	return sum
}

// thresholdLine is one threshold's result in a few words.
func thresholdLine(r ThresholdResult) string {
	s := strings.TrimSpace(r.Threshold)
	if r.Detail != "" {
		s += " (" + r.Detail + ")"
	}
	return s
}

package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// columnsShown are the metrics of the table that has the arms as rows: those that
// tell arms apart. Where none does, that is what there is to see. That tests show no
// difference is a result, so there all are worth a column.
func (c *Comparison) columnsShown(most int) []*MetricRow {
	apart, all := []*MetricRow{}, []*MetricRow{}
	for _, name := range tableOrder {
		for i := range c.Metrics {
			r := &c.Metrics[i]
			if r.Group != name {
				continue
			}
			if !(r.Group == "stale" && r.allZero()) {
				all = append(all, r)
			}
			if r.tellsApart() {
				apart = append(apart, r)
			}
		}
	}
	if len(apart) == 0 || c.Test != "" {
		apart = all
	}
	return apart[:min(most, len(apart))]
}

func (r *MetricRow) allZero() bool {
	return !slices.ContainsFunc(r.Arms, func(v ArmValue) bool { return v.median != 0 && !math.IsNaN(v.median) })
}

// tellsApart says whether two arms have different values of the metric, as they are
// written. One that an arm has no value of says nothing about that arm.
func (r *MetricRow) tellsApart() bool {
	texts := map[string]bool{}
	for _, v := range r.Arms {
		if len(v.values) > 0 {
			texts[amount(v.median, r.Unit)] = true
		}
	}
	return len(texts) > 1
}

// rows are the metrics worth a row where all are shown: those that decide, those
// that tests were made of, and those that tell arms apart.
func (c *Comparison) rows() []MetricRow {
	return slices.DeleteFunc(slices.Clone(c.Metrics), func(r MetricRow) bool { return !r.Gate && c.Test == "" && !r.tellsApart() })
}

// same says which metrics are the same in all arms, and is empty for none, and where
// all of them have a row or a column.
func (c *Comparison) same() string {
	var parts []string
	for i := range c.Metrics {
		r := &c.Metrics[i]
		all := len(r.Arms) > 1 && !slices.ContainsFunc(r.Arms, func(v ArmValue) bool { return len(v.values) == 0 })
		if all && !r.tellsApart() {
			parts = append(parts, fmt.Sprintf("%s %s", r.Metric, amount(r.Arms[0].median, r.Unit)))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "The same in all arms: " + strings.Join(parts, ", ") + "."
}

// Package metrics renders a run log that is being written as Prometheus
// metrics. It measures nothing: each sample is what the log's records add up
// to, or what the analysis found in them, so that a dashboard and a report
// cannot disagree.
//
// What node_exporter has too is called as there and means the same: the table
// of a node, read in the node's network namespace. The rest begins with
// tablefull_, is in base units, and is called as in the report's OpenMetrics
// rendering where that has it.
//
// Counters go on over all runs of an Exporter (the trials of an arm or of a
// search); gauges are of the run that goes on, or of the last one.
package metrics

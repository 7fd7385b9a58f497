// Package traffic generates the load: shapes of traffic, each a worker that
// starts attempts when they are due and tells how every one of them ended.
//
// # Open loop
//
// When an attempt is due is decided before the run begins, by a [Schedule]
// over a vegeta.Pacer, and never by how the system under test behaves. An
// attempt that cannot be started is counted with its reason; one that starts
// late is counted as late; latency is measured from the due time as well as
// from the start. The generator so audits itself: a run whose generator was
// the bottleneck can be told from one whose network was.
//
// # Time
//
// All times are seconds of run time as float64: 0 is the job's epoch on this
// host's monotonic clock. Due times are whole nanoseconds.
package traffic

// Package runlog is the run log: what was planned, what happened and what was
// measured, as numbered JSON records, one to a line, in run.jsonl.
//
// # Shape
//
// The first record has a Header and the last a Trailer; a file without a
// Trailer was cut off and is readable up to there. Records of different hosts
// interleave; those of one host are in order of N without gaps. A gap, a
// repeated N or an unreadable line in the middle is reported by Reader and
// never passed over in silence.
//
// # Reading
//
// Reader.Next reads record by record, Reader.Each a whole log as fast as the
// machine can, and Reader.Follow one that is still being written, whose last
// line may not be whole yet. Reader.Offset says how far they have come.
//
// # Increments
//
// Bin, Latency and Served records are increments that readers add up, so that
// a run killed at any moment leaves counts that are right up to that moment.
// Samples hold cumulative kernel counters, of which readers take differences.
//
// # Time
//
// All times are seconds of run time on the controller's clock, where 0 is the
// moment at which traffic begins.
package runlog

// Format is the version of the file's format. It changes when a reader of the
// old one would misread the new one.
const Format = 1

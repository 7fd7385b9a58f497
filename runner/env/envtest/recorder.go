package envtest

import (
	"slices"
	"sync"

	"github.com/tablefull/tablefull/report/runlog"
)

// A Recorder is an env.Recorder that keeps what it is told, in order. Its zero
// value is ready.
type Recorder struct {
	mu      sync.Mutex
	records []runlog.Record
}

// Record is part of env.Recorder.
func (r *Recorder) Record(x runlog.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, x)
}

// Records are those so far.
func (r *Recorder) Records() []runlog.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.records)
}

//go:build linux

package conntrack

import (
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/tablefull/tablefull/report/runlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder keeps records for a test to look at.
type recorder struct {
	mu      sync.Mutex
	records []runlog.Record
}

func (r *recorder) Record(rec runlog.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, rec)
}

func (r *recorder) all() []runlog.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]runlog.Record(nil), r.records...)
}

// last returns the last ballast event of a name, nil if there is none.
func (r *recorder) last(name string) map[string]string {
	var fields map[string]string
	for _, rec := range r.all() {
		if rec.Event != nil && rec.Event.Kind == "ballast" && rec.Event.Name == name {
			fields = rec.Event.Fields
		}
	}
	return fields
}

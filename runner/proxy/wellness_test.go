//go:build linux

package proxy

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tablefull/tablefull/report/runlog"
)

// kept are the events of records.
type kept []runlog.Event

func (k *kept) Record(r runlog.Record) { *k = append(*k, *r.Event) }

// What a health endpoint answers is recorded at first and when it has changed.
func TestHealthIsRecorded(t *testing.T) {
	var (
		got kept
		w   wellness
	)
	for _, err := range []error{nil, nil, errors.New("503"), errors.New("503"), nil} {
		w.note(err, &got)
	}
	assert.Equal(t, kept{
		{Kind: "proxy", Name: "healthy"}, {Kind: "proxy", Name: "unhealthy", Detail: "503"}, {Kind: "proxy", Name: "healthy"},
	}, got)
}

package report

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// Where the log of a run that was killed ends, attempts had been counted of
// which it was not known yet that they fail: no plot may let that pass for
// failures that end.
func TestCutOffLog(t *testing.T) {
	const rate, bin, timeout = 100, 0.1, 0.9
	type written struct {
		at  float64
		rec runlog.Record
	}
	var records []written
	for tenth := range 130 {
		start := float64(tenth) * bin
		b := &runlog.Bin{Traffic: "web", Start: start, Width: bin, Due: rate * bin, Started: rate * bin}
		if start < 10-slop {
			b.Outcomes = map[runlog.Outcome]uint64{runlog.OK: rate * bin}
		} else {
			late := &runlog.Bin{Traffic: "web", Start: start, Width: bin, Outcomes: map[runlog.Outcome]uint64{runlog.ConnectTimeout: rate * bin}, LostPackets: rate * bin}
			records = append(records, written{start + bin + timeout, runlog.Record{Bin: late}})
		}
		records = append(records, written{start + bin, runlog.Record{Bin: b}}, written{start + bin, runlog.Record{Sample: &runlog.Sample{Net: map[string]uint64{"Tcp.OutRsts": 0}}}})
	}
	slices.SortStableFunc(records, func(a, b written) int { return cmp.Compare(a.at, b.at) })
	analyzed := func(until float64, trailer bool) *Findings {
		var log bytes.Buffer
		put := func(r runlog.Record) {
			b, err := json.Marshal(r)
			require.NoError(t, err)
			log.Write(append(b, '\n'))
		}
		put(runlog.Record{N: 1, Host: "controller", Header: &runlog.Header{Format: runlog.Format, Duration: 13, Traffic: []runlog.TrafficInfo{{Name: "web", End: 13, ExpectsAnswer: true}}}})
		n := uint64(0)
		for _, r := range records {
			if r.at > until {
				break
			}
			n++
			r.rec.N, r.rec.Host, r.rec.T = n, "client", r.at
			put(r.rec)
		}
		if trailer {
			put(runlog.Record{N: 2, Host: "controller", T: until, Trailer: &runlog.Trailer{Outcome: "completed", Restored: true}})
		}
		f, err := Analyze(&log)
		require.NoError(t, err)
		return f
	}

	f := analyzed(12.05, false)
	l := f.Timeline.Load
	require.NotNil(t, l.EndsKnownToS)
	assert.InDelta(t, 11.1, *l.EndsKnownToS, 1e-6)
	for i, from := range l.T {
		assert.InDelta(t, rate, l.Offered[i], 1e-6, "at %g s", from)
		if from+l.StepS <= *l.EndsKnownToS {
			assert.InDelta(t, rate, l.OK[i]+l.Failed[i], 1e-6, "at %g s", from)
		}
	}
	text := strings.Join(f.NotMeasured, "\n")
	assert.Contains(t, text, "how all attempts that were due from 11.1 s on ended")
	assert.Contains(t, text, "the log has only some of the attempts that were due then")
	assert.Equal(t, uint64(1200), f.Traffic[0].Due, "the totals have all that the log has")
	for _, ch := range newCharts(f).first {
		assert.True(t, slices.ContainsFunc(ch.Marks, func(m chartMark) bool { return m.Name == notAllEnded && m.At == *l.EndsKnownToS }), ch.ID)
	}
	assert.Contains(t, loadPanels(f)[0].Title, "ends known up to 11.1 s")
	f.Timeline.Nodes = []NodeSeries{{Name: "node1", T: []float64{0, 12}}}
	load := newCharts(f).first[0]
	require.Equal(t, "load", load.ID)
	assert.True(t, load.Stops, "its last step is not drawn up to the edge")
	assert.InDelta(t, l.T[len(l.T)-1]+l.StepS, load.X[len(load.X)-1], 2*stepEnd)
	assert.Len(t, tableOf(load).Rows, (len(l.T)+1)/2, "nor is its end a row")

	f = analyzed(20, true)
	assert.False(t, newCharts(f).first[0].Stops)
	assert.Nil(t, f.Timeline.Load.EndsKnownToS)
	assert.NotContains(t, strings.Join(f.NotMeasured, "\n"), "the log has only some")
	total := 0.0
	for _, v := range f.Timeline.Load.Failed {
		total += v * f.Timeline.Load.StepS
	}
	assert.InDelta(t, 300, total, 1e-3)
}

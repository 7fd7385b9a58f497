package report

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// longSim simulates a quarter of an hour at 20/s, in which the table is filled
// by somebody else for two seconds now and then, and hosts reset connections.
func longSim(t *testing.T, seed uint64) *sim {
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // not a secret
	const lasts = 900
	s := newSim(t, 100000, 50000, finTraffic("web", 0, lasts))
	s.header.Duration = lasts
	edge := float64(r.IntN(400)) + r.Float64()
	s.header.Thresholds = []string{
		"errors < 0.001%", "failures == 0", "late < 5%", "p99 < 50ms", "occupancy < 99%", "entries < 60000", "drop == 0", "table_full == 0", "backend_reset == 0",
		fmt.Sprintf("failures == 0 during %.3fs..%.3fs", edge, edge+200), fmt.Sprintf("errors < 0.01%% during %.3fs..", edge),
		fmt.Sprintf("occupancy < 80%% during %.3fs..%.3fs", edge, edge+200), fmt.Sprintf("drop == 0 during %.3fs..%.3fs", edge, edge+200),
		fmt.Sprintf("web: not_started < 1%% during %.3fs..%.3fs", edge, edge+200),
	}
	var full []float64
	for range 6 {
		full = append(full, 10+r.Float64()*(lasts-20))
	}
	filled := func(at float64) bool {
		for _, x := range full {
			if at >= x && at < x+2 {
				return true
			}
		}
		return false
	}
	was, others := false, int64(0)
	for _, due := range dues(0, lasts, 20) {
		if is := filled(due); is != was {
			if was = is; is {
				others = int64(s.limit) - s.entries
				s.entries += others
				s.bump(due-0.001, simNode, "entries", others)
			} else {
				s.entries -= others
				s.bump(due-0.001, simNode, "entries", -others)
			}
		}
		switch {
		case r.Float64() < 0.0005:
			s.bump(due+0.001, "web-1", "Tcp.OutRsts", 1)
			s.fail("web", due, runlog.Reset, 1)
		case s.enter(due + 0.0001):
			s.ok("web", due)
		default:
			s.fail("web", due, runlog.ConnectTimeout, 1)
		}
	}
	return s
}

// What is thinned out while a run goes on changes neither a threshold's measure
// nor a cause nor an onset, and it is little that stays.
func TestThinSaysTheSame(t *testing.T) {
	for seed := range uint64(3) {
		log := longSim(t, seed).log()
		whole, err := Analyze(bytes.NewReader(log))
		require.NoError(t, err)
		l, in := newLog(), runlog.NewReader(bytes.NewReader(log))
		in.OnlyNet(netNames...)
		n := 0
		require.NoError(t, in.Each(func(r *runlog.Record) {
			l.add(r)
			if n++; n%500 == 0 {
				l.thin()
			}
		}))
		assert.Less(t, l.nodeList[0].rows.n, 9000/4, "rows that are left")
		assert.Less(t, l.order[0].bins.n, 9000/4, "bins that are left")
		assert.LessOrEqual(t, len(l.nodeList[0].table.keys), thinCells, "steps of plots that nobody draws")
		assert.LessOrEqual(t, len(l.order[0].took.keys), thinCells)
		assert.Greater(t, len(l.order[0].took.keys), 10, "or that shows nothing")
		thin := l.findings()
		assert.Equal(t, causesOf(whole), causesOf(thin))
		assert.Equal(t, whole.Knee, thin.Knee)
		assert.Equal(t, whole.Traffic, thin.Traffic)
		require.Len(t, thin.Thresholds, len(whole.Thresholds))
		failed := 0
		for i, w := range whole.Thresholds {
			got := thin.Thresholds[i]
			assert.Equal(t, w.Measured, got.Measured, w.Threshold)
			assert.Equal(t, w.Result == Fail, got.Result == Fail, w.Threshold)
			if w.Result == Fail {
				failed++
			}
		}
		assert.Greater(t, failed, 5, "or this shows nothing")
	}
}

// A bin that comes late for a page that was folded is not lost.
func TestFoldedBins(t *testing.T) {
	var b bins
	for k := int64(-40); k < 100; k++ {
		*b.at(k) = bin{due: 1, started: 1, ok: 1}
	}
	b.at(70).detail()
	b.fold(func(page int64) bool { return page != 4 }) // of bins 64 to 79
	b.at(3).due++
	b.at(-1).due++
	b.at(200).due++
	var due uint64
	last := int64(-1000)
	for k, one := range b.all() {
		assert.Greater(t, k, last)
		last = k
		due += one.due
	}
	assert.Equal(t, uint64(143), due)
	assert.Equal(t, int64(200), last)
	assert.NotNil(t, b.at(70).bad)
	assert.Less(t, b.n, 50)
}

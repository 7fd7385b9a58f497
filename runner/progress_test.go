package runner

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tablefull/tablefull/report/runlog"
)

func bin(at, start float64, due uint64, outcomes map[runlog.Outcome]uint64) runlog.Record {
	return runlog.Record{T: at, Bin: &runlog.Bin{Traffic: "web", Start: start, Width: 0.1, Due: due, Started: due, Outcomes: outcomes}}
}

func table(at float64, entries, drop uint64) runlog.Record {
	return runlog.Record{T: at, Host: "node1", Sample: &runlog.Sample{Conntrack: &runlog.Conntrack{
		Entries: entries, Limit: 100, Counters: map[string]uint64{"drop": drop, "found": 7},
	}}}
}

// Rates are those of the newest second whose reports must all be here: what
// was due counts where it was due, what ended where it was told.
func TestProgressRates(t *testing.T) {
	var p Progress
	p.add(bin(0.9, 0.8, 10, map[runlog.Outcome]uint64{runlog.OK: 10}))
	p.add(bin(1.05, 0.9, 10, map[runlog.Outcome]uint64{runlog.OK: 4}))
	p.add(bin(1.9, 1.8, 7, map[runlog.Outcome]uint64{runlog.Reset: 2, runlog.Interrupted: 1}))
	p.T = 1.2
	assert.Equal(t, Rates{}, p.snapshot().Traffic["web"].Last, "second 0 may not be whole yet")
	p.T = 1.4
	assert.Equal(t, Rates{Due: 20, OK: 10}, p.snapshot().Traffic["web"].Last)
	p.T = 2.4
	s := p.snapshot()
	web := s.Traffic["web"]
	assert.Equal(t, Rates{Due: 7, OK: 4, Failed: 2}, web.Last)
	assert.Equal(t, uint64(27), web.Due)
	assert.Equal(t, uint64(10), web.InFlight(), "an interrupted one has ended")
	assert.Equal(t, map[runlog.Outcome]uint64{runlog.Reset: 2}, web.Outcomes)
	assert.Equal(t, []uint64{27, 14, 2}, []uint64{s.Due, s.OK, s.Failed})
}

// What happened to the table before traffic is not the run's.
func TestProgressCountsFromRunTimeZero(t *testing.T) {
	var p Progress
	p.add(table(-0.5, 10, 100))
	p.add(table(-0.1, 90, 140))
	p.add(table(0.1, 95, 141))
	p.add(table(0.9, 93, 150))
	p.add(table(3.0, 92, 150))
	n := p.snapshot().Nodes["node1"]
	assert.Equal(t, uint64(10), n.Drop)
	assert.Equal(t, map[string]uint64{"drop": 10}, n.Moved, "found did not move")
	assert.Equal(t, uint64(95), n.Peak)
	assert.Equal(t, []Second{{-1, 90}, {0, 95}, {3, 92}}, n.Recent, "the most of each second; no sample is no number")
}

func TestProgressOfOneWayTraffic(t *testing.T) {
	var p Progress
	p.add(runlog.Record{Header: &runlog.Header{Traffic: []runlog.TrafficInfo{{Name: "web", ExpectsAnswer: false}}}})
	p.add(bin(0.1, 0, 10, map[runlog.Outcome]uint64{runlog.OK: 10}))
	s := p.snapshot()
	assert.True(t, s.Traffic["web"].OneWay)
	assert.Zero(t, s.OK, "nobody knows whether they arrived")
}

// A snapshot does not change with what comes after it.
func TestProgressSnapshotIsACopy(t *testing.T) {
	var p Progress
	net := func(drops uint64) runlog.Record {
		return runlog.Record{T: 1, Host: "web-1", Sample: &runlog.Sample{Net: map[string]uint64{"TcpExt.ListenDrops": drops, "Ip.ForwDatagrams": drops}}}
	}
	feed := func() {
		p.add(table(1, 50, 100))
		p.add(table(1.1, 60, 101))
		p.add(net(3))
		p.add(net(4))
		p.add(bin(1, 0.9, 1, map[runlog.Outcome]uint64{runlog.Reset: 1}))
		p.add(runlog.Record{Event: &runlog.Event{Kind: "warning", Name: "x"}})
		p.add(runlog.Record{Event: &runlog.Event{Kind: "job", Name: "load/web"}})
	}
	feed()
	first := p.snapshot()
	assert.Equal(t, map[string]map[string]uint64{"web-1": {"TcpExt.ListenDrops": 1}}, first.Hosts)
	assert.Len(t, first.Events, 1, "jobs are no news")
	again := p.snapshot()
	for range keepEvents + 1 {
		feed()
	}
	assert.Equal(t, again, first)
	assert.Len(t, p.snapshot().Events, keepEvents)
}

func TestStepsAreOfTheirPhase(t *testing.T) {
	c := newCollector(nil)
	c.undoing()
	done := c.step("one")
	late := c.step("two")
	done(nil)
	steps := c.progress(1).Steps
	assert.True(t, steps[0].Done)
	assert.False(t, steps[1].Done)
	c.undoing()
	late(nil) // outlived its phase: nothing to mark
	assert.Empty(t, c.progress(1).Steps)
}

package report

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// checkTimeline holds for every run: what is plotted adds up to what is said.
func checkTimeline(t *testing.T, f *Findings) {
	t.Helper()
	tl, load := f.Timeline, f.Timeline.Load
	total := func(perS []float64) (n uint64) {
		require.Len(t, perS, len(load.T))
		for _, v := range perS {
			n += uint64(math.Round(v * load.StepS))
		}
		return n
	}
	require.Len(t, tl.Causes, len(f.Causes))
	for i, c := range f.Causes {
		require.Equal(t, c.Cause, tl.Causes[i].Cause)
		require.Equal(t, c.Failures, total(tl.Causes[i].PerS), c.Cause)
	}
	var due, started, late, ok, failed, notStarted uint64
	for _, x := range f.Traffic {
		due, started, failed, notStarted = due+x.Due, started+x.Attempted, failed+x.Failed, notStarted+x.NotStarted
		if x.Succeeded != nil {
			ok += *x.Succeeded
		}
	}
	late = f.Generator.Late
	require.Equal(t, []uint64{due, started, late, ok, failed, notStarted}, []uint64{
		total(load.Offered), total(load.Started), total(load.Late), total(load.OK), total(load.Failed), total(load.NotStarted),
	}, "due, started, late, ok, failed, not started")
	for i, n := range tl.Nodes {
		require.LessOrEqual(t, len(n.T), maxSteps+2)
		require.Len(t, n.Entries, len(n.T))
		require.Len(t, n.EntriesMin, len(n.T))
		require.Len(t, n.Limit, len(n.T))
		for name, gained := range n.Counters {
			require.Len(t, gained, len(n.T))
			var sum uint64
			for _, d := range gained {
				sum += d
			}
			require.Equal(t, f.Nodes[i].Counters[name], sum, name)
			require.NotZero(t, sum, name)
		}
	}
}

func TestTimelineAddsUp(t *testing.T) {
	for name, s := range goldenRuns(t) {
		t.Run(name, func(t *testing.T) { checkTimeline(t, s.analyze()) })
	}
}

// A run of a day, with one sample that is higher and one that is lower than
// all others, and one drop.
func TestPeaksSurviveThinning(t *testing.T) {
	const day = 86400
	l := newLog()
	l.add(&runlog.Record{Host: "c", Header: &runlog.Header{Format: runlog.Format, Duration: day, Nodes: []string{simNode}, Traffic: []runlog.TrafficInfo{finTraffic("web", 0, day)}}})
	for i := range day {
		at := float64(i) + 0.5
		entries, drops := uint64(1000), uint64(0)
		switch {
		case i == 40000:
			entries = 9999
		case i == 50000:
			entries = 3
		}
		if i >= 60000 {
			drops = 1
		}
		l.add(&runlog.Record{Host: simNode, T: at, Sample: &runlog.Sample{
			Conntrack: &runlog.Conntrack{Entries: entries, Limit: 10000, Counters: map[string]uint64{"drop": drops, "found": 7 * uint64(i)}},
			CPU:       &runlog.CPU{User: at, Idle: at},
		}})
		outcome := runlog.OK
		if i == 70000 {
			outcome = runlog.Reset
		}
		l.add(&runlog.Record{Host: "c", T: at, Bin: &runlog.Bin{Traffic: "web", Start: float64(i), Width: 0.1, Due: 1, Started: 1, Outcomes: map[runlog.Outcome]uint64{outcome: 1}}})
		l.add(&runlog.Record{Host: "c", T: at, Held: &runlog.Held{Traffic: "web", Open: uint64(i % 1000)}})
		l.add(&runlog.Record{Host: simNode, T: at, Census: &runlog.Census{Groups: []runlog.CensusGroup{{Proto: "tcp", State: "TIME_WAIT", Count: uint64(i)}}}})
	}
	f := l.findings()
	checkTimeline(t, f)
	n := f.Timeline.Nodes[0]
	at := func(series []uint64, v uint64) float64 {
		for i, x := range series {
			if x == v {
				return n.T[i]
			}
		}
		require.Fail(t, "thinned away", "%d", v)
		return 0
	}
	step := f.Timeline.StepS
	assert.InDelta(t, 40000, at(n.Entries, 9999), step)
	assert.InDelta(t, 50000, at(n.EntriesMin, 3), step)
	assert.InDelta(t, 60000, at(n.Counters["drop"], 1), step)
	assert.Greater(t, len(n.T), maxSteps/4, "thinned no more than needed")
	assert.InDelta(t, 0.5, n.CPU.User[len(n.CPU.User)/2], 1e-6)
	assert.LessOrEqual(t, len(n.Census.T), maxSteps+2)
	assert.Equal(t, uint64(day-1), n.Census.States[0].Count[len(n.Census.T)-1])
	held := f.Timeline.Held[0]
	assert.LessOrEqual(t, len(held.T), maxSteps+2)
	assert.Equal(t, uint64(999), slices.Max(held.Open))
	assert.Equal(t, uint64(43080%1000+119), held.Open[43080/120], "the highest of its 120 s")
	assert.Nil(t, f.Timeline.ByLoad, "the rate is always the same")
}

func TestGridMergesNeighbours(t *testing.T) {
	g := newGrid(0.1, 100, func(into *int, later int) { *into += later })
	for i := range 10000 {
		g.add(float64(i)/10, 1)
	}
	assert.LessOrEqual(t, len(g.keys), 100)
	assert.InDelta(t, 10, g.step(), 0)
	sum := 0
	for i, n := range g.cells {
		sum += n
		if i < len(g.cells)-1 {
			assert.Equal(t, 100, n)
		}
	}
	assert.Equal(t, 10000, sum)
	g.add(3, 5)
	assert.Equal(t, 105, g.cells[0], "late ones find their cell")
	for _, least := range levels {
		for _, s := range readable {
			if s >= least {
				assert.InDelta(t, 0, math.Abs(math.Remainder(s, least)), 1e-9, "%g is a multiple of %g", s, least)
			}
		}
	}
}

func TestLatencySeries(t *testing.T) {
	l := newLog()
	l.add(&runlog.Record{Host: "c", Header: &runlog.Header{Format: runlog.Format, Traffic: []runlog.TrafficInfo{finTraffic("web", 0, 10), finTraffic("none", 0, 10)}}})
	record := func(second float64, us ...int64) {
		h := hdrhistogram.New(1, 60_000_000, 3)
		for _, v := range us {
			require.NoError(t, h.RecordValue(v))
		}
		text, err := runlog.EncodeHistogram(h)
		require.NoError(t, err)
		l.add(&runlog.Record{Host: "c", T: second + 2, Latency: &runlog.Latency{Traffic: "web", Start: second, Width: 1, FromDue: text, Started: text}})
	}
	record(1, 100, 200, 300)
	record(4, 1000)
	record(1, 900_000) // one of the first second that took long
	got := l.findings().Timeline.Latency
	again := l.findings().Timeline.Latency
	require.Len(t, got, 1, "the other traffic has none")
	assert.Equal(t, got, again)
	s := got[0]
	assert.Equal(t, []float64{1, 2, 3, 4}, s.T)
	assert.Nil(t, s.P50Ms[1])
	assert.Nil(t, s.MaxMs[2])
	assert.InDelta(t, 0.2, *s.P50Ms[0], 0.001)
	assert.InDelta(t, 900, *s.MaxMs[0], 1)
	assert.InDelta(t, 900, *s.P99Ms[0], 1)
	assert.InDelta(t, 1, *s.P90Ms[3], 0.001)
}

func TestCensusStates(t *testing.T) {
	n := newLog().node("n")
	groups := func(last uint64) []runlog.CensusGroup {
		return []runlog.CensusGroup{
			{Proto: "tcp", State: "TIME_WAIT", Count: 5},
			{Proto: "tcp", State: "TIME_WAIT", Count: 6},
			{Proto: "udp", Count: 3},
			{Proto: "udp", Replied: true, Count: 2},
			{Proto: "udp", Replied: true, Assured: true, Count: 1},
			{Proto: "icmp", Count: last},
		}
	}
	l := newLog()
	l.addCensus(n, 1, &runlog.Census{Groups: groups(9), Ballast: 100, Other: 4})
	l.addCensus(n, 2, &runlog.Census{Failed: "no", Groups: groups(900)})
	l.addCensus(n, 3, &runlog.Census{Groups: groups(8), WithoutBallast: true})
	s := n.censusSeries(0.1)
	assert.Equal(t, []float64{1, 3}, s.T)
	got := map[string][]uint64{}
	for _, x := range s.States {
		got[x.Name] = x.Count
	}
	assert.Equal(t, map[string][]uint64{
		"ballast": {100, 100}, "tcp TIME_WAIT": {11, 11}, "udp UNREPLIED": {3, 3}, "udp replied": {2, 2}, "udp ASSURED": {1, 1}, "icmp": {9, 8}, "other": {4, 0},
	}, got)
	assert.Equal(t, "ballast", s.States[0].Name)
	assert.Equal(t, "other", s.States[len(s.States)-1].Name)

	for i := range 200 {
		l.addCensus(n, 4, &runlog.Census{Groups: []runlog.CensusGroup{{Proto: "x", State: string(rune('0' + i)), Count: 1}}})
	}
	assert.LessOrEqual(t, len(n.states), maxStates+1)
	assert.LessOrEqual(t, len(n.censusSeries(0.1).States), shownStates+1)
}

// Only a rate that varies says anything about other rates.
func TestByLoad(t *testing.T) {
	run := func(rate func(at float64) float64) []LoadPoint {
		s := newSim(t, 262144, 2000, finTraffic("web", 0, 10))
		next := 0.0
		for next < 9.95 { // ends in the middle of a step
			if s.enter(next) {
				s.ok("web", next)
			} else {
				s.fail("web", next, runlog.ConnectTimeout, 1)
			}
			next += 1 / rate(next)
		}
		f, err := Analyze(bytes.NewReader(s.log()))
		require.NoError(t, err)
		checkTimeline(t, f)
		return f.Timeline.ByLoad
	}
	assert.Nil(t, run(func(float64) float64 { return 700 }))
	assert.Nil(t, run(func(float64) float64 { return 3 }), "few arrivals are uneven by chance")
	ramp := run(func(at float64) float64 { return 100 + 60*at })
	require.NotEmpty(t, ramp)
	first, last := ramp[1], ramp[len(ramp)-2]
	assert.InDelta(t, 115, first.OfferedPerS, 15)
	assert.InDelta(t, 690, last.OfferedPerS, 30)
	assert.Zero(t, first.Loss)
	assert.InDelta(t, 1, last.Loss, 1e-6)
	assert.Equal(t, uint64(262144), last.Entries)
	assert.Less(t, first.Entries, last.Entries)
}

// The names are those that the sampler writes, of both families.
func TestDatagramCountersOfBothFamilies(t *testing.T) {
	for _, name := range []string{"Udp.NoPorts", "Udp6NoPorts"} {
		h := &host{}
		h.add(1, 0, map[string]uint64{name: 1})
		h.add(2, 0, map[string]uint64{name: 4})
		require.Len(t, h.deltas, 1, name)
		assert.Equal(t, uint64(3), h.deltas[0].noPorts, name)
		assert.Contains(t, netNames, name)
	}
}

// A load that ends on a second does not seem to fade away in a step that is
// longer than what is left of it.
func TestStepsOfTheLoadDivideASecond(t *testing.T) {
	for _, ends := range []float64{5, 9, 13, 15, 21, 45} {
		s := newSim(t, 262144, 200000, finTraffic("web", 0, ends))
		for _, due := range dues(0, ends, 100) {
			s.ok("web", due)
		}
		s.end = ends + 0.9 // of the last attempts
		l := s.analyze().Timeline.Load
		for i, offered := range l.Offered {
			if want := 100.0; l.T[i] < ends-slop {
				assert.InDelta(t, want, offered, 100*0.011/l.StepS, "%g s of %g s", l.T[i], ends) // one attempt more or less
			} else {
				assert.Zero(t, offered, "%g s of %g s", l.T[i], ends)
			}
		}
	}
}

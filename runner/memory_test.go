package runner

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// soaking is a host of a soak with a rollout each second, whose agent has
// recorded seconds of it from second first on.
type soaking struct {
	env.Host
	first, seconds int
}

func (soaking) Name() string { return "node1" }

// Records is part of env.Host. Each record is made anew, as one that comes over a
// connection is.
func (s soaking) Records(_ context.Context, _ uint64, fn func(runlog.Record) error) error {
	n := uint64(0)
	for second := s.first; second < s.first+s.seconds; second++ {
		for _, r := range soakSecond(second) {
			n++
			r.N, r.Host = n, "node1"
			if err := fn(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// soakSecond is a second of each kind of record that comes again and again.
func soakSecond(second int) []runlog.Record {
	at := float64(second)
	old, young := fmt.Sprintf("web-1.%d", second), fmt.Sprintf("web-1.%d", second+1)
	counted := func(n int) map[string]uint64 {
		return map[string]uint64{"found": uint64(n), "insert_failed": uint64(n), "TcpExt.ListenDrops": uint64(n)}
	}
	tuple := runlog.Tuple{Proto: "tcp", Src: netip.AddrPortFrom(netip.MustParseAddr("10.128.0.1"), uint16(second)), Dst: netip.MustParseAddrPort("10.96.0.10:80")}
	var out []runlog.Record
	for tenth := range 10 {
		t := at + float64(tenth)/10
		out = append(out,
			runlog.Record{T: t, Bin: &runlog.Bin{Traffic: "web", Start: t, Width: 0.1, Due: 20, Started: 20, Outcomes: map[runlog.Outcome]uint64{runlog.OK: 19, runlog.Reset: 1}}},
			runlog.Record{T: t, Sample: &runlog.Sample{Conntrack: &runlog.Conntrack{Entries: uint64(second), Limit: 1 << 18, Counters: counted(second)}, Net: counted(second)}},
			runlog.Record{T: t, Failure: &runlog.Failure{Traffic: "web", Seq: uint64(second), Due: t, Outcome: runlog.Reset, Phase: "connect", Tuple: tuple}},
		)
	}
	pod := func(name, what string) runlog.Record {
		return runlog.Record{T: at, Event: &runlog.Event{Kind: "pod", Name: name, Detail: what, Fields: map[string]string{"service": "web"}}}
	}
	return append(out,
		runlog.Record{T: at, Endpoints: &runlog.Endpoints{Service: "web", Endpoints: []runlog.EndpointState{{Name: young, Ready: true, Serving: true}, {Name: old, Serving: true, Terminating: true}}}},
		pod(young, "started"), pod(young, "ready"), pod(old, "terminating"), pod(old, "gone"),
		runlog.Record{T: at, Event: &runlog.Event{Kind: "proxy", Name: "synced", Fields: map[string]string{"web": young}}},
		runlog.Record{T: at, Served: &runlog.Served{Service: "web", Backend: old, Accepted: 100, Served: 100}},
		runlog.Record{T: at, Dataplane: &runlog.Dataplane{Mode: "ipvs", Services: []runlog.ProgrammedService{{Service: "web", Addr: tuple.Dst}}}},
		runlog.Record{T: at, Census: &runlog.Census{Entries: 1000, Groups: []runlog.CensusGroup{{Proto: "tcp", State: "TIME_WAIT", Count: 1000, Service: tuple.Dst}}}},
		runlog.Record{T: at, Held: &runlog.Held{Traffic: "held", Open: uint64(second)}},
		runlog.Record{T: at, Autopsy: &runlog.Autopsy{Traffic: "web", Seq: uint64(second), Tuple: tuple, Found: true}},
	)
}

// counting is a log of which only the size is kept.
type counting struct{ bytes int }

func (c *counting) Write(p []byte) (int, error) {
	c.bytes += len(p)
	return len(p), nil
}

// A soak of days keeps what it has to know, and not what it has logged: after five
// times as many records the controller holds less than a fiftieth of their size
// more than before. One that kept each of them would hold more than all of it.
func TestControllerKeepsNoRecords(t *testing.T) {
	var log counting
	c := newCollector(&log)
	require.NoError(t, c.header(&runlog.Header{Scenario: "soak"}))
	c.release(0)
	look := startAutopsies(t.Context(), nil, nil, c, false)
	defer look.stop()
	soak := func(first, seconds int) (heap, logged int) {
		before := log.bytes
		require.NoError(t, c.follow(t.Context(), soaking{first: first, seconds: seconds}))
		for second := range seconds / 100 { // what whoever watches asks for
			c.flush()
			c.progress(float64(second))
		}
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what was in pools
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc), log.bytes - before
	}
	short, _ := soak(0, 300)
	long, logged := soak(300, 1500)
	require.Greater(t, logged, 5<<20)
	assert.Less(t, long-short, logged/50, "from %d kB to %d kB, while %d kB were logged", short>>10, long>>10, logged>>10)
}

// Each failed attempt is looked up, or counted as not looked up, with the reason.
func TestEachFailureIsLookedUpOrCounted(t *testing.T) {
	var log bytes.Buffer
	c := newCollector(&log)
	require.NoError(t, c.header(&runlog.Header{Scenario: "s"}))
	c.release(0)
	c.failures = make(chan failed, 1)
	fails := func(o runlog.Outcome, src string) {
		f := &runlog.Failure{Outcome: o}
		if src != "" {
			f.Tuple.Src = netip.MustParseAddrPort(src)
		}
		c.add(runlog.Record{Host: "client", Failure: f})
	}
	fails(runlog.ConnectTimeout, "192.0.2.1:40000")
	fails(runlog.ConnectTimeout, "192.0.2.1:40001")
	fails(runlog.ConnectTimeout, "")
	fails(runlog.Refused, "192.0.2.1:0")
	fails(runlog.Other, "") // may never have been sent
	assert.Len(t, c.failures, 1)
	require.NoError(t, c.trailer(&runlog.Trailer{}))
	losses := map[string]uint64{}
	require.NoError(t, runlog.NewReader(&log).Each(func(r *runlog.Record) {
		if r.Loss != nil {
			losses[r.Loss.Why] += r.Loss.Count
		}
	}))
	assert.Equal(t, map[string]uint64{
		"there were more than are looked up, at most 20 a second": 1, "the port that they were sent from is not known": 2,
	}, losses)
}

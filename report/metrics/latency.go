package metrics

import (
	"slices"
	"sync"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tablefull/tablefull/report/runlog"
)

// latencyBounds are the upper bounds of the histogram's buckets, s. They have
// the steps at which a lost SYN shows: 1, 3 and 7 s, and a little behind them.
var latencyBounds = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.9, 1.1, 2.5, 3.5, 5, 7.5, 10, 30}

var latencyDesc = prometheus.NewDesc("tablefull_attempt_latency_seconds",
	"How long successful attempts took, from when they were due.", []string{"arm", "traffic", "node"}, nil)

// latencies adds up the HdrHistograms of a log, which come for a second each,
// in the buckets of Prometheus.
type latencies struct {
	mu sync.Mutex
	of map[[3]string]*latency // arm, traffic, node
}

type latency struct {
	count  uint64
	sum    float64  // s
	counts []uint64 // by bucket, each without the ones below
}

func newLatencies() *latencies { return &latencies{of: map[[3]string]*latency{}} }

// add adds a record. One that cannot be decoded is the log's problem, and is
// said in the findings.
func (l *latencies) add(key [3]string, rec *runlog.Latency) {
	due, _, err := rec.Histograms()
	if err != nil || due == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	to := l.of[key]
	if to == nil {
		to = &latency{counts: make([]uint64, len(latencyBounds))}
		l.of[key] = to
	}
	to.add(due)
}

// add adds a histogram in microseconds: the sum is as exact as its buckets are.
func (l *latency) add(h *hdrhistogram.PackedHistogram) {
	h.ForEachBucket(func(value, count int64) bool {
		s := float64(value) / 1e6
		l.count += uint64(count)
		l.sum += s * float64(count)
		if i, _ := slices.BinarySearch(latencyBounds, s); i < len(l.counts) {
			l.counts[i] += uint64(count)
		}
		return true
	})
}

// Describe is part of prometheus.Collector.
func (l *latencies) Describe(out chan<- *prometheus.Desc) { out <- latencyDesc }

// Collect is part of prometheus.Collector.
func (l *latencies) Collect(out chan<- prometheus.Metric) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, of := range l.of {
		buckets, below := make(map[float64]uint64, len(latencyBounds)), uint64(0)
		for i, bound := range latencyBounds {
			below += of.counts[i]
			buckets[bound] = below
		}
		out <- prometheus.MustNewConstHistogram(latencyDesc, of.count, of.sum, buckets, key[:]...)
	}
}

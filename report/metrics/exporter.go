package metrics

import (
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/watch"
)

// An Exporter takes the records of one run after the other, and serves what
// they come to. Its methods may be called by several goroutines.
type Exporter struct {
	mu       sync.Mutex
	registry *prometheus.Registry
	arm      string

	counters counters
	gauges   gauges
	latency  *latencies
	run      runState
}

// runState is what has to be known of the present run to add up its records.
type runState struct {
	header *runlog.Header
	oneWay map[string]bool
	table  map[string]map[string]uint64 // node, counter: last reading
	cpu    map[string]*runlog.CPU       // node: last reading
	lost   map[[2]string]uint64         // traffic, node: held connections lost, last told
}

// New returns an Exporter for the runs of one scenario, whose name and target
// all of its own samples carry as labels.
func New(scenario, target string) *Exporter {
	e := &Exporter{registry: prometheus.NewRegistry()}
	e.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	own := prometheus.WrapRegistererWith(prometheus.Labels{"scenario": scenario, "target": target}, e.registry)
	e.counters, e.gauges, e.latency = newCounters(), newGauges(), newLatencies()
	own.MustRegister(e.latency)
	own.MustRegister(e.counters.all...)
	own.MustRegister(e.gauges.all...)
	e.run = newRunState()
	return e
}

func newRunState() runState {
	return runState{
		oneWay: map[string]bool{}, table: map[string]map[string]uint64{},
		cpu: map[string]*runlog.CPU{}, lost: map[[2]string]uint64{},
	}
}

// Handler serves the metrics in the format that is asked for.
func (e *Exporter) Handler() http.Handler {
	return promhttp.InstrumentMetricHandler(e.registry, promhttp.HandlerFor(e.registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
}

// Gatherer is where the metrics come from.
func (e *Exporter) Gatherer() prometheus.Gatherer { return e.registry }

// Begin says that the records that follow are those of another run: of which
// arm (empty without arms) and which trial (0 for the only run).
func (e *Exporter) Begin(arm string, trial int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.arm, e.run = arm, newRunState()
	e.gauges.reset()
	if trial > 0 {
		e.gauges.trial.WithLabelValues(arm).Set(float64(trial))
	}
}

// Add takes a record of the present run. Its time is run time.
func (e *Exporter) Add(r *runlog.Record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.T > 0 {
		e.gauges.elapsed.WithLabelValues(e.arm).Set(r.T)
	}
	switch {
	case r.Header != nil:
		e.header(r.Header)
	case r.Bin != nil:
		e.bin(r.Bin)
	case r.Latency != nil:
		e.latency.add([3]string{e.arm, r.Latency.Traffic, r.Latency.Node}, r.Latency)
	case r.Held != nil:
		e.held(r.Held)
	case r.Served != nil:
		e.served(r.Served)
	case r.Sample != nil:
		e.sample(r)
	case r.Census != nil:
		e.census(r.Host, r.Census)
	case r.Event != nil:
		e.event(r.Event)
	case r.Loss != nil:
		e.counters.loss.WithLabelValues(e.arm, r.Loss.What).Add(float64(r.Loss.Count))
	}
}

// Show takes what the analysis finds in the records so far. Ended says that
// the run is over: only then is there a verdict.
func (e *Exporter) Show(f *report.Findings, ended bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gauges.show(e.arm, f, ended)
}

// Watched takes what a watch says of a table whose records were added.
func (e *Exporter) Watched(t *watch.Table) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := &e.gauges
	if r := t.Growth; r != nil {
		for bound, v := range map[string]float64{"median": r.PerS, "low": r.Low, "high": r.High} {
			g.growth.WithLabelValues(e.arm, t.Node, bound).Set(v)
		}
	}
	g.timeToFull.DeletePartialMatch(map[string]string{"arm": e.arm, "node": t.Node})
	for bound, v := range map[string]*float64{"median": t.Full.In, "earliest": t.Full.Earliest, "latest": t.Full.Latest} {
		if v != nil {
			g.timeToFull.WithLabelValues(e.arm, t.Node, bound).Set(*v)
		}
	}
	if t.Full.When == watch.Now {
		g.timeToFull.WithLabelValues(e.arm, t.Node, "median").Set(0)
	}
}

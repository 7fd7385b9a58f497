package report

import (
	"slices"
	"strconv"

	"github.com/tablefull/tablefull/report/runlog"
)

// ProxyProcess is what a node's kube-proxy said of itself, and what it cost.
type ProxyProcess struct {
	Syncs            uint64   `json:"syncs" jsonschema_description:"Times it programmed its rules while the log went on, at least: what one that ended did after it was last asked is not known."`
	SyncMeanS        *float64 `json:"sync_mean_s" jsonschema_description:"Mean length of one, s."`
	Programmings     uint64   `json:"programmings" jsonschema_description:"Changes of endpoints that it programmed."`
	ProgrammingMeanS *float64 `json:"programming_mean_s" jsonschema_description:"Mean of its network programming latency: from the moment the change was told to it, s."`
	Reconciles       uint64   `json:"reconciles" jsonschema_description:"Times its conntrack reconciler looked for entries of UDP that lead to no endpoint any more (kube-proxy 1.32 and later)."`
	ReconcileMeanS   *float64 `json:"reconcile_mean_s" jsonschema_description:"Mean length of one, s."`
	DeletedEntries   uint64   `json:"deleted_entries" jsonschema_description:"Entries that its reconciler deleted."`
	SyncFailures     uint64   `json:"sync_failures" jsonschema_description:"Times the kernel refused its rules."`
	CPUS             *float64 `json:"cpu_s" jsonschema_description:"CPU time it used, starting included, s; null where that was not measured."`
	RSSMiB           *float64 `json:"rss_mib" jsonschema_description:"Most memory it used, MiB; null where that was not measured."`

	least bool // it can have done more than it said
}

// proxyLog adds a kube-proxy's own numbers up. Those begin at 0 again with each
// start of it.
type proxyLog struct {
	seen  map[string]float64 // of the last record
	sum   map[string]float64 // increases since the first
	cpu   float64            // s
	most  float64            // bytes
	asked float64            // s of run time, of the last record
	least bool               // what it did after one of its records is not known
}

// lastAsked is how long before its end, in s, the last record of a kube-proxy still
// tells all that it did.
const lastAsked = 0.1

// proxyCounters are the fields of a metrics event that only rise.
var proxyCounters = []string{"syncs", "sync_s", "programmings", "programming_s", "reconciles", "reconcile_s", "deleted_entries", "sync_failures"}

// proxySums are the fields that are sums of as many lengths of time as another counts.
var proxySums = [][2]string{{"syncs", "sync_s"}, {"programmings", "programming_s"}, {"reconciles", "reconcile_s"}}

func (l *log) addProxyMetrics(node string, t float64, e *runlog.Event) {
	if l.proxies == nil {
		l.proxies = map[string]*proxyLog{}
	}
	p := l.proxies[node]
	if p == nil {
		p = &proxyLog{seen: map[string]float64{}, sum: map[string]float64{}}
		l.proxies[node] = p
	}
	if p.another(e) {
		p.begun()
		p.least = true
	}
	if e.Fields["syncs"] != "" {
		p.asked = t
	}
	for _, name := range proxyCounters {
		v, err := strconv.ParseFloat(e.Fields[name], 64)
		if err != nil || !sane(v) || v < 0 {
			continue
		}
		before, known := p.seen[name]
		switch {
		case v < before:
			p.sum[name] += v // another process
		case known:
			p.sum[name] += v - before
		}
		p.seen[name] = v
	}
	// Of each process that has ended.
	if v, err := strconv.ParseFloat(e.Fields["cpu_s"], 64); err == nil && sane(v) && v >= 0 {
		p.cpu += v
	}
	if v, err := strconv.ParseFloat(e.Fields["rss_bytes"], 64); err == nil && sane(v/1e6) {
		p.most = max(p.most, v)
	}
}

// another says whether the counts are those of another process than before. That
// counts from 0: one that fell tells it of all. It can have got as far as the one before
// by then, and a sum that is another one for the same count tells that.
func (p *proxyLog) another(e *runlog.Event) bool {
	is := func(name string) (v float64, known bool) {
		v, err := strconv.ParseFloat(e.Fields[name], 64)
		_, before := p.seen[name]
		return v, err == nil && before
	}
	for _, name := range proxyCounters {
		if v, known := is(name); known && v < p.seen[name] {
			return true
		}
	}
	return slices.ContainsFunc(proxySums, func(x [2]string) bool {
		n, known := is(x[0])
		sum, too := is(x[1])
		return known && too && n == p.seen[x[0]] && sum != p.seen[x[1]]
	})
}

// silent notes that it did not answer: it may be paused, or another one by the time
// it does, which may have done as much.
func (p *proxyLog) silent() { p.least = true }

// ended notes that the process did at a time.
func (p *proxyLog) ended(t float64) {
	p.begun()
	p.least = p.least || t-p.asked > lastAsked
}

// begun notes that the process that counts is a new one.
func (p *proxyLog) begun() {
	for name := range p.seen {
		p.seen[name] = 0
	}
}

// finding is nil for a node without a kube-proxy.
func (p *proxyLog) finding() *ProxyProcess {
	if p == nil || len(p.seen) == 0 && p.cpu == 0 {
		return nil
	}
	f := &ProxyProcess{least: p.least, Syncs: uint64(p.sum["syncs"]), Programmings: uint64(p.sum["programmings"])}
	f.Reconciles, f.DeletedEntries, f.SyncFailures = uint64(p.sum["reconciles"]), uint64(p.sum["deleted_entries"]), uint64(p.sum["sync_failures"])
	mean := func(sum, n string) *float64 {
		if p.sum[n] <= 0 {
			return nil
		}
		return finite(p.sum[sum] / p.sum[n])
	}
	f.SyncMeanS, f.ProgrammingMeanS = mean("sync_s", "syncs"), mean("programming_s", "programmings")
	f.ReconcileMeanS = mean("reconcile_s", "reconciles")
	if p.cpu > 0 {
		f.CPUS = finite(p.cpu)
	}
	if p.most > 0 {
		f.RSSMiB = finite(p.most / (1 << 20))
	}
	return f
}

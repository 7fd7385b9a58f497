package report

import (
	"strconv"

	"github.com/tablefull/tablefull/report/runlog"
)

// ProxyProcess is what a node's kube-proxy said of itself, and what it cost.
type ProxyProcess struct {
	Syncs            uint64   `json:"syncs" jsonschema_description:"Times it programmed its rules while the log went on."`
	SyncMeanS        *float64 `json:"sync_mean_s" jsonschema_description:"Mean length of one, s."`
	Programmings     uint64   `json:"programmings" jsonschema_description:"Changes of endpoints that it programmed."`
	ProgrammingMeanS *float64 `json:"programming_mean_s" jsonschema_description:"Mean of its network programming latency: from the moment the change was told to it, s."`
	Reconciles       uint64   `json:"reconciles" jsonschema_description:"Times its conntrack reconciler looked for entries of UDP that lead to no endpoint any more (kube-proxy 1.32 and later)."`
	ReconcileMeanS   *float64 `json:"reconcile_mean_s" jsonschema_description:"Mean length of one, s."`
	DeletedEntries   uint64   `json:"deleted_entries" jsonschema_description:"Entries that its reconciler deleted."`
	SyncFailures     uint64   `json:"sync_failures" jsonschema_description:"Times the kernel refused its rules."`
	CPUS             *float64 `json:"cpu_s" jsonschema_description:"CPU time it used, starting included, s; null where that was not measured."`
	RSSMiB           *float64 `json:"rss_mib" jsonschema_description:"Most memory it used, MiB; null where that was not measured."`
}

// proxyLog adds a kube-proxy's own numbers up. Those begin at 0 again with each
// start of it.
type proxyLog struct {
	seen map[string]float64 // of the last record
	sum  map[string]float64 // increases since the first
	cpu  float64            // s
	most float64            // bytes
}

// proxyCounters are the fields of a metrics event that only rise.
var proxyCounters = []string{"syncs", "sync_s", "programmings", "programming_s", "reconciles", "reconcile_s", "deleted_entries", "sync_failures"}

func (l *log) addProxyMetrics(node string, e *runlog.Event) {
	if l.proxies == nil {
		l.proxies = map[string]*proxyLog{}
	}
	p := l.proxies[node]
	if p == nil {
		p = &proxyLog{seen: map[string]float64{}, sum: map[string]float64{}}
		l.proxies[node] = p
	}
	// A new process counts from 0: one count that fell tells it of all.
	for _, name := range proxyCounters {
		if v, err := strconv.ParseFloat(e.Fields[name], 64); err == nil && v < p.seen[name] {
			p.begun()
		}
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
	f := &ProxyProcess{Syncs: uint64(p.sum["syncs"]), Programmings: uint64(p.sum["programmings"])}
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

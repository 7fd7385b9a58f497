package kubeproxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metrics is what a kube-proxy says about itself. Where it says it for each IP
// family these are sums over both. A nil pointer means that it says nothing:
// it is of another mode or release, or nothing of the kind has happened yet.
type Metrics struct {
	LastSync   time.Time // rules were last programmed; zero if never
	LastQueued time.Time // a change was last queued; zero if never
	Sync       Histogram // seconds, of each programming of rules
	// Programming is seconds from the change an EndpointSlice tells of (its
	// annotation) to its rules.
	Programming                       Histogram
	EndpointsPending, ServicesPending float64 // changes not yet programmed
	RestoreFailures, PartialFailures  *float64
	NFTablesFailures                  *float64
	ConntrackReconcile                Histogram // seconds
	ConntrackDeleted                  *float64
	CPU                               time.Duration // used so far
	RSS                               uint64        // bytes
}

// Histogram is a histogram as Prometheus counts it.
type Histogram struct {
	Count   uint64
	Sum     float64
	Buckets []Bucket // by rising LE, cumulative; the last LE may be +Inf
}

// Bucket counts the observations that are at most LE.
type Bucket struct {
	LE    float64
	Count uint64
}

const maxMetrics = 16 << 20 // bytes

// Scrape reads the metrics.
func (p *Process) Scrape(ctx context.Context) (Metrics, error) {
	return ScrapeFrom(ctx, p.client, p.config.metrics())
}

// ScrapeFrom reads the metrics of the kube-proxy that serves them at the address.
func ScrapeFrom(ctx context.Context, client *http.Client, at netip.AddrPort) (Metrics, error) {
	body, err := get(ctx, client, "http://"+at.String()+"/metrics")
	if err != nil {
		return Metrics{}, err
	}
	return ParseMetrics(body)
}

// get returns an answer's body, with an error too if it is not 200.
func (p *Process) get(ctx context.Context, url string) ([]byte, error) {
	return get(ctx, p.client, url)
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("ask kube-proxy: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask kube-proxy: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMetrics))
	if err != nil {
		return nil, fmt.Errorf("ask kube-proxy: read %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return body, fmt.Errorf("ask kube-proxy: %s answers %s", url, resp.Status)
	}
	return body, nil
}

// ParseMetrics reads what kube-proxy's metrics endpoint answers.
func ParseMetrics(text []byte) (Metrics, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	parsed, err := parser.TextToMetricFamilies(bytes.NewReader(ours(text)))
	if err != nil {
		return Metrics{}, fmt.Errorf("parse kube-proxy's metrics: %w", err)
	}
	f := families(parsed)
	zero := func(v *float64) float64 {
		if v == nil {
			return 0
		}
		return *v
	}
	return Metrics{
		LastSync:           f.last("kubeproxy_sync_proxy_rules_last_timestamp_seconds"),
		LastQueued:         f.last("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds"),
		Sync:               f.histogram("kubeproxy_sync_proxy_rules_duration_seconds"),
		Programming:        f.histogram("kubeproxy_network_programming_duration_seconds"),
		EndpointsPending:   zero(f.sum("kubeproxy_sync_proxy_rules_endpoint_changes_pending")),
		ServicesPending:    zero(f.sum("kubeproxy_sync_proxy_rules_service_changes_pending")),
		RestoreFailures:    f.sum("kubeproxy_sync_proxy_rules_iptables_restore_failures_total"),
		PartialFailures:    f.sum("kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total"),
		NFTablesFailures:   f.sum("kubeproxy_sync_proxy_rules_nftables_sync_failures_total"),
		ConntrackReconcile: f.histogram("kubeproxy_conntrack_reconciler_sync_duration_seconds"),
		ConntrackDeleted:   f.sum("kubeproxy_conntrack_reconciler_deleted_entries_total"),
		CPU:                time.Duration(zero(f.sum("process_cpu_seconds_total")) * float64(time.Second)),
		RSS:                uint64(zero(f.sum("process_resident_memory_bytes"))),
	}, nil
}

// ours are the lines of the metrics of kube-proxy and of its process. The rest, 89 of
// 96 kB of a kube-proxy 1.36.3, is of Go and of Kubernetes' libraries, and takes ten
// times as long to parse as these. A text that is cut off stays so.
func ours(text []byte) []byte {
	if !bytes.HasSuffix(text, []byte("\n")) {
		return text
	}
	out := make([]byte, 0, len(text)/4)
	for line := range bytes.Lines(text) {
		name := bytes.TrimPrefix(bytes.TrimPrefix(line, []byte("# HELP ")), []byte("# TYPE "))
		if bytes.HasPrefix(name, []byte("kubeproxy_")) || bytes.HasPrefix(name, []byte("process_")) {
			out = append(out, line...)
		}
	}
	return out
}

type families map[string]*dto.MetricFamily

func value(m *dto.Metric) float64 {
	switch {
	case m.Gauge != nil:
		return m.GetGauge().GetValue()
	case m.Counter != nil:
		return m.GetCounter().GetValue()
	}
	return m.GetUntyped().GetValue()
}

func (f families) sum(name string) *float64 {
	if len(f[name].GetMetric()) == 0 {
		return nil
	}
	var s float64
	for _, m := range f[name].GetMetric() {
		s += value(m)
	}
	return &s
}

// last is the latest of the times of all IP families.
func (f families) last(name string) time.Time {
	var latest float64
	for _, m := range f[name].GetMetric() {
		latest = max(latest, value(m))
	}
	if latest == 0 {
		return time.Time{}
	}
	seconds, part := math.Modf(latest)
	return time.Unix(int64(seconds), int64(part*1e9))
}

// histogram adds the histograms of all IP families: their buckets are the same.
func (f families) histogram(name string) Histogram {
	var h Histogram
	for _, m := range f[name].GetMetric() {
		one := m.GetHistogram()
		h.Count += one.GetSampleCount()
		h.Sum += one.GetSampleSum()
		for i, b := range one.GetBucket() {
			if i == len(h.Buckets) {
				h.Buckets = append(h.Buckets, Bucket{LE: b.GetUpperBound()})
			}
			h.Buckets[i].Count += b.GetCumulativeCount()
		}
	}
	return h
}

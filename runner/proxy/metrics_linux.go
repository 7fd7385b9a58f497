package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/kubeproxy"
)

// metricsRecord is what a kube-proxy said of itself at a moment.
func metricsRecord(m kubeproxy.Metrics, at time.Time) runlog.Record {
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	count := func(n uint64) string { return strconv.FormatUint(n, 10) }
	fields := map[string]string{
		"syncs": count(m.Sync.Count), "sync_s": number(m.Sync.Sum),
		"programmings": count(m.Programming.Count), "programming_s": number(m.Programming.Sum),
		"endpoints_pending": number(m.EndpointsPending), "services_pending": number(m.ServicesPending),
	}
	if m.ConntrackReconcile.Count > 0 {
		fields["reconciles"], fields["reconcile_s"] = count(m.ConntrackReconcile.Count), number(m.ConntrackReconcile.Sum)
	}
	for name, v := range map[string]*float64{"deleted_entries": m.ConntrackDeleted, "sync_failures": sumOf(m.NFTablesFailures, m.RestoreFailures)} {
		if v != nil {
			fields[name] = number(*v)
		}
	}
	if !m.LastSync.IsZero() {
		fields["last_sync_ago_s"] = number(at.Sub(m.LastSync).Seconds())
	}
	return runlog.Record{Event: &runlog.Event{Kind: "proxy", Name: "metrics", Fields: fields}}
}

// wellness is what a kube-proxy's health endpoint said last.
type wellness struct{ said string }

// note records what it says now, at first and whenever that is another: err is
// what it answers instead of 200, or why it does not answer.
func (w *wellness) note(err error, out env.Recorder) {
	e := runlog.Event{Kind: "proxy", Name: "healthy"}
	if err != nil {
		e.Name, e.Detail = "unhealthy", err.Error()
	}
	if e.Name != w.said {
		w.said = e.Name
		out.Record(runlog.Record{Event: &e})
	}
}

// sumOf is nil where nothing is known of either.
func sumOf(a, b *float64) *float64 {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return new(*a + *b)
}

// Metrics is the worker of a ProxyMetricsJob.
type Metrics struct {
	at     netip.AddrPort
	every  time.Duration
	client *http.Client
}

var _ env.Worker = (*Metrics)(nil)

// NewMetrics returns the worker of j.ProxyMetrics.
func NewMetrics(j env.Job) (env.Worker, error) {
	if j.ProxyMetrics == nil || j.ProxyMetrics.Every <= 0 {
		return nil, fmt.Errorf("make reader of kube-proxy's metrics: job %q says nothing of where and how often", j.ID)
	}
	// No proxy of the environment's, and one connection, which is one entry of the
	// node's table. It is made anew where the kube-proxy is another.
	t := &http.Transport{DialContext: (&net.Dialer{}).DialContext, MaxConnsPerHost: 1}
	return &Metrics{
		at: j.ProxyMetrics.At, every: time.Duration(j.ProxyMetrics.Every * float64(time.Second)),
		client: &http.Client{Transport: t, Timeout: time.Second},
	}, nil
}

// Run is part of env.Worker. A kube-proxy that does not answer is recorded
// once, until it answers again: it may be down, have another address for its
// metrics, or not be there at all.
func (m *Metrics) Run(ctx context.Context, ready func(), out env.Recorder) error {
	defer m.client.CloseIdleConnections()
	every := time.NewTicker(m.every)
	defer every.Stop()
	ready()
	for silent := false; ; {
		said, err := kubeproxy.ScrapeFrom(ctx, m.client, m.at)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			silent = false
			out.Record(metricsRecord(said, time.Now()))
		case !silent:
			silent = true
			out.Record(runlog.Record{Event: &runlog.Event{Kind: "proxy", Name: "silent", Detail: err.Error()}})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
	}
}

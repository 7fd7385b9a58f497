package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/metrics"
	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner"
)

// A metricsServer serves what runs write into their logs.
type metricsServer struct {
	exporter *metrics.Exporter
}

func bindMetrics(f *pflag.FlagSet, to *string) {
	f.StringVar(to, "metrics", "", "serve Prometheus metrics at `address`/metrics while it goes on; :9464 is that port for this machine only")
}

// metricsAddress is where --metrics wants to be listened: for this machine only
// unless it names an address.
func metricsAddress(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "" {
		return "", usagef("--metrics %s: must be a port behind a colon, or an address and a port, for example :9464", listen)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// serveMetrics makes f's runs be followed and serves what they show, until the
// returned function is called. Without --metrics it does nothing.
func (f *runFlags) serveMetrics(ctx context.Context, scenario string, s Streams) (end func(), err error) {
	if f.metrics == "" || f.dryRun {
		return func() {}, nil
	}
	m := &metricsServer{exporter: metrics.New(scenario, f.target)}
	end, err = serveExporter(ctx, f.metrics, m.exporter, f.quiet, s)
	if err == nil {
		f.follow = m.follow
	}
	return end, err
}

// serveExporter serves what e exports at the address that --metrics names,
// until the returned function is called.
func serveExporter(ctx context.Context, listen string, e *metrics.Exporter, quiet bool, s Streams) (end func(), err error) {
	address, err := metricsAddress(listen)
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen for --metrics: %w; choose another port, or any free one: --metrics :0", err)
	}
	if err != nil {
		return nil, &usageError{fmt.Errorf("listen for --metrics: %w", err)}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", e.Handler())
	served := make(chan struct{})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	go func() {
		defer close(served)
		_ = server.Serve(l) // ends by Close
	}()
	if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
		fmt.Fprintf(s.Err, "tablefull: metrics on %s are not only for this machine: whoever can reach it can read them, and there is no password\n", l.Addr())
	}
	if !quiet {
		fmt.Fprintf(s.Err, "tablefull: metrics: http://%s/metrics\n", l.Addr())
	}
	return func() {
		_ = server.Close() // nothing that is written could be lost
		<-served
	}, nil
}

// follow exports the run that is about to write its log into dir, or the trials
// of a search, until the returned function is called. That one reads the log to
// its end.
func (m *metricsServer) follow(dir, arm string, trial int) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.export(ctx, dir, arm, trial)
	}()
	return func() { cancel(); <-ended }
}

// export blocks. A log that cannot be followed shows nothing: the report will
// say why.
func (m *metricsServer) export(ctx context.Context, dir, arm string, trial int) {
	f, err := openSoon(ctx, dir)
	if err != nil {
		return
	}
	defer f.Close()
	search, known := false, make(chan struct{})
	a := report.NewAnalysis(f)
	a.Thin = true
	m.exporter.Begin(arm, trial)
	a.OnRecord = func(r *runlog.Record) {
		if r.Header != nil && r.Header.Search != nil {
			search = true
			close(known)
		}
		if !search {
			m.exporter.Add(r)
		}
	}
	trials := make(chan struct{})
	inner, stop := context.WithCancel(ctx)
	go func() {
		defer close(trials)
		select {
		case <-known:
			m.exportTrials(inner, filepath.Join(dir, runner.TrialsDir), arm)
		case <-inner.Done():
		}
	}()
	defer func() { stop(); <-trials }()
	var next time.Time
	_ = a.Follow(ctx, func() error {
		begun := time.Now()
		if begun.Before(next) {
			return nil
		}
		m.exporter.Show(a.Findings(), false)
		next = time.Now().Add(max(causesEvery, time.Duration(float64(time.Since(begun))/causesShare)))
		return nil
	})
	if a.Read() != nil {
		return
	}
	if whole, err := analyzeDir(dir); err == nil { // a verdict is of all there is
		m.exporter.Show(whole, true)
	}
}

// exportTrials exports the runs of a search one after the other, until ctx is
// done.
func (m *metricsServer) exportTrials(ctx context.Context, dir, arm string) {
	for n := 1; ; n++ {
		f, err := openSoon(ctx, filepath.Join(dir, fmt.Sprintf("%03d", n)))
		if err != nil {
			return
		}
		m.exporter.Begin(arm, n)
		a := report.NewAnalysis(f)
		a.OnRecord = m.exporter.Add
		_ = a.Follow(ctx, func() error { return nil })
		if a.Read() == nil {
			m.exporter.Show(a.Findings(), false)
		}
		_ = f.Close() // opened for reading
	}
}

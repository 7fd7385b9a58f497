//go:build linux

package proxy

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// noted is a dataplane that notes what is done to it.
type noted struct{ calls *[]string }

func (n noted) note(s string) error {
	*n.calls = append(*n.calls, s)
	return nil
}

func (n noted) sync(context.Context, []env.ServiceState) error { return n.note("sync") }
func (n noted) remove() error                                  { return n.note("remove") }
func (n noted) close() error                                   { return n.note("close") }
func (n noted) measure() error                                 { return n.note("measure") }

type nowhere struct{}

func (nowhere) Record(runlog.Record) {}

// What a proxy counts of itself is lost with it, so it is read before each end;
// one that hangs would not answer.
func TestProxyIsMeasuredBeforeItEnds(t *testing.T) {
	var calls []string
	p := &Proxy{
		job: env.ProxyJob{Proxy: scenarios.Proxy{KeepUDP: true}}, orders: make(chan order),
		open: func(context.Context, env.ProxyJob, env.Recorder) (dataplane, error) { return noted{&calls}, nil },
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- p.Run(ctx, func() { close(ready) }, nowhere{}) }()
	<-ready
	for _, o := range []env.ProxyOrder{env.RestartProxyClean, env.PauseProxy, env.RestartProxy} {
		require.NoError(t, p.Update(ctx, env.Update{Proxy: o}))
	}
	cancel()
	require.NoError(t, <-done)
	assert.Equal(t, []string{
		"sync", "measure", "close", "remove",
		"sync", "close", // it hung
		"sync", "measure", "close",
	}, calls)
}

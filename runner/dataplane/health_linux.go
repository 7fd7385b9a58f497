package dataplane

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// patience is how long a health check port may take to answer. A proxy that
// hangs never does.
const patience = time.Second

// healthPort is a health check port that is asked as a load balancer asks it, but
// for one thing: over one connection that is kept, because each new one would
// leave an entry in the table that is measured.
type healthPort struct {
	env.HealthPort
	node   string
	client *http.Client
	said   string // at last
}

func newHealthPort(node string, p env.HealthPort) *healthPort {
	return &healthPort{HealthPort: p, node: node, client: &http.Client{Timeout: patience, Transport: &http.Transport{MaxConnsPerHost: 1}}}
}

// watch asks every so often until ctx ends.
func (h *healthPort) watch(ctx context.Context, every time.Duration, out env.Recorder) {
	defer h.client.CloseIdleConnections()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			h.ask(ctx, out)
		}
	}
}

// ask asks once, and records an answer that is not the one before.
func (h *healthPort) ask(ctx context.Context, out env.Recorder) {
	says := h.answer(ctx)
	if ctx.Err() != nil || says == h.said {
		return
	}
	h.said = says
	out.Record(runlog.Record{Event: &runlog.Event{Kind: "node", Name: h.node, Detail: h.Service + "'s health check port " + says}})
}

func (h *healthPort) answer(ctx context.Context) string {
	const silent = "does not answer"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.Addr.String()+"/", nil)
	if err != nil {
		return silent
	}
	r, err := h.client.Do(req)
	if err != nil {
		return silent
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil { // or the connection is not kept
		return silent
	}
	return fmt.Sprintf("says %d", r.StatusCode)
}

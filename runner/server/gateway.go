//go:build linux

package server

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/tablefull/tablefull/runner/env"
)

const (
	gatewayIdle = 100             // idle connections kept to the backend by default
	gatewayDial = 5 * time.Second // how long connecting to the backend may take: the default of common proxies
)

// NewGateway returns a reverse proxy from job.Serve.Addr to
// job.Serve.Upstream, with a pool of kept-alive connections: one connection
// of a client then costs the node up to two entries. job.Serve must be set.
//
// A request that the upstream does not answer is answered with 502 and counted
// in Errors; so is one whose client has gone before the upstream answered.
// There is no limit on how long the upstream may take to answer: the client's
// patience is the limit. net/http sends a request again, on a new connection,
// where a kept-alive one turns out to be closed; that is what gateways do, and
// is not counted.
func NewGateway(job env.Job) (env.Worker, error) {
	j := *job.Serve
	s, err := newHTTP(j)
	if err != nil {
		return nil, fmt.Errorf("make gateway: %w", err)
	}
	if !j.Upstream.IsValid() || j.Upstream.Port() == 0 {
		return nil, fmt.Errorf("make gateway: %v is not an upstream's address and port", j.Upstream)
	}
	keep, idle := true, gatewayIdle
	if g := j.Gateway; g != nil {
		if g.KeepAlive != nil {
			keep = *g.KeepAlive
		}
		if g.Idle > 0 {
			idle = g.Idle
		}
	}
	dialer := &net.Dialer{Timeout: gatewayDial, KeepAlive: -1} // no probes: see listenTCP
	transport := &http.Transport{
		DialContext:         dialer.DialContext,
		DisableKeepAlives:   !keep,
		MaxIdleConnsPerHost: idle,
		DisableCompression:  true,
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: j.Upstream.String()})
			r.SetXForwarded()
		},
		Transport: transport,
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	s.done = transport.CloseIdleConnections
	s.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.forward(proxy, w, r) })
	return s, nil
}

// forward proxies one request and counts how it ended.
func (s *HTTP) forward(proxy *httputil.ReverseProxy, w http.ResponseWriter, r *http.Request) {
	failed := true // also where the proxy panics, which is how it gives up in the middle of an answer
	defer func() {
		if failed {
			s.errors.Add(1)
		} else {
			s.answered()
		}
	}()
	upstream := true
	p := *proxy
	p.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) {
		upstream = false
		w.WriteHeader(http.StatusBadGateway)
	}
	p.ServeHTTP(w, r)
	err := http.NewResponseController(w).Flush()
	failed = !upstream || err != nil
}

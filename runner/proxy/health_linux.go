package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/tablefull/tablefull/runner/env"
)

// health answers on the health check node ports of a node with the built-in
// proxy, as kube-proxy does: 200 while the node has ready endpoints of the
// service, else 503. While the proxy hangs, so does the answer.
type health struct {
	node string
	addr netip.Addr

	mu      sync.Mutex
	servers map[uint16]*http.Server
	ready   map[uint16]healthState
	paused  chan struct{} // closed when it goes on; nil while it does
	ended   sync.WaitGroup
}

type healthState struct {
	service string
	local   int // ready endpoints of this node
}

func newHealth(j env.ProxyJob) *health {
	return &health{node: j.Node, addr: j.NodeAddr, servers: map[uint16]*http.Server{}, ready: map[uint16]healthState{}}
}

// sync takes over what the services are now. A port once open stays so: the
// services of a lab do not go away.
func (h *health) sync(services []env.ServiceState) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range services {
		if s.HealthCheck == 0 {
			continue
		}
		st := healthState{service: s.Name}
		for _, e := range s.Endpoints {
			if e.Node == h.node && e.Ready {
				st.local++
			}
		}
		h.ready[s.HealthCheck] = st
		if h.servers[s.HealthCheck] == nil {
			if err := h.listen(s.HealthCheck); err != nil {
				return err
			}
		}
	}
	return nil
}

// listen needs mu.
func (h *health) listen(port uint16) error {
	l, err := net.Listen("tcp", netip.AddrPortFrom(h.addr, port).String())
	if err != nil {
		return fmt.Errorf("listen for health checks: %w", err)
	}
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.answer(w, r, port) })}
	h.servers[port] = s
	h.ended.Go(func() { _ = s.Serve(l) }) // ends with close
	return nil
}

func (h *health) answer(w http.ResponseWriter, r *http.Request, port uint16) {
	for {
		h.mu.Lock()
		wait, st := h.paused, h.ready[port]
		h.mu.Unlock()
		if wait == nil {
			respond(w, st)
			return
		}
		select {
		case <-wait:
		case <-r.Context().Done():
			return
		}
	}
}

// respond is what kube-proxy's ServiceHealthServer answers
// (pkg/proxy/healthcheck/service_health.go).
func respond(w http.ResponseWriter, st healthState) {
	var body struct {
		Service struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"service"`
		LocalEndpoints      int  `json:"localEndpoints"`
		ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
	}
	body.Service.Namespace, body.Service.Name = "default", st.service
	body.LocalEndpoints, body.ServiceProxyHealthy = st.local, true
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(st.local))
	if st.local == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(body) // whoever asked has gone
}

// hang keeps all who ask waiting, or lets them go on.
func (h *health) hang(does bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case does && h.paused == nil:
		h.paused = make(chan struct{})
	case !does && h.paused != nil:
		close(h.paused)
		h.paused = nil
	}
}

// close ends it, and with it what waits for an answer.
func (h *health) close() error {
	h.mu.Lock()
	servers := h.servers
	h.servers, h.ready = map[uint16]*http.Server{}, map[uint16]healthState{}
	h.mu.Unlock()
	var errs []error
	for _, s := range servers {
		errs = append(errs, s.Close())
	}
	h.hang(false)
	h.ended.Wait()
	return errors.Join(errs...)
}

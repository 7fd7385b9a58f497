package runner

import (
	"net/netip"
	"slices"
	"time"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// Ageing is how the trials of a search wait for each other's entries where
// these stay behind: on nodes that outlive a trial's pods. Its methods are for
// one goroutine.
type Ageing struct {
	stay  float64 // s that a trial's entries stay after its end, at most
	to    []netip.AddrPort
	ended time.Time
}

const (
	// lazily is how long, in s, an expired entry may stay: the kernel's
	// collector goes over an idle table about once a minute (gc_worker in
	// nf_conntrack_core.c, GC_SCAN_INTERVAL_MAX).
	lazily = 60
	// settled is for what a connection does after its trial, s.
	settled = 2
)

// Ageing is that of the plan's trials.
func (p *Plan) Ageing() *Ageing {
	a := &Ageing{}
	for _, name := range []string{"tcp_timeout_time_wait", "tcp_timeout_close", "tcp_timeout_fin_wait", "tcp_timeout_last_ack", "udp_timeout", "udp_timeout_stream"} {
		a.stay = max(a.stay, p.Timeouts()[name])
	}
	return a
}

// Longest is how long a trial may wait, s.
func (a *Ageing) Longest() float64 { return a.stay + settled + lazily }

// Job is the wait of the next trial; of the first, for nothing.
func (a *Ageing) Job() env.AgeJob {
	if a.to == nil {
		return env.AgeJob{}
	}
	after := max(0, a.stay+settled-time.Since(a.ended).Seconds())
	return env.AgeJob{To: a.to, After: after, Within: after + lazily}
}

// Ended notes the end of a trial, and whom it connected to.
func (a *Ageing) Ended(services []runlog.ServiceInfo) {
	if a.ended = time.Now(); a.to == nil {
		a.to = []netip.AddrPort{}
	}
	// Those of earlier trials, too: of one whose entries outstayed the wait.
	add := func(to netip.AddrPort) {
		if !slices.Contains(a.to, to) {
			a.to = append(a.to, to)
		}
	}
	for i := range services {
		add(services[i].Addr)
		for _, b := range services[i].Backends {
			add(b.Addr)
		}
	}
}

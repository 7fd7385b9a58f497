package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// repeatAfter is how often an unchanged dataplane is recorded all the same, so
// that a log cut at any moment says what was known then.
const repeatAfter = 10 * time.Second

// A target is a service address: what to look for.
type target struct {
	addr  netip.AddrPort
	proto uint8
}

// A table is what each target leads to.
type table map[target][]runlog.ProgrammedBackend

// Audit is the worker of an AuditJob.
type Audit struct {
	job   env.AuditJob
	epoch int64
	read  func(ctx context.Context) (table, error)
}

var _ env.Worker = (*Audit)(nil)

// New returns the worker of j.Audit. It must run in the node's network
// namespace.
func New(j env.Job) (env.Worker, error) {
	if j.Audit == nil {
		return nil, fmt.Errorf("make audit: job %q is none", j.ID)
	}
	if j.Audit.Every <= 0 {
		return nil, fmt.Errorf("make audit: every is %g s: it must be above 0", j.Audit.Every)
	}
	a := &Audit{job: *j.Audit, epoch: j.Epoch}
	switch mode := a.job.Mode; mode {
	case "nftables":
		a.read = func(context.Context) (table, error) { return readNFT(a.job.IPv6) }
	case "ipvs":
		a.read = func(context.Context) (table, error) { return readIPVS() }
	case "iptables":
		a.read = func(ctx context.Context) (table, error) { return readIPTables(ctx, a.job.IPv6) }
	default:
		return nil, fmt.Errorf("make audit: mode %q is not nftables, iptables or ipvs", mode)
	}
	return a, nil
}

// Run is part of env.Worker. It reads once before it is ready, then every
// Every seconds, and records what has changed.
func (a *Audit) Run(ctx context.Context, ready func(), out env.Recorder) error {
	every := time.NewTicker(time.Duration(a.job.Every * float64(time.Second)))
	defer every.Stop()
	var last *runlog.Dataplane
	var at time.Time
	for first := true; ; first = false {
		begin := monotonic()
		d := a.once(ctx)
		end := monotonic()
		if ctx.Err() != nil {
			return nil
		}
		if last == nil || !same(last, d) || time.Since(at) >= repeatAfter {
			d.Took = float64(end-begin) / 1e9
			out.Record(runlog.Record{T: float64(begin+(end-begin)/2-a.epoch) / 1e9, Dataplane: d})
			last, at = d, time.Now()
		}
		if first {
			ready()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
	}
}

// once reads the dataplane and picks out the job's services.
func (a *Audit) once(ctx context.Context) *runlog.Dataplane {
	d := &runlog.Dataplane{Mode: a.job.Mode, Services: []runlog.ProgrammedService{}}
	t, err := a.read(ctx)
	if err != nil {
		d.Failed = err.Error()
		return d
	}
	for _, s := range a.job.Services {
		proto := uint8(unix.IPPROTO_TCP)
		if s.Protocol == "udp" {
			proto = unix.IPPROTO_UDP
		}
		// All ports of a service lead to the same pods: the first stands for
		// all.
		addr := netip.AddrPortFrom(s.Addr, s.Port)
		backends := slices.Clone(t[target{addr, proto}])
		slices.SortFunc(backends, func(x, y runlog.ProgrammedBackend) int { return x.Addr.Compare(y.Addr) })
		d.Services = append(d.Services, runlog.ProgrammedService{Service: s.Name, Addr: addr, Backends: append([]runlog.ProgrammedBackend{}, backends...)})
	}
	return d
}

// same says whether both hold the same backends with the same weights; their
// connections come and go.
func same(a, b *runlog.Dataplane) bool {
	return a.Failed == b.Failed && reflect.DeepEqual(still(a), still(b))
}

func still(d *runlog.Dataplane) [][]runlog.ProgrammedBackend {
	var out [][]runlog.ProgrammedBackend
	for _, s := range d.Services {
		var list []runlog.ProgrammedBackend
		for _, b := range s.Backends {
			list = append(list, runlog.ProgrammedBackend{Addr: b.Addr, Weight: b.Weight})
		}
		out = append(out, list)
	}
	return out
}

func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("read the monotonic clock: " + err.Error()) // cannot fail on Linux
	}
	return ts.Nano()
}

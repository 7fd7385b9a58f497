package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"
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

	mu   sync.Mutex
	read reader
}

// A reader returns what is programmed, and in which mode.
type reader func(ctx context.Context) (mode string, t table, err error)

var (
	_ env.Worker  = (*Audit)(nil)
	_ env.Updater = (*Audit)(nil)
)

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
	if err := a.look(a.job.Mode); err != nil {
		return nil, err
	}
	return a, nil
}

// Update is part of env.Updater: another proxy programs another mode's rules.
func (a *Audit) Update(_ context.Context, u env.Update) error {
	if u.Upgrade == nil {
		return errors.New("update audit: it knows upgrades of the proxy alone")
	}
	return a.look(u.Upgrade.Mode)
}

// look reads the rules of a mode from now on.
func (a *Audit) look(mode string) error {
	var read reader
	switch mode {
	case "nftables":
		read = func(context.Context) (string, table, error) {
			t, err := readNFT(a.families(), a.wanted)
			return mode, t, err
		}
	case "ipvs":
		read = func(context.Context) (string, table, error) {
			t, err := readIPVS()
			return mode, t, err
		}
	case "iptables":
		read = func(ctx context.Context) (string, table, error) {
			t, err := readIPTables(ctx, a.families())
			return mode, t, err
		}
	case env.KubeProxyRules:
		read = func(context.Context) (string, table, error) { return readKube(a.families(), a.wanted) }
	default:
		return fmt.Errorf("make audit: mode %q is not nftables, iptables, ipvs or %s", mode, env.KubeProxyRules)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.read = read
	return nil
}

// Run is part of env.Worker. It reads once before it is ready, then every
// Every seconds, and records what has changed. Health check ports are asked apart
// from that: what hangs does not hold up the reading.
func (a *Audit) Run(ctx context.Context, ready func(), out env.Recorder) error {
	every := time.NewTicker(time.Duration(a.job.Every * float64(time.Second)))
	defer every.Stop()
	var asking sync.WaitGroup
	defer asking.Wait()
	for _, p := range a.job.Health {
		h := newHealthPort(a.job.Node, p)
		h.ask(ctx, out) // what it says at first
		asking.Go(func() { h.watch(ctx, time.Duration(a.job.Every*float64(time.Second)), out) })
	}
	var last *runlog.Dataplane
	var at time.Time
	var before int64 // middle of the reading before
	for first := true; ; first = false {
		begin := monotonic()
		d := a.once(ctx)
		end := monotonic()
		if ctx.Err() != nil {
			return nil
		}
		if last == nil || !same(last, d) || time.Since(at) >= repeatAfter {
			d.Took = float64(end-begin) / 1e9
			if !first {
				d.Since = float64(begin+(end-begin)/2-before) / 1e9
			}
			out.Record(runlog.Record{T: float64(begin+(end-begin)/2-a.epoch) / 1e9, Dataplane: d})
			last, at = d, time.Now()
		}
		before = begin + (end-begin)/2
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
	a.mu.Lock()
	read := a.read
	a.mu.Unlock()
	mode, t, err := read(ctx)
	d := &runlog.Dataplane{Mode: mode, Services: []runlog.ProgrammedService{}}
	if err != nil {
		d.Failed = err.Error()
		return d
	}
	for _, s := range a.job.Services {
		k := targetOf(s)
		backends := slices.Clone(t[k])
		slices.SortFunc(backends, func(x, y runlog.ProgrammedBackend) int { return x.Addr.Compare(y.Addr) })
		d.Services = append(d.Services, runlog.ProgrammedService{Service: s.Name, Addr: k.addr, Backends: append([]runlog.ProgrammedBackend{}, backends...)})
	}
	return d
}

// families are those of the job's services: false is IPv4, true IPv6.
func (a *Audit) families() []bool {
	var out []bool
	for _, six := range []bool{false, true} {
		if slices.ContainsFunc(a.job.Services, func(s env.ServiceState) bool { return s.Addr.Is6() == six }) {
			out = append(out, six)
		}
	}
	return out
}

// wanted says whether an address is one of the job's services.
func (a *Audit) wanted(k target) bool {
	return slices.ContainsFunc(a.job.Services, func(s env.ServiceState) bool { return targetOf(s) == k })
}

// targetOf is where a service is. All its ports lead to the same pods: the
// first stands for all.
func targetOf(s env.ServiceState) target {
	proto := uint8(unix.IPPROTO_TCP)
	if s.Protocol == "udp" {
		proto = unix.IPPROTO_UDP
	}
	return target{netip.AddrPortFrom(s.Addr, s.Port), proto}
}

// same says whether both hold the same backends with the same weights; their
// connections come and go.
func same(a, b *runlog.Dataplane) bool {
	return a.Failed == b.Failed && a.Mode == b.Mode && reflect.DeepEqual(still(a), still(b))
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

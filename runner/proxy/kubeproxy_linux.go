package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/kubeapi"
	"github.com/tablefull/tablefull/runner/kubeproxy"
	"github.com/tablefull/tablefull/runner/sysctl"
)

const (
	// metricsEvery is how often a kube-proxy's metrics are recorded.
	metricsEvery = 5 * time.Second
	// maxComplaints bounds the lines of its log that are recorded: warnings and
	// errors, each kind once.
	maxComplaints = 100
	// startWithin is how long a kube-proxy may take to its first rules.
	startWithin = time.Minute
	// stopGrace is how long a kube-proxy may take to end.
	stopGrace = 10 * time.Second
)

// kubeProxy is a real kube-proxy as a child of this process, fed by an API
// server of ours on the loopback of this network namespace.
type kubeProxy struct {
	job   env.ProxyJob
	out   env.Recorder
	api   *kubeapi.Server
	http  *http.Server
	addr  string
	ended chan struct{} // http has ended
	p     *kubeproxy.Process
	well  wellness

	mu   sync.Mutex
	said map[string]bool // complaints that were recorded
}

func openKubeProxy(_ context.Context, j env.ProxyJob, out env.Recorder) (dataplane, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for kube-proxy: %w", err)
	}
	k := &kubeProxy{job: j, out: out, api: kubeapi.New(kubeapi.Options{}), addr: "http://" + l.Addr().String(), ended: make(chan struct{}), said: map[string]bool{}}
	k.http = &http.Server{Handler: k.api.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(k.ended)
		_ = k.http.Serve(l) // ends with close
	}()
	return k, nil
}

// sync is part of dataplane. The first one starts the kube-proxy and waits
// until it has programmed its rules; a later one only tells it.
func (k *kubeProxy) sync(ctx context.Context, services []env.ServiceState) error {
	objects := []kubeapi.Object{
		kubeapi.Node{Name: k.job.Node, Addrs: []netip.Addr{k.job.NodeAddr}}.Object(),
		kubeapi.ServiceCIDR(k.job.VIPs),
	}
	for _, s := range services {
		svc := kubeapi.Service{Name: s.Name, ClusterIP: s.Addr, Local: s.Local, HealthCheckNodePort: s.HealthCheck}
		for i := range s.Ports {
			p := kubeapi.Port{Protocol: s.Protocol, Port: s.Port + i}
			if s.NodePort != 0 {
				p.NodePort = s.NodePort + i
			}
			if s.Ports > 1 {
				p.Name = fmt.Sprintf("p%d", p.Port)
			}
			svc.Ports = append(svc.Ports, p)
		}
		var ends []kubeapi.Endpoint
		for _, e := range s.Endpoints {
			ends = append(ends, kubeapi.Endpoint{Pod: e.Name, Addr: e.Addr, Node: e.Node, Ready: e.Ready, Serving: e.Serving, Terminating: e.Terminating})
		}
		slice, err := svc.Slice(ends, time.Now())
		if err != nil {
			return err
		}
		objects = append(objects, svc.Object(), slice)
	}
	if err := k.api.Replace(objects...); err != nil {
		return fmt.Errorf("publish endpoints: %w", err)
	}
	if k.p != nil {
		return nil
	}
	return k.start(ctx)
}

func (k *kubeProxy) start(ctx context.Context) error {
	c, err := k.config()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startWithin, errors.New("it has programmed no rules in a minute"))
	defer cancel()
	before, _ := sysctl.Read(limitName)
	if k.p, err = kubeproxy.Start(ctx, c); err != nil {
		return err
	}
	if now, err := sysctl.Read(limitName); err == nil && before != "" && now != before {
		k.out.Record(runlog.Record{Event: &runlog.Event{
			Kind: "sysctl", Name: "set", Detail: "kube-proxy has set it at its start; it was " + before,
			Fields: map[string]string{sysctl.Dotted(limitName): now},
		}})
	}
	return k.override()
}

const limitName = "net/netfilter/nf_conntrack_max"

// override writes what the scenario chooses over what the kube-proxy has set.
func (k *kubeProxy) override() error {
	values := ipvsSettings(k.job.Proxy.IPVS)
	if k.job.Proxy.Mode != kubeproxy.IPVS || len(values) == 0 {
		return nil
	}
	if err := sysctl.SetAll(values); err != nil {
		return fmt.Errorf("write over what kube-proxy has set: %w", err)
	}
	sysctl.Note(k.out, "set", values)
	return nil
}

func (k *kubeProxy) config() (kubeproxy.Config, error) {
	dir := filepath.Join(k.job.WorkDir, "kube-proxy-"+k.job.Node)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return kubeproxy.Config{}, fmt.Errorf("make directory for kube-proxy: %w", err)
	}
	c := kubeproxy.Config{
		Binary: k.job.Proxy.Binary, Mode: k.job.Proxy.Mode, Node: k.job.Node, API: k.addr, Dir: dir, NodeIP: k.job.NodeAddr,
		// Where clients are: what comes from there is not masqueraded.
		ClusterCIDR: k.job.Clients,
		// The lock of iptables-legacy; the nf_tables variant has none.
		Env: []string{"XTABLES_LOCKFILE=" + env.XtablesLock(k.job.WorkDir, k.job.Node)},
		Log: k.log,
		Exited: func(err error) {
			k.warn(fmt.Sprintf("kube-proxy ended by itself: %v", err))
		},
	}
	if k.job.Proxy.Masquerade {
		c.ClusterCIDR = k.job.VIPs // nobody is there, so everybody is from outside
	}
	if limit := k.job.Proxy.Conntrack; limit.Limit(1) > 0 {
		c.Conntrack.MaxPerCore, c.Conntrack.Min = int(*limit.MaxPerCore), new(int(*limit.Min))
	}
	// A scenario's own timeouts stay; it would write its defaults over them.
	var leave time.Duration
	if _, set := k.job.Sysctls["net/netfilter/nf_conntrack_tcp_timeout_established"]; set {
		c.Conntrack.TCPEstablished = &leave
	}
	if _, set := k.job.Sysctls["net/netfilter/nf_conntrack_tcp_timeout_close_wait"]; set {
		c.Conntrack.TCPCloseWait = &leave
	}
	return c, nil
}

// log records what it complains about, once. Its lines begin with I, W, E or F,
// followed by date, time and process; then comes where in its source, and what.
func (k *kubeProxy) log(line string) {
	if line == "" || !strings.ContainsRune("WEF", rune(line[0])) {
		return
	}
	_, what, _ := strings.Cut(line, "] ")
	k.mu.Lock()
	known := k.said[what] || len(k.said) >= maxComplaints
	if !known {
		k.said[what] = true
	}
	k.mu.Unlock()
	if known {
		return
	}
	k.out.Record(runlog.Record{Event: &runlog.Event{Kind: "proxy", Name: "log", Detail: line}})
}

func (k *kubeProxy) warn(text string) {
	k.out.Record(runlog.Record{Event: &runlog.Event{Kind: "warning", Name: "proxy", Detail: text}})
}

// tick is part of ticker. What a kube-proxy that was just started has said need
// not be asked again.
func (k *kubeProxy) tick() (time.Duration, error) {
	const just = time.Second
	if k.p != nil {
		if m, at, ok := k.p.TakeFirst(); ok && time.Since(at) < just {
			k.well.note(nil, k.out)
			k.out.Record(metricsRecord(m, time.Now()))
			return metricsEvery, nil
		}
	}
	return metricsEvery, k.measure()
}

// measure is part of measured: it records the kube-proxy's own metrics, and
// whether it calls itself healthy.
func (k *kubeProxy) measure() error {
	if k.p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	k.well.note(k.p.Healthy(ctx), k.out)
	m, err := k.p.Scrape(ctx)
	if err != nil {
		return fmt.Errorf("read kube-proxy's metrics: %w", err)
	}
	k.out.Record(metricsRecord(m, time.Now()))
	return nil
}

// pause is part of process.
func (k *kubeProxy) pause(ctx context.Context) error { return k.p.Pause(ctx) }

// resume is part of process.
func (k *kubeProxy) resume(ctx context.Context) error { return k.p.Resume(ctx) }

// remove is part of dataplane: kube-proxy --cleanup. It follows close.
func (k *kubeProxy) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if k.p == nil {
		return nil // it never ran
	}
	if err := k.p.Clean(ctx); err != nil {
		return err
	}
	// Debian's user-mode Linux has no nftables, and is left as kube-proxy
	// leaves it.
	if err := keepTracking(k.job.IPv6); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return nil
}

// close is part of dataplane.
func (k *kubeProxy) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	var err error
	if k.p != nil {
		err = k.p.Stop(ctx)
		if used := k.p.Used(); used.CPU > 0 {
			k.out.Record(runlog.Record{Event: &runlog.Event{Kind: "proxy", Name: "metrics", Fields: map[string]string{
				"cpu_s": strconv.FormatFloat(used.CPU.Seconds(), 'g', -1, 64), "rss_bytes": strconv.FormatUint(used.RSS, 10),
			}}})
		}
	}
	k.api.Close()
	err = errors.Join(err, k.http.Close())
	<-k.ended
	return err
}

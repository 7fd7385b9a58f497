package lab

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/proxy"
	"github.com/tablefull/tablefull/scenarios"
)

// Act is part of env.Lab. All it changes is inside the lab and goes with it.
func (l *Lab) Act(ctx context.Context, a scenarios.Action) error {
	switch {
	case a.Rollout != nil:
		surge := 1
		if a.Rollout.MaxSurge != nil {
			surge = *a.Rollout.MaxSurge
		}
		return l.deployed(a.Rollout.Service, func(d *deployment) error { return d.roll(ctx, surge, a.Rollout.MaxUnavailable) })
	case a.Scale != nil:
		return l.deployed(a.Scale.Service, func(d *deployment) error { return d.scale(ctx, a.Scale.To) })
	case a.DeletePod != nil:
		return l.deployed(a.DeletePod.Service, func(d *deployment) error {
			return d.deletePods(ctx, max(1, a.DeletePod.Count), a.DeletePod.Force)
		})
	}
	if a.HoldXtablesLock != nil {
		if err := lockMatters(ctx); err != nil {
			return err
		}
	}
	if job := nodeJob(a); job != nil {
		return l.onNodes(ctx, a.Nodes, func(ctx context.Context, h env.Host) error { return l.runOn(ctx, h, job(l, h)) })
	}
	if a.Ballast != nil {
		headroom := uint64(a.Ballast.Headroom)
		return l.onNodes(ctx, a.Nodes, func(ctx context.Context, h env.Host) error {
			return h.Update(ctx, env.BallastID(h.Name()), env.Update{Headroom: &headroom})
		})
	}
	u, err := proxyUpdate(a)
	if err != nil {
		return err
	}
	on := l.onNodes
	if a.RestartProxy != nil && a.RestartProxy.Rolling {
		on = l.onNodesInTurn
	}
	return on(ctx, a.Nodes, func(ctx context.Context, h env.Host) error {
		if err := h.Update(ctx, proxyJob, u); err != nil || u.Upgrade == nil {
			return err
		}
		return h.Update(ctx, env.AuditID(h.Name()), u)
	})
}

// lockMatters refuses to hold a lock that nobody would take: of the two
// variants of iptables only the legacy one has it.
func lockMatters(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "iptables", "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf("find out which iptables this is: %w", err)
	}
	if strings.Contains(string(out), "nf_tables") {
		return fmt.Errorf("hold_xtables_lock would change nothing: %s takes no lock; it needs iptables-legacy (update-alternatives --set iptables /usr/sbin/iptables-legacy)", strings.TrimSpace(string(out)))
	}
	return nil
}

// nodeJob makes the job that does an action on a node; nil where it is no job
// of its own.
func nodeJob(a scenarios.Action) func(*Lab, env.Host) env.Job {
	switch {
	case a.Flush != nil:
		return func(*Lab, env.Host) env.Job { return env.Job{Flush: &env.FlushJob{Protocol: a.Flush.Protocol}} }
	case a.SetSysctl != nil:
		return func(*Lab, env.Host) env.Job {
			return env.Job{Sysctl: &env.SysctlJob{Values: a.SetSysctl.Values, For: a.SetSysctl.For.Seconds()}}
		}
	case a.ConntrackSettings != nil:
		return func(*Lab, env.Host) env.Job {
			return env.Job{Sysctl: &env.SysctlJob{Values: settingsOf(a.ConntrackSettings)}}
		}
	case a.HoldXtablesLock != nil:
		return func(l *Lab, h env.Host) env.Job {
			return env.Job{Lock: &env.LockJob{Path: env.XtablesLock(l.topology.WorkDir, h.Name()), For: a.HoldXtablesLock.For.Seconds()}}
		}
	}
	return nil
}

// settingsOf are the settings of a namespace that the action changes; the limit
// is none.
func settingsOf(c *scenarios.ConntrackSettings) map[string]string {
	const prefix = "net.netfilter.nf_conntrack_"
	values := map[string]string{}
	for name, d := range c.Timeouts {
		values[prefix+name] = strconv.FormatInt(int64(time.Duration(d)/time.Second), 10)
	}
	if c.BeLiberal != nil {
		values[prefix+"tcp_be_liberal"] = "0"
		if *c.BeLiberal {
			values[prefix+"tcp_be_liberal"] = "1"
		}
	}
	return values
}

// runOn runs a job to its end. When ctx ends first, the job is stopped, so
// that it puts back what it has changed.
func (l *Lab) runOn(ctx context.Context, h env.Host, j env.Job) error {
	j.ID, j.Epoch = fmt.Sprintf("act/%d", l.serial.Add(1)), l.epochs[h.Name()]
	if err := h.Start(ctx, j); err != nil {
		return err
	}
	if err := h.Wait(ctx, j.ID); err == nil || ctx.Err() == nil {
		return err
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	return errors.Join(ctx.Err(), h.Stop(stopping, j.ID))
}

// proxyUpdate is what an action tells a proxy.
func proxyUpdate(a scenarios.Action) (u env.Update, err error) {
	switch {
	case a.PauseProxy != nil:
		u.Proxy = env.PauseProxy
	case a.ResumeProxy != nil:
		u.Proxy = env.ResumeProxy
	case a.RestartProxy != nil:
		u.Proxy, u.Down = env.RestartProxy, a.RestartProxy.Down.Seconds()
		if a.RestartProxy.Clean {
			u.Proxy = env.RestartProxyClean
		}
	case a.UpgradeProxy != nil:
		by := *a.UpgradeProxy
		if by.Binary != "" {
			if by.Binary, err = proxy.Locate(by.Binary); err != nil {
				return u, err
			}
		}
		u.Upgrade = &by
	default:
		return u, fmt.Errorf("the lab cannot do %s", a.Kind())
	}
	return u, nil
}

// deployed calls do with the named service's deployment.
func (l *Lab) deployed(service string, do func(*deployment) error) error {
	for _, d := range l.deployments {
		if d.spec.Name == service {
			return do(d)
		}
	}
	return fmt.Errorf("there is no service %q", service)
}

// named are the nodes of these names, or all.
func (l *Lab) named(names []string) ([]env.Host, error) {
	var nodes []env.Host
	for _, h := range l.hosts {
		if h.Role() == env.Node && (len(names) == 0 || slices.Contains(names, h.Name())) {
			nodes = append(nodes, h)
		}
	}
	if len(nodes) == 0 {
		return nil, errors.New("there is no such node")
	}
	return nodes, nil
}

// onNodes does something on the named nodes, or on all, at once.
func (l *Lab) onNodes(ctx context.Context, names []string, do func(context.Context, env.Host) error) error {
	nodes, err := l.named(names)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, h := range nodes {
		g.Go(func() error { return do(ctx, h) })
	}
	return g.Wait()
}

// onNodesInTurn does it on one after the other.
func (l *Lab) onNodesInTurn(ctx context.Context, names []string, do func(context.Context, env.Host) error) error {
	nodes, err := l.named(names)
	if err != nil {
		return err
	}
	for _, h := range nodes {
		if err := do(ctx, h); err != nil {
			return fmt.Errorf("node %s: %w", h.Name(), err)
		}
	}
	return nil
}

// warn records what limits the trust in the run.
func (l *Lab) warn(detail string) {
	l.out.Record(runlog.Record{Event: &runlog.Event{Kind: "warning", Name: "lab", Detail: detail}})
}

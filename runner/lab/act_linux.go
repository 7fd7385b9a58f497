package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
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
	u, err := proxyUpdate(a)
	if err != nil {
		return err
	}
	return l.onNodes(ctx, a.Nodes, func(ctx context.Context, h env.Host) error {
		if a.RestartProxy != nil && a.RestartProxy.Down > 0 {
			if err := h.Update(ctx, proxyJob, env.Update{Proxy: env.PauseProxy}); err != nil {
				return err
			}
			if !sleep(ctx, time.Duration(a.RestartProxy.Down)) {
				return ctx.Err()
			}
		}
		return h.Update(ctx, proxyJob, u)
	})
}

// proxyUpdate is what an action tells a proxy.
func proxyUpdate(a scenarios.Action) (u env.Update, err error) {
	switch {
	case a.PauseProxy != nil:
		u.Proxy = env.PauseProxy
	case a.ResumeProxy != nil:
		u.Proxy = env.ResumeProxy
	case a.RestartProxy != nil && a.RestartProxy.Clean:
		u.Proxy = env.RestartProxyClean
	case a.RestartProxy != nil:
		u.Proxy = env.RestartProxy
	case a.UpgradeProxy != nil:
		u.Upgrade = a.UpgradeProxy
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

// onNodes does something on the named nodes, or on all, at once.
func (l *Lab) onNodes(ctx context.Context, names []string, do func(context.Context, env.Host) error) error {
	var nodes []env.Host
	for _, h := range l.hosts {
		if h.Role() == env.Node && (len(names) == 0 || slices.Contains(names, h.Name())) {
			nodes = append(nodes, h)
		}
	}
	if len(nodes) == 0 {
		return errors.New("there is no such node")
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, h := range nodes {
		g.Go(func() error { return do(ctx, h) })
	}
	return g.Wait()
}

// warn records what limits the trust in the run.
func (l *Lab) warn(detail string) {
	l.out.Record(runlog.Record{Event: &runlog.Event{Kind: "warning", Name: "lab", Detail: detail}})
}

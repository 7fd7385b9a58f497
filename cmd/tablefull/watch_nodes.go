package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/watch"
	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/cluster"
	"github.com/tablefull/tablefull/runner/env"
)

// watchNodes watches the tables of a cluster's nodes, by a sampler on each, and
// removes these on every way out.
func watchNodes(ctx context.Context, f watchFlags, k kubeFlags, s Streams) (err error) {
	if k.image == "" {
		return errNoImage("--target kubernetes")
	}
	slices.Sort(k.nodes)
	k.nodes = slices.Compact(k.nodes)
	e, err := k.env()
	if err != nil {
		return err
	}
	rights, err := cluster.LookRights()
	if err != nil {
		return err
	}
	if err := checkRights(ctx, e, rights, "tablefull doctor --rbac "+watchRole); err != nil {
		return err
	}
	if err := e.CheckNodes(ctx, k.nodes); err != nil {
		return cannotAsk(ctx, err)
	}
	l, err := e.Look(ctx, "watch", k.nodes, !f.noWalk)
	var left *cluster.NotRemoved
	if errors.As(err, &left) {
		return &runner.Dirty{Err: err}
	}
	if err != nil {
		return cannotAsk(ctx, err)
	}
	defer func() {
		note(s.Err, "removing "+l.Namespace()+" ...")
		if cerr := l.Close(ctx); cerr != nil {
			err = &runner.Dirty{Err: errors.Join(cerr, err)}
		}
	}()
	if err := l.Complete(); err != nil {
		return &cannotError{err}
	}
	return newNodesWatcher(f, s, e.Server(), l.Hosts()).run(ctx)
}

// A nodesWatcher follows the samplers of nodes.
type nodesWatcher struct {
	*watcher
	hosts []env.Host

	seen  sync.Mutex // guards what follows
	heard map[string]time.Time
	lost  map[string]string // nodes whose sampler is followed no more, and why
}

func newNodesWatcher(f watchFlags, s Streams, server string, hosts []env.Host) *nodesWatcher {
	x := &nodesWatcher{watcher: newWatcher(f, s), hosts: hosts, heard: map[string]time.Time{}, lost: map[string]string{}}
	var names []string
	for _, h := range hosts {
		names = append(names, h.Name())
	}
	x.what = strings.Join(names, ", ") + " of " + server
	x.leave = "Ctrl-C ends it and removes its pods; it changes nothing on the nodes"
	x.word = "tablefull: the watch was killed; its pods end by themselves in a minute, and what is left of them removes: tablefull clean"
	return x
}

func (x *nodesWatcher) run(ctx context.Context) error {
	x.began = time.Now()
	epochs := make([]int64, len(x.hosts))
	for i, h := range x.hosts {
		facts, ok := h.(interface {
			Facts(ctx context.Context) (env.Capabilities, error)
		})
		if !ok {
			return fmt.Errorf("watch %s: its agent has no facts", h.Name())
		}
		about, err := facts.Facts(ctx)
		if err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		if epochs[i], err = epochOf(ctx, h, x.began); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		x.tables[h.Name()] = &watchedTable{w: watch.New(h.Name(), x.f.interval.Seconds(), about.Buckets)}
		x.heard[h.Name()] = time.Now()
	}
	return x.show(ctx, func(ctx context.Context) error { return x.work(ctx, epochs) })
}

// epochOf is the moment began on a host's clock, ns, within half the time that
// asking took.
func epochOf(ctx context.Context, h env.Host, began time.Time) (int64, error) {
	asked := time.Now()
	clock, err := h.Clock(ctx)
	if err != nil {
		return 0, err
	}
	middle := asked.Add(time.Since(asked) / 2)
	return clock - middle.Sub(began).Nanoseconds(), nil
}

// work starts the jobs and follows the records until ctx is done, or no node is
// followed any more. A node that is lost does not end the others.
func (x *nodesWatcher) work(ctx context.Context, epochs []int64) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	for i, h := range x.hosts {
		g.Go(func() error {
			if err := x.follow(ctx, h, epochs[i]); err != nil && ctx.Err() == nil {
				x.lose(h.Name(), err)
			}
			return nil
		})
	}
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		x.listen(ctx)
	}()
	_ = g.Wait() // each has noted its own end
	stop()
	<-quiet
	x.seen.Lock()
	defer x.seen.Unlock()
	if len(x.lost) == 0 {
		return nil
	}
	return errors.New("not watched to the end: " + x.missing())
}

func (x *nodesWatcher) follow(ctx context.Context, h env.Host, epoch int64) error {
	for _, j := range x.jobs(epoch) {
		if err := h.Start(ctx, j); err != nil {
			return err
		}
	}
	return h.Records(ctx, 1, func(r runlog.Record) error {
		x.seen.Lock()
		x.heard[h.Name()] = time.Now()
		x.seen.Unlock()
		x.record(h.Name(), r)
		return nil
	})
}

// lose notes a node whose sampler is followed no more.
func (x *nodesWatcher) lose(node string, err error) {
	x.seen.Lock()
	defer x.seen.Unlock()
	x.lost[node] = err.Error()
}

// missing needs seen.
func (x *nodesWatcher) missing() string {
	var out []string
	for _, node := range slices.Sorted(maps.Keys(x.lost)) {
		out = append(out, x.lost[node]) // which begins with the node's name
	}
	return strings.Join(out, "; ")
}

// silence is after how long without a record a node is said to be silent: what
// is shown of it is old then.
func (x *nodesWatcher) silence() time.Duration { return 3*x.f.interval + 2*time.Second }

// listen says which nodes are lost or silent, whenever that has changed.
func (x *nodesWatcher) listen(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := x.unseen(); now != said {
			said = now
			x.out.note(now)
		}
	}
}

// unseen is which nodes are not seen, and why; empty where all are.
func (x *nodesWatcher) unseen() string {
	x.seen.Lock()
	defer x.seen.Unlock()
	var out []string
	if len(x.lost) > 0 {
		out = append(out, "not watched any more: "+x.missing())
	}
	if silent := x.silent(); silent != "" {
		out = append(out, "nothing is heard of "+silent+" at the moment: what is shown of it is old")
	}
	return strings.Join(out, "; ")
}

// silent needs seen.
func (x *nodesWatcher) silent() string {
	var out []string
	for _, node := range slices.Sorted(maps.Keys(x.heard)) {
		if _, lost := x.lost[node]; !lost && time.Since(x.heard[node]) > x.silence() {
			out = append(out, node)
		}
	}
	return strings.Join(out, ", ")
}

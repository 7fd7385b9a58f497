package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/tablefull/tablefull/cmd/tablefull/live"
	"github.com/tablefull/tablefull/report/metrics"
	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/watch"
	"github.com/tablefull/tablefull/runner/agent"
	"github.com/tablefull/tablefull/runner/env"
)

const (
	// walkShare is the share of one CPU that walks over the table may use. The
	// rest of the 2 % that a watch promises is for all else it does.
	walkShare = 0.015
	// walkEvery is how often the table is walked where that allows it, s.
	walkEvery = 2
	// watchNames is how many sources, and services, are named.
	watchNames = 10
)

type watchFlags struct {
	target   string
	netns    string
	pid      int
	entered  string // what it is in, after it has entered that
	interval time.Duration
	length   time.Duration
	json     bool
	noWalk   bool
	metrics  string
}

func watchCommand(s Streams) *cobra.Command {
	var f watchFlags
	k := newKubeFlags()
	c := &cobra.Command{
		Use:   "watch",
		Short: "Watch a conntrack table of this machine or of nodes: how full, who fills it, and until when it holds",
		Long: `Watch shows the connection tracking table of this machine, or of one of its
network namespaces, as it goes: entries and limit, whether and when it will be
full, what comes and goes, entries by protocol and state, the sources and the
services (destinations before NAT) with most of them, and the kernel's counters
that move. It opens nothing for writing and changes nothing.

On a terminal it is shown in place until Ctrl-C. Elsewhere it is a line for each
reading and one for each walk over the table; --json prints an object a line.

When it will be full is said only where the table is shown to grow: from the
median of what it gained in up to ten stretches of the last minute, with the
interval that holds it with 95 %.

What it costs the watched machine: a reading of counters every --interval, and
walks over the whole table, at most one in 2 s, and the rarer the larger the
table is, so that in the long run they use at most 1.5 % and everything together
at most 2 % of one CPU. The first walk comes at once: of 250 000 entries it takes
half a second, so the first half minute costs more. What it has really used is
shown. Memory does not grow with the table: of more than 1024 sources or
services, those with most entries are found with a bounded error, which is shown.

Walks need CAP_NET_ADMIN. Without it, --no-walk shows what the counters say.

With --target kubernetes it watches the tables of the cluster's nodes that --node
names. A pod of tablefull's image runs on each meanwhile, on the node's network
with NET_ADMIN (for walks; with --no-walk without it) and nothing else, in a
namespace labelled as a run's. That is removed at the end, which takes some
seconds; after a kill the pods end by themselves a minute later, and tablefull
clean removes the namespace. What is shown is the same, for each node.

` + exitHelp + seeAlso("doctor", "run", "size", "clean"),
		Example: `  sudo tablefull watch                          this machine, until Ctrl-C
  sudo tablefull watch --pid 4711               the namespace that process 4711 is in
  sudo tablefull watch --netns /run/netns/blue  one made by "ip netns add blue"
  tablefull watch --no-walk                     without root: counters only
  sudo tablefull watch --json --for 1m > table.jsonl
  sudo tablefull watch --metrics :9464          for Prometheus, too
  tablefull watch --target kubernetes --node node-a,node-b --image registry.example/tablefull:v1`,
		GroupID: groupMachine,
		Args:    exactArgs(0, "no argument"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, _ []string) error {
			return watchTable(c.Context(), f, k, c.Flags(), s)
		},
	}
	c.Flags().StringVar(&f.target, "target", "machine", "what to watch: this machine or nodes of a cluster, as machine or kubernetes")
	k.bindPods(c.Flags())
	c.Flags().StringSliceVar(&k.nodes, "node", nil, "with --target kubernetes: the `nodes`")
	_ = c.RegisterFlagCompletionFunc("target", completeWatched) // the flag is there
	c.Flags().StringVar(&f.netns, "netns", "", "watch the network namespace of this `file`")
	c.Flags().IntVar(&f.pid, "pid", 0, "watch the network namespace of this `process`")
	c.Flags().DurationVar(&f.interval, "interval", time.Second, "how often to read the counters: 100ms to 1h")
	c.Flags().DurationVar(&f.length, "for", 0, "end after so long (default: at Ctrl-C)")
	c.Flags().BoolVar(&f.json, "json", false, "print an object a line")
	c.Flags().BoolVar(&f.noWalk, "no-walk", false, "read counters only: no walks over the table, no CAP_NET_ADMIN needed")
	bindMetrics(c.Flags(), &f.metrics)
	c.Flags().StringVar(&f.entered, "entered", "", "")
	_ = c.Flags().MarkHidden("entered") // fails only where there is no such flag
	return c
}

// check refuses flags that do not go together.
func (f *watchFlags) check(flags *pflag.FlagSet) error {
	if f.target != "machine" && f.target != "kubernetes" {
		return usagef("--target %s: there are machine and kubernetes", f.target)
	}
	inCluster := f.target == "kubernetes"
	switch {
	case inCluster && (f.netns != "" || f.pid != 0):
		return usagef("--netns and --pid are for this machine")
	case inCluster != flags.Changed("node"):
		return usagef("--target kubernetes and --node go together: a pod is started on each node that is named")
	}
	if f.interval < 100*time.Millisecond || f.interval > time.Hour {
		return usagef("--interval %s: must be 100ms to 1h", f.interval)
	}
	if f.length < 0 || f.length > 0 && f.length < f.interval {
		return usagef("--for %s: must be as long as --interval %s, or longer", f.length, f.interval)
	}
	if f.netns != "" && f.pid != 0 {
		return usagef("--netns and --pid: one namespace at a time")
	}
	return nil
}

func watchTable(ctx context.Context, f watchFlags, k kubeFlags, flags *pflag.FlagSet, s Streams) error {
	if err := f.check(flags); err != nil {
		return err
	}
	if f.target == "kubernetes" {
		return watchNodes(ctx, f, k, s)
	}
	if f.pid != 0 {
		f.netns = fmt.Sprintf("/proc/%d/ns/net", f.pid)
	}
	if f.netns != "" {
		return enterNamespace(f.netns, again(f, flags))
	}
	return newWatcher(f, s).run(ctx)
}

// again are the arguments with which the program does the same from within the
// namespace.
func again(f watchFlags, flags *pflag.FlagSet) []string {
	what := f.netns
	if f.pid != 0 {
		what = "process " + strconv.Itoa(f.pid)
	}
	args := []string{"watch", "--entered=" + what}
	flags.Visit(func(x *pflag.Flag) {
		if x.Name != "netns" && x.Name != "pid" && x.Name != "entered" {
			args = append(args, "--"+x.Name+"="+x.Value.String())
		}
	})
	return args
}

// A watcher shows tables as their samplers record them.
type watcher struct {
	f watchFlags
	s Streams

	began time.Time
	what  string // is watched
	// Of the view: what Ctrl-C does, and what is said where the program was
	// killed.
	leave, word string

	mu       sync.Mutex // records come from several workers
	tables   map[string]*watchedTable
	out      output
	exporter *metrics.Exporter
	failed   error
	stop     func() // ends the samplers
}

// watchedTable is one table, by the name of its node.
type watchedTable struct {
	w      *watch.Watch
	walked bool // since the last output
}

func newWatcher(f watchFlags, s Streams) *watcher {
	return &watcher{f: f, s: s, tables: map[string]*watchedTable{}}
}

// run watches the table of the namespace this process is in.
func (x *watcher) run(ctx context.Context) error {
	facts, err := agent.Facts()
	if err != nil {
		return noTable(err)
	}
	node, err := os.Hostname()
	if err != nil {
		node = "here"
	}
	x.what = node + ", Linux " + facts.Kernel
	if x.f.entered != "" {
		x.what = x.f.entered + " on " + x.what
		node = "table"
	}
	x.leave = "Ctrl-C ends it; nothing was changed, so nothing is to be put back"
	x.word = "tablefull: the watch was ended; it had changed nothing"
	x.tables[node] = &watchedTable{w: watch.New(node, x.f.interval.Seconds(), facts.Buckets)}
	x.began = time.Now()
	return x.show(ctx, func(ctx context.Context) error { return x.work(ctx, node) })
}

// show shows what work records until that ends, ctx or the time that --for says.
func (x *watcher) show(ctx context.Context, work func(context.Context) error) (err error) {
	if x.f.metrics != "" {
		x.exporter = metrics.New("", "watch")
		x.exporter.Begin("", 0)
		end, err := serveExporter(ctx, x.f.metrics, x.exporter, false, x.s)
		if err != nil {
			return err
		}
		defer end()
	}
	if x.f.length > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, x.f.length)
		defer cancel()
	}
	ctx, x.stop = context.WithCancel(ctx)
	defer x.stop()
	x.out = x.output()
	err = noTable(errors.Join(work(ctx), x.failure()))
	return errors.Join(err, x.out.end(x.last()))
}

// failure is why nothing could be shown any more.
func (x *watcher) failure() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.failed
}

// jobs are what samples and walks a table from an epoch on.
func (x *watcher) jobs(epoch int64) []env.Job {
	jobs := []env.Job{{ID: "sample", Epoch: epoch, Sample: &env.SampleJob{Every: x.f.interval.Seconds(), Conntrack: true, Own: true}}}
	if !x.f.noWalk {
		jobs = append(jobs, env.Job{ID: "census", Epoch: epoch, Census: &env.CensusJob{
			Every: max(walkEvery, x.f.interval.Seconds()), MaxCPU: walkShare,
			Sources: watchNames, Services: watchNames, Turnover: true, Brief: true,
		}})
	}
	return jobs
}

// work runs the samplers of this process's table until ctx is done.
func (x *watcher) work(ctx context.Context, node string) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, j := range x.jobs(agent.Clock()) {
		w, err := agent.New(j)
		if err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		g.Go(func() error { return w.Run(ctx, func() {}, recorder{x, node}) })
	}
	return g.Wait()
}

// recorder takes the records of one node's samplers.
type recorder struct {
	x    *watcher
	node string
}

// Record is part of env.Recorder.
func (r recorder) Record(rec runlog.Record) { r.x.record(r.node, rec) }

func (x *watcher) record(node string, r runlog.Record) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r.Host = node
	of := x.tables[node]
	of.w.Add(&r)
	if x.exporter != nil {
		x.exporter.Add(&r)
	}
	of.walked = of.walked || r.Census != nil
	if r.Sample == nil || x.failed != nil {
		return
	}
	t := x.table(of)
	if x.exporter != nil {
		x.exporter.Watched(&t)
	}
	if x.failed = x.out.show(t, of.walked); x.failed != nil {
		x.stop()
	}
	of.walked = false
}

// table needs mu.
func (x *watcher) table(of *watchedTable) watch.Table {
	t := of.w.Table()
	t.Time = x.began.Add(time.Duration(t.At * float64(time.Second))).Format("2006-01-02T15:04:05.000Z07:00")
	t.Named = len(x.tables) > 1
	return t
}

// last is what was known at the end, by node.
func (x *watcher) last() []watch.Table {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []watch.Table
	for _, node := range slices.Sorted(maps.Keys(x.tables)) {
		if of := x.tables[node]; of.w.Sampled() {
			out = append(out, x.table(of))
		}
	}
	return out
}

// An output shows tables.
type output interface {
	// show shows one; walked says whether there has been a walk since the last.
	show(t watch.Table, walked bool) error
	// note says what is not seen, and why; empty for all is seen.
	note(text string)
	// end is called once, with the last ones.
	end(last []watch.Table) error
}

func (x *watcher) output() output {
	if x.f.json {
		return jsonLines{json.NewEncoder(x.s.Out), x.s.Err}
	}
	if out, ok := x.s.Out.(*os.File); ok && live.IsTerminal(out) {
		if t, ok := liveOn(x.s.Err, os.Getenv); ok {
			first := live.Watched{What: x.what, Since: x.began.Format("15:04:05"), Leave: x.leave}
			if v := show(t, first, live.WatchFrame, os.Getenv, x.word); v != nil {
				return &liveOutput{v, t, x.s.Out}
			}
		}
	}
	return plainLines{x.s.Out, x.s.Err}
}

type jsonLines struct {
	e   *json.Encoder
	err io.Writer
}

func (o jsonLines) show(t watch.Table, _ bool) error { return o.e.Encode(t) }
func (o jsonLines) note(text string)                 { note(o.err, text) }
func (o jsonLines) end([]watch.Table) error          { return nil }

// note is for what is no data.
func note(w io.Writer, text string) {
	if text != "" {
		fmt.Fprintln(w, "tablefull: "+text)
	}
}

type plainLines struct{ w, err io.Writer }

func (o plainLines) note(text string) { note(o.err, text) }

func (o plainLines) show(t watch.Table, walked bool) error {
	if walked {
		if line := t.WalkLine(); line != "" {
			if _, err := fmt.Fprintln(o.w, line); err != nil {
				return err
			}
		}
	}
	_, err := fmt.Fprintln(o.w, t.Line())
	return err
}

func (o plainLines) end(last []watch.Table) error {
	for _, t := range last {
		if _, err := fmt.Fprintln(o.w, t.CostLine()); err != nil {
			return err
		}
	}
	return nil
}

// liveOutput is the view on a terminal. It leaves the last lines behind.
type liveOutput struct {
	view *live.View[live.Watched]
	talk *talk
	out  io.Writer
}

func (o *liveOutput) show(t watch.Table, _ bool) error {
	o.view.Show(func(s *live.Watched) {
		i, known := slices.BinarySearchFunc(s.Tables, t.Node, func(a watch.Table, node string) int { return strings.Compare(a.Node, node) })
		if known {
			s.Tables[i] = t
		} else {
			s.Tables = slices.Insert(s.Tables, i, t)
		}
	})
	return nil
}

func (o *liveOutput) note(text string) {
	o.view.Show(func(s *live.Watched) { s.Note = text })
}

func (o *liveOutput) end(last []watch.Table) error {
	o.talk.unshow()
	lines := plainLines{o.out, o.talk}
	for _, t := range last {
		if err := lines.show(t, true); err != nil {
			return err
		}
	}
	return lines.end(last)
}

// noTable says what to do where a table cannot be read.
func noTable(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EPERM), errors.Is(err, fs.ErrPermission):
		return &cannotError{fmt.Errorf("%w: a walk over the table needs CAP_NET_ADMIN in its network namespace; as root: sudo tablefull watch; or without walks: tablefull watch --no-walk", err)}
	case errors.Is(err, fs.ErrNotExist):
		return &cannotError{fmt.Errorf("%w: this kernel tracks no connections: its module nf_conntrack is not loaded, or this is not the place where /proc and /sys show it", err)}
	case errors.Is(err, syscall.EPIPE):
		return nil // whoever read it has seen enough
	}
	return err
}

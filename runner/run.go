package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// Config is one run.
type Config struct {
	Env  env.Environment
	Plan *Plan
	// Dir takes the run log. It must exist and hold no run yet.
	Dir string
	// Segment is at how many bytes the run log begins a new segment; 0 is
	// runlog.SegmentBytes.
	Segment int64
	// StateDir keeps the journal; empty is StateDir().
	StateDir string
	RunID    string
	Version  string
	// Progress is called about every ProgressEvery while the run goes on,
	// from one goroutine. Nil: never.
	Progress      func(Progress)
	ProgressEvery time.Duration // 0 is 1 s
	// Age is what to wait for on the nodes that traffic enters by, before their
	// tables are filled: that entries of a run before have expired. Nil: nothing.
	Age *env.AgeJob
}

// LogName is the run log's file name in a run directory.
const LogName = runlog.FileName

// teardownTimeout bounds putting everything back, whatever hangs.
const teardownTimeout = 30 * time.Second

// lead is the time between choosing run time 0 and run time 0 itself: enough
// to start the loads.
const lead = 300 * time.Millisecond

// Dirty says that something could not be put back.
type Dirty struct{ Err error }

func (e *Dirty) Error() string { return "some things could not be put back: " + e.Err.Error() }
func (e *Dirty) Unwrap() error { return e.Err }

// Run drives the plan and writes the run log. It returns when everything has
// been put back, also when ctx ends early: the run is then marked interrupted.
//
// A run whose traffic failed is no error: what it means is in the log. An
// error is a tool that could not do its work (*Unsupported, *Dirty, or another).
func Run(ctx context.Context, c Config) error {
	if err := c.Plan.Err(); err != nil {
		return err
	}
	file, err := runlog.Create(c.Dir, cmp.Or(c.Segment, runlog.SegmentBytes))
	if err != nil {
		return err
	}
	begun, err := runTo(ctx, c, file)
	err = errors.Join(err, file.Close())
	if !begun {
		// It failed while setting up: there is nothing to analyse.
		err = errors.Join(err, os.Remove(filepath.Join(c.Dir, runlog.FileName)))
	}
	return err
}

// runTo is Run with the log's writer given. Begun says whether the log has a
// header, so that it can be analysed.
func runTo(ctx context.Context, c Config, log io.Writer) (begun bool, err error) {
	if c.StateDir == "" {
		c.StateDir = StateDir()
	}
	journal, err := OpenJournal(c.StateDir, c.RunID)
	if err != nil {
		return false, err
	}
	r := &run{Config: c, journal: journal, collect: newCollector(log)}
	defer r.collect.watch(c)()
	ended := false
	defer func() {
		if !ended { // a panic is passing through: put back all the same
			_ = r.teardown(ctx)
		}
	}()
	runErr := r.run(ctx)
	ended = true
	undoErr := r.teardown(ctx)
	var lost *agentLost
	switch {
	case runErr == nil:
		// A host whose last records did not come: the log is not whole.
		runErr = r.lost
	case errors.As(r.lost, &lost) && !errors.As(runErr, &lost):
		// What asked the agent for something has met its end first.
		runErr = fmt.Errorf("%w; %w", r.lost, runErr)
	}
	logErr := r.writeTrailer(ctx, runErr, undoErr)
	begun = r.collect.released
	if undoErr != nil {
		return begun, &Dirty{Err: errors.Join(undoErr, runErr)}
	}
	if begun && (errors.As(runErr, &lost) || ctx.Err() != nil) {
		runErr = nil // the log says so, and the verdict follows from it
	}
	if errors.Is(runErr, logErr) {
		logErr = nil // said once
	}
	return begun, errors.Join(runErr, logErr)
}

// Aborted is the cause to end a run's context with where it shall end early
// and be whole all the same: the log then says why.
type Aborted struct{ Why string }

func (e *Aborted) Error() string { return "the run was ended early: " + e.Why }

// run is the state of one Run.
type run struct {
	Config
	journal *Journal
	collect *collector
	lab     env.Lab
	// offset is how far each host's monotonic clock is ahead of ours, ns.
	offset map[string]int64
	// provisional is the run time 0 that all but the loads count from, on our
	// clock, ns.
	provisional int64
	joins       joins
	// followers end when their agents have shut down and all records are here.
	followers     *errgroup.Group
	lost          error // of the first follower that did not get to the end
	stopFollowing context.CancelFunc
	setupJobs     []started // stopped at the end, in reverse order
}

type started struct {
	host env.Host
	id   string
}

// String is like: ballast on node1, or: load clients on client.
func (s started) String() string {
	what, of, _ := strings.Cut(s.id, "/")
	if of != s.host.Name() {
		what += " " + of
	}
	return what + " on " + s.host.Name()
}

func (r *run) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.collect.cancelWith(cancel)
	provisional := monotonic()
	r.provisional = provisional
	if err := r.up(ctx, provisional); err != nil {
		return err
	}
	if err := r.startSetupJobs(ctx, provisional); err != nil {
		return err
	}
	if err := r.startSamplers(ctx, provisional); err != nil {
		return err
	}
	// Everything slow is done: now choose run time 0. On the samplers' grid,
	// so that samples and bins have the same edges.
	every := min(int64(r.Plan.Scenario.Sampling.Every), int64(time.Second)) // nobody waits for a grid coarser than that
	zero := monotonic() + lead.Nanoseconds()
	zero += every - 1 - (zero-provisional-1)%every
	if err := r.writeHeader(zero); err != nil {
		return err
	}
	r.collect.release(float64(zero-provisional) / 1e9)
	autopsies := startAutopsies(ctx, r.nodes(), r.epochs(zero), r.collect, r.Plan.Scenario.Sampling.NoAutopsy)
	acts := startActions(ctx, limiter{r.lab, r.journal, r.Plan.Caps.Private, r.collect}, r.Plan.Scenario, zero, r.collect)
	defer func() { _ = acts.stop() }() // where a panic passes through
	err := r.drive(ctx, zero)
	autopsies.stop()
	return errors.Join(err, acts.stop())
}

// up applies what must be in place before the lab, builds the lab and begins
// to follow its hosts.
func (r *run) up(ctx context.Context, zero int64) error {
	r.collect.phase("setup", "build the lab", zero)
	if max := r.Plan.Scenario.Conntrack.Max; max != nil {
		if _, err := setLimit(r.journal, uint64(*max), r.Plan.Caps.Private); err != nil {
			return err
		}
	}
	if n := r.Plan.Scenario.Conntrack.Buckets; n != nil {
		if err := setBuckets(uint64(*n)); err != nil {
			return err
		}
	}
	// The journal is replayed from any directory.
	workDir, err := filepath.Abs(filepath.Join(r.Dir, ".agents"))
	if err != nil {
		return fmt.Errorf("find work directory: %w", err)
	}
	if err := r.journal.Plan(Undo{RemoveDir: workDir}); err != nil {
		return err
	}
	built := r.collect.step("build the lab")
	lab, err := r.Env.Up(ctx, r.Plan.topology(r.RunID, workDir))
	built(err)
	if err != nil {
		return fmt.Errorf("build %s: %w", r.Env.Name(), err)
	}
	r.lab = lab
	r.offset = map[string]int64{}
	for _, h := range lab.Hosts() {
		offset, clock, err := measureClock(ctx, h)
		if err != nil {
			return err
		}
		r.offset[h.Name()] = offset
		r.collect.clocks = append(r.collect.clocks, clock)
	}
	follow, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.stopFollowing = stop
	r.followers = &errgroup.Group{}
	for _, h := range lab.Hosts() {
		r.followers.Go(func() error { return r.collect.follow(follow, h) })
	}
	r.joins.open(func(h env.Host) { r.followers.Go(func() error { return r.collect.follow(follow, h) }) })
	return nil
}

// epochs maps run time 0 to each host's own clock.
func (r *run) epochs(zero int64) map[string]int64 {
	out := map[string]int64{}
	for name, off := range r.offset {
		out[name] = zero + off
	}
	return out
}

func (r *run) hosts(role env.Role) []env.Host {
	var out []env.Host
	for _, h := range r.lab.Hosts() {
		if h.Role() == role {
			out = append(out, h)
		}
	}
	return out
}

func (r *run) nodes() []env.Host { return r.hosts(env.Node) }

// entered are the nodes that traffic enters by: all of a lab's, and the chosen
// ones of a cluster's. The others are only looked at.
func (r *run) entered() []env.Host {
	return slices.DeleteFunc(r.nodes(), func(h env.Host) bool {
		return !slices.ContainsFunc(r.lab.Entries(), func(e env.Entry) bool { return e.Node == h.Name() })
	})
}

// start begins a job that runs until teardown.
func (r *run) start(ctx context.Context, h env.Host, j env.Job) error {
	ready := r.collect.step("start " + started{h, j.ID}.String())
	err := h.Start(ctx, j)
	ready(err)
	if err != nil {
		return fmt.Errorf("start %s on %s: %w", j.ID, h.Name(), err)
	}
	r.setupJobs = append(r.setupJobs, started{h, j.ID})
	return nil
}

// startSetupJobs starts what must be there before traffic: what answers, then
// ballast, which has to count the servers' own entries.
func (r *run) startSetupJobs(ctx context.Context, zero int64) error {
	epochs := r.epochs(zero)
	if err := r.lab.Serve(ctx, epochs, keeper{r.collect, r}); err != nil {
		return fmt.Errorf("bring services up: %w", err)
	}
	if err := r.age(ctx, epochs); err != nil {
		return err
	}
	if h := r.Plan.Scenario.Conntrack.Headroom; h != nil {
		for _, n := range r.entered() {
			j := env.Job{ID: env.BallastID(n.Name()), Epoch: epochs[n.Name()], Ballast: &env.BallastJob{
				Headroom: uint64(*h), Timeout: ballastTimeout, IPv6: r.Plan.Scenario.Lab.Family == "ipv6",
			}}
			if err := r.start(ctx, n, j); err != nil {
				return err
			}
		}
	}
	return nil
}

// age waits for the tables, all at once.
func (r *run) age(ctx context.Context, epochs map[string]int64) error {
	if r.Age == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range r.entered() {
		if err := r.start(ctx, n, env.Job{ID: env.AgeID(n.Name()), Epoch: epochs[n.Name()], Age: r.Age}); err != nil {
			cancel()
			return errors.Join(err, g.Wait())
		}
		done := r.collect.step("wait for old entries to expire on " + n.Name())
		g.Go(func() error {
			err := n.Wait(ctx, env.AgeID(n.Name()))
			done(err)
			if err != nil {
				return fmt.Errorf("wait for the table of %s: %w", n.Name(), err)
			}
			return nil
		})
	}
	return g.Wait()
}

// ballastTimeout is the dead man's switch, s: how long ballast outlives an
// agent that can no longer renew it. Renewing costs about the insert rate, so
// much shorter would be felt by what is measured.
const ballastTimeout = 180

// maxCensusCPU is the share of one CPU that walking the table may cost
// (design: never more than 2 %).
const maxCensusCPU = 0.01

// sampleEvery is how often a host's counters are read. Onsets and occupancy
// need the node's at the full rate. The other hosts' (listen queues, resets)
// bear witness over windows of seconds, and there are many hosts: one in five
// of those readings is enough, and at least two a second where the node's are
// as many.
func sampleEvery(every time.Duration, node bool) time.Duration {
	if node {
		return every
	}
	return max(every, min(5*every, 500*time.Millisecond))
}

// topSources is how many heavy hitters a census names.
const topSources = 10

// startSamplers starts what reads counters and walks tables. It takes as long
// as the first walk, so run time 0 is chosen only after it.
func (r *run) startSamplers(ctx context.Context, zero int64) error {
	epochs := r.epochs(zero)
	s := r.Plan.Scenario.Sampling
	g, ctx := errgroup.WithContext(ctx)
	jobs := make([]started, 0, 2*len(r.lab.Hosts()))
	for _, h := range r.lab.Hosts() {
		if h.Role() == env.Helper {
			continue
		}
		node := h.Role() == env.Node
		sample := env.Job{ID: "sample/" + h.Name(), Epoch: epochs[h.Name()], Sample: &env.SampleJob{
			Every: sampleEvery(time.Duration(s.Every), node).Seconds(), Conntrack: node, Machine: node,
		}}
		jobs = append(jobs, started{h, sample.ID})
		g.Go(func() error { return h.Start(ctx, sample) })
		if node && len(r.Plan.Scenario.Actions) > 0 {
			audit := env.Job{ID: env.AuditID(h.Name()), Epoch: epochs[h.Name()], Audit: r.lab.Audit(h.Name())}
			if audit.Audit != nil {
				audit.Audit.Every = auditEvery(time.Duration(s.Every)).Seconds()
				jobs = append(jobs, started{h, audit.ID})
				g.Go(func() error { return h.Start(ctx, audit) })
			}
		}
		if node && !s.NoCensus {
			census := env.Job{ID: "census/" + h.Name(), Epoch: epochs[h.Name()], Census: &env.CensusJob{
				Every: s.CensusEvery.Seconds(), MaxCPU: maxCensusCPU, Sources: topSources,
			}}
			jobs = append(jobs, started{h, census.ID})
			g.Go(func() error { return h.Start(ctx, census) })
		}
	}
	ready := r.collect.step("take the first samples and walk the table once")
	err := g.Wait()
	ready(err)
	if err != nil {
		return fmt.Errorf("start samplers: %w", err)
	}
	r.setupJobs = append(r.setupJobs, jobs...)
	return nil
}

// auditEvery is how often the dataplane is read where something changes it: the
// time for which a backend was stale is known as well as that.
func auditEvery(sample time.Duration) time.Duration {
	return max(sample, 200*time.Millisecond)
}

// settle is how long counters are still sampled after the last attempt.
const settle = 200 * time.Millisecond

// failuresPerSecond bounds the failures that are recorded one by one.
const failuresPerSecond = 200

// drive starts the loads and waits until they have ended, or stops them when
// ctx ends.
func (r *run) drive(ctx context.Context, zero int64) error {
	epochs := r.epochs(zero)
	var loads []started
	defer func() {
		if ctx.Err() == nil {
			return
		}
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
		defer cancel()
		r.collect.phase("stopping", "stop the traffic", zero)
		_ = r.stopAll(stopCtx, loads) // an agent that cannot be reached ends with the lab
	}()
	for i, t := range r.Plan.Scenario.Traffic {
		for k, e := range r.lab.Entries() {
			j := r.loadJob(i, t, k)
			j.Epoch = epochs[e.Client.Name()]
			if err := e.Client.Start(ctx, j); err != nil {
				return fmt.Errorf("start traffic %s on %s: %w", t.Name, e.Client.Name(), err)
			}
			loads = append(loads, started{e.Client, j.ID})
		}
	}
	if err := sleepUntil(ctx, zero); err != nil {
		return err
	}
	what := "1 traffic"
	if n := len(r.Plan.Scenario.Traffic); n != 1 {
		what = fmt.Sprintf("%d traffics", n)
	}
	r.collect.phase("traffic", fmt.Sprintf("%s for %s", what, r.Plan.Scenario.Duration), zero)
	g, wctx := errgroup.WithContext(ctx)
	for _, l := range loads {
		g.Go(func() error {
			if err := l.host.Wait(wctx, l.id); err != nil {
				return fmt.Errorf("run %s: %w", l.id, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	r.collect.phase("drain", "the last attempts have ended", zero)
	// The last packets' counters settle; the samplers read once more when they
	// are stopped.
	return sleepUntil(ctx, monotonic()+settle.Nanoseconds())
}

// loadJob is the part of traffic number i that enters by the kth entry.
func (r *run) loadJob(i int, t scenarios.Traffic, k int) env.Job {
	var svc runlog.ServiceInfo
	var ports int
	info := r.Plan.Traffic[i]
	for _, s := range r.lab.Services() {
		if s.Name == info.To {
			svc = s
		}
	}
	for _, s := range r.Plan.Scenario.Services {
		if s.Name == t.To {
			ports = s.PortCount
		}
	}
	target, targets := svc.Addr, 1
	if r.Plan.Scenario.IsHeadless(t.To) && len(svc.Backends) > 0 {
		// The lab numbers the pods of a service in a row.
		target, targets = svc.Backends[0].Addr, len(svc.Backends)
	}
	entries := r.lab.Entries()
	e, part := entries[k], env.Part{Index: k, Of: len(entries)}
	from := e.Towards(target.Addr())
	to, sources := target, from.Sources
	if t.Via == "node_port" {
		to, sources = netip.AddrPortFrom(from.NodeAddr, svc.NodePort), from.Outside
	}
	j := env.Job{ID: "load/" + t.Name, Load: &env.LoadJob{
		Traffic: t, Start: info.Start, End: info.End, Target: to, Targets: targets, Ports: ports, Part: part,
		Sources: sources, SourceCount: min(part.Has(r.Plan.Scenario.Lab.Clients.Addresses), hostsIn(sources)), Floods: from.Floods,
		Seed: r.Plan.Seed + uint64(i), FailuresPerSecond: max(1, failuresPerSecond/len(entries)),
		LateAfter: r.Plan.lateAfter(),
	}}
	if len(r.nodes()) > 1 {
		j.Load.Node = e.Node
	}
	return j
}

// hostsIn is how many addresses of p are hosts', at most a million: a pod has
// one, whatever the scenario wants.
func hostsIn(p netip.Prefix) int {
	bits := min(p.Addr().BitLen()-p.Bits(), 20)
	if bits < 2 {
		return 1 << max(0, bits)
	}
	return 1<<bits - 1
}

func (r *run) stopAll(ctx context.Context, jobs []started) error {
	var errs []error
	for i := len(jobs) - 1; i >= 0; i-- {
		stopped := r.collect.step("stop " + jobs[i].String())
		err := jobs[i].host.Stop(ctx, jobs[i].id)
		stopped(err)
		if err != nil {
			errs = append(errs, fmt.Errorf("stop %s on %s: %w", jobs[i].id, jobs[i].host.Name(), err))
		}
	}
	return errors.Join(errs...)
}

// teardown stops what is running, collects the last records, takes the lab
// down and undoes the journal. It goes on past errors and returns only those
// that mean something was left behind.
func (r *run) teardown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
	defer cancel()
	r.collect.undoing()
	r.joins.close()
	var errs []error
	if r.lab != nil {
		if err := r.stopAll(ctx, r.setupJobs); err != nil {
			r.collect.warn("stop", err.Error())
		}
		if err := r.putBack(ctx); err != nil {
			errs = append(errs, fmt.Errorf("put back what actions have changed: %w", err))
		}
		// As long as that took.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
		defer cancel()
		if r.followers != nil {
			collected := r.collect.step("collect the last records")
			for _, h := range r.lab.Hosts() {
				if err := h.Close(ctx); err != nil {
					r.collect.warn("close", err.Error())
				}
			}
			unblock := context.AfterFunc(ctx, r.stopFollowing)
			r.lost = r.followers.Wait()
			collected(r.lost)
			unblock()
			r.stopFollowing()
		}
		// A time of its own: whatever hung above, the lab has to go.
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
		defer cancel()
		down := r.collect.step(fmt.Sprintf("take down the lab: %d hosts, their processes and namespaces", len(r.lab.Hosts())))
		err := r.lab.Close(closeCtx)
		down(err)
		if err != nil {
			errs = append(errs, fmt.Errorf("take down the lab: %w", err))
		}
	}
	if err := r.journal.undo(func(u Undo) func(error) { return r.collect.step(u.Command()) }); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// putBack has a lab that changes something outside of its own hosts put that back
// while their agents can still read whether it is. Its Close does it where this
// was not asked for.
func (r *run) putBack(ctx context.Context) error {
	l, ok := r.lab.(interface {
		PutBack(ctx context.Context) error
	})
	if !ok {
		return nil
	}
	return l.PutBack(ctx)
}

func (r *run) writeHeader(zero int64) error {
	h := r.Plan.header(r.Env.Name(), r.Version, r.RunID)
	h.Started = time.Now().Add(time.Duration(zero - monotonic())).UTC().Format(time.RFC3339Nano)
	h.Services = r.lab.Services()
	for _, n := range r.nodes() {
		h.Nodes = append(h.Nodes, n.Name())
	}
	return r.collect.header(h)
}

func (r *run) writeTrailer(ctx context.Context, runErr, undoErr error) error {
	t := &runlog.Trailer{Ended: time.Now().UTC().Format(time.RFC3339Nano), Outcome: "completed", Restored: undoErr == nil}
	var aborted *Aborted
	switch {
	case errors.As(context.Cause(ctx), &aborted):
		t.Outcome, t.Error = "aborted", aborted.Why
	case ctx.Err() != nil:
		t.Outcome = "interrupted"
	case runErr != nil:
		t.Outcome, t.Error = "failed", runErr.Error()
	}
	if undoErr != nil {
		t.UndoErrors = []string{undoErr.Error()}
	}
	return r.collect.trailer(t)
}

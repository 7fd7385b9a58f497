package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/perf/benchmath"
	"golang.org/x/sync/errgroup"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/runner/lab"
	"github.com/tablefull/tablefull/scenarios"
)

// observed asks for far more connections than the machine can do, on a table
// that stays as full as 1 s of them make it.
const observed = `
name: observed
duration: 100s
conntrack: {timeouts: {tcp_timeout_close: 1s}}
services: [{name: web, pods: 2}]
traffic: [{to: web, short_lived: {rate: 40000/s, close: rst}}]
`

// window is how long sampling stays on, or off. Shorter ones would tell more
// (the machine's own unrest is slow), but each begins and ends with a reading
// more than sampling without end has: at this length every tenth.
const window = time.Second

// A machine's own unrest hides what observing costs, so the run is observed
// more than runs are, and the cost, which is that of each reading and of each
// walk, is divided again: ten times as often sampled, and a census that may
// take five times as much.
const (
	sampleDose = 10
	walkDose   = 5
)

// blinking is an environment whose samplers, once traffic flows, are stopped
// and started again in windows of random order: one on and one off in each two.
// Censuses go on at their own pace, which is no multiple of a window.
type blinking struct {
	env.Environment
	seed uint64
	host sync.Map // by name: *blinkingHost
	once sync.Once
	quit context.CancelFunc
	done chan error
}

func (b *blinking) Up(ctx context.Context, t env.Topology) (env.Lab, error) {
	l, err := b.Environment.Up(ctx, t)
	if err != nil {
		return nil, err
	}
	return blinkingLab{l, b}, nil
}

type blinkingLab struct {
	env.Lab
	b *blinking
}

func (l blinkingLab) Hosts() []env.Host {
	var out []env.Host
	for _, h := range l.Lab.Hosts() {
		w, _ := l.b.host.LoadOrStore(h.Name(), &blinkingHost{Host: h, b: l.b})
		out = append(out, w.(*blinkingHost))
	}
	return out
}

// Entries are those by which traffic begins, which is when the blinking does.
func (l blinkingLab) Entries() []env.Entry {
	hosts := map[string]env.Host{}
	for _, h := range l.Hosts() {
		hosts[h.Name()] = h
	}
	out := l.Lab.Entries()
	for i := range out {
		out[i].Client = hosts[out[i].Client.Name()]
	}
	return out
}

type blinkingHost struct {
	env.Host
	b    *blinking
	jobs []env.Job // that blink
}

func (h *blinkingHost) Start(ctx context.Context, j env.Job) error {
	if j.Sample != nil {
		more := *j.Sample
		more.Every /= sampleDose
		j.Sample = &more
		h.jobs = append(h.jobs, j)
	}
	if j.Census != nil {
		more := *j.Census
		more.Every /= walkDose
		more.MaxCPU *= walkDose
		j.Census = &more
	}
	if err := h.Host.Start(ctx, j); err != nil || j.Load == nil {
		return err
	}
	ctx, h.b.quit = context.WithCancel(context.WithoutCancel(ctx))
	h.b.done = make(chan error, 1)
	go func() { h.b.done <- h.b.blink(ctx) }()
	return nil
}

// blink leaves the jobs as it found them: running.
func (b *blinking) blink(ctx context.Context) error {
	random := rand.New(rand.NewPCG(b.seed, 0))
	tick := time.NewTicker(window)
	defer tick.Stop()
	on := true
	for n := 0; ; n++ {
		first := random.IntN(2) == 0
		for _, want := range []bool{first, !first} {
			if want != on {
				if err := b.all(ctx, want, n); err != nil {
					return err
				}
			}
			on = want
			select {
			case <-tick.C:
			case <-ctx.Done():
				if on {
					return nil
				}
				return b.all(ctx, true, n)
			}
		}
	}
}

// all starts or stops the samplers of every host, all at once.
func (b *blinking) all(ctx context.Context, start bool, n int) error {
	ctx = context.WithoutCancel(ctx)
	var g errgroup.Group
	b.host.Range(func(_, v any) bool {
		h := v.(*blinkingHost)
		for i := range h.jobs {
			g.Go(func() error {
				if !start {
					return h.Host.Stop(ctx, h.jobs[i].ID)
				}
				h.jobs[i].ID, _, _ = strings.Cut(h.jobs[i].ID, " ")
				h.jobs[i].ID = fmt.Sprintf("%s %d", h.jobs[i].ID, n)
				return h.Host.Start(ctx, h.jobs[i])
			})
		}
		return true
	})
	return g.Wait()
}

// Stop is first called for a sampler when the run is over.
func (h *blinkingHost) Stop(ctx context.Context, id string) error {
	if h.b.quit == nil || !strings.HasPrefix(id, "sample/") {
		return h.Host.Stop(ctx, id)
	}
	var err error
	h.b.once.Do(func() {
		h.b.quit()
		err = <-h.b.done
	})
	for _, j := range h.jobs {
		if j.ID == id || strings.HasPrefix(j.ID, id+" ") {
			id = j.ID
		}
	}
	return errors.Join(err, h.Host.Stop(ctx, id))
}

// BenchmarkObserverEffect measures the achievable connection rate while the
// samplers of all hosts run and while they do not, in turns within one run,
// and what each walk of a census costs it; both in doses. Separate runs on a shared machine
// differ among themselves by far more than what is to be shown.
func BenchmarkObserverEffect(b *testing.B) {
	for range b.N {
		dir, seed := b.TempDir(), rand.Uint64()
		blinkingRun(b, dir, seed)
		e, err := observerEffect(readRates(b, filepath.Join(dir, runlog.FileName)))
		require.NoError(b, err)
		b.Logf("seed %d: %+v", seed, e)
		require.Greater(b, e.Readings, 9.*sampleDose, "the dose was not given")
		b.ReportMetric(e.ratio(e.Samplers.Center), "on/off")
		b.ReportMetric(e.ratio(e.Samplers.Lo), "on/off-lo")
		b.ReportMetric(e.ratio(e.Samplers.Hi), "on/off-hi")
		b.ReportMetric(e.Samplers.Center, "on/off-samplers-x10")
		b.ReportMetric(1-e.Walks, "on/off-walks-x5")
		b.ReportMetric(e.Rate, "conn/s-off")
		b.ReportMetric(0, "ns/op")
	}
}

func blinkingRun(b *testing.B, dir string, seed uint64) {
	b.Helper()
	sc, _, err := scenarios.Load("-", strings.NewReader(observed))
	require.NoError(b, err)
	e := &blinking{Environment: lab.New(lab.Config{}), seed: seed}
	caps, err := e.Probe(b.Context())
	require.NoError(b, err)
	plan, err := runner.NewPlan(sc, caps)
	require.NoError(b, err)
	require.NoError(b, plan.Err())
	require.NoError(b, runner.Run(b.Context(), runner.Config{Env: e, Plan: plan, Dir: dir, RunID: runID(), Version: version, StateDir: b.TempDir()}))
}

// rates is what a run log says of how many attempts succeeded and when the
// node was looked at. Times are seconds of the run.
type rates struct {
	ok      []float64 // by tenth of a second
	samples []float64 // of the node, rising
	walks   [][2]float64
}

func readRates(b *testing.B, name string) rates {
	b.Helper()
	f, err := os.Open(name)
	require.NoError(b, err)
	defer f.Close()
	var out rates
	r := runlog.NewReader(f)
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(out.samples)
			return out
		}
		require.NoError(b, err)
		switch {
		case rec.Bin != nil:
			at := int(math.Round(rec.Bin.Start * 10))
			for len(out.ok) <= at {
				out.ok = append(out.ok, 0)
			}
			out.ok[at] += float64(rec.Bin.Outcomes[runlog.OK])
		case rec.Sample != nil && rec.Sample.Conntrack != nil:
			out.samples = append(out.samples, rec.T)
		case rec.Census != nil:
			out.walks = append(out.walks, [2]float64{rec.T - rec.Census.Took/2, rec.T + rec.Census.Took/2})
		}
	}
}

// effect is what observing does to the achievable rate.
type effect struct {
	Samplers benchmath.Summary // rate while sampled over rate while not: median and its 95 % interval
	Walks    float64           // share of the time that is lost to walks over the table, 0..1
	Rate     float64           // connections per second while not sampled
	Readings float64           // of the node per second while sampled
}

// ratio is the rate of a node that is observed as runs are over that of one
// left alone, where samplers is what the dose of them does.
func (e effect) ratio(samplers float64) float64 {
	return (1 - (1-samplers)/sampleDose) * (1 - e.Walks/walkDose)
}

// warmUp is the time in which the table fills, in tenths of a second.
const warmUp = 20

// observerEffect tells the effect from the rates of one run. Samplers: in each
// block of 4 s, which holds two windows of both kinds, the mean of the bins in
// which the node was sampled is compared with the mean of those in which it
// was not; what drifts more slowly cancels out. Bins in which that changed or
// a walk was under way belong to neither. Walks: how much less was done in the
// bins of a walk than in the quiet ones of the second before and after it.
func observerEffect(r rates) (effect, error) {
	const block = int(4 * window / (100 * time.Millisecond))
	kinds := r.kinds()
	var out effect
	var readings, of float64
	for _, at := range r.samples {
		if i := int(10 * at); i >= 0 && i < len(kinds) && kinds[i] == sampled {
			readings++
		}
	}
	for _, k := range kinds {
		if k == sampled {
			of += 0.1
		}
	}
	out.Readings = readings / of
	var ratios, off []float64
	for at := warmUp; at+block <= len(r.ok); at += block {
		var sum, n [unclear + 1]float64
		for i := at; i < at+block; i++ {
			sum[kinds[i]] += r.ok[i]
			n[kinds[i]]++
		}
		if n[sampled] >= 8 && n[unsampled] >= 8 {
			o := sum[unsampled] / n[unsampled]
			ratios, off = append(ratios, sum[sampled]/n[sampled]/o), append(off, 10*o)
		}
	}
	if len(ratios) < 10 {
		return out, fmt.Errorf("only %d blocks of 4 s hold both kinds of window", len(ratios))
	}
	out.Samplers = benchmath.AssumeNothing.Summary(benchmath.NewSample(ratios, &benchmath.DefaultThresholds), 0.95)
	out.Rate = benchmath.AssumeNothing.Summary(benchmath.NewSample(off, &benchmath.DefaultThresholds), 0.95).Center

	var lost float64 // seconds
	for _, w := range r.walks {
		var sum, quiet, n float64
		from, to := int(10*w[0]), int(10*w[1])
		if from < warmUp || to+10 >= len(r.ok) {
			continue
		}
		for i := from - 10; i <= to+10; i++ {
			if i >= from && i <= to {
				sum += r.ok[i]
			} else if kinds[i] != walked {
				quiet, n = quiet+r.ok[i], n+1
			}
		}
		if n > 0 && quiet > 0 {
			lost += float64(to-from+1)/10 - sum/(quiet/n)/10
		}
	}
	out.Walks = lost / (float64(len(r.ok)-warmUp) / 10)
	return out, nil
}

type kind int

const (
	sampled kind = iota
	unsampled
	walked
	unclear
)

// kinds says of each bin what was going on in it.
func (r rates) kinds() []kind {
	out := make([]kind, len(r.ok))
	next := 0 // the first sample after the bin began
	for i := range out {
		began := float64(i) / 10
		for next < len(r.samples) && r.samples[next] < began {
			next++
		}
		before, after := math.Inf(-1), math.Inf(1)
		if next > 0 {
			before = r.samples[next-1]
		}
		if next < len(r.samples) {
			after = r.samples[next]
		}
		switch {
		case began-before < 0.15 && after-began < 0.15 && r.goesOn(next, began+0.1):
			out[i] = sampled
		case began-before > 0.1 && after-began > 0.2:
			out[i] = unsampled
		default:
			out[i] = unclear
		}
	}
	for _, w := range r.walks {
		for i := max(0, int(10*w[0])); i <= int(10*w[1]) && i < len(out); i++ {
			out[i] = walked
		}
	}
	return out
}

// goesOn tells whether a sample from the next one on was taken soon after a moment.
func (r rates) goesOn(next int, moment float64) bool {
	for _, s := range r.samples[next:] {
		if s >= moment {
			return s-moment < 0.15
		}
	}
	return false
}

// A machine of which everything is known, with unrest like that of a shared
// one: slow, fast, and on the beat of the windows.
func TestObserverEffectIsFound(t *testing.T) {
	for _, want := range []struct{ samplers, walk float64 }{{1, 0}, {0.98, 0.01}, {0.9, 0.02}, {1.03, 0}} {
		random := rand.New(rand.NewPCG(1, 2))
		var r rates
		on := false
		slow := 0.0
		for i := range 3000 {
			if i%20 == 0 {
				on = random.IntN(2) == 0
			} else if i%20 == 10 {
				on = !on
			}
			slow = 0.98*slow + 0.01*random.NormFloat64()
			rate := 1500 * math.Exp(slow+0.05*random.NormFloat64()+0.03*math.Sin(float64(i)*math.Pi/10))
			if on {
				rate *= want.samplers
				r.samples = append(r.samples, float64(i)/10+0.02*random.Float64())
			}
			if i%37 == 0 {
				r.walks = append(r.walks, [2]float64{float64(i)/10 + 0.01, float64(i)/10 + 0.09})
				rate *= 1 - want.walk/0.1*3.7 // of which the walk's share in the whole is want.walk
			}
			r.ok = append(r.ok, rate)
		}
		got, err := observerEffect(r)
		require.NoError(t, err)
		assert.InDelta(t, want.samplers, got.Samplers.Center, 0.006)
		assert.LessOrEqual(t, got.Samplers.Lo, want.samplers)
		assert.GreaterOrEqual(t, got.Samplers.Hi, want.samplers)
		assert.Less(t, got.Samplers.Hi-got.Samplers.Lo, 0.04)
		assert.InDelta(t, want.walk, got.Walks, 0.002)
		assert.InDelta(t, 15000, got.Rate, 300)
		assert.InDelta(t, 10, got.Readings, 0.5)
	}
	_, err := observerEffect(rates{ok: make([]float64, 3000)})
	assert.ErrorContains(t, err, "only 0 blocks")
}

// The node's agent (samplers, census, ballast, look-ups of failures) is the
// largest part of what observing takes; the samplers of the other hosts and
// the controller come on top. The run measures it itself, while traffic was
// due, and so on a table that fills and is full.
func TestSamplingCostsLittle(t *testing.T) {
	needLab(t)
	r := runHonest(t, "short-lived", "", "--set", "duration=8s")
	self, ok := r.Nodes[0].CPU["self"]
	require.True(t, ok, "the sampler's own CPU time was not measured")
	t.Logf("the node's agent took %.2f %% of one CPU", 100*self)
	assert.Less(t, self, 0.10)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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
duration: 160s
conntrack: {timeouts: {tcp_timeout_close: 1s}}
services: [{name: web, pods: 2}]
traffic: [{to: web, short_lived: {rate: 40000/s, close: rst}}]
`

// window is how long sampling stays on, and then off. A walk over the table
// is due in each.
const window = 8 * time.Second

// blinking is an environment whose samplers and censuses, once traffic flows,
// are stopped and started again every window.
type blinking struct {
	env.Environment
	host sync.Map // by name: *blinkingHost
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
		w, _ := l.b.host.LoadOrStore(h.Name(), &blinkingHost{Host: h, b: l.b, ended: make(chan struct{})})
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
	b     *blinking
	jobs  []env.Job // that blink
	quit  context.CancelFunc
	ended chan struct{}
	err   error
}

func (h *blinkingHost) Start(ctx context.Context, j env.Job) error {
	if j.Sample != nil || j.Census != nil {
		h.jobs = append(h.jobs, j)
	}
	if err := h.Host.Start(ctx, j); err != nil || j.Load == nil {
		return err
	}
	h.b.host.Range(func(_, v any) bool {
		other := v.(*blinkingHost)
		ctx, quit := context.WithCancel(context.WithoutCancel(ctx))
		other.quit = quit
		go other.blink(ctx)
		return true
	})
	return nil
}

// blink leaves the jobs as it found them: running.
func (h *blinkingHost) blink(ctx context.Context) {
	defer close(h.ended)
	tick := time.NewTicker(window)
	defer tick.Stop()
	for n, on := 1, true; ; n++ {
		last := false
		select {
		case <-ctx.Done():
			last = true
		case <-tick.C:
		}
		if last && on {
			return
		}
		for i := range h.jobs {
			do := func() error { return h.Host.Stop(context.WithoutCancel(ctx), h.jobs[i].ID) }
			if !on {
				h.jobs[i].ID = fmt.Sprintf("%s %d", h.jobs[i].ID, n)
				do = func() error { return h.Host.Start(context.WithoutCancel(ctx), h.jobs[i]) }
			}
			h.err = errors.Join(h.err, do())
		}
		on = !on
	}
}

// Stop is first called for a blinking job when the run is over.
func (h *blinkingHost) Stop(ctx context.Context, id string) error {
	if h.quit != nil && (strings.HasPrefix(id, "sample/") || strings.HasPrefix(id, "census/")) {
		h.quit()
		<-h.ended
		for _, j := range h.jobs {
			if j.ID == id || strings.HasPrefix(j.ID, id+" ") {
				return errors.Join(h.err, h.Host.Stop(ctx, j.ID))
			}
		}
	}
	return h.Host.Stop(ctx, id)
}

// BenchmarkObserverEffect measures the achievable connection rate while the
// samplers and censuses of all hosts run and while they do not, in turns
// within one run, and reports the median of the ratios of neighbouring
// windows: 1 is no effect. Separate runs on a shared machine differ among
// themselves by far more than what is to be shown.
func BenchmarkObserverEffect(b *testing.B) {
	for range b.N {
		dir := b.TempDir()
		blinkingRun(b, dir)
		on, off := windows(b, filepath.Join(dir, runlog.FileName))
		var ratios []float64
		log := "conn/s observed/not observed:"
		var sum float64
		for i := range min(len(on), len(off)) {
			log += fmt.Sprintf(" %.0f/%.0f", on[i], off[i])
			ratios = append(ratios, on[i]/off[i])
			sum += off[i]
			if i+1 < len(on) { // the window after it as well: drift cancels out
				ratios = append(ratios, on[i+1]/off[i])
			}
		}
		b.Log(log)
		require.GreaterOrEqual(b, len(ratios), 10)
		slices.Sort(ratios)
		n := len(ratios)
		b.ReportMetric((ratios[(n-1)/2]+ratios[n/2])/2, "on/off")
		b.ReportMetric(ratios[n/4], "on/off-p25")
		b.ReportMetric(ratios[3*n/4], "on/off-p75")
		b.ReportMetric(sum/float64(min(len(on), len(off))), "conn/s-off")
		b.ReportMetric(0, "ns/op")
	}
}

func blinkingRun(b *testing.B, dir string) {
	b.Helper()
	sc, _, err := scenarios.Load("-", strings.NewReader(observed))
	require.NoError(b, err)
	e := &blinking{Environment: lab.New(lab.Config{})}
	caps, err := e.Probe(b.Context())
	require.NoError(b, err)
	plan, err := runner.NewPlan(sc, caps)
	require.NoError(b, err)
	require.NoError(b, plan.Err())
	require.NoError(b, runner.Run(b.Context(), runner.Config{Env: e, Plan: plan, Dir: dir, RunID: runID(), Version: version, StateDir: b.TempDir()}))
}

// windows returns the rate of attempts that succeeded in each window in which
// the node was sampled, and in each in which it was not, by what the log holds.
// Seconds in which that changed, or a walk over the table was under way
// unsampled, belong to neither.
func windows(b *testing.B, name string) (on, off []float64) {
	b.Helper()
	f, err := os.Open(name)
	require.NoError(b, err)
	defer f.Close()
	r := runlog.NewReader(f)
	const seconds = 160
	var samples, walks [seconds]int
	var ok [seconds]float64
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(b, err)
		switch s := int(rec.T); {
		case rec.Bin != nil:
			if at := int(rec.Bin.Start + 1e-9); at >= 0 && at < seconds {
				ok[at] += float64(rec.Bin.Outcomes[runlog.OK])
			}
		case rec.T < 0 || s >= seconds:
		case rec.Sample != nil && rec.Sample.Conntrack != nil:
			samples[s]++
		case rec.Census != nil:
			for at := int(max(0, rec.T-rec.Census.Took)); at <= s; at++ {
				walks[at]++
			}
		}
	}
	var sum, n float64
	var in, neither *[]float64
	for s := 2; s < seconds; s++ { // the table fills in the first
		now := neither
		switch {
		case s == seconds-1: // ends the last window
		case samples[s] >= 9:
			now = &on
		case samples[s] == 0 && walks[s] == 0:
			now = &off
		}
		if now != in {
			if in != nil && n >= 3 {
				*in = append(*in, sum/n)
			}
			in, sum, n = now, 0, 0
		}
		sum, n = sum+ok[s], n+1
	}
	return on, off
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

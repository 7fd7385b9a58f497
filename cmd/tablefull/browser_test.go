package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report"
	"github.com/tablefull/tablefull/report/browser"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/scenarios"
)

// lookedAt are the scenarios of the library whose report is to be looked at, and
// whether it was.
var lookedAt sync.Map

// notLookedAt are those of the library whose report no test has looked at, for
// TestMain to ask when all of them have run: nil where it is not known that they
// have, because some were left out or could not run on this machine.
func notLookedAt() (names []string) {
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if f := flag.Lookup(name); f == nil || f.Value.String() != "" {
			return nil
		}
	}
	required := strings.Split(os.Getenv("TABLEFULL_REQUIRE"), ",")
	for _, capability := range []string{"netns", "uml", "chromium", "axe", "kube-proxy"} {
		if !slices.Contains(required, capability) {
			return nil
		}
	}
	for _, name := range scenarios.Names() {
		if done, _ := lookedAt.Load(name); done != true {
			names = append(names, name)
		}
	}
	return names
}

// looks says whether the report of a run of the library's scenario is to be
// looked at: one run of each is enough.
func looks(scenario string) bool {
	if !slices.Contains(scenarios.Names(), scenario) {
		return false
	}
	_, taken := lookedAt.LoadOrStore(scenario, false)
	return !taken
}

// lookAtReport opens the report of a run of the library's scenario in Chromium.
// The tests of the truth make the runs. The browser ends before the next run
// begins, because it is load. What the report says is not looked at here, but
// what its plots show is held against the findings.
func lookAtReport(t *testing.T, scenario, dir string, f *report.Findings) {
	t.Helper()
	if !looks(scenario) {
		return
	}
	page := filepath.Join(dir, "report.html")
	look := func(t *testing.T) {
		t.Helper()
		b, axe := startBrowser(t)
		checkPage(t, b, axe, page, func(t *testing.T, p *browser.Page) { checkDrawn(t, p, f) })
		lookedAt.Store(scenario, true)
	}
	if later.kept(t, scenario, &page, look) {
		return
	}
	t.Run("report in a browser", look)
}

// later keeps the reports of runs that go side by side, which a browser would
// disturb, until all are over.
var later reports

type reports struct {
	mu    sync.Mutex
	dir   string // where to keep them; empty while nothing goes side by side
	looks map[string]func(*testing.T)
}

// kept keeps a report where those are to be looked at later, and says whether.
func (r *reports) kept(t *testing.T, scenario string, page *string, look func(*testing.T)) bool {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dir == "" {
		return false
	}
	b, err := os.ReadFile(*page)
	require.NoError(t, err)
	*page = filepath.Join(r.dir, scenario+".html") // the test's own directory goes with it
	require.NoError(t, os.WriteFile(*page, b, 0o600))
	r.looks[scenario] = look
	return true
}

// sideBySide runs these, two at a time on two CPUs, and looks at their reports then.
func sideBySide(t *testing.T, tests map[string]func(*testing.T)) {
	t.Helper()
	later.mu.Lock()
	later.dir, later.looks = t.TempDir(), map[string]func(*testing.T){}
	later.mu.Unlock()
	t.Run("runs", func(t *testing.T) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t)
			})
		}
	})
	later.mu.Lock()
	defer later.mu.Unlock()
	later.dir = ""
	for scenario, look := range later.looks {
		t.Run("report in a browser/"+scenario, look)
	}
}

// lookAtArms is lookAtReport for a scenario with arms: the page that lays them
// over each other, and the report of one of the runs.
func lookAtArms(t *testing.T, scenario, dir string, c *report.Comparison) {
	t.Helper()
	if !looks(scenario) {
		return
	}
	t.Run("reports in a browser", func(t *testing.T) {
		b, axe := startBrowser(t)
		checkPage(t, b, axe, filepath.Join(dir, "comparison.html"), func(t *testing.T, p *browser.Page) {
			assert.GreaterOrEqual(t, len(evaluate[[]plotted](t, p, "lookAt.plots()")), 4)
		})
		one := filepath.Join(dir, c.Arms[0].Runs[0].Dir)
		f, err := analyzeDir(one)
		require.NoError(t, err)
		checkPage(t, b, axe, filepath.Join(one, "report.html"), func(t *testing.T, p *browser.Page) { checkDrawn(t, p, f) })
		lookedAt.Store(scenario, true)
	})
}

func startBrowser(t *testing.T) (b *browser.Browser, axe string) {
	t.Helper()
	b, stop, err := browser.Start(context.Background(), t.TempDir())
	if errors.Is(err, browser.ErrMissing) {
		envtest.Require(t, "chromium", err.Error())
	}
	require.NoError(t, err)
	t.Cleanup(stop)
	axe, err = browser.Axe(t.Context(), t.TempDir())
	if err != nil {
		envtest.Require(t, "axe", err.Error())
	}
	return b, axe
}

// checkPage opens a page light, dark, narrow and wide, prints it, and holds it
// to axe-core as it is then: the screen has to be as it was.
func checkPage(t *testing.T, b *browser.Browser, axe, file string, drawn func(*testing.T, *browser.Page)) {
	t.Helper()
	for _, v := range []browser.View{{Width: 1280, Height: 800}, {Width: 1920, Height: 1080, Dark: true}, {Width: 360, Height: 740, Touch: true}} {
		what := fmt.Sprintf("%s, %d px wide", filepath.Base(file), v.Width)
		p, err := b.Open("file://"+file, v)
		require.NoError(t, err)
		faults, err := p.Faults()
		require.NoError(t, err)
		assert.Empty(t, faults, what)
		assert.Equal(t, evaluate[int](t, p, `document.querySelectorAll(".plot").length`), len(evaluate[[]plotted](t, p, "lookAt.plots()")), "each place of a plot has one, %s", what)
		drawn(t, p)
		assert.Empty(t, p.Problems(), what)
		if v.Width != 1280 {
			p.Close()
			continue
		}
		pdf, err := p.Print()
		require.NoError(t, err)
		assert.Greater(t, len(pdf), 20_000, "its PDF")
		faults, err = p.Faults()
		require.NoError(t, err)
		assert.Empty(t, faults, "after printing")
		violations, err := p.Audit(axe)
		require.NoError(t, err)
		assert.Empty(t, violations)
		assert.Empty(t, p.Problems(), "in print")
		p.Close()
	}
}

func evaluate[T any](t *testing.T, p *browser.Page, expression string) T {
	t.Helper()
	v, err := browser.Eval[T](p, expression)
	require.NoError(t, err, expression)
	return v
}

// A plotted is what look.js says of one plot.
type plotted struct {
	ID     string
	Points int
	Told   []int
	Sums   []float64 // of the values drawn, by series
	Most   []float64 // of them
	Top    float64   // of the plot, in px of the canvas
	Height float64
}

// checkDrawn holds what a report's plots show to what the run's log says,
// which the page has no part in.
func checkDrawn(t *testing.T, p *browser.Page, f *report.Findings) {
	t.Helper()
	plots := map[string]plotted{}
	for _, g := range evaluate[[]plotted](t, p, "lookAt.plots()") {
		assert.Positive(t, g.Points, g.ID)
		assert.Equal(t, g.Told[0], g.Points, g.ID)
		plots[g.ID] = g
	}
	if c := f.Capacity; c != nil {
		loads := map[float64]bool{}
		for _, trial := range c.Trials {
			loads[trial.Load] = true
		}
		assert.Equal(t, len(loads), plots["by-load"].Points, "a point for each load that was tried")
		return
	}
	require.GreaterOrEqual(t, len(plots), 5)
	checkLoadDrawn(t, plots["load"], f)
	for i, n := range f.Nodes {
		checkLimitDrawn(t, p, plots[fmt.Sprintf("entries-%d", i+1)], n, f.Timeline.Nodes[i])
	}
}

// checkLoadDrawn holds the area below each line to the attempts that there were.
func checkLoadDrawn(t *testing.T, g plotted, f *report.Findings) {
	t.Helper()
	var due, ok, failed float64
	for _, tr := range f.Traffic {
		due += float64(tr.Due)
		if !tr.OneWay && tr.Succeeded != nil {
			ok += float64(*tr.Succeeded)
			failed += float64(tr.Failed)
		}
	}
	l := f.Timeline.Load
	assert.Equal(t, len(l.T), g.Points, "points")
	for i, want := range []float64{due, ok, failed}[:len(g.Sums)] {
		assert.InDelta(t, want, g.Sums[i]*l.StepS, 0.001*want+0.5, "attempts in the plot: due, ok and failed are 0, 1, 2: %d", i)
	}
}

// checkLimitDrawn holds the plot of a node's entries to its peak and its
// limits: each limit is drawn where the numbers beside the axis say that it is.
func checkLimitDrawn(t *testing.T, p *browser.Page, g plotted, n report.Node, s report.NodeSeries) {
	t.Helper()
	if n.PeakEntries == nil {
		return
	}
	require.NotEmpty(t, g.ID, "no plot of the entries of %s", n.Name)
	assert.Equal(t, len(s.T), g.Points, "points")
	assert.InDelta(t, slices.Max(s.Entries), g.Most[0], 0, "the highest point of %s", n.Name)
	if n.StartEntries != nil && *n.PeakEntries > *n.StartEntries { // else it was before the run
		assert.InDelta(t, *n.PeakEntries, g.Most[0], 0, "the peak of %s", n.Name)
	}
	if limit := slices.Max(s.Limit); limit == slices.Min(s.Limit) && float64(slices.Max(s.Entries)) < 0.03*float64(limit) {
		// Far below the limit it would be a flat line: there the page has it in words.
		told := evaluate[string](t, p, fmt.Sprintf("document.getElementById(%q).textContent", "chart-"+g.ID))
		assert.Contains(t, told, "is far above and not drawn", n.Name)
		return
	}
	axis := evaluate[[]written](t, p, fmt.Sprintf("lookAt.axis(%q)", g.ID))
	for limit, share := range limitsOf(s) {
		if share < 0.1 {
			continue // too short a line to tell
		}
		y := placeOf(t, axis, float64(limit))
		assert.InDelta(t, g.Top+g.Height/2, y, g.Height/2, "%s: the limit of %d is not in the plot", n.Name, limit)
		inked := evaluate[float64](t, p, fmt.Sprintf("lookAt.inked(%q, %g)", g.ID, y))
		assert.Greater(t, inked, 0.4*share, "%s: nothing is drawn where the axis has the limit of %d", n.Name, limit) // it is dashed
	}
}

// limitsOf are a node's limits, and the share of the time that each was in force.
func limitsOf(s report.NodeSeries) map[uint64]float64 {
	out := map[uint64]float64{}
	for i := 1; i < len(s.T); i++ {
		out[s.Limit[i-1]] += (s.T[i] - s.T[i-1]) / (s.T[len(s.T)-1] - s.T[0])
	}
	return out
}

// written is a text on a canvas, and the middle of its height.
type written struct {
	Text string
	Y    float64
}

// placeOf is where a value is by the highest and lowest number beside the axis.
func placeOf(t *testing.T, axis []written, value float64) float64 {
	t.Helper()
	low, high := written{Y: math.Inf(-1)}, written{Y: math.Inf(1)}
	for _, w := range axis {
		if w.Y > low.Y {
			low = w
		}
		if w.Y < high.Y {
			high = w
		}
	}
	require.Greater(t, low.Y, high.Y, "the axis needs two numbers: %v", axis)
	a, b := numberOf(t, low.Text), numberOf(t, high.Text)
	return low.Y + (value-a)/(b-a)*(high.Y-low.Y)
}

func numberOf(t *testing.T, text string) float64 {
	t.Helper()
	digits, millions := strings.CutSuffix(strings.ReplaceAll(text, ",", ""), " M")
	v, err := strconv.ParseFloat(digits, 64)
	require.NoError(t, err)
	if millions {
		v *= 1e6
	}
	return v
}

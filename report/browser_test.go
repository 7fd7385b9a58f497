//go:build linux

package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/browser"
	"github.com/tablefull/tablefull/runner/env/envtest"
)

// startBrowser skips where there is no Chromium, which
// TABLEFULL_REQUIRE=chromium turns into a failure.
func startBrowser(t testing.TB) *browser.Browser {
	t.Helper()
	b, stop, err := browser.Start(context.Background(), t.TempDir())
	if errors.Is(err, browser.ErrMissing) {
		envtest.Require(t, "chromium", err.Error())
	}
	require.NoError(t, err)
	t.Cleanup(stop)
	return b
}

func openPage(t *testing.T, b *browser.Browser, file string, v browser.View) *browser.Page {
	t.Helper()
	p, err := b.Open("file://"+file, v)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

func eval[T any](t *testing.T, p *browser.Page, expression string) T {
	t.Helper()
	v, err := browser.Eval[T](p, expression)
	require.NoError(t, err, expression)
	return v
}

// seenRuns are the runs whose reports are looked at in a browser.
func seenRuns(t *testing.T) map[string]*Findings {
	runs := map[string]*Findings{"hostile": hostile(t), "crowd": crowd(t)}
	for name, s := range goldenRuns(t) {
		runs[name] = s.analyze()
	}
	empty, err := Analyze(strings.NewReader(""))
	require.NoError(t, err)
	runs["empty"] = empty
	for name, log := range map[string]searchLog{"search": {limit: 3000}, "search-held": {limit: 9000}, "search-silent": {limit: 9000, silentAbove: 3100}, "search-empty": {most: -1}} {
		runs[name] = log.findings(t)
	}
	return runs
}

var (
	laptop = browser.View{Width: 1280, Height: 800}
	screen = browser.View{Width: 1920, Height: 1080, Dark: true}
	phone  = browser.View{Width: 360, Height: 740, Touch: true}
)

func files(t *testing.T, runs map[string]*Findings) map[string]string {
	dir, out := t.TempDir(), map[string]string{}
	for name, f := range runs {
		out[name] = filepath.Join(dir, name+".html")
		require.NoError(t, os.WriteFile(out[name], []byte(renderedHTML(t, f)), 0o644))
	}
	return out
}

// Reports as Chromium shows them, in one process.
func TestReportInABrowser(t *testing.T) {
	b := startBrowser(t)
	t.Run("reading", func(t *testing.T) { checkReading(t, b) })
	t.Run("access", func(t *testing.T) { checkAccess(t, b) })
	t.Run("links", func(t *testing.T) { checkLinks(t, b) })
	t.Run("fingers", func(t *testing.T) { checkFingers(t, b) })
	t.Run("controls", func(t *testing.T) { checkControls(t, b) })
	t.Run("without scripts", func(t *testing.T) { checkWithoutScripts(t, b) })
	t.Run("comparison", func(t *testing.T) { checkComparison(t, b) })
	t.Run("paper", func(t *testing.T) { checkPaper(t, b) })
}

// Whatever the run was and however it is looked at: nothing complains, nothing
// is asked for elsewhere, all text can be read, and each plot shows what it
// was given.
func checkReading(t *testing.T, b *browser.Browser) {
	runs := seenRuns(t)
	for name, file := range files(t, runs) {
		for _, v := range []browser.View{laptop, screen, phone} {
			t.Run(fmt.Sprintf("%s/%d", name, v.Width), func(t *testing.T) {
				p := openPage(t, b, file, v)
				faults, err := p.Faults()
				require.NoError(t, err)
				assert.Empty(t, faults)
				checkPlots(t, p, runs[name])
				if v == phone { // with all that can be opened
					eval[bool](t, p, `document.querySelectorAll("details").forEach(d => d.open = true); true`)
					faults, err = p.Faults()
					require.NoError(t, err)
					assert.Empty(t, faults, "opened")
				}
				assert.Empty(t, p.Problems())
			})
		}
	}
}

// A plotted is what look.js says of one plot.
type plotted struct {
	ID                          string
	Points, Series              int
	Told                        []int
	Sums                        []float64 // of the values drawn
	From, To, Low, High         float64
	Width, Height, Left, Canvas float64
	Cursor                      *int
	Shown                       []string
}

func checkPlots(t *testing.T, p *browser.Page, f *Findings) {
	t.Helper()
	c := newCharts(f)
	want := slices.Concat(c.first, c.over, c.byLoad)
	got := eval[[]plotted](t, p, "lookAt.plots()")
	require.Len(t, got, len(want))
	for i, g := range got {
		w := want[i]
		assert.Equal(t, w.ID, g.ID)
		assert.Equal(t, len(w.X), g.Points, w.ID)
		assert.Equal(t, len(w.Series), g.Series, w.ID)
		assert.Equal(t, []int{len(w.X), len(w.Series)}, g.Told, w.ID)
		for k, s := range w.Series {
			if total := totalOf(s.V); !w.Stack {
				assert.InDelta(t, total, g.Sums[k], 1e-6*math.Abs(total)+1e-6, "%s %s: other values are drawn", w.ID, s.Name)
			}
		}
		assert.Greater(t, g.Width, 100.0, w.ID)
		assert.Greater(t, g.Height, 60.0, w.ID)
		if w.Kind == "time" {
			assert.InDelta(t, c.from, g.From, 1e-6, w.ID)
			assert.InDelta(t, c.to, g.To, 1e-6, w.ID)
			above := got[0] // on the first screen, or of those below
			if i >= len(c.first) {
				above = got[len(c.first)]
			}
			assert.InDelta(t, above.Left, g.Left, 0.01, "%s: its times are not below those of the plot above", w.ID)
			assert.InDelta(t, above.Width, g.Width, 0.01, w.ID)
		}
		if w.Limit > 0 {
			at := eval[struct{ Share, Inked float64 }](t, p, fmt.Sprintf("lookAt.level(%q, %g)", w.ID, w.Limit))
			assert.InDelta(t, (w.Limit-w.Floor)/(w.Ceil-w.Floor), at.Share, 0.005, "%s: the limit is not where its axis says", w.ID)
			covered := (min(c.to, w.X[len(w.X)-1]) - max(c.from, w.X[0])) / (c.to - c.from)
			assert.Greater(t, at.Inked, covered*0.45, "%s: nothing is drawn where the limit is", w.ID) // it is dashed
		}
	}
}

func totalOf(v values) (total float64) {
	for _, x := range v {
		if !math.IsNaN(x) && !math.IsInf(x, 0) {
			total += x
		}
	}
	return total
}

func checkAccess(t *testing.T, b *browser.Browser) {
	axe, err := browser.Axe(t.Context(), t.TempDir())
	if err != nil {
		envtest.Require(t, "axe", err.Error())
	}
	dark, runs := phone, seenRuns(t)
	dark.Dark = true
	for name, file := range files(t, runs) {
		for i, v := range []browser.View{laptop, dark} {
			if i > 0 && name != "hard" && name != "crowd" {
				continue // the same colours
			}
			t.Run(fmt.Sprintf("%s/%d", name, v.Width), func(t *testing.T) {
				p := openPage(t, b, file, v)
				if i > 0 {
					eval[bool](t, p, `document.querySelectorAll("details").forEach(d => d.open = true); true`)
				}
				violations, err := p.Audit(axe)
				require.NoError(t, err)
				assert.Empty(t, violations)
			})
		}
	}
}

// Arms over each other can be read like a single run.
func checkComparison(t *testing.T, b *browser.Browser) {
	axe, err := browser.Axe(t.Context(), t.TempDir())
	if err != nil {
		envtest.Require(t, "axe", err.Error())
	}
	runs := goldenRuns(t)
	e := &Experiment{Scenario: "ways-around", Trials: 1, Margins: map[string]string{}, Seed: 5}
	var trials []Trial
	for _, name := range []string{"hard", "healthy", "soft"} {
		e.Arms = append(e.Arms, ExperimentArm{Name: "arm-" + name, Description: "what is done about it"})
		trials = append(trials, Trial{ExperimentRun{Arm: "arm-" + name, Trial: 1, Dir: name + "/1"}, runs[name].analyze()})
	}
	var page bytes.Buffer
	require.NoError(t, Compare(e, trials).Render("html", &page))
	file := filepath.Join(t.TempDir(), "comparison.html")
	require.NoError(t, os.WriteFile(file, page.Bytes(), 0o644))
	for _, v := range []browser.View{laptop, screen, phone} {
		p := openPage(t, b, file, v)
		faults, err := p.Faults()
		require.NoError(t, err)
		assert.Empty(t, faults, v.Width)
		plots := eval[[]plotted](t, p, "lookAt.plots()")
		assert.GreaterOrEqual(t, len(plots), 4, v.Width)
		for _, g := range plots {
			assert.Positive(t, g.Points, g.ID)
		}
		violations, err := p.Audit(axe)
		require.NoError(t, err)
		assert.Empty(t, violations, v.Width)
		assert.Empty(t, p.Problems(), v.Width)
	}
}

func timed(plots []plotted) []plotted {
	return slices.DeleteFunc(plots, func(p plotted) bool { return strings.HasPrefix(p.ID, "by-load") })
}

// What is done to one plot is done to all: zoom by mouse, keys and buttons, and
// the cursor.
func checkLinks(t *testing.T, b *browser.Browser) {
	f := goldenRuns(t)["hard"].analyze()
	file := files(t, map[string]*Findings{"hard": f})["hard"]
	p := openPage(t, b, file, laptop)
	all := func() []plotted { return timed(eval[[]plotted](t, p, "lookAt.plots()")) }
	agree := func(from, to, within float64) {
		t.Helper()
		for _, g := range all() {
			assert.InDelta(t, from, g.From, within, g.ID)
			assert.InDelta(t, to, g.To, within, g.ID)
		}
	}
	whole := all()[0]
	place := eval[struct{ X, Y, Width, Height float64 }](t, p, `(({x, y, width, height}) => ({x, y, width, height}))(document.querySelector("[data-chart=entries-1] .u-over").getBoundingClientRect())`)

	require.NoError(t, p.Do(chromedp.MouseEvent("mouseMoved", place.X+place.Width/2, place.Y+place.Height/2)))
	for _, g := range all() {
		if assert.NotNil(t, g.Cursor, "%s has no cursor while another plot has one", g.ID) {
			assert.NotEmpty(t, strings.Join(g.Shown, ""), "%s shows no value under the cursor", g.ID)
		}
	}
	middle := (whole.From + whole.To) / 2
	entries := all()[0]
	x := eval[float64](t, p, fmt.Sprintf(`tablefull.plots[0].u.data[0][%d]`, *entries.Cursor))
	assert.InDelta(t, middle, x, 0.11, "the value shown is not that of the moment under the cursor")

	// Half of it by mouse: from a quarter to three quarters.
	require.NoError(t, p.Do(chromedp.DragAndDropXY(place.X+place.Width/4, place.Y+20, place.X+place.Width*3/4, place.Y+20)))
	span := whole.To - whole.From
	agree(whole.From+span/4, whole.To-span/4, span/100)
	assert.True(t, eval[bool](t, p, `document.getElementById("range").textContent.includes(" to ") && getComputedStyle(document.getElementById("zoombar")).opacity === "1"`))

	// A plot far below, by keys.
	require.NoError(t, p.Do(chromedp.Focus(chromedp.CSS("[data-chart=cpu-1] .surface")), chromedp.KeyEvent("0")))
	agree(whole.From, whole.To, 1e-6)
	require.NoError(t, p.Do(chromedp.KeyEvent("+")))
	agree(whole.From+span/4, whole.To-span/4, 1e-6)
	require.NoError(t, p.Do(chromedp.KeyEvent("-")))
	agree(whole.From, whole.To, 1e-6)
	require.NoError(t, p.Do(chromedp.KeyEvent("+"), chromedp.Click(chromedp.CSS(`#zoombar [data-do="reset"]`))))
	agree(whole.From, whole.To, 1e-6)
	assert.Empty(t, p.Problems())
}

// A finger that moves across a plot zooms all of them; one that moves up scrolls
// the page, and one that taps shows what is under it.
func checkFingers(t *testing.T, b *browser.Browser) {
	file := files(t, map[string]*Findings{"hard": goldenRuns(t)["hard"].analyze()})["hard"]
	p := openPage(t, b, file, phone)
	eval[bool](t, p, `document.querySelector("[data-chart=entries-1]").scrollIntoView({block: "center"}); true`)
	place := eval[struct{ X, Y, Width, Height float64 }](t, p, `(({x, y, width, height}) => ({x, y, width, height}))(document.querySelector("[data-chart=entries-1] .u-over").getBoundingClientRect())`)
	stroke := func(from, to [2]float64) {
		t.Helper()
		const steps = 8
		for i := range steps + 1 {
			share := float64(i) / steps
			kind := input.DispatchTouchEventTypeTouchMove
			if i == 0 {
				kind = input.DispatchTouchEventTypeTouchStart
			}
			at := input.TouchPoint{X: place.X + place.Width*(from[0]+share*(to[0]-from[0])), Y: place.Y + place.Height*(from[1]+share*(to[1]-from[1]))}
			require.NoError(t, p.Touch(kind, &at))
		}
		require.NoError(t, p.Touch(input.DispatchTouchEventTypeTouchEnd))
	}
	whole := timed(eval[[]plotted](t, p, "lookAt.plots()"))[0]
	stroke([2]float64{0.25, 0.5}, [2]float64{0.75, 0.55})
	span := whole.To - whole.From
	for _, g := range timed(eval[[]plotted](t, p, "lookAt.plots()")) {
		assert.InDelta(t, whole.From+span/4, g.From, span/50, g.ID)
		assert.InDelta(t, whole.To-span/4, g.To, span/50, g.ID)
	}
	eval[bool](t, p, `tablefull.reset(); true`)
	y := eval[float64](t, p, "scrollY")
	stroke([2]float64{0.5, 0.9}, [2]float64{0.5, 0.1})
	_, err := browser.Poll(p, fmt.Sprintf(`scrollY > %g ? "scrolled" : ""`, y+20))
	require.NoError(t, err, "the page does not scroll by a finger on a plot")
	assert.InDelta(t, whole.To, timed(eval[[]plotted](t, p, "lookAt.plots()"))[0].To, 1e-6, "scrolling zooms")
	assert.Empty(t, p.Problems())
}

func checkControls(t *testing.T, b *browser.Browser) {
	f := goldenRuns(t)["hard"].analyze()
	file := files(t, map[string]*Findings{"hard": f})["hard"]
	p := openPage(t, b, file, laptop)
	ground := func() string { return eval[string](t, p, "getComputedStyle(document.body).backgroundColor") }
	axis := func() string {
		return eval[string](t, p, `document.querySelector("[data-chart=entries-1] canvas").toDataURL()`)
	}
	light, drawn := ground(), axis()
	require.NoError(t, p.Do(chromedp.Click(chromedp.CSS("#theme"))))
	assert.NotEqual(t, light, ground())
	assert.Equal(t, "true", eval[string](t, p, `document.getElementById("theme").getAttribute("aria-pressed")`))
	eval[bool](t, p, "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
	assert.NotEqual(t, drawn, axis(), "the plots keep the colours of the other theme")
	faults, err := p.Faults()
	require.NoError(t, err)
	assert.Empty(t, faults)

	// From 0 and back: the limit stays where the axis says.
	require.NoError(t, p.Do(chromedp.Click(chromedp.CSS("#chart-entries-1 .zero button"))))
	low := eval[float64](t, p, "tablefull.plots[0].u.scales.y.min")
	assert.Zero(t, low)

	require.NoError(t, p.Grant())
	require.NoError(t, p.Do(chromedp.Click(chromedp.CSS("#sizing .copybox button"))))
	said, err := browser.Poll(p, `(t => t !== "Copy" && t)(document.querySelector("#sizing .copybox button").textContent)`)
	require.NoError(t, err)
	assert.Equal(t, "Copied", said)
	assert.Equal(t, f.Sizing.KubeProxy, eval[string](t, p, "navigator.clipboard.readText()"))
	assert.Empty(t, p.Problems())
}

// Without JavaScript all is there but the plots, and the numbers behind them.
func checkWithoutScripts(t *testing.T, b *browser.Browser) {
	f := goldenRuns(t)["hard"].analyze()
	v := laptop
	v.NoScript = true
	p := openPage(t, b, files(t, map[string]*Findings{"hard": f})["hard"], v)
	assert.Equal(t, 0, eval[int](t, p, `document.querySelectorAll("canvas").length`))
	assert.True(t, eval[bool](t, p, `document.querySelector("noscript p").checkVisibility()`))
	assert.Equal(t, 0, eval[int](t, p, `[...document.querySelectorAll("button")].filter(b => b.checkVisibility()).length`), "buttons that do nothing")
	c := newCharts(f)
	assert.Equal(t, len(c.first)+len(c.over)+len(c.byLoad), eval[int](t, p, `[...document.querySelectorAll("figure details")].filter(d => { d.open = true; return d.querySelector("td").checkVisibility(); }).length`))
}

var pdfPages = regexp.MustCompile(`(?m)^Pages:\s+([0-9]+)`)

// On paper there are no controls, no empty pages, and the whole of each table.
func checkPaper(t *testing.T, b *browser.Browser) {
	for _, program := range []string{"pdftotext", "pdfinfo"} {
		if _, err := exec.LookPath(program); err != nil {
			envtest.Require(t, "chromium", "no "+program+" (Debian package poppler-utils) to look into a PDF with")
		}
	}
	runs := seenRuns(t)
	for name, file := range files(t, runs) {
		t.Run(name, func(t *testing.T) {
			v := laptop
			v.Dark = name == "hard"
			p := openPage(t, b, file, v)
			pdf, err := p.Print()
			require.NoError(t, err)
			assert.Empty(t, p.Problems())
			out := filepath.Join(t.TempDir(), "report.pdf")
			require.NoError(t, os.WriteFile(out, pdf, 0o644))
			info, err := exec.CommandContext(t.Context(), "pdfinfo", out).Output()
			require.NoError(t, err)
			pages, err := strconv.Atoi(string(pdfPages.FindSubmatch(info)[1]))
			require.NoError(t, err)
			assert.Less(t, pages, 40)
			text, err := exec.CommandContext(t.Context(), "pdftotext", "-layout", out, "-").Output()
			require.NoError(t, err)
			sheets := strings.Split(strings.TrimSuffix(string(text), "\f"), "\f")
			assert.Len(t, sheets, pages)
			for i, sheet := range sheets {
				assert.NotEmpty(t, strings.TrimSpace(sheet), "page %d of %d is empty", i+1, pages)
			}
			flat := strings.Join(strings.Fields(string(text)), " ")
			for _, no := range []string{"Copy ", "Whole run", "Dark ", "Show from 0", "Skip to"} {
				assert.NotContains(t, flat, no)
			}
			if name == "hard" {
				assert.Contains(t, flat, "its table is full")
				assert.Contains(t, flat, "net.netfilter.nf_conntrack_max = 458752", "the settings")
			}
			// The screen is as it was.
			checkPlots(t, p, runs[name])
		})
	}
}

// A plot's y axis is that of its data: the one thing checkPlots leaves to uPlot.
func TestAxisRangeHoldsTheData(t *testing.T) {
	for name, f := range seenRuns(t) {
		c := newCharts(f)
		for _, w := range slices.Concat(c.first, c.over, c.byLoad) {
			if w.Ceil == 0 {
				continue
			}
			for _, s := range w.Series {
				for _, v := range s.V {
					assert.False(t, !math.IsNaN(v) && v > w.Ceil, "%s %s: %v is above the axis", name, w.ID, v)
				}
			}
		}
	}
}

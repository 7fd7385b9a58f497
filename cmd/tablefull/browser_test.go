package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/browser"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/scenarios"
)

// lookedAt are the scenarios of the library whose report was looked at.
var lookedAt sync.Map

// lookAtReport opens the report of a run of the library's scenario in Chromium:
// one run of each is enough, and the tests of the truth make it. The browser
// ends before the next run begins, because it is load. What the report says is
// not looked at here.
func lookAtReport(t *testing.T, scenario, dir string) {
	t.Helper()
	if !slices.Contains(scenarios.Names(), scenario) {
		return
	}
	if _, done := lookedAt.LoadOrStore(scenario, true); done {
		return
	}
	least := 5 // plots
	if strings.HasPrefix(scenario, "capacity-") {
		least = 1 // a search's report has the loss against the load
	}
	t.Run("report in a browser", func(t *testing.T) {
		b, stop, err := browser.Start(context.Background(), t.TempDir())
		if errors.Is(err, browser.ErrMissing) {
			envtest.Require(t, "chromium", err.Error())
		}
		require.NoError(t, err)
		defer stop()
		axe, err := browser.Axe(t.Context(), t.TempDir())
		if err != nil {
			envtest.Require(t, "axe", err.Error())
		}
		for _, v := range []browser.View{{Width: 1280, Height: 800}, {Width: 1920, Height: 1080, Dark: true}, {Width: 360, Height: 740, Touch: true}} {
			checkView(t, b, filepath.Join(dir, "report.html"), v, least)
		}
		checkPrintAndAccess(t, b, filepath.Join(dir, "report.html"), axe)
	})
}

// checkPrintAndAccess prints the report, and holds it to axe-core as it is then:
// the screen has to be as it was.
func checkPrintAndAccess(t *testing.T, b *browser.Browser, file, axe string) {
	t.Helper()
	p, err := b.Open("file://"+file, browser.View{Width: 1280, Height: 800})
	require.NoError(t, err)
	defer p.Close()
	pdf, err := p.Print()
	require.NoError(t, err)
	assert.Greater(t, len(pdf), 20_000, "its PDF")
	faults, err := p.Faults()
	require.NoError(t, err)
	assert.Empty(t, faults, "after printing")
	assert.Empty(t, p.Problems(), "in print")
	violations, err := p.Audit(axe)
	require.NoError(t, err)
	assert.Empty(t, violations)
}

func checkView(t *testing.T, b *browser.Browser, file string, v browser.View, least int) {
	t.Helper()
	what := fmt.Sprintf("%d px wide", v.Width)
	p, err := b.Open("file://"+file, v)
	require.NoError(t, err)
	defer p.Close()
	faults, err := p.Faults()
	require.NoError(t, err)
	assert.Empty(t, faults, what)
	drawn, err := browser.Eval[int](p, `lookAt.plots().filter(p => p.points > 0 && p.points === p.told[0]).length`)
	require.NoError(t, err)
	places, err := browser.Eval[int](p, `document.querySelectorAll(".plot").length`)
	require.NoError(t, err)
	assert.Equal(t, places, drawn, "each place of a plot has one with its points, %s", what)
	assert.GreaterOrEqual(t, drawn, least, what)
	assert.Empty(t, p.Problems(), what)
}

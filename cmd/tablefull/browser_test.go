package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/browser"
	"github.com/tablefull/tablefull/runner/env/envtest"
	"github.com/tablefull/tablefull/scenarios"
)

// A real run of each scenario of the library, shortened where it can be, has a
// report that can be read. What the reports say is for the tests of the truth.
func TestLibraryInABrowser(t *testing.T) {
	needLab(t)
	ran := map[string]string{}
	for _, name := range scenarios.Names() {
		if dir := runShort(t, name); dir != "" {
			ran[name] = dir
		}
	}
	require.NotEmpty(t, ran)
	// After the runs, for it is load.
	b, stop, err := browser.Start(context.Background(), t.TempDir())
	if errors.Is(err, browser.ErrMissing) {
		envtest.Require(t, "chromium", err.Error())
	}
	require.NoError(t, err)
	t.Cleanup(stop)
	for name, dir := range ran {
		for _, v := range []browser.View{{Width: 1280, Height: 800}, {Width: 1920, Height: 1080, Dark: true}, {Width: 360, Height: 740, Touch: true}} {
			t.Run(fmt.Sprintf("%s/%d", name, v.Width), func(t *testing.T) {
				p, err := b.Open("file://"+filepath.Join(dir, "report.html"), v)
				require.NoError(t, err)
				defer p.Close()
				faults, err := p.Faults()
				require.NoError(t, err)
				assert.Empty(t, faults)
				drawn, err := browser.Eval[int](p, `lookAt.plots().filter(p => p.points > 0 && p.points === p.told[0]).length`)
				require.NoError(t, err)
				places, err := browser.Eval[int](p, `document.querySelectorAll(".plot").length`)
				require.NoError(t, err)
				assert.Equal(t, places, drawn, "each place of a plot has one with its points")
				assert.Greater(t, drawn, 4)
				assert.Empty(t, p.Problems())
			})
		}
	}
}

// runShort runs a scenario for as short as it makes sense, and returns the
// folder of its results; none where this machine cannot run it.
func runShort(t *testing.T, name string) string {
	t.Helper()
	s, _, err := scenarios.Load(name, nil)
	require.NoError(t, err)
	short := []string{"--set", "duration=1500ms"}
	if len(s.Actions) > 0 {
		short = []string{"--set", "duration=4s", "--set", "actions[0].at=500ms"}
	}
	for _, sets := range [][]string{short, nil} { // not every scenario can be shortened
		dir := filepath.Join(t.TempDir(), name)
		var out, errOut bytes.Buffer
		code := run(t.Context(), append([]string{"run", name, "--quiet", "--out", dir}, sets...), Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
		switch code {
		case exitUsage:
			continue
		case exitUnsupported:
			t.Logf("%s: %s", name, errOut.String())
			return ""
		}
		require.Contains(t, []int{exitPass, exitFail, exitInconclusive}, code, "%s%s", out.String(), errOut.String())
		return dir
	}
	return ""
}

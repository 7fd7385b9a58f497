//go:build linux

package report

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/browser"
)

// BenchmarkOpen opens the report of an hour from its file in Chromium, on a
// screen of 1920 pixels where most plots are in sight at once, and says how long
// that took from the moment it was asked for until it was loaded and all its
// plots were drawn: the median and the longest. It is `make bench-open`. For
// comparison, an empty page the same way.
func BenchmarkOpen(b *testing.B) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(longRun(w, 3600)) }()
	f, err := Analyze(r)
	require.NoError(b, err)
	c := newCharts(f)
	plots := len(c.first) + len(c.over) + len(c.byLoad)
	dir := b.TempDir()
	hour, empty := filepath.Join(dir, "report.html"), filepath.Join(dir, "empty.html")
	out, err := os.Create(hour)
	require.NoError(b, err)
	require.NoError(b, Render("html", f, out))
	size, err := out.Seek(0, io.SeekEnd)
	require.NoError(b, err)
	require.NoError(b, out.Close())
	require.NoError(b, os.WriteFile(empty, []byte("<!doctype html><title>empty</title>"), 0o644))
	chromium := startBrowser(b)
	open := func(file string, plots int) float64 {
		p, err := chromium.Open("file://"+file, browser.View{Width: 1920, Height: 1080})
		require.NoError(b, err)
		defer p.Close()
		// Time for plots that are drawn later.
		n, err := browser.Eval[int](p, `new Promise(done => setTimeout(() => done(window.tablefull ? tablefull.plots.length : 0), 700))`)
		require.NoError(b, err)
		require.Equal(b, plots, n)
		ms, err := browser.Eval[float64](p, "lookAt.opened()")
		require.NoError(b, err)
		return ms
	}
	var took, bare []float64
	for b.Loop() {
		took, bare = append(took, open(hour, plots)), append(bare, open(empty, 0))
	}
	slices.Sort(took)
	slices.Sort(bare)
	b.ReportMetric(0, "ns/op") // with the waits it says nothing
	b.ReportMetric(took[len(took)/2], "ms/open")
	b.ReportMetric(took[len(took)-1], "ms-longest")
	b.ReportMetric(bare[len(bare)/2], "ms/empty")
	b.ReportMetric(float64(size>>10), "kB")
	b.ReportMetric(float64(plots), "plots")
}

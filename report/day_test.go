//go:build !race

package report

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// dayLog writes the log of a day at default sampling, 0.7 GB, to a file.
func dayLog(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "run.jsonl")
	f, err := os.Create(path)
	require.NoError(tb, err)
	require.NoError(tb, longRun(f, 86400))
	require.NoError(tb, f.Close())
	return path
}

// renderDay does what `tablefull report DIR --format html` does with a log.
func renderDay(tb testing.TB, path string, w io.Writer) *Findings {
	tb.Helper()
	f, err := os.Open(path)
	require.NoError(tb, err)
	defer f.Close()
	found, err := Analyze(f)
	require.NoError(tb, err)
	require.NoError(tb, Render("html", found, w))
	return found
}

// A day at default sampling takes little memory, makes a small page, and a
// table that was full for one sample of the 864 000 is seen to be. With the
// race detector it would take minutes, so it is left out there. How long it
// takes is measured by BenchmarkDay.
func TestDay(t *testing.T) {
	path := dayLog(t)
	var page bytes.Buffer
	var f *Findings
	peak := heapPeak(func() { f = renderDay(t, path, &page) })
	t.Logf("%d MB of heap at most, %d kB of HTML", peak/1e6, page.Len()>>10)
	assert.Less(t, peak, uint64(300e6), "bytes of heap, garbage included")
	assert.Less(t, page.Len(), 2_000_000)
	checkTimeline(t, f)
	assert.Equal(t, map[string]uint64{"table_full": 5}, causesOf(f))
	require.NotNil(t, f.Knee.Drop)
	assert.InDelta(t, spikeAt, f.Knee.Drop.AtS, 0.2)
	// What the plot is drawn from, in the page: the limit is a series of its own.
	entries := newCharts(f).first[0]
	assert.Contains(t, entries.Series[0].V, 262144.0, "the spike is in the plot")
	assert.Contains(t, page.String(), "262,144 of 262,144 entries (100 %)", "and in the first sentence or a table")
}

// BenchmarkDay analyses and renders the log of a day, which it writes to a
// temporary file first. It is `make bench-day`. On a busy machine the wall time
// says little; the ratio to decoding the same log alone, measured right after
// it, says what the analysis adds.
func BenchmarkDay(b *testing.B) {
	path := dayLog(b)
	for b.Loop() {
		peak := heapPeak(func() { renderDay(b, path, io.Discard) })
		b.ReportMetric(float64(peak)/1e6, "peak-MB")
	}
	each := b.Elapsed().Seconds() / float64(b.N)
	began := time.Now()
	f, err := os.Open(path)
	require.NoError(b, err)
	defer f.Close()
	require.NoError(b, runlog.NewReader(f).Each(func(*runlog.Record) {}))
	decode := time.Since(began).Seconds()
	b.ReportMetric(each, "s/run")
	b.ReportMetric(each/decode, "x-decoding")
}

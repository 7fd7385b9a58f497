package report

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// Each run keeps its own shape, whatever moments the other one has.
func TestOverlayJoinsTwoTimeAxes(t *testing.T) {
	nan := math.NaN()
	ch := chart{}
	ch.join([]namedLine{{"A", &line{t: []float64{0, 1, 3}, v: values{10, 20, 40}}}, {"B", &line{t: []float64{2, 4}, v: values{5, 7}}}})
	assert.Equal(t, values{0, 1, 2, 3, 4}, ch.X)
	same(t, values{10, 20, 30, 40, nan}, ch.Series[0].V)
	same(t, values{nan, nan, 5, 6, 7}, ch.Series[1].V)

	steps := chart{Steps: "after"}
	steps.join([]namedLine{{"A", &line{t: []float64{0, 1}, v: values{10, nan}, until: 2}}, {"B", &line{t: []float64{0, 0.5}, v: values{1, 2}, until: 3}}})
	require.GreaterOrEqual(t, len(steps.X), dotted)
	for i, x := range steps.X {
		a, b := nan, nan
		if x < 1 {
			a = 10
		}
		if x < 0.5 {
			b = 1
		} else if x < 3 {
			b = 2
		}
		same(t, values{a}, steps.Series[0].V[i:i+1])
		same(t, values{b}, steps.Series[1].V[i:i+1])
	}

	alone := chart{}
	alone.join([]namedLine{{"A", nil}, {"B", &line{t: []float64{1}, v: values{2}}}})
	require.Len(t, alone.Series, 1)
	assert.Equal(t, "B", alone.Series[0].Name)
	none := chart{}
	none.join([]namedLine{{"A", nil}, {"B", nil}})
	assert.Empty(t, none.Series)
}

func same(t *testing.T, want, have values) {
	t.Helper()
	a, err := json.Marshal(want)
	require.NoError(t, err)
	b, err := json.Marshal(have)
	require.NoError(t, err)
	assert.Equal(t, string(a), string(b))
}

func overlayed(t *testing.T, o Overlay) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, o.Render(&b))
	return b.String()
}

func TestOverlay(t *testing.T) {
	runs := goldenRuns(t)
	hard, healthy := runs["hard"].analyze(), runs["healthy"].analyze()
	text := overlayed(t, Overlay{A: hard, B: healthy, NameA: "x", NameB: "y", LinkA: "/run?dir=x", Back: "/"})
	for _, part := range []string{`data-chart="occupancy"`, `data-chart="entries"`, `data-chart="offered"`, `data-chart="failed"`, `data-chart="p99-1"`, `href="/run?dir=x"`} {
		assert.Contains(t, text, part)
	}
	key := map[string]pair{}
	for _, p := range keyFigures(hard, healthy) {
		key[p.Name] = p
	}
	assert.Equal(t, string(hard.Verdict), key["verdict"].A)
	assert.Equal(t, "none", key["drop at"].B)
	assert.Empty(t, key["drop at"].Diff, "nothing to subtract")
	assert.True(t, strings.HasPrefix(key["attempts failed"].Diff, "−"), key["attempts failed"].Diff)
	for _, p := range keyFigures(hard, hard) {
		assert.Regexp(t, `^(0|none beyond .*)?$`, p.Diff, p.Name)
		assert.Equal(t, p.A, p.B)
	}
	assert.Empty(t, madeOf(hard, hard))
	assert.NotEmpty(t, madeOf(hard, &Findings{Scenario: "other"}))
	assert.Contains(t, overlayed(t, Overlay{A: &Findings{}, B: &Findings{}}), "Nothing to plot")
}

func TestOverlayIsSafe(t *testing.T) {
	bad := `</script><script>alert(1)</script>"><img src=x onerror=alert(1)>`
	f := hostile(t)
	text := overlayed(t, Overlay{A: f, B: f, NameA: bad, NameB: bad, StateA: bad, LinkA: "javascript:alert(1)"})
	assert.NotContains(t, text, "<script>alert")
	assert.NotContains(t, text, "<img src=x")
	assert.NotContains(t, text, `href="javascript:`)
}

// A run that is still going is neither passed, nor failed, nor cut off.
func TestSoFar(t *testing.T) {
	log := goldenRuns(t)["hard"].log()
	cut := log[:bytes.LastIndexByte(log[:len(log)*6/10], '\n')+1]
	a := NewAnalysis(bytes.NewReader(cut))
	require.NoError(t, a.Read())
	final := a.Findings()
	live := a.SoFar(final)
	assert.Equal(t, Inconclusive, final.Verdict, "the findings stay as they are")
	assert.Equal(t, Live, live.Verdict)
	assert.True(t, strings.HasPrefix(live.Headline, "So far: "), live.Headline)
	for _, text := range append(live.Reasons, live.Headline) {
		assert.NotContains(t, text, "killed")
		assert.NotContains(t, text, "Inconclusive")
	}
	assert.Contains(t, renderedHTML(t, live), "Nothing yet: the run is still going.")

	a = NewAnalysis(bytes.NewReader(log))
	require.NoError(t, a.Read())
	final = a.Findings()
	assert.Same(t, final, a.SoFar(final), "it has ended")
}

// What is counted so far of the newest step would look like a load that falls:
// a run that goes on is plotted as far as its log tells of all attempts, one
// that has ended to its end.
func TestSoFarEndsWithTheLastWholeStep(t *testing.T) {
	const rate, bin = 100, 0.1
	var log bytes.Buffer
	put := func(r runlog.Record) {
		b, err := json.Marshal(r)
		require.NoError(t, err)
		log.Write(append(b, '\n'))
	}
	put(runlog.Record{N: 1, Host: "controller", Header: &runlog.Header{Format: runlog.Format, Duration: 30, Traffic: []runlog.TrafficInfo{{Name: "web", End: 30, ExpectsAnswer: true}}}})
	n := uint64(0)
	next := func(r runlog.Record) {
		n++
		r.N, r.Host = n, "client"
		put(r)
	}
	a := NewAnalysis(&log)
	for tenth := range 200 {
		start, now := float64(tenth)*bin, float64(tenth+2)*bin
		next(runlog.Record{T: now, Bin: &runlog.Bin{Traffic: "web", Start: start, Width: bin, Due: rate * bin, Started: rate * bin, Outcomes: map[runlog.Outcome]uint64{runlog.OK: rate * bin}}})
		if tenth%5 == 0 {
			next(runlog.Record{T: now, Sample: &runlog.Sample{Net: map[string]uint64{"Tcp.OutRsts": n}}})
		}
		if tenth%7 != 0 {
			continue
		}
		require.NoError(t, a.Read())
		final := a.Findings()
		for _, load := range []LoadSeries{final.Timeline.Load, a.SoFar(final).Timeline.Load} {
			assert.GreaterOrEqual(t, float64(len(load.T))*load.StepS, now-1.2-load.StepS, "no more than is not known is left out")
			assert.Len(t, load.Offered, len(load.T))
			for i, offered := range load.Offered {
				assert.InDelta(t, rate, offered, 1e-6, "at %g s of %g s", load.T[i], now)
			}
			assert.Nil(t, load.EndsKnownToS, "all attempts ended")
		}
	}
}

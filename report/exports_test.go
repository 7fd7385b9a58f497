package report

import (
	"bytes"
	"encoding/csv"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/perf/benchfmt"

	"github.com/tablefull/tablefull/report/runlog"
)

// exportRuns are runs of all kinds, among them one that tries to break out and
// one of which nothing is known.
func exportRuns(t *testing.T) map[string]*Findings {
	runs := map[string]*Findings{"hostile": hostile(t)}
	for name, s := range goldenRuns(t) {
		runs[name] = s.analyze()
	}
	for name, log := range fuzzSeeds {
		f, err := Analyze(strings.NewReader(log))
		require.NoError(t, err)
		runs["seed "+name] = f
	}
	empty, err := Analyze(strings.NewReader(""))
	require.NoError(t, err)
	runs["empty"] = empty
	return runs
}

func render(t *testing.T, format string, f *Findings) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, Render(format, f, &b))
	return b.String()
}

func TestEveryFormatIsExplained(t *testing.T) {
	for _, f := range FormatList() {
		assert.NotEmpty(t, f.For, f.Name)
		assert.LessOrEqual(t, len(f.For), 80-15, f.Name)
	}
}

func TestCSVIsTidy(t *testing.T) {
	for name, f := range exportRuns(t) {
		out := render(t, "csv", f)
		rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
		require.NoError(t, err, name)
		require.Equal(t, csvColumns, rows[0], name)
		for _, row := range rows[1:] {
			for i, c := range row {
				switch i {
				case 0, 5:
					_, err := strconv.ParseFloat(c, 64)
					require.NoError(t, err, "%s: %q", name, row)
				case 1:
					require.Regexp(t, `^([0-9.]+)?$`, c)
				default:
					require.NotRegexp(t, "^[=+@\t\r-]|\n", c, name)
				}
			}
		}
	}
}

func TestCSVHoldsTheTimeline(t *testing.T) {
	f := goldenRuns(t)["hard"].analyze()
	sums := map[string]float64{}
	rows, err := csv.NewReader(strings.NewReader(render(t, "csv", f))).ReadAll()
	require.NoError(t, err)
	n := map[string]int{}
	for _, row := range rows[1:] {
		v, err := strconv.ParseFloat(row[5], 64)
		require.NoError(t, err)
		key := row[3] + " " + row[4]
		step := 1.0
		if row[1] != "" {
			step, err = strconv.ParseFloat(row[1], 64)
			require.NoError(t, err)
		}
		sums[key] += v * step
		n[row[3]]++
	}
	assert.InDelta(t, 7000, sums["offered_per_s "], 0.1)
	assert.InDelta(t, 3000, sums["succeeded_per_s "], 0.1)
	assert.InDelta(t, 4000, sums["failed_per_s "], 0.1)
	assert.Equal(t, len(f.Timeline.Nodes[0].T), n["entries"])
	assert.Equal(t, len(f.Timeline.Nodes[0].T), n["limit"])
}

func TestCSVLeavesFormulasAsText(t *testing.T) {
	for _, s := range []string{"=1+1", "+1", "-1", "@a", " =1", "\n=1", "＝1"} {
		assert.Equal(t, byte('\''), csvText(s)[0], s)
	}
	assert.Equal(t, "node-1", csvText("node-1"))
}

// What is unknown of one-way traffic is no 0.
func TestOneWayTrafficHasNoSuccesses(t *testing.T) {
	s := newSim(t, 262144, 100000, floodTraffic("flood", 0, 2))
	for _, due := range dues(0, 2, 100) {
		s.sent("flood", due)
	}
	f := s.analyze()
	f.Traffic[0].Outcomes = map[string]uint64{"ok": 200}
	assert.NotContains(t, render(t, "csv", f), "succeeded")
	assert.NotContains(t, render(t, "gobench", f), "succeeded")
	assert.NotContains(t, render(t, "svg", f), "succeeded")
	om := render(t, "openmetrics", f)
	assert.NotContains(t, om, `outcome="ok"`)
	assert.Contains(t, om, `outcome="sent"} 200`)
}

func TestGoBenchIsReadByBenchfmt(t *testing.T) {
	for name, f := range exportRuns(t) {
		r := benchfmt.NewReader(strings.NewReader(render(t, "gobench", f)), name)
		for r.Scan() {
			switch x := r.Result().(type) {
			case *benchfmt.SyntaxError:
				require.NoError(t, x, name)
			case *benchfmt.Result:
				base, parts := x.Name.Parts()
				require.NotEmpty(t, base)
				for _, p := range parts {
					require.Equal(t, byte('/'), p[0], "a name read as a number of CPUs: %s", x.Name)
				}
				require.NotEmpty(t, x.Values)
				units := map[string]bool{}
				for _, v := range x.Values {
					assert.False(t, units[v.Unit], "%s twice in %s", v.Unit, x.Name)
					units[v.Unit] = true
				}
			}
		}
		require.NoError(t, r.Err())
	}
}

func TestGoBenchValues(t *testing.T) {
	f := goldenRuns(t)["hard"].analyze()
	f.Nodes[0].Name = "node-1"
	r := benchfmt.NewReader(strings.NewReader(render(t, "gobench", f)), "")
	got := map[string]float64{}
	for r.Scan() {
		if x, ok := r.Result().(*benchfmt.Result); ok {
			assert.Equal(t, "sim", x.GetConfig("scenario"))
			assert.Equal(t, "262144", x.GetConfig("limit"))
			for _, v := range x.Values {
				got[string(x.Name)+" "+v.Unit] = v.Value
			}
		}
	}
	want := map[string]float64{
		"Knee/node=node-1/onset=drop entries": 262144, "Knee/node=node-1/onset=drop conn/s": 700,
		"Table/node=node-1/counters drop": 4000, "Traffic/name=web/attempts errors-ratio": 4000.0 / 7000,
		"Cause/name=table_full/attempts attempts": 4000,
	}
	for k, v := range want {
		assert.InDelta(t, v, got[k], 1e-9, k)
	}
	assert.InDelta(t, *f.Traffic[0].P99Ms/1000, got["Traffic/name=web/latency p99-sec"], 1e-9)
	assert.NotContains(t, got, "Knee/node=node-1/onset=early_drop at-sec", "it did not happen")
}

func TestOpenMetricsIsRead(t *testing.T) {
	for name, f := range exportRuns(t) {
		out := render(t, "openmetrics", f)
		require.True(t, strings.HasSuffix(out, "\n# EOF\n"), name)
		checkOpenMetrics(t, name, out)
	}
}

// checkOpenMetrics reads it as Prometheus does, and checks what Prometheus is
// lenient about: that samples belong to the metric declared before them, that
// units end names, and that no series is there twice.
func checkOpenMetrics(t *testing.T, name, out string) {
	p := textparse.NewOpenMetricsParser([]byte(out), labels.NewSymbolTable())
	series, families := map[string]bool{}, map[string]bool{}
	family, kind := "", model.MetricTypeUnknown
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err, "%s:\n%s", name, out)
		switch entry {
		case textparse.EntryType:
			n, k := p.Type()
			family, kind = string(n), k
			require.False(t, families[family], "%s is declared twice", family)
			families[family] = true
			require.Regexp(t, `^tablefull_[a-z_]+$`, family)
		case textparse.EntryHelp:
			n, text := p.Help()
			require.Equal(t, family, string(n))
			require.NotEmpty(t, text)
		case textparse.EntryUnit:
			n, unit := p.Unit()
			require.Equal(t, family, string(n))
			require.True(t, strings.HasSuffix(family, "_"+string(unit)))
		case textparse.EntrySeries:
			text, at, _ := p.Series()
			require.Nil(t, at)
			require.False(t, series[string(text)], "twice: %s", text)
			series[string(text)] = true
			var l labels.Labels
			p.Labels(&l)
			suffix := map[model.MetricType]string{model.MetricTypeCounter: "_total", model.MetricTypeInfo: "_info"}[kind]
			require.Equal(t, family+suffix, l.Get("__name__"))
			if kind == model.MetricTypeStateset {
				require.NotEmpty(t, l.Get(family))
			}
		}
	}
	require.NotEmpty(t, series)
}

func TestOpenMetricsValues(t *testing.T) {
	out := render(t, "openmetrics", goldenRuns(t)["hard"].analyze())
	for _, want := range []string{
		`tablefull_verdict{scenario="sim",target="lab",tablefull_verdict="fail"} 1`,
		`tablefull_onset_entries{scenario="sim",target="lab",node="node1",onset="drop"} 262144`,
		`tablefull_conntrack_events_total{scenario="sim",target="lab",node="node1",counter="drop"} 4000`,
		`tablefull_attempts_ended_total{scenario="sim",target="lab",traffic="web",outcome="ok"} 3000`,
		`tablefull_cause_attempts_total{scenario="sim",target="lab",cause="table_full",of="failed"} 4000`,
	} {
		assert.Contains(t, out, want)
	}
	assert.NotContains(t, out, `onset="early_drop"`, "it did not happen")
}

// Every string that a log can hold comes out as text.
func TestPicturesOfAllRuns(t *testing.T) {
	for name, f := range exportRuns(t) {
		svg := render(t, "svg", f)
		require.Equal(t, svg, render(t, "svg", f), name)
		assert.NotContains(t, svg, "<script", name)
		assert.False(t, strings.Contains(svg, "NaN"), name)
		words := svgWords(t, svg)
		for w := range strings.FieldsSeq(f.Headline) {
			if regexp.MustCompile(`^[a-z0-9 ]+$`).MatchString(w) {
				assert.Contains(t, words, w, name)
			}
		}
		file := render(t, "png", f)
		assert.Less(t, len(file), 150_000, name)
		picture, err := png.Decode(strings.NewReader(file))
		require.NoError(t, err, name)
		assert.Equal(t, 1600, picture.Bounds().Dx())
		assert.GreaterOrEqual(t, picture.Bounds().Dy(), 900)
	}
}

// svgWords parses it, and returns the words that it shows.
func svgWords(t *testing.T, svg string) []string {
	var words []string
	d := xml.NewDecoder(strings.NewReader(svg))
	inText := false
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return words
		}
		require.NoError(t, err)
		switch x := tok.(type) {
		case xml.StartElement:
			inText = x.Name.Local == "text"
			require.Contains(t, []string{"svg", "title", "desc", "g", "path", "text"}, x.Name.Local)
		case xml.CharData:
			if inText {
				words = append(words, strings.Fields(string(x))...)
			}
		}
	}
}

func TestPictureMarksOnsetsAndActions(t *testing.T) {
	s := goldenRuns(t)["hard"]
	for name, lasts := range map[string]float64{"roll": 1.5, "restart": 0.01} {
		for phase, at := range map[string]float64{"begin": 2, "end": 2 + lasts} {
			s.records = append(s.records, runlog.Record{Host: "controller", T: at, Event: &runlog.Event{Kind: "action", Name: name, Fields: map[string]string{"kind": "rollout", "number": "1", "phase": phase}}})
		}
	}
	svg := render(t, "svg", s.analyze())
	for _, want := range []string{"drop and client loss 4.286 s", "roll done 3.500 s", "limit 262144", "the axis does not begin at 0", "FAIL"} {
		assert.Contains(t, svg, want)
	}
	assert.NotContains(t, svg, "restart done", "it was at once")
}

func TestPictureOfSeveralNodes(t *testing.T) {
	s := newSim(t, 1000, 100, finTraffic("web", 0, 2))
	s.fill("web", 200, 0, 2)
	f := s.analyze()
	other := f.Timeline.Nodes[0]
	for _, name := range []string{"b", "c", "d", "e", "g"} {
		other.Name = name
		f.Timeline.Nodes = append([]NodeSeries{other}, f.Timeline.Nodes...)
	}
	p := newPicture(f)
	require.Len(t, p.Panels[0].Lines, mostNodes+1)
	assert.Contains(t, p.Panels[0].Title, "Entries in "+simNode)
	assert.Contains(t, p.Panels[0].Title, "1 more")
	assert.Equal(t, "entries", p.Panels[0].Lines[0].Name)
}

// A flood must not flatten what traffic beside it experienced.
func TestPictureShowsFailuresBesideAFlood(t *testing.T) {
	p := newPicture(goldenRuns(t)["soft"].analyze())
	require.Len(t, p.Panels, 3)
	assert.Less(t, p.Panels[2].High, 500.0)
	assert.Greater(t, p.Panels[1].High, 3000.0)
}

func TestMarkdownWithPicture(t *testing.T) {
	f := goldenRuns(t)["hard"].analyze()
	var b bytes.Buffer
	require.NoError(t, MarkdownWithPicture(f, "report.png", &b))
	assert.Contains(t, b.String(), "](report.png)")
	assert.Contains(t, b.String(), "![Entries against the limit")
	assert.NotContains(t, render(t, "markdown", f), "](")
	assert.Equal(t, "````\n```\n````\n", fence("", "```\n"))
}

func TestMarkdownDoesNotSayNoneOfWhatNobodySaw(t *testing.T) {
	f := goldenRuns(t)["hard"].analyze()
	f.Nodes = append(f.Nodes, Node{Name: "blind"})
	assert.Contains(t, render(t, "markdown", f), "| blind | not sampled |")
	f.Nodes = nil
	assert.Contains(t, render(t, "markdown", f), "No node's table was sampled.")
}

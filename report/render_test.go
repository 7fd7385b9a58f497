package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares got with testdata/name. A mismatch leaves testdata/name.got
// to look at.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, got, 0o644))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run the test with -update once")
	if !bytes.Equal(want, got) {
		require.NoError(t, os.WriteFile(path+".got", got, 0o644))
		t.Errorf("%s differs from %s.got; look at both, and run with -update if the new one is right", path, path)
	}
}

// goldenRuns are runs whose renderings are kept.
func goldenRuns(t *testing.T) map[string]*sim {
	hard := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	hard.header.Thresholds = []string{"errors < 0.1%", "p99 < 50ms", "occupancy < 80% during 0s..1s"}
	hard.fill("web", 700, 0, 10)

	healthy := newSim(t, 262144, 100000, finTraffic("web", 0, 5))
	require.Zero(t, healthy.fill("web", 500, 0, 5))

	soft := newSim(t, 262144, 3000, finTraffic("web", 0, 8), floodTraffic("flood", 0, 8))
	i := 0
	each(func(name string, due float64) {
		if soft.entries < int64(soft.limit) {
			soft.enter(due)
		} else if i++; i%4 == 0 {
			soft.bump(due, simNode, "drop", 1)
			if name == "web" {
				soft.fail(name, due, runlog.ConnectTimeout, 1)
				return
			}
		} else {
			soft.bump(due, simNode, "early_drop", 1)
		}
		if name == "web" {
			soft.ok(name, due)
		} else {
			soft.sent(name, due)
		}
	}, map[string][]float64{"flood": dues(0, 8, 3001), "web": dues(0, 8, 313)})

	ports := newSim(t, 262144, 200000, finTraffic("web", 0, 4))
	for n, due := range dues(0, 4, 1000) {
		if n < 3000 {
			ports.enter(due)
			ports.ok("web", due)
		} else {
			ports.notStarted("web", due, runlog.NoPorts)
		}
	}
	cut := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	cut.fill("web", 700, 0, 6)
	cut.trailer = nil
	rollout, _ := hangRun(t)
	return map[string]*sim{"hard": hard, "healthy": healthy, "soft": soft, "ports": ports, "cut": cut, "rollout": rollout}
}

func TestGoldenRenderings(t *testing.T) {
	ext := map[string]string{"text": "txt", "color": "ansi", "markdown": "md", "json": "json", "junit": "xml", "html": "html", "csv": "csv", "gobench": "bench", "openmetrics": "om", "svg": "svg"}
	for name, s := range goldenRuns(t) {
		f := s.analyze()
		for _, format := range Formats() {
			if format != "text" && name != "hard" && (name != "rollout" || format == "html" || format == "json") || format == "png" {
				continue // one of each is enough, and text is what people read
			}
			t.Run(name+"/"+format, func(t *testing.T) {
				var b bytes.Buffer
				require.NoError(t, Render(format, f, &b))
				golden(t, name+"."+ext[format], b.Bytes())
			})
		}
	}
}

func TestTextFitsIn80Columns(t *testing.T) {
	for name, s := range goldenRuns(t) {
		var b bytes.Buffer
		require.NoError(t, Render("text", s.analyze(), &b))
		first, _, _ := strings.Cut(b.String(), "\n")
		assert.NotEmpty(t, first)
		for line := range strings.Lines(b.String()) {
			assert.LessOrEqual(t, printed(strings.TrimSuffix(line, "\n")), 80, "%s: %q", name, line)
		}
		assert.NotContains(t, b.String(), "\x1b")
	}
}

func TestUnknownFormat(t *testing.T) {
	err := Render("pdf", &Findings{}, io.Discard)
	assert.ErrorContains(t, err, `"pdf"`)
	assert.ErrorContains(t, err, "markdown")
}

type failingWriter struct{ after int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.after -= len(p); w.after < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

func TestRenderReportsWriteErrors(t *testing.T) {
	s := newSim(t, 1000, 100, finTraffic("web", 0, 1))
	s.fill("web", 200, 0, 1)
	f := s.analyze()
	for _, format := range Formats() {
		assert.ErrorIs(t, Render(format, f, &failingWriter{}), io.ErrShortWrite, format)
	}
}

// hostile is a log all of whose strings try to break out of the report.
func hostile(t *testing.T) *Findings {
	const evil = `<script>alert(1)</script>"'|` + "`\x1b[31m\x07](javascript:x)*_\n# h"
	s := newSim(t, 1000, 100, finTraffic(evil, 0, 2))
	s.header.Scenario, s.header.Target, s.header.Version, s.header.Kernel, s.header.ScenarioYAML = evil, evil, evil, evil, evil
	s.header.RunID, s.header.Digest, s.header.Started = evil, evil, evil
	s.header.Thresholds = []string{evil, "errors < 1%"}
	s.header.Services[0].Name = evil
	s.header.Nodes = []string{simNode, evil}
	s.header.Traffic[0].To, s.header.Traffic[0].ResidueState = evil, evil
	s.fill(evil, 200, 0, 2)
	s.records = append(
		s.records,
		runlog.Record{Host: evil, T: 1, Event: &runlog.Event{Kind: "warning", Name: evil, Detail: evil}},
		runlog.Record{Host: evil, T: 1, Loss: &runlog.Loss{What: evil, Why: evil, Count: 1}},
		runlog.Record{Host: evil, T: 1, Sample: &runlog.Sample{Conntrack: &runlog.Conntrack{Entries: 1, Limit: 2, Counters: map[string]uint64{evil: 1}}}},
		runlog.Record{Host: evil, T: 1.5, Sample: &runlog.Sample{Conntrack: &runlog.Conntrack{Entries: 1, Limit: 2, Counters: map[string]uint64{evil: 5}}}},
		runlog.Record{Host: simNode, T: 1.2, Census: &runlog.Census{Entries: 1, Groups: []runlog.CensusGroup{{Proto: evil, State: evil, Count: 1}}}},
		runlog.Record{Host: "web-1", T: 1, Served: &runlog.Served{Service: evil, Backend: evil, Accepted: 1}},
	)
	s.trailer.UndoErrors, s.trailer.Restored = []string{evil}, false
	return s.analyze()
}

func TestNothingFromTheLogIsMarkup(t *testing.T) {
	f := hostile(t)
	for _, format := range Formats() {
		var b bytes.Buffer
		require.NoError(t, Render(format, f, &b), format)
		out := b.String()
		switch format {
		case "html":
			assert.Equal(t, ownScripts, strings.Count(out, "<script"))
		case "markdown":
			assert.NotContains(t, out, "<script")
			assert.NotRegexp(t, `[^\\]\]\(javascript`, out)
		case "junit":
			assert.NotContains(t, out, "<script")
			d := xml.NewDecoder(strings.NewReader(out))
			for {
				if _, err := d.Token(); err != nil {
					require.ErrorIs(t, err, io.EOF)
					break
				}
			}
		case "text":
			assert.NotContains(t, out, "\x1b")
			assert.NotContains(t, out, "\x07")
		}
	}
}

func TestSummaryMatchesItsSchema(t *testing.T) {
	text, err := SummarySchema()
	require.NoError(t, err)
	var root map[string]any
	require.NoError(t, json.Unmarshal(text, &root))
	runs := map[string]*Findings{"hostile": hostile(t)}
	for name, s := range goldenRuns(t) {
		runs[name] = s.analyze()
	}
	empty, err := Analyze(strings.NewReader(""))
	require.NoError(t, err)
	runs["empty"] = empty
	for name, f := range runs {
		var b bytes.Buffer
		require.NoError(t, Render("json", f, &b))
		var doc any
		require.NoError(t, json.Unmarshal(b.Bytes(), &doc))
		assert.Empty(t, violations(root, root, doc, name))
	}
	// And the validator can say no.
	var b bytes.Buffer
	require.NoError(t, Render("json", empty, &b))
	for _, wrong := range []func(map[string]any){
		func(m map[string]any) { delete(m, "capacity") },
		func(m map[string]any) { m["verdict"] = "perhaps" },
		func(m map[string]any) { m["reasons"] = nil },
		func(m map[string]any) { m["more"] = 1 },
		func(m map[string]any) { m["format"] = "1" },
	} {
		var doc map[string]any
		require.NoError(t, json.Unmarshal(b.Bytes(), &doc))
		wrong(doc)
		assert.NotEmpty(t, violations(root, root, doc, ""))
	}
	golden(t, "summary.schema.json", text)
}

// violations checks doc against the part of JSON Schema that SummarySchema
// uses, and fails on any other keyword.
func violations(root, schema map[string]any, doc any, path string) []string {
	var out []string
	bad := func(format string, args ...any) { out = append(out, path+": "+fmt.Sprintf(format, args...)) }
	for keyword, v := range schema {
		switch keyword {
		case "$schema", "$id", "$defs", "title", "description", "contentEncoding":
		case "$ref":
			name := strings.TrimPrefix(v.(string), "#/$defs/")
			out = append(out, violations(root, root["$defs"].(map[string]any)[name].(map[string]any), doc, path)...)
		case "anyOf":
			ok := false
			for _, s := range v.([]any) {
				ok = ok || len(violations(root, s.(map[string]any), doc, path)) == 0
			}
			if !ok {
				bad("matches none of anyOf")
			}
		case "enum":
			if !slices.Contains(v.([]any), doc) {
				bad("%v is not in the enum", doc)
			}
		case "minimum":
			if n, ok := doc.(float64); ok && n < v.(float64) {
				bad("%g is too small", n)
			}
		case "type":
			if !isType(doc, v.(string)) {
				bad("%v is no %s", doc, v)
			}
		case "required":
			for _, k := range v.([]any) {
				if m, ok := doc.(map[string]any); ok {
					if _, has := m[k.(string)]; !has {
						bad("%s is absent", k)
					}
				}
			}
		case "items":
			if list, ok := doc.([]any); ok {
				for i, x := range list {
					out = append(out, violations(root, v.(map[string]any), x, fmt.Sprintf("%s[%d]", path, i))...)
				}
			}
		case "properties":
			if m, ok := doc.(map[string]any); ok {
				for k, s := range v.(map[string]any) {
					if x, has := m[k]; has && s != true {
						out = append(out, violations(root, s.(map[string]any), x, path+"."+k)...)
					}
				}
			}
		case "additionalProperties":
			m, ok := doc.(map[string]any)
			if !ok {
				continue
			}
			known, _ := schema["properties"].(map[string]any)
			for k, x := range m {
				if _, has := known[k]; has {
					continue
				}
				if s, isSchema := v.(map[string]any); isSchema {
					out = append(out, violations(root, s, x, path+"."+k)...)
				} else if v == false {
					bad("%s is not known", k)
				}
			}
		default:
			bad("the validator does not know the keyword %s", keyword)
		}
	}
	return out
}

func isType(doc any, name string) bool {
	switch x := doc.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case float64:
		return name == "number" || name == "integer" && x == math.Trunc(x)
	case []any:
		return name == "array"
	case map[string]any:
		return name == "object"
	}
	return false
}

// The keys that others rely on are there even in the findings of nothing.
func TestContractKeys(t *testing.T) {
	f, err := Analyze(strings.NewReader(""))
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, Render("json", f, &b))
	var doc map[string]any
	require.NoError(t, json.Unmarshal(b.Bytes(), &doc))
	for _, k := range []string{"scenario", "target", "verdict", "reasons", "knee", "traffic", "causes", "spikes", "backends", "nodes", "sizing", "capacity", "restored"} {
		assert.Contains(t, doc, k)
	}
	for _, k := range []string{"early_drop", "drop", "client_loss"} {
		assert.Contains(t, doc["knee"], k)
	}
	s := newSim(t, 1000, 100, finTraffic("web", 0, 2))
	s.fill("web", 200, 0, 2)
	b.Reset()
	require.NoError(t, Render("json", s.analyze(), &b))
	var full struct {
		Knee    map[string]map[string]any
		Traffic []map[string]any
		Causes  []map[string]any
		Nodes   []map[string]any
	}
	require.NoError(t, json.Unmarshal(b.Bytes(), &full))
	has := func(m map[string]any, keys string) {
		for k := range strings.FieldsSeq(keys) {
			assert.Contains(t, m, k)
		}
	}
	has(full.Knee["drop"], "at_s entries occupancy offered_per_s uncertainty_s")
	has(full.Traffic[0], "name shape attempted succeeded failed not_started late_share p50_ms p99_ms max_ms outcomes")
	has(full.Causes[0], "cause failures share evidence")
	has(full.Nodes[0], "name limit peak_entries headroom_at_start counters census knee stale")
}

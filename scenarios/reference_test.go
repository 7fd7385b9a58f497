package scenarios

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The reference is made from the types. TABLEFULL_UPDATE=1 writes it anew.
func TestReferenceIsCurrent(t *testing.T) {
	const path = "../docs/scenario-reference.md"
	want := reference()
	if os.Getenv("TABLEFULL_UPDATE") != "" {
		require.NoError(t, os.WriteFile(path, []byte(want), 0o644))
	}
	have, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, want, string(have), "renew it: TABLEFULL_UPDATE=1 go test ./scenarios -run Reference")
}

// Nothing of the types is missing in it.
func TestReferenceIsWhole(t *testing.T) {
	text := reference()
	for _, s := range AllSettings() {
		name := s.Path[strings.LastIndex(s.Path, ".")+1:]
		name, _, _ = strings.Cut(name, "[")
		if strings.Contains(s.Path, ".timeouts.") || strings.HasPrefix(s.Path, "conntrack.timeouts.") {
			continue // the kernel's names are in a list of their own
		}
		assert.Contains(t, text, "| `"+name+"` |", s.Path)
	}
	for _, m := range Metrics() {
		assert.Contains(t, text, "| `"+m.Name+"` |")
	}
}

const referenceHead = `# Scenario reference

<!-- Made from the types by a test: TABLEFULL_UPDATE=1 go test ./scenarios -run Reference -->

A scenario is one YAML document. Unknown fields, values without a unit and contradictions are mistakes;
` + "`tablefull scenarios validate`" + ` reports all of them at once, each with its line. Editors complete and check with the
JSON Schema that ` + "`tablefull scenarios schema`" + ` prints. The files of the library carry comments that say how each problem
comes about: ` + "`tablefull scenarios show short-lived`" + `.

` + "```yaml" + `
name: all-shapes
duration: 30s
conntrack:
  headroom: 50000
  timeouts:
    tcp_timeout_time_wait: 60s
services:
  - {name: web, pods: 3}
  - {name: dns, protocol: udp, port: 53}
  - {name: api, protocol: http, port: 80}
  - {name: gateway, protocol: http, port: 80, gateway: {to: api, keepalive: false}}
traffic:
  - name: clients
    to: web
    short_lived: {rate: 700/s, close: fin}
  - name: wave
    to: web
    start: 5s
    short_lived:
      stages:
        - {from: 0/s, to: 500/s, for: 10s}
        - {to: 500/s, for: 5s}
  - name: subscribers
    to: web
    idle: {count: 1000, open_rate: 100/s}
  - name: queries
    to: dns
    udp: {rate: 300/s, dns_pair: true}
  - name: strangers
    to: web
    flood: {kind: syn, rate: 1000/s}
  - name: requests
    to: gateway
    http: {rate: 100/s, keepalive: false}
thresholds:
  - "clients: errors < 0.1%"
  - "requests: p99 < 50ms during 5s..20s"
  - occupancy < 80%
` + "```" + `

## Values

| kind | written | |
|---|---|---|
| rate | ` + "`700/s`, `6000/m`, `2.5/s`" + ` | attempts per second, minute or hour; the unit is always written |
| duration | ` + "`30s`, `5m`, `900ms`, `1h30m`" + ` | the unit is always written; never negative |
| whole number | ` + "`4000`" + ` | |
| threshold | ` + "`[TRAFFIC:] METRIC OP VALUE [during FROM..TO]`" + ` | see [Thresholds](#thresholds-and-expectations) |

` + "`--set PATH=VALUE`" + ` changes one value without editing the file: ` + "`traffic[0].short_lived.rate=900/s`" + ` by position,
` + "`traffic[clients].timeout=2s`" + ` by name, ` + "`thresholds[+]=drop == 0`" + ` appends, and ` + "`conntrack.headroom=null`" + ` takes a
value out. Brackets are special to some shells: quote them, or write the number between dots,
` + "`traffic.0.short_lived.rate=900/s`" + `. The shell completes paths and values: ` + "`tablefull completion --help`" + `.

`

// reference is docs/scenario-reference.md.
func reference() string {
	var b strings.Builder
	b.WriteString(referenceHead)
	type section struct {
		t     reflect.Type
		path  string
		about string
	}
	queue := []section{{t: reflect.TypeFor[Scenario](), path: "scenario", about: "The whole file."}}
	done := map[reflect.Type]bool{queue[0].t: true}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		fmt.Fprintf(&b, "## %s\n\n%s\n\n| field | value | default | |\n|---|---|---|---|\n", s.path, s.about)
		for _, f := range fieldsOf(s.t) {
			fallback, meaning := defaultOf(f.description)
			if f.required {
				fallback = "*required*"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, valuesOf(f), fallback, cell(meaning))
			inner, path := leadsTo(f, s.path)
			if inner != nil && !done[inner] && len(fieldsOf(inner)) > 0 {
				done[inner] = true
				queue = append(queue, section{inner, path, f.description})
			}
		}
		b.WriteString("\n")
	}
	writeTimeouts(&b)
	writeThresholds(&b)
	return b.String()
}

// leadsTo is the struct type that field f leads to, and how its section is
// called; nil where it is a value.
func leadsTo(f field, parent string) (reflect.Type, string) {
	t := deref(f.typ)
	path := f.name
	if t.Kind() == reflect.Slice {
		t, path = t.Elem(), path+"[]"
	}
	if t.Kind() != reflect.Struct || isText(t) {
		return nil, ""
	}
	if parent != "scenario" {
		path = parent + "." + path
	}
	return t, path
}

// valuesOf says what a field may be.
func valuesOf(f field) string {
	if len(f.enum) > 0 {
		return "`" + strings.Join(f.enum, "`, `") + "`"
	}
	t := deref(f.typ)
	if t.Kind() == reflect.Slice {
		return "list"
	}
	return kindOf(t)
}

var (
	anyDefault  = regexp.MustCompile(`Default ([^ ]+?)(?:[:,] .*)?(?: \(.*\))?\.(?: |$)`)
	bareDefault = regexp.MustCompile(` ?Default [^ ]+?\.( |$)`)
)

// defaultOf takes the default out of a description. Another test holds the
// descriptions to what a scenario really gets.
func defaultOf(description string) (fallback, rest string) {
	if m := anyDefault.FindStringSubmatch(description); m != nil {
		fallback = "`" + m[1] + "`"
	}
	return fallback, strings.TrimSpace(bareDefault.ReplaceAllString(description, "$1"))
}

// cell is text for a table of Markdown.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`).Replace(s)
}

func writeTimeouts(b *strings.Builder) {
	b.WriteString("## conntrack.timeouts\n\nWhich of these a kernel has depends on its version and build; one it does not have fails the run when the lab is built.\n\n")
	for _, n := range TimeoutNames() {
		fmt.Fprintf(b, "- `%s`\n", n)
	}
	b.WriteString("\n")
}

func writeThresholds(b *strings.Builder) {
	b.WriteString(`## Thresholds and expectations

` + "`[TRAFFIC:] METRIC OP VALUE [during FROM..TO]`" + `, with OP one of ` + "`< <= > >= ==`" + `. FROM and TO are run times; without TO the
window lasts to the end. Attempts belong to the moment they were due. A metric without data leaves its threshold
without an answer, and the verdict is then inconclusive, unless another threshold failed.

| metric | value | of | |
|---|---|---|---|
`)
	for _, m := range Metrics() {
		of := "the node"
		if m.PerTraffic {
			of = "one traffic, or all together"
		}
		if m.WholeRun {
			of = "the whole run: no window"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", m.Name, metricValues[m.Kind], of, m.About)
	}
}

var metricValues = map[Kind]string{
	Ratio: "share: `0.1%` or `0.001`",
	Time:  "time: `50ms`",
	Count: "whole number",
}

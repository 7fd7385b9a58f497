package scenarios

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

// overridesOf reads the "# --set" lines on top of a scenario.
func overridesOf(src string) []string {
	var sets []string
	for line := range strings.Lines(src) {
		set, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "# --set ")
		if !ok {
			break
		}
		sets = append(sets, set)
	}
	return sets
}

// TestMistakes holds every message against testdata/mistakes.txtar.
func TestMistakes(t *testing.T) {
	const golden = "testdata/mistakes.txtar"
	a, err := txtar.ParseFile(golden)
	require.NoError(t, err)
	for i := 0; i+1 < len(a.Files); i += 2 {
		in, want := a.Files[i], &a.Files[i+1]
		name := strings.TrimSuffix(in.Name, ".yaml")
		require.Equal(t, name+".err", want.Name)
		t.Run(name, func(t *testing.T) {
			s, err := Parse(in.Name, in.Data, overridesOf(string(in.Data))...)
			require.Error(t, err)
			assert.Nil(t, s)
			var es Errors
			require.ErrorAs(t, err, &es)
			got := err.Error() + "\n"
			assert.Len(t, es, strings.Count(got, "\n"), "one line each")
			if *update {
				want.Data = []byte(got)
				return
			}
			assert.Equal(t, string(want.Data), got)
		})
	}
	if *update {
		require.NoError(t, os.WriteFile(golden, txtar.Format(a), 0o644))
	}
}

const small = `
name: small
services:
  - name: web
traffic:
  - name: clients
    to: web
    short_lived:
      rate: 700/s
`

func TestSet(t *testing.T) {
	for _, c := range []struct {
		name  string
		sets  []string
		check func(t *testing.T, s *Scenario)
	}{
		{"a value by index", []string{"traffic[0].short_lived.rate=900/s"}, func(t *testing.T, s *Scenario) {
			assert.Equal(t, Rate(900), s.Traffic[0].ShortLived.Rate)
		}},
		{"a value by name", []string{"traffic[clients].short_lived.rate=6000/m"}, func(t *testing.T, s *Scenario) {
			assert.Equal(t, Rate(100), s.Traffic[0].ShortLived.Rate)
		}},
		{"a number in a mapping that is not there", []string{"conntrack.headroom=2000"}, func(t *testing.T, s *Scenario) {
			require.NotNil(t, s.Conntrack.Headroom)
			assert.EqualValues(t, 2000, *s.Conntrack.Headroom)
		}},
		{"a map's key", []string{"conntrack.timeouts.udp_timeout=5s"}, func(t *testing.T, s *Scenario) {
			assert.Equal(t, 5.0, s.Conntrack.Timeouts["udp_timeout"].Seconds())
		}},
		{"of an action", []string{"actions[+]={rollout: {service: web}}", "actions[rollout].rollout.max_surge=2", "actions[0].at=3s"}, func(t *testing.T, s *Scenario) {
			assert.Equal(t, 2, *s.Actions[0].Rollout.MaxSurge)
			assert.Equal(t, "3s", s.Actions[0].At.String())
		}},
		{"appended", []string{"thresholds[+]=errors < 1%", "thresholds[+]=clients: p99 < 50ms"}, func(t *testing.T, s *Scenario) {
			assert.Equal(t, []string{"errors < 1%", "clients: p99 < 50ms"}, s.Thresholds)
		}},
		{"the last one counts", []string{"seed=1", "seed=2"}, func(t *testing.T, s *Scenario) {
			assert.EqualValues(t, 2, s.Seed)
		}},
		{"a mapping as YAML", []string{"services[web].server={behaviour: silent, delay: 5ms}"}, func(t *testing.T, s *Scenario) {
			assert.Equal(t, "silent", s.Services[0].Server.Behaviour)
		}},
		{"a new element as YAML", []string{"services[+]={name: dns, protocol: udp}", "traffic[+]={to: dns, udp: {rate: 5/s}}"}, func(t *testing.T, s *Scenario) {
			assert.Equal(t, "udp", s.Traffic[1].Name)
		}},
		{"a list as YAML", []string{"thresholds=[errors < 1%, drop == 0]"}, func(t *testing.T, s *Scenario) {
			assert.Len(t, s.Thresholds, 2)
		}},
		{"one shape for another, by the shape's name", []string{"services[0].protocol=udp", "traffic[0].name=null", "traffic[short_lived].udp.rate=5/s", "traffic[0].short_lived=null"}, func(t *testing.T, s *Scenario) {
			assert.Equal(t, "udp", s.Traffic[0].Shape())
			assert.Equal(t, "udp", s.Traffic[0].Name)
		}},
		{"taken out of nothing", []string{"conntrack.headroom=null", "services[0].gateway.to=null", "thresholds[+]=null"}, func(t *testing.T, s *Scenario) {
			assert.Equal(t, Conntrack{}, s.Conntrack)
			assert.Nil(t, s.Services[0].Gateway)
		}},
		{"an equals sign in the value", []string{"description=a=b"}, func(t *testing.T, s *Scenario) {
			assert.Equal(t, "a=b", s.Description)
		}},
		{"text that looks like something else", []string{"description=5", "name=null-and-void"}, func(t *testing.T, s *Scenario) {
			assert.Equal(t, "5", s.Description)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Parse("small.yaml", []byte(small), c.sets...)
			require.NoError(t, err)
			c.check(t, s)
		})
	}
}

// An override of one place must not reach another that had the same alias.
func TestSetOnAliases(t *testing.T) {
	const src = `
name: aliases
services:
  - &web {name: web, pods: 3}
  - <<: *web
    name: other
traffic:
  - {name: a, to: web, short_lived: &load {rate: 7/s}}
  - {name: b, to: other, short_lived: *load}
`
	s, err := Parse("aliases.yaml", []byte(src), "traffic[b].short_lived.rate=9/s")
	require.NoError(t, err)
	assert.Equal(t, Rate(7), s.Traffic[0].ShortLived.Rate)
	assert.Equal(t, Rate(9), s.Traffic[1].ShortLived.Rate)
	assert.Equal(t, 3, s.Services[1].Pods)
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mine.yaml")
	require.NoError(t, os.WriteFile(file, []byte(small), 0o600))

	s, raw, err := Load(file, nil, "name=renamed")
	require.NoError(t, err)
	assert.Equal(t, "renamed", s.Name)
	assert.Equal(t, small, string(raw), "the source is as it was read")

	s, raw, err = Load("-", strings.NewReader(small))
	require.NoError(t, err)
	assert.Equal(t, "small", s.Name)
	assert.Equal(t, small, string(raw))

	s, _, err = Load("short-lived", nil)
	require.NoError(t, err)
	assert.Equal(t, "short-lived", s.Name)
}

func TestLoadMistakes(t *testing.T) {
	var es Errors
	_, _, err := Load("short-livd", nil)
	require.ErrorAs(t, err, &es)
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.EqualError(t, err, "short-livd: there is no such scenario or file; did you mean short-lived?")

	_, _, err = Load("./nowhere/x.yaml", nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.EqualError(t, err, "./nowhere/x.yaml: there is no such file")

	_, _, err = Load(t.TempDir(), nil)
	require.ErrorAs(t, err, &es)
	assert.ErrorContains(t, err, "cannot be read: is a directory")

	broken := errors.New("broken pipe")
	_, _, err = Load("-", iotest.ErrReader(broken))
	require.ErrorIs(t, err, broken)
	assert.EqualError(t, err, "stdin: cannot be read: broken pipe")

	_, _, err = Load("-", strings.NewReader(strings.Repeat("#", maxSource+5)))
	require.ErrorAs(t, err, &es)
	assert.EqualError(t, err, "stdin: a scenario has at most 1048576 bytes")

	_, _, err = Load("-", strings.NewReader("name: x\n"))
	require.ErrorAs(t, err, &es)
	assert.Equal(t, "stdin", es[0].File)
}

// However much is wrong, there is an answer, and soon: none of these grows
// with more than the size of the source.
func TestHostileSources(t *testing.T) {
	repeat := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i, i+1)
		}
		return b.String()
	}
	for name, src := range map[string]string{
		"unknown fields":     repeat(40_000, "k%d: %d\n"),
		"a chain":            "services:\n" + repeat(3_000, " - {name: s%d, protocol: http, gateway: {to: s%d}}\n"),
		"references":         "traffic:\n" + repeat(5_000, " - {name: t%d, to: s%d}\n"),
		"thresholds":         "thresholds:\n" + repeat(5_000, " - erors %d %d\n"),
		"timeouts":           "conntrack:\n  timeouts:\n" + repeat(4_000, "    t%d: %ds\n"),
		"depth":              strings.Repeat("[", maxSource/2),
		"a chain of anchors": "a0: &a0 [x]\n" + repeat(3_000, "a%d: &a%d [x]\n") + "b: {<<: [*a1, *a2]}\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("hostile.yaml", []byte(src))
			var es Errors
			require.ErrorAs(t, err, &es)
		})
	}
	_, err := Parse("long.yaml", []byte("services:\n"+repeat(257, " - {name: s%d, port: %d}\n")+"name: long\ntraffic: [{to: s1, short_lived: {rate: 1/s}}]\n"))
	assert.EqualError(t, err, "long.yaml:2:2: services: there are 257; write at most 256")
}

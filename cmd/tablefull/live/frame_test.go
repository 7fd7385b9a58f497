package live

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/watch"
	"github.com/tablefull/tablefull/runner"
)

var update = flag.Bool("update", false, "write the golden files")

func recent(from int, entries ...uint64) []runner.Second {
	var out []runner.Second
	for i, e := range entries {
		out = append(out, runner.Second{At: from + i, Entries: e})
	}
	return out
}

// settingUp is before run time 0 is known.
func settingUp() State {
	return State{Scenario: "short-lived", Traffics: []string{"clients"}, Progress: runner.Progress{
		Phase: "setup", Elapsed: 0.9, InPhase: 0.9, Duration: 10,
		Steps: []runner.Step{{Name: "build the lab", Done: true, Took: 0.31}, {Name: "start serve web-1 on web-1", Done: true, Took: 0.002}, {Name: "start ballast on node1", Took: 0.6}},
	}}
}

// full is a table that has been full for a while.
func full() State {
	return State{Scenario: "short-lived", Traffics: []string{"clients"}, Causes: map[string]uint64{"table_full": 215, "unknown": 5}, CausesAt: 5.2, Progress: runner.Progress{
		Phase: "traffic", Elapsed: 7.1, InPhase: 5.6, T: 5.6, Begun: true, Duration: 10,
		Nodes: map[string]runner.NodeProgress{"node1": {
			Entries: 262144, Limit: 262144, Peak: 262144, Drop: 850,
			Moved:  map[string]uint64{"drop": 850, "insert": 12, "early_drop": 3},
			Recent: recent(-1, 259144, 259844, 260544, 261244, 261944, 262144, 262144),
		}},
		Traffic: map[string]runner.TrafficProgress{"clients": {
			Due: 3852, Started: 3852, Late: 1, OK: 3000, Failed: 220,
			Outcomes: map[runlog.Outcome]uint64{runlog.ConnectTimeout: 219, runlog.Reset: 1},
			Last:     runner.Rates{Due: 700, OK: 203, Failed: 87},
		}},
		Hosts: map[string]map[string]uint64{"web-1": {"TcpExt.ListenDrops": 12}},
		Events: []runner.Event{
			{T: -1.4, Host: "controller", Kind: "phase", Name: "setup", Detail: "build the lab"},
			{T: -0.9, Host: "node1", Kind: "ballast", Name: "set", Detail: "the table has been filled"},
			{T: 0, Host: "controller", Kind: "phase", Name: "traffic", Detail: "1 traffics for 10s"},
			{T: 3, Host: "controller", Kind: "warning", Name: "autopsy", Detail: "no answer\x1b[2J\nfrom \u7bc0\u70b9"},
		},
	}}
}

// flood is two nodes and three traffics, one of which nobody answers.
func flood() State {
	s := full()
	s.Scenario, s.Traffics = "syn-flood", []string{"clients", "strangers", "long-name-of-holders"}
	s.Nodes["node2"] = runner.NodeProgress{Entries: 262143, Limit: 262144, Peak: 262143, Moved: map[string]uint64{"insert_failed": 1}, Recent: recent(3, 5, 262143)}
	s.Traffic["strangers"] = runner.TrafficProgress{OneWay: true, Due: 36992, Started: 36900, OK: 36900, NotStarted: 92, NotStartedFor: map[runlog.NotStartedReason]uint64{runlog.Behind: 92}, Last: runner.Rates{Due: 15000, NotStarted: 92}}
	s.Traffic["long-name-of-holders"] = runner.TrafficProgress{Due: 12345678, Started: 12345678, OK: 12345678, Held: 500, Validated: 480, Lost: 3}
	return s
}

// leaving was interrupted, and something does not go back.
func leaving() State {
	s := full()
	s.Stopping = true
	s.Phase, s.InPhase, s.T = "undo", 0.8, 6.4
	for i := range 12 {
		s.Steps = append(s.Steps, runner.Step{Name: fmt.Sprintf("stop serve web-%d on web-%d", i, i), Done: true, Took: 0.01})
	}
	s.Steps = append(
		s.Steps,
		runner.Step{Name: "take down the lab: 5 hosts, their processes and namespaces", Done: true, Took: 0.2},
		runner.Step{Name: "echo 262144 > /proc/sys/net/netfilter/nf_conntrack_max", Done: true, Err: "permission denied"},
		runner.Step{Name: "rm -r /tmp/out/.agents", Took: 0.1},
	)
	return s
}

func TestFrames(t *testing.T) {
	for _, c := range []struct {
		name          string
		state         State
		width, height int
		style         Style
	}{
		{"setup-80x24", settingUp(), 80, 24, Style{}},
		{"full-80x24", full(), 80, 24, Style{}},
		{"full-80x24-color", full(), 80, 24, Style{Color: true}},
		{"full-80x24-ascii", full(), 80, 24, Style{ASCII: true}},
		{"full-200x60", full(), 200, 60, Style{}},
		{"full-40x12", full(), 40, 12, Style{}},
		{"full-20x5", full(), 20, 5, Style{}},
		{"flood-80x24", flood(), 80, 24, Style{}},
		{"leaving-80x24", leaving(), 80, 24, Style{}},
		{"leaving-20x5", leaving(), 20, 5, Style{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			golden(t, c.name, Frame(c.state, c.width, c.height, c.style))
		})
	}
}

// golden compares lines with a file of testdata.
func golden(t *testing.T, name string, lines []string) {
	t.Helper()
	got := strings.Join(lines, "\n") + "\n"
	file := filepath.Join("testdata", name+".txt")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

// Whatever the size, a frame fits, and nothing of what came from outside
// reaches the terminal as a control character.
func TestFramesFit(t *testing.T) {
	for _, s := range []State{{}, settingUp(), full(), flood(), leaving()} {
		for width := 1; width <= 210; width += 1 + width/20 {
			for height := 1; height <= 60; height += 1 + height/10 {
				assertFits(t, Frame(s, width, height, Style{}), Frame(s, width, height, Style{Color: true}), width, height)
			}
		}
	}
	for _, s := range []Watched{{}, watching(), watchingMany()} {
		for width := 1; width <= 210; width += 1 + width/20 {
			for height := 1; height <= 60; height += 1 + height/10 {
				assertFits(t, WatchFrame(s, width, height, Style{}), WatchFrame(s, width, height, Style{Color: true}), width, height)
			}
		}
	}
}

func assertFits(t *testing.T, plain, colored []string, width, height int) {
	t.Helper()
	require.LessOrEqual(t, len(plain), height)
	require.NotEmpty(t, plain)
	for i, l := range plain {
		require.LessOrEqual(t, utf8.RuneCountInString(l), width, "%dx%d: %q", width, height, l)
		require.NotContains(t, l, "\x1b")
		require.NotContains(t, l, "\n")
		require.Equal(t, utf8.RuneCountInString(l), columns(colored[i]), "colours take no columns")
	}
}

// The smallest screens still say what matters most.
func TestSmallFramesSayWhatMatters(t *testing.T) {
	got := strings.Join(Frame(full(), 20, 5, Style{}), "\n")
	assert.Contains(t, got, "100 % FULL")
	assert.Contains(t, got, "drop +850")
	got = strings.Join(Frame(leaving(), 60, 5, Style{}), "\n")
	assert.Contains(t, got, "stopping, putting things back")
	assert.Contains(t, got, "FAILED echo 262144")
}

// 100 % is said of a full table alone, and a bar is full only then.
func TestNearlyFullIsNotFull(t *testing.T) {
	assert.Equal(t, "99.9 %", filled(262143, 262144))
	assert.Equal(t, "100 %", filled(262144, 262144))
	assert.Equal(t, "###-", Style{ASCII: true}.bar(0.9999, 4))
	assert.Equal(t, "####", Style{ASCII: true}.bar(1, 4))
	assert.Equal(t, "#---", Style{ASCII: true}.bar(0.0001, 4))
	assert.Equal(t, "<0.01 %", share(1, 1000000))
	assert.Equal(t, ">99.99 %", share(999999, 1000000))
	assert.Equal(t, "1,234,567", watch.Count(1234567))
}

func BenchmarkFrame(b *testing.B) {
	s := flood()
	for b.Loop() {
		Frame(s, 200, 60, Style{Color: true})
	}
}

// A trial of a search shows how the search stands.
// What a line is too short for goes on in the next one.
func TestFrameListsAllCauses(t *testing.T) {
	s := State{Scenario: "x", CausesAt: 12.5, Causes: map[string]uint64{
		"table_full": 9000, "stale_backend": 800, "draining_backend": 700, "entry_expired": 60, "snat_ports": 5, "unknown": 4,
	}}
	s.Phase, s.Duration = "traffic", 20
	for width, want := range map[int][]string{
		200: {"causes    table_full 9,000, stale_backend 800, draining_backend 700, entry_expired 60, snat_ports 5, unknown 4 as of 12.5 s"},
		80: {
			"causes    table_full 9,000, stale_backend 800, draining_backend 700,",
			"          entry_expired 60, snat_ports 5, unknown 4 as of 12.5 s",
		},
		61: {
			"causes    table_full 9,000, stale_backend 800,",
			"          draining_backend 700, entry_expired 60, snat_ports",
			"          5, unknown 4 as of 12.5 s",
		},
	} {
		text := strings.Join(Frame(s, width, 24, Style{}), "\n")
		assert.Contains(t, text, strings.Join(want, "\n"))
	}
}

func TestFrameOfASearch(t *testing.T) {
	s := State{Scenario: "capacity-rate", Search: []string{"trial 3 at 1500/s", "1400/s holds (at most 0 % lost)", "200s of 300s left"}}
	got := strings.Join(Frame(s, 80, 24, Style{}), "\n")
	for _, want := range s.Search {
		assert.Contains(t, got, want)
	}
	s.Search = nil
	assert.NotContains(t, strings.Join(Frame(s, 80, 24, Style{}), "\n"), "trial")
}

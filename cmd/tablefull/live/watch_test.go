package live

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/report/watch"
)

func float(v float64) *float64 { return &v }

// watching is a table that fills up.
func watching() Watched {
	t := watch.Table{
		Node: "worker-7", At: 90, Entries: 101_234, Limit: 131_072, Buckets: 32_768,
		Growth:   &watch.Growth{PerS: 412.5, Low: 380, High: 441.2, Over: 60, Confidence: 0.98},
		Full:     watch.Full{When: watch.Growing, In: float(72.3), Earliest: float(67.6), Latest: float(78.5)},
		Counters: map[string]uint64{"drop": 12, "early_drop": 1300, "found": 12345, "insert": 2},
		PerS:     map[string]float64{"early_drop": 55.2, "found": 100},
		Cost:     watch.Cost{CPU: 0.9, Share: 0.0099},
		Recent:   []watch.Second{{At: 87, Entries: 100_000}, {At: 88, Entries: 100_400}, {At: 90, Entries: 101_234}},
		Census: &watch.Census{
			Age: 3.2, Took: 0.41, CPU: 0.2, Entries: 99_000, Turnover: &runlog.Turnover{Over: 13.4, Came: 13_400, Went: 6_700, OneIn: 4},
			States: []watch.State{{Proto: "tcp", State: "TIME_WAIT", Entries: 60_000, Assured: 59_000, Unreplied: 0}, {Proto: "tcp", State: "ESTABLISHED", Entries: 20_000, Assured: 19_999, Unreplied: 1}, {Proto: "udp", State: "", Entries: 18_999, Assured: 200, Unreplied: 9_000}, {Proto: "icmp", State: "", Entries: 1, Assured: 0, Unreplied: 1}},
		},
	}
	for i := range 12 {
		n := uint64(20_000 / (i + 1))
		t.Census.Sources = append(t.Census.Sources, runlog.TopSource{Addr: netip.AddrFrom4([4]byte{10, 128, 0, byte(i)}), Count: n, Error: min(90, n)})
		t.Census.Services = append(t.Census.Services, runlog.TopService{Proto: "tcp", Addr: netip.MustParseAddrPort(fmt.Sprintf("10.96.0.10:%d", 8080+i)), Count: n})
	}
	return Watched{What: "worker-7, Linux 6.12.117", Since: "12:01:02", Leave: "Ctrl-C ends it; nothing was changed, so nothing is to be put back", Tables: []watch.Table{t}}
}

// watchingMany is two nodes, one of which is full, in IPv6.
func watchingMany() Watched {
	s := watching()
	full := s.Tables[0]
	c := *full.Census
	c.Sources = []runlog.TopSource{{Addr: netip.MustParseAddr("2001:db8:1234:5678:9abc:def0:1234:5678"), Count: 900}, {Addr: netip.MustParseAddr("fd00::1"), Count: 97, Error: 96}}
	c.Services = []runlog.TopService{{Proto: "udp", Addr: netip.MustParseAddrPort("[2001:db8:1234:5678:9abc:def0:1234:5678]:53"), Count: 900}}
	full.Node, full.Entries, full.Census, full.Full = "a-node-with-a-long-name", full.Limit, &c, watch.Full{When: watch.Now}
	full.Failed = "walk table: no buffer space\x1b[2J available"
	steady := s.Tables[0]
	steady.Growth, steady.Full, steady.Census = &watch.Growth{PerS: 0.4, Low: -12, High: 5.5, Over: 60}, watch.Full{When: watch.Steady}, nil
	return Watched{What: "2 nodes", Since: "12:01:02", Leave: "Ctrl-C ends it and removes its pods", Tables: []watch.Table{steady, full}, Note: "worker-9 is not seen any more: its pod is gone"}
}

func TestWatchFrames(t *testing.T) {
	for name, c := range map[string]struct {
		state         Watched
		width, height int
		style         Style
	}{
		"watch-first-80x24": {Watched{What: "here", Leave: "Ctrl-C ends it; nothing was changed, so nothing is to be put back"}, 80, 24, Style{}},
		"watch-80x24":       {watching(), 80, 24, Style{}},
		"watch-80x24-color": {watching(), 80, 24, Style{Color: true}},
		"watch-200x60":      {watching(), 200, 60, Style{}},
		"watch-40x12-ascii": {watching(), 40, 12, Style{ASCII: true}},
		"watch-20x5":        {watching(), 20, 5, Style{}},
		"watch-many-80x24":  {watchingMany(), 80, 24, Style{}},
		"watch-many-200x60": {watchingMany(), 200, 60, Style{}},
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, WatchFrame(c.state, c.width, c.height, c.style)) })
	}
}

// What a sketch cannot tell from its own error is not named.
func TestOnlyHeavyOnesAreNamed(t *testing.T) {
	got := strings.Join(WatchFrame(watchingMany(), 200, 60, Style{}), "\n")
	assert.NotContains(t, got, "fd00::1 ")
	assert.Contains(t, got, "any other: at most 97")
}

package scenarios

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLibrary(t *testing.T) {
	assert.Equal(t, []string{
		"bucket-degenerate", "capacity-concurrent", "capacity-dns", "capacity-rate", "capacity-teardown", "closewait-pileup", "dns-flood",
		"dns-pair", "etp-local-drop", "gateway", "healthy", "idle", "idle-expiry-nat-lost", "port-reuse-rollout",
		"presync-blackhole", "proxy-lowers-max", "proxy-restart-under-load", "rollout-termination-race", "scale-to-zero-udp",
		"short-lived", "snat-port-exhaustion", "stale-node", "stale-rules", "stale-soak", "syn-flood", "udp-stale-dead-pod", "upgrade",
		"ways-around", "ways-around-ipvs",
	}, Names())
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			s, src, err := Load(name, nil)
			require.NoError(t, err)
			assert.Equal(t, name, s.Name, "a file is named after its scenario")
			assert.NotEmpty(t, s.Description)
			if name != "stale-soak" {
				assert.LessOrEqual(t, time.Duration(s.Duration), time.Minute, "runs in under a minute")
			}
			assert.NotEmpty(t, append(s.Thresholds, s.Expect...), "a verdict has something to rest on")
			assert.True(t, s.Conntrack.Max == nil || s.Lab.Kernel == "private", "changes nothing outside the lab")

			comment, _, _ := strings.Cut(string(src), "\nname: ")
			for _, part := range []string{"# Whose problem: ", "\n# Mechanism: ", "\n# Expect: "} {
				assert.Contains(t, comment, part)
			}
			for line := range strings.Lines(comment) {
				assert.True(t, strings.HasPrefix(line, "#"), "the comment comes first: %q", line)
				assert.LessOrEqual(t, len(line), 90, line)
			}
			switch {
			case len(s.Expect) > 0 || len(s.AbortOn) > 0 || name == "proxy-restart-under-load": // passes when it shows what it is about
			case name == "healthy":
				assert.Contains(t, s.Description, "passes")
			default:
				assert.Contains(t, s.Description, "on purpose", "who fails says so")
				assert.Contains(t, strings.ReplaceAll(comment, "\n# ", " "), "on purpose")
			}
		})
	}
	_, ok := Source("nothing")
	assert.False(t, ok)
	_, ok = Source("../library/idle")
	assert.False(t, ok)
}

// The comments work figures out from the fields. These are the same sums.
func TestLibraryFigures(t *testing.T) {
	load := func(name string) *Scenario {
		s, _, err := Load(name, nil)
		require.NoError(t, err)
		return s
	}
	fillsAfter := func(s *Scenario, perSecond float64) float64 {
		require.NotNil(t, s.Conntrack.Headroom)
		return float64(*s.Conntrack.Headroom) / perSecond
	}
	s := load("short-lived")
	assert.InDelta(t, 4.2857, fillsAfter(s, float64(s.Traffic[0].ShortLived.Rate)), 1e-4)
	assert.Less(t, time.Duration(s.Traffic[0].Timeout), time.Second, "one attempt is one SYN")

	h := load("healthy")
	assert.Equal(t, s.Traffic, h.Traffic, "the same traffic")
	assert.Equal(t, s.Services, h.Services)
	assert.Equal(t, s.Lab, h.Lab)
	assert.Equal(t, s.Duration, h.Duration)
	assert.Nil(t, h.Conntrack.Headroom)

	s = load("idle")
	assert.InDelta(t, 6.25, fillsAfter(s, float64(s.Traffic[0].Idle.OpenRate)), 1e-9)
	assert.Greater(t, int64(s.Traffic[0].Idle.Count), *s.Conntrack.Headroom)

	s = load("syn-flood")
	assert.InDelta(t, 3.3, fillsAfter(s, float64(s.Traffic[1].Flood.Rate)), 0.05)
	assert.Less(t, fillsAfter(s, float64(s.Traffic[1].Flood.Rate))+s.Traffic[1].Start.Seconds(), s.Duration.Seconds()/2)

	s = load("dns-flood")
	assert.InDelta(t, 5, fillsAfter(s, float64(s.Traffic[0].UDP.Rate)), 1e-9)

	s = load("gateway")
	assert.InDelta(t, 5, fillsAfter(s, 2*float64(s.Traffic[0].HTTP.Rate)), 1e-9)
}

package scenarios

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var thresholdCases = []struct {
	in   string
	want Threshold
	str  string
}{
	{"errors < 0.1%", Threshold{Metric: "errors", Kind: Ratio, Op: Less, Value: 0.001}, "errors < 0.1%"},
	{"errors<=0.001", Threshold{Metric: "errors", Kind: Ratio, Op: LessEqual, Value: 0.001}, "errors <= 0.1%"},
	{"errors == 0", Threshold{Metric: "errors", Kind: Ratio, Op: Equal, Value: 0}, "errors == 0%"},
	{"web: p99 < 50ms", Threshold{Traffic: "web", Metric: "p99", Kind: Time, Op: Less, Value: 0.05}, "web: p99 < 50ms"},
	{"short_lived:p999<1.5s", Threshold{Traffic: "short_lived", Metric: "p999", Kind: Time, Op: Less, Value: 1.5}, "short_lived: p999 < 1.5s"},
	{"occupancy < 80% during 5s..20s", Threshold{Metric: "occupancy", Kind: Ratio, Op: Less, Value: 0.8, From: 5, To: 20}, "occupancy < 80% during 5s..20s"},
	{"occupancy > 99.5% during 500ms .. 1m", Threshold{Metric: "occupancy", Kind: Ratio, Op: Greater, Value: 0.995, From: 0.5, To: 60}, "occupancy > 99.5% during 500ms..1m0s"},
	{"drop >= 1 during 4.2857s..", Threshold{Metric: "drop", Kind: Count, Op: GreaterEqual, Value: 1, From: 4.2857}, "drop >= 1 during 4.2857s.."},
	{"early_drop == 0", Threshold{Metric: "early_drop", Kind: Count, Op: Equal}, "early_drop == 0"},
	{"insert_failed == 0", Threshold{Metric: "insert_failed", Kind: Count, Op: Equal}, "insert_failed == 0"},
	{"entries < 262144", Threshold{Metric: "entries", Kind: Count, Op: Less, Value: 262144}, "entries < 262144"},
	{"a-b: failures <= 3", Threshold{Traffic: "a-b", Metric: "failures", Kind: Count, Op: LessEqual, Value: 3}, "a-b: failures <= 3"},
	{"late < 5%", Threshold{Metric: "late", Kind: Ratio, Op: Less, Value: 0.05}, "late < 5%"},
	{"not_started < 1e-3", Threshold{Metric: "not_started", Kind: Ratio, Op: Less, Value: 0.001}, "not_started < 0.1%"},
}

func TestParseThreshold(t *testing.T) {
	for _, c := range thresholdCases {
		t.Run(c.in, func(t *testing.T) {
			got, err := ParseThreshold(c.in)
			require.NoError(t, err)
			c.want.Source = c.in
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.str, got.String())
		})
	}
}

// Every metric can be written, and has the kind its values are of.
func TestMetrics(t *testing.T) {
	values := map[Kind]string{Ratio: "1%", Time: "5ms", Count: "5"}
	for _, m := range Metrics() {
		for kind, value := range values {
			_, err := ParseThreshold(m.Name + " < " + value)
			ratioAsCount := kind == Count && m.Kind == Ratio // 5 is refused because it is above 1
			if kind == m.Kind {
				assert.NoError(t, err, "%s < %s", m.Name, value)
			} else {
				assert.Error(t, err, "%s < %s (%v)", m.Name, value, ratioAsCount)
			}
		}
		_, err := ParseThreshold("web: " + m.Name + " < " + values[m.Kind])
		assert.Equal(t, m.PerTraffic, err == nil, m.Name)
	}
}

func TestParseThresholdMistakes(t *testing.T) {
	for _, in := range []string{
		"", ":", "web:", "errors", "< 5", "errors <", "errors < ", "errors ! 5%", "errors => 5%", "errors << 5%", "errors < 5 %",
		"Web: errors < 1%", "a b: errors < 1%", "web: web: errors < 1%", "errors < -1%", "errors < NaN", "errors < inf", "errors < 101%",
		"p99 < 5", "p99 < -5ms", "p99 < 1.5us2", "p99 < 800h", "p99 < 1500ns", "drop < -1", "drop < 0x10", "drop < 1e3", "drop < 9007199254740993",
		"errors < 1% during", "errors < 1% during 5s", "errors < 1% during ..5s", "errors < 1% during 5s..5s", "errors < 1% during 5s..0s",
		"errors < 1% during 1s..2s..3s", "errors < 1% during 1s..2s extra", "errors < 1% 1s..2s",
	} {
		_, err := ParseThreshold(in)
		assert.Error(t, err, in)
	}
}

func TestHolds(t *testing.T) {
	for _, c := range []struct {
		op                  Op
		below, equal, above bool
	}{
		{Less, true, false, false},
		{LessEqual, true, true, false},
		{Greater, false, false, true},
		{GreaterEqual, false, true, true},
		{Equal, false, true, false},
	} {
		th := Threshold{Op: c.op, Value: 5}
		assert.Equal(t, c.below, th.Holds(4), "4 %s 5", c.op)
		assert.Equal(t, c.equal, th.Holds(5), "5 %s 5", c.op)
		assert.Equal(t, c.above, th.Holds(6), "6 %s 5", c.op)
		assert.False(t, th.Holds(math.NaN()), "no data %s 5", c.op)
	}
	assert.False(t, Threshold{}.Holds(0), "no threshold holds nothing")
}

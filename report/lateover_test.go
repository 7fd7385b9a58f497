package report

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// What counts as late is said as the run had it.
func TestLateIsSaidAsItWasCounted(t *testing.T) {
	s := newSim(t, 262144, 100000, finTraffic("web", 0, 6))
	s.fill("web", 100, 0, 6)
	s.header.LateAfter = 0.03
	page := renderedHTML(t, s.analyze())
	assert.Contains(t, page, "<dt>started over 30 ms late</dt>")
	assert.Contains(t, page, `"started over 30 ms late"`)
	assert.NotContains(t, page, "10 ms late")
	assert.Contains(t, page, "<dt>was it the limit</dt><dd>no</dd>")
	s.cpuIdle = 0
	assert.Contains(t, renderedHTML(t, s.analyze()), "<dt>was it the limit</dt><dd>not shown: too few starts were late for that, but a CPU had nothing to spare</dd>")
	assert.Equal(t, "late", Generator{}.LateOver(), "summary.json does not say")
}

package report

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// What a reader looks at first is not said again further down, and evidence stands
// beside its cause alone.
func TestSaidOnce(t *testing.T) {
	s := newSim(t, 262144, 3000, finTraffic("web", 0, 10))
	s.header.Thresholds = []string{"errors < 0.1%"}
	s.header.Expect = []string{"table_full > 100"}
	s.fill("web", 700, 0, 10)
	f := s.analyze()
	evidence, failed, shown := f.Causes[0].Evidence, thresholdLine(f.Thresholds[0]), thresholdLine(f.Expected[0])
	assert.Contains(t, joined(f.Reasons), evidence, "as for machines")
	text, md, page := rendered(t, "text", f), rendered(t, "markdown", f), rendered(t, "html", f)
	for _, what := range []string{evidence, failed, shown} {
		assert.Equal(t, 1, strings.Count(text, what), what)
	}
	assert.Equal(t, 1, strings.Count(strings.ReplaceAll(md, `\_`, "_"), md1(evidence)))
	page, _, _ = strings.Cut(strings.NewReplacer("<wbr>", "", "&#43;", "+").Replace(page), `id="data"`)
	assert.Equal(t, 1, strings.Count(page, prose(evidence)))
	assert.Contains(t, text, "fail errors < 0.1% ")
	assert.Contains(t, text, "attempts failed because of table_full (100 % of all failures) ")
}

// md1 is a text as Markdown shows it, but for what is undone above.
func md1(s string) string { return strings.ReplaceAll(md(s), `\_`, "_") }

func TestAdviceDoesNotRepeat(t *testing.T) {
	text := rendered(t, "text", lostSim(t, false).analyze())
	assert.Equal(t, 1, strings.Count(text, "20 of 20 that were looked up when they failed had none"))
}

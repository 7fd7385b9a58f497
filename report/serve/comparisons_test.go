package serve

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What a scenario with arms or a gate leaves is in the list, and its page can be
// opened; one that goes on has none yet, and appears when it has.
func TestComparisons(t *testing.T) {
	dir := t.TempDir()
	arms := filepath.Join(dir, `a"b`, "arms")
	writeLog(t, filepath.Join(arms, "none", "1"), logOf("ways-around", 2, day))
	write(t, arms, experimentFile, `{"scenario":"ways-around","arms":[{"name":"none"},{"name":"more"}],"order":["none/1","more/1"],"runs":[{"arm":"none","trial":1,"dir":"none/1"},{"discarded":"late"}]}`)
	write(t, filepath.Join(dir, "broken"), comparisonFile, `{"format":1,`)
	write(t, filepath.Join(dir, "newer"), comparisonFile, `{"format":99}`)
	write(t, filepath.Join(dir, "page-only"), comparisonPage, "no comparison")
	outside := write(t, t.TempDir(), comparisonPage, "secret")
	write(t, filepath.Join(dir, "link"), comparisonFile, `{"format":1,"scenario":"s"}`)
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "link", comparisonPage)))
	_, base := start(t, dir)
	page := base + "/comparison?dir=" + url.QueryEscape(`a"b/arms`)

	a := get(t, base+"/").text
	has(t, a, "1 of 2 runs are made that count.")
	hasNot(t, a, "/comparison?", "there is no page yet")
	has(t, a, "It cannot be read: read comparison.json")
	has(t, a, "has format 99")
	hasNot(t, a, "page-only")
	assert.Equal(t, http.StatusNotFound, get(t, page).code)

	write(t, arms, comparisonPage, "<html><body>\nthe arms</body></html>")
	write(t, arms, comparisonFile, `{"format":1,"scenario":"ways-around","verdict":"pass","headline":"none <drops>.","arms":[{"name":"none","runs":[{"started":"2026-01-02T00:00:00Z"},{"started":"2026-01-01T00:00:00Z"}]},{"name":"more","runs":[]}]}`)
	a = until(t, base+"/", "none &lt;drops&gt;.").text
	has(t, a, `href="/comparison?dir=a%22b%2Farms"`)
	has(t, a, "2026-01-01 00:00:00")
	has(t, a, "ways-around, 2 arms")
	has(t, a, `href="/run?dir=a%22b%2Farms%2Fnone%2F1"`, "its runs are listed as well")
	assert.Less(t, strings.Index(a, "Comparisons</h2>"), strings.Index(a, "Runs</h2>"))

	p := get(t, page)
	require.Equal(t, http.StatusOK, p.code)
	has(t, p.text, "<body>\n<p><a href=\"/\">All runs</a></p>\nthe arms")
	has(t, p.head.Get("Content-Security-Policy"), "sandbox allow-scripts; default-src 'none';", "whoever wrote it, it reads nothing here")
	for _, other := range []string{"page-only", "..", "/etc", "link", "nowhere"} {
		assert.Equal(t, http.StatusNotFound, get(t, base+"/comparison?dir="+url.QueryEscape(other)).code, other)
	}
}

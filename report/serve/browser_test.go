//go:build linux

package serve

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/browser"
	"github.com/tablefull/tablefull/runner/env/envtest"
)

// The pages that are no report can be read as well, by whoever and on whatever.
func TestPagesInABrowser(t *testing.T) {
	b, stop, err := browser.Start(context.Background(), t.TempDir())
	if errors.Is(err, browser.ErrMissing) {
		envtest.Require(t, "chromium", err.Error())
	}
	require.NoError(t, err)
	t.Cleanup(stop)
	axe, err := browser.Axe(t.Context(), t.TempDir())
	if err != nil {
		envtest.Require(t, "axe", err.Error())
	}
	dir := filepath.Join(t.TempDir(), "AFolderWithALongName", "inAnotherOneThatNoPhoneIsWideEnoughFor")
	for i := range 3 {
		writeLog(t, filepath.Join(dir, "capacity-concurrent", "trials", fmt.Sprintf("%03d", i+1)), logOf("capacity-concurrent", 3, day))
	}
	lines := logOf("short-lived", 3, day)
	writeLog(t, filepath.Join(dir, "going"), lines[:len(lines)/2]) // without an end
	_, base := start(t, dir)
	one, two := "capacity-concurrent/trials/001", "capacity-concurrent/trials/002"
	for name, path := range map[string]string{
		"list": "/", "run": "/run?" + url.Values{"dir": {one}}.Encode(), "going": "/run?dir=going",
		"overlay": "/overlay?" + url.Values{"run": {one, two}}.Encode(),
	} {
		for _, v := range []browser.View{{Width: 1280, Height: 900}, {Width: 400, Height: 900, Touch: true, Dark: true}} {
			t.Run(fmt.Sprintf("%s/%d", name, v.Width), func(t *testing.T) {
				p, err := b.Open(base+path, v)
				require.NoError(t, err)
				defer p.Close()
				_, err = browser.Poll(p, `document.querySelector("h1, h2") ? "there" : ""`)
				require.NoError(t, err)
				if name == "list" { // its rows come as they have been read
					_, err = browser.Poll(p, `[...document.querySelectorAll("td.n")].length >= 3 ? "read" : ""`)
					require.NoError(t, err)
				}
				faults, err := p.Faults()
				require.NoError(t, err)
				assert.Empty(t, faults)
				violations, err := p.Audit(axe)
				require.NoError(t, err)
				assert.Empty(t, violations)
				assert.Empty(t, p.Problems())
			})
		}
	}
}

package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// axeVersion is the version of axe-core, Deque's accessibility checker, that
// pages are held to.
const axeVersion = "4.10.3"

// Axe returns the source of axe-core. It comes from the npm registry, once,
// and is kept in the user's cache folder, or in dir where there is none. It is
// not part of this repository: it is larger than what it checks.
func Axe(ctx context.Context, dir string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = dir
	}
	kept := filepath.Join(cache, "tablefull", "axe-core-"+axeVersion+".js")
	if b, err := os.ReadFile(kept); err == nil {
		return string(b), nil
	}
	pack := exec.CommandContext(ctx, "npm", "pack", "--silent", "axe-core@"+axeVersion)
	pack.Dir = dir
	pack.Env = append(os.Environ(), "npm_config_cache="+filepath.Join(dir, "npm"))
	if out, err := pack.Output(); err != nil {
		return "", fmt.Errorf("fetch axe-core with npm: %w %s", err, out)
	}
	unpack := exec.CommandContext(ctx, "tar", "-xzOf", "axe-core-"+axeVersion+".tgz", "package/axe.min.js")
	unpack.Dir = dir
	b, err := unpack.Output()
	if err != nil {
		return "", fmt.Errorf("unpack axe-core: %w", err)
	}
	if !strings.Contains(string(b), "axe") {
		return "", fmt.Errorf("unpack axe-core: got %d bytes of something else", len(b))
	}
	// Without a cache it is fetched again the next time.
	if os.MkdirAll(filepath.Dir(kept), 0o755) == nil {
		half := kept + ".part"
		if os.WriteFile(half, b, 0o644) == nil {
			_ = os.Rename(half, kept)
		}
	}
	return string(b), nil
}

// Audit runs axe-core, whose source is given, and returns its serious and
// critical violations.
func (p *Page) Audit(axe string) ([]string, error) {
	const ask = `axe.run(document, {resultTypes: ["violations"]}).then(r => r.violations
		.filter(v => v.impact === "serious" || v.impact === "critical")
		.map(v => v.id + ": " + v.help + " at " + v.nodes.slice(0, 4).map(n => n.target.join(" ") + " (" + n.html.slice(0, 120) + ")").join("; ")))`
	if _, err := Eval[bool](p, axe+"; true"); err != nil {
		return nil, fmt.Errorf("load axe-core: %w", err)
	}
	out, err := Eval[[]string](p, ask)
	if err != nil {
		return nil, fmt.Errorf("run axe-core: %w", err)
	}
	return out, nil
}

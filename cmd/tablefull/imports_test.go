package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/tablefull/tablefull/"

// mayImport says which packages of ours a package may import: data goes one
// way, from scenario to rendering. A folder stands for those below it, too.
var mayImport = map[string][]string{
	"scenarios":          {},
	"report/runlog":      {"report/search"},
	"report":             {"report", "report/runlog", "report/search", "scenarios"},
	"report/search":      {},
	"report/serve":       {"report", "report/runlog"},
	"report/metrics":     {"report", "report/runlog", "report/watch"},
	"report/watch":       {"report/runlog"},
	"runner/env":         {"report/runlog", "scenarios"},
	"runner/traffic":     {"runner/env", "report/runlog", "scenarios", "runner/server/wire", "runner/server/epoll"},
	"runner/server":      {"runner/env", "report/runlog", "scenarios", "runner/server"},
	"runner/conntrack":   {"runner/env", "report/runlog", "scenarios"},
	"runner/agent":       {"runner/env", "report/runlog", "scenarios", "runner/traffic", "runner/server", "runner/conntrack", "runner/proxy", "runner/dataplane", "runner/sysctl"},
	"runner/kubeapi":     {},
	"runner/kubeproxy":   {"runner/filelock"},
	"runner/filelock":    {},
	"runner/private":     {"runner/env", "runner/isolate"},
	"runner/isolate":     {},
	"runner/sysctl":      {"runner/env", "report/runlog"},
	"runner/proxy":       {"runner/env", "report/runlog", "scenarios", "runner/kubeapi", "runner/kubeproxy", "runner/sysctl"},
	"runner/dataplane":   {"runner/env", "report/runlog", "scenarios"},
	"runner/lab":         {"runner/env", "report/runlog", "scenarios", "runner/agent", "runner/conntrack", "runner/proxy", "runner/isolate", "runner/sysctl"},
	"manifests":          {},
	"runner/cluster":     {"runner/env", "report/runlog", "scenarios", "runner/agent", "manifests"},
	"runner":             {"runner/env", "runner/filelock", "report/runlog", "report/search", "scenarios"},
	"runner/testcluster": {"runner/kubeproxy", "runner/isolate"}, // for tests and make; nothing imports it
	"docs/pictures":      {"report/browser"},
	"cmd/tablefull/live": {"runner", "report/runlog", "report/watch"},
	"cmd":                {"cmd/tablefull/live", "runner", "runner/env", "runner/agent", "runner/lab", "runner/cluster", "runner/kubeproxy", "runner/private", "runner/proxy", "report", "report/runlog", "report/search", "report/serve", "report/metrics", "report/watch", "scenarios"},
}

func TestImportsGoOneWay(t *testing.T) {
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root && d.Name() != ".." {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		require.NoError(t, err)
		rule := ruleFor(rel)
		require.NotEmpty(t, rule, "%s is in no known folder: say in mayImport what it may import", path)
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		require.NoError(t, err)
		files++
		for _, imp := range f.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			require.NoError(t, err)
			ours, ok := strings.CutPrefix(name, module)
			if !ok || ruleFor(ours) == rule && rule != "runner" {
				continue
			}
			assert.Contains(t, mayImport[rule], ours, "%s imports %s", path, ours)
		}
		return nil
	})
	require.NoError(t, err)
	assert.Greater(t, files, 50)
}

// ruleFor is the longest key of mayImport that rel is in.
func ruleFor(rel string) string {
	best := ""
	for key := range mayImport {
		if (rel == key || strings.HasPrefix(rel, key+"/")) && len(key) > len(best) {
			best = key
		}
	}
	return best
}

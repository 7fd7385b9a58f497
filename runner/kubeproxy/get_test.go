//go:build linux

package kubeproxy_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/runner/kubeproxy"
)

const fakeProxy = "#!/bin/sh\necho Kubernetes v1.2.3\n"

// site is a release site that has one version, v1.2.3.
type site struct {
	sum, body string
	status    int // of the binary
	cut       bool
	asked     atomic.Int32 // for the binary
	url       string
}

func newSite(t *testing.T) *site {
	t.Helper()
	sum := sha256.Sum256([]byte(fakeProxy))
	s := &site{sum: hex.EncodeToString(sum[:]), body: fakeProxy, status: http.StatusOK}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case !strings.HasPrefix(req.URL.Path, "/v1.2.3/bin/linux/"):
			http.NotFound(w, req)
		case strings.HasSuffix(req.URL.Path, "/kube-proxy.sha256"):
			w.WriteHeader(s.status)
			_, _ = w.Write([]byte(s.sum))
		case strings.HasSuffix(req.URL.Path, "/kube-proxy"):
			s.asked.Add(1)
			if s.cut {
				w.Header().Set("Content-Length", "1000")
			}
			_, _ = w.Write([]byte(s.body))
		}
	}))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

// fakeGo is a go command that builds what it is told to say.
const fakeGo = `
case "$1 $2" in
"mod download")
  case "$4" in *@v1.2.3) ;; *) echo '{"Error":"'$4': invalid version: unknown revision"}'; exit 1;; esac
  mkdir -p src; echo 'module k8s.io/kubernetes' > src/go.mod; : > src/go.sum
  echo '{"Dir":"'$PWD'/src"}';;
"mod edit")
  case "$3" in
  -json) echo '{"Replace":[{"Old":{"Path":"k8s.io/api"},"New":{"Path":"./staging/src/k8s.io/api"}},{"Old":{"Path":"x"},"New":{"Path":"y"}}]}';;
  *) echo "edited: $*" >&2;;
  esac;;
"build -trimpath")
  echo "GOFLAGS=$GOFLAGS GOOS=$GOOS CGO_ENABLED=$CGO_ENABLED $*" >&2
  printf '#!/bin/sh\necho Kubernetes v1.2.3\n' > "$6"; chmod 755 "$6";;
"env GOVERSION") echo go9.9;;
*) exit 9;;
esac`

func whatIsLeft(t *testing.T, cache string) []string {
	t.Helper()
	var left []string
	require.NoError(t, filepath.WalkDir(cache, func(path string, d os.DirEntry, err error) error {
		if err == nil && path != cache && filepath.Ext(path) != ".lock" {
			left = append(left, strings.TrimPrefix(path, cache+"/"))
		}
		return err
	}))
	return left
}

func TestGetDownloads(t *testing.T) {
	s := newSite(t)
	g := kubeproxy.Getter{Cache: t.TempDir(), Site: s.url, Go: "/nowhere/go"}
	var all sync.WaitGroup
	for range 4 { // at once: one does the work
		all.Go(func() {
			b, err := g.Get(t.Context(), "v1.2.3")
			if assert.NoError(t, err) {
				assert.Equal(t, kubeproxy.Downloaded, b.How)
				assert.Equal(t, s.sum, b.SHA256)
			}
		})
	}
	all.Wait()
	assert.Equal(t, int32(1), s.asked.Load())
	b, err := g.Get(t.Context(), "v1.2.3")
	require.NoError(t, err)
	assert.True(t, b.Cached)
	assert.Equal(t, filepath.Join(g.Cache, "v1.2.3", "kube-proxy"), b.Path)
	assert.Equal(t, []string{"v1.2.3", "v1.2.3/kube-proxy", "v1.2.3/source.json"}, whatIsLeft(t, g.Cache))
}

func TestGetBuildsWhatCannotBeDownloaded(t *testing.T) {
	for name, make := range map[string]func(s *site){
		"no site":         func(s *site) { s.url = "http://127.0.0.1:1" },
		"forbidden":       func(s *site) { s.status = http.StatusForbidden },
		"a portal's page": func(s *site) { s.sum = "<html>please sign in" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			make(s)
			var mu sync.Mutex
			var said []string
			g := kubeproxy.Getter{Cache: t.TempDir(), Site: s.url, Go: fake(t, fakeGo), Log: func(l string) {
				mu.Lock()
				defer mu.Unlock()
				said = append(said, l)
			}}
			b, err := g.Get(t.Context(), "v1.2.3")
			require.NoError(t, err)
			assert.Equal(t, kubeproxy.Built, b.How)
			assert.Equal(t, "k8s.io/kubernetes@v1.2.3 with go9.9", b.From)
			assert.NotEmpty(t, b.NotDownloaded)
			talk := strings.Join(said, "\n")
			assert.Contains(t, talk, "-replace=k8s.io/api=k8s.io/api@v0.2.3")
			assert.NotContains(t, talk, "-replace=x", "only staging modules are replaced")
			assert.Contains(t, talk, "GOFLAGS=-mod=mod GOOS=linux CGO_ENABLED=0")
			assert.Contains(t, talk, "gitVersion=v1.2.3")
			again, err := g.Get(t.Context(), "v1.2.3")
			require.NoError(t, err)
			b.Cached = true
			assert.Equal(t, b, again)
		})
	}
}

// Kubernetes' other programs are got the same way; kubectl says its version
// in its own.
func TestGetOtherPrograms(t *testing.T) {
	for program, says := range map[string]string{"kubelet": "Kubernetes v1.2.3", "kubectl": "Client Version: v1.2.3; echo Kustomize Version: v5.0.0"} {
		t.Run(program, func(t *testing.T) {
			var mu sync.Mutex
			var said []string
			g := kubeproxy.Getter{
				Program: program, Cache: t.TempDir(), Site: "http://127.0.0.1:1",
				Go: fake(t, strings.Replace(fakeGo, "Kubernetes v1.2.3", says, 1)),
				Log: func(l string) {
					mu.Lock()
					defer mu.Unlock()
					said = append(said, l)
				},
			}
			b, err := g.Get(t.Context(), "v1.2.3")
			require.NoError(t, err)
			assert.Equal(t, filepath.Join(g.Cache, "v1.2.3", program), b.Path)
			assert.Contains(t, strings.Join(said, "\n"), "k8s.io/kubernetes/cmd/"+program)
			_, err = kubeproxy.Getter{Program: program, Cache: g.Cache, Site: g.Site, Go: "/nonexistent"}.Get(t.Context(), "v1.2.3")
			require.NoError(t, err, "it is in the cache")
		})
	}
}

func TestGetFails(t *testing.T) {
	unreachable := func(s *site) { s.url = "http://127.0.0.1:1" }
	for name, c := range map[string]struct {
		change  func(s *site)
		version string
		goTool  string
		is      error
		says    string
	}{
		"no version":           {version: "1.36", is: kubeproxy.ErrVersion, says: "v1.36.3"},
		"path":                 {version: "v1.2.3/../..", is: kubeproxy.ErrVersion},
		"unknown to the site":  {version: "v1.2.4", is: kubeproxy.ErrVersion},
		"unknown to the proxy": {change: unreachable, version: "v1.2.4", goTool: fakeGo, is: kubeproxy.ErrVersion},
		"no toolchain":         {change: unreachable, is: kubeproxy.ErrToolchain, says: "install Go"},
		"no network":           {change: unreachable, goTool: `echo '{"Error":"dial tcp: no such host"}'; exit 1`, is: kubeproxy.ErrUnreachable},
		"build fails":          {change: unreachable, goTool: strings.Replace(fakeGo, "printf", "echo the reason >&2; exit 1; printf", 1), says: "the reason"},
		"wrong version":        {change: unreachable, goTool: strings.Replace(fakeGo, "echo Kubernetes v1.2.3", "echo Kubernetes v0.0.0", 1), says: "v0.0.0"},
		"damaged":              {change: func(s *site) { s.body += "x" }, says: "SHA-256"},
		"broken off":           {change: func(s *site) { s.cut = true }, says: "broke off"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			if c.change != nil {
				c.change(s)
			}
			g := kubeproxy.Getter{Cache: t.TempDir(), Site: s.url, Go: "/nowhere/go"}
			if c.goTool != "" {
				g.Go = fake(t, c.goTool)
			}
			version := c.version
			if version == "" {
				version = "v1.2.3"
			}
			_, err := g.Get(t.Context(), version)
			require.Error(t, err)
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
			}
			assert.ErrorContains(t, err, c.says)
			assert.Empty(t, whatIsLeft(t, g.Cache))
		})
	}
}

func TestGetIsCanceled(t *testing.T) {
	why := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(t.Context())
	g := kubeproxy.Getter{
		Cache: t.TempDir(), Site: "http://127.0.0.1:1",
		Go: fake(t, strings.Replace(fakeGo, "printf", "sleep 1000; printf", 1)),
		Log: func(l string) {
			if strings.Contains(l, "GOFLAGS") { // it builds
				cancel(why)
			}
		},
	}
	_, err := g.Get(ctx, "v1.2.3")
	require.ErrorIs(t, err, why)
	assert.Empty(t, whatIsLeft(t, g.Cache))
}

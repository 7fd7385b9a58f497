package kubeproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/tablefull/tablefull/runner/filelock"
)

// How a binary came into the cache.
const (
	Downloaded = "downloaded"
	Built      = "built"
)

// Site is where the Kubernetes project publishes its releases.
const Site = "https://dl.k8s.io/release"

const (
	kubeProxy  = "kube-proxy"
	sourceName = "source.json"
	lockPoll   = 100 * time.Millisecond
)

// Getter puts the binaries of one of Kubernetes' programs into a cache
// directory: kube-proxy's, or, for the test cluster, another's.
type Getter struct {
	Program string // as in k8s.io/kubernetes/cmd and in its releases; kube-proxy if empty
	Cache   string // a directory; DefaultCache says where it usually is
	Site    string // Site if empty
	Go      string // the go command; "go" if empty
	// Log gets a line for each step that takes long, and the output of the
	// programs that are run. It may be nil.
	Log func(line string)
}

// Binary is a program in the cache. It is what the file source.json beside
// it says, less Path and Cached.
type Binary struct {
	Path    string `json:"-"`
	Cached  bool   `json:"-"` // it was there already
	Version string `json:"version"`
	How     string `json:"how"`  // Downloaded or Built
	From    string `json:"from"` // the address, or the module and the toolchain
	SHA256  string `json:"sha256,omitempty"`
	// NotDownloaded is why it was built.
	NotDownloaded string `json:"not_downloaded,omitempty"`
}

// Reasons why a program cannot be had, for errors.Is.
var (
	ErrVersion     = errors.New("no such version")
	ErrUnreachable = errors.New("neither the release site nor the Go module proxy can be reached")
	ErrPlatform    = errors.New("kube-proxy's proxy modes are Linux's, and this is another system")
	ErrToolchain   = errors.New("the release site cannot be reached, and there is no Go toolchain to build it with")
)

var versionPattern = regexp.MustCompile(`^v1\.\d+\.\d+(-(alpha|beta|rc)\.\d+)?$`)

// DefaultCache is the user's cache directory for kube-proxy binaries.
func DefaultCache() (string, error) { return CacheOf(kubeProxy) }

// CacheOf is the user's cache directory for the binaries of a program.
func CacheOf(program string) (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w", err)
	}
	return filepath.Join(dir, "tablefull", program), nil
}

// Get returns the program of a version like v1.36.3: from the cache; or
// else from the release site, with its checksum checked; or, if that cannot be
// reached, built from Go modules, which takes minutes. Every binary has been
// run once to see that it says this version. Several processes may get the
// same version at once; one does the work. When ctx ends, Get leaves no part
// of a binary behind.
func (g Getter) Get(ctx context.Context, version string) (Binary, error) {
	if !versionPattern.MatchString(version) {
		return Binary{}, fmt.Errorf("get %s %q: %w: a version looks like v1.36.3", g.program(), version, ErrVersion)
	}
	if runtime.GOOS != "linux" {
		return Binary{}, fmt.Errorf("get %s %s: %w", g.program(), version, ErrPlatform)
	}
	// What is there is whole, so it takes no lock, and may be read-only.
	dir := filepath.Join(g.Cache, version)
	if b, err := g.cached(ctx, dir, version); err == nil {
		return b, nil
	}
	if err := os.MkdirAll(g.Cache, 0o755); err != nil {
		return Binary{}, fmt.Errorf("make cache directory: %w", err)
	}
	unlock, err := g.lock(ctx, filepath.Join(g.Cache, version+".lock"))
	if err != nil {
		return Binary{}, fmt.Errorf("lock the cache of %s %s: %w", g.program(), version, err)
	}
	defer unlock()
	if b, err := g.cached(ctx, dir, version); err == nil {
		return b, nil // another process has made it meanwhile
	}
	b, err := g.make(ctx, dir, version)
	if err != nil {
		_ = os.Remove(dir) // if it is empty: there is no such version here
		return Binary{}, fmt.Errorf("get %s %s: %w", g.program(), version, err)
	}
	return b, nil
}

// make fills dir. What is unfinished is in a directory of its own, which is
// removed; it is in dir so that the last step is a rename.
func (g Getter) make(ctx context.Context, dir, version string) (b Binary, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Binary{}, fmt.Errorf("make cache directory: %w", err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "unfinished-*")) // the pattern is well formed
	for _, l := range left {
		_ = os.RemoveAll(l) // of a process that was killed
	}
	tmp, err := os.MkdirTemp(dir, "unfinished-")
	if err != nil {
		return Binary{}, fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	file := filepath.Join(tmp, g.program())
	b, err = g.download(ctx, version, file)
	if unreachable := (*unreachableError)(nil); errors.As(err, &unreachable) {
		g.log("%s cannot be reached (%v); building %s %s from Go modules, which takes some minutes", g.site(), unreachable.err, g.program(), version)
		b, err = g.build(ctx, version, tmp, file)
		b.NotDownloaded = unreachable.err.Error()
	}
	if err != nil {
		return Binary{}, err
	}
	if err := verify(ctx, file, version); err != nil {
		return Binary{}, err
	}
	about, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return Binary{}, fmt.Errorf("encode %s: %w", sourceName, err)
	}
	if err := os.WriteFile(filepath.Join(tmp, sourceName), append(about, '\n'), 0o644); err != nil {
		return Binary{}, fmt.Errorf("write %s: %w", sourceName, err)
	}
	// The binary comes last: where it is, it is whole and told about.
	for _, name := range []string{sourceName, g.program()} {
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)); err != nil {
			return Binary{}, fmt.Errorf("put %s into the cache: %w", name, err)
		}
	}
	b.Path = filepath.Join(dir, g.program())
	return b, nil
}

// cached is the binary in dir, if there is a good one.
func (g Getter) cached(ctx context.Context, dir, version string) (Binary, error) {
	about, err := os.ReadFile(filepath.Join(dir, sourceName))
	if err != nil {
		return Binary{}, fmt.Errorf("read %s: %w", sourceName, err)
	}
	var b Binary
	if err := json.Unmarshal(about, &b); err != nil {
		return Binary{}, fmt.Errorf("decode %s: %w", sourceName, err)
	}
	b.Path, b.Cached = filepath.Join(dir, g.program()), true
	return b, verify(ctx, b.Path, version)
}

// Version asks a binary of Kubernetes for its version.
func Version(ctx context.Context, binary string) (string, error) {
	args, prefix := []string{"--version"}, "Kubernetes "
	if filepath.Base(binary) == "kubectl" { // the only one that has another way
		args, prefix = []string{"version", "--client"}, "Client Version: "
	}
	out, err := exec.CommandContext(ctx, binary, args...).Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", binary, err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	v, ok := strings.CutPrefix(line, prefix)
	if !ok {
		return "", fmt.Errorf("ask %s for its version: it is no program of Kubernetes: %.80q", binary, out)
	}
	return v, nil
}

func verify(ctx context.Context, binary, version string) error {
	got, err := Version(ctx, binary)
	if err == nil && got != version {
		err = fmt.Errorf("check %s: it says it is %s, not %s", binary, got, version)
	}
	return err
}

// lock waits for the lock file at path. The file stays when it is unlocked:
// another process may be waiting for it.
func (g Getter) lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	for told := false; ; told = true {
		err := filelock.Try(f)
		if err == nil {
			return func() { _ = f.Close() }, nil // closing unlocks
		}
		if !errors.Is(err, filelock.ErrHeld) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		if !told {
			g.log("waiting for another process that gets the same version")
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(lockPoll):
		}
	}
}

func (g Getter) log(format string, args ...any) {
	if g.Log != nil {
		g.Log(fmt.Sprintf(format, args...))
	}
}

func (g Getter) site() string {
	if g.Site == "" {
		return Site
	}
	return g.Site
}

func (g Getter) program() string {
	if g.Program == "" {
		return kubeProxy
	}
	return g.Program
}

// platform is the only one kube-proxy's Linux modes have.
func platform() string { return "linux/" + runtime.GOARCH }

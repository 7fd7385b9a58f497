package testcluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tablefull/tablefull/runner/kubeproxy"
)

// Config says what to start. Dir, Version and Programs are needed.
type Config struct {
	Dir      string            // for the cluster alone: it must not exist or be empty
	Version  string            // of Kubernetes
	Programs map[string]string // paths by name; see Find
	// Images are archives (ociimage) to put on every node, SandboxImage and
	// ProxyImage(Version) among them.
	Images []string
	Mode   string            // of kube-proxy; nftables if empty
	Log    func(line string) // may be nil
}

// A Cluster is one that runs.
type Cluster struct {
	layout
	record
}

const (
	statePoll = 200 * time.Millisecond
	keepLines = 15

	proxyMetrics = "127.0.0.1:10249" // where it serves them if it is not told otherwise
)

// ProxyImage is the name of the image of a kube-proxy.
func ProxyImage(version string) string { return "localhost/kube-proxy:" + version }

// Up starts a cluster and waits until its nodes are ready and kube-proxy's
// pods run. It needs root. The cluster lives until [Down], not until ctx or
// this process ends. When Up fails or ctx ends it takes down what it has
// started; the error holds the last of the logs.
func Up(ctx context.Context, c Config) (cluster *Cluster, err error) {
	l, err := newLayout(c.Dir, c.Version)
	if err != nil {
		return nil, err
	}
	if err := l.free(); err != nil {
		return nil, err
	}
	if err := l.writeFiles(c.Programs[cniPlugins]); err != nil {
		return nil, err
	}
	r := record{Version: c.Version, Programs: c.Programs}
	for _, file := range c.Images {
		abs, err := filepath.Abs(file)
		if err != nil {
			return nil, fmt.Errorf("find image: %w", err)
		}
		r.Images = append(r.Images, abs)
	}
	if r.Boot, err = bootID(); err != nil {
		return nil, err
	}
	// From here on Down finds what there is.
	if err := l.writeRecord(r); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.tails(), Down(context.WithoutCancel(ctx), l.dir))
		}
	}()
	if err := l.makeCgroups(); err != nil {
		return nil, err
	}
	if err := l.startInit(&r); err != nil {
		return nil, err
	}
	cluster = &Cluster{layout: l, record: r}
	log := c.Log
	if log == nil {
		log = func(string) {}
	}
	return cluster, cluster.settle(ctx, c.Mode, log)
}

// free returns an error if the cluster cannot be started.
func (l layout) free() error {
	if os.Geteuid() != 0 {
		return errors.New("a test cluster needs root")
	}
	for _, dir := range []string{"/run", "/var", "/proc", "/sys"} {
		if l.dir == dir || strings.HasPrefix(l.dir, dir+"/") {
			return fmt.Errorf("the directory %s is below %s, which the nodes have of their own: name another", l.dir, dir)
		}
	}
	files, err := os.ReadDir(l.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && len(files) == 0:
		return nil
	case err != nil:
		return fmt.Errorf("look into the directory: %w", err)
	}
	if _, err := l.readRecord(); err == nil {
		return fmt.Errorf("%w in %s: take it down first", fs.ErrExist, l.dir)
	}
	return fmt.Errorf("the directory %s is not empty", l.dir)
}

func (l layout) writeFiles(plugins string) error {
	for _, d := range []string{"", pkiDir, logDir} {
		if err := os.MkdirAll(l.path(d), 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	if err := l.writeCredentials(); err != nil {
		return err
	}
	policy, err := render(auditPolicy, nil)
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.path(auditPolicy), policy, 0o644); err != nil {
		return fmt.Errorf("write audit policy: %w", err)
	}
	for _, n := range l.nodes {
		if err := l.writeNode(n, plugins); err != nil {
			return err
		}
	}
	return nil
}

// environment is that of everything in the cluster, and of kubectl here: what
// the user's says about proxies is not about addresses of ours.
func (l layout) environment() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + l.dir}
}

// startInit starts the cluster's first process, and lets it go on once it is
// on record.
func (l layout) startInit(r *record) error {
	out, err := os.OpenFile(l.path(logDir, "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command("/proc/self/exe", initStage, l.dir)
	cmd.Args[0] = "testcluster"
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", l.environment(), out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start the cluster's first process: %w", err), in.Close())
	}
	// It is nobody's child but the machine's once we end; until then it is to
	// be reaped here.
	go func() { _ = cmd.Wait() }()
	r.PID = cmd.Process.Pid
	if r.Start, _, err = processStart(r.PID); err != nil {
		return errors.Join(err, in.Close()) // which ends it
	}
	if err := l.writeRecord(*r); err != nil {
		return errors.Join(err, in.Close())
	}
	if _, err := in.Write([]byte(goLine)); err != nil {
		return errors.Join(fmt.Errorf("let the cluster's first process go on: %w", err), in.Close())
	}
	return in.Close()
}

// settle waits for the API server, installs kube-proxy and waits for it.
func (c *Cluster) settle(ctx context.Context, mode string, log func(string)) error {
	if mode == "" {
		mode = "nftables"
	}
	start := time.Now()
	step := func(what string, done func() error) error {
		if err := c.until(ctx, done); err != nil {
			return fmt.Errorf("wait until %s: %w", what, err)
		}
		log(fmt.Sprintf("%5.1f s: %s", time.Since(start).Seconds(), what))
		return nil
	}
	if err := step("the API server is ready", func() error { return c.run(ctx, "get", "--raw=/readyz") }); err != nil {
		return err
	}
	kubeProxy, err := render("kube-proxy.yaml", map[string]string{
		"PodCIDR": c.both(podCIDR, podCIDR6), "Mode": mode, "API": c.api.String(), "Image": ProxyImage(c.Version),
	})
	if err != nil {
		return err
	}
	if err := step("kube-proxy is installed", func() error { return c.apply(ctx, kubeProxy) }); err != nil {
		return err
	}
	nodes := []string{"wait", "--for=condition=Ready", "--timeout=1s"}
	for _, n := range c.nodes {
		nodes = append(nodes, "node/"+n.name)
	}
	if err := step("the nodes are ready", func() error { return c.run(ctx, nodes...) }); err != nil {
		return err
	}
	err = step("kube-proxy's pods run", func() error {
		return c.run(ctx, "--namespace=kube-system", "rollout", "status", "daemonset/kube-proxy", "--timeout=2s")
	})
	if err != nil {
		return err
	}
	err = step("kube-proxy has programmed the nodes", func() error {
		for _, name := range c.NodeNames() {
			if err := c.programmed(ctx, name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return step("the nodes take pods", func() error { return c.untainted(ctx) })
}

// untainted returns nil once no node has a taint. One that is ready has that of
// one that is not until a controller has come to it.
func (c *Cluster) untainted(ctx context.Context) error {
	taints, err := c.Kubectl(ctx, nil, "get", "nodes", "--output=jsonpath={.items[*].spec.taints[*].key}")
	if err != nil {
		return err
	}
	if len(taints) > 0 {
		return fmt.Errorf("nodes have the taints %s", taints)
	}
	return nil
}

// programmed returns nil once a node's kube-proxy has written its first rules:
// it has no readiness probe, so a pod that is ready says little.
func (c *Cluster) programmed(ctx context.Context, name string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+proxyMetrics+"/metrics", nil)
	if err != nil {
		return fmt.Errorf("ask kube-proxy: %w", err)
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: c.DialFrom(name)}
	resp, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		return fmt.Errorf("ask kube-proxy of %s: %w", name, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("ask kube-proxy of %s: %w", name, err)
	}
	m, err := kubeproxy.ParseMetrics(text)
	if err == nil && m.LastSync.IsZero() {
		err = errors.New("it has programmed no rules yet")
	}
	if err != nil {
		return fmt.Errorf("ask kube-proxy of %s: %w", name, err)
	}
	return nil
}

// until tries again until done succeeds, ctx ends, or the cluster does.
func (c *Cluster) until(ctx context.Context, done func() error) error {
	for {
		err := done()
		if err == nil {
			return nil
		}
		if alive, aliveErr := c.alive(); !alive {
			return errors.Join(errors.New("the cluster has ended"), aliveErr, err)
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(statePoll):
		}
	}
}

// Kubeconfig is the path of the administrator's.
func (c *Cluster) Kubeconfig() string { return c.path(kubeconfigFile) }

// Log is the path of a file of the cluster's logs.
func (c *Cluster) Log(name string) string { return c.path(logDir, name) }

// NodeNames are the nodes' names.
func (c *Cluster) NodeNames() []string { return c.hosts()[1:] }

// Kubectl runs kubectl as the administrator and returns its standard output.
func (c *Cluster) Kubectl(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, c.Programs["kubectl"], append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
	cmd.Env = c.environment()
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("run kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

func (c *Cluster) run(ctx context.Context, args ...string) error {
	_, err := c.Kubectl(ctx, nil, args...)
	return err
}

func (c *Cluster) apply(ctx context.Context, manifest []byte) error {
	_, err := c.Kubectl(ctx, manifest, "apply", "--server-side", "--filename=-")
	return err
}

// tails is an error that holds the ends of the logs.
func (l layout) tails() error {
	files, err := filepath.Glob(l.path(logDir, "*.log"))
	if err != nil {
		return fmt.Errorf("find logs: %w", err)
	}
	var all []error
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		lines := slices.Collect(strings.Lines(string(b)))
		if n := len(lines) - keepLines; n > 0 {
			lines = lines[n:]
		}
		all = append(all, fmt.Errorf("the last of %s:\n%s", filepath.Base(file), strings.Join(lines, "")))
	}
	return errors.Join(all...)
}

package kubeproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

const kubernetes = "k8s.io/kubernetes"

// build makes file with the Go toolchain from the module k8s.io/kubernetes.
//
// That module replaces its staging modules by directories that are not in it.
// They are published, too, as v0.X.Y for Kubernetes v1.X.Y, so the build is
// done in a module with the same go.mod, in which only this is different: it
// keeps the versions of all dependencies as they were released.
func (g Getter) build(ctx context.Context, version, tmp, file string) (Binary, error) {
	goCommand := g.Go
	if goCommand == "" {
		goCommand = "go"
	}
	if _, err := exec.LookPath(goCommand); err != nil {
		return Binary{}, fmt.Errorf("%w: install Go, or name a binary of your own in its place", ErrToolchain)
	}
	t := toolchain{command: goCommand, dir: tmp, log: g.log}
	source, err := t.source(ctx, version)
	if err != nil {
		return Binary{}, err
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return Binary{}, fmt.Errorf("read Kubernetes' %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(tmp, name), b, 0o644); err != nil {
			return Binary{}, fmt.Errorf("write %s: %w", name, err)
		}
	}
	staging, err := t.staging(ctx)
	if err != nil {
		return Binary{}, err
	}
	edit := []string{"mod", "edit", "-module=tablefull.invalid/build", "-require=" + kubernetes + "@" + version}
	for _, m := range staging {
		edit = append(edit, "-replace="+m+"="+m+"@v0"+strings.TrimPrefix(version, "v1"))
	}
	if _, err := t.run(ctx, edit...); err != nil {
		return Binary{}, err
	}
	if _, err := t.run(ctx, "build", "-trimpath", "-ldflags", "-s -w -X k8s.io/component-base/version.gitVersion="+version,
		"-o", file, kubernetes+"/cmd/"+g.program()); err != nil {
		return Binary{}, err
	}
	with, err := t.run(ctx, "env", "GOVERSION")
	if err != nil {
		return Binary{}, err
	}
	return Binary{Version: version, How: Built, From: kubernetes + "@" + version + " with " + strings.TrimSpace(string(with))}, nil
}

// toolchain runs the go command in a directory.
type toolchain struct {
	command, dir string
	log          func(format string, args ...any)
}

// source downloads Kubernetes' source and returns its directory.
func (t toolchain) source(ctx context.Context, version string) (string, error) {
	out, err := t.run(ctx, "mod", "download", "-json", kubernetes+"@"+version)
	var m struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(out, &m); jsonErr != nil && err == nil {
		return "", fmt.Errorf("decode answer of go mod download: %w", jsonErr)
	}
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case strings.Contains(m.Error, "unknown revision"), strings.Contains(m.Error, "404 Not Found"), strings.Contains(m.Error, "not found: "):
		return "", fmt.Errorf("%w as a Go module: %s", ErrVersion, m.Error)
	case m.Error != "":
		return "", fmt.Errorf("%w: %s", ErrUnreachable, m.Error)
	}
	return m.Dir, err
}

// staging lists the modules that go.mod replaces by directories.
func (t toolchain) staging(ctx context.Context) ([]string, error) {
	out, err := t.run(ctx, "mod", "edit", "-json")
	if err != nil {
		return nil, err
	}
	var m struct {
		Replace []struct{ Old, New struct{ Path string } }
	}
	if err := json.Unmarshal(out, &m); err != nil {
		return nil, fmt.Errorf("decode Kubernetes' go.mod: %w", err)
	}
	var names []string
	for _, r := range m.Replace {
		if strings.HasPrefix(r.New.Path, "./staging/") {
			names = append(names, r.Old.Path)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("find staging modules in Kubernetes' go.mod: there are none")
	}
	return names, nil
}

// run runs the go command and returns its standard output.
func (t toolchain) run(ctx context.Context, args ...string) ([]byte, error) {
	var out bytes.Buffer
	talk := &lines{tell: func(l string) { t.log("%s", l) }, keep: 10}
	cmd := exec.CommandContext(ctx, t.command, args...)
	cmd.Dir = t.dir
	// What a user's Go settings say about modules, work spaces and platforms
	// is not meant for this build.
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	cmd.Stdout, cmd.Stderr = &out, talk
	// The compilers it starts end with it.
	asGroup(cmd)
	err := cmd.Run()
	talk.flush()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return out.Bytes(), fmt.Errorf("run go %s %s: %w\n%s", args[0], args[1], err, strings.Join(talk.last(), "\n"))
	}
	return out.Bytes(), nil
}

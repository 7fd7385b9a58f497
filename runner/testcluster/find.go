package testcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/tablefull/tablefull/runner/kubeproxy"
)

// cniDirs are where distributions, Debian first, and others have CNI's plugins.
var cniDirs = []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}

// cniPlugins is the name under which Find returns their directory.
const cniPlugins = "cni"

// Packages are the Debian packages with the other programs.
const Packages = "etcd-server containerd runc containernetworking-plugins nftables iptables"

// kubernetesPrograms are those of Kubernetes' release.
var kubernetesPrograms = []string{"kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl"}

// Find returns the programs of a cluster: Kubernetes' own of this version, as g
// gets them into the user's cache, which takes minutes where they are not
// there yet; and those of this machine. Find sets g's Program and Cache.
func Find(ctx context.Context, g kubeproxy.Getter, version string) (map[string]string, error) {
	found := map[string]string{}
	var missing []error
	for _, name := range []string{"etcd", "containerd", "containerd-shim-runc-v2", "ctr", "runc"} {
		path, err := exec.LookPath(name)
		if err != nil {
			missing = append(missing, err)
		}
		found[name] = path
	}
	dir, err := findPlugins()
	if err != nil {
		missing = append(missing, err)
	}
	found[cniPlugins] = dir
	if len(missing) > 0 {
		return nil, fmt.Errorf("find the test cluster's programs (Debian packages %s): %w", Packages, errors.Join(missing...))
	}
	for _, name := range kubernetesPrograms {
		cache, err := kubeproxy.CacheOf(name)
		if err != nil {
			return nil, err
		}
		g.Program, g.Cache = name, cache
		b, err := g.Get(ctx, version)
		if err != nil {
			return nil, err
		}
		found[name] = b.Path
	}
	return found, nil
}

func findPlugins() (string, error) {
	for _, dir := range cniDirs {
		if exists(filepath.Join(dir, "ptp")) && exists(filepath.Join(dir, "host-local")) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("the plugins ptp and host-local of CNI are in none of %s", strings.Join(cniDirs, " "))
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

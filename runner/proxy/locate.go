package proxy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/tablefull/tablefull/runner/kubeproxy"
)

var release = regexp.MustCompile(`^v\d+\.\d+\.\d+`)

// Locate is the absolute path of the kube-proxy that a scenario names: a
// version that `tablefull kube-proxy get` has put into the cache, or a path.
func Locate(binary string) (string, error) {
	if release.MatchString(binary) {
		cache, err := kubeproxy.DefaultCache()
		if err != nil {
			return "", err
		}
		path := filepath.Join(cache, binary, "kube-proxy")
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("kube-proxy %s is not in the cache; get it with: tablefull kube-proxy get %s", binary, binary)
		}
		return path, nil
	}
	path, err := filepath.Abs(binary)
	if err != nil {
		return "", fmt.Errorf("find kube-proxy %s: %w", binary, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("find kube-proxy: %w", err)
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("find kube-proxy: %s is not a program", path)
	}
	return path, nil
}

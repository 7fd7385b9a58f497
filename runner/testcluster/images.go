package testcluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/tablefull/tablefull/runner/testcluster/ociimage"
)

// protocols is an /etc/protocols. Without one nft lists tcp as 6, which a
// kube-proxy that starts takes for another element of its maps than tcp, and
// deletes: it served nobody after a restart.
const protocols = `icmp 1 ICMP
tcp 6 TCP
udp 17 UDP
ipv6-icmp 58 IPv6-ICMP
sctp 132 SCTP
`

// MakeImages writes into dir the archives of SandboxImage, which is built with
// the Go toolchain from this module, and of a kube-proxy with the programs of
// this machine that it runs: nft and iptables.
func MakeImages(ctx context.Context, dir, version, kubeProxy string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	pause := filepath.Join(dir, "pause")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", pause, "github.com/tablefull/tablefull/runner/testcluster/pause")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build pause: %w\n%s", err, out)
	}
	proxyFiles, err := proxyFiles(kubeProxy)
	if err != nil {
		return nil, err
	}
	names := filepath.Join(dir, "protocols")
	if err := os.WriteFile(names, []byte(protocols), 0o644); err != nil {
		return nil, fmt.Errorf("write names of protocols: %w", err)
	}
	proxyFiles = append(proxyFiles, ociimage.File{Path: "/etc/protocols", Source: names})
	var files []string
	for _, img := range []ociimage.Image{
		{Name: SandboxImage, Files: []ociimage.File{{Path: "/pause", Source: pause}}, Entrypoint: []string{"/pause"}, User: "65534:65534"},
		{Name: ProxyImage(version), Files: proxyFiles, Entrypoint: []string{"/usr/local/bin/kube-proxy"}, Env: []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin"}},
	} {
		file := filepath.Join(dir, filepath.Base(img.Files[0].Path)+".tar")
		if err := ociimage.WriteFile(file, img); err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// proxyFiles are kube-proxy and what it runs. It asks for iptables in all
// modes: to clean up after another one.
func proxyFiles(kubeProxy string) ([]ociimage.File, error) {
	const nft, iptables = "/usr/sbin/nft", "/usr/sbin/xtables-nft-multi"
	need := []string{nft, iptables}
	var links []ociimage.File                                        // MASQUERADE, for one, is another name of NAT
	plugins, _ := filepath.Glob("/usr/lib/*-linux-gnu/xtables/*.so") // the pattern is well formed
	for _, p := range plugins {
		switch real, err := filepath.EvalSymlinks(p); {
		case err != nil: // leads nowhere
		case real == p:
			need = append(need, p)
		case filepath.Dir(real) == filepath.Dir(p):
			links = append(links, ociimage.File{Path: p, Link: filepath.Base(real)})
		}
	}
	files, err := ociimage.Closure(need...)
	if err != nil {
		return nil, err
	}
	files = append(files, links...)
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		files = append(files, ociimage.File{Path: "/usr/sbin/" + name, Link: filepath.Base(iptables)})
	}
	return append([]ociimage.File{{Path: "/usr/local/bin/kube-proxy", Source: kubeProxy}}, files...), nil
}

// TablefullImage is the image of a static tablefull binary: nothing else is in
// it, and it runs as an ordinary user where a pod does not say otherwise.
func TablefullImage(name, program string) ociimage.Image {
	return ociimage.Image{
		Name: name, Files: []ociimage.File{{Path: "/tablefull", Source: program}},
		Entrypoint: []string{"/tablefull"}, User: "65534:65534",
	}
}

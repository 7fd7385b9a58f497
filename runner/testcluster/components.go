package testcluster

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	texttemplate "text/template"
)

//go:embed manifests
var manifests embed.FS

// A component is a program that a host runs, again whenever it ends.
type component struct {
	Name string
	Path string
	Args []string
	// Once the socket exists the next one is started; empty: at once.
	Socket string
	// After are programs that are run once, to their end, before the next.
	After [][]string
}

// SandboxImage is the image of a pod's sandbox.
const SandboxImage = "localhost/pause:test"

const (
	auditPolicy = "audit.yaml"
	// AuditLog is the file in the cluster's directory of logs that has, a line
	// of JSON each, the requests of service accounts of the namespace default.
	AuditLog = "audit.jsonl"
)

const containerdSocket = "/run/containerd/containerd.sock"

// control is what the control host runs.
func (l layout) control(programs map[string]string) []component {
	pki := func(name string) string { return l.path(pkiDir, name) }
	return []component{
		{Name: "etcd", Path: programs["etcd"], Args: []string{
			"--name=tablefull-test", "--data-dir=/run/etcd", // gone with the cluster, like all of it
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380", "--logger=zap",
		}},
		{Name: "kube-apiserver", Path: programs["kube-apiserver"], Args: []string{
			"--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", fmt.Sprintf("--secure-port=%d", l.api.Port()),
			"--advertise-address=" + l.api.Addr().String(), "--service-cluster-ip-range=" + l.both(serviceCIDR, serviceCIDR6),
			"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"), "--client-ca-file=" + pki("ca.crt"),
			"--kubelet-client-certificate=" + pki("apiserver-kubelet-client.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet-client.key"),
			"--kubelet-preferred-address-types=InternalIP",
			"--service-account-key-file=" + pki("sa.pub"), "--service-account-signing-key-file=" + pki("sa.key"),
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--authorization-mode=Node,RBAC", "--audit-policy-file=" + l.path(auditPolicy), "--audit-log-path=" + l.path(logDir, AuditLog),
			"--enable-admission-plugins=NodeRestriction", "--allow-privileged=true", "--profiling=false",
		}},
		{Name: "kube-controller-manager", Path: programs["kube-controller-manager"], Args: []string{
			"--kubeconfig=" + pki("controller-manager.conf"), "--authentication-kubeconfig=" + pki("controller-manager.conf"),
			"--authorization-kubeconfig=" + pki("controller-manager.conf"), "--bind-address=127.0.0.1", "--cert-dir=/run/kube-controller-manager",
			"--service-account-private-key-file=" + pki("sa.key"), "--root-ca-file=" + pki("ca.crt"),
			"--use-service-account-credentials=true", "--leader-elect=false", "--profiling=false", "--flex-volume-plugin-dir=/run/volume-plugins",
		}},
		{Name: "kube-scheduler", Path: programs["kube-scheduler"], Args: []string{
			"--kubeconfig=" + pki("scheduler.conf"), "--authentication-kubeconfig=" + pki("scheduler.conf"),
			"--authorization-kubeconfig=" + pki("scheduler.conf"), "--bind-address=127.0.0.1", "--cert-dir=/run/kube-scheduler", "--leader-elect=false", "--profiling=false",
		}},
	}
}

// worker is what a node runs.
func (l layout) worker(n node, programs map[string]string, images []string) []component {
	imports := make([][]string, len(images))
	for i, file := range images {
		imports[i] = []string{programs["ctr"], "--address", containerdSocket, "--namespace", "k8s.io", "images", "import", file}
	}
	return []component{
		{Name: "containerd", Path: programs["containerd"], Args: []string{"--config", l.path(n.name, "containerd.toml")}, Socket: containerdSocket, After: imports},
		{Name: "kubelet", Path: programs["kubelet"], Args: []string{
			"--config=" + l.path(n.name, "kubelet.yaml"), "--kubeconfig=" + l.path(pkiDir, n.name+".conf"),
			"--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet/pki", "--hostname-override=" + n.name, "--node-ip=" + l.both(n.addr, n.addr6),
		}},
	}
}

// writeNode writes a node's configuration.
func (l layout) writeNode(n node, plugins string) error {
	conf := l.path(n.name)
	data := map[string]string{
		"Addr": n.addr.String(), "PKI": l.path(pkiDir), "Conf": conf, "CgroupRoot": "/" + l.cgroup() + "/" + n.name,
		"SandboxImage": SandboxImage, "CNIBin": filepath.Join(conf, "cni", "bin"), "Pods": n.pods.String(), "Pods6": "",
	}
	if l.ipv6 {
		data["Pods6"] = n.pods6.String()
	}
	for file, from := range map[string]string{"kubelet.yaml": "kubelet.yaml", "containerd.toml": "containerd.toml", "cni/10-pods.conflist": "cni.json"} {
		b, err := render(from, data)
		if err != nil {
			return err
		}
		path := filepath.Join(conf, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return fmt.Errorf("write %s: %w", file, err)
		}
	}
	if err := l.writePlugins(filepath.Join(conf, "cni", "bin"), plugins); err != nil {
		return err
	}
	// Names are looked up by nobody in here; there is no cluster DNS.
	if err := os.WriteFile(filepath.Join(conf, "resolv.conf"), nil, 0o644); err != nil {
		return fmt.Errorf("write resolv.conf: %w", err)
	}
	return nil
}

// writePlugins makes the directory of a node's plugins of CNI, of those of this
// machine.
func (l layout) writePlugins(dir, plugins string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	links := []string{"host-local", "loopback"}
	if l.ipv6 {
		b, err := render("ptp.sh", plugins)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "ptp"), b, 0o755); err != nil {
			return fmt.Errorf("write plugin: %w", err)
		}
	} else {
		links = append(links, "ptp")
	}
	for _, name := range links {
		if err := os.Symlink(filepath.Join(plugins, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("link plugin: %w", err)
		}
	}
	return nil
}

func render(name string, data any) ([]byte, error) {
	t, err := texttemplate.New(name).Option("missingkey=error").ParseFS(manifests, "manifests/"+name)
	if err != nil {
		return nil, fmt.Errorf("read template %s: %w", name, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("fill in template %s: %w", name, err)
	}
	return b.Bytes(), nil
}

package testcluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// certLife is longer than a test cluster lives.
const certLife = 365 * 24 * time.Hour

// authority signs the cluster's certificates. Its key is never on disk.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// pair is a certificate and its key, as PEM.
type pair struct{ cert, key []byte }

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	t := template("tablefull test cluster", nil)
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = nil
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return &authority{cert: cert, key: key, pem: encode("CERTIFICATE", der)}, nil
}

// issue signs a certificate for a user in groups or, with addrs, a server.
func (a *authority) issue(name string, groups []string, addrs ...netip.Addr) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, fmt.Errorf("make key: %w", err)
	}
	t := template(name, groups)
	for _, addr := range addrs {
		t.IPAddresses = append(t.IPAddresses, net.IP(addr.AsSlice()))
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		t.DNSNames = []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc"}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return pair{}, fmt.Errorf("sign certificate: %w", err)
	}
	k, err := encodeKey(key)
	return pair{cert: encode("CERTIFICATE", der), key: k}, err
}

// keyPair is a key with no certificate: service account tokens are signed
// with it.
func keyPair() (public, private []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	private, err = encodeKey(key)
	return encode("PUBLIC KEY", der), private, err
}

func template(name string, groups []string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // crypto/rand does not fail
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: groups},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(certLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return encode("EC PRIVATE KEY", der), nil
}

// kubeconfig is how a user reaches the API server at addr.
func (a *authority) kubeconfig(p pair, addr netip.AddrPort) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: tablefull-test
clusters:
- name: tablefull-test
  cluster:
    server: https://%s
    certificate-authority-data: %s
users:
- name: tablefull-test
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: tablefull-test
  context: {cluster: tablefull-test, user: tablefull-test}
`, addr, b64(a.pem), b64(p.cert), b64(p.key))
}

// writeCredentials puts into dir what each component identifies itself with,
// named as kubeadm names it, and into kubeconfigFile the administrator's.
func (l layout) writeCredentials() error {
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	public, private, err := keyPair()
	if err != nil {
		return err
	}
	server, err := ca.issue("kube-apiserver", nil, l.api.Addr(), l.link.control, l.serviceIP())
	if err != nil {
		return err
	}
	client, err := ca.issue("kube-apiserver-kubelet-client", []string{"system:masters"})
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.crt": ca.pem, "sa.pub": public, "sa.key": private,
		"apiserver.crt": server.cert, "apiserver.key": server.key,
		"apiserver-kubelet-client.crt": client.cert, "apiserver-kubelet-client.key": client.key,
	}
	users := []struct {
		file, name string
		groups     []string
		at         netip.AddrPort
	}{
		{"../" + kubeconfigFile, "kubernetes-admin", []string{"system:masters"}, netip.AddrPortFrom(l.link.control, l.api.Port())},
		{"controller-manager.conf", "system:kube-controller-manager", nil, l.api},
		{"scheduler.conf", "system:kube-scheduler", nil, l.api},
	}
	for _, n := range l.nodes {
		users = append(users, struct {
			file, name string
			groups     []string
			at         netip.AddrPort
		}{n.name + ".conf", "system:node:" + n.name, []string{"system:nodes"}, l.api})
	}
	for _, u := range users {
		p, err := ca.issue(u.name, u.groups)
		if err != nil {
			return err
		}
		files[u.file] = ca.kubeconfig(p, u.at)
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(l.dir, pkiDir, name), b, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

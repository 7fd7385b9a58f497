package kubeproxy

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// Modes of a kube-proxy.
const (
	IPTables = "iptables"
	NFTables = "nftables"
	IPVS     = "ipvs"
)

// Config says how a kube-proxy runs.
type Config struct {
	Binary string // a kube-proxy
	Mode   string // IPTables, NFTables or IPVS
	Node   string // the name of its node
	API    string // the address of the API server, like http://127.0.0.1:8001
	Dir    string // an existing directory, this kube-proxy's own, for its configuration

	// Health and Metrics are where it answers; 127.0.0.1:10256 and
	// 127.0.0.1:10249, its own defaults but for loopback, if they are not set.
	Health, Metrics netip.AddrPort
	// NodeIP is its bindAddress: the node's address, if it is not to ask the API for it.
	NodeIP netip.Addr
	// ClusterCIDR is where pods are. Traffic to services from elsewhere is
	// masqueraded, unless it is not set.
	ClusterCIDR netip.Prefix
	// SyncPeriod and MinSyncPeriod apply to its mode; 0 leaves its defaults.
	SyncPeriod, MinSyncPeriod time.Duration
	Conntrack                 Conntrack
	IPVS                      IPVSSettings
	Verbosity                 int // -v
	// Env is added to its environment: NAME=value.
	Env []string

	// Log gets its output line by line; Exited is called if it ends without
	// having been told to. Both are called by a goroutine of the Process, must
	// not block and must not call the Process. They may be nil.
	Log    func(line string)
	Exited func(err error)
}

// Conntrack is what a kube-proxy does to the kernel's settings. It leaves the
// limit alone, which is the host's, unless MaxPerCore is set.
type Conntrack struct {
	MaxPerCore int
	Min        *int // the least that MaxPerCore makes; nil for its default
	// The timeouts it writes: nil for its defaults (a day for established, an
	// hour for close_wait), 0 to leave the kernel's.
	TCPEstablished, TCPCloseWait *time.Duration
	// 0 leaves the kernel's.
	UDP, UDPStream time.Duration
	TCPBeLiberal   bool
}

// IPVSSettings are those of ipvs mode. Zero leaves its defaults.
type IPVSSettings struct {
	Scheduler               string
	StrictARP               bool
	TCPTimeout, FIN, UDPout time.Duration // the kernel's IPVS timeouts
}

func (c Config) health() netip.AddrPort {
	return cmp.Or(c.Health, netip.MustParseAddrPort("127.0.0.1:10256"))
}

func (c Config) metrics() netip.AddrPort {
	return cmp.Or(c.Metrics, netip.MustParseAddrPort("127.0.0.1:10249"))
}

func (c Config) check() error {
	switch {
	case c.Mode != IPTables && c.Mode != NFTables && c.Mode != IPVS:
		return fmt.Errorf("run kube-proxy: unknown mode %q; there are iptables, nftables and ipvs", c.Mode)
	case c.Binary == "" || c.Node == "" || c.API == "" || c.Dir == "":
		return errors.New("run kube-proxy: it needs a binary, a node's name, an API server and a directory")
	}
	return nil
}

// The part of KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1, that
// is said at all. What is not said has the defaults of the release that reads
// it, and an older release finds no field that it does not know.
type configFile struct {
	APIVersion         string        `json:"apiVersion"`
	Kind               string        `json:"kind"`
	Mode               string        `json:"mode"`
	HostnameOverride   string        `json:"hostnameOverride"`
	BindAddress        string        `json:"bindAddress,omitempty"`
	HealthzBindAddress string        `json:"healthzBindAddress"`
	MetricsBindAddress string        `json:"metricsBindAddress"`
	ClusterCIDR        string        `json:"clusterCIDR,omitempty"`
	ClientConnection   connection    `json:"clientConnection"`
	Conntrack          conntrackFile `json:"conntrack"`
	IPTables           *modeFile     `json:"iptables,omitempty"`
	NFTables           *modeFile     `json:"nftables,omitempty"`
	IPVS               *modeFile     `json:"ipvs,omitempty"`
}

type connection struct {
	Kubeconfig         string `json:"kubeconfig"`
	ContentType        string `json:"contentType"`
	AcceptContentTypes string `json:"acceptContentTypes"`
}

type conntrackFile struct {
	MaxPerCore            int    `json:"maxPerCore"` // 0 is said: it leaves the limit alone
	Min                   *int   `json:"min,omitempty"`
	TCPEstablishedTimeout string `json:"tcpEstablishedTimeout,omitempty"`
	TCPCloseWaitTimeout   string `json:"tcpCloseWaitTimeout,omitempty"`
	TCPBeLiberal          bool   `json:"tcpBeLiberal,omitempty"`
	UDPTimeout            string `json:"udpTimeout,omitempty"`
	UDPStreamTimeout      string `json:"udpStreamTimeout,omitempty"`
}

type modeFile struct {
	SyncPeriod    string `json:"syncPeriod,omitempty"`
	MinSyncPeriod string `json:"minSyncPeriod,omitempty"`
	Scheduler     string `json:"scheduler,omitempty"`
	StrictARP     bool   `json:"strictARP,omitempty"`
	TCPTimeout    string `json:"tcpTimeout,omitempty"`
	TCPFinTimeout string `json:"tcpFinTimeout,omitempty"`
	UDPTimeout    string `json:"udpTimeout,omitempty"`
}

// said is a duration that is not 0.
func said(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// saidZero is a duration that is not nil.
func saidZero(d *time.Duration) string {
	if d == nil {
		return ""
	}
	return d.String()
}

func (c Config) file(kubeconfig string) configFile {
	f := configFile{
		APIVersion: "kubeproxy.config.k8s.io/v1alpha1", Kind: "KubeProxyConfiguration",
		Mode: c.Mode, HostnameOverride: c.Node,
		HealthzBindAddress: c.health().String(), MetricsBindAddress: c.metrics().String(),
		ClientConnection: connection{Kubeconfig: kubeconfig, ContentType: "application/json", AcceptContentTypes: "application/json"},
		Conntrack: conntrackFile{
			MaxPerCore: c.Conntrack.MaxPerCore, Min: c.Conntrack.Min,
			TCPEstablishedTimeout: saidZero(c.Conntrack.TCPEstablished), TCPCloseWaitTimeout: saidZero(c.Conntrack.TCPCloseWait),
			TCPBeLiberal: c.Conntrack.TCPBeLiberal, UDPTimeout: said(c.Conntrack.UDP), UDPStreamTimeout: said(c.Conntrack.UDPStream),
		},
	}
	if c.NodeIP.IsValid() {
		f.BindAddress = c.NodeIP.String()
	}
	if c.ClusterCIDR.IsValid() {
		f.ClusterCIDR = c.ClusterCIDR.String()
	}
	mode := &modeFile{SyncPeriod: said(c.SyncPeriod), MinSyncPeriod: said(c.MinSyncPeriod)}
	switch c.Mode {
	case IPTables:
		f.IPTables = mode
	case NFTables:
		f.NFTables = mode
	case IPVS:
		mode.Scheduler, mode.StrictARP = c.IPVS.Scheduler, c.IPVS.StrictARP
		mode.TCPTimeout, mode.TCPFinTimeout, mode.UDPTimeout = said(c.IPVS.TCPTimeout), said(c.IPVS.FIN), said(c.IPVS.UDPout)
		f.IPVS = mode
	}
	return f
}

// kubeconfig names an API server that asks for no credentials.
func (c Config) kubeconfig() any {
	type named map[string]any
	return named{
		"apiVersion": "v1", "kind": "Config", "current-context": "lab",
		"clusters": []named{{"name": "lab", "cluster": named{"server": c.API}}},
		"contexts": []named{{"name": "lab", "context": named{"cluster": "lab", "user": ""}}},
	}
}

// write writes the configuration and returns its path. JSON is YAML, too.
func (c Config) write() (string, error) {
	kubeconfig, path := filepath.Join(c.Dir, "kubeconfig"), filepath.Join(c.Dir, "config.yaml")
	for _, f := range []struct {
		path    string
		content any
	}{{kubeconfig, c.kubeconfig()}, {path, c.file(kubeconfig)}} {
		b, err := json.MarshalIndent(f.content, "", "  ")
		if err != nil {
			return "", fmt.Errorf("encode %s: %w", f.path, err)
		}
		if err := os.WriteFile(f.path, append(b, '\n'), 0o600); err != nil {
			return "", fmt.Errorf("write configuration of kube-proxy: %w", err)
		}
	}
	return path, nil
}

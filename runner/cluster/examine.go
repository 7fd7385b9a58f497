package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tablefull/tablefull/runner/env"
)

// A View is what a kubeconfig shows of a cluster. What could not be read says
// why; nothing is taken for what it usually is.
type View struct {
	Server  string `json:"server"`  // address of the API server
	Version string `json:"version"` // of Kubernetes there
	User    string `json:"user"`    // whom the API server takes the kubeconfig for; empty where it does not say
	// Nodes are by name. Their tables are read by samplers alone.
	Nodes        []NodeView `json:"nodes"`
	NodesNotRead string     `json:"nodes_not_read,omitempty"`
	Proxy        ProxyView  `json:"kube_proxy"`
	// Services is which families Services can have addresses of.
	Services FamiliesView `json:"service_families"`
}

// NodeView is one node.
type NodeView struct {
	Name     string `json:"name"`
	Ready    bool   `json:"ready"`
	Cordoned bool   `json:"cordoned"`
	// Unfit is why a node takes no ordinary pods, so that traffic cannot enter
	// by it; empty where it can.
	Unfit   string `json:"unfit,omitempty"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	Kernel  string `json:"kernel"`
	Image   string `json:"os_image"`
	Kubelet string `json:"kubelet"`
	Runtime string `json:"container_runtime"`
	CPUs    int    `json:"cpus"`
	// Proxy is the kube-proxy that runs there; null where none of the DaemonSet
	// does, or nobody could see it.
	Proxy *NodeProxy `json:"kube_proxy"`
	// ProxyLimit is the nf_conntrack_max that kube-proxy's configuration makes
	// on so many CPUs; null where it leaves the limit alone, or is not known.
	ProxyLimit *uint64 `json:"kube_proxy_limit"`
	// Table is null where it was not read.
	Table   *TableView `json:"table"`
	NotRead string     `json:"table_not_read,omitempty"`
}

// NodeProxy is a pod of kube-proxy.
type NodeProxy struct {
	Pod     string `json:"pod"`
	Version string `json:"version"` // the tag of its image
	Ready   bool   `json:"ready"`
}

// TableView is a node's connection tracking table, as its own kernel says.
type TableView struct {
	Entries uint64 `json:"entries"`
	Limit   uint64 `json:"limit"` // nf_conntrack_max; 0 is none
	Buckets uint64 `json:"buckets"`
	// Timeouts in s, by sysctl name less the nf_conntrack_ prefix.
	Timeouts map[string]float64 `json:"timeouts"`
}

// ProxyView is kube-proxy as its DaemonSet and its ConfigMap say.
type ProxyView struct {
	DaemonSet string `json:"daemonset"` // namespace/name that was looked for
	NotRead   string `json:"not_read,omitempty"`
	Image     string `json:"image,omitempty"`
	Version   string `json:"version,omitempty"` // the tag of that
	Desired   int    `json:"desired"`           // pods
	Ready     int    `json:"ready"`
	// Mode is empty where it is not known; From is where it is written.
	Mode string `json:"mode,omitempty"`
	From string `json:"mode_from,omitempty"`
	// ConfigNotRead is why Mode and Conntrack are not known.
	ConfigNotRead string          `json:"config_not_read,omitempty"`
	Conntrack     *ProxyConntrack `json:"conntrack"`
}

// ProxyConntrack is the section conntrack of kube-proxy's configuration, with
// its defaults. Zero leaves a setting alone.
type ProxyConntrack struct {
	MaxPerCore  int64   `json:"max_per_core"`
	Min         int64   `json:"min"`
	Established float64 `json:"tcp_established_timeout_s"`
	CloseWait   float64 `json:"tcp_close_wait_timeout_s"`
}

// DefaultKubeProxy is where kubeadm, and most others, have it.
var DefaultKubeProxy = types.NamespacedName{Namespace: "kube-system", Name: "kube-proxy"}

// ViewRights are what Examine reads.
func ViewRights(proxy types.NamespacedName) []Right {
	return LeastOf(slices.Concat(
		may("", "nodes", "list"), cidrRights(), inside(proxy.Namespace, only(proxy.Name, may("apps", "daemonsets", "get"))),
		inside(proxy.Namespace, only(proxy.Name, may("", "configmaps", "get"))), inside(proxy.Namespace, may("", "pods", "list")),
	))
}

// Examine reads what the account may see, and changes nothing. It fails where
// the API server cannot be asked at all.
func (e *Env) Examine(ctx context.Context) (View, error) {
	v := View{Server: e.cfg.REST.Host}
	version, err := e.client.Discovery().ServerVersion()
	if err != nil {
		return v, fmt.Errorf("ask the API server for its version: %w", err)
	}
	v.Version = version.GitVersion
	who, err := e.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err == nil { // API servers before 1.28 have no answer
		v.User = who.Status.UserInfo.Username
	}
	list, err := e.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		v.NodesNotRead = notRead(err, "list nodes")
	} else {
		for _, n := range list.Items {
			v.Nodes = append(v.Nodes, viewNode(n))
		}
	}
	e.viewFamilies(ctx, &v, list)
	slices.SortFunc(v.Nodes, func(a, b NodeView) int { return strings.Compare(a.Name, b.Name) })
	e.viewProxy(ctx, &v)
	return v, ctx.Err()
}

// viewFamilies looks which families Services can have: at ServiceCIDRs, else at
// the nodes where they could be listed.
func (e *Env) viewFamilies(ctx context.Context, v *View, nodes *corev1.NodeList) {
	seen, err := e.serviceFamilies(ctx)
	if v.Services = seen; err != nil {
		v.Services.From = err.Error()
	}
	if len(seen.Families) == 0 && v.NodesNotRead == "" {
		v.Services = nodeFamilies(nodes.Items)
	}
}

// notRead is why something could not be done, for people.
func notRead(err error, what string) string {
	if apierrors.IsForbidden(err) {
		return "this account may not " + what
	}
	return what + ": " + err.Error()
}

func viewNode(n corev1.Node) NodeView {
	i := n.Status.NodeInfo
	return NodeView{
		Name: n.Name, Ready: stateOf(&n)[string(corev1.NodeReady)], Cordoned: n.Spec.Unschedulable, Unfit: unfitNode(n),
		OS: i.OperatingSystem, Arch: i.Architecture, Kernel: i.KernelVersion, Image: i.OSImage, Kubelet: i.KubeletVersion, Runtime: i.ContainerRuntimeVersion,
		CPUs: int(n.Status.Capacity.Cpu().Value()),
	}
}

// viewProxy reads kube-proxy's DaemonSet, its pods and its ConfigMap.
func (e *Env) viewProxy(ctx context.Context, v *View) {
	at := e.cfg.KubeProxy
	if at == (types.NamespacedName{}) {
		at = DefaultKubeProxy
	}
	p := &v.Proxy
	p.DaemonSet = at.String()
	ds, err := e.client.AppsV1().DaemonSets(at.Namespace).Get(ctx, at.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		p.NotRead = "there is no such DaemonSet: kube-proxy may have another name (--kube-proxy), run in another way, or another program may have its part"
		return
	case err != nil:
		p.NotRead = notRead(err, "get it")
		return
	}
	p.Desired, p.Ready = int(ds.Status.DesiredNumberScheduled), int(ds.Status.NumberReady)
	set, err := readProxySet(ds)
	if err != nil {
		p.NotRead = err.Error()
		return
	}
	p.Image = image(ds, set.container)
	p.Version = tagOf(p.Image)
	e.viewProxyPods(ctx, v, ds, set.container)
	if set.key == "" {
		p.ConfigNotRead = set.whyNot
		return
	}
	config, err := e.client.CoreV1().ConfigMaps(at.Namespace).Get(ctx, at.Name, metav1.GetOptions{})
	if err != nil {
		p.ConfigNotRead = notRead(err, "get ConfigMap "+at.String())
		return
	}
	if err := p.read(config.Data[set.key]); err != nil {
		p.ConfigNotRead = err.Error()
		return
	}
	p.From = "ConfigMap " + at.String() + ", " + set.key + p.From
	section, _ := readSection(config.Data[set.key]) // as p.read has seen
	for i := range v.Nodes {
		if limits := section.limits(v.Nodes[i].CPUs); len(limits) == 1 {
			v.Nodes[i].ProxyLimit = &limits[0]
		}
	}
}

// read takes what is said of the mode and of connection tracking in a
// KubeProxyConfiguration.
func (p *ProxyView) read(conf string) error {
	section, err := readSection(conf)
	if err != nil {
		return err
	}
	var text struct{ Mode string }
	if err := yaml.Unmarshal([]byte(conf), &text); err != nil {
		return fmt.Errorf("read kube-proxy's configuration: %w", err)
	}
	if p.Mode = text.Mode; p.Mode == "" {
		p.Mode, p.From = "iptables", ", which names none: its default on Linux"
	}
	p.Conntrack = &ProxyConntrack{
		MaxPerCore: section.maxPerCore, Min: section.min,
		Established: float64(section.established) / float64(time.Second), CloseWait: float64(section.closeWait) / float64(time.Second),
	}
	return nil
}

// viewProxyPods notes which kube-proxy runs on which node: while it is
// upgraded, they differ.
func (e *Env) viewProxyPods(ctx context.Context, v *View, ds *appsv1.DaemonSet, container string) {
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		return // the API server has refused such a DaemonSet
	}
	pods, err := e.client.CoreV1().Pods(ds.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		v.Proxy.NotRead = notRead(err, "list its pods")
		return
	}
	for _, p := range pods.Items {
		i := slices.IndexFunc(v.Nodes, func(n NodeView) bool { return n.Name == p.Spec.NodeName })
		c := slices.IndexFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == container })
		// Of two, one is on its way out.
		if i < 0 || c < 0 || p.DeletionTimestamp != nil && v.Nodes[i].Proxy != nil {
			continue
		}
		v.Nodes[i].Proxy = &NodeProxy{Pod: p.Name, Version: tagOf(p.Spec.Containers[c].Image), Ready: isReady(&p)}
	}
}

// tagOf is the tag of an image; empty where it has none.
func tagOf(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		return image[i+1:]
	}
	return ""
}

// unreadable is why no sampler can run on a node; empty where one can, as on one
// that is cordoned.
func unreadable(n NodeView) string {
	switch {
	case n.OS != "linux":
		return "it runs " + n.OS
	case !n.Ready:
		return "it is not ready"
	}
	return ""
}

// ReadTables has a sampler, which is removed again, read the table of each
// node of v that one can run on. What it returns of the nodes is for a plan.
// Where nothing could be read, the nodes say why. Its error is a NotRemoved.
func (e *Env) ReadTables(ctx context.Context, v *View) (map[string]env.Capabilities, error) {
	var nodes []string
	for i := range v.Nodes {
		n := &v.Nodes[i]
		if n.NotRead = unreadable(*n); n.NotRead == "" {
			nodes = append(nodes, n.Name)
		}
	}
	if len(nodes) == 0 {
		return nil, nil
	}
	l, err := e.Look(ctx, "doctor", nodes, false)
	if err != nil {
		for i := range v.Nodes {
			v.Nodes[i].NotRead = cmp.Or(v.Nodes[i].NotRead, err.Error())
		}
		var left *NotRemoved
		if errors.As(err, &left) {
			return nil, left
		}
		return nil, ctx.Err()
	}
	facts, not := l.Facts(ctx)
	for i := range v.Nodes {
		n := &v.Nodes[i]
		if f, ok := facts[n.Name]; ok {
			n.Table = &TableView{Entries: f.Entries, Limit: f.Limit, Buckets: f.Buckets, Timeouts: f.Timeouts}
		} else if why, ok := not[n.Name]; ok {
			n.NotRead = why
		}
	}
	return facts, l.Close(ctx)
}

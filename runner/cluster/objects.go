package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/tablefull/tablefull/manifests"
	"github.com/tablefull/tablefull/scenarios"
)

// Labels of everything a run has.
const (
	managedBy      = "app.kubernetes.io/managed-by"
	managedByUs    = "tablefull"
	runLabel       = "tablefull/run"
	componentLabel = "app.kubernetes.io/component"
	nameLabel      = "app.kubernetes.io/name"
	fieldManager   = "tablefull"
	tokenSecret    = "tablefull-token"
	tokenKey       = "token"
)

// settings is what the manifests are filled in with.
type settings struct {
	namespace, run, token, image string
	port                         int      // of agents
	nodes                        []string // that traffic enters by: a worker runs on each
	// origins are where workers run instead, on their nodes' networks, where
	// traffic goes to the node ports of nodes, at addrs.
	origins  []string
	addrs    []map[string]netip.Addr // by family
	services []scenarios.Service
	family   string    // of services that name none
	changes  []outside // what actions may change outside the namespace
	pauses   bool      // so that there have to be pausers
}

// samplerName is that of the DaemonSet of samplers, in its manifest.
const samplerName = "sampler"

// allFiles are the base's files that every run applies, in order.
func allFiles() []string {
	return []string{"namespace.yaml", "accounts.yaml", "sampler.yaml", "worker.yaml", "target.yaml"}
}

// files are those that this run applies.
func (s settings) files() []string {
	if s.pauses {
		return append(allFiles(), pauserFile)
	}
	return allFiles()
}

// read returns the objects of one of the base's files.
func read(file string) ([]runtime.Object, error) {
	b, err := manifests.Files.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	var out []runtime.Object
	for d := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(b))); ; {
		doc, err := d.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read manifest %s: %w", file, err)
		}
		o, _, err := scheme.Codecs.UniversalDeserializer().Decode(doc, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("read manifest %s: %w", file, err)
		}
		out = append(out, o)
	}
}

// objects are all of a run's, in the order in which they are applied.
func (s settings) objects(files ...string) ([]runtime.Object, error) {
	var all []runtime.Object
	for _, file := range files {
		objects, err := read(file)
		if err != nil {
			return nil, err
		}
		if file == "target.yaml" {
			objects = s.targets(objects)
		}
		all = append(all, objects...)
		if file == "namespace.yaml" {
			all = append(all, &corev1.Secret{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
				ObjectMeta: metav1.ObjectMeta{Name: tokenSecret},
				StringData: map[string]string{tokenKey: s.token},
			})
		}
	}
	for _, o := range all {
		if err := s.fillIn(o); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// fillIn makes an object one of this run.
func (s settings) fillIn(o runtime.Object) error {
	m, ok := o.(metav1.Object)
	if !ok {
		return fmt.Errorf("fill in manifest: a %T has no name", o)
	}
	labels := maps.Clone(m.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	labels[managedBy], labels[runLabel] = managedByUs, s.run
	m.SetLabels(labels)
	if n, ok := o.(*corev1.Namespace); ok {
		n.Name = s.namespace
		if len(s.changes) > 0 {
			n.Annotations = map[string]string{changesAnnotation: formatOutsides(s.changes)}
		}
		return nil
	}
	m.SetNamespace(s.namespace)
	switch o := o.(type) {
	case *appsv1.DaemonSet:
		s.fillInPod(&o.Spec.Template)
		if o.Name == pauserName {
			o.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: on(s.nodes)}
		}
	case *appsv1.Deployment:
		s.fillInPod(&o.Spec.Template)
	case *batchv1.Job:
		s.fillInPod(&o.Spec.Template)
		n := int32(len(s.nodes))
		o.Spec.Completions, o.Spec.Parallelism = &n, &n
		where := s.nodes
		if len(s.origins) > 0 {
			where = s.origins
			s.onNodeNetwork(o)
		}
		o.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: on(where), PodAntiAffinity: apart(o.Spec.Template.Labels)}
	}
	return nil
}

func (s settings) fillInPod(t *corev1.PodTemplateSpec) {
	t.Labels[managedBy], t.Labels[runLabel] = managedByUs, s.run
	c := &t.Spec.Containers[0]
	c.Image = s.image
	for i, arg := range c.Args {
		if where, _, ok := strings.Cut(arg, ":10399"); ok {
			c.Args[i] = where + ":" + strconv.Itoa(s.port)
		}
	}
	switch p := c.ReadinessProbe; {
	case p == nil:
	case p.HTTPGet != nil:
		p.HTTPGet.Port = intstr.FromInt(s.port)
	default:
		p.TCPSocket.Port = intstr.FromInt(s.port)
	}
}

// on allows a pod only the named nodes.
func on(nodes []string) *corev1.NodeAffinity {
	var terms []corev1.NodeSelectorTerm
	for _, n := range nodes {
		terms = append(terms, corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{n}},
		}})
	}
	return &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}
}

// apart keeps pods with these labels on nodes of their own.
func apart(labels map[string]string) *corev1.PodAntiAffinity {
	return &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: labels},
	}}}
}

// targets are the Deployment and the Service of each service of the scenario.
func (s settings) targets(base []runtime.Object) []runtime.Object {
	var out []runtime.Object
	for _, svc := range s.services {
		for _, o := range base {
			o := o.DeepCopyObject()
			switch o := o.(type) {
			case *appsv1.Deployment:
				o.Name = svc.Name
				pods := int32(svc.Pods)
				o.Spec.Replicas = &pods
				o.Spec.Selector.MatchLabels[nameLabel] = svc.Name
				o.Spec.Template.Labels[nameLabel] = svc.Name
				o.Spec.Template.Spec.TopologySpreadConstraints[0].LabelSelector.MatchLabels[nameLabel] = svc.Name
				live(&o.Spec.Template.Spec, svc.Lifecycle)
				if svc.Port < firstUnprivileged {
					o.Spec.Template.Spec.SecurityContext.Sysctls = []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "0"}}
				}
			case *corev1.Service:
				o.Name = svc.Name
				o.Spec.Selector[nameLabel] = svc.Name
				o.Spec.Ports = s.ports(svc)
				dualStack(o, s.families(svc))
				if svc.NodePort != 0 {
					out = append(out, s.exposes(o, svc))
				}
			}
			out = append(out, o)
		}
	}
	return out
}

// live makes a pod come and go as the lifecycle says. When it is ready, and what
// SIGTERM does, is its agent's part.
func live(p *corev1.PodSpec, l scenarios.Lifecycle) {
	grace := int64(time.Duration(l.Grace) / time.Second)
	p.TerminationGracePeriodSeconds = &grace
	if s := int64(time.Duration(l.PreStop) / time.Second); s > 0 {
		p.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: s}}}
	}
}

// firstUnprivileged is the first port that an ordinary user may listen on.
const firstUnprivileged = 1024

func (s settings) ports(svc scenarios.Service) []corev1.ServicePort {
	protocol := corev1.ProtocolTCP
	if svc.Protocol == "udp" {
		protocol = corev1.ProtocolUDP
	}
	ports := []corev1.ServicePort{{Name: "agent", Port: int32(s.port), TargetPort: intstr.FromInt(s.port), Protocol: corev1.ProtocolTCP}}
	for i := range max(1, svc.PortCount) {
		ports = append(ports, corev1.ServicePort{
			Name: fmt.Sprintf("traffic-%d", i), Port: int32(svc.Port + i), TargetPort: intstr.FromInt(svc.Port + i), Protocol: protocol,
		})
	}
	return ports
}

// apply applies objects with server-side apply.
func apply(ctx context.Context, client kubernetes.Interface, objects []runtime.Object) error {
	for _, o := range objects {
		b, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("encode manifest: %w", err)
		}
		m := o.(metav1.Object) // as fillIn has seen
		if err := applyOne(ctx, client, o, m.GetNamespace(), m.GetName(), b); err != nil {
			return fmt.Errorf("apply %s %s: %w", o.GetObjectKind().GroupVersionKind().Kind, m.GetName(), err)
		}
	}
	return nil
}

func applyOne(ctx context.Context, client kubernetes.Interface, o runtime.Object, namespace, name string, b []byte) error {
	opts := metav1.PatchOptions{FieldManager: fieldManager}
	var err error
	switch o.(type) {
	case *corev1.Namespace:
		_, err = client.CoreV1().Namespaces().Patch(ctx, name, types.ApplyPatchType, b, opts)
	case *corev1.Secret:
		_, err = client.CoreV1().Secrets(namespace).Patch(ctx, name, types.ApplyPatchType, b, opts)
	case *corev1.ServiceAccount:
		_, err = client.CoreV1().ServiceAccounts(namespace).Patch(ctx, name, types.ApplyPatchType, b, opts)
	case *corev1.Service:
		_, err = client.CoreV1().Services(namespace).Patch(ctx, name, types.ApplyPatchType, b, opts)
	case *appsv1.DaemonSet:
		_, err = client.AppsV1().DaemonSets(namespace).Patch(ctx, name, types.ApplyPatchType, b, opts)
	case *appsv1.Deployment:
		_, err = client.AppsV1().Deployments(namespace).Patch(ctx, name, types.ApplyPatchType, b, opts)
	case *batchv1.Job:
		_, err = client.BatchV1().Jobs(namespace).Patch(ctx, name, types.ApplyPatchType, b, opts)
	default:
		err = fmt.Errorf("a %T is in no manifest of ours", o)
	}
	return err
}

// freePort is a port for agents that no service uses. Samplers are on the
// nodes' own network, so it is another one for each run.
func freePort(services []scenarios.Service, pick func(n int) int) int {
	const first, last = 61001, 65535 // above where Linux takes source ports from
	for {
		p := first + pick(last-first+1)
		if !slices.ContainsFunc(services, func(s scenarios.Service) bool { return p >= s.Port && p < s.Port+max(1, s.PortCount) }) {
			return p
		}
	}
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"

	"github.com/tablefull/tablefull/scenarios"
)

// nodePort is a traffic's Via: from outside the cluster to the ports of nodes.
const nodePort = "node_port"

// FromOutside says whether a scenario's traffic goes to node ports. It is then
// sent from the network of other nodes than those it enters by: what comes from a
// pod is no traffic from outside to a kube-proxy, which leads it past
// externalTrafficPolicy. So it takes twice as many nodes, and those that send
// have an entry for each connection in their tables, too.
func FromOutside(s *scenarios.Scenario) bool {
	return slices.ContainsFunc(s.Traffic, func(t scenarios.Traffic) bool { return t.Via == nodePort })
}

// NodesFor is how many nodes that take ordinary pods a run needs.
func NodesFor(s *scenarios.Scenario) int {
	n := max(1, s.Lab.Nodes)
	if FromOutside(s) {
		return 2 * n
	}
	return n
}

// agentsOf is the name of the Service by which the agents of a service's pods
// are reached where the service itself has node ports: they get none.
func agentsOf(service string) string { return service + "-agents" }

func isService(s *scenarios.Scenario, name string) bool {
	return slices.ContainsFunc(s.Services, func(x scenarios.Service) bool { return x.Name == name })
}

// outside chooses the nodes that traffic to the node ports of s.nodes is sent
// from, the first by name that take ordinary pods, and finds the addresses of
// s.nodes.
func (e *Env) outside(ctx context.Context, s *settings) error {
	list, err := e.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	var others []string
	for _, n := range list.Items {
		if !slices.Contains(s.nodes, n.Name) && unfitNode(n) == "" {
			others = append(others, n.Name)
		}
	}
	if len(others) < len(s.nodes) {
		return fmt.Errorf("traffic to node ports enters by %d nodes (lab.nodes) and is sent from as many others, and of the others %d take ordinary pods", len(s.nodes), len(others))
	}
	slices.Sort(others)
	s.origins = others[:len(s.nodes)]
	for _, name := range s.nodes {
		i := slices.IndexFunc(list.Items, func(n corev1.Node) bool { return n.Name == name })
		addrs := internalAddresses(list.Items[i]) // entryNodes has seen it
		for _, svc := range s.services {
			for _, f := range s.families(svc) {
				if svc.NodePort != 0 && !addrs[f].IsValid() {
					return fmt.Errorf("node %s has no internal %s address, where node ports of that family would be", name, familyNames[f])
				}
			}
		}
		s.addrs = append(s.addrs, addrs)
	}
	return nil
}

// internalAddresses are a node's own in the cluster, by family: the first of each.
func internalAddresses(n corev1.Node) map[string]netip.Addr {
	out := map[string]netip.Addr{}
	for _, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && !out[familyOf(addr)].IsValid() {
			out[familyOf(addr)] = addr
		}
	}
	return out
}

// workerPort is that of the workers' agents: on a node's own network there is a
// sampler's besides.
func (s settings) workerPort() int {
	if len(s.origins) > 0 {
		return s.port - 1
	}
	return s.port
}

// onNodeNetwork makes workers send from their nodes' addresses. Their agents
// listen on the nodes' loopback alone.
func (s settings) onNodeNetwork(j *batchv1.Job) {
	pod := &j.Spec.Template.Spec
	pod.HostNetwork = true
	c := &pod.Containers[0]
	for i, arg := range c.Args {
		if strings.HasPrefix(arg, "--listen=") {
			c.Args[i] = fmt.Sprintf("--listen=tcp:127.0.0.1:%d", s.workerPort())
		}
	}
	c.ReadinessProbe = nil // the kubelet asks at the node's address
}

// exposes puts a service on its node ports. Its agents get none: they have a
// Service of their own, which is returned.
func (s settings) exposes(o *corev1.Service, svc scenarios.Service) *corev1.Service {
	agents := o.DeepCopy()
	agents.Name = agentsOf(svc.Name)
	agents.Spec.Ports = o.Spec.Ports[:1] // as ports has it
	o.Spec.Type = corev1.ServiceTypeNodePort
	o.Spec.Ports = o.Spec.Ports[1:]
	for i := range o.Spec.Ports {
		o.Spec.Ports[i].NodePort = int32(svc.NodePort + i)
	}
	o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicy(svc.External)
	return agents
}

// NodePortsRefused is why the API server would not give a scenario's services their
// node ports, in its words: that somebody else has one, mostly. Each is tried in a
// dry run, which makes nothing, in the namespace default, for the run's is not
// there yet, and by the name of the service for agents, which the account may
// apply and hardly anybody else has. Where there is no answer to that, as from a
// webhook that knows no dry runs, applying it will tell.
func (e *Env) NodePortsRefused(ctx context.Context, s *scenarios.Scenario) []string {
	var out []string
	for i, svc := range s.Services {
		if svc.NodePort == 0 {
			continue
		}
		o := &corev1.Service{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
			ObjectMeta: metav1.ObjectMeta{Name: agentsOf(svc.Name)},
			Spec:       corev1.ServiceSpec{Ports: settings{}.ports(svc)},
		}
		settings{}.exposes(o, svc)
		b, err := json.Marshal(o)
		if err != nil {
			continue
		}
		_, err = e.client.CoreV1().Services(metav1.NamespaceDefault).Patch(ctx, o.Name, types.ApplyPatchType, b,
			metav1.PatchOptions{FieldManager: fieldManager, DryRun: []string{metav1.DryRunAll}, Force: new(true)})
		if why := nodePortCauses(err); why != "" {
			out = append(out, fmt.Sprintf("services[%d].node_port: %d: the API server refuses it: %s; to see whose it is: kubectl get services --all-namespaces", i, svc.NodePort, why))
		}
	}
	return out
}

// nodePortCauses are those of an answer of the API server that are about node
// ports; empty where none is.
func nodePortCauses(err error) string {
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) || status.Status().Details == nil {
		return ""
	}
	var causes []string
	for _, c := range status.Status().Details.Causes {
		if strings.HasSuffix(c.Field, ".nodePort") {
			causes = append(causes, c.Message)
		}
	}
	return strings.Join(causes, "; ")
}

// reach asks at each of a service's addresses, from each node that traffic
// enters by, until each of its pods has answered.
func (l *Lab) reach(ctx context.Context, s scenarios.Service) error {
	from := l.workers
	if len(l.settings.origins) > 0 {
		from = nil
		for _, n := range l.nodes {
			if slices.Contains(l.settings.nodes, n.pod.Spec.NodeName) {
				from = append(from, n)
			}
		}
	}
	families := l.settings.families(s)
	addrs := map[string]netip.Addr{}
	for _, family := range families {
		addrs[family] = l.address(scenarios.AddressName(s.Name, families, family)).Addr()
	}
	if s.NodePort != 0 {
		svc, err := l.env.client.CoreV1().Services(l.settings.namespace).Get(ctx, agentsOf(s.Name), metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("look up service %s: %w", agentsOf(s.Name), err)
		}
		if addrs, err = parseAddrs(svc.Spec.ClusterIPs); err != nil {
			return errors.Join(fmt.Errorf("look up service %s", agentsOf(s.Name)), err)
		}
	}
	for _, w := range from {
		for _, family := range families {
			at := netip.AddrPortFrom(addrs[family], uint16(l.settings.port))
			if err := reachAll(ctx, w, at, l.of(s)); err != nil {
				return fmt.Errorf("reach service %s at %s from node %s: %w", s.Name, at, w.pod.Spec.NodeName, err)
			}
		}
	}
	return nil
}

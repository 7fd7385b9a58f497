package kubeapi

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Namespace is where services are that name no namespace.
const Namespace = metav1.NamespaceDefault

// maxEndpoints is how many endpoints the API allows in one EndpointSlice.
const maxEndpoints = 1000

// Service is what a lab says about a service.
type Service struct {
	Name      string
	Namespace string // Namespace if empty
	// ClusterIP is none if it is the zero address (a headless service).
	ClusterIP netip.Addr
	Ports     []Port
	// Local sends traffic from outside (NodePort) only to endpoints on the
	// node it came to: externalTrafficPolicy Local.
	Local bool
	// HealthCheckNodePort is where a node says whether it has such endpoints.
	// The API knows it only of load balancers, so it makes the service one.
	HealthCheckNodePort uint16
}

// Port is one port of a service.
type Port struct {
	Name     string // may be empty if it is the only one
	Protocol string // tcp, udp or sctp, in either case
	Port     uint16
	Target   uint16 // on the pods; Port if 0
	NodePort uint16 // on the nodes; none if 0
}

// Endpoint is one pod behind a service.
type Endpoint struct {
	Pod  string
	Addr netip.Addr
	Node string
	// The conditions of an EndpointSlice. A terminating endpoint is never ready.
	Ready, Serving, Terminating bool
}

// Node is what a lab says about a node.
type Node struct {
	Name     string
	Addrs    []netip.Addr // the first is its main one
	PodCIDRs []netip.Prefix
}

func (s Service) meta() metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace}
	if m.Namespace == "" {
		m.Namespace = Namespace
	}
	return m
}

func (p Port) protocol() corev1.Protocol {
	if p.Protocol == "" {
		return corev1.ProtocolTCP
	}
	return corev1.Protocol(strings.ToUpper(p.Protocol))
}

func (p Port) target() uint16 {
	if p.Target == 0 {
		return p.Port
	}
	return p.Target
}

// Object is s as a Service, with what kube-apiserver would fill in.
func (s Service) Object() *corev1.Service {
	single := corev1.IPFamilyPolicySingleStack
	o := &corev1.Service{ObjectMeta: s.meta(), Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, SessionAffinity: corev1.ServiceAffinityNone,
		IPFamilyPolicy: &single, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
	}}
	cluster := corev1.ServiceInternalTrafficPolicyCluster
	o.Spec.InternalTrafficPolicy = &cluster
	switch {
	case !s.ClusterIP.IsValid():
		o.Spec.ClusterIP, o.Labels = corev1.ClusterIPNone, map[string]string{corev1.IsHeadlessService: ""}
	case s.ClusterIP.Is6():
		o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
		fallthrough
	default:
		o.Spec.ClusterIP = s.ClusterIP.String()
	}
	o.Spec.ClusterIPs = []string{o.Spec.ClusterIP}
	for _, p := range s.Ports {
		if p.NodePort != 0 {
			o.Spec.Type = corev1.ServiceTypeNodePort
		}
		o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{
			Name: p.Name, Protocol: p.protocol(), Port: int32(p.Port),
			TargetPort: intstr.FromInt32(int32(p.target())), NodePort: int32(p.NodePort),
		})
	}
	if s.HealthCheckNodePort != 0 {
		o.Spec.Type, o.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, int32(s.HealthCheckNodePort)
	}
	if o.Spec.Type != corev1.ServiceTypeClusterIP {
		o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
		if s.Local {
			o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
	}
	return o
}

// Slice is endpoints as the EndpointSlice of s. changed is when what it tells
// happened (a pod became ready, say): kube-proxy measures its network
// programming latency from there. Zero leaves it out. It fails for more than
// 1000 endpoints, the API's limit for one slice.
func (s Service) Slice(endpoints []Endpoint, changed time.Time) (*discoveryv1.EndpointSlice, error) {
	if len(endpoints) > maxEndpoints {
		return nil, fmt.Errorf("make EndpointSlice of %s: %d endpoints; at most %d fit", s.Name, len(endpoints), maxEndpoints)
	}
	o := &discoveryv1.EndpointSlice{ObjectMeta: s.meta(), AddressType: discoveryv1.AddressTypeIPv4}
	o.Name = s.Name + "-1"
	o.Labels = map[string]string{
		discoveryv1.LabelServiceName: s.Name,
		discoveryv1.LabelManagedBy:   "endpointslice-controller.k8s.io",
	}
	if !s.ClusterIP.IsValid() {
		o.Labels[corev1.IsHeadlessService] = ""
	}
	if !changed.IsZero() {
		o.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: changed.UTC().Format(time.RFC3339Nano)}
	}
	if s.ClusterIP.Is6() {
		o.AddressType = discoveryv1.AddressTypeIPv6
	}
	for _, p := range s.Ports {
		protocol, target := p.protocol(), int32(p.target())
		o.Ports = append(o.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &protocol, Port: &target})
	}
	for _, e := range endpoints {
		ready := e.Ready && !e.Terminating
		oe := discoveryv1.Endpoint{
			Addresses:  []string{e.Addr.String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &e.Serving, Terminating: &e.Terminating},
		}
		if e.Node != "" {
			oe.NodeName = &e.Node
		}
		if e.Pod != "" {
			oe.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: o.Namespace, Name: e.Pod}
		}
		o.Endpoints = append(o.Endpoints, oe)
	}
	return o, nil
}

// Object is n as a ready Node.
func (n Node) Object() *corev1.Node {
	o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{corev1.LabelHostname: n.Name}}}
	for _, c := range n.PodCIDRs {
		o.Spec.PodCIDRs = append(o.Spec.PodCIDRs, c.String())
	}
	if len(o.Spec.PodCIDRs) > 0 {
		o.Spec.PodCIDR = o.Spec.PodCIDRs[0]
	}
	for _, a := range n.Addrs {
		o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: n.Name})
	o.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	return o
}

// ServiceCIDR is the ServiceCIDR object of a cluster whose ClusterIPs are in cidrs.
func ServiceCIDR(cidrs ...netip.Prefix) *networkingv1.ServiceCIDR {
	o := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}}
	for _, c := range cidrs {
		o.Spec.CIDRs = append(o.Spec.CIDRs, c.String())
	}
	o.Status.Conditions = []metav1.Condition{{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Reason: "NoConflict",
	}}
	return o
}

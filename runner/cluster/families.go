package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tablefull/tablefull/scenarios"
)

// familyNames are the address families as Kubernetes spells them.
var familyNames = map[string]corev1.IPFamily{scenarios.IPv4: corev1.IPv4Protocol, scenarios.IPv6: corev1.IPv6Protocol}

// familyOf is an address's, as scenarios spell it.
func familyOf(a netip.Addr) string {
	if a.Unmap().Is4() {
		return scenarios.IPv4
	}
	return scenarios.IPv6
}

// families are those of a service's addresses.
func (s settings) families(svc scenarios.Service) []string {
	return (&scenarios.Lab{Family: s.family}).FamiliesOf(&svc)
}

// dualStack gives a Service addresses of these families, and of no other.
func dualStack(o *corev1.Service, families []string) {
	policy := corev1.IPFamilyPolicySingleStack
	if len(families) > 1 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	o.Spec.IPFamilyPolicy, o.Spec.IPFamilies = &policy, nil
	for _, f := range families {
		o.Spec.IPFamilies = append(o.Spec.IPFamilies, familyNames[f])
	}
}

// parseAddrs are addresses by their families.
func parseAddrs(texts []string) (map[string]netip.Addr, error) {
	out := map[string]netip.Addr{}
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, err
		}
		out[familyOf(a)] = a
	}
	return out, nil
}

// needs returns an error where a pod has no address of one of these families.
func (r *remote) needs(families []string) error {
	for _, f := range families {
		if !r.addrs[f].IsValid() {
			return fmt.Errorf("pod %s on node %s has no %s address, and of its network it has %v alone", r.pod.Name, r.pod.Spec.NodeName, familyNames[f], podIPs(r.pod))
		}
	}
	return nil
}

func podIPs(p corev1.Pod) []string {
	out := make([]string, len(p.Status.PodIPs))
	for i, ip := range p.Status.PodIPs {
		out[i] = ip.IP
	}
	return out
}

// FamiliesView is which families Services of a cluster can have addresses of.
type FamiliesView struct {
	Families []string `json:"families"` // ipv4, ipv6; empty where that could not be seen
	From     string   `json:"from"`     // what was looked at, or why nothing could be
}

// String is like: IPv4 and IPv6 (ServiceCIDR kubernetes: 10.96.0.0/16, fd00::/112).
func (v FamiliesView) String() string {
	var out []string
	for _, f := range v.Families {
		out = append(out, string(familyNames[f]))
	}
	if len(out) == 0 {
		return "not known (" + v.From + ")"
	}
	return strings.Join(out, " and ") + " (" + v.From + ")"
}

// Refusals are why a scenario's services cannot have the addresses that they
// want. What is not known refuses nothing: the API server says it.
func (v FamiliesView) Refusals(s *scenarios.Scenario) []string {
	var out []string
	for _, f := range s.Families() {
		if len(v.Families) == 0 || slices.Contains(v.Families, f) {
			continue
		}
		where := "lab.family"
		for i := range s.Services {
			if slices.Contains(s.Services[i].Families, f) {
				where = fmt.Sprintf("services[%d].families", i)
				break
			}
		}
		out = append(out, fmt.Sprintf("%s: %s: services of this cluster have no %s addresses, but %s", where, f, familyNames[f], v))
	}
	return out
}

// cidrRights are to see which families Services can have. A scenario that is
// about IPv4 alone is content with what the nodes have.
func cidrRights() []Right { return may("networking.k8s.io", "servicecidrs", "list") }

func familyRights(s *scenarios.Scenario) []Right {
	if seenOnNodes(s) {
		return nil
	}
	return cidrRights()
}

func seenOnNodes(s *scenarios.Scenario) bool {
	return slices.Equal(s.Families(), []string{scenarios.IPv4})
}

// FamiliesFor looks at what Refusals of the scenario needs.
func (e *Env) FamiliesFor(ctx context.Context, s *scenarios.Scenario) (FamiliesView, error) {
	if !seenOnNodes(s) {
		if v, err := e.serviceFamilies(ctx); err != nil || len(v.Families) > 0 {
			return v, err
		}
	}
	list, err := e.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return FamiliesView{}, fmt.Errorf("list nodes: %w", err)
	}
	return nodeFamilies(list.Items), nil
}

// serviceFamilies are those of the cluster's ServiceCIDRs (Kubernetes 1.33);
// none where it has no such objects or this account may not see them.
func (e *Env) serviceFamilies(ctx context.Context) (FamiliesView, error) {
	var v FamiliesView
	list, err := e.client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsForbidden(err):
		return v, nil
	case err != nil:
		return v, fmt.Errorf("list ServiceCIDRs: %w", err)
	}
	var from []string
	for _, c := range list.Items {
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil && c.DeletionTimestamp == nil {
				v.Families = append(v.Families, familyOf(p.Addr()))
			}
		}
		from = append(from, "ServiceCIDR "+c.Name+": "+strings.Join(c.Spec.CIDRs, ", "))
	}
	slices.Sort(v.Families)
	v.Families, v.From = slices.Compact(v.Families), strings.Join(from, "; ")
	return v, nil
}

// nodeFamilies are those of the nodes' internal addresses. Pods and Services
// have no others than the nodes'.
func nodeFamilies(nodes []corev1.Node) FamiliesView {
	v := FamiliesView{From: "there are no internal addresses of nodes"}
	var from []string
	for _, n := range nodes {
		var has []string
		for _, a := range n.Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
				v.Families = append(v.Families, familyOf(addr))
				has = append(has, a.Address)
			}
		}
		if len(has) > 0 && len(from) < 3 { // those of a large cluster are alike
			from = append(from, n.Name+" "+strings.Join(has, " "))
		}
	}
	slices.Sort(v.Families)
	if v.Families = slices.Compact(v.Families); len(from) > 0 {
		v.From = "internal addresses of nodes: " + strings.Join(from, ", ")
	}
	return v
}

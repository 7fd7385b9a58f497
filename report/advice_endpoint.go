package report

import (
	"fmt"
	"slices"
	"strings"
)

// noEndpointAdvice is for attempts that were sent where there was no usable pod.
func noEndpointAdvice(f *Findings) advice {
	failed := func(t Traffic) bool { return t.Failed > 0 }
	local := slices.ContainsFunc(f.Traffic, func(t Traffic) bool { return failed(t) && t.local })
	none := slices.ContainsFunc(f.noPod, func(n noPodTime) bool {
		return slices.ContainsFunc(f.Traffic, func(t Traffic) bool { return failed(t) && t.To == n.service })
	})
	a := advice{Do: "Not the limit: there was no usable pod to send to. Keep one where the traffic enters until clients have gone elsewhere."}
	if none && !local {
		a.Do = "Not the limit: there was no usable pod to send to. Keep one at all times."
	}
	if local {
		a.Why = append(a.Why, "With externalTrafficPolicy Local each node that the load balancer still sends to needs a ready pod of its own: run them as a DaemonSet, or with replicas and a spread over nodes that leave none without, and let preStop outlast the load balancer's health checks. With externalTrafficPolicy Cluster a ready pod on any node will do.")
	}
	for i := range f.Nodes {
		if s := balancerText(f, &f.Nodes[i]); s != "" {
			a.Why = append(a.Why, s)
		}
	}
	if none || !local {
		a.Why = append(a.Why, "A service that had none at all needs more than one: replicas, or an autoscaler's minReplicas, see to that; a PodDisruptionBudget (minAvailable) limits evictions, as when nodes are drained, and no scaling.")
	}
	return a
}

// healthSays is what the health check port of a service said on a node last before
// a moment, and since when.
func (n *Node) healthSays(service string, at float64) (says string, since float64) {
	for _, c := range n.Conditions {
		if s, is := strings.CutPrefix(c.What, whose(service)+" health check port "); is && c.AtS <= at {
			says, since = s, c.AtS
		}
	}
	return says, since
}

// losing is the service of which attempts that entered by the node failed for want
// of an endpoint, and when the first did; false where none did, or something else
// was the more.
func (n *Node) losing(f *Findings) (service string, at float64, is bool) {
	if n.Entered == nil || len(n.Entered.Causes) == 0 || n.Entered.Causes[0].Cause != noEndpoint || n.Knee.ClientLoss == nil {
		return "", 0, false
	}
	for _, t := range f.Traffic {
		if t.Failed > 0 && n.Entered.Causes[0].Proof.Traffic[t.Name] > 0 {
			return t.To, n.Knee.ClientLoss.AtS, true
		}
	}
	return "", 0, false
}

const noneUsable = "says 503"

// healthAtLoss is what the node's health check port said, and since when, at the
// time that the first attempt failed there for want of an endpoint; empty where none
// did, or it was not asked.
func (n *Node) healthAtLoss(f *Findings) (says string, since, at float64) {
	service, at, is := n.losing(f)
	if !is {
		return "", 0, 0
	}
	says, since = n.healthSays(service, at)
	return says, since, at
}

// healthText is what the node's health check port had said by the time that
// attempts failed there for want of an endpoint; empty where it was not asked.
func healthText(f *Findings, n *Node) string {
	says, since, at := n.healthAtLoss(f)
	switch {
	case says == noneUsable:
		return fmt.Sprintf("; its health check port had said so (503) for %s by then", stretch(at-max(0, since)))
	case says != "":
		return fmt.Sprintf("; its health check port said nothing of that when it began (%s)", strings.TrimPrefix(says, "says "))
	}
	return ""
}

// balancerText is whether a load balancer that asks the health check port would
// have sent what failed on the node; empty where it was not asked.
func balancerText(f *Findings, n *Node) string {
	says, since, at := n.healthAtLoss(f)
	switch {
	case says == noneUsable:
		return fmt.Sprintf("The health check node port of %s said 503 from %s on, and the first attempt failed at %s: a load balancer that asks it, and sends nothing there any more within %s, would have sent none of these.", n.Name, seconds(max(0, since)), seconds(at), stretch(at-max(0, since)))
	case says != "":
		return fmt.Sprintf("The health check node port of %s did not say 503 when the first attempt failed, at %s: a load balancer that asks it would have sent these, too.", n.Name, seconds(at))
	}
	return ""
}

// healthAt is that of the node by name.
func healthAt(f *Findings, node string) string {
	for i := range f.Nodes {
		if f.Nodes[i].Name == node {
			return healthText(f, &f.Nodes[i])
		}
	}
	return ""
}

// drainingAdvice is for attempts that were sent to pods that were terminating.
func drainingAdvice(f *Findings) advice {
	a := advice{
		Do:  "Not the limit: let pods serve on, during a preStop sleep, for as long as the node's proxy may send to them.",
		Why: []string{"They refused or ignored connections while they were terminating, and the proxy still sent to them."},
	}
	if known := strings.Contains(f.Environment.Proxy, "mode "); f.ipvs || !known {
		a.Why[0] += " With IPVS, expire_nodest_conn=1 (which kube-proxy sets) or conn_reuse_mode=1 keep clients that use a source port again from following an old entry there."
	}
	return a
}

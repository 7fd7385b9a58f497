package scenarios

import (
	"fmt"
	"slices"
	"strings"
)

// builtInNFTables says whether the node's proxy is the only one that can leave
// packets untracked.
func (v *validator) builtInNFTables() bool {
	p := v.s.Lab.Proxy
	return p.Binary == "" && p.Mode == "nftables"
}

var proxyNeeds = []string{"lab.proxy.mode", "lab.proxy.binary", "lab.kernel"}

func (v *validator) tunnel() {
	t := v.s.Lab.Tunnel
	if t == nil {
		return
	}
	v.oneOf("lab.tunnel.kind", t.Kind, "vxlan")
	if t.Notrack && !v.builtInNFTables() {
		v.fail("lab.tunnel.notrack", "only the built-in proxy in mode nftables does that", "leave it out, or lab.proxy").needs = proxyNeeds
	}
}

// untranslated checks a service whose pods are reached by their own addresses.
func (v *validator) untranslated(path string, s *Service) {
	if s.Notrack && !s.Headless {
		v.fail(path+".notrack", "without tracking no address is translated, so nobody would reach the service", "write headless: true as well").needs = []string{path + ".headless"}
	}
	if !s.Headless {
		return
	}
	if !v.builtInNFTables() {
		v.fail(path+".headless", "only the built-in proxy in mode nftables does that", "leave it out, or lab.proxy").needs = proxyNeeds
	}
	if v.s.Lab.Nodes > 1 {
		v.fail(path+".headless", "only a lab with one node has that", "leave it out, or lab.nodes").needs = []string{"lab.nodes"}
	}
	if s.NoPods {
		v.fail(path+".headless", "there are no pods that clients could send to", "leave no_pods or headless out")
	}
	for i := range v.s.Traffic {
		t := &v.s.Traffic[i]
		if t.To == s.Name && t.ShortLived == nil && t.Idle == nil && t.Shape() != "" {
			v.fail(fmt.Sprintf("traffic[%d].to", i), quote(s.Name)+" is headless, which "+t.Shape()+" cannot be sent to", "send short_lived or idle, or let the service have an address").needs = []string{path + ".headless"}
		}
	}
	for i, a := range v.s.Actions {
		if service, _ := a.service(); service == s.Name {
			v.fail(fmt.Sprintf("actions[%d]", i), quote(s.Name)+" is headless: its clients would not hear of other pods", "leave the action out, or let the service have an address").needs = []string{path + ".headless"}
		}
	}
}

// service is the service that the action is about; empty for none.
func (a *Action) service() (name string, ok bool) {
	switch {
	case a.Rollout != nil:
		return a.Rollout.Service, true
	case a.Scale != nil:
		return a.Scale.Service, true
	case a.DeletePod != nil:
		return a.DeletePod.Service, true
	}
	return "", false
}

// IsHeadless says whether the service of that name has no address of its own.
func (s *Scenario) IsHeadless(service string) bool {
	for i := range s.Services {
		if s.Services[i].Name == service {
			return s.Services[i].Headless
		}
	}
	return false
}

// Tracked says whether a node tracks connections to the service of that name, all
// the time: an action can tell IPVS to take its packets out of tracking.
func (s *Scenario) Tracked(service string) bool {
	bypasses := func(a Action) bool {
		return a.SetSysctl != nil && strings.TrimSpace(a.SetSysctl.Values["net.ipv4.vs.conntrack"]) == "0"
	}
	if slices.ContainsFunc(s.Actions, bypasses) {
		return false
	}
	for i := range s.Services {
		if s.Services[i].Name == service {
			return !s.Services[i].Notrack
		}
	}
	return true
}

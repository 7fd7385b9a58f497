package lab

import (
	"net/netip"

	"github.com/tablefull/tablefull/runner/env"
)

// A plan is what the supervisor builds: only data, so that deciding (layout)
// and doing (the supervisor) are apart.
type plan struct {
	WorkDir string     `json:"work_dir"`
	Token   string     `json:"token"`   // the agents'
	Command []string   `json:"command"` // of an agent, less its own arguments
	IPv6    bool       `json:"ipv6"`
	Hosts   []hostPlan `json:"hosts"`
	Links   []linkPlan `json:"links"`
	Tunnels []tunnel   `json:"tunnels,omitempty"` // over links
}

// hostPlan is one network namespace with an agent in it. What is in it is done
// in the order of the fields, the links between Sysctls and Routes.
type hostPlan struct {
	Name    string      `json:"name"`
	Role    env.Role    `json:"role"`
	First   bool        `json:"first,omitempty"` // in the namespace that the kernel began with
	Sysctls []setting   `json:"sysctls"`
	Routes  []routePlan `json:"routes"`
	// Reach are addresses that must be reachable before the rest is done.
	Reach []netip.Addr `json:"reach"`
}

// linkPlan is a veth pair.
type linkPlan struct {
	Ends [2]linkEnd `json:"ends"`
}

type linkEnd struct {
	Host  string         `json:"host"`
	Dev   string         `json:"dev"`
	Addrs []netip.Prefix `json:"addrs"`
}

// routePlan is one route. Kind is empty (by Dev, and through Via if that is
// valid), local (to this host) or blackhole.
type routePlan struct {
	Kind string       `json:"kind,omitempty"`
	Dst  netip.Prefix `json:"dst"`
	Dev  string       `json:"dev,omitempty"`
	Via  netip.Addr   `json:"via"`
}

const (
	routeLocal     = "local"
	routeBlackhole = "blackhole"
)

// setting is one setting of a namespace. Name is a path below /proc/sys.
type setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	// AtLeast leaves a larger value alone.
	AtLeast bool `json:"at_least,omitempty"`
	// IfPresent makes a kernel that does not have it no error.
	IfPresent bool `json:"if_present,omitempty"`
}

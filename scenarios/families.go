package scenarios

import "slices"

// The address families, as scenarios spell them.
const (
	IPv4 = "ipv4"
	IPv6 = "ipv6"
)

// FamiliesOf are the families of the service's addresses, one or two. The first
// is that of clients that name none.
func (l *Lab) FamiliesOf(s *Service) []string {
	if len(s.Families) > 0 {
		return s.Families
	}
	return []string{l.Family}
}

// Families are those that any service has, IPv4 first.
func (s *Scenario) Families() []string {
	var out []string
	for i := range s.Services {
		out = append(out, s.Lab.FamiliesOf(&s.Services[i])...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// AddressName is what records call one of a service's addresses: the first as
// the service, that of another family web/ipv6. Each is programmed, and has
// EndpointSlices, by itself.
func AddressName(service string, families []string, family string) string {
	if family == "" || family == families[0] {
		return service
	}
	return service + "/" + family
}

// AddressOf is the name of the address that the traffic goes to.
func (s *Scenario) AddressOf(t *Traffic) string {
	for i := range s.Services {
		if svc := &s.Services[i]; svc.Name == t.To {
			return AddressName(svc.Name, s.Lab.FamiliesOf(svc), t.Family)
		}
	}
	return t.To
}

// families checks which families a service has addresses of.
func (v *validator) families(path string, s *Service) {
	for i, f := range s.Families {
		v.oneOf(path+".families", f, IPv4, IPv6)
		if slices.Contains(s.Families[:i], f) {
			v.fail(path+".families", f+" is there twice", "write each once")
		}
	}
}

// family checks that the traffic's service has an address of its family.
func (v *validator) family(path string, t *Traffic, to *Service) {
	if t.Family == "" {
		return
	}
	v.oneOf(path+".family", t.Family, IPv4, IPv6)
	if to == nil || slices.Contains(v.s.Lab.FamiliesOf(to), t.Family) || t.Family != IPv4 && t.Family != IPv6 {
		return
	}
	v.fail(path+".family", to.Name+" has no address of "+t.Family, "give "+to.Name+" families: [ipv4, ipv6]").needs = []string{v.pathOf(to) + ".families", "lab.family"}
}

package scenarios

import "fmt"

// The range of node ports, which is an API server's default.
const (
	firstNodePort = 30000
	lastNodePort  = 32767
)

// nodePorts checks what of a service is on the nodes.
func (v *validator) nodePorts(path string, s *Service) {
	if s.NodePort == 0 {
		if s.External != "" {
			v.fail(path+".external_traffic_policy", "is about node ports, and there is none", "write node_port: 30080, or leave it out").needs = []string{path + ".node_port"}
		}
	} else {
		v.between(path+".node_port", int64(s.NodePort), firstNodePort, lastNodePort)
		if last := s.NodePort + s.PortCount - 1; s.NodePort <= lastNodePort && s.PortCount <= 256 && last > lastNodePort {
			v.fail(path+".node_port", fmt.Sprintf("the last one would be %d", last), fmt.Sprintf("write at most %d", lastNodePort-s.PortCount+1)).needs = []string{path + ".port_count"}
		}
		v.oneOf(path+".external_traffic_policy", s.External, "Cluster", "Local")
	}
	if s.HealthCheck != 0 {
		v.between(path+".health_check_node_port", int64(s.HealthCheck), firstNodePort, lastNodePort)
		if s.External != "Local" || s.NodePort == 0 {
			v.fail(path+".health_check_node_port", "is about external_traffic_policy Local, as in Kubernetes", "write node_port and external_traffic_policy: Local, or leave it out").needs = []string{path + ".external_traffic_policy", path + ".node_port"}
		}
	}
	v.ownPorts(path, s)
}

// ports are the node's ports of a service.
type ports struct {
	field, proto string
	first, last  int
}

func (s *Service) portsOnNodes() []ports {
	var out []ports
	if s.NodePort != 0 {
		proto := "tcp"
		if s.Protocol == "udp" {
			proto = "udp"
		}
		out = append(out, ports{"node_port", proto, s.NodePort, s.NodePort + max(1, s.PortCount) - 1})
	}
	if s.HealthCheck != 0 {
		out = append(out, ports{"health_check_node_port", "tcp", s.HealthCheck, s.HealthCheck})
	}
	return out
}

// ownPorts checks that no two services, nor one twice, have a port of the nodes.
func (v *validator) ownPorts(path string, s *Service) {
	var taken []ports
	var by []string
	for i := range v.s.Services {
		o := &v.s.Services[i]
		for _, p := range o.portsOnNodes() {
			if o == s {
				for k, q := range taken {
					if p.proto == q.proto && p.first <= q.last && q.first <= p.last {
						v.fail(path+"."+p.field, fmt.Sprintf("%d is a port of %s, too", max(p.first, q.first), by[k]), "give each a port of its own").needs = []string{by[k]}
					}
				}
			}
			taken, by = append(taken, p), append(by, fmt.Sprintf("services[%d].%s", i, p.field))
		}
		if o == s {
			return
		}
	}
}

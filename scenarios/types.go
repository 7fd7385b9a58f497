package scenarios

import "math"

// A Scenario is one experiment: a lab, the services in it, the traffic to
// them, and what must hold. The zero value of every field is documented by its
// default; Load fills defaults in and validates, so the rest of the program
// sees resolved scenarios only.
type Scenario struct {
	Name        string    `yaml:"name" jsonschema:"required" jsonschema_description:"Short name of the scenario, used in file names and reports: lower case letters, digits and dashes, a letter first."`
	Description string    `yaml:"description,omitempty" jsonschema_description:"One sentence: whose problem this is and what to expect."`
	Seed        uint64    `yaml:"seed,omitempty" jsonschema_description:"Seed of every random choice. 0 picks one, which the run log records. At most 2^53."`
	Duration    Duration  `yaml:"duration" jsonschema_description:"How long traffic is due, for example 20s, at most 720h (30 days). Attempts still in flight afterwards are waited for up to their timeout. Default 20s."`
	Lab         Lab       `yaml:"lab,omitempty" jsonschema_description:"The machine-local lab."`
	Conntrack   Conntrack `yaml:"conntrack,omitempty" jsonschema_description:"The node's connection tracking table."`
	Services    []Service `yaml:"services" jsonschema:"required" jsonschema_description:"Services under test, each a virtual address that the node's proxy sends to pods."`
	Traffic     []Traffic `yaml:"traffic" jsonschema:"required" jsonschema_description:"What is sent, all at once unless start says otherwise."`
	Actions     []Action  `yaml:"actions,omitempty" jsonschema_description:"What happens to the cluster while traffic flows."`
	Sampling    Sampling  `yaml:"sampling,omitempty" jsonschema_description:"What is read while traffic flows."`
	Thresholds  []string  `yaml:"thresholds,omitempty" jsonschema_description:"What must hold for a pass, for example: errors < 0.1%; web: p99 < 50ms; occupancy < 80% during 5s..20s. None: a completed run with data passes if nothing failed because of the table or while an action was done, and at most 1 % for an unknown cause."`
	AbortOn     []string  `yaml:"abort_on,omitempty" jsonschema_description:"Thresholds that end the run, for example stale < 60s. Each is looked at while the run goes on, about once a second, and as soon as it fails everything is put back and the verdict is fail. One that has not failed is judged at the end like the other thresholds. Choose what cannot get better again, such as counts and longest times: a ratio can fail early for a single attempt."`
	Expect      []string  `yaml:"expect,omitempty" jsonschema_description:"What the run must show for the incident to count as reproduced, spelled like thresholds, for example: stale > 5s; stale_backend > 100; draining_share > 40%. Without thresholds the verdict is pass where all of it holds, and inconclusive otherwise."`
	Arms        []Arm     `yaml:"arms,omitempty" jsonschema_description:"Variants of the scenario that are run under the same traffic and compared, the first of which the others are compared with."`
	Trials      int       `yaml:"trials,omitempty" jsonschema_description:"How often each arm is run, at most 100; fixed before anything has been seen. A statement about a difference takes at least 4 of each, an interval 6. Default 1."`
	Search      *Search   `yaml:"search,omitempty" jsonschema_description:"Runs the scenario again and again and looks for the highest load that holds. Thresholds and expectations are about the result then: capacity and capacity_upper."`
}

// Lab is the network on this machine.
type Lab struct {
	Kernel  string  `yaml:"kernel,omitempty" jsonschema:"enum=host,enum=private,enum=auto" jsonschema_description:"host: network namespaces under this machine's kernel. private: the same under a kernel of the run's own (user-mode Linux, one CPU), which has IPVS, and whose global settings are not the machine's. auto: private if the proxy is in mode ipvs and this machine's kernel has no IPVS, else host. Default host, or auto in mode ipvs, or private with conntrack.buckets."`
	Memory  int     `yaml:"memory,omitempty" jsonschema_description:"Memory of the private kernel, MiB, 256 to 65536. The kernel sizes the connection tracking table after it: 65536 entries from a little over 1024 MiB on, 262144 from a little over 4096 MiB on. 1536 where left out."`
	Family  string  `yaml:"family,omitempty" jsonschema:"enum=ipv4,enum=ipv6" jsonschema_description:"Address family of everything in the lab, and in a cluster of the services that name none (families). Default ipv4."`
	Nodes   int     `yaml:"nodes,omitempty" jsonschema_description:"Nodes, 1 to 8: node1, node2 and so on. Each is a host with a table, a proxy and a client host of its own; pods are placed on them in turn. A connection is tracked, and translated, by the node of its client, and tracked again by the node of its pod where that is another one. Default 1."`
	Clients Clients `yaml:"clients,omitempty" jsonschema_description:"The client hosts, one for each node."`
	Tunnel  *Tunnel `yaml:"tunnel,omitempty" jsonschema_description:"A tunnel between the client host and the node, through which all traffic between them goes. Absent: none."`
	Proxy   Proxy   `yaml:"proxy,omitempty" jsonschema_description:"What turns service addresses into pod addresses on the node."`
}

// Tunnel is a tunnel that ends at the node.
type Tunnel struct {
	Kind    string `yaml:"kind,omitempty" jsonschema:"enum=vxlan" jsonschema_description:"vxlan: as most overlay networks. Its source port is chosen by the flow inside. Default vxlan."`
	Notrack bool   `yaml:"notrack,omitempty" jsonschema_description:"The node does not track the tunnel's own packets, as network plugins arrange it. What is inside is tracked all the same. Default false."`
}

// Clients is the client hosts. Attempts take turns among them.
type Clients struct {
	Addresses int `yaml:"addresses,omitempty" jsonschema_description:"Source addresses the client hosts send from, 1 to 65534 in all, and at least one for each node. One address has about 28000 source ports towards one service port. Default 64."`
}

// Proxy is the node's service proxy.
type Proxy struct {
	Mode       string `yaml:"mode,omitempty" json:"mode" jsonschema:"enum=nftables,enum=ipvs,enum=iptables" jsonschema_description:"How service addresses are translated. Without binary, the built-in proxy knows nftables and ipvs. Default nftables, or ipvs with lab.kernel: private, whose kernel has no nftables for IP."`
	Binary     string `yaml:"binary,omitempty" json:"binary,omitempty" jsonschema_description:"A kube-proxy to run instead of the built-in proxy: the path of the binary, or a version such as v1.36.3 that tablefull kube-proxy get has fetched."`
	Masquerade bool   `yaml:"masquerade,omitempty" json:"masquerade,omitempty" jsonschema_description:"Also rewrite the client's address to the node's, as kube-proxy does for traffic from outside the cluster. Default false."`
	// MasqueradePorts is nil for the kernel's own choice.
	MasqueradePorts *PortRange `yaml:"masquerade_ports,omitempty" json:"masquerade_ports,omitempty" jsonschema_description:"Built-in proxy: the source ports that masquerading may use, as in nftables' masquerade to :1024-2023. One port carries one connection at a time to each pod address and port. Absent: the kernel's choice, which is 1024 to 65535 for clients' ports from 1024 on."`
	Delay           Duration   `yaml:"delay,omitempty" json:"delay,omitempty" jsonschema_description:"Time from a change of endpoints until the proxy hears of it. Default 0s."`
	KeepUDP         bool       `yaml:"keep_udp,omitempty" json:"keep_udp,omitempty" jsonschema_description:"Built-in proxy: do not delete the entries of UDP flows to endpoints that have gone. kube-proxy does delete them, except those of a service left without any endpoint. Default false."`
	PassNew         bool       `yaml:"pass_new,omitempty" json:"pass_new,omitempty" jsonschema_description:"Built-in proxy in mode nftables: let a new connection to a service that no rule translated pass as it is, and reject only those to a service without endpoints, as kube-proxy's mode iptables does. Default false: reject each, as its mode nftables does."`
	IPVS            IPVS       `yaml:"ipvs,omitempty" json:"ipvs" jsonschema_description:"Settings of mode ipvs."`
	// Conntrack is nil for a kube-proxy that leaves the limit alone.
	Conntrack *ProxyConntrack `yaml:"conntrack,omitempty" json:"conntrack,omitempty" jsonschema_description:"With binary: the limit that the kube-proxy writes at each of its starts, as its ConfigMap's conntrack says. It is the kernel's, for all namespaces, so this needs lab.kernel: private, where the node then lives in the kernel's first namespace: in any other the limit cannot be written. Absent: it leaves the limit alone (maxPerCore: 0)."`
}

// ProxyConntrack is the part of KubeProxyConfiguration's conntrack that makes
// the limit: max_per_core times the CPUs, and at least min.
type ProxyConntrack struct {
	MaxPerCore *int64 `yaml:"max_per_core,omitempty" json:"max_per_core,omitempty" jsonschema_description:"maxPerCore: entries for each CPU. 0 leaves the limit alone, whatever min says. 32768 where left out, as in kube-proxy."`
	Min        *int64 `yaml:"min,omitempty" json:"min,omitempty" jsonschema_description:"min: the least limit it writes. Default 131072, as kube-proxy's."`
}

// Limit is what a kube-proxy on so many CPUs makes of it; 0 is that it leaves
// the limit alone (getConntrackMax in cmd/kube-proxy/app/server_linux.go; from
// 1.36 on it is at most 1048576).
func (c *ProxyConntrack) Limit(cpus int) uint64 {
	if c == nil || c.MaxPerCore == nil || *c.MaxPerCore <= 0 || c.Min == nil {
		return 0
	}
	return uint64(max(*c.MaxPerCore*int64(cpus), *c.Min))
}

// PortRange is consecutive ports.
type PortRange struct {
	From int `yaml:"from" json:"from" jsonschema:"required" jsonschema_description:"First port, from 1 on."`
	To   int `yaml:"to" json:"to" jsonschema:"required" jsonschema_description:"Last port, at most 65535."`
}

// IPVS is the settings of IPVS on the node. The defaults are what kube-proxy
// sets on kernels from 5.9 on. With a binary what is left out is for it to set,
// and what is not is written over it.
type IPVS struct {
	ConnReuseMode    *int     `yaml:"conn_reuse_mode,omitempty" json:"conn_reuse_mode,omitempty" jsonschema_description:"net.ipv4.vs.conn_reuse_mode: 1 schedules a connection anew whose client port is reused, 0 does not. With binary it is written over what kube-proxy sets, after each of its starts. Default 1 in mode ipvs; with binary what kube-proxy sets, which leaves it alone on kernels from 5.9 on."`
	ExpireNodestConn *bool    `yaml:"expire_nodest_conn,omitempty" json:"expire_nodest_conn,omitempty" jsonschema_description:"net.ipv4.vs.expire_nodest_conn: forget connections to servers that are gone or have weight 0. With binary it is written over what kube-proxy sets, after each of its starts. Default true in mode ipvs; with binary what kube-proxy sets, which is true."`
	DrainCheck       Duration `yaml:"drain_check,omitempty" json:"drain_check,omitempty" jsonschema_description:"Built-in proxy: how often it looks whether a removed server, kept with weight 0, has lost its last connection. Default 1m in mode ipvs, as kube-proxy's."`
}

// Conntrack is the table under test.
type Conntrack struct {
	Headroom *int64              `yaml:"headroom,omitempty" jsonschema_description:"Free entries when traffic begins; the rest of the table is filled with ballast that is not traffic and goes away with the run. Absent: no ballast, the whole limit is free."`
	Max      *int64              `yaml:"max,omitempty" jsonschema_description:"Write the machine's global nf_conntrack_max for the run. Root only; journalled, read back, put back. Prefer headroom, which changes nothing outside the lab."`
	Buckets  *int64              `yaml:"buckets,omitempty" jsonschema_description:"Size of the hash table (nf_conntrack_buckets) during the run, a multiple of 512. Private kernel only: the hash is shared by all namespaces of a kernel, each change rehashes all of it, and too few buckets lose everybody's connections. Absent: what the kernel made of its memory."`
	Timeouts map[string]Duration `yaml:"timeouts,omitempty" jsonschema_description:"The node's conntrack timeouts by the kernel's names, for example tcp_timeout_time_wait: 30s. Whole seconds."`
}

// Service is one virtual address and the pods behind it.
type Service struct {
	Name        string    `yaml:"name" jsonschema:"required" jsonschema_description:"Name: lower case letters, digits and dashes, a letter first."`
	Protocol    string    `yaml:"protocol,omitempty" jsonschema:"enum=tcp,enum=udp,enum=http" jsonschema_description:"tcp: a small request/response protocol of ours. udp: the same in datagrams. http: HTTP/1.1. Default tcp."`
	Port        int       `yaml:"port,omitempty" jsonschema_description:"First port, of the service and of its pods. Default 8080."`
	PortCount   int       `yaml:"port_count,omitempty" jsonschema_description:"Consecutive ports from port on. Default 1, at most 256."`
	Pods        int       `yaml:"pods,omitempty" jsonschema_description:"Pods behind the service, each a host and a process of its own. 0 with no_pods: none. Default 2, at most 64."`
	Headless    bool      `yaml:"headless,omitempty" jsonschema_description:"Clients send to the pods' own addresses, each in turn, and the proxy has nothing to translate, as with clusterIP: None. Only short_lived and idle traffic, with the built-in proxy in mode nftables, and pods that stay. Default false."`
	Notrack     bool      `yaml:"notrack,omitempty" jsonschema_description:"The node does not track connections to the service's pods. There is no translation of addresses without tracking, so this needs headless. Default false."`
	NoPods      bool      `yaml:"no_pods,omitempty" jsonschema_description:"A service without any endpoint."`
	Families    []string  `yaml:"families,omitempty" jsonschema:"enum=ipv4,enum=ipv6" jsonschema_description:"Families of the service's addresses, [ipv4, ipv6] in any order for one of each, as a Service's ipFamilies: the first is that of traffic which names none. Two are for clusters that have both; a lab has one. Default: lab.family."`
	NodePort    int       `yaml:"node_port,omitempty" jsonschema_description:"First port of the nodes that leads to the service, for clients outside the cluster: 30000 to 32767. As many as port_count. Absent: none."`
	External    string    `yaml:"external_traffic_policy,omitempty" jsonschema:"enum=Cluster,enum=Local" jsonschema_description:"Cluster: what comes to a node port goes to any pod, and the client's address is rewritten to the node's. Local: it goes to pods of that node only, with the client's address, and is dropped where there is none. With node_port it is Cluster where left out."`
	HealthCheck int       `yaml:"health_check_node_port,omitempty" jsonschema_description:"With external_traffic_policy Local: a port of the nodes where each answers HTTP, with 200 while it has ready pods of the service and its proxy is well, else with 503: 30000 to 32767. A run with actions asks it and reports when its answer changed. Absent: none."`
	Server      Server    `yaml:"server,omitempty" jsonschema_description:"How its pods behave."`
	Lifecycle   Lifecycle `yaml:"lifecycle,omitempty" jsonschema_description:"How its pods come and go."`
	Gateway     *Gateway  `yaml:"gateway,omitempty" jsonschema_description:"Makes the pods reverse proxies to another service (both with protocol http)."`
}

// Server is how a pod behaves.
type Server struct {
	Behaviour string   `yaml:"behaviour,omitempty" jsonschema:"enum=answer,enum=silent,enum=reset,enum=refuse,enum=stall,enum=gone" jsonschema_description:"answer: as it should. silent: accepts and reads, never answers. reset: answers each connection with a TCP reset after the request. refuse: no listener, so connecting is refused. stall: listens but never accepts, so the listen queue overflows. gone: its address is still programmed, but nothing is there any more, so nothing comes back. Default answer."`
	Backlog   int      `yaml:"backlog,omitempty" jsonschema_description:"Length of the listen queue. Default 4096 (the kernel caps it at net.core.somaxconn)."`
	Delay     Duration `yaml:"delay,omitempty" jsonschema_description:"Time a pod takes for each answer. Default 0s."`
}

// Gateway is a reverse proxy pod.
type Gateway struct {
	To        string `yaml:"to" jsonschema:"required" jsonschema_description:"Service the gateway forwards to."`
	KeepAlive *bool  `yaml:"keepalive,omitempty" jsonschema_description:"Keep connections to the backend open between requests. Default true."`
	Idle      int    `yaml:"idle_connections,omitempty" jsonschema_description:"Idle connections kept to the backend. Default 100."`
}

// Traffic is one stream of attempts. Exactly one shape is set.
type Traffic struct {
	Name     string   `yaml:"name,omitempty" jsonschema_description:"Name in reports. Default: the shape's name."`
	To       string   `yaml:"to" jsonschema:"required" jsonschema_description:"Service it goes to."`
	Via      string   `yaml:"via,omitempty" jsonschema:"enum=cluster_ip,enum=node_port" jsonschema_description:"cluster_ip: from inside the cluster, to the service's address. node_port: from outside, to the service's node port, of each node in turn. Default cluster_ip."`
	Family   string   `yaml:"family,omitempty" jsonschema:"enum=ipv4,enum=ipv6" jsonschema_description:"Family of the service's address, or of the nodes' with node ports, that it goes to. Default: the service's first."`
	Start    Duration `yaml:"start,omitempty" jsonschema_description:"Run time at which it begins. Default 0s."`
	Duration Duration `yaml:"duration,omitempty" jsonschema_description:"How long it lasts. Default: as long as its stages, where it has any, otherwise to the end of the scenario."`
	Timeout  Duration `yaml:"timeout,omitempty" jsonschema_description:"How long one attempt may take from its start, connecting included, at most 10m. Default 900ms: shorter than the first SYN retransmission, so that one attempt is one SYN."`

	ShortLived *ShortLived `yaml:"short_lived,omitempty" jsonschema_description:"Connect, request, response, close."`
	Idle       *Idle       `yaml:"idle,omitempty" jsonschema_description:"Connections opened at a rate and held."`
	UDP        *UDP        `yaml:"udp,omitempty" jsonschema_description:"Datagrams, with or without an answer."`
	Flood      *Flood      `yaml:"flood,omitempty" jsonschema_description:"Packets, not sockets. Only to services of the lab itself."`
	HTTP       *HTTP       `yaml:"http,omitempty" jsonschema_description:"HTTP requests through vegeta."`
}

// Pacing says when attempts are due. Exactly one of its fields is set. All
// pacing is open loop: what the system under test does not slow it down.
type Pacing struct {
	Rate   Rate    `yaml:"rate,omitempty" jsonschema_description:"Constant rate, for example 700/s."`
	Ramp   *Ramp   `yaml:"ramp,omitempty" jsonschema_description:"Linear change over the traffic's duration."`
	Sine   *Sine   `yaml:"sine,omitempty" jsonschema_description:"A sine wave around a mean."`
	Stages []Stage `yaml:"stages,omitempty" jsonschema_description:"Linear changes one after the other; the first begins at its own from, or at its to."`
}

// Ramp is a linear change of rate.
type Ramp struct {
	From Rate `yaml:"from" jsonschema_description:"Rate at the start, for example 100/s. Default 0/s."`
	To   Rate `yaml:"to" jsonschema:"required" jsonschema_description:"Rate at the end."`
}

// Sine is a rate that swings.
type Sine struct {
	Mean      Rate     `yaml:"mean" jsonschema:"required" jsonschema_description:"Mean rate."`
	Amplitude Rate     `yaml:"amplitude" jsonschema:"required" jsonschema_description:"Largest distance from the mean; less than the mean."`
	Period    Duration `yaml:"period" jsonschema:"required" jsonschema_description:"Length of one swing."`
}

// Stage is one linear piece of a profile.
type Stage struct {
	From *Rate    `yaml:"from,omitempty" jsonschema_description:"Rate at the stage's start. Default: where the last stage ended; for the first stage, to."`
	To   Rate     `yaml:"to" jsonschema:"required" jsonschema_description:"Rate at the stage's end."`
	For  Duration `yaml:"for" jsonschema:"required" jsonschema_description:"Length of the stage."`
}

// SourcePorts is where source ports come from. Nil: the kernel chooses.
type SourcePorts struct {
	Fixed int `yaml:"fixed,omitempty" jsonschema_description:"Always this port, with each source address in turn."`
	From  int `yaml:"from,omitempty" jsonschema_description:"First port of a range that is gone through in order, then again from its start."`
	To    int `yaml:"to,omitempty" jsonschema_description:"Last port of the range."`
}

// ShortLived is connect, request, response, close.
type ShortLived struct {
	Pacing        `yaml:",inline"`
	Close         string       `yaml:"close,omitempty" jsonschema:"enum=fin,enum=rst,enum=half,enum=none" jsonschema_description:"fin: an orderly close, leaves TIME_WAIT. rst: a reset, leaves CLOSE. half: one side closes, the other never does, leaves CLOSE_WAIT. none: the socket vanishes without a packet, leaves ESTABLISHED. Default fin."`
	Closer        string       `yaml:"closer,omitempty" jsonschema:"enum=client,enum=server" jsonschema_description:"Which side closes first. Default client."`
	SourcePorts   *SourcePorts `yaml:"source_ports,omitempty" jsonschema_description:"Source ports to use. Absent: the kernel chooses."`
	RequestBytes  int          `yaml:"request_bytes,omitempty" jsonschema_description:"Bytes of payload in a request, behind a header of ours, at most 1048576. Default 64."`
	ResponseBytes int          `yaml:"response_bytes,omitempty" jsonschema_description:"Bytes of payload in a response, behind a header of ours, at most 1048576. Default 64."`
}

// Idle is connections opened and held, to the traffic's end or until they are
// closed at a rate.
type Idle struct {
	Count         int      `yaml:"count" jsonschema:"required" jsonschema_description:"Connections to open."`
	OpenRate      Rate     `yaml:"open_rate" jsonschema:"required" jsonschema_description:"Rate at which they are opened."`
	ValidateEvery Duration `yaml:"validate_every,omitempty" jsonschema_description:"A request on every held connection this often, spread evenly: held means alive. Default 5s."`
	KeepAlive     Duration `yaml:"keepalive,omitempty" jsonschema_description:"TCP keep-alive interval. Default 0s: off."`
	CloseRate     Rate     `yaml:"close_rate,omitempty" jsonschema_description:"Rate at which they are torn down again, in the order in which they were opened: the client sends FIN, and each has the timeout to see the server's. The last one is due one timeout before the traffic's end, the first one count / close_rate earlier; by then all must be open and have been asked once more, which takes validate_every and the timeout. Default 0/s: all are closed at the traffic's end, in no time."`
}

// Closing is how long the connections are being closed, from when the first
// one is due to the timeout of the last; 0 for those that are held to the end.
func (t *Traffic) Closing() Duration {
	if t.Idle == nil || t.Idle.CloseRate <= 0 {
		return 0
	}
	s := math.Ceil(min(float64(t.Idle.Count)/float64(t.Idle.CloseRate), 2*maxDuration.Seconds()) * 1000)
	return Duration(s)*millisecond + t.Timeout
}

// UDP is datagrams.
type UDP struct {
	Pacing       `yaml:",inline"`
	Socket       string       `yaml:"socket,omitempty" jsonschema:"enum=per_request,enum=long_lived" jsonschema_description:"per_request: a new socket, so a new entry, each time. long_lived: a fixed set of sockets in turn. Default per_request."`
	Sockets      int          `yaml:"sockets,omitempty" jsonschema_description:"How many long-lived sockets, with socket: long_lived, at least one for each node. Default 1, with several nodes one for each."`
	SourcePorts  *SourcePorts `yaml:"source_ports,omitempty" jsonschema_description:"Source ports to use. Absent: the kernel chooses."`
	Reply        *bool        `yaml:"reply,omitempty" jsonschema_description:"Wait for an answer. false: one-way, and whether it arrived is not known. Default true."`
	DNSPair      bool         `yaml:"dns_pair,omitempty" jsonschema_description:"Each attempt is two datagrams back to back from one socket, as a resolver asks for A and AAAA; both must be answered."`
	Parallel     bool         `yaml:"parallel,omitempty" jsonschema_description:"With dns_pair: two threads send the two datagrams at the same moment, each on a CPU of its own, as a resolver with two threads does. Needs two CPUs. Default false: one after the other."`
	RequestBytes int          `yaml:"request_bytes,omitempty" jsonschema_description:"Payload of a datagram, 24 to 65507. Default 64."`
}

// Flood is raw packets with source addresses and ports of their own.
type Flood struct {
	Pacing  `yaml:",inline"`
	Kind    string `yaml:"kind,omitempty" jsonschema:"enum=syn,enum=udp" jsonschema_description:"What the packets are. Default syn."`
	Sources int    `yaml:"sources,omitempty" jsonschema_description:"Source addresses to use, in turn, from 198.18.0.0/15 or 2001:2::/48 (the benchmarking ranges); nobody answers there. Default 4096, at most 65534."`
}

// HTTP is requests through vegeta.
type HTTP struct {
	Pacing      `yaml:",inline"`
	KeepAlive   *bool  `yaml:"keepalive,omitempty" jsonschema_description:"Reuse connections. Default true."`
	Connections int    `yaml:"connections,omitempty" jsonschema_description:"Idle connections kept. Default 100."`
	Path        string `yaml:"path,omitempty" jsonschema_description:"Path of the request. Default /."`
}

// Sampling is what is read while traffic flows.
type Sampling struct {
	Every       Duration `yaml:"every,omitempty" jsonschema_description:"Interval of the counters, 10ms to 10s. Default 100ms."`
	CensusEvery Duration `yaml:"census_every,omitempty" jsonschema_description:"Shortest interval of the census; it is stretched so that it costs at most 2 % of one CPU. Default 1s."`
	NoCensus    bool     `yaml:"no_census,omitempty" jsonschema_description:"No census."`
	NoAutopsy   bool     `yaml:"no_autopsy,omitempty" jsonschema_description:"No look-up of failed connections in the table."`
}

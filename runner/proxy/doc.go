// Package proxy is a node's service proxy as a job of the node's agent: it
// makes connections to service addresses reach pods. The built-in ones program
// nftables and IPVS with the semantics of kube-proxy's modes; a kube-proxy
// binary can take their place. All are fed the same endpoints, and can be
// paused, restarted and replaced while traffic flows.
package proxy

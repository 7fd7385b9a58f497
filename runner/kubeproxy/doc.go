// Package kubeproxy gets, runs and observes real kube-proxy binaries: any
// release, in iptables, nftables or ipvs mode, fed by an API server that needs
// no cluster (runner/kubeapi), in the network namespace of the process that
// starts it. No root is needed in iptables and nftables mode.
package kubeproxy

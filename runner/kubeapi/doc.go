// Package kubeapi is just enough of a Kubernetes API server for a kube-proxy:
// list and watch of Services, EndpointSlices, Nodes and ServiceCIDRs over
// HTTP, with the semantics of kube-apiserver (label and field selectors,
// resource versions, bookmarks, watch-lists, 410 Gone), and a place where
// Events are accepted. It holds typed objects, given by the program it is part
// of; its clients only read. It answers in JSON only, has no authentication,
// no admission and no conversion between versions.
//
// One suite of informer tests holds it to a real kube-apiserver.
package kubeapi

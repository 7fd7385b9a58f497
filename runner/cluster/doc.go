// Package cluster runs scenarios in a Kubernetes cluster. Each run has a
// namespace of its own with what package manifests holds: a sampler on every
// node, load workers, and for each service a Deployment and a Service. All of
// them are tablefull agents, and get their jobs through the API server
// (port-forward), with a token of the run. The namespace is all there is to
// remove.
//
// It is the only package that uses Kubernetes' clients.
package cluster

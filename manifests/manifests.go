// Package manifests is what tablefull runs in a cluster: a kustomize base.
package manifests

import "embed"

// Files are the base's objects, a file for each part of it: namespace.yaml,
// accounts.yaml, sampler.yaml, worker.yaml and target.yaml.
//
//go:embed *.yaml
var Files embed.FS

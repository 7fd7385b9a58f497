//go:build linux

// Package server is what answers in a pod: small servers whose behaviour is
// part of an experiment, light enough to share a machine with the traffic and
// the node under test. What they did is in Served records, once a second and
// at the end. Each is an env.Updater: Terminate is its SIGTERM, and stopping
// its job is its SIGKILL.
package server

import (
	"fmt"

	"github.com/tablefull/tablefull/runner/env"
)

// New returns the server for job, which has Serve set.
func New(job env.Job) (env.Worker, error) {
	if job.Serve == nil {
		return nil, fmt.Errorf("make server: job %s is not one", job.ID)
	}
	if job.Serve.Server.Behaviour == "gone" {
		return NewGone(job)
	}
	if job.Serve.Gateway != nil || job.Serve.Upstream.IsValid() {
		return NewGateway(job)
	}
	switch p := job.Serve.Protocol; p {
	case "tcp":
		return NewTCP(job)
	case "udp":
		return NewUDP(job)
	case "http":
		return NewHTTP(job)
	default:
		return nil, fmt.Errorf("make server: protocol is %q, want tcp, udp or http", p)
	}
}

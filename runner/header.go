package runner

import (
	"slices"
	"strconv"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
)

// header is what a run log begins with, as far as the plan knows it: less when
// it started, and what the environment built.
func (p *Plan) header(target, version, runID string) *runlog.Header {
	s := p.Scenario
	h := &runlog.Header{
		Format: runlog.Format, Version: version, RunID: runID,
		Target: target, Scenario: s.Name, ScenarioYAML: string(p.YAML), Digest: scenarios.Digest(p.YAML),
		Seed: p.Seed, Kernel: p.Caps.Kernel, Private: p.Caps.Private, Arch: p.Caps.Arch, CPUs: p.Caps.CPUs, MemoryBytes: p.Caps.MemoryBytes,
		Limit: p.Limit(), Buckets: p.Buckets(), EntryBytes: p.Caps.EntryBytes, Timeouts: p.Timeouts(),
		Capabilities: map[string]string{}, Duration: s.Duration.Seconds(), Traffic: p.Traffic,
		Thresholds: slices.Concat(s.Thresholds, s.AbortOn), AbortOn: s.AbortOn, Expect: s.Expect,
		SampleEvery: s.Sampling.Every.Seconds(), CensusEvery: s.Sampling.CensusEvery.Seconds(),
		LateAfter: p.lateAfter(), Masquerade: p.masquerade(),
	}
	if s.Sampling.NoCensus {
		h.CensusEvery = 0
	}
	if s.Conntrack.Max != nil {
		h.Sysctls = map[string]string{"nf_conntrack_max": strconv.FormatUint(p.Caps.Limit, 10)}
	}
	for _, c := range p.Caps.List {
		h.Capabilities[c.Name] = string(c.State)
		if c.Reason != "" && c.State != env.Yes {
			h.Capabilities[c.Name] += ": " + c.Reason
		}
	}
	return h
}

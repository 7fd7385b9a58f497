package main

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/env"
)

func capable() env.Capabilities {
	c := env.Capabilities{Kernel: "6.1.0", CPUs: 2, Limit: 262144, Buckets: 262144, MaxFiles: 20000}
	for _, name := range runner.NeededForLab() {
		c.List = append(c.List, env.Capability{Name: name, State: env.Yes})
	}
	c.List = append(c.List, env.Capability{Name: "private_kernel", State: env.Yes}) // what some of the library need
	return c
}

func TestDiagnosis(t *testing.T) {
	text, code := diagnosis(capable())
	assert.Equal(t, exitPass, code, text)
	assert.Contains(t, text, "ready: all ")

	c := capable()
	c.List[0].State, c.List[0].Reason = env.No, "switched off: do this"
	text, code = diagnosis(c)
	assert.Equal(t, exitUnsupported, code)
	assert.Equal(t, "not ready: userns: switched off: do this", text)

	c = capable()
	c.List[1].State = env.Unknown
	text, code = diagnosis(c)
	assert.Equal(t, exitInconclusive, code)
	assert.Contains(t, text, "not sure: netns")

	c = capable()
	c.MaxFiles = 4096 // the idle scenario holds 4000 connections, and an agent needs files of its own
	text, code = diagnosis(c)
	assert.Equal(t, exitUnsupported, code)
	assert.Contains(t, text, "idle: the client would need about 4000 sockets")

	c = capable()
	c.Limit = 8192
	text, code = diagnosis(c)
	assert.Equal(t, exitUnsupported, code)
	assert.Contains(t, text, "syn-flood: conntrack.headroom")
}

// missing is an *runner.Unsupported where no lab can be built here.
func missing(caps env.Capabilities) error {
	if reasons := runner.MissingForLab(caps); len(reasons) > 0 {
		return &runner.Unsupported{Reasons: reasons}
	}
	return nil
}

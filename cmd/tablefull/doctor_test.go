package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tablefull/tablefull/runner"
	"github.com/tablefull/tablefull/runner/cluster"
	"github.com/tablefull/tablefull/runner/env"
	"github.com/tablefull/tablefull/scenarios"
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
	d := diagnosis(capable())
	assert.Equal(t, ready, d.Answer, d.text())
	assert.Contains(t, d.text(), "ready: all ")
	assert.Len(t, d.Scenarios, len(scenarios.Names()))

	c := capable()
	c.List[0].State, c.List[0].Reason = env.No, "switched off: do this"
	d = diagnosis(c)
	assert.Equal(t, exitUnsupported, d.Answer.code())
	assert.Equal(t, "not ready: userns: switched off: do this", d.text())
	assert.Equal(t, labCapability{"userns", env.No, "switched off: do this", true}, d.Capabilities[0])

	c = capable()
	c.List[1].State = env.Unknown
	d = diagnosis(c)
	assert.Equal(t, exitInconclusive, d.Answer.code())
	assert.Contains(t, d.text(), "not sure: netns")

	c = capable()
	c.MaxFiles = 4096 // the idle scenario holds 4000 connections, and an agent needs files of its own
	d = diagnosis(c)
	assert.Equal(t, notReady, d.Answer)
	assert.Contains(t, d.text(), "idle: the client would need about 4000 sockets")
	for _, x := range d.Scenarios {
		assert.Equal(t, x.Name == "idle", strings.Contains(strings.Join(x.Refused, ""), "about 4000 sockets"), x.Name)
	}

	c = capable()
	c.Limit = 8192
	d = diagnosis(c)
	assert.Equal(t, exitUnsupported, d.Answer.code())
	assert.Contains(t, d.text(), "syn-flood: conntrack.headroom")
}

// The library is ready where all that a cluster can do at all can be done; what
// is named has to run.
func TestClusterDiagnosis(t *testing.T) {
	node := cluster.NodeView{Name: "a"}
	decide := func(named, readNodes bool, nodes []cluster.NodeView, x ...scenarioDiagnosis) clusterDiagnosis {
		d := clusterDiagnosis{View: cluster.View{Nodes: nodes}, Scenarios: x}
		d.decide(readNodes, named)
		return d
	}
	can := scenarioDiagnosis{Name: "can"}
	elsewhere := scenarioDiagnosis{Name: "elsewhere", Refused: []string{"x"}, Elsewhere: true}
	proxy := scenarioDiagnosis{Name: "proxy", Refused: []string{"x"}, NeedsProxy: true}
	right := scenarioDiagnosis{Name: "right", Refused: []string{"the account may not x"}}
	nodes := []cluster.NodeView{node}

	d := decide(false, false, nodes, can, elsewhere, proxy)
	assert.Equal(t, ready, d.Answer)
	assert.Contains(t, d.Reasons[0], "1 of 3 scenarios can run here, 1 more with --kube-proxy, 1 as written in no cluster")
	assert.Equal(t, notReady, decide(true, false, nodes, can, elsewhere).Answer)
	assert.Equal(t, notReady, decide(true, false, nodes, proxy).Answer)
	assert.Equal(t, notReady, decide(false, false, nodes, can, right).Answer)
	assert.Equal(t, notSure, decide(false, true, nodes, can).Answer, "no table was read")
	node.Table = &cluster.TableView{}
	assert.Equal(t, ready, decide(false, true, []cluster.NodeView{node}, can).Answer)

	// A run takes the first nodes that take pods, or those that are named.
	d = clusterDiagnosis{View: cluster.View{Nodes: []cluster.NodeView{{Name: "a", Unfit: "is cordoned"}, {Name: "b"}, {Name: "c"}}}}
	sc, err := scenarios.Parse("short-lived", first(scenarios.Source("short-lived")))
	assert.NoError(t, err)
	small, large := capable(), capable()
	small.Limit = 100
	for _, c := range []struct {
		named []string
		says  string
	}{{nil, "on b: conntrack.headroom"}, {[]string{"c"}, ""}, {[]string{"b"}, "on b: conntrack.headroom"}} {
		d.Scenarios = []scenarioDiagnosis{{sc: sc}}
		d.place(c.named, map[string]env.Capabilities{"b": small, "c": large})
		assert.Equal(t, c.says != "", len(d.Scenarios[0].Refused) > 0, "%s: %s", c.named, d.Scenarios[0].Refused)
		assert.Contains(t, strings.Join(d.Scenarios[0].Refused, "; "), c.says)
	}
	sc.Lab.Nodes = 3
	d.place(nil, nil)
	assert.Contains(t, d.Scenarios[0].Refused, "lab.nodes: traffic enters by 3 nodes, and 2 of the 3 that were looked at take ordinary pods")
}

func first[A, B any](a A, _ B) A { return a }

// missing is an *runner.Unsupported where no lab can be built here.
func missing(caps env.Capabilities) error {
	if reasons := runner.MissingForLab(caps); len(reasons) > 0 {
		return &runner.Unsupported{Reasons: reasons}
	}
	return nil
}

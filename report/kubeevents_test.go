package report

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tablefull/tablefull/report/runlog"
)

// What Kubernetes said while attempts failed stands beside the spike, and what
// it said at another time does not.
func TestEventsBesideASpike(t *testing.T) {
	f := lagging(t, func(s *sim) {
		s.read(-0.3, programmed(1, 2))
		s.read(4.1, programmed(2))
	}, func(s *sim) {
		for _, x := range []struct {
			t                          float64
			object, name, kind, detail string
		}{
			{1, "pod", "web-2", "Warning", "Unhealthy: before"},
			{3.2, "node", simNode, "Normal", "NodeNotReady: Node node1 status is now: NodeNotReady"},
			{3.3, "pod", "web-3", "Normal", "Pulled: of no interest"},
			{3.4, "pod", "web-2", "Warning", "Unhealthy: Readiness probe failed"},
			{3.9, "pod", "web-2", "Warning", "Unhealthy: Readiness probe failed"},
			{8, "node", simNode, "Warning", "Rebooted: after"},
		} {
			s.records = append(s.records, runlog.Record{Host: "controller", T: x.t, Event: &runlog.Event{Kind: "event", Name: x.name, Detail: x.detail, Fields: map[string]string{
				"object": x.object, "type": x.kind, "node": simNode,
			}}})
		}
	})
	require.Len(t, f.Spikes, 1)
	assert.Equal(t, []string{
		"3.4 s: pod web-2 on node1: Unhealthy: Readiness probe failed",
		"3.2 s: node node1: NodeNotReady: Node node1 status is now: NodeNotReady",
	}, f.Spikes[0].Events)
	assert.Contains(t, spikeText(&f.Spikes[0]), "meanwhile, as Kubernetes says, at 3.4 s: pod web-2")
	assert.Equal(t, "stale_backend", f.Causes[0].Cause, "an event is no cause")
}

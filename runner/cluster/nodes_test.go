package cluster

import (
	"testing"

	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
)

func TestChangesOfNodes(t *testing.T) {
	node := func(cordoned bool, ready, pressure corev1.ConditionStatus) map[string]bool {
		return stateOf(&corev1.Node{
			Spec: corev1.NodeSpec{Unschedulable: cordoned},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeReady, Status: ready}, {Type: corev1.NodeMemoryPressure, Status: pressure},
			}},
		})
	}
	well := node(false, corev1.ConditionTrue, corev1.ConditionFalse)
	ill := node(true, corev1.ConditionUnknown, corev1.ConditionTrue)
	assert.Empty(t, nodeChanges(nil, well, true), "at first only what is not as it should be")
	assert.Equal(t, []string{"MemoryPressure", "not ready", "cordoned"}, nodeChanges(nil, ill, true))
	assert.Equal(t, []string{"MemoryPressure", "not ready", "cordoned"}, nodeChanges(well, ill, false))
	assert.Equal(t, []string{"no MemoryPressure", "ready", "uncordoned"}, nodeChanges(ill, well, false))
	assert.Empty(t, nodeChanges(well, well, false), "heartbeats are no changes")
}

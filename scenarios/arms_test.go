package scenarios

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const withArms = small + `
conntrack: {headroom: 3000}
expect: [drop > 0]
thresholds: [errors < 1%]
trials: 3
arms:
  - name: none
  - name: more-room
    set: [conntrack.headroom=9000, "traffic[clients].timeout=2s"]
    expect: [drop == 0]
  - name: no-ballast
    set: [conntrack.headroom=null, lab.proxy.mode=ipvs]
    thresholds: [errors < 5%]
`

// Each arm is the scenario with its settings, as --set would make it.
func TestArms(t *testing.T) {
	s, arms, err := ParseArms("arms.yaml", []byte(withArms), "arms[none].set[+]=duration=7s", "services[0].pods=5")
	require.NoError(t, err)
	assert.Equal(t, 3, s.Trials)
	require.Len(t, arms, 3)
	for _, a := range arms {
		assert.Empty(t, a.Scenario.Arms)
		assert.Zero(t, a.Scenario.Trials)
		assert.Equal(t, 5, a.Scenario.Services[0].Pods, "what is common")
	}
	none, more, without := arms[0].Scenario, arms[1].Scenario, arms[2].Scenario
	assert.Equal(t, "none", arms[0].Name)
	assert.EqualValues(t, 3000, *none.Conntrack.Headroom)
	assert.Equal(t, "7s", none.Duration.String())
	assert.Equal(t, []string{"drop > 0"}, none.Expect, "the scenario's")
	assert.EqualValues(t, 9000, *more.Conntrack.Headroom)
	assert.Equal(t, "2s", more.Traffic[0].Timeout.String())
	assert.Equal(t, []string{"drop == 0"}, more.Expect, "its own")
	assert.Equal(t, []string{"errors < 1%"}, more.Thresholds, "the scenario's")
	assert.Nil(t, without.Conntrack.Headroom)
	assert.Equal(t, "auto", without.Lab.Kernel, "defaults follow from what the arm sets")
	assert.Equal(t, []string{"errors < 5%"}, without.Thresholds)
	assert.EqualValues(t, 3000, *s.Conntrack.Headroom, "no arm changes another")

	_, arms, err = ParseArms("small.yaml", []byte(small))
	require.NoError(t, err)
	assert.Empty(t, arms)
}
